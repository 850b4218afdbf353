"""One conversion, of a run that is decided, to a file under its name: `Conversion` is the transaction around it, with
its temporary things, the run, the check, the name and the report.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from slidewright.conversions.destination import Compare, Destination, has_named
from slidewright.conversions.opening import option_files
from slidewright.conversions.told import warnings_of
from slidewright.errors import CorruptTileError, DestinationError, OutputError, ShardError, SourceError, without_keys
from slidewright.options import ConvertOptions
from slidewright.report import LevelReport, Progress, Report
from slidewright.sources.watched import WatchedFiles
from slidewright.system.file_identity import chained_path, local_path
from slidewright.system.forks import refuse_fork
from slidewright.system.remote_file import absolute, is_url

if TYPE_CHECKING:  # NumPy comes with it, and the fork server must be started first
    from slidewright.engine.run import Outcome, Run
    from slidewright.formats.base import Format
    from slidewright.pyramid.level_store import Scratch
    from slidewright.pyramid.plan import Plan
    from slidewright.shards.plan import ShardPlan
    from slidewright.sources.base import CorruptPlace, Source
    from slidewright.system.launcher import Launcher

Callback = Callable[[Progress], None] | None


def share_source(stack: contextlib.ExitStack, run: Run) -> Run:
    """The run with its source as worker processes can open it, until the stack is closed."""
    shared = run.source.shared(run.temporary, on_disk=run.memory.array_on_disk)
    return replace(run, source=stack.enter_context(shared))


def execute(run: Run, launcher: Launcher | None, callback: Callback) -> Outcome:
    """Run the engine, with worker processes or, where there is no launcher, without."""
    if launcher is None:
        from slidewright.engine.inline import Inline

        return Inline(run, callback).execute()
    from slidewright.engine.coordinator import Coordinator

    return Coordinator(run, launcher, callback).execute()


class Conversion:
    """The transaction around a run: makes the temporary things, runs, verifies, commits; removes them whatever happens.

    The launcher stays with who made it, who may use it for another conversion; but one whose run failed may have
    children that still write, so it is closed before their files are removed. Without one, `announce` is told of each
    temporary file before it is made. `watched` are the source's files, where they were looked at before.
    """

    def __init__(
        self,
        decided: Run,
        dest: str | os.PathLike[str],
        options: ConvertOptions,
        source_path: str | None = None,
        compare: Compare = False,
        announce: Callable[[str], None] | None = None,
        watched: WatchedFiles | None = None,
    ) -> None:
        self.decided = decided
        self._options = options
        self._announce = announce or _ignore
        self._stack = contextlib.ExitStack()
        self._pid = os.getpid()
        self._committed = False
        self._warnings = warnings_of(decided, options)
        self._source_files = watched or watch(decided.source, source_path)
        self._stack.callback(self._source_files.close)
        self._destination = make_destination(dest, options, decided.format, decided.source, source_path, compare)
        self._stack.callback(self._destination.close)

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, *_: object) -> None:
        if os.getpid() == self._pid:  # not in a fork, as of a callback of the caller's
            self._stack.close()

    def run(
        self,
        launcher: Launcher | None,
        callback: Callback,
        shards: ShardPlan | None = None,
        before_commit: Callable[[str], None] | None = None,
    ) -> Report:
        """Do it all; the report of a finished file. `shards` are found and made on the way; `before_commit` is called
        with the path of the checked file before it gets its name.
        """
        run = self.prepare(launcher, shards)
        return self.finish(execute(run, launcher, callback), run, callback, before_commit)

    def prepare(self, launcher: Launcher | None, shards: ShardPlan | None = None) -> Run:
        """Make the temporary things; the run as the engine can do it."""
        run = self.decided
        self._check_space(shards)
        own: Callable[[str], None] = launcher.own if launcher is not None else self._announce
        for path in self._destination.temporary:
            own(path)
        if launcher is not None:
            launcher.settle(self._destination.stem, self._destination.place)
        self._destination.claim()
        self._source_files.hold()
        if shards is not None and shards.to_make:
            from slidewright.shards.folder import sweep_partials

            self._stack.callback(sweep_partials, shards.folder)  # a writer that was ended could not do it
            self._stack.callback(self._drop_doubtful, shards)
        levels = shards.levels if shards is not None else self._make_levels(own)
        if launcher is not None:
            self._stack.callback(self._end_children, launcher)
            if shards is None or shards.to_make:
                run = share_source(self._stack, run)
        if shards is not None:
            self._source_files.since(shards.changes if shards.found else {})
            shards = replace(shards, corrupt=dict(run.source.filled), watched=self._source_files)
            run = replace(run, format=run.format.by_blocks(shards.files))
        elif run.memory.by_blocks:
            run = replace(run, format=run.format.by_blocks())
        if run.format.block_files(self._destination.partial, run.image) is not None:
            self._destination.make_folder()  # nobody who writes into it makes it, in case its disk goes
        return replace(run, output=self._destination.partial, levels=levels, shards=shards)

    def finish(
        self,
        outcome: Outcome,
        run: Run,
        callback: Callback,
        before_commit: Callable[[str], None] | None = None,
    ) -> Report:
        """Check the file and give it its name; the report."""
        refuse_fork(self._pid)
        _refuse_rubbish(self._corrupt(outcome, run), run)
        self._check(run)
        self._check_source(run.shards)
        if before_commit is not None:
            before_commit(self._destination.partial)
        nbytes = self._give_name(run.format)
        outcome.lap(run, "finish")
        report = self._report(outcome, run, nbytes)
        if callback is not None:
            callback(_finished(report, run.plan, outcome.retries))
            refuse_fork(self._pid)
        return report

    def _check_space(self, shards: ShardPlan | None) -> None:
        from slidewright.engine.disk_budget import check_space, estimate

        need = estimate(self.decided)
        if shards is not None:
            need = need.with_shards(shards.part_to_make, output=1 - self._linked(shards))
        self._warnings += check_space(need, os.path.dirname(self._destination.place), self.decided.temporary)

    def _linked(self, shards: ShardPlan) -> float:
        """The part of the output whose files are those of shards under another name."""
        from slidewright.engine.disk_budget import device_of

        run = self.decided
        files = run.format.by_blocks(shards.files).block_files(None, run.image)
        if files is None:
            return 0
        there = device_of(shards.folder)
        if there is None:
            raise ShardError(f"the folder of shards {shards.folder!r} has been removed; make them again")
        if there != device_of(os.path.dirname(self._destination.place)):
            return 0
        tiles = sum(run.plan.levels[level].n_tiles for level in files.levels)
        return tiles * run.plan.planes / run.plan.n_tiles

    def _make_levels(self, own: Callable[[str], None]) -> Scratch | None:
        """The stores of reduced levels in a folder of their own, where the plan has any."""
        from slidewright.pyramid.level_store import Scratch, ScratchFolder

        run = self.decided
        if len(run.plan.passes) == 1:
            return None
        folder = ScratchFolder(self._options.scratch, announce=own)
        self._stack.callback(folder.remove)
        return Scratch(folder.path, run.plan, run.encoding.pixels, sparse=run.source.info.sparse, single=True)

    def _end_children(self, launcher: Launcher) -> None:
        if not self._committed:
            launcher.close()

    def _check_source(self, shards: ShardPlan | None) -> None:
        try:
            self._source_files.check()
        except SourceError:
            if shards is not None:
                self._drop_doubtful(shards, quick=False)
            raise

    def _drop_doubtful(self, shards: ShardPlan, *, quick: bool = True) -> None:
        """Remove the shards that this run has made of a source that changed meanwhile: it may be put back. Whoever
        interrupts a run does not wait for more than a `quick` look.
        """
        if not self._committed and self._source_files.changed(quick=quick):
            shards.remove_made()

    def _check(self, run: Run) -> None:
        """Look at what was written as a reader would, before it gets its name."""
        partial = self._destination.partial
        try:
            run.format.check(partial, run.image)
            if self._options.verify:
                run.format.verify(partial, self._options.n_workers or None)
        except OSError as error:
            raise OutputError(f"can't read {partial!r} back to check it: {error.strerror or error}") from error
        except SourceError as error:  # of what was written: the run has failed, and its source is fine
            raise OutputError(f"what was written can't be read back: {error}") from error

    def _give_name(self, form: Format) -> int:
        """Give the output its name, and have what others say of it brought up to date; its bytes. Once it has its name,
        Ctrl-C comes too late to leave out the rest.
        """
        place = self._destination.place
        try:
            nbytes = self._destination.commit()
            self._committed = True
            form.named(place)
        except Exception:
            raise
        except BaseException:
            if has_named(place):
                form.named(place)
            raise
        return nbytes

    def _corrupt(self, outcome: Outcome, run: Run) -> dict[CorruptPlace, str]:
        """What of the source did not decode, in this run and in those that made its shards."""
        before = run.shards.found_corrupt() if run.shards is not None else {}
        return {**before, **run.source.filled, **outcome.corrupt}

    def _report(self, outcome: Outcome, run: Run, nbytes: int) -> Report:
        plan = run.plan
        corrupt = self._corrupt(outcome, run)
        kept = run.image.kept
        said = self._source_files.doubts()
        if corrupt:
            from slidewright.sources.wrappers.fill import describe_corrupt

            said.append(describe_corrupt(corrupt, kept=kept is not None and kept.corrupt))
        return Report(
            destination=str(self._destination.path),
            levels=tuple(
                LevelReport(level.size, plan.planes * level.n_tiles, encoded)
                for level, encoded in zip(plan.levels, outcome.level_bytes, strict=True)
            ),
            bytes=nbytes,
            seconds=monotonic() - run.started,
            n_workers=run.n_workers,
            block_tiles=plan.passes[0].block_tiles,
            retries=outcome.retries,
            peak_memory=outcome.peak_memory,
            stages=dict(outcome.seconds),
            warnings=tuple(map(without_keys, (*self._warnings, *outcome.warnings, *said))),
            corrupt_tiles=len(corrupt),
            kept_tiles=plan.planes * plan.levels[0].n_tiles if kept is not None else 0,
            reused_levels=plan.reused,
            keeping=run.keeping,
        )


def watch(source: Source, source_path: str | None) -> WatchedFiles:
    """The files of a source, as they were when it was opened."""
    before = {} if source.info.seen is None else {absolute(source.info.name): source.info.seen}
    given = _files_of(source, source_path)
    stores = [path for path in given if not is_url(path) and os.path.isdir(path)]
    return WatchedFiles(source.read_from or given, before, stores)


def make_destination(
    dest: str | os.PathLike[str],
    options: ConvertOptions,
    form: Format,
    source: Source,
    source_path: str | None,
    compare: Compare,
) -> Destination:
    """The place of the output; raises DestinationError where nothing may be written, such as over what the run reads.
    """
    try:
        destination = Destination(
            dest,
            overwrite=options.overwrite,
            sources=list(_read_by(source, source_path)),
            option_files=option_files(options),
            is_folder=form.is_folder,
            recognises=form.recognises,
            compare=compare,
        )
    except DestinationError:
        from slidewright.pyramid.level_store import sweep_scratch

        sweep_scratch(options.scratch)  # the run that made what is there may have been killed right after
        raise
    form.accept_place(destination.place)
    return destination


def _files_of(source: Source, path: str | None) -> list[str]:
    """The files that a source is read from, as far as known, wherever the program goes meanwhile."""
    name = source.info.name
    given = path or (name if os.path.isabs(name) else None)
    found = [] if given is None else [given, *chained_path(given)]
    return [absolute(each) for each in (*found, *source.beside)]


def _read_by(source: Source, path: str | None) -> Iterator[str]:
    """All that must not be replaced, as a run reads it: the files of a source, what is known to be read of them, and
    where links in the folders of a view of another image lead.
    """
    for each in dict.fromkeys((*_files_of(source, path), *source.read_from)):
        yield each
        with contextlib.suppress(OSError), os.scandir(local_path(each)) as entries:
            yield from [entry.path for entry in entries if entry.is_symlink() and entry.is_dir()]


def _refuse_rubbish(corrupt: dict[CorruptPlace, str], run: Run) -> None:
    """One bad tile is kept; a source of which no tile decodes is no slide."""
    kept, plan = run.image.kept, run.plan
    if kept is not None and kept.corrupt and len(corrupt) >= plan.planes // plan.band * plan.levels[0].n_tiles:
        raise CorruptTileError(f"no tile of the source decodes; the first: {corrupt[min(corrupt)]}")


def _ignore(path: str) -> None:
    """Nobody is there to remove what a killed process leaves; the next run to the same destination does."""


def _finished(report: Report, plan: Plan, retries: int) -> Progress:
    pixels = plan.n_pixels
    return Progress(
        plan.n_tiles,
        plan.n_tiles,
        pixels,
        pixels,
        sum(level.bytes for level in report.levels),
        report.seconds,
        0,
        retries,
        "done",
    )
