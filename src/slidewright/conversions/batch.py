"""Many slides: one after the other on all cores, or each a task of an array job; what is done is not done again.

A batch keeps a report of JSON lines, which is also its memory: a line says what was made of what. Helper processes stay
warm from slide to slide, so a small slide does not pay for the start of Python.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any, Unpack

from slidewright.conversions.convert import convert_opened
from slidewright.conversions.destination import sweep_beside
from slidewright.conversions.manifest import Entry, check_apart, check_places, read_entries
from slidewright.conversions.opening import make_launcher, open_selected
from slidewright.conversions.signatures import AllOptions, with_options
from slidewright.errors import DestinationError, OptionError, OutputError
from slidewright.options import ConvertOptions, Selection, make_options
from slidewright.report import ProgressOption
from slidewright.shards import fingerprint as identity
from slidewright.shards.schema import read_as
from slidewright.system.files import regular
from slidewright.system.json_file import parse_json

_MAX_LINE = 1 << 20
_FRESH_EVERY = 100  # slides that one helper serves: bounds what any library may leak


@dataclass(frozen=True, slots=True)
class BatchItem:
    """What became of one slide."""

    source: str
    destination: str
    status: str
    """"done", "skipped" (it was done before and nothing has changed), "failed", or of a dry run "planned"."""
    seconds: float
    bytes: int = 0
    megapixels: float = 0.0
    retries: int = 0
    error: str | None = None
    """The class and the message of what went wrong."""


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of a batch."""

    items: tuple[BatchItem, ...]
    report: str
    """The file of JSON lines."""
    seconds: float

    @property
    def failed(self) -> tuple[BatchItem, ...]:
        """The slides that failed."""
        return tuple(item for item in self.items if item.status == "failed")


@with_options("batch")
def batch(
    slides: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    suffix: str = ".tif",
    recursive: bool = False,
    task: tuple[int, int] | None = None,
    report: str | os.PathLike[str] | None = None,
    tell: Callable[[BatchItem], None] | None = None,
    progress: ProgressOption = False,
    dry_run: bool = False,
    page: int | None = None,
    series: int | None = None,
    level: int | None = None,
    z: int | None = None,
    t: int | None = None,
    region: tuple[int, int, int, int] | None = None,
    **options: Unpack[AllOptions],
) -> BatchReport:
    """Convert many slides.

    Parameters
    ----------
    slides
        A manifest: a CSV file with the columns source and destination, and any of page, series, level, z, t, region and
        the fields of `ConvertOptions`; its relative paths begin at its folder. Or one or several of slides, folders of
        slides, and patterns such as "slides/*.svs".
    out, suffix
        Where the files go, and what their names end with, where no manifest says it. The folder is made if need be.
    recursive
        Whether slides in the folders below a folder are converted too, into such folders below `out`.
    task
        (index, count): do only the slides index, index + count, ... as a task of an array job.
    report
        The file of JSON lines to append to; default beside the manifest, or in `out`. Slides that it says are done, of
        the same source with the same options, are skipped.
    tell
        Called with each slide when it is done, skipped or failed.
    progress
        As for `slidewright.convert`, for each slide.
    dry_run
        Write nothing: the items then say which slides would be converted or fail, with bytes and seconds estimated as
        `slidewright.preview` does.
    page, series, level, z, t, region
        Which image of a file with several, and which part, for every slide that does not say otherwise.
    **options
        The fields of `ConvertOptions`, for every slide that does not say otherwise.

    Returns
    -------
    BatchReport
        Also when slides failed.

    Raises
    ------
    OptionError, SourceError, DestinationError
        When the manifest can't be used, a source does not exist or a folder for results can't be written; no slide has
        been touched then.
    """
    started = monotonic()
    given = {**options, **Selection(page, series, level, z, t, region).given}
    paths = [os.fspath(path) for path in ([slides] if isinstance(slides, (str, os.PathLike)) else slides)]
    entries = read_entries(paths, out, given, suffix, recursive=recursive)
    path = os.fspath(report) if report is not None else _default_report(paths[0], out)
    reports = _siblings(path)
    check_apart(entries, paths if out is None else (), reports)
    check_places(entries, out)
    try:
        done = read_done(reports)
    except OSError as error:
        raise OptionError(f"can't read the report {path!r}: {error.strerror}; give another with --report") from error
    if task is not None:
        index, count = task
        if not 0 <= index < count:
            raise OptionError(f"task {index} of {count} does not exist; tasks are numbered from 0 to {count - 1}")
        entries = entries[index::count]
        path = f"{os.path.splitext(path)[0]}.task-{index:05}{os.path.splitext(path)[1]}"
    tell = tell or _ignore
    if dry_run:
        planned = tuple(_preview_one(entry, done, tell) for entry in entries)
        return BatchReport(planned, path, monotonic() - started)
    if out is not None:
        _make_folders(entries)
    running = make_options(options, "batch")
    items = []
    with _Helpers(running) as helpers, _append(path) as write:
        for entry in entries:
            item, line = _convert_one(entry, done, helpers, progress)
            items.append(item)
            if line is not None:
                write(line)
            tell(item)
    return BatchReport(tuple(items), path, monotonic() - started)


