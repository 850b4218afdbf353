"""The JPEG segments of a TIFF on their way into an archive and out of it: sources of segments, not of pixels.

Their "image" is one column with a segment a row, so that the engine shares segments among its workers as it does tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from slidewright.errors import CorruptTileError
from slidewright.geometry import Size
from slidewright.sources.base import Blank, Pixels, Reader, Source, SourceInfo
from slidewright.system.interrupts import let_through
from slidewright.system.pixel_file import PixelFile
from slidewright.tiff.archive import Cut, Recipe
from slidewright.tiff.jpegxl import from_jpegxl, to_jpegxl
from slidewright.tiff.stream_headers import look, most_pixels

AS_IT_WAS, RECOMPRESSED = b"\0", b"\1"
"""Before each segment that goes into an archive: whether it is JPEG XL."""
_PIXEL_BYTES = 48  # what libjxl takes a pixel, both ways
_MAX_PIXELS = 4096 * 4096


@dataclass(frozen=True, eq=False, slots=True)
class JpegSegments(Source):
    """What goes into an archive."""

    path: str
    cut: Cut
    cell_pixels: int
    """Of the largest segment."""
    seen: tuple[int, int] | None = None
    """As in `SourceInfo`."""

    @property
    def info(self) -> SourceInfo:
        """See `Source`."""
        return replace(_info(self.path, len(self.cut), self.cell_pixels), seen=self.seen)

    def open(self) -> Reader:
        """See `Source`."""
        return _Recompressing(self.path, self.cut, self.cell_pixels, self.seen)


@dataclass(frozen=True, eq=False, slots=True)
class ArchivedSegments(Source):
    """What comes out of an archive."""

    path: str
    recipe: Recipe

    @property
    def info(self) -> SourceInfo:
        """See `Source`."""
        return _info(self.path, len(self.recipe.cut), 0)

    def open(self) -> Reader:
        """See `Source`."""
        return _Restoring(self.path, self.recipe)


def _info(path: str, number: int, pixels: int) -> SourceInfo:
    memory = _PIXEL_BYTES * max(pixels, 1 << 20)
    return SourceInfo(path, "tiff", Size(max(1, number), 1), 3, "uint8", worker_bytes=memory)


class _SegmentReader(Reader):
    def __init__(self, path: str, seen: tuple[int, int] | None = None) -> None:
        self._file = PixelFile(path)
        self._file.require(seen)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """Never asked for."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Recompressing(_SegmentReader):
    def __init__(self, path: str, cut: Cut, cell_pixels: int, seen: tuple[int, int] | None) -> None:
        super().__init__(path, seen)
        self._cut, self._most = cut, min(_MAX_PIXELS, most_pixels(cell_pixels))

    def segment(self, row: int, column: int, plane: int = 0) -> bytes | None:
        """A segment as the archive holds it, behind a byte that says which it is."""
        cut = self._cut
        data = self._file.read(int(cut.starts[row]), int(cut.lengths[row]))
        size = look("jpeg", data).size
        if size is not None and size.height * size.width > self._most:  # a lie, which libjxl would make room for
            return AS_IT_WAS + data
        found = to_jpegxl(data, cut.joined[cut.joins[row]])
        return AS_IT_WAS + data if found is None else RECOMPRESSED + found


class _Restoring(_SegmentReader):
    def __init__(self, path: str, recipe: Recipe) -> None:
        super().__init__(path)
        self._recipe, self._places = recipe, recipe.segment_places

    def segment(self, row: int, column: int, plane: int = 0) -> bytes | None:
        """A segment of the original."""
        recipe = self._recipe
        data = self._file.read(int(self._places[row]), int(recipe.stored[row]))
        if not recipe.recompressed[row]:
            return data
        try:
            return from_jpegxl(data, recipe.cut.joined[recipe.cut.joins[row]])
        except MemoryError:
            raise
        except Exception as error:  # each library has a class of its own
            let_through(error)
            raise CorruptTileError(
                f"{self._file.path}: segment {row} at byte {self._places[row]} does not give its JPEG back ({error}); "
                "the archive is damaged, copy it again"
            ) from error
