"""Is a written pyramid what it should be: its structure, its segment tables, its tiles, its pixels against the source.

It reads the file as a stranger would, through tifffile, and shares no code with the writer.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from slidewright.errors import OptionError, VerifyError
from slidewright.geometry import Size, halvings
from slidewright.inspection.decode import Decode, decode_page
from slidewright.inspection.own_tiff import check_own, check_xml
from slidewright.inspection.pyramid_file import PyramidFile, open_pyramid
from slidewright.options import Color
from slidewright.system.limits import usable_cpus
from slidewright.tiff.page import Page, TiledImage
from slidewright.tiff.segments import MAX_SEGMENT_BYTES
from slidewright.tiff.slide import TiffSlide


@dataclass(frozen=True, slots=True)
class LevelCheck:
    """What was found of one level."""

    size: Size
    tile: Size
    tiles: int
    compression: str
    bytes: int
    decoded: int
    """Tiles that were decoded."""
    exact: bool | None = None
    """Whether every pixel equals the oracle; None without a source to compare with."""
    psnr: float | None = None
    """Peak signal-to-noise ratio against the oracle in dB (infinite when exact); None without a source."""
    worst_psnr: float | None = None
    """The PSNR of the worst tile."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a successful verification found; a failed one raises VerifyError."""

    path: str
    bytes: int
    levels: tuple[LevelCheck, ...]
    others: int
    """Images beside the levels (label, macro, thumbnail)."""
    decoded: int
    """Segments that were decoded, over all images."""
    against: str | None
    seconds: float
    warnings: tuple[str, ...] = ()


def verify_file(
    path: str | os.PathLike[str],
    *,
    against: Any = None,
    resampling: str | None = None,
    n_workers: int | None = None,
    decode: Decode = "all",
    min_psnr: float | None = None,
    background: Color | int | float | None = None,
) -> VerifyReport:
    """Check a pyramidal TIFF or an OME-Zarr image; of an archive also that its original comes out of it.

    In an OME-Zarr of slidewright a chunk that is not there is background. Where the chunks are lossless, and the level
    above shows something else in its place, it has been lost.

    Parameters
    ----------
    path
        The file, or the folder.
    against
        A source (anything `slidewright.open_source` takes) that level 0 must equal, exactly for lossless compression;
        each further level must equal the one below it, reduced, unencoded.
    resampling
        How the levels were reduced, one of `options.RESAMPLINGS`; default "mean", and "nearest" for files with a
        palette, of single bits or noted as labels or masks, and for such sources.
    n_workers
        Threads that decode; default as many as this process may use.
    decode
        "all" decodes every segment (always done for the levels with `against`), "sample" the first, middle and last of
        each image, "none" reads the tables only.
    min_psnr
        The least PSNR in dB that each level of a lossy file must reach against the source; default none.
    background
        What the source's alpha was composed on, as `convert` takes it; default white, or the source's own.

    Raises
    ------
    VerifyError
        At the first thing that is wrong; the message names the level and the tile.
    SourceError
        When the file can't be read or is not a TIFF.
    """
    for name, given in (("min_psnr", min_psnr), ("background", background)):
        if given is not None and against is None:
            raise OptionError(f"{name} needs a source to compare with; give against")
    if min_psnr is not None and math.isnan(min_psnr):
        raise OptionError("min_psnr nan is no number of decibels; give one such as 30")
    started = time.perf_counter()
    threads = max(1, usable_cpus() if n_workers is None else n_workers)
    with open_pyramid(path) as slide:
        own = slide if slide.ours and isinstance(slide, TiffSlide) else None
        if own is not None:
            check_xml(own)
        warnings = check_tables(slide, strict=slide.ours, kept=slide.kept)
        decoded = {page.name: 0 for page in slide.levels}
        if own is not None:
            check_own(own)
        if slide.ours and not isinstance(slide, TiffSlide):
            slide.check_opens()
        kept = _check_archive(slide, threads) if decode == "all" and isinstance(slide, TiffSlide) else []
        for page in slide.others if against is not None else slide.pages:
            decoded[page.name], cut = decode_page(slide, page, decode, threads, kept)
            if cut:
                warnings.append(f"{page.name}: {cut} tiles at the edge are stored smaller; some readers skip them")
        if kept:
            warnings.append(f"{len(kept)} segments are in the archive as they were; readers do not show them")
        if decode == "all" and against is None and not isinstance(slide, TiffSlide):
            slide.check_gaps()
        checks = {}
        if against is not None:
            from slidewright.inspection.compare import compare_levels

            checks = compare_levels(slide, against, resampling, background, threads)
            decoded |= {page.name: int(np.count_nonzero(page.counts)) for pages in slide.planes for page in pages}
        levels = tuple(
            LevelCheck(
                pages[0].size,
                pages[0].cell,
                sum(page.n_segments for page in pages),
                pages[0].compression,
                sum(page.bytes for page in pages),
                sum(decoded[page.name] for page in pages),
                *checks.get(number, ()),
            )
            for number, pages in enumerate(slide.planes)
        )
        _check_psnr(slide.path, levels, min_psnr)
        return VerifyReport(
            path=slide.path,
            bytes=slide.bytes,
            levels=levels,
            others=len(slide.others),
            decoded=sum(decoded.values()),
            against=None if against is None else _name_of(against),
            seconds=time.perf_counter() - started,
            warnings=tuple(warnings),
        )


