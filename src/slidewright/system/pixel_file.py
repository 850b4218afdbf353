"""A file of pixels read at given places, on every system.

With `pread`, and not through a memory map: mapped pages count as the process's memory until the system is short of it,
and a file that shrinks while it is mapped ends the process with a bus error.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from slidewright.errors import SourceError
from slidewright.system.files import read_at, regular


class PixelFile:
    """A file read at given places, for one reader; wraps the system's errors."""

    remote = False
    """Whether every read costs a request, so that it is worth telling ahead what will be read."""

    def __init__(self, path: str, fd: int | None = None) -> None:
        """Open `path`, or take over an open descriptor of it."""
        self.path = path
        try:
            self._fd: int | None = regular(path) if fd is None else fd
            status = os.fstat(self._fd)
        except OSError as error:
            raise SourceError(f"{path} can't be opened: {error.strerror or error}") from error
        self.nbytes = status.st_size
        self.seen: tuple[int, int] | None = (status.st_size, status.st_mtime_ns)
        """Its bytes and time of change (ns) when it was opened; None behind a URL."""

    def require(self, seen: tuple[int, int] | None) -> None:
        """Raise SourceError, and close it, where it is another file than the one of which that was `seen`, if known."""
        if seen is not None and self.seen not in (None, seen):
            self.close()
            raise SourceError(f"{self.path} is not the file it was when the run began; start again")

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes at `offset`; fewer only at the end of the file."""
        if self._fd is None:
            raise SourceError(f"{self.path} was closed")
        try:
            return read_at(self._fd, offset, count)
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
            return self._rows_from(0, offset, pitch, count, rows, buffer, stride)
        fd, pread = self._fd, os.pread  # a tight loop: half a thousand calls a tile, at 0.5 microseconds each
        row, place = 0, 0
        try:
            for row in range(rows):
                buffer[place : place + count] = pread(fd, count, offset + row * pitch)
                place += stride
        except ValueError:  # a short read does not fit the slice: the end of the file, or a network disk
            return self._rows_from(row, offset, pitch, count, rows, buffer, stride)
        except OSError as error:
            raise SourceError(
                f"{self.path} can't be read at byte {offset + row * pitch}: {error.strerror or error}"
            ) from error
        return rows

    def _rows_from(
        self, row: int, offset: int, pitch: int, count: int, rows: int, buffer: memoryview, stride: int
    ) -> int:
        """The rest of `read_rows`, however little a call gives."""
        for number in range(row, rows):
            place = number * stride
            if self.read_into(offset + number * pitch, buffer[place : place + count]) < count:
                return number
        return rows

    def ahead(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Told which ranges of (byte, number of bytes) will be read next, where the file is remote."""

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
