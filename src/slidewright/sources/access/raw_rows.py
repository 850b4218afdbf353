"""Uncompressed rows of pixels in a file: what contiguous TIFF strips and `.npy` files both are.

Read a row at a time from the file, and not through a memory map (`system/pixel_file.py` says why).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from slidewright.errors import CorruptTileError
from slidewright.geometry import Region, Size
from slidewright.sources.access.tile_grid import CACHE_BYTES
from slidewright.sources.base import Pixels, Reader
from slidewright.system.pixel_file import PixelFile


class RowsReader(Reader):
    """Reader of rows of pixels that lie uncompressed in a file.

    Parameters
    ----------
    file
        The file; closed with the reader.
    offset
        Byte of the first pixel; or of the first pixel of each image, where channels or frames are images of their own.
    size, samples
        Of one image.
    dtype
        As stored, byte order included.
    pitch
        Bytes from one row to the next; by default the rows touch.
    """

    def __init__(
        self,
        file: PixelFile,
        offset: int | Sequence[int],
        size: Size,
        samples: int,
        dtype: np.dtype[np.generic],
        pitch: int | None = None,
    ) -> None:
        self._file, self._size = file, size
        self._dtype = np.dtype(dtype)
        self._planes = (offset,) if isinstance(offset, int) else tuple(offset)
        self._samples = samples
        self._pixel = self._samples * self._dtype.itemsize
        self._pitch = size.width * self._pixel if pitch is None else pitch
        self._kept: tuple[tuple[int, int, int, int, int], Pixels] | None = None

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        if self._samples == 1:
            return self._channels(self._planes[plane : plane + out.shape[2]], Region(y, x, height, width), out)
        number, plane = divmod(plane, self._samples)
        first = self._planes[number]
        if out.shape[2] != self._samples:
            answer = out[:height, :width]
            step = max(1, CACHE_BYTES // (width * self._pixel))  # rows at a time: a pixel may have a hundred channels
            for top in range(0, height, step):
                whole = self._whole(first, y + top, x, min(step, height - top), width)
                answer[top : top + step] = whole[:, :, plane : plane + out.shape[2]]
            return answer
        return self._rows(first, y, x, height, width, out)

    def _channels(self, offsets: tuple[int, ...], region: Region, out: Pixels) -> Pixels:
        """A region of some channels that are images of their own."""
        if len(offsets) == 1:
            return self._rows(offsets[0], *region, out)
        answer = out[: region.height, : region.width]
        single: Pixels = np.empty((region.height, region.width, 1), answer.dtype)
        for index, offset in enumerate(offsets):
            answer[:, :, index : index + 1] = self._rows(offset, *region, single)
        return answer

    def _whole(self, first: int, y: int, x: int, height: int, width: int) -> Pixels:
        """All channels of a region of one image; the last is kept, because its other channels are asked for next."""
        place = (first, y, x, height, width)
        if self._kept is None or self._kept[0] != place:
            self._kept = None
            pixels: Pixels = np.empty((height, width, self._samples), self._dtype.newbyteorder("="))
            self._kept = (place, self._rows(first, y, x, height, width, pixels))
        return self._kept[1]

    def _rows(self, first: int, y: int, x: int, height: int, width: int, out: Pixels) -> Pixels:
        """A region of the image whose first pixel is at byte `first`."""
        start, row_bytes = first + y * self._pitch + x * self._pixel, width * self._pixel
        if row_bytes == self._pitch and out.shape[1] == width:
            got = self._file.read_into(start, memoryview(out[:height]).cast("B"))
            if got < height * row_bytes:
                self._complain(y + got // row_bytes)
        else:
            done = self._file.read_rows(
                start, self._pitch, row_bytes, height, memoryview(out).cast("B"), out.shape[1] * self._pixel
            )
            if done < height:
                self._complain(y + done)
        answer = out[:height, :width]
        if not self._dtype.isnative:
            answer.byteswap(inplace=True)
        return answer

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._kept = None

    def _complain(self, row: int) -> None:
        raise CorruptTileError(
            f"{self._file.path}: pixel row {row} ends outside the file; the file is cut short, copy it again"
        )
