"""The files of an OME-Zarr that a block fills by itself, as workers write them: every zarr shard, or chunk that is a
file, whose chunks all come from one block. Their bytes reach the disk from where they were encoded; the writer gets a
receipt, and syncs the file, or gives one that belongs to shards a second name in the store.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import IO, NamedTuple

from slidewright.errors import OutputError, ShardError
from slidewright.formats.zarr_shard import ShardWriter, footer_bytes, footer_problem, google_crc32c
from slidewright.geometry import Size
from slidewright.pyramid.block import Emit
from slidewright.pyramid.block_files import BlockFiles, SharedFolder
from slidewright.pyramid.plan import Block, Key, Level, Plan
from slidewright.system.files import make_below, regular

_RECEIPT = struct.Struct("<QQI")
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class LevelFiles:
    """Where the chunks of one level go, and what is stored of a segment."""

    level: Level
    home: str
    """The store, or where else the files are; nobody makes it again if it is gone."""
    side: int | None
    """Chunks a side of a shard; None where a chunk is a file."""
    plane_folder: Callable[[int], str]
    """The folder of a plane's files."""
    chunk: Callable[[bytes], bytes | None]
    """From a segment to its chunk; None where it is left out."""
    shared: SharedFolder | None = None
    """Where its files are written, if they belong to shards."""

    @property
    def step(self) -> int:
        """Chunks a side of a file."""
        return self.side or 1

    def firsts(self) -> Iterator[tuple[int, int]]:
        """Row and column of the first chunk of each file of a plane, in raster order."""
        for row in range(0, self.level.tiles.height, self.step):
            for column in range(0, self.level.tiles.width, self.step):
                yield row, column

    def path(self, plane: int, row: int, column: int) -> str:
        """The file that holds a chunk."""
        return os.path.join(self.plane_folder(plane), str(row // self.step), str(column // self.step))


def fills(plan: Plan, level: int, side: int | None) -> bool:
    """Whether each file of a level, of `side` chunks a side, is filled by one block."""
    for pas in plan.passes:
        if pas.first <= level <= pas.last:
            return pas.block_tiles >> (level - pas.first) >= (side or 1)
    return side is None or side == 1


class Receipt(NamedTuple):
    """Of a file that a worker has written; one without chunks was not made."""

    nbytes: int
    """Of its chunks."""
    size: int
    """Of the file."""
    crc: int
    """CRC-32C of the file; 0 where it does not belong to shards."""

    def packed(self) -> bytes:
        """As bytes."""
        return _RECEIPT.pack(*self)

    @classmethod
    def read(cls, segment: bytes) -> Receipt:
        """From bytes; raises ShardError."""
        try:
            return cls(*_RECEIPT.unpack(segment))
        except struct.error:
            raise ShardError("a receipt of a shard makes no sense; make the shard again") from None


class ZarrBlocks(BlockFiles):
    """Writes the files that blocks fill; `levels` are those that have such files, by index."""

    def __init__(self, levels: dict[int, LevelFiles]) -> None:
        self._levels = levels
        self.seconds = 0.0

    @property
    def levels(self) -> frozenset[int]:
        """See `BlockFiles`."""
        return frozenset(self._levels)

    @contextlib.contextmanager
    def divert(self, block: Block, emit: Emit) -> Iterator[Emit]:
        """See `BlockFiles`."""
        shards: dict[Key, ShardWriter] = {}

        def put(key: Key, segment: bytes) -> None:
            files = self._levels.get(key[0])
            if files is None:
                emit(key, segment)
                return
            start = perf_counter()
            first = _first(files, key)
            shard = shards.get(first)
            if shard is None:
                shard = shards[first] = _shard(files, first)
            try:
                shard.add(key[2] - first[2], key[3] - first[3], files.chunk(segment))
            except OSError as error:
                raise OutputError(f"can't write {shard.path!r}: {error.strerror or error}") from error
            self.seconds += perf_counter() - start
            if key != first and files.shared is not None:
                emit(key, b"")
            if shard.complete:
                del shards[first]
                emit(first, Receipt(shard.nbytes, shard.size, shard.crc).packed())

        yield put
        assert not shards, f"{block} has not filled {sorted(shards)}"

    def has_receipt(self, key: Key) -> bool:
        """See `BlockFiles`."""
        files = self._levels.get(key[0])
        return files is not None and key == _first(files, key)

    def nbytes(self, receipt: bytes) -> int:
        """See `BlockFiles`."""
        return Receipt.read(receipt).nbytes

    def problem(self, key: Key, receipt: bytes, *, deep: bool) -> str | None:
        """See `BlockFiles`."""
        level, plane, row, column = key
        files = self._levels[level]
        nbytes, size, crc = Receipt.read(receipt)
        path = files.path(plane, row, column)
        if size != (nbytes + footer_bytes(files.side) if nbytes else 0):
            return f"the receipt of {path!r} makes no sense"
        if not nbytes:
            return None
        try:
            file = open(path, "rb", buffering=0, opener=regular)  # noqa: SIM115 - closed below
        except FileNotFoundError:
            return f"{path!r} is missing"
        with file:
            if os.fstat(file.fileno()).st_size != size:
                return f"{path!r} has another size"
            if files.side is not None and footer_problem(file, files.side):
                return f"the index of {path!r} does not match its checksum"
            return f"{path!r} does not match its checksum" if deep and _crc_of(file) != crc else None


def _shard(files: LevelFiles, first: Key) -> ShardWriter:
    _, plane, row, column = first
    tiles, step = files.level.tiles, files.step
    chunks = Size(min(step, tiles.height - row), min(step, tiles.width - column))
    path, shared = files.path(plane, row, column), files.shared
    if shared is None:
        return ShardWriter(path, files.side, chunks, home=files.home)
    return ShardWriter(path, files.side, chunks, os.path.join(shared.staging, "-".join(map(str, first))), shared.sync)


def link(there: str, here: str, home: str) -> None:
    """Give a file of a shard its name in a store: a second name for it, or on another disk a copy. Raises OSError."""
    make_below(home, os.path.dirname(here))
    if not stat.S_ISREG(os.lstat(there).st_mode):
        raise ShardError(f"{there!r} is no file; make the shard again")
    try:
        os.link(there, here)
    except OSError:
        with open(there, "rb", opener=regular) as source, open(here, "xb") as copy:
            shutil.copyfileobj(source, copy, _READ_BYTES)


def _first(files: LevelFiles, key: Key) -> Key:
    """The key of the first chunk of the file that holds a chunk."""
    level, plane, row, column = key
    return level, plane, row - row % files.step, column - column % files.step


def _crc_of(file: IO[bytes]) -> int:
    crc, extend = 0, google_crc32c().extend
    file.seek(0)
    while data := file.read(_READ_BYTES):
        crc = extend(crc, data)
    return crc
