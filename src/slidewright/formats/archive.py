"""An archive of a JPEG TIFF, and the TIFF that comes out of it: the pieces of a file in their order.

Apart from the other formats because nothing here knows of pixels: what is written was cut out of a file elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OutputError, VerifyError
from slidewright.formats.base import Format, ImageDescription, TakeSegment
from slidewright.formats.flush import Flusher
from slidewright.formats.tiff_directories import (
    STRIP_BYTE_COUNTS,
    STRIP_OFFSETS,
    SUB_IFDS,
    TILE_BYTE_COUNTS,
    TILE_OFFSETS,
    Directory,
    DirectoryWriter,
    Tag,
    places,
    short,
    undefined,
)
from slidewright.geometry import Size
from slidewright.report import LevelReport
from slidewright.sources.jpeg_segments import RECOMPRESSED
from slidewright.system.files import new_file
from slidewright.system.forks import of_this_process
from slidewright.system.pixel_file import PixelFile
from slidewright.tiff.archive import RECIPE, Cut, Numbers, Recipe, hasher
from slidewright.tiff.raw import RawDirectory
from slidewright.tiff.slide import TiffSlide

if TYPE_CHECKING:
    from slidewright.codecs import Encoding
    from slidewright.options import ConvertOptions
    from slidewright.pyramid.plan import Key, Plan

_COMPRESSION, _PHOTOMETRIC, _JPEG_XL, _RGB, _YCBCR = 259, 262, 50002, 2, 6
_OF_JPEG = (347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532)
"""Tags that make sense of JPEG or YCbCr alone."""
_POINTERS = (34665, 34853, 40965)  # directories of other things, such as Exif's, which are not laid again
_STEP = 1 << 20


@dataclass(frozen=True, eq=False, slots=True)
class PieceFile(Format):
    """What both have in common: segments in the order of the original, and its gaps between them."""

    name: ClassVar[str] = "pieces"
    suffixes: ClassVar[tuple[str, ...]] = ()

    cut: Cut
    path: str
    """The file that the gaps are in."""

    @classmethod
    def from_options(cls, options: ConvertOptions) -> Format:
        """See `Format`; never asked for, since such a file is made of another."""
        raise NotImplementedError

    def order(self, plan: Plan) -> Iterator[Key]:
        """See `Format`."""
        return ((0, 0, row, 0) for row in range(len(self.cut)))

    def wave(self, plan: Plan, key: Key) -> int | None:
        """See `Format`."""
        return key[2] // plan.passes[0].block_tiles

    def _gaps(self, places: Numbers) -> Iterator[tuple[int, int]]:
        """Where each gap is and its length."""
        return zip(places.tolist(), self.cut.gaps.tolist(), strict=True)

    def check(self, path: str, image: ImageDescription) -> None:
        """See `Format`; the whole is held against its hash elsewhere."""

    def verify(self, path: str, n_workers: int | None) -> None:
        """See `Format`; as `check`."""

    def levels(self, path: str) -> tuple[LevelReport, ...]:
        """See `Format`."""
        with TiffSlide(path) as slide:
            return tuple(LevelReport(Size(*page.size), page.n_segments, page.bytes) for page in slide.levels)


@dataclass(frozen=True, eq=False, slots=True)
class ArchiveFile(PieceFile):
    """The archive: a TIFF whose JPEG segments are JPEG XL, with the recipe of the original."""

    chosen: frozenset[int]
    """Which directories have their segments recompressed."""

    def least_bytes(self, plan: Plan, encoding: Encoding) -> int:
        """See `Format`; no JPEG comes to less than half of itself."""
        return int(self.cut.gaps.sum() + self.cut.lengths.sum() // 2)

    def write(self, path: str, image: ImageDescription, take: TakeSegment) -> list[int]:
        """See `Format`."""
        stored = np.zeros(len(self.cut), np.int64)
        recompressed = np.zeros(len(self.cut), bool)
        digest = hasher()
        source = PixelFile(self.path)
        try:
            with of_this_process(open(path, "x+b", opener=new_file)) as file, Flusher(file.fileno()) as flusher:
                file.write(DirectoryWriter.header(big=True))
                for row, gap in enumerate(self._gaps(self.cut.gap_starts)):
                    _copy(source, gap, file, flusher, digest)
                    if row == len(self.cut):
                        break
                    digest.update(source.read(int(self.cut.starts[row]), int(self.cut.lengths[row])))
                    segment = take((0, 0, row, 0))
                    stored[row], recompressed[row] = len(segment) - 1, segment[:1] == RECOMPRESSED
                    file.write(memoryview(segment)[1:])
                    flusher.count(len(segment))
                recipe = Recipe(self.cut, stored, recompressed, digest.hexdigest())
                with TiffSlide(self.path) as slide:
                    DirectoryWriter(file, big=True).write(_directories(slide, recipe, self.chosen))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"can't write {path!r}: {error.strerror or error}") from error
        finally:
            source.close()
        return [int(stored.sum())]


@dataclass(frozen=True, eq=False, slots=True)
class OriginalFile(PieceFile):
    """The original as its archive has it; or only its hash, for an archive that is to be trusted."""

    recipe: Recipe
    keep: bool = True
    """Whether to write it."""

    def least_bytes(self, plan: Plan, encoding: Encoding) -> int:
        """See `Format`."""
        return self.cut.size

    def write(self, path: str, image: ImageDescription, take: TakeSegment) -> list[int]:
        """See `Format`; VerifyError when it is not what was archived."""
        digest, sizes = hasher(), 0
        source = PixelFile(self.path)
        try:
            with (
                of_this_process(open(path, "xb", opener=new_file)) if self.keep else open(os.devnull, "wb") as file,
                Flusher(file.fileno()) as flusher,
            ):
                for row, gap in enumerate(self._gaps(self.recipe.gap_places)):
                    _copy(source, gap, file, flusher, digest)
                    segment = take((0, 0, row, 0)) if row < len(self.cut) else b""
                    sizes += len(segment)
                    digest.update(segment)
                    file.write(segment)
                    flusher.count(len(segment))
                file.flush()
                if self.keep:
                    os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"can't write {path!r}: {error.strerror or error}") from error
        finally:
            source.close()
        if digest.hexdigest() != self.recipe.sha256:
            raise VerifyError(f"{self.path}: what comes out of it is not the file that was archived; copy it again")
        return [sizes]


def _copy(source: PixelFile, gap: tuple[int, int], file: IO[bytes], flusher: Flusher, digest: Any) -> None:
    """Copy (byte, number of bytes) of the source."""
    place, left = gap
    while left:
        data = source.read(place, min(left, _STEP))
        if not data:
            raise OutputError(f"{source.path} ends at byte {place}; it was cut short while it was read")
        file.write(data)
        digest.update(data)
        flusher.count(len(data))
        place, left = place + len(data), left - len(data)


def _directories(slide: TiffSlide, recipe: Recipe, chosen: frozenset[int]) -> list[Directory]:
    """The directories of the original, with what the archive has in place of its segments."""
    numbers = iter(range(1 << 32))
    moved = _Moved(recipe)

    def laid(raw: RawDirectory) -> Directory:
        jpegxl = next(numbers) in chosen
        dropped = (SUB_IFDS, *_POINTERS, *(_OF_JPEG if jpegxl else ()))
        tags = {code: Tag(*value) for code, value in raw.tags.items() if code not in dropped}
        page = raw.page
        if jpegxl:
            tags[_COMPRESSION] = short(_JPEG_XL)
            if page.photometric == "ycbcr":
                tags[_PHOTOMETRIC] = short(_RGB)
        number = min(len(page.offsets), len(page.counts))
        offsets, counts = moved.tables(page.offsets[:number], page.counts[:number], jpegxl)
        first, second = (TILE_OFFSETS, TILE_BYTE_COUNTS) if page.tiled else (STRIP_OFFSETS, STRIP_BYTE_COUNTS)
        tags |= {first: places(offsets), second: places(counts)}
        return Directory(tags, [laid(child) for child in raw.children])

    chain = [laid(raw) for raw in slide.directories]
    chain[0].tags[RECIPE] = undefined(recipe.packed())
    return chain


class _Moved:
    """Where in an archive the segments of the original are."""

    def __init__(self, recipe: Recipe) -> None:
        self._cut, self._stored = recipe.cut, recipe.stored
        self._segments, self._gaps = recipe.segment_places, recipe.gap_places
        self._gap_starts = recipe.cut.gap_starts

    def tables(
        self, offsets: NDArray[np.int64], counts: NDArray[np.int64], recompressed: bool
    ) -> tuple[Numbers, Numbers]:
        """The offsets and lengths of the segments of one page."""
        there = counts > 0
        if recompressed:
            at = np.searchsorted(self._cut.starts, offsets[there])
            found, length = self._segments[at], self._stored[at]
        else:
            at = np.searchsorted(self._cut.starts, offsets[there], "right")
            found, length = self._gaps[at] + offsets[there] - self._gap_starts[at], counts[there]
        moved, sizes = np.zeros_like(offsets), np.zeros_like(counts)
        moved[there], sizes[there] = found, length
        return moved, sizes
