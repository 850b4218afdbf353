"""A process that converts what it is told to, one path a line, and answers with how it went and its peak memory.

Apart from the campaign so that a crash, a hang or runaway memory is seen from outside; one process for many inputs, so
that ten thousand of them take minutes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path

import slidewright
from slidewright.errors import SlidewrightError

OPTIONS = {"tile_size": 64, "compression": "zstd", "block_tiles": 2, "memory": "400MB", "overwrite": True}


def peak_memory() -> int:
    """Highest resident memory since the last reset, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def main() -> None:
    """Serve until the end of the input."""
    logging.disable()
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        path, destination, workers = line.rstrip("\n").split("\t")
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_memory()
        try:
            slidewright.convert(path, destination, n_workers=int(workers), **OPTIONS)
            answer = {"how": "converted", "text": ""}
        except SlidewrightError as error:
            answer = {"how": type(error).__name__, "text": str(error)}
        except BaseException as error:
            answer = {"how": f"! {type(error).__name__}", "text": traceback.format_exc()}
        print(json.dumps({**answer, "memory": peak_memory() - before}), file=answers, flush=True)


if __name__ == "__main__":
    main()
