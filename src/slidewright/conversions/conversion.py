"""One conversion, from source and options to a file under its name: what it will be, the temporary things, the run, the
check, the report. Apart from api.py, which has what a caller touches, because shards and PyramidWriter convert as well.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any

from slidewright._version import __version__
from slidewright.conversions.destination import Destination
from slidewright.errors import OutputError
from slidewright.options import ConvertOptions
from slidewright.pyramid.plan import Plan, make_plan
from slidewright.report import LevelReport, Progress, Report
from slidewright.system.limits import usable_cpus

if TYPE_CHECKING:  # NumPy comes with it, and the fork server must be started first
    from slidewright.codecs import Encoding
    from slidewright.engine.coordinator import Outcome, Run
    from slidewright.engine.memory_budget import MemoryPlan
    from slidewright.formats.tiff import Layout
    from slidewright.pyramid.level_store import Scratch
    from slidewright.report import Recorder
    from slidewright.shards.plan import ShardPlan
    from slidewright.sources.wrappers.fill import CorruptPlace

_LARGE_TILE = 16 << 20


@dataclass(frozen=True, slots=True)
class Decided:
    """What a run will be, before anything is written."""

    encoding: Encoding
    plan: Plan
    memory: MemoryPlan


def decide(source: Any, options: ConvertOptions, planned_workers: int | None = None) -> Decided:
    """Settle encoding, memory and plan.

    Blocks are balanced for `planned_workers` where several machines share them: then neither this machine's processors
    nor its memory change their size. By default they are balanced for the workers of this run, and shrink with memory.
    """
    from slidewright.codecs import resolve
    from slidewright.engine.memory_budget import needs_of, plan_memory
    from slidewright.sources.pixel_format import resolve_pixels

    info = source.info
    encoding = resolve(options, resolve_pixels(options, info))
    wanted = options.n_workers if options.n_workers is not None else usable_cpus()
    band = 1 if info.planar else encoding.pixels.planes
    block_tiles = options.block_tiles or _small_block(band * encoding.tile_bytes)

    def planned(block_tiles: int | None, n_workers: int) -> Plan:
        return make_plan(
            info.size,
            options.tile_size,
            n_levels=options.levels,
            block_tiles=block_tiles,
            n_workers=n_workers,
            planes=encoding.pixels.planes,
            band=band,
        )

    shared = None if planned_workers is None else planned(block_tiles, planned_workers)
    needs = needs_of(
        info,
        encoding,
        n_workers=wanted,
        block_tiles=block_tiles if shared is None else shared.passes[0].block_tiles,
        band=band,
        in_memory=info.format == "array" and hasattr(source, "prepare") and wanted > 0,
        waiting_tiles=getattr(source, "waiting_tiles", 0),
    )
    memory = plan_memory(needs, options.memory_bytes)
    return Decided(encoding, shared or planned(memory.block_tiles, memory.n_workers), memory)


def _small_block(tile_bytes: int) -> int | None:
    """The block side in tiles for tiles so large (all channels of a multichannel image) that a worker can hold but a
    few, one a level; None for any other, where speed decides.
    """
    return None if tile_bytes <= _LARGE_TILE else 1 if tile_bytes > 4 * _LARGE_TILE else 2


def fillable(source: Any, options: ConvertOptions) -> tuple[Any, dict[CorruptPlace, str]]:
    """The source, with what is corrupt filled if the options say so, and the record of what this process filled."""
    if options.on_corrupt != "fill":
        return source, {}
    from slidewright.sources.pixel_format import resolve_pixels
    from slidewright.sources.wrappers.fill import fill_corrupt

    return fill_corrupt(source, resolve_pixels(replace(options, alpha="keep"), source.info).background)


def temporary_folder(options: ConvertOptions) -> str:
    """Where temporary things go."""
    return os.fspath(options.scratch) if options.scratch is not None else tempfile.gettempdir()


def shared_source(
    stack: contextlib.ExitStack, source: Any, options: ConvertOptions, decided: Decided, *, travels: bool
) -> Any:
    """The source as the engine takes it; where it `travels` to workers, pixels that are only in this process's memory
    are put into shared memory, until `stack` is closed.
    """
    from slidewright.sources.wrappers.adapt import adapted

    taken = adapted(source, decided.encoding.pixels, options)
    prepare = getattr(taken, "prepare", None)
    if prepare is None or not travels:
        return taken
    on_disk = {"on_disk": True} if decided.memory.array_on_disk else {}
    shared = prepare(temporary_folder(options), **on_disk)
    stack.callback(shared.close)
    return shared


def make_run(
    source: Any,
    options: ConvertOptions,
    decided: Decided,
    *,
    partial: str,
    scratch: Scratch | None,
    processes: bool,
    started: float,
    recorder: Recorder | None = None,
    shards: ShardPlan | None = None,
) -> Run:
    """What the engine needs, of a source that is shared already."""
    from slidewright.engine.coordinator import Run
    from slidewright.engine.worker import BlockWork

    memory = decided.memory
    return Run(
        work=BlockWork(decided.plan, decided.encoding, source, scratch),
        layout=_make_layout(source.info, options, decided),
        partial=partial,
        scratch=scratch,
        temporary=temporary_folder(options),
        n_workers=memory.n_workers if processes else 0,
        store_bytes=memory.store_bytes,
        started=started,
        slots_per_worker=memory.slots_per_worker,
        memory_guard=memory.guard_bytes,
        timeout=options.timeout,
        recorder=recorder,
        shards=shards,
    )


def _make_layout(info: Any, options: ConvertOptions, decided: Decided) -> Layout:
    """What the file will say besides its pixels."""
    from slidewright.formats.tiff import Layout

    return Layout(
        plan=decided.plan,
        encoding=decided.encoding,
        bigtiff=options.bigtiff,
        mpp=options.mpp_xy or info.mpp,
        description=options.description if options.description is not None else kept_description(info.description),
        icc_profile=info.icc_profile,
        software=f"slidewright {__version__}",
    )


def execute(run: Run, launcher: Any, callback: Callable[[Progress], None] | None) -> Outcome:
    """Run the engine, with worker processes or, where there is no launcher, without."""
    from slidewright.engine.coordinator import Coordinator
    from slidewright.engine.inline import execute_inline

    return execute_inline(run, callback) if launcher is None else Coordinator(run, launcher, callback).execute()


class Conversion:
    """One conversion: decides, makes the temporary things, runs, verifies, commits; removes them whatever happens.

    The launcher stays with who made it, who may use it for another conversion; but one whose run failed may have
    children that still write, so it is closed before their files are removed.
    """

    def __init__(
        self,
        source: Any,
        dest: str | os.PathLike[str],
        options: ConvertOptions,
        source_path: str | None,
        started: float,
        decided: Decided | None = None,
    ) -> None:
        self.source, self._filled = fillable(source, options)
        self._options = options
        self._started = started
        self._stack = contextlib.ExitStack()
        self._committed = False
        self.decided = decided or decide(self.source, options)
        self._warnings = list(self.decided.memory.warnings)
        self._destination = Destination(dest, overwrite=options.overwrite, source=source_path)
        self._stack.callback(self._destination.close)

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def change(self, source: Any, options: ConvertOptions) -> None:
        """Another source and options for the same destination, before anything has been prepared."""
        self.source, self._options = source, options
        self.decided = decide(source, options)

    def run(
        self,
        launcher: Any,
        callback: Callable[[Progress], None] | None,
        recorder: Recorder | None = None,
        shards: ShardPlan | None = None,
        before_commit: Callable[[str], None] | None = None,
    ) -> Report:
        """Do it all; the report of a finished file. `shards` are found and made on the way; `before_commit` is called
        with the path of the checked file before it gets its name.
        """
        run = self.prepare(launcher, recorder, shards)
        return self.finish(execute(run, launcher, callback), run, callback, before_commit)

    def prepare(self, launcher: Any, recorder: Recorder | None = None, shards: ShardPlan | None = None) -> Run:
        """Make the temporary things; what the engine needs."""
        self._check_space(shards)
        own: Callable[[str], None] = launcher.own if launcher is not None else _ignore
        for path in self._destination.temporary:
            own(path)
        self._destination.claim()
        scratch = shards.scratch if shards is not None else self._make_scratch(own)
        if launcher is not None:
            self._stack.callback(self._end_children, launcher)
        travels = launcher is not None and (shards is None or bool(shards.to_make))
        source = shared_source(self._stack, self.source, self._options, self.decided, travels=travels)
        if shards is not None:
            shards = replace(shards, corrupt=dict(self._filled))
        return make_run(
            source,
            self._options,
            self.decided,
            partial=self._destination.partial,
            scratch=scratch,
            processes=launcher is not None,
            started=self._started,
            recorder=recorder,
            shards=shards,
        )

    def finish(
        self,
        outcome: Outcome,
        run: Run,
        callback: Callable[[Progress], None] | None,
        before_commit: Callable[[str], None] | None = None,
    ) -> Report:
        """Check the file and give it its name; the report."""
        begin = monotonic()
        self._check(callback)
        if before_commit is not None:
            before_commit(self._destination.partial)
        self._destination.commit()
        self._committed = True
        outcome.seconds["finish"] = monotonic() - begin
        report = self._report(outcome, run)
        if callback is not None:
            callback(_finished(report, run.layout.plan, outcome.retries))
        return report

    def _check_space(self, shards: ShardPlan | None) -> None:
        from slidewright.engine.disk_budget import check_space, estimate

        plan, encoding, memory = self.decided.plan, self.decided.encoding, self.decided.memory
        need = estimate(plan, encoding, memory.store_bytes)
        if shards is not None:
            need = need.with_shards(shards.part_to_make)
        folder = str(self._destination.path.parent)
        self._warnings += check_space(need, folder, temporary_folder(self._options))

    def _make_scratch(self, own: Callable[[str], None]) -> Scratch | None:
        """The stores of reduced levels in a folder of their own, where the plan has any."""
        from slidewright.pyramid.level_store import Scratch, ScratchFolder

        if len(self.decided.plan.passes) == 1:
            return None
        folder = ScratchFolder(self._options.scratch, announce=own)
        self._stack.callback(folder.remove)
        sparse = getattr(self.source, "sparse", False)
        return Scratch(folder.path, self.decided.plan, self.decided.encoding.pixels, sparse=sparse, single=True)

    def _end_children(self, launcher: Any) -> None:
        if not self._committed:
            launcher.close()

    def _check(self, callback: Callable[[Progress], None] | None) -> None:
        """Look at the partial file as a reader would, before it gets its name."""
        from slidewright.inspection.verify import check_structure, verify_file

        partial = self._destination.partial
        try:
            check_structure(partial, [level.size for level in self.decided.plan.levels])
            if self._options.verify:
                verify_file(partial, n_workers=self._options.n_workers or None)
        except OSError as error:
            raise OutputError(f"can't read {partial!r} back to check it: {error.strerror or error}") from error

    def _report(self, outcome: Outcome, run: Run) -> Report:
        from slidewright.sources.wrappers.fill import describe_corrupt

        plan = self.decided.plan
        before = run.shards.found_corrupt() if run.shards is not None else {}
        corrupt = {**before, **self._filled, **outcome.corrupt}
        return Report(
            destination=str(self._destination.path),
            levels=tuple(
                LevelReport(level.size, plan.planes * level.n_tiles, nbytes)
                for level, nbytes in zip(plan.levels, outcome.level_bytes, strict=True)
            ),
            bytes=self._destination.path.stat().st_size,
            seconds=monotonic() - self._started,
            n_workers=run.n_workers,
            block_tiles=plan.passes[0].block_tiles,
            retries=outcome.retries,
            peak_memory=outcome.peak_memory,
            stages=dict(outcome.seconds),
            warnings=(*self._warnings, *outcome.warnings, *([describe_corrupt(corrupt)] if corrupt else ())),
            corrupt_tiles=len(corrupt),
        )


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


def kept_description(text: str | None) -> str | None:
    """The source's description, wrapped so that no reader takes the output for the source's own format.

    OpenSlide and tiffslide take any file whose description begins with "Aperio" for an Aperio slide, tifffile one
    that ends with OME-XML for an OME-TIFF, and then look for what is not there.
    """
    return None if text is None else f"[description of the source: {text}]"
