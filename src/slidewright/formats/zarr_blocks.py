"""The files of an OME-Zarr that a block fills by itself, as workers write them: every zarr shard, or chunk that is a
file, whose chunks all come from one block. Their bytes reach the disk from where they were encoded; the writer gets a
receipt, and syncs the file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter

from slidewright.errors import OutputError
from slidewright.formats.base import BlockFiles
from slidewright.formats.zarr_shard import ShardWriter
from slidewright.geometry import Size
from slidewright.pyramid.block import Emit
from slidewright.pyramid.plan import Block, Key, Level, Plan

_RECEIPT_BYTES = 8


@dataclass(frozen=True, slots=True)
class LevelFiles:
    """Where the chunks of one level go, and what is stored of a segment."""

    level: Level
    side: int | None
    """Chunks a side of a shard; None where a chunk is a file."""
    plane_folder: Callable[[int], str]
    """The folder of a plane's files."""
    chunk: Callable[[bytes], bytes | None]
    """From a segment to its chunk; None where it is left out."""

    def firsts(self) -> Iterator[tuple[int, int]]:
        """Row and column of the first chunk of each file of a plane, in raster order."""
        step = self.side or 1
        for row in range(0, self.level.tiles.height, step):
            for column in range(0, self.level.tiles.width, step):
                yield row, column

    def path(self, plane: int, row: int, column: int) -> str:
        """The file that holds a chunk."""
        step = self.side or 1
        return os.path.join(self.plane_folder(plane), str(row // step), str(column // step))


def fills(plan: Plan, level: int, side: int | None) -> bool:
    """Whether each file of a level, of `side` chunks a side, is filled by one block."""
    for pas in plan.passes:
        if pas.first <= level <= pas.last:
            return pas.block_tiles >> (level - pas.first) >= (side or 1)
    return side is None or side == 1


def receipt(nbytes: int) -> bytes:
    """What the writer gets for a file with so many bytes of chunks; one with none was not made."""
    return nbytes.to_bytes(_RECEIPT_BYTES, "little")


def read_receipt(segment: bytes) -> int:
    """The bytes of a file's chunks."""
    return int.from_bytes(segment, "little")


class ZarrBlocks(BlockFiles):
    """Writes the files that blocks fill; `levels` are those that have such files, by index."""

    def __init__(self, store: str, levels: dict[int, LevelFiles]) -> None:
        self._store, self._levels = store, levels
        self.seconds = 0.0

    @contextlib.contextmanager
    def divert(self, block: Block, emit: Emit) -> Iterator[Emit]:
        """See `BlockFiles`."""
        shards: dict[tuple[int, int, int, int], ShardWriter] = {}

        def put(key: Key, segment: bytes) -> None:
            level, plane, row, column = key
            files = self._levels.get(level)
            if files is None:
                emit(key, segment)
                return
            start = perf_counter()
            step = files.side or 1
            first = level, plane, row - row % step, column - column % step
            shard = shards.get(first)
            if shard is None:
                shard = shards[first] = _shard(files, *first[1:])
            try:
                shard.add(row % step, column % step, files.chunk(segment))
            except OSError as error:
                raise OutputError(f"can't write {self._store!r}: {error.strerror or error}") from error
            self.seconds += perf_counter() - start
            if shard.complete:
                del shards[first]
                emit(first, receipt(shard.nbytes))

        yield put
        assert not shards, f"block {block} has not filled {sorted(shards)}"


def _shard(files: LevelFiles, plane: int, row: int, column: int) -> ShardWriter:
    tiles, step = files.level.tiles, files.side or 1
    chunks = Size(min(step, tiles.height - row), min(step, tiles.width - column))
    return ShardWriter(files.path(plane, row, column), files.side, chunks)