def _ignore(item: BatchItem) -> None:
    """Nobody wants to be told."""


def _make_folders(entries: Sequence[Entry]) -> None:
    for folder in dict.fromkeys(os.path.dirname(entry.destination) for entry in entries):
        try:
            os.makedirs(folder or ".", exist_ok=True)
        except OSError as error:
            raise DestinationError(f"can't make the folder {folder!r} for results: {error.strerror}") from error


def _default_report(path: str, out: str | os.PathLike[str] | None) -> str:
    if out is not None:
        return os.path.join(out, "slidewright-batch.jsonl")
    return os.path.splitext(path)[0] + ".report.jsonl"


def _siblings(path: str) -> list[str]:
    """The report and those of the tasks of an array."""
    stem, extension = os.path.splitext(path)
    return [path, *sorted(glob.glob(f"{glob.escape(stem)}.task-*{extension}"))]


@dataclass(frozen=True, slots=True)
class _Line:
    """What a later batch must know of a line of the report."""

    status: str
    destination: str
    identity: dict[str, Any] | None
    made: tuple[int, int] | None


def read_done(paths: Iterable[str]) -> dict[str, _Line]:
    """The newest line about each destination that was made, by its absolute path; half lines of a kill are left out."""
    newest: dict[str, _Line] = {}
    for path in paths:
        with (
            contextlib.suppress(FileNotFoundError),
            open(path, encoding="utf-8", errors="replace", opener=regular) as file,
        ):
            while text := file.readline(_MAX_LINE):
                try:
                    line = read_as(_Line, parse_json(text), strict=False)
                except ValueError:
                    continue
                if line.status == "done" and line.made is not None:
                    old = newest.get(line.destination)
                    if old is None or old.made is None or line.made[1] >= old.made[1]:
                        newest[line.destination] = line
    return newest


class _Helpers:
    """A launcher that is kept from slide to slide; one that saw a failure is replaced, with whatever it still runs."""

    def __init__(self, options: ConvertOptions) -> None:
        self._options = options
        self._stack = contextlib.ExitStack()
        self._served = 0
        self._launcher: Any = None

    def __enter__(self) -> _Helpers:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()

    def get(self) -> Any:
        """A launcher; None for a run in this process."""
        if self._served >= _FRESH_EVERY:
            self.drop()
        if not self._served:
            self._launcher = self._stack.enter_context(make_launcher(self._options))
        self._served += 1
        return self._launcher

    def drop(self) -> None:
        """End it, and all that it runs."""
        self._stack.close()
        self._served = 0


