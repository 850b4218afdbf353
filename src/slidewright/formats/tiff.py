"""The pyramid as one TIFF file: a page a level, largest first, segments in raster order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from slidewright.errors import OptionError, OutputError, SlidewrightError
from slidewright.formats.base import Format, ImageDescription, PackSegment, TakeSegment
from slidewright.formats.flush import Flusher
from slidewright.formats.tiff_tags import (
    abbreviator,
    generic_description,
    no_place,
    page_arguments,
    page_corrections,
    refuse_misleading,
    why_not_kept,
)
from slidewright.geometry import Size
from slidewright.report import LevelReport
from slidewright.system.files import new_file
from slidewright.system.forks import of_this_process
from slidewright.tiff.slide import TiffSlide

if TYPE_CHECKING:
    from slidewright.codecs import Encoding
    from slidewright.options import ConvertOptions
    from slidewright.pixels import PixelFormat
    from slidewright.pyramid.plan import Key, Level, Plan
    from slidewright.sources.base import Stored

CLASSIC_LIMIT = (1 << 32) - (1 << 24)  # offsets are 32 bits; the rest is for the tables of the pages

_BUFFER = 1 << 13  # only what is smaller is copied once more on its way to the file
MAX_INTERLEAVED = 16
"""Channels of a plain TIFF that lie side by side; of more, a viewer that shows one would read too much."""

_BYTEWISE = ("none", "deflate", "zstd", "lzw", "packbits")
_LEAST_SEGMENT = 10  # bytes of the two table entries of a tile: tifffile gives a small length two bytes


@dataclass(frozen=True, slots=True)
class TiffFormat(Format):
    """A generic tiled TIFF: the levels are the pages of the main chain, the reduced ones marked by NewSubfileType."""

    bigtiff: bool = True
    """BigTIFF, or a classic TIFF of at most 4 GB."""

    name: ClassVar[str] = "tiff"
    suffixes: ClassVar[tuple[str, ...]] = (".tif", ".tiff")

    @classmethod
    def from_options(cls, options: ConvertOptions) -> Format:
        """See `Format`; another layout where the flavour, or images beside the levels, ask for one."""
        refuse_zarr_options(options)
        for name, given in (("channel_names", options.channel_names), ("channel_colors", options.channel_colors)):
            if given is not None:
                raise OptionError(f"{name} has no place in a plain TIFF: leave it out, or write to a name.ome.tif")
        if options.flavour == "aperio" or options.associated or options.label is not None:
            from slidewright.formats.plain_tiff import AperioTiff, GenericTiff

            return (AperioTiff if options.flavour == "aperio" else GenericTiff).from_options(options)
        return cls(bigtiff=options.bigtiff)

    def keeps(self, stored: Stored) -> str | None:
        """Any tile of a codec that has a number in TIFF; samples are little-endian here (see `Format`)."""
        return why_not_kept(stored)

    def accept(self, image: ImageDescription) -> None:
        """See `Format`."""
        refuse_misleading(image, generic_description(image))

    def no_place(self, image: ImageDescription) -> tuple[str, ...]:
        """See `Format`."""
        return no_place(image)

    def encoding(self, options: ConvertOptions, pixels: PixelFormat) -> Encoding:
        """See `Format`. Up to 16 channels lie side by side in a tile (PlanarConfiguration 1) of codecs of bytes:
        tiles of separate planes are opened by three of nine readers, these by seven (docs/sources.md).
        """
        encoding = super(TiffFormat, self).encoding(options, pixels)
        few = pixels.kind == "multichannel" and 1 < pixels.channels <= MAX_INTERLEAVED and pixels.resampling != "mode"
        if not few or encoding.compression not in _BYTEWISE:
            return encoding
        return replace(encoding, pixels=replace(pixels, interleaved=True))

    def packer(self, encoding: Encoding) -> PackSegment | None:
        """JPEG tables go into a tag, once (see `Format`)."""
        return abbreviator(encoding) if encoding.compression == "jpeg" else None

    def order(self, plan: Plan) -> Iterator[Key]:
        """Level by level, plane by plane, row by row (see `Format`)."""
        for level in plan.levels:
            yield from _keys(plan, level)

    def wave(self, plan: Plan, key: Key) -> int | None:
        """A row of blocks of level 0; planes that a block holds together wait for the first to end (see `Format`)."""
        level, plane, row, _ = key
        if level or plane >= (plan.planes if plan.band == 1 else 1):
            return None
        first = plan.passes[0]
        return plane * first.blocks.height + row // first.block_tiles

    def write(self, path: str, image: ImageDescription, take: TakeSegment) -> list[int]:
        """See `Format`; OutputError also when the file outgrows classic TIFF."""
        import tifffile

        sizes: list[int] = []
        try:
            with (
                of_this_process(open(path, "wb", buffering=_BUFFER, opener=new_file)) as file,
                Flusher(file.fileno()) as flusher,
                tifffile.TiffWriter(file, bigtiff=self.bigtiff, byteorder="<", ome=False, shaped=False) as tiff,
            ):
                for level in image.plan.levels:
                    sizes.append(0)
                    segments = self._segments(image.plan, level, take, sizes)
                    tiff.write(flusher.watch(segments), **page_arguments(image, level))
                file.flush()
                _correct_tags(path, [page_corrections(image, level) for level in image.plan.levels])
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"can't write {path!r}: {error.strerror or error}") from error
        return sizes

    def check(self, path: str, image: ImageDescription) -> None:
        """See `Format`."""
        from slidewright.inspection.verify import check_structure

        check_structure(path, [level.size for level in image.plan.levels], kept=len(image.kept_levels))

    def verify(self, path: str, n_workers: int | None) -> None:
        """See `Format`."""
        from slidewright.inspection.verify import verify_file

        verify_file(path, n_workers=n_workers)

    def levels(self, path: str) -> tuple[LevelReport, ...]:
        """See `Format`."""
        with TiffSlide(path) as slide:
            return tuple(LevelReport(Size(*page.size), page.n_segments, page.bytes) for page in slide.levels)

    def recognises(self, path: str) -> bool:
        """See `Format`; a TIFF that slidewright wrote."""
        try:
            with TiffSlide(path) as slide:
                return slide.ours
        except (SlidewrightError, OSError):
            return False

    def least_bytes(self, plan: Plan, encoding: Encoding) -> int:
        """See `Format`."""
        return plan.n_tiles * _LEAST_SEGMENT

    def _segments(self, plan: Plan, level: Level, take: TakeSegment, sizes: list[int]) -> Iterator[bytes]:
        for key in _keys(plan, level):
            segment = take(key)
            sizes[-1] += len(segment)
            if not self.bigtiff and sum(sizes) > CLASSIC_LIMIT:
                raise OutputError("the output does not fit in a classic TIFF (4 GB); write a BigTIFF, or compress more")
            yield segment


def refuse_zarr_options(options: ConvertOptions) -> None:
    """Raises OptionError for options of an OME-Zarr."""
    for name, value in (("zarr_shard", options.zarr_shard), ("ngff", options.ngff)):
        if value is not None:
            raise OptionError(
                f"{name} is for an OME-Zarr, and the output is a TIFF: leave it out, or write to a name.ome.zarr"
            )


def _keys(plan: Plan, level: Level) -> Iterator[Key]:
    """The keys of one level, in the order of TIFF's segments."""
    for plane, row, column in np.ndindex(plan.planes, *level.tiles):
        yield level.index, plane, row, column


def _correct_tags(path: str, corrections: Sequence[dict[str, Any]]) -> None:
    """Overwrite tags, page by page, with what tifffile's writer would not write; the new values are of the same size.
    """
    if not any(corrections):
        return
    import tifffile

    try:
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for page, tags in zip(tiff.pages, corrections, strict=False):
                for name, value in tags.items():
                    page.aspage().tags[name].overwrite(value)
    except tifffile.TiffFileError as error:  # of a disk that did not give them back
        raise OutputError(f"what was written can't be read back: {error}") from error
