"""Many slides: the small ones side by side, each whole in a process, then the large ones one after the other on all
cores; or each a task of an array job. What is done, as the report says, is not done again.

Helper processes stay warm from slide to slide, so a small slide does not pay for the start of Python.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Unpack

from slidewright.conversions.batch_report import (
    append,
    default_report,
    done_below,
    read_done,
    refuse_another_file,
    siblings,
    without_our_own,
    without_results,
)
from slidewright.conversions.batch_slide import (
    FRESH_EVERY,
    BatchItem,
    Line,
    Outcome,
    convert_slide,
    due,
    failed,
    place_of,
)
from slidewright.conversions.destination import sweep_beside
from slidewright.conversions.manifest import Entry, check_apart, check_places, read_entries, told_of_links
from slidewright.conversions.opening import make_launcher, open_selected
from slidewright.conversions.signatures import AllOptions, with_options
from slidewright.errors import DestinationError, OptionError
from slidewright.options import ConvertOptions, split_options
from slidewright.report import ProgressOption
from slidewright.system.forks import refuse_fork
from slidewright.system.remote_file import is_url


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of a batch."""

    items: tuple[BatchItem, ...]
    report: str
    """The file of JSON lines."""
    seconds: float
    warnings: tuple[str, ...] = ()
    """About the batch as a whole; those about a slide are its item's."""

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
    **options: Unpack[AllOptions],
) -> BatchReport:
    """Convert many slides.

    Parameters
    ----------
    slides
        A manifest: a CSV file with the columns source and destination, and any of page, series, level, z, t, axes,
        region and the fields of `ConvertOptions`; its relative paths begin at its folder. Or one or several of slides,
        folders of slides, and patterns such as "slides/*.svs".
    out, suffix
        Where the files go, and what their names end with, where no manifest says it. The folder is made if need be.
    recursive
        Whether slides in the folders below a folder are converted too, into such folders below `out`. Folders behind
        links are not searched, and named in a warning.
    task
        (index, count): do only the slides index, index + count, ... as a task of an array job.
    report
        The file of JSON lines to append to; default beside the manifest, or in `out`. Slides that it says are done, of
        the same source with the same options, are skipped.
    tell
        Called with each slide when it is done, skipped or failed, which is in another order than theirs where small
        slides are converted side by side.
    progress
        As for `slidewright.convert`, for each slide.
    dry_run
        Write nothing: the items then say which slides would be converted or fail, with bytes and seconds estimated as
        `slidewright.preview` does.
    **options
        The fields of `Selection` and `ConvertOptions`, for every slide that does not say otherwise.

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
    _, running = split_options(options, "batch")
    paths = [os.fspath(path) for path in ([slides] if isinstance(slides, (str, os.PathLike)) else slides)]
    links: list[str] = []
    entries = read_entries(paths, out, options, suffix, recursive=recursive, links=links)
    warnings = told_of_links(links)
    path = os.fspath(report) if report is not None else default_report(paths[0], out)
    reports = siblings(path)
    try:
        done = read_done(reports)
    except OSError as error:
        raise OptionError(f"can't read the report {path!r}: {error.strerror}; give another with --report") from error
    if out is not None:
        entries = without_our_own(entries, {*reports, *siblings(default_report(paths[0], out))})
        made_before = {**(done_below(entries, paths) if recursive else {}), **done}
        entries = without_results(entries, made_before, suffix)
    check_apart(entries, paths if out is None else (), reports)
    if task is not None:
        index, count = task
        if not 0 <= index < count:
            raise OptionError(f"task {index} of {count} does not exist; tasks are numbered from 0 to {count - 1}")
        path = f"{os.path.splitext(path)[0]}.task-{index:05}{os.path.splitext(path)[1]}"
    refuse_another_file(path)
    check_places(entries, out)
    if task is not None:
        entries = entries[index::count]
    tell = tell or _ignore
    if dry_run:
        planned = tuple(_preview_one(entry, done, tell) for entry in entries)
        return BatchReport(planned, path, monotonic() - started, warnings)
    if out is not None:
        _make_folders(entries)
    sweep_beside(*(entry.destination for entry in entries))  # also beside what will be skipped
    items: dict[int, BatchItem] = {}
    with append(path) as write, contextlib.closing(_converted(entries, done, running, progress)) as outcomes:
        for number, outcome in outcomes:
            items[number] = outcome.item
            if outcome.line is not None:
                write(outcome.line)
            tell(outcome.item)
    made = tuple(items[number] for number in range(len(entries)))
    return BatchReport(made, path, monotonic() - started, warnings)


def _converted(
    entries: Sequence[Entry], done: Mapping[str, Line], options: ConvertOptions, progress: ProgressOption
) -> Generator[tuple[int, Outcome]]:
    """What became of each slide, by its number, as it is done."""
    from slidewright.conversions.batch_pool import Slide, SlidePool, count_processes, is_small
    from slidewright.reporting.progress import make_callback

    before, here = [done.get(place_of(entry.destination)) for entry in entries], _folder()
    small = {Slide(entry, before[number]): number for number, entry in enumerate(entries) if is_small(entry)}
    processes = count_processes(options, len(small))
    finished, pid = set(), os.getpid()
    if processes:
        with SlidePool(options, processes) as pool:
            for slide, outcome, last in pool.run(list(small)):
                if outcome is not None:
                    with make_callback(progress) as callback:
                        if callback is not None and last is not None:
                            callback(last)
                            refuse_fork(pid)
                    finished.add(small[slide])
                    yield small[slide], outcome
                    refuse_fork(pid)
    with _Helpers(options) as helpers:
        for number, entry in enumerate(entries):
            if number not in finished:
                with make_callback(progress) as callback:
                    outcome = convert_slide(_from(entry, here), before[number], helpers.get, callback)
                item = replace(outcome.item, source=entry.source, destination=entry.destination)
                yield number, outcome._replace(item=item)
                refuse_fork(pid)


def _folder() -> str | None:
    """Where relative paths begin; None where that folder is gone."""
    with contextlib.suppress(OSError):
        return os.getcwd()
    return None


def _from(entry: Entry, here: str | None) -> Entry:
    """An entry whose paths mean what they did in the folder `here`, also where the caller has gone to another since, as
    in `tell`.
    """
    if here is None or _folder() == here:
        return entry
    paths = {name: getattr(entry.options, name) for name in ("label", "scratch")}
    moved: dict[str, Any] = {name: os.path.join(here, path) for name, path in paths.items() if path is not None}
    return replace(
        entry,
        source=entry.source if is_url(entry.source) else os.path.join(here, entry.source),
        destination=os.path.join(here, entry.destination),
        options=replace(entry.options, **moved),
    )


def _ignore(item: BatchItem) -> None:
    """Nobody wants to be told."""


def _make_folders(entries: Sequence[Entry]) -> None:
    for folder in dict.fromkeys(os.path.dirname(entry.destination) for entry in entries):
        try:
            os.makedirs(folder or ".", exist_ok=True)
        except OSError as error:
            raise DestinationError(f"can't make the folder {folder!r} for results: {error.strerror}") from error


class _Helpers:
    """A launcher that is kept from slide to slide; one is replaced that a failed run has closed, with all it ran."""

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
        if self._served >= FRESH_EVERY or (self._launcher is not None and not self._launcher.usable):
            self.drop()
        if not self._served:
            self._launcher = self._stack.enter_context(make_launcher(self._options))
        self._served += 1
        return self._launcher

    def drop(self) -> None:
        """End it, and all that it runs."""
        self._stack.close()
        self._served = 0


def _preview_one(entry: Entry, done: Mapping[str, Line], tell: Callable[[BatchItem], None]) -> BatchItem:
    """What would become of a slide, without doing it."""
    from slidewright.conversions.preview import preview_opened

    try:
        opened, path = open_selected(entry.source, entry.selection)
        options, _ = due(entry, opened, path, done.get(place_of(entry.destination)))
        if options is None:
            item = BatchItem(entry.source, entry.destination, "skipped", 0.0)
        else:
            shown = preview_opened(opened, path, entry.destination, options)
            size = shown.levels[0].size
            megapixels = size.height * size.width / 1e6
            item = BatchItem(entry.source, entry.destination, "planned", shown.seconds, shown.bytes, megapixels)
    except Exception as error:  # as in `convert_slide`
        item = failed(entry, f"{type(error).__name__}: {error}", 0.0).item
    tell(item)
    return item
