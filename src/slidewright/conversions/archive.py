"""Archives: the JPEG tiles of a TIFF as JPEG XL, without loss, and the same file out of them again, byte for byte.

Runs of the same engine as any conversion, whose blocks are a few segments each. An archive gets its name only when its
original has been put together out of it and has the right hash.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Unpack

from slidewright._version import __version__
from slidewright.conversions.opening import make_launcher
from slidewright.conversions.signatures import RestoreOptions, with_options
from slidewright.errors import OptionError
from slidewright.options import DEFAULTS, OPTIONS, ConvertOptions, make_options
from slidewright.report import LevelReport, Progress, ProgressOption, Recorder, Report
from slidewright.selection import Selection
from slidewright.system.files import temporary_folder
from slidewright.system.limits import usable_cpus

if TYPE_CHECKING:
    from slidewright.conversions.destination import Compare
    from slidewright.engine.run import Run
    from slidewright.formats.archive import PieceFile
    from slidewright.sources.base import Source
    from slidewright.system.launcher import Launcher
    from slidewright.tiff.archive import Recipe

Callback = Callable[[Progress], None] | None

_BLOCK = 32  # segments


def archive_opened(
    launcher: Launcher | None,
    path: str | None,
    dest: str | os.PathLike[str],
    selection: Selection,
    options: ConvertOptions,
    callback: Callback,
    started: float,
    recorder: Recorder | None = None,
    compare: Compare = False,
    announce: Callable[[str], None] | None = None,
) -> Report:
    """Archive a TIFF with a launcher that is there already; `compare` and `announce` as for `Conversion`.

    Raises
    ------
    OptionError
        For options that ask for another file than the source's, and a source without JPEG segments.
    """
    from slidewright.conversions.conversion import Conversion, execute
    from slidewright.formats.archive import ArchiveFile, OriginalFile
    from slidewright.sources.jpeg_segments import ArchivedSegments, JpegSegments
    from slidewright.tiff.archive import cut_of, read_recipe
    from slidewright.tiff.directories import is_tiff
    from slidewright.tiff.slide import TiffSlide

    _refuse_others(options, selection)
    if path is None or not is_tiff(path):
        raise OptionError("an archive is made of a TIFF file on a disk, and the source is none: leave archive out")
    path = os.path.abspath(path)
    with TiffSlide(path) as slide:
        cut, chosen = cut_of(slide)
        pages = [each.page for top in slide.directories for each in top.walk()]
        cell = max((pages[number].cell.height * pages[number].cell.width for number in chosen), default=0)
    if not len(cut):
        raise OptionError(f"{path} has no JPEG tiles that JPEG XL could hold; keep it as it is")
    form = ArchiveFile(cut, path, chosen)
    run = _run(JpegSegments(path, cut, cell, slide.seen), form, options, started, recorder)
    made: list[tuple[Recipe, tuple[LevelReport, ...]]] = []

    def prove(partial: str) -> None:
        recipe = read_recipe(partial)
        made.append((recipe, form.levels(partial)))
        back = OriginalFile(recipe.cut, partial, recipe, keep=False)
        proof = _run(ArchivedSegments(partial, recipe), back, options, started)
        execute(replace(proof, output=partial), launcher, None)

    with Conversion(run, dest, options, path, compare, announce) as conversion:
        report = conversion.run(launcher, callback, before_commit=prove)
    ((recipe, levels),) = made
    kept = int((~recipe.recompressed).sum())
    warnings = report.warnings
    if kept:
        warnings += (f"{kept} of {len(cut)} JPEG segments are kept as they are, which no viewer shows in an archive",)
    return replace(
        report,
        levels=levels,
        kept_tiles=0,
        keeping=f"{len(cut) - kept} JPEG segments as JPEG XL, {1 - report.bytes / cut.size:.1%} smaller; restore "
        "gives the file back",
        warnings=warnings,
    )


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What `restore` did."""

    destination: str
    bytes: int
    sha256: str
    """Of the whole file."""
    segments: int
    seconds: float
    n_workers: int
    warnings: tuple[str, ...] = ()


