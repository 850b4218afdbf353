"""Where the chunks of a scratch array lie on disk, as the zarr v3 core specification has it; without the zarr library,
whose import is too slow for every worker (scratch.py).

`ChunkShard` is one file an array: creating, renaming and opening a file for each chunk costs 1 to 2 ms on a busy disk,
writing into an open one 0.05 ms (200 chunks of 192 KiB on ext4, 2 cores). `ChunkFiles` is one file a chunk, for folders
that several machines write into, where two may not share a file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import IO, Any, Protocol

from slidewright.system.checksum import crc32, crc32c
from slidewright.system.files import fill_from, make_below, new_file, regular, remove, tell_of_loss, token
from slidewright.system.mounts import Mounts

Place = tuple[int, int, int]
"""(row, column, band) in the grid of chunks."""

_ENTRY = struct.Struct("<QQ")
_CRC = struct.Struct("<I")
_MISSING = b"\xff" * _ENTRY.size
_NUMBERED_ANEW = ("fuse", "cifs", "smb")
_NOBODY = bytes(_ENTRY.size)
_MAX = (1 << 64) - 1  # Windows has inodes of 128 bits


class ChunkStore(Protocol):
    """Raw chunks of one array, all of the same number of bytes. Raises OSError."""

    def metadata(self, chunk_shape: tuple[int, ...]) -> dict[str, Any]:
        """The parts of zarr.json that say where chunks lie: chunk_grid and codecs."""

    def create(self) -> None:
        """Make what must be there before the first chunk."""

    def write(self, place: Place, data: memoryview) -> None:
        """Write a chunk; it is there either whole or not at all."""

    def read(self, place: Place, out: memoryview) -> int | None:
        """Fill `out` with a chunk: how many bytes there were, None where it has not been written."""

    def has(self, place: Place) -> bool:
        """Whether a chunk has been written."""

    def close(self) -> None:
        """Close what is open."""


def _bytes_codec() -> dict[str, Any]:
    return {"name": "bytes", "configuration": {"endian": "little"}}


class ChunkFiles:
    """One file a chunk ("regular" grid, "default" chunk keys), with a CRC-32C at its end ("crc32c" codec)."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def metadata(self, chunk_shape: tuple[int, ...]) -> dict[str, Any]:
        """See `ChunkStore`."""
        grid = {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}}
        return {"chunk_grid": grid, "codecs": [_bytes_codec(), {"name": "crc32c"}]}

    def create(self) -> None:
        """Nothing to make."""

    def write(self, place: Place, data: memoryview) -> None:
        """See `ChunkStore`."""
        path = self._path(place)
        make_below(os.path.dirname(self._folder), os.path.dirname(path))
        partial = f"{path}.{token()}.partial"  # of this call alone: tasks on two machines may redo the same block
        try:
            with open(partial, "wb", buffering=0, opener=new_file) as file:
                _write_all(file, data)
                _write_all(file, memoryview(_CRC.pack(crc32c(data))))
            os.replace(partial, path)
        except BaseException:  # such as on a full disk: nobody looks for it in a folder of shards, which stays
            remove(partial)
            raise

    def read(self, place: Place, out: memoryview) -> int | None:
        """See `ChunkStore`."""
        try:
            with open(self._path(place), "rb", buffering=0, opener=regular) as file:
                got = fill_from(file, out)
                tell_of_loss(file.fileno())
                if got == len(out) and file.read(_CRC.size) != _CRC.pack(crc32c(out)):
                    raise _lost()
                return got
        except FileNotFoundError:
            return None

    def has(self, place: Place) -> bool:
        """See `ChunkStore`."""
        return os.path.exists(self._path(place))

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, place: Place) -> str:
        return os.path.join(self._folder, "c", *map(str, place))


