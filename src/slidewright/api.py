"""convert(): what a caller touches. Puts source, options, destination and engine together, and takes everything down
again.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

from slidewright._version import __version__
from slidewright.errors import OptionError
from slidewright.options import ConvertOptions
from slidewright.output import Destination
from slidewright.plan import Plan, make_plan
from slidewright.report import LevelReport, Progress, Report
from slidewright.resources import MemoryPlan, plan_memory, usable_cpus

if TYPE_CHECKING:  # NumPy comes with it, and the nursery must be started first
    from slidewright.codecs import Encoding
    from slidewright.shelf import ShardPlan

ProgressOption = bool | Callable[[Progress], None]


def convert(
    source: Any,
    dest: str | os.PathLike[str],
    *,
    page: int | None = None,
    series: int | None = None,
    level_index: int | None = None,
    progress: ProgressOption = False,
    **options: Any,
) -> Report:
    """Write an image as a pyramidal, tiled TIFF, on every core.

    Parameters
    ----------
    source
        A path (TIFF, SVS, zarr, .npy, or what OpenSlide reads), a NumPy array of shape (height, width[, 1 or 3]), a
        zarr array or group, or a `slidewright.sources.base.Source`. Pixels are uint8 (grey or RGB) or uint16 (grey).
    dest
        The file to write. It appears under this name only when it is complete.
    page, series, level_index
        Which image of a file with several: a page of a TIFF, or a series and a level of it; by default the largest.
    progress
        True shows a bar on a terminal and plain lines elsewhere; a callable gets a `Progress` a few times a second.
    **options
        The fields of `ConvertOptions`, such as `compression="deflate"` or `n_workers=4`.

    Returns
    -------
    Report
        Levels, bytes, seconds by stage, retries and peak memory.

    Raises
    ------
    OptionError
        For an unknown option or a value that can't be used; nothing has been written then.
    SourceError, CorruptTileError
        When the source can't be opened, read or decoded.
    DestinationError
        When the destination exists and `overwrite` is not set, or its folder is missing.
    OutputError, VerifyError, RunError
        When the run failed: a full disk, a wrong file, dead processes. Nothing is left under the final name.
    """
    from slidewright.progress import make_callback

    started = monotonic()
    checked = check_options(options)
    chosen = {"page": page, "series": series, "level_index": level_index}
    with start_launcher(checked) as launcher, make_callback(progress) as callback:
        return convert_with(launcher, source, dest, chosen, checked, callback, started)


def convert_with(
    launcher: Any,
    source: Any,
    dest: str | os.PathLike[str],
    chosen: dict[str, int | None],
    options: ConvertOptions,
    callback: Callable[[Progress], None] | None,
    started: float,
) -> Report:
    """Convert with a launcher that is there already; `chosen` has page, series and level_index."""
    opened, path = open_chosen(source, chosen)
    if options.resume or options.engine == "dask":
        from slidewright.resume import convert_resumably

        return convert_resumably(launcher, opened, path, dest, chosen, options, callback, started)
    with Conversion(opened, dest, options, path, started) as conversion:
        return conversion.run(launcher, callback)


def open_chosen(source: Any, chosen: dict[str, int | None]) -> tuple[Any, str | None]:
    """Open what was given, with the page, series and level that were chosen; also its path, where it is one."""
    from slidewright.sources import open_source

    opened = open_source(source, page=chosen["page"], series=chosen["series"], level=chosen["level_index"])
    return opened, os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def check_options(given: dict[str, Any]) -> ConvertOptions:
    """The options as a validated value; an unknown name is an OptionError that lists the known ones."""
    known = ConvertOptions.__dataclass_fields__
    for name in given:
        if name not in known:
            raise OptionError(f"option {name!r} is not known; known are {', '.join(known)}")
    return ConvertOptions(**given)


@contextlib.contextmanager
def start_launcher(options: ConvertOptions) -> Iterator[Any]:
    """A launcher, started first so that its imports run while the source is opened; None for a run in this process."""
    if options.n_workers == 0:
        yield None
        return
    from slidewright.processes import make_launcher

    launcher = make_launcher()
    try:
        yield launcher
    finally:
        launcher.close()


@dataclass(frozen=True, slots=True)
class Decided:
    """What a run will be, before anything is written."""

    encoding: Encoding
    plan: Plan
    memory: MemoryPlan


def decide(info: Any, options: ConvertOptions, planned_workers: int | None = None) -> Decided:
    """Settle encoding, workers and plan; `planned_workers` is what blocks are balanced for, by default the workers."""
    from slidewright.codecs import resolve

    encoding = resolve(options, info.dtype, info.samples)
    wanted = options.n_workers if options.n_workers is not None else usable_cpus()
    memory = plan_memory(max(1, wanted), encoding.tile_bytes, options.memory_bytes)
    plan = make_plan(
        info.size,
        options.tile_size,
        n_levels=options.levels,
        block_tiles=options.block_tiles,
        n_workers=planned_workers or memory.n_workers,
    )
    return Decided(encoding, plan, memory)


def make_layout(decided: Decided, options: ConvertOptions, info: Any) -> Any:
    """What the file will say besides its pixels."""
    from slidewright.tiff import Layout

    return Layout(
        plan=decided.plan,
        encoding=decided.encoding,
        bigtiff=options.bigtiff,
        mpp=options.mpp_xy or info.mpp,
        description=options.description if options.description is not None else kept_description(info.description),
        icc_profile=info.icc_profile,
        software=f"slidewright {__version__}",
    )


def execute(
    stack: contextlib.ExitStack,
    launcher: Any,
    source: Any,
    options: ConvertOptions,
    decided: Decided,
    scratch: Any,
    partial: str,
    started: float,
    callback: Callable[[Progress], None] | None,
    shards: ShardPlan | None = None,
) -> Any:
    """Run what was decided, with worker processes or without; the `Outcome`. What it opens is closed by `stack`."""
    from slidewright.coordinator import Coordinator, Run
    from slidewright.inline import execute_inline
    from slidewright.worker import BlockWork

    temporary = os.fspath(options.scratch) if options.scratch is not None else tempfile.gettempdir()
    if launcher is not None and (shards is None or shards.to_make):
        source = _share(stack, source, temporary)
    run = Run(
        BlockWork(decided.plan, decided.encoding, options.resampling, source, scratch),
        make_layout(decided, options, source.info),
        partial,
        scratch,
        temporary,
        decided.memory.n_workers if launcher is not None else 0,
        decided.memory.store_bytes,
        started,
        shards,
    )
    if launcher is None:
        return execute_inline(run, callback)
    return Coordinator(run, launcher, callback).execute()


def _share(stack: contextlib.ExitStack, source: Any, temporary: str) -> Any:
    """The source as the workers can open it: pixels that are only in this process's memory go into shared memory."""
    prepare = getattr(source, "prepare", None)
    if prepare is None:
        return source
    shared = prepare(temporary)
    stack.callback(shared.close)
    return shared