@with_options("restore")
def restore(
    path: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    progress: ProgressOption = False,
    **options: Unpack[RestoreOptions],
) -> RestoreReport:
    """Give back the file that an archive was made of, byte for byte.

    Parameters
    ----------
    path
        What `slidewright.convert` wrote with `archive="jpegxl"`.
    dest
        The file to write. It appears under this name only when it is complete and its hash is the original's.
    progress
        As for `slidewright.convert`.
    **options
        Fields of `ConvertOptions` that change how a run goes.

    Raises
    ------
    SourceError, CorruptTileError, VerifyError
        When it is no archive, or a damaged one.
    SlidewrightError
        As for `slidewright.convert`.
    """
    from slidewright.reporting.progress import make_callback

    started = monotonic()
    checked = make_options(options, "restore")
    with make_launcher(checked) as launcher, make_callback(progress) as callback:
        from slidewright.conversions.conversion import Conversion
        from slidewright.formats.archive import OriginalFile
        from slidewright.sources.jpeg_segments import ArchivedSegments
        from slidewright.tiff.archive import read_recipe

        path = os.path.abspath(os.fspath(path))
        recipe = read_recipe(path)
        run = _run(ArchivedSegments(path, recipe), OriginalFile(recipe.cut, path, recipe), checked, started)
        with Conversion(run, dest, checked, path) as conversion:
            report = conversion.run(launcher, callback)
    return RestoreReport(
        report.destination,
        report.bytes,
        recipe.sha256,
        len(recipe.cut),
        report.seconds,
        report.n_workers,
        report.warnings,
    )


def _refuse_others(options: ConvertOptions, selection: Selection) -> None:
    """Nothing but how the run goes can be asked for: an archive is the whole file."""
    asked = [name for name, option in OPTIONS.items() if option.changes_output and name not in ("archive", "format")]
    wrong = [name for name in asked if getattr(options, name) != DEFAULTS[name]]
    wrong += [name for name in ("resume", "block_tiles") if getattr(options, name)] + list(selection.given)
    wrong += ["engine"] if options.engine != "processes" else []
    if options.format == "ome-zarr":
        raise OptionError("an archive is a TIFF, and the destination is an OME-Zarr: write to a name.tif")
    if wrong:
        raise OptionError(f"an archive is the whole file as it is, so {wrong[0]} has no meaning for it; leave it out")


def _run(
    source: Source, form: PieceFile, options: ConvertOptions, started: float, recorder: Recorder | None = None
) -> Run:
    """A run over segments, in one column of a grid whose unit is a segment."""
    from slidewright.codecs import resolve
    from slidewright.engine.memory_budget import Needs, plan_memory
    from slidewright.engine.run import SegmentRun
    from slidewright.formats.base import ImageDescription
    from slidewright.pyramid.plan import Level, Pass, Plan
    from slidewright.sources.pixel_format import resolve_pixels

    info = source.info
    wanted = options.n_workers if options.n_workers is not None else usable_cpus()
    needs = Needs(wanted, 1, 1, info.size.height, _BLOCK, worker_bytes=info.worker_bytes)
    memory = plan_memory(needs, options.memory_bytes)
    first = Pass(0, 0, 0, _BLOCK, info.size.grid(_BLOCK), None)
    plan = Plan(1, (Level(0, info.size, info.size),), (first,))
    plain = ConvertOptions(compression="jpegxl")
    encoding = replace(resolve(plain, resolve_pixels(plain, info)), tile=1)
    return SegmentRun(
        source=source,
        image=ImageDescription(plan, encoding, None, None, None, f"slidewright {__version__}"),
        format=form,
        memory=memory,
        n_workers=memory.n_workers if wanted else 0,
        threads=1,
        temporary=os.fspath(options.scratch) if options.scratch is not None else temporary_folder(),
        started=started,
        timeout=options.timeout,
        recorder=recorder,
    )
