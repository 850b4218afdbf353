"""Regions out of a grid of cells (TIFF tiles, strips or zarr chunks), whether or not the region's edges are the grid's.

Apart from the formats because all of them need it: a region that is one cell is decoded straight into the caller's
memory; anything else is pieced together, and the cells that stick out of the region are kept for its neighbours, within
a bound of bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from slidewright.errors import SourceError
from slidewright.geometry import Region, Size
from slidewright.sources.base import Pixels

CACHE_BYTES = 24_000_000  # with the rest of a worker this stays under its 64 MB

_TALLEST = 1 << 16  # rows of a cell: 64 times what is read at a time

DecodeCell = Callable[[int, int, int, Pixels], None]
"""Takes (row, column, band, out) and fills `out`, C-contiguous and a whole cell, where the cell has pixels of the
image; `band` counts cells along the channels.
"""


def check_height(name: str, size: Size, cell: Size, pixel_bytes: int) -> None:
    """Refuse cells that are decoded anew for each of very many rows of blocks, as a row of them does not fit into the
    cache: the time grows with the square of their height, and a megabyte of them may be blank. Raises SourceError.
    """
    row = -(-size.width // cell.width) * min(cell.height, size.height) * cell.width * pixel_bytes
    if min(cell.height, size.height) > _TALLEST and row > CACHE_BYTES:
        raise SourceError(
            f"{name} has tiles or chunks of {cell} pixels, each of which would be decoded anew for every row of "
            "blocks; save it again in smaller ones"
        )


class CellReader:
    """Reads regions of an image that is stored as a grid of cells.

    Parameters
    ----------
    size, cell
        Size of the image and of a cell.
    samples, dtype
        Of a pixel.
    decode
        Decodes one cell.
    budget
        Bytes of decoded cells to keep; at least one cell is kept.
    depth
        Channels in a cell, where each cell has only some of them; by default all.
    """

    def __init__(
        self,
        size: Size,
        cell: Size,
        samples: int,
        dtype: str,
        decode: DecodeCell,
        budget: int = CACHE_BYTES,
        depth: int | None = None,
    ) -> None:
        self._size, self._cell, self._decode, self._samples = size, cell, decode, samples
        self._depth = samples if depth is None else min(depth, samples)
        self._shape = (cell.height, cell.width, self._depth)
        self._dtype = np.dtype(dtype)
        bytes_each = cell.height * cell.width * self._depth * self._dtype.itemsize
        self._slots = max(1, budget // bytes_each)
        self._kept: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._free: list[Pixels] = []
        self._passing: Pixels | None = None

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        tall, wide = self._cell
        row, top = divmod(y, tall)
        column, left = divmod(x, wide)
        band, skipped = divmod(plane, self._depth)
        if (
            not (top or left or skipped)
            and height == min(tall, self._size.height - y)
            and width == min(wide, self._size.width - x)
            and out.shape[1:] == (wide, self._depth)
            and out.shape[0] >= tall
        ):
            self._decode(row, column, band, out[:tall])
            return out[:height, :width]
        answer = out[:height, :width]
        channels = plane + out.shape[2]
        for band in range(plane // self._depth, -(-channels // self._depth)):
            first = band * self._depth
            start, stop = max(plane, first), min(channels, first + self._depth)
            part = slice(start - first, stop - first)
            self._assemble(Region(y, x, height, width), band, part, answer[:, :, start - plane : stop - plane])
        return answer

    def clear(self) -> None:
        """Forget every decoded cell."""
        self._kept.clear()
        self._free.clear()
        self._passing = None

    def _assemble(self, region: Region, band: int, part: slice, answer: Pixels) -> None:
        """Piece together the channels `part` of one band of cells."""
        tall, wide = self._cell
        bottom, right = region.y + region.height, region.x + region.width
        all_channels = answer.shape[2] == min(self._depth, self._samples - band * self._depth)
        for row in range(region.y // tall, -(-bottom // tall)):
            y0, y1 = max(region.y, row * tall), min(bottom, (row + 1) * tall)
            whole_rows = all_channels and y1 - y0 == min(tall, self._size.height - row * tall)
            for column in range(region.x // wide, -(-right // wide)):
                x0, x1 = max(region.x, column * wide), min(right, (column + 1) * wide)
                whole = whole_rows and x1 - x0 == min(wide, self._size.width - column * wide)
                pixels = self._pixels(row, column, band, whole)
                answer[y0 - region.y : y1 - region.y, x0 - region.x : x1 - region.x] = pixels[
                    y0 - row * tall : y1 - row * tall, x0 - column * wide : x1 - column * wide, part
                ]

    def _pixels(self, row: int, column: int, band: int, whole: bool) -> Pixels:
        """One decoded cell; a cell that is used up at once (`whole`) must not push out those that will be needed
        again.
        """
        key = (row, column, band)
        pixels = self._kept.get(key)
        if pixels is not None:
            self._kept.move_to_end(key)
            return pixels
        if whole:
            if self._passing is None:
                self._passing = np.empty(self._shape, self._dtype)
            self._decode(row, column, band, self._passing)
            return self._passing
        pixels = self._slot()
        try:
            self._decode(row, column, band, pixels)
        except BaseException:
            self._free.append(pixels)
            raise
        self._kept[key] = pixels
        return pixels

    def _slot(self) -> Pixels:
        """Memory for a cell: that of the cell unused for longest, once the budget is spent (fresh memory costs page
        faults).
        """
        if self._free:
            return self._free.pop()
        if len(self._kept) < self._slots:
            return np.empty(self._shape, self._dtype)
        return self._kept.popitem(last=False)[1]