class Conversion:
    """One conversion: decides, makes the temporary things, runs, verifies, commits; removes them whatever happens."""

    def __init__(
        self,
        source: Any,
        dest: str | os.PathLike[str],
        options: ConvertOptions,
        source_path: str | None,
        started: float,
        decided: Decided | None = None,
    ) -> None:
        self._source = source
        self._options = options
        self._started = started
        self._stack = contextlib.ExitStack()
        self._decided = decided or decide(source.info, options)
        self._destination = Destination(dest, overwrite=options.overwrite, source=source_path)
        self._stack.callback(self._destination.close)

    def __enter__(self) -> Conversion:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self,
        launcher: Any,
        callback: Callable[[Progress], None] | None,
        shards: ShardPlan | None = None,
        before_commit: Callable[[str], None] | None = None,
    ) -> Report:
        """Do it all; the report of a finished file. `shards` are found and made on the way."""
        plan = self._decided.plan
        owned = list(self._destination.temporary)
        scratch = shards.scratch if shards is not None else self._make_scratch(owned)
        if launcher is not None:
            launcher.own(*owned)
        outcome = execute(
            self._stack,
            launcher,
            self._source,
            self._options,
            self._decided,
            scratch,
            self._destination.partial,
            self._started,
            callback,
            shards,
        )
        begin = monotonic()
        self._check(callback)
        if before_commit is not None:
            before_commit(self._destination.partial)
        self._destination.commit()
        outcome.seconds["finish"] = monotonic() - begin
        report = self._report(outcome, self._decided.memory.n_workers if launcher is not None else 0)
        if callback is not None:
            callback(_finished(report, plan, outcome.retries))
        return report

    def _make_scratch(self, owned: list[str]) -> Any:
        """The stores of reduced levels in a folder of their own, where the plan has any."""
        from slidewright.scratch import Scratch, ScratchFolder

        if len(self._decided.plan.passes) == 1:
            return None
        folder = ScratchFolder(self._options.scratch)
        self._stack.callback(folder.remove)
        owned.append(folder.path)
        encoding = self._decided.encoding
        return Scratch(folder.path, self._decided.plan, encoding.dtype, encoding.samples)

    def _check(self, callback: Callable[[Progress], None] | None) -> None:
        """Look at the partial file as a reader would, before it gets its name."""
        from slidewright.verify import check_structure, verify_file

        check_structure(self._destination.partial, [level.size for level in self._decided.plan.levels])
        if self._options.verify:
            verify_file(self._destination.partial, n_workers=self._options.n_workers or None)

    def _report(self, outcome: Any, n_workers: int) -> Report:
        plan = self._decided.plan
        return Report(
            destination=str(self._destination.path),
            levels=tuple(
                LevelReport(level.size, level.n_tiles, nbytes)
                for level, nbytes in zip(plan.levels, outcome.level_bytes, strict=True)
            ),
            bytes=self._destination.path.stat().st_size,
            seconds=monotonic() - self._started,
            n_workers=n_workers,
            block_tiles=plan.passes[0].block_tiles,
            retries=outcome.retries,
            peak_memory=outcome.peak_memory,
            stages=dict(outcome.seconds),
            warnings=self._decided.memory.warnings,
        )


def _finished(report: Report, plan: Plan, retries: int) -> Progress:
    size = plan.levels[0].size
    pixels = size.height * size.width
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
