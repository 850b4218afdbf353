"""convert(): what a caller touches. Puts source, options, destination and engine together, and takes everything down
again.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from slidewright._version import __version__
from slidewright.errors import DestinationError, OptionError, OutputError
from slidewright.options import ConvertOptions
from slidewright.output import Destination
from slidewright.plan import Plan, make_plan
from slidewright.report import LevelReport, Progress, Report
from slidewright.resources import usable_cpus

if TYPE_CHECKING:  # NumPy comes with it, and the nursery must be started first
    from slidewright.codecs import Encoding
    from slidewright.coordinator import Outcome, Run
    from slidewright.memory import MemoryPlan
    from slidewright.recorder import Recorder

_LARGE_TILE = 16 << 20

ProgressOption = bool | Callable[[Progress], None]


def convert(
    source: Any,
    dest: str | os.PathLike[str],
    *,
    page: int | None = None,
    series: int | None = None,
    level_index: int | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
    progress: ProgressOption = False,
    report: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Report:
    """Write an image as a pyramidal, tiled TIFF, on every core.

    Parameters
    ----------
    source
        A path (TIFF, SVS, zarr, .npy, or what OpenSlide reads), a NumPy array of shape (height, width[, samples]), a
        zarr array or group, a PIL image, a map-style dataset of tiles (indexed in the workers), a function of (y, x,
        height, width) that gives an array (called in the workers), or a `slidewright.sources.base.Source`.
    dest
        The file to write. It appears under this name only when it is complete.
    page, series, level_index
        Which image of a file with several: a page of a TIFF, or a series and a level of it; by default the largest.
    shape, dtype
        Of a dataset or a function: (height, width[, samples]) of the image and the dtype of its pixels, where it does
        not say so itself.
    progress
        True shows a bar on a terminal and plain lines elsewhere; a callable gets a `Progress` a few times a second.
    report
        An HTML file to write as well: what was made, and where the time went. One page that needs no other file.
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
        When the source can't be opened, read or decoded (with `on_corrupt="fill"`, tiles that don't decode are painted
        instead, counted in the report and warned of).
    DestinationError
        When the destination exists and `overwrite` is not set, or its folder is missing.
    OutputError, VerifyError, RunError
        When the run failed: a full disk (or one that is too small to begin with), a wrong file, dead processes, too
        little memory. Nothing is left under the final name.
    """
    from slidewright.progress import make_callback

    started = monotonic()
    checked = make_options(options)
    recorder = None if report is None else _prepare_report(report, checked, started)
    with make_launcher(checked) as launcher, make_callback(progress) as callback:
        from slidewright.sources import open_source

        opened = open_source(source, page=page, series=series, level=level_index, shape=shape, dtype=dtype)
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        with Conversion(opened, dest, checked, name, started) as conversion:
            finished = conversion.run(launcher, callback, recorder)
    if report is not None and recorder is not None:
        from slidewright.htmlreport import Subject, write_report

        write_report(Path(report), Subject(finished, recorder, opened.info, checked))
    return finished


def _prepare_report(path: str | os.PathLike[str], options: ConvertOptions, started: float) -> Recorder:
    """What records the run for its report, once it is known that the report can be written."""
    from slidewright.recorder import Recorder

    page = Path(path)
    if not page.parent.is_dir():
        raise DestinationError(
            f"the folder {str(page.parent)!r} of the report does not exist; make it or choose another"
        )
    if page.is_dir() or (page.exists() and not options.overwrite):
        raise DestinationError(f"the report {str(page)!r} exists; choose another name, or allow overwriting")
    return Recorder(started)


def make_options(given: dict[str, Any]) -> ConvertOptions:
    """The options as a validated value; an unknown name is an OptionError that lists the known ones."""
    known = ConvertOptions.__dataclass_fields__
    for name in given:
        if name not in known:
            raise OptionError(f"option {name!r} is not known; known are {', '.join(known)}")
    return ConvertOptions(**given)


@contextlib.contextmanager
def make_launcher(options: ConvertOptions) -> Iterator[Any]:
    """A launcher, started first so that its imports run while the source is opened; None for a run in this process."""
    if options.n_workers == 0:
        yield None
        return
    from slidewright import processes

    launcher = processes.make_launcher()
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


class Conversion:
    """One conversion: decides, makes the temporary things, runs, verifies, commits; removes them whatever happens."""

    def __init__(
        self,
        source: Any,
        dest: str | os.PathLike[str],
        options: ConvertOptions,
        source_path: str | None,
        started: float,
    ) -> None:
        self.source, self._filled = source, dict[Any, str]()
        if options.on_corrupt == "fill":
            from slidewright.sources.filling import fill_corrupt

            self.source, self._filled = fill_corrupt(source)
        self._options = options
        self._started = started
        self._stack = contextlib.ExitStack()
        self.decided = self._decide()
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
        self.decided = self._decide()

    def run(
        self, launcher: Any, callback: Callable[[Progress], None] | None, recorder: Recorder | None = None
    ) -> Report:
        """Do it all; the report of a finished file."""
        from slidewright.coordinator import Coordinator
        from slidewright.inline import execute_inline

        run = self.prepare(launcher, recorder)
        outcome = execute_inline(run, callback) if launcher is None else Coordinator(run, launcher, callback).execute()
        return self.finish(outcome, run, callback)

    def prepare(self, launcher: Any, recorder: Recorder | None = None) -> Run:
        """Make the temporary things; what the engine needs."""
        from slidewright.coordinator import Run
        from slidewright.scratch import Scratch, ScratchFolder
        from slidewright.sources.adapt import adapted
        from slidewright.space import check_space, estimate
        from slidewright.tiff import Layout
        from slidewright.worker import BlockWork

        options, info = self._options, self.source.info
        plan, encoding, memory = self.decided.plan, self.decided.encoding, self.decided.memory
        temporary = os.fspath(options.scratch) if options.scratch is not None else tempfile.gettempdir()
        self._warnings += check_space(
            estimate(plan, encoding, memory.store_bytes), str(self._destination.path.parent), temporary
        )
        scratch = None
        own: Callable[[str], None] = launcher.own if launcher is not None else _ignore
        for path in self._destination.temporary:
            own(path)
        self._destination.claim()
        if len(plan.passes) > 1:
            folder = ScratchFolder(options.scratch, announce=own)
            self._stack.callback(folder.remove)
            sparse = getattr(self.source, "sparse", False)
            scratch = Scratch(folder.path, plan, encoding.pixels, sparse=sparse, single=True)
        layout = Layout(
            plan=plan,
            encoding=encoding,
            bigtiff=options.bigtiff,
            mpp=options.mpp_xy or info.mpp,
            description=options.description if options.description is not None else kept_description(info.description),
            icc_profile=info.icc_profile,
            software=f"slidewright {__version__}",
        )
        source = adapted(self.source, encoding.pixels, options)
        if launcher is not None:
            self._stack.callback(launcher.close)  # before the files are removed that its children write
            source = self._share(source, temporary)
        work = BlockWork(plan, encoding, source, scratch)
        return Run(
            work,
            layout,
            self._destination.partial,
            scratch,
            temporary,
            memory.n_workers if launcher is not None else 0,
            memory.store_bytes,
            self._started,
            memory.slots_per_worker,
            memory.guard_bytes,
            options.timeout,
            recorder,
        )

    def finish(self, outcome: Outcome, run: Run, callback: Callable[[Progress], None] | None) -> Report:
        """Check the file and give it its name; the report."""
        begin = monotonic()
        self._check(callback)
        self._destination.commit()
        outcome.seconds["finish"] = monotonic() - begin
        report = self._report(outcome, run.n_workers)
        if callback is not None:
            callback(_finished(report, run.layout.plan, outcome.retries))
        return report

    def _decide(self) -> Decided:
        from slidewright.codecs import resolve
        from slidewright.kinds import resolve_pixels
        from slidewright.memory import needs_of, plan_memory

        options, info = self._options, self.source.info
        encoding = resolve(options, resolve_pixels(options, info))
        wanted = options.n_workers if options.n_workers is not None else usable_cpus()
        in_memory = info.format == "array" and hasattr(self.source, "prepare") and wanted > 0
        band = 1 if info.planar else encoding.pixels.planes
        block_tiles = options.block_tiles or _small_block(band * encoding.tile_bytes)
        needs = needs_of(info, encoding, n_workers=wanted, block_tiles=block_tiles, band=band, in_memory=in_memory)
        memory = plan_memory(needs, options.memory_bytes)
        plan = make_plan(
            info.size,
            options.tile_size,
            n_levels=options.levels,
            block_tiles=memory.block_tiles,
            n_workers=memory.n_workers,
            planes=encoding.pixels.planes,
            band=band,
        )
        return Decided(encoding, plan, memory)

    def _share(self, source: Any, temporary: str) -> Any:
        """The source as the workers can open it: pixels that are only in this process's memory are put into shared
        memory.
        """
        prepare = getattr(source, "prepare", None)
        if prepare is None:
            return source
        on_disk = {"on_disk": True} if self.decided.memory.array_on_disk else {}
        shared = prepare(temporary, **on_disk)
        self._stack.callback(shared.close)
        return shared

    def _check(self, callback: Callable[[Progress], None] | None) -> None:
        """Look at the partial file as a reader would, before it gets its name."""
        from slidewright.verify import check_structure, verify_file

        partial = self._destination.partial
        try:
            check_structure(partial, [level.size for level in self.decided.plan.levels])
            if self._options.verify:
                verify_file(partial, n_workers=self._options.n_workers or None)
        except OSError as error:
            raise OutputError(f"can't read {partial!r} back to check it: {error.strerror or error}") from error

    def _report(self, outcome: Outcome, n_workers: int) -> Report:
        from slidewright.sources.filling import describe_corrupt

        plan = self.decided.plan
        corrupt = {**self._filled, **outcome.corrupt}
        return Report(
            destination=str(self._destination.path),
            levels=tuple(
                LevelReport(level.size, plan.planes * level.n_tiles, nbytes)
                for level, nbytes in zip(plan.levels, outcome.level_bytes, strict=True)
            ),
            bytes=self._destination.path.stat().st_size,
            seconds=monotonic() - self._started,
            n_workers=n_workers,
            block_tiles=plan.passes[0].block_tiles,
            retries=outcome.retries,
            peak_memory=outcome.peak_memory,
            stages=dict(outcome.seconds),
            warnings=(*self._warnings, *outcome.warnings, *([describe_corrupt(corrupt)] if corrupt else ())),
            corrupt_tiles=len(corrupt),
        )


def _small_block(tile_bytes: int) -> int | None:
    """The block side in tiles for tiles so large (all channels of a multichannel image) that a worker can hold but a
    few, one a level; None for any other, where speed decides.
    """
    return None if tile_bytes <= _LARGE_TILE else 1 if tile_bytes > 4 * _LARGE_TILE else 2


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
