"""Our measured processes: `python -m slidewright.bench ROLE JSON`, with what they found as JSON on standard output."""

from __future__ import annotations

import json
import sys
from time import process_time


def main(role: str, text: str) -> None:
    """Play a role: "convert", or "limit", which waits for a line before its clock starts."""
    given = json.loads(text)
    if role == "convert":
        from slidewright import OptionError, convert

        options = given["options"]
        if "colormap" in options:  # JSON has no numbers for keys
            options["colormap"] = {int(label): tuple(colour) for label, colour in options["colormap"].items()}
        try:
            report = convert(given["source"], given["dest"], **options)
        except OptionError as error:
            if not given.get("may_refuse"):
                raise
            print(json.dumps({"refused": str(error)}))
            return
        print(json.dumps({"stages": dict(report.stages)}))
        return
    from slidewright.bench.limit import codec_limit

    begun = [0.0]

    def ready() -> None:
        print("ready", flush=True)
        sys.stdin.readline()
        begun[0] = process_time()

    stages = codec_limit(given["source"], given["options"], family=given["family"], share=given["share"], ready=ready)
    print(json.dumps({"stages": stages, "processor": process_time() - begun[0]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
