"""What a slide is, without decoding a pixel: format, size, levels, tiles, compression, mpp, associated images."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from slidewright.errors import SlidewrightError, SourceError
from slidewright.geometry import SINGLE, Size, Stack
from slidewright.inspection.pyramid_file import PyramidFile
from slidewright.metadata import Metadata, fields_of
from slidewright.sources.base import SourceInfo
from slidewright.system.files import total_bytes
from slidewright.tiff.archive import is_archive
from slidewright.tiff.directories import is_tiff
from slidewright.tiff.slide import TiffSlide


@dataclass(frozen=True, slots=True)
class LevelInfo:
    """One level of a slide."""

    size: Size
    tile: Size | None
    """Tile, strip or chunk; None where the format does not say."""
    compression: str | None
    bytes: int | None
    """Encoded bytes, or None where only a reader of the format knows."""


@dataclass(frozen=True, slots=True)
class AssociatedInfo:
    """An image beside the levels: label, macro, thumbnail."""

    name: str
    size: Size | None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What `info` found."""

    path: str
    format: str
    bytes: int
    size: Size
    samples: int
    dtype: str
    stack: Stack
    """How many times and planes along z."""
    mpp: tuple[float, float] | None
    """Micrometres a pixel along (x, y)."""
    levels: tuple[LevelInfo, ...]
    associated: tuple[AssociatedInfo, ...]
    icc_bytes: int
    """Bytes of the ICC profile, 0 without one."""
    description: str | None
    software: str | None
    metadata: Metadata
    """What is said of optics, instrument and channels, and the fields that may identify a patient or a person."""
    keeping: str = ""
    """Whether its tiles are those of its own source, and whether a conversion could keep them, in words."""
    left_out: tuple[str, ...] = ()
    """What a conversion that is not told more would not pass on, such as other images of the file, in words."""


def info(path: str | os.PathLike[str]) -> FileInfo:
    """Describe a slide without decoding a pixel: a TIFF from its directories, anything else as its source sees it.

    Parameters
    ----------
    path
        Of a file or zarr store that `slidewright.convert` reads, or of any TIFF.

    Returns
    -------
    FileInfo
        Format, bytes, size, samples, dtype, mpp, levels, associated images, description.

    Raises
    ------
    SourceError
        When there is no such file or nothing here reads it.
    VerifyError
        When a TIFF's directories are damaged.
    """
    if is_tiff(path):
        return _describe_tiff(path)
    found = _describe_source(path)
    return _with_chunks(found) if os.path.isdir(path) else found


def _describe_tiff(path: str | os.PathLike[str]) -> FileInfo:
    with TiffSlide(path) as slide:
        first = slide.levels[0]
        source = _source_of(path)
        levels = _levels(slide)
        return FileInfo(
            path=slide.path,
            format=slide.kind,
            bytes=slide.bytes,
            size=first.size,
            samples=source.samples if source is not None and len(slide.planes[0]) > 1 else first.samples,
            dtype="bool" if first.bits == 1 else first.dtype.name,
            stack=SINGLE if source is None else source.stack,
            mpp=(source.mpp if source is not None else None) or slide.mpp(first, slide.default_series),
            levels=levels,
            associated=tuple(AssociatedInfo(page.name, page.size) for page in slide.others),
            icc_bytes=len(slide.icc_profile or b""),
            description=slide.description or None,
            software=slide.software or None,
            keeping=_keeping(slide, source),
            left_out=() if source is None else source.left_out,
            metadata=_metadata_of(slide.metadata(first, slide.default_series), source),
        )


def _metadata_of(said: Metadata, source: SourceInfo | None) -> Metadata:
    """What a TIFF's own tags say, or OpenSlide where a conversion reads it by that; what identifies by both."""
    if source is None or source.format in ("tiff", "svs", "ndpi"):
        return said
    both = {**dict(said.identifying), **dict(source.metadata.identifying)}
    return replace(source.metadata, identifying=fields_of(both))


def _with_chunks(found: FileInfo) -> FileInfo:
    """The same with what the files of an OME-Zarr say, where it is of a layout that is known in detail."""
    from slidewright.inspection.zarr_pyramid import ZarrPyramid

    try:
        pyramid = ZarrPyramid(found.path)
    except SlidewrightError:
        return found
    return replace(found, format=pyramid.kind, levels=_levels(pyramid), software=pyramid.software or None)


def _levels(pyramid: PyramidFile) -> tuple[LevelInfo, ...]:
    """The levels, with the bytes of all their images."""
    return tuple(
        LevelInfo(pages[0].size, pages[0].cell, pages[0].compression, sum(page.bytes for page in pages))
        for pages in pyramid.planes
    )


def _source_of(path: str | os.PathLike[str]) -> SourceInfo | None:
    """The file as a conversion would understand it; None where no source reads the pixels."""
    from slidewright.sources.open import open_all

    try:
        return open_all(os.fspath(path)).info
    except SlidewrightError:
        return None


_CAN_BE_KEPT = "can be kept as they are"


def _keeping(slide: TiffSlide, source: SourceInfo | None) -> str:
    past = "kept from its source; " if slide.kept else ""
    if slide.kept > 1:
        past = f"kept from its source, as those of levels 1 to {slide.kept - 1} are; "
    past += "an archive, of which restore gives back the original; " if is_archive(slide) else ""
    if source is None:
        return past
    return past + (_CAN_BE_KEPT if source.stored is not None else f"can't be kept: {source.not_stored}")


def _describe_source(path: str | os.PathLike[str]) -> FileInfo:
    from slidewright.sources.open import open_all

    if "://" not in os.fspath(path) and not os.path.exists(path):
        raise SourceError(f"{os.fspath(path)} does not exist; check the path")
    found = open_all(os.fspath(path)).info
    return FileInfo(
        path=os.fspath(path),
        format=found.format,
        bytes=total_bytes(path) if os.path.exists(path) else 0,
        size=found.size,
        samples=found.samples,
        dtype=found.dtype,
        stack=found.stack,
        mpp=found.mpp,
        levels=_source_levels(path, found.size, found.tile),
        associated=tuple(AssociatedInfo(name, None) for name in found.associated),
        icc_bytes=len(found.icc_profile or b""),
        description=found.description,
        software=None,
        keeping=_CAN_BE_KEPT if found.stored is not None else "",
        left_out=found.left_out,
        metadata=found.metadata,
    )


def _source_levels(path: str | os.PathLike[str], size: Size, grid: Size | None) -> tuple[LevelInfo, ...]:
    """The levels a source can be asked for, found by asking until it says no."""
    from slidewright.sources.open import open_all

    levels = [LevelInfo(size, grid, None, None)]
    while len(levels) < 32:
        try:
            found = open_all(os.fspath(path), level=len(levels)).info
        except SlidewrightError:
            break
        if max(found.size) >= max(levels[-1].size):  # a source without levels may ignore the number
            break
        levels.append(LevelInfo(found.size, found.tile, None, None))
    return tuple(levels)
