"""The `slidewright` command: its verbs, and what errors, signals and a closed pipe become: one line and an exit code.

0 done; 1 the run failed; 2 usage or input; 130 Ctrl-C; 143 SIGTERM; 131 SIGQUIT; 129 hang-up; 141 the reader of the
output has gone.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from types import FrameType
from typing import Any

import click

from slidewright.cli.common import OutputClosedError, State, SuggestingGroup, complain, warn
from slidewright.errors import OptionError, SlidewrightError

_VERBS = {
    "convert": "Convert a slide to a pyramidal TIFF or an OME-Zarr.",
    "shard": "Encode one share of a slide, for assemble.",
    "assemble": "Put shards together to a pyramidal TIFF.",
    "restore": "Give back the file that an archive was made of.",
    "batch": "Convert many slides; skip what is done, go on after a failure.",
    "info": "Show what a slide is: size, levels, tiles, compression, mpp.",
    "verify": "Check a pyramidal TIFF or OME-Zarr, and its pixels against a source.",
    "bench": "Measure conversions on this machine.",
    "demo": "Make a tissue-like slide and convert it.",
}

_HOMES = {"bench": "slidewright.bench.verbs"}  # what is not one file of this package
_AGAIN = 0.02  # seconds after which a signal is sent again whose exception was lost
_CLEANING = 1.0  # seconds after a signal before the next one ends the process as it is


class Terminated(BaseException):
    """A signal asked the process to end. No Exception, so that nothing on the way takes it for an ordinary error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Interrupted(BaseException):
    """Ctrl-C under a name that click does not know: it would print an empty line."""

    number = signal.SIGINT


class _LazyGroup(SuggestingGroup):
    """Imports a verb's module when the verb is used: `--help` costs click alone."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        import importlib

        home = _HOMES.get(cmd_name, f"slidewright.cli.{cmd_name}")
        command: click.Command = getattr(importlib.import_module(home), cmd_name)
        return command


def _show_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("slidewright")
        except PackageNotFoundError:  # run from a checkout
            number = "(not installed)"
        click.echo(f"slidewright {number}")
        context.exit()


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Write pyramidal TIFF slides on every core."""


def main(argv: Sequence[str] | None = None, *, last: bool = False) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv
        Arguments without the program's name; default `sys.argv[1:]`.
    last
        Whether the process ends with it: then signals no longer change what was decided.
    """
    state = State()
    try:
        with _signals(last):
            result = cli.main(
                args=None if argv is None else list(argv), prog_name="slidewright", standalone_mode=False, obj=state
            )
            return result if isinstance(result, int) else 0
    except BaseException as error:
        if state.debug and not isinstance(error, (SystemExit, OutputClosedError, click.exceptions.Exit)):
            import traceback

            traceback.print_exc()
        return _exit_code(error, state)


def _exit_code(error: BaseException, state: State) -> int:
    """Say what happened in one line, and the exit code for it."""
    if isinstance(error, SlidewrightError):
        complain(_with_flag(str(error)) if isinstance(error, OptionError) else str(error))
        return error.exit_code
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        click.echo(error.format_message())
        return error.exit_code
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        complain(" ".join(error.format_message().split()) + hint)
        return error.exit_code
    if isinstance(error, (_Interrupted, KeyboardInterrupt, Terminated)) and state.is_complete():
        warn(f"a signal came when {state.destination} was complete")
        return 0
    if isinstance(error, (_Interrupted, KeyboardInterrupt, click.Abort)):
        complain("interrupted; nothing was written under the final name")
        return 130
    if isinstance(error, Terminated):
        complain(f"ended by {error}; nothing was written under the final name")
        return 128 + error.number
    if isinstance(error, OutputClosedError):
        _drop_stdout()
        return 128 + 13
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    if isinstance(error, FileNotFoundError) and error.filename is None and _is_nowhere():
        complain("the current folder was removed; change to another, or give paths from the root on")
        return 2
    if isinstance(error, MemoryError):
        complain("out of memory; use fewer workers, or let the process have more (ulimit -v)")
        return 1
    more = "" if state.debug else "; run again with --debug for the traceback"
    complain(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}{more}")
    return 1


def _is_nowhere() -> bool:
    """Whether the current folder is gone."""
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _with_flag(message: str) -> str:
    """A message that begins with the library's name of an option, with what is typed here instead."""
    from slidewright.options import OPTIONS, SELECTION

    name, _, rest = message.partition(" ")
    option = {**SELECTION, **OPTIONS}.get(name)
    return f"{option.flags[0]} {rest}" if option is not None and option.flags else message


def _drop_stdout() -> None:
    """Point standard output nowhere, so that the interpreter's last flush does not complain."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _send_again(number: int) -> None:
    """Have a signal come in a moment. Not by `threading`, whose locks a handler of signals can find taken."""
    _thread.start_new_thread(_signal_main_thread, (number,))


def _signal_main_thread(number: int) -> None:
    """Send a signal so that what the main thread waits in is interrupted, where that can be done."""
    time.sleep(_AGAIN)
    thread = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and thread is not None:
        signal.pthread_kill(thread, number)
    else:
        signal.raise_signal(number)


@contextlib.contextmanager
def _signals(last: bool = False) -> Iterator[None]:
    """Turn SIGINT, SIGTERM, SIGHUP and SIGQUIT into exceptions that unwind a run so that it cleans up.

    The first one raises. Later ones don't interrupt the cleaning, which takes a moment; but if it is stuck, they end
    the process at once, and the fork server cleans what it can. None is heard while the process is inside a library
    that does not come back, or waits in the kernel for a dead disk. A signal that is ignored already (nohup) stays
    ignored. Once one has come and the cleaning is done, all are ignored: the process is about to end, with the code of
    the first. So they are after the `last` thing that a process does.

    An exception in a callback of the interpreter's own (a weak reference's, a `__del__`) is printed and lost, and a
    signal can come during one, most of all while modules are imported: then it is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: float | None = None
    hooked = False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal first
        if hooked:  # where an exception is lost as well, and nobody is told
            _send_again(number)
        elif first is None:
            first = time.monotonic()
            raise _Interrupted if number == signal.SIGINT else Terminated(number)
        elif time.monotonic() - first > _CLEANING:
            os._exit(128 + number)

    def give_again(lost: sys.UnraisableHookArgs) -> None:
        nonlocal first, hooked
        hooked = True
        try:
            if isinstance(lost.exc_value, (_Interrupted, Terminated)):
                first = None
                _send_again(lost.exc_value.number)
            else:
                hook(lost)
        finally:
            hooked = False

    hook, sys.unraisablehook = sys.unraisablehook, give_again
    before = {}
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if last or first is not None else handler)
