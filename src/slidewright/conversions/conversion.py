"""One conversion, from source and options to a file under its name.

Two things: `decide` says what a run will be, before anything is written, which shards and `PyramidWriter` need as well;
`Conversion` is the transaction around doing it: temporary things, the run, the check, the name, the report.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from slidewright.conversions.description import describe_image
from slidewright.conversions.destination import Destination, has_named
from slidewright.conversions.opening import option_files
from slidewright.conversions.settled import settled
from slidewright.conversions.told import warnings_of
from slidewright.errors import CorruptTileError, DestinationError, OptionError, OutputError, SourceError, without_keys
from slidewright.options import ConvertOptions
from slidewright.report import LevelReport, Progress, Report
from slidewright.sources.on_disk import file_identity, folder_identity
from slidewright.system.files import lies_in, local_path, regular, same_file
from slidewright.system.limits import open_files, usable_cpus
from slidewright.system.remote_file import absolute, is_url

if TYPE_CHECKING:  # NumPy comes with it, and the fork server must be started first
    from slidewright.codecs import Encoding
    from slidewright.engine.memory_budget import MemoryPlan
    from slidewright.engine.run import Outcome, Run
    from slidewright.formats.base import Format
    from slidewright.pyramid.level_store import Scratch
    from slidewright.pyramid.plan import Plan
    from slidewright.report import Recorder
    from slidewright.shards.plan import ShardPlan
    from slidewright.sources.base import CorruptPlace, Source, SourceInfo
    from slidewright.system.launcher import Launcher

Callback = Callable[[Progress], None] | None

_LARGE_TILE = 16 << 20
_MAX_HELD = 64  # files of a source that are kept open; only DICOM has more than a few
_SHARE_HELD = 32  # of the files that may be open, which other conversions in this process need as well
_MAX_SIDE = (1 << 32) - 1  # of a TIFF, and more than a cluster can write


def decide(
    source: Source,
    options: ConvertOptions,
    started: float,
    planned_workers: int | None = None,
    recorder: Recorder | None = None,
    threads: int = 1,
    *,
    in_shards: bool = False,
) -> Run:
    """What a run will be: format, encoding, plan, memory, and the source as the engine takes it.

    Blocks are balanced for `planned_workers` where several machines share them: then neither this machine's processors
    nor its memory change their size. By default they are balanced for the workers of this run, or for the `threads` of
    one in this process, and shrink with memory. `in_shards` is for a run that makes shards, or takes them: every such
    run writes the same files, whatever its memory and time limit.
    """
    from slidewright.conversions.keeping import decide_keeping, decide_reuse
    from slidewright.engine.run import Run
    from slidewright.formats.registry import make_format
    from slidewright.pyramid.plan import default_block_tiles, make_plan
    from slidewright.sources.pixel_format import resolve_pixels
    from slidewright.sources.wrappers.adapt import adapted

    info = source.info
    form = make_format(options)
    _refuse_source(info, form)
    keeping = decide_keeping(form, options, info, resolve_pixels(options, info))
    encoding = keeping.encoding
    _refuse_levels(options.levels, info)
    n_levels = options.levels or form.count_levels(info.size)
    levels = make_plan(info.size, encoding.tile, n_levels=n_levels).levels
    keeping, reused = decide_reuse(keeping, options, source, levels)
    source, *filled = _filled((source, *reused), options, hand_out=keeping.kept is not None and keeping.kept.corrupt)
    block = options.block_tiles or default_block_tiles(encoding.tile)
    held = 0 if options.timeout and not in_shards else form.held_bytes(encoding, levels[0], block)
    memory, plan = _plan(
        info, options, encoding, (n_levels, len(reused)), planned_workers, threads, (held, in_shards)
    )
    image = describe_image(source, options, plan, encoding, keeping)
    form.accept(image)
    processes = options.n_workers != 0
    run = Run(
        source=adapted(source, encoding.pixels, options),
        image=image,
        format=form,
        memory=memory,
        n_workers=memory.n_workers if processes else 0,
        threads=1 if processes else memory.n_workers,
        temporary=os.fspath(options.scratch) if options.scratch is not None else tempfile.gettempdir(),
        started=started,
        timeout=options.timeout,
        recorder=recorder,
        reused=tuple(filled),
        keeping=keeping.words,
    )
    if recorder is not None:
        recorder.settings = settled(run, options)
    return run


def _refuse_source(info: SourceInfo, form: Format) -> None:
    """What no conversion, or none to this format, can be made of."""
    if max(info.size) > _MAX_SIDE:
        raise SourceError(f"{info.name} says that a side of it has more than {_MAX_SIDE} pixels; it is damaged")
    if info.stack.frames > 1 and not form.holds_stacks:
        raise OptionError(
            f"{info.name} has {info.stack}, and a plain TIFF holds a single plane: write to a name.ome.tif or "
            "name.ome.zarr, or choose one with z and t"
        )


def _refuse_levels(levels: int | None, info: SourceInfo) -> None:
    """More levels than halvings can tell apart: no check of the finished file would pass them."""
    most = max(info.size).bit_length() + 1  # the last but one is the first of a single pixel
    if levels is not None and levels > most:
        raise OptionError(f"levels {levels} are too many for {info.name}: {info.size} pixels have at most {most}")


def _filled(sources: Sequence[Source], options: ConvertOptions, *, hand_out: bool) -> Sequence[Source]:
    """The source and its levels that are reused; what is corrupt is filled where that is asked for, or handed out."""
    if options.on_corrupt != "fill" and not hand_out:
        return sources
    from slidewright.sources.pixel_format import resolve_pixels
    from slidewright.sources.wrappers.fill import fill_corrupt

    background = resolve_pixels(replace(options, alpha="keep"), sources[0].info).background
    return [fill_corrupt(source, background, hand_out=hand_out) for source in sources]


def _plan(
    info: SourceInfo,
    options: ConvertOptions,
    encoding: Encoding,
    levels: tuple[int | None, int],
    planned_workers: int | None,
    threads: int,
    held: tuple[int, bool],
) -> tuple[MemoryPlan, Plan]:
    """How memory is shared out, and the blocks; `levels` are how many there are, and how many of them are reused.
    `held` is `Format.held_bytes`, and whether it can't give way.
    """
    from slidewright.engine.memory_budget import needs_of, plan_memory
    from slidewright.pyramid.plan import make_plan

    processes = options.n_workers if options.n_workers is not None else usable_cpus()
    band = 1 if info.planar else encoding.pixels.frame_planes
    block_tiles = options.block_tiles or _small_block(band * encoding.tile_bytes)
    n_levels, reused = levels

    def planned(block_tiles: int | None, n_workers: int) -> Plan:
        return make_plan(
            info.size,
            encoding.tile,
            n_levels=n_levels,
            block_tiles=block_tiles,
            n_workers=n_workers,
            planes=encoding.pixels.planes,
            band=band,
            reused=reused,
        )

    shared = None if planned_workers is None else planned(block_tiles, planned_workers)
    block_side = block_tiles if shared is None else shared.passes[0].block_tiles
    needs = needs_of(
        info,
        encoding,
        n_workers=processes or threads,
        block_tiles=block_side,
        band=band,
        shared=bool(processes),
        held=held[0],
        must_hold=held[1],
    )
    memory = plan_memory(needs, options.memory_bytes)
    return memory, shared or planned(memory.block_tiles, memory.n_workers)


def _small_block(tile_bytes: int) -> int | None:
    """The block side in tiles for tiles so large (all channels of a multichannel image) that a worker can hold but a
    few, one a level; None for any other, where speed decides.
    """
    return None if tile_bytes <= _LARGE_TILE else 1 if tile_bytes > 4 * _LARGE_TILE else 2


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
    temporary file before it is made.
    """

    def __init__(
        self,
        decided: Run,
        dest: str | os.PathLike[str],
        options: ConvertOptions,
        source_path: str | None = None,
        compare: bool = False,
        announce: Callable[[str], None] | None = None,
    ) -> None:
        self.decided = decided
        self._options = options
        self._announce = announce or _ignore
        self._stack = contextlib.ExitStack()
        self._pid = os.getpid()
        self._committed = False
        self._warnings = warnings_of(decided, options)
        self._source_seen = {
            path: _seen(path) for path in decided.source.read_from or _files_of(decided.source, source_path)
        }
        self._held: dict[str, int] = {}
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
            launcher.restore(self._destination.aside, self._destination.place)
        self._destination.claim()
        self._hold_source()
        levels = shards.levels if shards is not None else self._make_levels(own)
        if launcher is not None:
            self._stack.callback(self._end_children, launcher)
            if shards is None or shards.to_make:
                run = share_source(self._stack, run)
        if shards is not None:
            shards = replace(shards, corrupt=dict(run.source.filled))
        if shards is not None:
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
        _refuse_rubbish(self._corrupt(outcome, run), run)
        self._check(run)
        self._check_source()
        if before_commit is not None:
            before_commit(self._destination.partial)
        nbytes = self._give_name(run.format)
        outcome.lap(run, "finish")
        report = self._report(outcome, run, nbytes)
        if callback is not None:
            callback(_finished(report, run.plan, outcome.retries))
        return report

    def _check_space(self, shards: ShardPlan | None) -> None:
        from slidewright.engine.disk_budget import check_space, estimate

        need = estimate(self.decided)
        if shards is not None:
            need = need.with_shards(shards.part_to_make, output=1 - self._linked(shards))
        self._warnings += check_space(need, os.path.dirname(self._destination.place), self.decided.temporary)

    def _linked(self, shards: ShardPlan) -> float:
        """The part of the output whose files are those of shards under another name."""
        run = self.decided
        files = run.format.by_blocks(shards.files).block_files(None, run.image)
        if files is None or os.stat(shards.folder).st_dev != os.stat(os.path.dirname(self._destination.place)).st_dev:
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

    def _hold_source(self) -> None:
        """Keep the files of the source open: one that is written over, or cut short, and then removed, tells so."""
        most = min(_MAX_HELD, open_files() // _SHARE_HELD)
        for path in [path for path, seen in self._source_seen.items() if seen is not None][:most]:
            with contextlib.suppress(OSError):
                self._held[path] = regular(local_path(path))
                self._stack.callback(os.close, self._held[path])

    def _check_source(self) -> None:
        """Refuse what may be a mixture of two files."""
        for path, before in self._source_seen.items():
            now = _seen(path)
            if now is None and path in self._held and before is not None:
                with contextlib.suppress(OSError):  # of a network disk, which does not keep what was removed
                    status = os.fstat(self._held[path])
                    now = {**before, "bytes": status.st_size, "changed": status.st_mtime_ns}
            if now is None and (before is None or "bytes" in before):  # a file that was removed is read to its end
                continue
            if now != before and not (before is None and is_url(path)):  # whose server was silent before
                remedy = "run again when it is complete"
                if is_url(path) and before is not None and now is not None and now.get("bytes") == before.get("bytes"):
                    remedy += "; if its server gives each answer another ETag or time of change, download it first"
                raise SourceError(f"{path} has changed while it was read; {remedy}")

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
        said = []
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


def make_destination(
    dest: str | os.PathLike[str],
    options: ConvertOptions,
    form: Format,
    source: Source,
    source_path: str | None,
    compare: bool,
) -> Destination:
    """The place of the output; raises DestinationError where nothing may be written, such as over what the run reads.
    """
    destination = Destination(
        dest,
        overwrite=options.overwrite,
        sources=_files_of(source, source_path),
        is_folder=form.is_folder,
        recognises=form.recognises,
        compare=compare,
    )
    form.accept_place(destination.place)
    for what, path in option_files(options).items():
        if same_file(destination.place, path) or lies_in(path, destination.place):
            raise DestinationError(f"the destination {os.fspath(dest)!r} has the {what}; choose another name")
    return destination


def _files_of(source: Source, path: str | None) -> list[str]:
    """The files that a source is read from, as far as known, wherever the program goes meanwhile."""
    name = source.info.name
    given = path or (name if os.path.isabs(name) else None)
    return [absolute(each) for each in (*([] if given is None else [given]), *source.beside)]


def _seen(path: str) -> dict[str, Any] | None:
    """What tells a file from what it was before; None where nobody knows (as of the chunks of a store behind HTTP), or
    it has been removed.
    """
    local = local_path(path)
    known = is_url(local) or os.path.isfile(local) or os.path.isdir(local)
    try:
        return None if not known else folder_identity(local) if os.path.isdir(local) else file_identity(local)
    except (OSError, SourceError):
        return None


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