def _check_archive(slide: TiffSlide, threads: int) -> list[int]:
    """Raise a VerifyError for an archive whose original does not come out of it; the answer is where segments are that
    were not recompressed.
    """
    from slidewright.inspection.original import check_original  # only here: no conversion needs either
    from slidewright.tiff.archive import is_archive

    return check_original(slide.path, threads) if is_archive(slide) else []


def check_structure(
    path: str | os.PathLike[str], expected: Sequence[Size] | None = None, *, kept: int = 0
) -> None:
    """Check a freshly written file cheaply: every table, the level sizes, and a fixed sample of tiles.

    Parameters
    ----------
    path
        The file, which may still have its temporary name.
    expected
        The sizes that the levels must have; None accepts any floor-halving pyramid.
    kept
        How many levels, from level 0 on, have the tiles of their source, of which some may be left out or not decode.

    Raises
    ------
    VerifyError
        At the first thing that is wrong.
    """
    with open_pyramid(path) as slide:
        sizes = [page.size for page in slide.levels]
        if expected is not None and sizes != [Size(*size) for size in expected]:
            raise VerifyError(
                f"{slide.path}: the levels are {', '.join(map(str, sizes))}; expected "
                f"{', '.join(str(Size(*size)) for size in expected)}"
            )
        check_tables(slide, strict=True, kept=kept)
        for page in slide.pages:
            if _is_kept(page, kept):
                continue  # what is another encoder's, and may be damaged, is not judged here
            decode_page(slide, page, "sample", 1)


def check_tables(slide: PyramidFile, *, strict: bool, kept: int = 0) -> list[str]:
    """Check everything that needs no pixel: levels, tables, where segments lie.

    Not `strict`, which is for files of other writers, tolerates what readers do: sizes rounded up, shared and left-out
    tiles; so many levels that are `kept` may leave tiles out. The answer is a list of warnings about them.
    """
    warnings: list[str] = []
    for page in slide.levels:
        if not page.tiled:
            raise VerifyError(
                f"{slide.path}: {page.name} is stored in strips, not in tiles; convert it with slidewright"
            )
    _check_sizes(slide, strict, warnings)
    if not isinstance(slide, TiffSlide):
        slide.check()
        return warnings
    for page in slide.pages:
        gaps = not strict or _is_kept(page, kept)
        _check_lengths(slide, page, strict, warnings, gaps=gaps)
    _check_ranges(slide, strict, warnings)
    return warnings


def _is_kept(page: TiledImage, levels: int) -> bool:
    """Whether a page is of one of the first levels."""
    return any(page.name.partition(",")[0] == f"level {level}" for level in range(levels))


def _check_sizes(slide: PyramidFile, strict: bool, warnings: list[str]) -> None:
    """Each level is the first one, halved a whole number of times and rounded down, in all of its planes."""
    for pages in slide.planes:
        for page in pages:
            if page.size != pages[0].size:
                raise VerifyError(f"{slide.path}: {page.name} is {page.size}, and {pages[0].name} is {pages[0].size}")
    first, times = slide.levels[0], 0
    for page in slide.levels[1:]:
        before, times = times, halvings(first.size, page.size)
        if times <= before and not (times == before and page.size == first.size.halved(before + 1)):
            raise VerifyError(f"{slide.path}: {page.name} is {page.size}, not smaller than the level before it")
        if strict and times > before + 1:
            raise VerifyError(
                f"{slide.path}: {page.name} is {page.size}; the level before it, of {first.size.halved(before + 1)}, "
                "is lost"
            )
        times = max(times, before + 1)
        wanted = first.size.halved(times)
        if page.size == wanted:
            continue
        off = max(abs(page.size.height - wanted.height), abs(page.size.width - wanted.width))
        message = f"{page.name} is {page.size}; halving {first.size} {times} times gives {wanted}"
        if strict or off > 1 + (max(wanted) >> 6):
            raise VerifyError(f"{slide.path}: {message}")
        warnings.append(message)


