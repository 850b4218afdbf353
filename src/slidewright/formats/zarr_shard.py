"""Chunks to the files of a zarr array: one file a chunk, or zarr shards, each of which one process alone writes.

A shard is streamed: its chunks are appended as they come, and its index and checksum follow the last one (zarr v3
"sharding_indexed", index at the end). So no shard is ever read, modified and written. None is held whole in memory:
where chunks come in another order, those that are early are.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from concurrent.futures import Future
from typing import IO, Any

import numpy as np

from slidewright.errors import OutputError
from slidewright.geometry import Size
from slidewright.system.files import make_below, new_file, regular
from slidewright.system.forks import of_this_process
from slidewright.system.thread_pool import ThreadPool

MAX_OPEN = 128
"""Files that are open at a time: a row of shards of a very wide level has more, which are opened again."""
_MAX_SYNCING = 64
_TO_CHANGE = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0)
_CRC_BYTES = 4
_MISSING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


class Syncer:
    """Has finished files written to the disk by a thread, while the next are being made. A context manager."""

    def __init__(self) -> None:
        self.files = 0
        self.nbytes = 0
        """Of all files that were handed over."""
        self._pool = ThreadPool(1, "slidewright-sync")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Syncer:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def close(self, file: IO[bytes], nbytes: int) -> None:
        """Sync and close a file of so many bytes, soon; raises OSError for one that was handed over before."""
        self.files, self.nbytes = self.files + 1, self.nbytes + nbytes
        self._waiting.append(self._pool.submit(_sync_and_close, file))
        while len(self._waiting) > _MAX_SYNCING:
            self._waiting.popleft().result()

    def wait(self) -> None:
        """Wait until all are on the disk."""
        while self._waiting:
            self._waiting.popleft().result()


class PlaneWriter:
    """One plane of one level of an array: a grid of chunks, which come in raster order.

    Parameters
    ----------
    folder
        Where the files of this plane are, named row/column; it is made with the first.
    chunks
        Rows and columns of chunks.
    side
        Chunks a side of a shard; None for a file a chunk.
    syncer
        Gets each finished file.
    home
        The folder above that must be there: one that is gone, as with its disk, does not come back without its files.
    """

    def __init__(self, folder: str, chunks: Size, side: int | None, syncer: Syncer, home: str) -> None:
        self._folder, self._chunks, self._side, self._syncer, self._home = folder, chunks, side, syncer, home
        self._shards: dict[int, ShardIndex] = {}
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()

    def add(self, row: int, column: int, data: bytes | None) -> int:
        """Write the next chunk, or leave it out where there is no data; returns the bytes that it took."""
        if self._side is None:
            if data is not None:
                file = self._create(row, column)
                write_all(file, data)
                self._syncer.close(file, len(data))
            return len(data or b"")
        number = column // self._side
        if data is not None:
            self._append(row, column, number, data)
        last_row = row % self._side == self._side - 1 or row == self._chunks.height - 1
        last_column = column % self._side == self._side - 1 or column == self._chunks.width - 1
        if last_row and last_column and number in self._shards:
            self._finish(number)
        return len(data or b"")

    def close(self) -> None:
        """Close what an error left open."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _append(self, row: int, column: int, number: int, data: bytes) -> None:
        assert self._side is not None
        shard = self._shards.get(number)
        if shard is None:
            shard = self._shards[number] = ShardIndex(self._path(row // self._side, number), self._side)
            make_below(self._home, os.path.dirname(shard.path))
        write_all(self._file(number, shard), data)
        shard.note(row % self._side, column % self._side, len(data))

    def _finish(self, number: int) -> None:
        shard = self._shards.pop(number)
        file, footer = self._file(number, shard), shard.footer()
        write_all(file, footer)
        self._syncer.close(self._open.pop(number), shard.size + len(footer))

    def _file(self, number: int, shard: ShardIndex) -> IO[bytes]:
        """The file of a shard, opened again if it had to make room for others."""
        file = self._open.pop(number, None)
        if file is None:
            if len(self._open) >= MAX_OPEN:
                self._open.popitem(last=False)[1].close()
            if shard.size:
                file = os.fdopen(regular(shard.path, _TO_CHANGE), "r+b", buffering=0)  # not made anew if it is gone
                _refuse_shorter(file, shard.size, shard.path)
                file.seek(shard.size)
            else:
                file = open(shard.path, "xb", buffering=0)  # noqa: SIM115 - closed by the syncer
        self._open[number] = of_this_process(file)
        return file

    def _create(self, row: int, column: int) -> IO[bytes]:
        path = self._path(row, column)
        if column == 0 or not os.path.isdir(os.path.dirname(path)):
            make_below(self._home, os.path.dirname(path))
        return of_this_process(open(path, "xb", buffering=0))

    def _path(self, row: int, column: int) -> str:
        return os.path.join(self._folder, str(row), str(column))


class ShardWriter:
    """A shard whose chunks come in any order and are written in raster order, so that the file is the one that
    `PlaneWriter` makes; what comes early is held.

    Parameters
    ----------
    path
        Of the file, which is made with the first chunk that has data.
    side
        Chunks a side; None for a file of one chunk, without an index.
    chunks
        Rows and columns of chunks that there are, fewer than `side` at the border of the image.
    staging
        The path that it has until it is complete, in a folder of this run, where other runs may make the same file;
        then its checksum is taken too. None where no other run can: the file is written in its place, over one that is
        there of a first try.
    sync
        Whether to wait for the disk when it is complete, with `staging`.
    home
        As for `PlaneWriter`; with `staging` it is known.
    """

    def __init__(
        self,
        path: str,
        side: int | None,
        chunks: Size,
        staging: str | None = None,
        sync: bool = False,
        home: str = "",
    ) -> None:
        self.path = path
        self._home = home if staging is None else _home_of(staging)
        self._index = None if side is None else ShardIndex(path, side)
        self._chunks, self._staging, self._sync = chunks, staging, sync
        self._held: dict[int, bytes | None] = {}
        self._next = 0
        self.nbytes = 0
        """Of chunks, without the index."""
        self.size = 0
        """Of the file."""
        self.crc = 0
        """CRC-32C of the file, where it has a `staging`."""

    @property
    def complete(self) -> bool:
        """Whether all chunks were written."""
        return self._next == self._chunks.height * self._chunks.width

    def add(self, row: int, column: int, data: bytes | None) -> None:
        """Take a chunk, or none where it is left out, and write what is next; raises OSError."""
        self._held[row * self._chunks.width + column] = data
        parts = []
        while self._next in self._held:
            part = self._held.pop(self._next)
            if part:
                if self._index is not None:
                    self._index.note(*divmod(self._next, self._chunks.width), len(part))
                self.nbytes += len(part)
                parts.append(part)
            self._next += 1
        if self.complete and self.nbytes and self._index is not None:
            parts.append(self._index.footer())
        if parts or (self.complete and self.nbytes):
            self._write(parts)

    def _write(self, parts: list[bytes]) -> None:
        """Go on with the file. It is opened each time: a block may have as many of them as channels."""
        descriptor = self._opened()
        if descriptor is not None:
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                _refuse_shorter(file, self.size, self.path)
                file.seek(self.size)
                for part in parts:
                    write_all(file, part)
                if self.complete:
                    file.truncate()
                    if self._staging is not None and self._sync:
                        os.fsync(descriptor)
        self.size += sum(map(len, parts))
        if self._staging is not None:
            for part in parts:
                self.crc = google_crc32c().extend(self.crc, part)
            if self.complete:
                self._rename(self._staging)

    def _opened(self) -> int | None:
        """A descriptor of what is written; None where another task has made the same file, and removed this one."""
        path = self._staging or self.path
        if not self.size:
            if self._staging is not None:
                make_below(self._home, os.path.dirname(path))
            return _made(path, self._home)
        try:
            return regular(path, _TO_CHANGE)
        except FileNotFoundError:
            if self._staging is not None and os.path.exists(self.path):
                return None
            raise

    def _rename(self, staging: str) -> None:
        """Put the file in its place."""
        try:
            make_below(self._home, os.path.dirname(self.path))
            os.replace(staging, self.path)
        except FileNotFoundError:  # another task at the same shard was faster, and tidied up
            if not os.path.exists(self.path):
                raise


def _refuse_shorter(file: IO[bytes], size: int, path: str) -> None:
    """Raise OutputError where a file that is opened again lacks what was written: a part would stay zeros."""
    if os.fstat(file.fileno()).st_size < size:
        file.close()
        raise OutputError(f"{path!r} lacks what was written to it: another took its place while it was made; run again")


def _home_of(staging: str) -> str:
    """The folder of shards, in which a task has one of its own."""
    return os.path.dirname(os.path.dirname(staging))


def _made(path: str, home: str) -> int:
    """A descriptor of a new file, or of that of a first try."""
    try:
        return new_file(path, os.O_RDWR)
    except FileExistsError:
        return regular(path, _TO_CHANGE)
    except FileNotFoundError:
        make_below(home, os.path.dirname(path))
        return _made(path, home)


class ShardIndex:
    """What is known of a shard that is being written: where its chunks lie."""

    def __init__(self, path: str, side: int) -> None:
        self.path, self.size = path, 0
        self._index = np.full((side, side, 2), _MISSING, "<u8")

    def note(self, row: int, column: int, nbytes: int) -> None:
        """A chunk has been appended."""
        self._index[row, column] = self.size, nbytes
        self.size += nbytes

    def footer(self) -> bytes:
        """The index and its CRC-32C."""
        index = self._index.tobytes()
        return index + int(google_crc32c().value(index)).to_bytes(_CRC_BYTES, "little")


def footer_bytes(side: int | None) -> int:
    """Bytes of the index of a shard, of so many chunks a side, with its checksum; 0 of a file of one chunk."""
    return 0 if side is None else side * side * 16 + _CRC_BYTES


def footer_problem(file: IO[bytes], side: int) -> bool:
    """Whether the index at the end of a shard, of so many chunks a side, does not match its checksum."""
    length = footer_bytes(side)
    if file.seek(0, os.SEEK_END) < length:
        return True
    file.seek(-length, os.SEEK_END)
    footer = file.read(length)
    return int(google_crc32c().value(footer[:-_CRC_BYTES])) != int.from_bytes(footer[-_CRC_BYTES:], "little")


def google_crc32c() -> Any:
    """The library, imported when it is used."""
    import google_crc32c

    return google_crc32c


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write all of it to an unbuffered file, which may take less at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def _sync_and_close(file: IO[bytes]) -> None:
    with file:
        os.fsync(file.fileno())
