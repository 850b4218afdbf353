"""The pyramid as one TIFF file: a page a level, largest first, segments in raster order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from slidewright.errors import OutputError
from slidewright.formats.base import Format, ImageDescription, PackSegment, TakeSegment
from slidewright.formats.tiff_tags import abbreviator, corrections, page_arguments
from slidewright.geometry import Size
from slidewright.inspection.verify import check_structure, verify_file
from slidewright.report import LevelReport
from slidewright.tiff.slide import TiffSlide

if TYPE_CHECKING:
    from slidewright.codecs import Encoding
    from slidewright.options import ConvertOptions
    from slidewright.pixels import PixelFormat
    from slidewright.pyramid.plan import Key, Level, Plan

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
    def from_options(cls, options: ConvertOptions) -> TiffFormat:
        """See `Format`."""
        return cls(bigtiff=options.bigtiff)

    def encoding(self, options: ConvertOptions, pixels: PixelFormat) -> Encoding:
        """See `Format`. Up to 16 channels lie side by side in a tile (PlanarConfiguration 1) where the codec takes
        bytes: tiles of separate planes are opened by three of nine readers, these by seven (docs/sources.md).
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
                open(path, "xb", buffering=_BUFFER) as file,
                _Flusher(file.fileno()) as flusher,
                tifffile.TiffWriter(file, bigtiff=self.bigtiff, byteorder="<", ome=False, shaped=False) as tiff,
            ):
                for level in image.plan.levels:
                    sizes.append(0)
                    segments = self._segments(image.plan, level, take, sizes)
                    tiff.write(flusher.watch(segments), **page_arguments(image, level))
                file.flush()
                _correct_tags(path, corrections(image.encoding))
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"can't write {path!r}: {error.strerror or error}") from error
        return sizes

    def check(self, path: str, image: ImageDescription) -> None:
        """See `Format`."""
        check_structure(path, [level.size for level in image.plan.levels])

    def verify(self, path: str, n_workers: int | None) -> None:
        """See `Format`."""
        verify_file(path, n_workers=n_workers)

    def levels(self, path: str) -> tuple[LevelReport, ...]:
        """See `Format`."""
        with TiffSlide(path) as slide:
            return tuple(LevelReport(Size(*page.size), page.n_segments, page.bytes) for page in slide.levels)

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


def _keys(plan: Plan, level: Level) -> Iterator[Key]:
    """The keys of one level, in the order of TIFF's segments."""
    for plane, row, column in np.ndindex(plan.planes, *level.tiles):
        yield level.index, plane, row, column


def _correct_tags(path: str, corrections: dict[str, int]) -> None:
    """Overwrite tags of every page with what tifffile's writer would not write; the new values are of the same size."""
    if not corrections:
        return
    import tifffile

    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            for name, value in corrections.items():
                page.aspage().tags[name].overwrite(value)


class _Flusher:
    """Has the disk write along while the file grows, so that the sync at the end is short.

    It is a hint only: its errors are left for that sync to report.
    """

    STEP = 32 << 20  # bytes between one flush and the next

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pool = ThreadPoolExecutor(1, "slidewright-flush")
        self._since = 0
        self._flush: Future[None] | None = None

    def __enter__(self) -> _Flusher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def watch(self, segments: Iterator[bytes]) -> Iterator[bytes]:
        """Pass segments on, starting a flush every now and then unless one is still going on."""
        for segment in segments:
            self._since += len(segment)
            if self._since >= self.STEP and (self._flush is None or self._flush.done()):
                self._since = 0
                self._flush = self._pool.submit(_sync_data, self._fd)
            yield segment


def _sync_data(fd: int) -> None:
    with contextlib.suppress(OSError):
        getattr(os, "fdatasync", os.fsync)(fd)
