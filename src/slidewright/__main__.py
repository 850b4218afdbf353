"""The `slidewright` command as a process of its own, also as `python -m slidewright`; apart from the command line,
whose import takes long enough for a Ctrl-C to come.
"""

import gc
import os
import signal
import sys

_ALLOCATIONS = 100_000
"""Between two looks for unreachable cycles; with Python's own 700, imports and the end take 25 ms longer."""


def run() -> None:
    """Run the command line and end the process; a Ctrl-C while it is being imported ends it at once, without a word."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(_ALLOCATIONS)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # nothing here uses it, and starting its threads takes 15 ms
    from slidewright.system import early

    early.begin(sys.argv[1:])
    from slidewright.cli.main import main
    from slidewright.system.files import hold_standard_streams

    hold_standard_streams()
    signal.signal(signal.SIGINT, before)
    code = main(last=True)
    early.drop()
    gc.freeze()  # what is left goes with the process
    sys.exit(code)


if __name__ == "__main__":
    run()
