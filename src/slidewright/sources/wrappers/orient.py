"""A source turned upright, as TIFF's Orientation says (TIFF 6.0 section 8, tag 274).

Nothing is turned as a whole: the region that is asked for is read where it lies, and its pixels are turned on their
way, so memory is bounded by the region.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slidewright.geometry import Region, Size
from slidewright.sources.base import BLANK, Blank, Pixels, Reader, Source, SourceInfo
from slidewright.sources.wrappers.view import ViewSource
from slidewright.sources.wrappers.wrapped import WrappedReader

ORIENTATIONS = range(1, 9)
TRANSPOSED = (5, 6, 7, 8)  # the first stored row is the left or the right side of the image
_FROM_BELOW, _FROM_RIGHT = (3, 4, 7, 8), (2, 3, 6, 7)  # once transposed


def upright(source: Source, orientation: int) -> Source:
    """The source as a viewer shows it; itself where it is upright, or where there is no such orientation."""
    return source if orientation == 1 or orientation not in ORIENTATIONS else OrientedSource(source, orientation)


@dataclass(frozen=True, slots=True)
class OrientedSource(ViewSource):
    """A source whose first stored pixel is not at the top left."""

    orientation: int
    """TIFF's Orientation, 2 to 8."""

    @property
    def info(self) -> SourceInfo:
        """Height and width, those of tiles and mpp are swapped where rows are stored as columns."""
        info = replace(self.source.info, stored=None, not_stored="its rows or columns are turned (Orientation)")
        if self.orientation not in TRANSPOSED:
            return info
        return replace(
            info,
            size=Size(info.size.width, info.size.height),
            tile=None if info.tile is None else Size(info.tile.width, info.tile.height),
            mpp=None if info.mpp is None else (info.mpp[1], info.mpp[0]),
        )

    @property
    def how(self) -> dict[str, Any]:
        """See `ViewSource`."""
        return {"orientation": self.orientation}

    def open(self) -> Reader:
        """Open the source in this process."""
        return OrientedReader(self.source.open(), self.info.size, self.orientation)


class OrientedReader(WrappedReader):
    """Reads regions of the upright image."""

    def __init__(self, reader: Reader, size: Size, orientation: int) -> None:
        super().__init__(reader)
        self._size = size
        self._transposed = orientation in TRANSPOSED
        self._from_below, self._from_right = orientation in _FROM_BELOW, orientation in _FROM_RIGHT
        self._buffer: Pixels | None = None

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a region, see `Reader.read`."""
        pixels = self._reader.read(*self._stored(Region(y, x, height, width)), self._room(out), plane)
        if pixels is BLANK:
            return BLANK
        pixels = pixels.transpose(1, 0, 2) if self._transposed else pixels
        answer = out[:height, :width]
        answer[...] = pixels[:: -1 if self._from_below else 1, :: -1 if self._from_right else 1]
        return answer

    def ahead(self, region: Region, channels: range) -> None:
        """See `Reader`."""
        self._reader.ahead(self._stored(region), channels)

    def _stored(self, region: Region) -> Region:
        """Where a region of the upright image is stored."""
        y, x, height, width = region
        top = self._size.height - y - height if self._from_below else y
        left = self._size.width - x - width if self._from_right else x
        return Region(left, top, width, height) if self._transposed else Region(top, left, height, width)

    def _room(self, out: Pixels) -> Pixels:
        """Memory for the region as it is stored; the same every time for regions of one size."""
        height, width, channels = out.shape
        shape = (width, height, channels) if self._transposed else (height, width, channels)
        if self._buffer is None or self._buffer.shape != shape or self._buffer.dtype != out.dtype:
            self._buffer = np.empty(shape, out.dtype)
        return self._buffer
