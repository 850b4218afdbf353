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
from slidewright.errors import DestinationError, OptionError
from slidewright.options import ConvertOptions
from slidewright.output import Destination
from slidewright.plan import Plan, make_plan
from slidewright.report import LevelReport, Progress, Report
from slidewright.resources import MemoryPlan, plan_memory, usable_cpus

if TYPE_CHECKING:  # NumPy comes with it, and the nursery must be started first
    from slidewright.codecs import Encoding
    from slidewright.recorder import Recorder

ProgressOption = bool | Callable[[Progress], None]


def convert(
    source: Any,
    dest: str | os.PathLike[str],
    *,
    page: int | None = None,
    series: int | None = None,
    level_index: int | None = None,
    progress: ProgressOption = False,
    report: str | os.PathLike[str] | None = None,
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
        When the source can't be opened, read or decoded.
    DestinationError
        When the destination exists and `overwrite` is not set, or its folder is missing.
    OutputError, VerifyError, RunError
        When the run failed: a full disk, a wrong file, dead processes. Nothing is left under the final name.
    """
    from slidewright.progress import make_callback

    started = monotonic()
    checked = _options(options)
    recorder = None if report is None else _prepare_report(report, checked, started)
    with _launcher(checked) as launcher, make_callback(progress) as callback:
        from slidewright.sources import open_source

        opened = open_source(source, page=page, series=series, level=level_index)
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        with _Conversion(opened, dest, checked, name, started) as conversion:
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


def _options(given: dict[str, Any]) -> ConvertOptions:
    """The options as a validated value; an unknown name is an OptionError that lists the known ones."""
    known = ConvertOptions.__dataclass_fields__
    for name in given:
        if name not in known:
            raise OptionError(f"option {name!r} is not known; known are {', '.join(known)}")
    return ConvertOptions(**given)


@contextlib.contextmanager
def _launcher(options: ConvertOptions) -> Iterator[Any]:
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
class _Decided:
    """What a run will be, before anything is written."""

    encoding: Encoding
    plan: Plan
    memory: MemoryPlan


class _Conversion:
    """One conversion: decides, makes the temporary things, runs, verifies, commits; removes them whatever happens."""

    def __init__(
        self,
        source: Any,
        dest: str | os.PathLike[str],
        options: ConvertOptions,
        source_path: str | None,
        started: float,
    ) -> None:
        self._source = source
        self._options = options
        self._started = started
        self._stack = contextlib.ExitStack()
        self._decided = self._decide()
        self._destination = Destination(dest, overwrite=options.overwrite, source=source_path)
        self._stack.callback(self._destination.close)

    def __enter__(self) -> _Conversion:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(
        self, launcher: Any, callback: Callable[[Progress], None] | None, recorder: Recorder | None = None
    ) -> Report:
        """Do it all; the report of a finished file."""
        from slidewright.coordinator import Coordinator, Run
        from slidewright.inline import execute_inline
        from slidewright.scratch import Scratch, ScratchFolder
        from slidewright.tiff import Layout
        from slidewright.worker import BlockWork

        options, info = self._options, self._source.info
        plan, encoding, memory = self._decided.plan, self._decided.encoding, self._decided.memory
        scratch = None
        owned = list(self._destination.temporary)
        if len(plan.passes) > 1:
            folder = ScratchFolder(options.scratch)
            self._stack.callback(folder.remove)
            owned.append(folder.path)
            scratch = Scratch(folder.path, plan, encoding.dtype, encoding.samples)
        if launcher is not None:
            launcher.own(*owned)
        layout = Layout(
            plan=plan,
            encoding=encoding,
            bigtiff=options.bigtiff,
            mpp=options.mpp_xy or info.mpp,
            description=options.description if options.description is not None else kept_description(info.description),
            icc_profile=info.icc_profile,
            software=f"slidewright {__version__}",
        )
        temporary = os.fspath(options.scratch) if options.scratch is not None else tempfile.gettempdir()
        source = self._share(temporary) if launcher is not None else self._source
        work = BlockWork(plan, encoding, options.resampling, source, scratch)
        run = Run(
            work,
            layout,
            self._destination.partial,
            scratch,
            temporary,
            memory.n_workers if launcher is not None else 0,
            memory.store_bytes,
            self._started,
            recorder,
        )
        if launcher is None:
            outcome = execute_inline(run, callback)
        else:
            coordinator = Coordinator(run, launcher, callback)
            outcome = coordinator.execute()
        begin = monotonic()
        self._check(callback)
        self._destination.commit()
        outcome.seconds["finish"] = monotonic() - begin
        report = self._report(outcome, run.n_workers)
        if callback is not None:
            callback(_finished(report, plan, outcome.retries))
        return report

    def _decide(self) -> _Decided:
        from slidewright.codecs import resolve

        options, info = self._options, self._source.info
        encoding = resolve(options, info.dtype, info.samples)
        wanted = options.n_workers if options.n_workers is not None else usable_cpus()
        memory = plan_memory(max(1, wanted), encoding.tile_bytes, options.memory_bytes)
        plan = make_plan(
            info.size,
            options.tile_size,
            n_levels=options.levels,
            block_tiles=options.block_tiles,
            n_workers=memory.n_workers,
        )
        return _Decided(encoding, plan, memory)

    def _share(self, temporary: str) -> Any:
        """The source as the workers can open it: pixels that are only in this process's memory are put into shared
        memory.
        """
        prepare = getattr(self._source, "prepare", None)
        if prepare is None:
            return self._source
        shared = prepare(temporary)
        self._stack.callback(shared.close)
        return shared

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