def _check_lengths(slide: TiffSlide, page: Page, strict: bool, warnings: list[str], *, gaps: bool) -> None:
    """Both tables of a page have an entry for each segment, and a segment is of a size that can be decoded."""
    if not len(page.offsets) == len(page.counts) == page.n_segments:
        raise VerifyError(
            f"{slide.path}: {page.name} of {page.size} needs {page.n_segments} segments, but its tables have "
            f"{len(page.offsets)} offsets and {len(page.counts)} byte counts"
        )
    if _segment_bytes(page) > MAX_SEGMENT_BYTES:
        raise VerifyError(
            f"{slide.path}: {page.name} declares segments of {page.cell} pixels, more than verify decodes in memory"
        )
    if page.tiled and (page.cell.height % 16 or page.cell.width % 16):
        message = f"{page.name}: tiles of {page.cell} are not multiples of 16 (TIFF 6.0, section 15)"
        if strict:
            raise VerifyError(f"{slide.path}: {message}")
        warnings.append(message)
    missing = np.flatnonzero(page.counts == 0)
    if missing.size and not gaps:
        raise VerifyError(f"{slide.path}: {page.place(int(missing[0]))} is empty (and {missing.size - 1} more)")
    if missing.size:
        warnings.append(f"{page.name}: {missing.size} of {page.n_segments} segments are left out")
    if page.compression == "none" and page.tiled:
        wrong = np.flatnonzero((page.counts != _segment_bytes(page)) & (page.counts != 0))
        if wrong.size:
            index = int(wrong[0])
            raise VerifyError(
                f"{slide.path}: {page.place(index)} has {page.counts[index]} bytes, not {_segment_bytes(page)}"
            )


def _segment_bytes(page: TiledImage) -> int:
    """Decoded bytes of a full segment."""
    samples = page.cell.width * (page.samples // page.planes)
    row = (samples + 7) // 8 if page.bits == 1 else samples * page.dtype.itemsize
    return page.cell.height * row


def _check_ranges(slide: TiffSlide, strict: bool, warnings: list[str]) -> None:
    """Every segment lies inside the file and none over another."""
    pages = slide.pages
    for page in pages:
        outside = np.flatnonzero(
            (page.counts < 0)
            | (page.offsets < 0)
            | ((page.counts > 0) & ((page.offsets < 8) | (page.offsets > slide.bytes - page.counts)))
        )
        if outside.size:
            index = int(outside[0])
            raise VerifyError(
                f"{slide.path}: {page.place(index)} has {page.counts[index]} bytes at byte {page.offsets[index]}, "
                f"outside the file of {slide.bytes} bytes; it is cut short or damaged"
            )
    offsets = np.concatenate([page.offsets for page in pages])
    counts = np.concatenate([page.counts for page in pages])
    used = np.flatnonzero(counts)
    order = used[np.lexsort((counts[used], offsets[used]))]
    starts, ends = offsets[order], offsets[order] + counts[order]
    shared = (starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1])
    over = (starts[1:] < ends[:-1]) & ~(shared & (not strict))
    if over.any():
        at = int(np.flatnonzero(over)[0])
        raise VerifyError(
            f"{slide.path}: {_owner(pages, order[at])} and {_owner(pages, order[at + 1])} overlap "
            f"at byte {starts[at + 1]}"
        )
    if shared.any():
        warnings.append(f"{int(shared.sum())} segments share their bytes with another")


def _owner(pages: Sequence[TiledImage], index: int) -> str:
    """The place of a segment by its number over all pages."""
    for page in pages:
        if index < len(page.offsets):
            break
        index -= len(page.offsets)
    return page.place(int(index))


def _check_psnr(path: str, levels: Sequence[LevelCheck], least: float | None) -> None:
    for number, level in enumerate(levels):
        if least is not None and level.psnr is not None and level.psnr < least:
            raise VerifyError(
                f"{path}: level {number} has a PSNR of {level.psnr:.2f} dB against the source, less than {least:g} dB"
            )


def _name_of(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    info = getattr(source, "info", None)
    return str(getattr(info, "name", type(source).__name__))
