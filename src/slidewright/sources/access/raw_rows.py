"""Uncompressed rows of pixels in a file: what contiguous TIFF strips and `.npy` files both are.

Read with `pread`, a row at a time, and not through a memory map: mapped pages count as the process's memory until the
system is short of it, and a file that shrinks while it is mapped ends the process with a bus error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np

from slidewright.errors import CorruptTileError, SourceError
from slidewright.geometry import Region, Size
from slidewright.sources.access.tile_grid import CACHE_BYTES
from slidewright.sources.base import Pixels, Reader


class PixelFile:
    """A file read at given places, for one reader; wraps the system's errors."""

    def __init__(self, path: str, fd: int | None = None) -> None:
        """Open `path`, or take over an open descriptor of it."""
        self.path = path
        try:
            self._fd: int | None = (
                fd
                if fd is not None
                else os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))
            )
            self.nbytes = os.fstat(self._fd).st_size
        except OSError as error:
            raise SourceError(f"{path} can't be opened: {error.strerror or error}") from error

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes at `offset`; fewer only at the end of the file."""
        if self._fd is None or not hasattr(os, "pread"):
            buffer = bytearray(count)
            return bytes(buffer[: self.read_into(offset, memoryview(buffer))])
        try:
            return os.pread(self._fd, count, offset)
        except OSError as error:
            raise SourceError(f"{self.path} can't be read at byte {offset}: {error.strerror or error}") from error

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; the answer is the number of bytes got, less than asked for only at the end."""
        if self._fd is None:
            raise SourceError(f"{self.path} was closed")
        done = 0
        try:
            while done < len(buffer):
                got = _pread_into(self._fd, buffer[done:] if done else buffer, offset + done)
                if not got:
                    break
                done += got
        except OSError as error:
            raise SourceError(
                f"{self.path} can't be read at byte {offset + done}: {error.strerror or error}"
            ) from error
        return done

    def read_rows(self, offset: int, pitch: int, count: int, rows: int, buffer: memoryview, stride: int) -> int:
        """Read `rows` pieces of `count` bytes, `pitch` apart in the file, to places `stride` apart; the answer is
        how many were whole.
        """
        if self._fd is None or not hasattr(os, "pread"):
            for row in range(rows):
                if self.read_into(offset + row * pitch, buffer[row * stride : row * stride + count]) < count:
                    return row
            return rows
        fd, pread = self._fd, os.pread  # a tight loop: half a thousand calls a tile, at 0.5 microseconds each
        row, place = 0, 0
        try:
            for row in range(rows):
                buffer[place : place + count] = pread(fd, count, offset + row * pitch)
                place += stride
        except ValueError:  # a short read does not fit the slice
            return row
        except OSError as error:
            raise SourceError(
                f"{self.path} can't be read at byte {offset + row * pitch}: {error.strerror or error}"
            ) from error
        return rows

    def close(self) -> None:
        """Close the file; may be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _pread_into(fd: int, buffer: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [buffer], offset)
    os.lseek(fd, offset, os.SEEK_SET)  # Windows
    data = os.read(fd, len(buffer))
    buffer[: len(data)] = data
    return len(data)


class RowsReader(Reader):
    """Reader of rows of pixels that lie uncompressed in a file.

    Parameters
    ----------
    file
        The file; closed with the reader.
    offset
        Byte of the first pixel; or of each channel's first pixel, where each channel is an image of its own.
    size, samples
        Of the image.
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
        self._planes = None if isinstance(offset, int) else tuple(offset)
        self._offset = offset if isinstance(offset, int) else offset[0]
        self._samples = samples if self._planes is None else 1  # in a row
        self._pixel = self._samples * self._dtype.itemsize
        self._pitch = size.width * self._pixel if pitch is None else pitch
        self._kept: tuple[tuple[int, int, int, int], Pixels] | None = None

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        if self._planes is not None:
            return self._channels(self._planes[plane : plane + out.shape[2]], Region(y, x, height, width), out)
        if out.shape[2] != self._samples:
            answer = out[:height, :width]
            step = max(1, CACHE_BYTES // (width * self._pixel))  # rows at a time: a pixel may have a hundred channels
            for top in range(0, height, step):
                whole = self._whole(y + top, x, min(step, height - top), width)
                answer[top : top + step] = whole[:, :, plane : plane + out.shape[2]]
            return answer
        return self._rows(self._offset, y, x, height, width, out)

    def _channels(self, offsets: tuple[int, ...], region: Region, out: Pixels) -> Pixels:
        """A region of some channels that are images of their own."""
        if len(offsets) == 1:
            return self._rows(offsets[0], *region, out)
        answer = out[: region.height, : region.width]
        single: Pixels = np.empty((region.height, region.width, 1), answer.dtype)
        for index, offset in enumerate(offsets):
            answer[:, :, index : index + 1] = self._rows(offset, *region, single)
        return answer

    def _whole(self, y: int, x: int, height: int, width: int) -> Pixels:
        """All channels of a region; the last is kept, because its other channels are asked for next."""
        place = (y, x, height, width)
        if self._kept is None or self._kept[0] != place:
            self._kept = None
            pixels: Pixels = np.empty((height, width, self._samples), self._dtype.newbyteorder("="))
            self._kept = (place, self._rows(self._offset, y, x, height, width, pixels))
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


def is_native(order: str) -> bool:
    """Whether TIFF's byte order character ("<" or ">") is this machine's."""
    return (order == "<") == (sys.byteorder == "little")
