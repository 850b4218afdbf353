"""What every verb shares: text to the two streams, options that are on every verb, how numbers are written."""

from __future__ import annotations

import errno
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from slidewright.errors import OutputError, without_keys
from slidewright.geometry import Size

_CONTROLS = {number: repr(chr(number))[1:-1] for number in (*range(32), *range(127, 160))}
F = TypeVar("F", bound=Callable[..., Any])


class OutputClosedError(BaseException):
    """Whoever read our output has gone (`slidewright info x | head -1`): stop quietly. No error, so no Exception."""


@dataclass
class State:
    """What `main` must know of the verb that ran."""

    debug: bool = False
    destination: str | None = None
    """What the verb makes."""
    code: int | None = None
    """What the process ends with, once that is decided."""

    def is_complete(self) -> bool:
        """Whether the destination has got its name: then a signal comes too late. It is not enough that there is a
        file, which may be anybody's.
        """
        destinations = sys.modules.get("slidewright.conversions.destination")  # a run has imported it
        return self.destination is not None and destinations is not None and destinations.has_named(self.destination)


def expect(context: click.Context, destination: str) -> None:
    """Note what a verb is about to make."""
    context.ensure_object(State).destination = destination


class FilePath(click.ParamType[str]):
    """A path as it was typed, which shells complete; the library says what is wrong with it."""

    name = "path"

    def __init__(self, kind: str = "file") -> None:
        """Take what is completed: "file" or "dir"."""
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As it is."""
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """Leave it to the shell."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type=self._kind)]


class SuggestingGroup(click.Group):
    """A group that makes its verbs when they are used, and tells a mistyped one what may have been meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, which suggests only verbs that are made already."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(
                error.command_name, possibilities=self.list_commands(ctx), ctx=ctx
            ) from None


def debug_option(function: F) -> F:
    """Add `--debug`, which `main` acts on, so the verb does not see it."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> None:
        context.ensure_object(State).debug |= value

    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=remember, help="Show tracebacks and library warnings."
    )(function)


def json_option(function: F) -> F:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Say what was done as JSON.")(function)


def dry_run_option(function: F) -> F:
    """Add `--dry-run`."""
    text = "Write nothing; say what would be made, and about what it would take."
    return click.option("--dry-run", is_flag=True, help=text)(function)


def quiet_option(function: F) -> F:
    """Add `--quiet`."""
    return click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")(function)


def say(text: str) -> None:
    """Write a text to standard output, unless that was closed before the process began."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(_fitting("\n".join(map(_harmless, text.split("\n"))), sys.stdout) + "\n")
        sys.stdout.flush()
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.EIO):  # a pipe, or a terminal that was closed
            raise OutputClosedError from None
        raise OutputError(f"can't write to standard output: {error.strerror or error}") from error


def say_json(value: Any) -> None:
    """Write a value as JSON; an infinite PSNR is null there."""
    say(json.dumps(_finite(value), indent=2))


def warn(text: str) -> None:
    """Write a warning to standard error, unless nobody listens."""
    _complain(f"slidewright: warning: {text}")


def complain(text: str) -> None:
    """Write an error to standard error, unless nobody listens."""
    _complain(f"slidewright: error: {text}")


def _complain(text: str) -> None:
    try:
        sys.stderr.write(_fitting(_harmless(without_keys(text)), sys.stderr) + "\n")
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass


def _harmless(text: str) -> str:
    """The text on one line, without what a terminal would obey: names of files, and what files say, may hold it."""
    return text.translate(_CONTROLS)


def _fitting(text: str, stream: Any) -> str:
    """The text with what the stream's encoding lacks replaced."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def human_bytes(count: int) -> str:
    """Bytes with three digits and a decimal unit: "79.3 MB"."""
    value = float(count)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{count} bytes" if unit == "bytes" else f"{value:.3g} {unit}"


def plural(count: int, noun: str) -> str:
    """ "1 level", "7 levels"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, numbers on the right, indented by two."""
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = []
    for row in [header, *rows]:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)


def size_dict(size: Size) -> dict[str, int]:
    """A size by name, so that nobody has to guess an order."""
    return {"width": size.width, "height": size.height}


def hush_libraries(context: click.Context) -> None:
    """Keep tifffile's log lines about odd tags off the terminal, unless asked for with `--debug`."""
    import logging

    if not context.ensure_object(State).debug:
        logging.getLogger("tifffile").addHandler(logging.NullHandler())