def _convert_one(
    entry: Entry, done: Mapping[str, _Line], helpers: _Helpers, progress: ProgressOption
) -> tuple[BatchItem, dict[str, Any] | None]:
    """Convert a slide if need be; the line for the report, or None when there is nothing new."""
    from slidewright.reporting.progress import make_callback

    started = monotonic()
    destination = os.path.abspath(entry.destination)
    try:
        sweep_beside(destination)  # also beside what is skipped
        made_of = _identity(entry)
        options = _due(entry, made_of, done.get(destination))
        if options is None:
            return BatchItem(entry.source, entry.destination, "skipped", monotonic() - started), None
        launcher = helpers.get()
        with make_callback(progress) as callback:
            opened, path = open_selected(entry.source, entry.selection)
            report = convert_opened(
                launcher, opened, path, destination, entry.selection, options, callback, started, compare=True
            )
    except Exception as error:  # whatever it is, the next slide may be fine
        helpers.drop()
        item = _failed(entry, error, monotonic() - started)
        return item, {**asdict(item), "destination": destination, "identity": None, "made": None}
    size = report.levels[0].size
    item = BatchItem(
        entry.source,
        entry.destination,
        "done",
        monotonic() - started,
        report.bytes,
        size.height * size.width / 1e6,
        report.retries,
    )
    line = {**asdict(item), "destination": destination, "identity": made_of, "made": _status(destination)}
    return item, line


def _preview_one(entry: Entry, done: Mapping[str, _Line], tell: Callable[[BatchItem], None]) -> BatchItem:
    """What `_convert_one` would do, without doing it."""
    from slidewright.conversions.preview import preview_opened

    destination = os.path.abspath(entry.destination)
    try:
        options = _due(entry, _identity(entry), done.get(destination))
        if options is None:
            item = BatchItem(entry.source, entry.destination, "skipped", 0.0)
        else:
            opened, path = open_selected(entry.source, entry.selection)
            shown = preview_opened(opened, path, entry.destination, options)
            size = shown.levels[0].size
            megapixels = size.height * size.width / 1e6
            item = BatchItem(entry.source, entry.destination, "planned", shown.seconds, shown.bytes, megapixels)
    except Exception as error:  # as in `_convert_one`
        item = _failed(entry, error, 0.0)
    tell(item)
    return item


def _failed(entry: Entry, error: Exception, seconds: float) -> BatchItem:
    text = f"{type(error).__name__}: {error}"
    return BatchItem(entry.source, entry.destination, "failed", seconds, error=text)


def _due(entry: Entry, made_of: dict[str, Any], before: _Line | None) -> ConvertOptions | None:
    """The options to convert a slide with; None if it was done before and nothing has changed."""
    untouched = before is not None and before.made == _status(os.path.abspath(entry.destination))
    if before is not None and untouched and before.identity == made_of:
        return None
    # What this batch made and nobody has touched since may be made again when source or options have changed.
    return replace(entry.options, overwrite=True) if untouched else entry.options


def _identity(entry: Entry) -> dict[str, Any]:
    opened, path = open_selected(entry.source, entry.selection)
    found: dict[str, Any] = json.loads(
        json.dumps(
            {
                "source": identity.fingerprint(opened, path),
                "selection": entry.selection.given,
                "options": identity.made_options(entry.options),
                "versions": identity.versions(),
            }
        )
    )
    return found


def _status(path: str) -> tuple[int, int] | None:
    """Size and time of change of a file, or None."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def _append(path: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Append lines to a report, each in one piece; a half line that a kill left is ended first."""
    try:
        file = open(path, "ab+", buffering=0, opener=regular)  # noqa: SIM115
    except OSError as error:
        raise OptionError(f"can't write the report {path!r}: {error.strerror}; give another with --report") from error
    try:
        with _telling(path):
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        yield lambda line: _write_line(file, path, line)
    finally:
        with _telling(path):
            file.close()


def _write_line(file: Any, path: str, line: dict[str, Any]) -> None:
    rest = memoryview(json.dumps(line).encode() + b"\n")
    with _telling(path):
        while rest:
            rest = rest[file.write(rest) :]


@contextlib.contextmanager
def _telling(path: str) -> Iterator[None]:
    """Name the report that can't be written; what is done already will be found by its content."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"can't write the report {path!r}: {error.strerror or error}; see to that disk and run it again"
        ) from error
