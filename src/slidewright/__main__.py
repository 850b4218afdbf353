"""The `slidewright` command as a process of its own, also as `python -m slidewright`; apart from the command line,
whose import takes long enough for a Ctrl-C to come.
"""

import gc
import signal
import sys


def run() -> None:
    """Run the command line and end the process; a Ctrl-C while it is being imported ends it at once, without a word."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.set_threshold(50_000, 20, 20)  # what is imported stays: looking for cycles in it took a tenth of the start
    from slidewright.cli.main import main

    signal.signal(signal.SIGINT, before)
    sys.exit(main(last=True))


if __name__ == "__main__":
    run()
