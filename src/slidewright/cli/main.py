"""The `slidewright` command: its verbs, and what errors, signals and a closed pipe become: one line and an exit code.

0 done; 1 the run failed; 2 usage or input; 130 Ctrl-C; 143 SIGTERM; 131 SIGQUIT; 129 hang-up; 141 the reader of the
output has gone.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
_UNREAD = 1.0  # seconds after a signal before nobody waits any more for who should read the output
_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)


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
        with _signals(state if last else None):
            result = cli.main(
                args=None if argv is None else list(argv), prog_name="slidewright", standalone_mode=False, obj=state
            )
        state.code = code = result if isinstance(result, int) else 0
    except BaseException as error:
        code, speak = _verdict(error, state)
        state.code = code
        if state.debug and not isinstance(error, (SystemExit, OutputClosedError, click.exceptions.Exit)):
            import traceback

            traceback.print_exc()
        speak()
    if last:
        _hear_no_more()
    return code


def _verdict(error: BaseException, state: State) -> tuple[int, Callable[[], object]]:
    """The exit code for what happened, and what says it in one line."""
    if isinstance(error, SlidewrightError):
        text = _with_flag(str(error)) if isinstance(error, OptionError) else str(error)
        return error.exit_code, partial(complain, text)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.exit_code, partial(click.echo, error.format_message())
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code, _say_nothing
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context is not None else ""
        return error.exit_code, partial(complain, " ".join(error.format_message().split()) + hint)
    if isinstance(error, (_Interrupted, KeyboardInterrupt, Terminated)) and state.is_complete():
        return 0, partial(warn, f"a signal came when {state.destination} was complete")
    if isinstance(error, (_Interrupted, KeyboardInterrupt, click.Abort)):
        return 130, partial(complain, "interrupted; nothing was written under the final name")
    if isinstance(error, Terminated):
        text = f"ended by {error}; nothing was written under the final name"
        return 128 + error.number, partial(complain, text)
    if isinstance(error, OutputClosedError):
        return 128 + 13, partial(_drop, sys.stdout)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1, _say_nothing
    if isinstance(error, FileNotFoundError) and error.filename is None and _is_nowhere():
        return 2, partial(complain, "the current folder was removed; change to another, or give paths from the root on")
    if isinstance(error, MemoryError):
        return 1, partial(complain, "out of memory; use fewer workers, or let the process have more (ulimit -v)")
    more = "" if state.debug else "; run again with --debug for the traceback"
    return 1, partial(complain, f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}{more}")


def _say_nothing() -> None:
    return


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


def _drop(stream: Any) -> None:
    """Point a standard stream nowhere, so that neither what is written to it next nor the interpreter's last flush
    waits or complains.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _drop_unread(*_: object) -> None:
    """Drop the standard streams that take nothing: a pipe that nobody empties, a terminal stopped by Ctrl-S. Who waits
    in writing to one goes on.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            watched = select.poll()
            watched.register(stream.fileno(), select.POLLOUT)
            if not watched.poll(0):
                _drop(stream)


def _wait_for_no_reader() -> None:
    """From a moment after now on, drop the standard streams that take nothing, where that can be done."""
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _drop_unread)
        signal.setitimer(signal.ITIMER_REAL, _UNREAD, _UNREAD)


def _hear_no_more() -> None:
    """All is said: ignore signals while the interpreter ends, which would give them their default meaning half-way."""
    if threading.current_thread() is not threading.main_thread():
        return
    for stream in (sys.stdout, sys.stderr):  # here a signal still helps where nobody reads
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)


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
def _signals(ending: State | None = None) -> Iterator[None]:
    """Turn SIGINT, SIGTERM, SIGHUP and SIGQUIT into exceptions that unwind a run so that it cleans up.

    The first one raises. Later ones don't interrupt the cleaning, which takes a moment; but if it is stuck, they end
    the process at once, and the fork server cleans what it can. None is heard while the process is inside a library
    that does not come back, or waits in the kernel for a dead disk. A signal that is ignored already (nohup) stays
    ignored. Once one has come and the cleaning is done, all are ignored: the process is about to end, with the code of
    the first.

    `ending` is the state of the last thing that a process does. Then none raises any more once it is done, and a
    standard stream that takes nothing is waited for no longer than a second after a signal, be it while cleaning or in
    saying the last line. A signal that comes more than a second after another, when nothing is left but to say that
    line, ends the process at once, with the code that was decided.

    An exception in a callback of the interpreter's own (a weak reference's, a `__del__`) is printed and lost, and a
    signal can come during one, most of all while modules are imported: then it is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: float | None = None
    late: float | None = None
    hooked = over = False

    def end(number: int, _: FrameType | None) -> None:
        nonlocal first, late
        if hooked:  # where an exception is lost as well, and nobody is told
            _send_again(number)
        elif over and late is None:
            late = time.monotonic()
            if first is None:
                _wait_for_no_reader()
        elif over:
            if ending is not None and ending.code is not None and time.monotonic() - (late or 0) > _CLEANING:
                os._exit(ending.code)
        elif first is None:
            first = time.monotonic()
            if ending is not None:
                _wait_for_no_reader()
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
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        over = ending is not None
        sys.unraisablehook = hook
        if not over:
            for number, handler in before.items():
                signal.signal(number, handler if first is None else signal.SIG_IGN)
