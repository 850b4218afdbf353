"""One slide of a batch: skipped where it is done, else converted, and what became of it.

Apart from `batch.py` because a process of the pool (`batch_pool.py`) does the same; `main` is what such a process runs.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from slidewright.conversions.convert import convert_opened
from slidewright.conversions.destination import Compare, made_status
from slidewright.conversions.opening import open_selected
from slidewright.conversions.workload import work_seconds
from slidewright.errors import without_keys
from slidewright.shards import fingerprint as identity
from slidewright.sources.on_disk import file_identity, has_status
from slidewright.system.remote_file import absolute, is_url

if TYPE_CHECKING:
    from slidewright.conversions.manifest import Entry
    from slidewright.engine.messages import Pipe
    from slidewright.options import ConvertOptions
    from slidewright.report import Progress
    from slidewright.sources.base import Source
    from slidewright.system.launcher import Launcher

LARGE_SECONDS = 2.0
"""Of work on one core that make a slide one for all cores."""
FRESH_EVERY = 100
"""Slides that a process, or a fork server, serves: bounds what any library may leak."""
PRELOAD = (
    __name__,
    "slidewright.conversions.conversion",
    "slidewright.conversions.deciding",
    "slidewright.conversions.keeping",
    "slidewright.engine.inline",
    "slidewright.inspection.verify",
    "slidewright.sources.open",
    "slidewright.sources.wrappers.adapt",
    "slidewright.sources.wrappers.fill",
)
"""What a process of the pool is forked with, beyond what any worker needs."""


@dataclass(frozen=True, slots=True)
class BatchItem:
    """What became of one slide."""

    source: str
    """Without the keys of a URL."""
    destination: str
    status: str
    """"done", "skipped" (it was done before and nothing has changed), "failed", or of a dry run "planned"."""
    seconds: float
    bytes: int = 0
    megapixels: float = 0.0
    retries: int = 0
    error: str | None = None
    """The class and the message of what went wrong."""
    warnings: tuple[str, ...] = ()
    """Those of the conversion, such as which tiles of the source do not decode."""

    def __post_init__(self) -> None:
        for name in ("source", "error"):
            value = getattr(self, name)
            object.__setattr__(self, name, value and without_keys(value))


@dataclass(frozen=True, slots=True)
class Line:
    """What a later batch must know of a line of the report."""

    status: str
    destination: str
    identity: dict[str, Any] | None
    made: tuple[int, ...] | None
    """Its `status_of`."""


class Outcome(NamedTuple):
    """What became of a slide, and the line for the report; None when there is nothing new."""

    item: BatchItem
    line: dict[str, Any] | None


class Task(NamedTuple):
    """To a process of the pool: a slide, and what the report says of its destination."""

    entry: Entry
    before: Line | None


class Announced(NamedTuple):
    """From a process of the pool: a temporary file that it makes once it is `Noted`."""

    path: str


class Noted(NamedTuple):
    """To a process of the pool: the file will be removed if the batch is killed."""


class Answer(NamedTuple):
    """From a process of the pool: what became of its slide; None for one that is too large for one process."""

    outcome: Outcome | None
    progress: Progress | None


class TooLargeError(Exception):
    """A slide that should be converted on all cores."""


def convert_slide(
    entry: Entry,
    before: Line | None,
    launcher: Callable[[], Launcher | None],
    callback: Callable[[Progress], None] | None,
    announce: Callable[[str], None] | None = None,
) -> Outcome:
    """Convert a slide if need be; `launcher` is called when there is need. With `announce`, which is told of temporary
    files, in this process alone: raises TooLargeError for what is too much for it.
    """
    started, pid = monotonic(), os.getpid()
    destination = os.path.abspath(entry.destination)
    try:
        opened, path = open_selected(entry.source, entry.selection)
        options, made_of = due(entry, opened, path, before)
        if options is None:
            if entry.options.resume:
                from slidewright.conversions.resume import remove_finished

                remove_finished(destination, entry.options)
            return Outcome(BatchItem(entry.source, entry.destination, "skipped", monotonic() - started), None)
        if announce is not None and work_seconds(opened.info, entry.options) > LARGE_SECONDS:
            raise TooLargeError
        compare: Compare = not entry.options.overwrite
        if compare and options.overwrite:  # who did not ask for it has only what a batch made replaced
            compare = functools.partial(_is_made, before)
        report = convert_opened(
            *(launcher(), opened, path, destination, entry.selection, options, callback, started),
            compare=compare,
            announce=announce,
        )
    except TooLargeError:
        raise
    except Exception as error:  # whatever it is, the next slide may be fine
        if os.getpid() != pid:  # in a fork, as of a callback of the caller's, to which the batch is not
            raise
        if announce is not None and isinstance(error, MemoryError):
            raise TooLargeError from error
        return failed(entry, f"{type(error).__name__}: {error}", monotonic() - started)
    size = report.levels[0].size
    item = BatchItem(
        *(entry.source, entry.destination, "done", monotonic() - started, report.bytes),
        size.height * size.width / 1e6,
        report.retries,
        warnings=report.warnings,
    )
    made = made_status(destination)  # and not of what somebody has put there meanwhile, or changed in it
    line = {**asdict(item), "destination": place_of(destination), "identity": made_of, "made": made}
    return Outcome(item, line)


def failed(entry: Entry, error: str, seconds: float, retries: int = 0) -> Outcome:
    """The outcome of a slide that could not be converted."""
    item = BatchItem(entry.source, entry.destination, "failed", seconds, retries=retries, error=error)
    place = place_of(entry.destination)
    return Outcome(item, {**asdict(item), "destination": place, "identity": None, "made": None})


def due(
    entry: Entry, opened: Source, path: str | None, before: Line | None
) -> tuple[ConvertOptions | None, dict[str, Any]]:
    """The options to convert a slide with, None if it is done and nothing has changed; and what it is made of."""
    made_of = _identity(entry, opened, path)
    made_before = before.identity if before is not None else None
    if before is None or made_before is None or not has_status(os.path.abspath(entry.destination), before.made):
        return entry.options, made_of
    if made_before == made_of:
        return None, made_of
    # What a batch made of this very source, and nobody has touched since, may be made again when source or options have
    # changed. Of another source it may be a slide of the same name from another folder, which must not go. Nor what was
    # moved and linked to, as git-annex and DVC do: such a store has a file under the hash of what is in it.
    again = made_before.get("path") == made_of["path"] and not os.path.islink(entry.destination)
    return (replace(entry.options, overwrite=True) if again else entry.options), made_of


def _is_made(before: Line | None, path: str) -> bool:
    """Whether what is at a path is what a batch has made, as its report says."""
    return before is not None and has_status(path, before.made)


def _identity(entry: Entry, opened: Source, path: str | None) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        json.dumps(
            {
                "path": None if path is None else _place(path),
                "source": identity.fingerprint(opened, path),
                "selection": entry.selection.given,
                "options": identity.made_options(entry.options),
                "versions": identity.versions(),
                **_label(entry.options),
            }
        )
    )
    return found


def place_of(path: str) -> str:
    """A path from the root on, by whatever links to its folder it is reached; a URL as it is."""
    folder, name = os.path.split(absolute(path))
    return path if is_url(path) else os.path.join(os.path.realpath(folder), name)


def _place(path: str) -> str:
    """The place of a source; instead of a URL's query what tells it from one with another."""
    import hashlib

    place = place_of(path)
    shown = without_keys(place)
    query = place.rpartition("@")[2].encode(errors="surrogateescape")  # no hash of a password, which could be guessed
    return place if shown == place else f"{shown} {hashlib.sha256(query).hexdigest()[:16]}"


def _label(options: ConvertOptions) -> dict[str, Any]:
    """What tells the image file that becomes the label from others."""
    return {} if options.label is None else {"label": file_identity(os.fspath(options.label))}


@dataclass(frozen=True, slots=True)
class PoolJob:
    """The job of a process of the pool."""

    hushed: bool
    """Whether the caller keeps tifffile's log lines off the terminal."""


def main(connection: Pipe, job: PoolJob) -> None:
    """Convert slides, each whole in this process, until the batch closes the pipe."""
    import cv2

    cv2.setNumThreads(1)
    if job.hushed:
        logging.getLogger("tifffile").addHandler(logging.NullHandler())
    gc.freeze()
    try:
        while True:
            connection.send(_answer(connection, connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the batch is done with us, or gone


def _answer(connection: Pipe, task: Task) -> Answer:
    def announce(path: str) -> None:
        connection.send(Announced(path))
        connection.recv()

    shown: list[Progress] = []
    alone = replace(task.entry.options, n_workers=0)
    try:
        outcome = convert_slide(
            replace(task.entry, options=alone), task.before, lambda: None, shown.append, announce
        )
    except TooLargeError:
        return Answer(None, None)
    return Answer(outcome, shown[-1] if shown else None)
