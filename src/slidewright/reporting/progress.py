"""What a run shows while it works: a bar on a terminal, plain lines every few seconds elsewhere.

It is apart from the engine because it only turns `Progress` snapshots into text; rich is imported when a bar is drawn.
Showing must never break a run: when the stream is gone, the rest of the run is silent.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from slidewright.report import Progress

Callback = Callable[[Progress], None]

LINE_SECONDS = 5.0
_REFRESH_SECONDS = 0.1


@contextlib.contextmanager
def make_callback(progress: bool | Callback, stream: TextIO | None = None) -> Iterator[Callback | None]:
    """Turn the `progress` argument of `slidewright.convert` into a callback that lives as long as the block.

    Parameters
    ----------
    progress
        False shows nothing; True draws a bar when `stream` is a terminal and writes a plain line every five seconds
        when it is not; a callable is passed through.
    stream
        Where to write, by default `sys.stderr` at the time of the call.

    Yields
    ------
    Callable[[Progress], None] or None
        What to call with each snapshot; None when there is nothing to call.
    """
    if callable(progress):
        yield progress
        return
    stream = sys.stderr if stream is None else stream
    if not progress or stream is None:
        yield None
        return
    shown: Bar | Lines = _bar_or_lines(stream)
    try:
        yield shown
    finally:
        shown.close()


def is_terminal(stream: TextIO) -> bool:
    """Whether a bar can be drawn on a stream."""
    try:
        return stream.isatty() and os.environ.get("TERM", "") != "dumb"
    except (ValueError, OSError):  # a closed stream
        return False


def describe(snapshot: Progress) -> str:
    """One line about a snapshot, such as "34 % · 1200/3500 tiles · 180 Mpx/s · 25 MB/s · 0:12 left"."""
    parts = [f"{fraction_done(snapshot):.0%}", f"{snapshot.tiles_done}/{snapshot.tiles_total} tiles", _rates(snapshot)]
    if snapshot.stage == "done":
        parts.append(f"done in {clock(snapshot.seconds)}")
    elif snapshot.stage == "encoding":
        left = seconds_left(snapshot)
        parts.append("" if left is None else f"{clock(left)} left")
    else:
        parts.append(snapshot.stage)
    if snapshot.retries:
        parts.append(_retries(snapshot))
    return " · ".join(part for part in parts if part)


def fraction_done(snapshot: Progress) -> float:
    """Share of the tiles that are done, 0 to 1."""
    return min(1.0, snapshot.tiles_done / snapshot.tiles_total) if snapshot.tiles_total else 0.0


def seconds_left(snapshot: Progress) -> float | None:
    """Expected seconds to go at the mean rate so far; None while nothing is known."""
    fraction = fraction_done(snapshot)
    return snapshot.seconds * (1 - fraction) / fraction if fraction > 0 else None


def clock(seconds: float) -> str:
    """Seconds as "0:07", "12:34" or "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _rates(snapshot: Progress) -> str:
    seconds = max(snapshot.seconds, 1e-9)
    if not snapshot.pixels_done:
        return ""
    return f"{snapshot.pixels_done / 1e6 / seconds:.0f} Mpx/s · {snapshot.bytes_written / 1e6 / seconds:.1f} MB/s"


def _retries(snapshot: Progress) -> str:
    return "1 block redone" if snapshot.retries == 1 else f"{snapshot.retries} blocks redone"


def _bar_or_lines(stream: TextIO) -> Bar | Lines:
    if is_terminal(stream):
        with contextlib.suppress(ImportError):
            return Bar(stream)
    return Lines(stream)


class Lines:
    """A plain line every few seconds and one at the end, for logs and pipes."""

    def __init__(self, stream: TextIO, every: float = LINE_SECONDS) -> None:
        self._stream: TextIO | None = stream
        self._every = every
        self._next = every
        self._last: str | None = None

    def __call__(self, snapshot: Progress) -> None:
        """Write a line when it is time for one."""
        if snapshot.stage != "done" and snapshot.seconds < self._next:
            return
        self._next = snapshot.seconds + self._every
        self._write(describe(snapshot))

    def close(self) -> None:
        """Write nothing more."""
        self._stream = None

    def _write(self, line: str) -> None:
        if self._stream is None or line == self._last:
            return
        self._last = line
        try:
            self._stream.write(_encodable(line, self._stream) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None


class Bar:
    """A rich progress bar, redrawn on snapshots only, so that it needs no thread beside the engine."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self._bar: Any = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[line]}", markup=False),
            console=Console(file=stream),
            auto_refresh=False,
            expand=True,
        )
        self._task = self._bar.add_task("starting", total=None, line="")
        self._drawn = -1.0
        self._stage = ""
        self._open = True
        self._guarded(self._bar.start)

    def __call__(self, snapshot: Progress) -> None:
        """Redraw when something may have changed to the eye."""
        if not self._open:
            return
        if snapshot.seconds - self._drawn < _REFRESH_SECONDS and snapshot.stage == self._stage:
            return
        self._drawn, self._stage = snapshot.seconds, snapshot.stage
        self._guarded(lambda: self._draw(snapshot))

    def close(self) -> None:
        """Leave the bar as it is and give the terminal back."""
        if self._open:
            self._guarded(self._bar.stop)
        self._open = False

    def _draw(self, snapshot: Progress) -> None:
        self._bar.update(
            self._task,
            description=snapshot.stage,
            total=snapshot.tiles_total or None,
            completed=snapshot.tiles_done,
            line=describe(snapshot).removesuffix(f" · {snapshot.stage}"),
        )
        self._bar.refresh()

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:
            self._open = False
            _raise_signal_behind(error)


def _raise_signal_behind(error: BaseException) -> None:
    """Raise what a signal raised while a line was being written, where the rest of the writing failed after it: a
    terminal that is closed does both, and rich writes once more on its way out.
    """
    behind = error.__context__
    while behind is not None:
        if not isinstance(behind, Exception):
            raise behind
        behind = behind.__context__


def _encodable(line: str, stream: TextIO) -> str:
    """The line in the stream's own encoding: a log in plain ASCII must not end a run over a dot."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        line.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return line.replace(" · ", ", ").encode("ascii", "replace").decode("ascii")
    return line