class ChunkShard:
    """All chunks in one file: the "sharding_indexed" codec with the index at the start. A chunk has its place from the
    beginning, so processes never wait for each other; its entry in the index is written after it. Behind it is its
    CRC-32, which zarr passes over: a disk that loses what was written tells nobody who does not wait for it.

    Behind the index, where zarr does not look either, the file says which file it is, by device and inode. Each process
    opens it by name, and one that finds a copy of it, as after the folder was moved to another disk and another took
    its place, would miss what others have written since. FUSE and CIFS may number a file anew, and are not asked.
    """

    def __init__(self, folder: str, grid: Place, chunk_bytes: int) -> None:
        self._path = os.path.join(folder, "c", "0", "0", "0")
        self._grid, self._chunk_bytes = grid, chunk_bytes
        self._count = grid[0] * grid[1] * grid[2]
        self._file: IO[bytes] | None = None

    def metadata(self, chunk_shape: tuple[int, ...]) -> dict[str, Any]:
        """See `ChunkStore`."""
        whole = [count * side for count, side in zip(self._grid, chunk_shape, strict=True)]
        sharding = {
            "chunk_shape": list(chunk_shape),
            "codecs": [_bytes_codec()],
            "index_codecs": [_bytes_codec()],
            "index_location": "start",
        }
        grid = {"name": "regular", "configuration": {"chunk_shape": whole}}
        return {"chunk_grid": grid, "codecs": [{"name": "sharding_indexed", "configuration": sharding}]}

    def create(self) -> None:
        """Write the index, with every chunk missing."""
        os.makedirs(os.path.dirname(self._path), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # of a run before; not written into, as it may be a link
        with open(self._path, "wb", buffering=0, opener=new_file) as file:
            mount = Mounts().of(os.path.realpath(self._path))
            numbered_anew = mount is not None and mount.kind.startswith(_NUMBERED_ANEW)
            _write_all(file, memoryview(_MISSING * self._count + (_NOBODY if numbered_anew else _itself(file))))

    def write(self, place: Place, data: memoryview) -> None:
        """See `ChunkStore`."""
        file, number = self._open(), self._number(place)
        offset = (self._count + 1) * _ENTRY.size + number * (self._chunk_bytes + _CRC.size)
        file.seek(offset)
        _write_all(file, data)
        _write_all(file, memoryview(_CRC.pack(crc32(data))))
        file.seek(number * _ENTRY.size)
        _write_all(file, memoryview(_ENTRY.pack(offset, len(data))))

    def read(self, place: Place, out: memoryview) -> int | None:
        """See `ChunkStore`."""
        entry = self._entry(place)
        if entry == _MISSING:
            return None
        offset, length = _ENTRY.unpack(entry)
        file = self._open()
        file.seek(offset)
        got = fill_from(file, out[:length])
        if got == length and file.read(_CRC.size) != _CRC.pack(crc32(out[:length])):
            raise _lost()
        return got

    def has(self, place: Place) -> bool:
        """See `ChunkStore`."""
        return self._entry(place) != _MISSING

    def close(self) -> None:
        """See `ChunkStore`."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _entry(self, place: Place) -> bytes:
        file = self._open()
        file.seek(self._number(place) * _ENTRY.size)
        entry = file.read(_ENTRY.size)
        if len(entry) != _ENTRY.size:
            raise OSError(f"the index of {self._path!r} was cut short")
        if entry == _MISSING:  # or it is that of before, as the disk has lost a part of the index
            tell_of_loss(file.fileno())
        return entry

    def _number(self, place: Place) -> int:
        row, column, band = place
        return (row * self._grid[1] + column) * self._grid[2] + band

    def _open(self) -> IO[bytes]:
        if self._file is None:
            file = open(self._path, "r+b", buffering=0, opener=regular)  # noqa: SIM115 - closed in close()
            self._file = file
            file.seek(self._count * _ENTRY.size)
            if file.read(_ENTRY.size) not in (_itself(file), _NOBODY):
                self.close()
                raise OSError(errno.ESTALE, f"{self._path!r} is not the file that this run made")
        return self._file


def _itself(file: IO[bytes]) -> bytes:
    """Which file an open one is."""
    status = os.fstat(file.fileno())
    return _ENTRY.pack(status.st_dev & _MAX, status.st_ino & _MAX)


def _lost() -> OSError:
    return OSError(errno.EIO, "the disk has lost a part of what was written")


def _write_all(file: IO[bytes], data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]
