"""The writer's access to shards: it logs arriving segments into those that are to be made, and takes segments out of
those that are there.

It works inside the writer process, beside the segment store, so that shards need no process or writer of their own: a
resumed run logs while it writes, an array task only logs, assembling only takes.
"""

from __future__ import annotations

import os
import secrets
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import ShardError
from slidewright.pyramid.level_store import Scratch
from slidewright.pyramid.plan import Block, Key, Plan
from slidewright.shards.file import ShardDamageError, ShardWriter, corrupt_rows, read_index, read_segment
from slidewright.shards.folder import shard_name, share, share_of
from slidewright.sources.wrappers.fill import CorruptPlace

_MAX_OPEN = 64  # shard files open at a time; a row of tiles touches few


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Which shards a run finds and which it makes; picklable."""

    folder: str
    job_id: str
    count: int
    plan: Plan
    scratch: Scratch | None
    found: tuple[int, ...]
    to_make: tuple[int, ...]
    tiff: bool = True
    """Whether the run writes a TIFF as well."""
    sync: bool = False
    """Whether to wait for the disk when a shard is finished."""
    corrupt: dict[CorruptPlace, str] = field(default_factory=dict)
    """What was filled before the first block, see `sources.filling.fill_corrupt`: it is noted in every shard."""
    token: str = field(default_factory=lambda: secrets.token_hex(4))
    """Tells what this run has begun to write from what others have."""

    def blocks(self, index: int) -> range:
        """The numbers of a shard's blocks."""
        return share(self.plan.passes[0].n_blocks, index, self.count)

    def found_corrupt(self) -> dict[CorruptPlace, str]:
        """What was filled with background when the shards were made that are there."""
        corrupt: dict[CorruptPlace, str] = {}
        for index in self.found:
            corrupt.update(read_index(self.path(index)).corrupt)
        return corrupt

    @property
    def part_to_make(self) -> float:
        """How much of the first pass is to be encoded, from 0 to 1."""
        return sum(len(self.blocks(index)) for index in self.to_make) / self.plan.passes[0].n_blocks

    def numbers(self) -> list[int]:
        """The numbers of the blocks that are to be encoded, in order."""
        return [number for index in self.to_make for number in self.blocks(index)]

    def n_tiles(self, indices: tuple[int, ...]) -> int:
        """Number of tiles in some shards."""
        first = self.plan.passes[0]
        return sum(1 for i in indices for number in self.blocks(i) for _ in self.plan.tiles_of(first.block(number)))

    def path(self, index: int) -> str:
        """Where a shard lies."""
        return os.path.join(self.folder, shard_name(index, self.count))

    def partial(self, index: int) -> str:
        """Where it lies until it is finished."""
        return f"{self.path(index)}.{self.token}.partial"


class Shelf:
    """The shards of one run: `add` logs a segment, `take` gives one that was there before."""

    def __init__(self, shards: ShardPlan) -> None:
        self._log = ShardLog(shards)
        self._stream = ShardStream(shards)
        self.level_bytes = [0] * len(shards.plan.levels)
        """Bytes logged, by level."""

    def add(self, key: Key, segment: bytes) -> None:
        """Log a segment; those of later passes are not kept."""
        if key[0] <= self._log.last_level:
            self.level_bytes[key[0]] += len(segment)
            self._log.add(key, segment)

    def note_corrupt(self, block: Block, found: dict[CorruptPlace, str]) -> None:
        """Note what of a block of the first pass was filled with background, before its last segment is added."""
        if found and not block.pass_index:
            self._log.note_corrupt(block, found)

    def take(self, key: Key) -> bytes | None:
        """A segment of a shard that was there when the run began, or None."""
        return self._stream.take(key)

    @property
    def complete(self) -> bool:
        """Whether every shard that was to be made is."""
        return self._log.complete

    def close(self) -> None:
        """Close files; unfinished shards are dropped."""
        self._log.close()
        self._stream.close()


class ShardLog:
    """Puts segments into the shards they belong to, and finishes each when its last has come.

    Blocks are given out in order, so few shards are open at any time.
    """

    def __init__(self, shards: ShardPlan) -> None:
        self._shards = shards
        self.last_level = shards.plan.passes[0].last
        self._waiting = list(reversed(shards.to_make))
        self._of: dict[Key, int] = {}
        self._writers: dict[int, ShardWriter] = {}
        self._missing: dict[int, int] = {}
        self._corrupt: dict[int, dict[CorruptPlace, str]] = {}
        self._make_empty()

    @property
    def complete(self) -> bool:
        """Whether there is no shard left to make."""
        return not self._waiting and not self._writers

    def add(self, key: Key, segment: bytes) -> None:
        """Log a segment of the first pass."""
        while key not in self._of:
            self._begin()
            self._make_empty()
        index = self._of.pop(key)
        self._writers[index].put(key, segment)
        self._missing[index] -= 1
        if not self._missing[index]:
            self._finish(index)

    def note_corrupt(self, block: Block, found: dict[CorruptPlace, str]) -> None:
        """See `Shelf`."""
        shards, first = self._shards, self._shards.plan.passes[0]
        index = share_of(first.n_blocks, first.number(block), shards.count)
        self._corrupt.setdefault(index, {}).update(found)

    def close(self) -> None:
        """Drop what is unfinished."""
        for writer in self._writers.values():
            writer.discard()
        self._writers.clear()

    def _begin(self) -> None:
        """Open the next shard."""
        index = self._waiting.pop()
        shards, first = self._shards, self._shards.plan.passes[0]
        path = shards.path(index)
        self._writers[index] = ShardWriter(path, shards.partial(index))
        keys = [key for number in shards.blocks(index) for key in shards.plan.tiles_of(first.block(number))]
        self._of.update(dict.fromkeys(keys, index))
        self._missing[index] = len(keys)
        if not keys:
            self._finish(index)

    def _make_empty(self) -> None:
        """Make the shards that come next, as long as they share nothing: shards may outnumber blocks."""
        while self._waiting and not self._shards.blocks(self._waiting[-1]):
            self._begin()

    def _finish(self, index: int) -> None:
        shards, first = self._shards, self._shards.plan.passes[0]
        chunks = []
        if shards.scratch is not None:
            for number in shards.blocks(index):
                crc = shards.scratch.chunk_crc(first.block(number))
                if crc is not None:
                    chunks.append((number, crc))
        footer = {
            **{"job": shards.job_id, "index": index, "count": shards.count, "chunks": chunks},
            "corrupt": corrupt_rows({**shards.corrupt, **self._corrupt.pop(index, {})}),
        }
        self._writers.pop(index).finish(footer, sync=shards.sync)
        del self._missing[index]


class ShardStream:
    """Segments of finished shards, in the order of the file, which is the order of keys: a cursor over their merged
    index, a few dozen bytes a segment.
    """

    def __init__(self, shards: ShardPlan) -> None:
        self._shards = shards
        self._next: tuple[Any, ...] | None = None
        self._files: OrderedDict[int, int] = OrderedDict()
        indices = {index: read_index(shards.path(index)) for index in shards.found}
        full = {index: found for index, found in indices.items() if len(found.keys)}
        if not full:
            return
        keys = np.concatenate([found.keys for found in full.values()])
        order = np.lexsort(keys.T[::-1])
        self._keys = keys[order]
        self._places = np.concatenate([found.places for found in full.values()])[order]
        owners = np.concatenate([np.full(len(found.keys), index, np.uint32) for index, found in full.items()])
        self._owners = owners[order]
        self._seek(0)

    def take(self, key: Key) -> bytes | None:
        """The segment of a key, or None when no finished shard has it; raises ShardError when it is damaged."""
        if key != self._next:
            if self._next is None or self._last < key < self._next:
                return None
            self._seek(bisect_left(_Rows(self._keys), key))
            if key != self._next:
                return None
        at = self._cursor
        self._seek(at + 1)
        owner = int(self._owners[at])
        try:
            return read_segment(self._file(owner), *self._places[at].tolist())
        except (OSError, ShardDamageError) as error:
            raise ShardError(f"{self._shards.path(owner)!r}: {error}") from error

    def _seek(self, at: int) -> None:
        """Move the cursor, and remember the keys on both of its sides: most are asked for in order."""
        self._cursor = at
        self._last = tuple(self._keys[at - 1].tolist()) if at else ()
        self._next = tuple(self._keys[at].tolist()) if at < len(self._keys) else (np.inf,)

    def close(self) -> None:
        """Close the files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def _file(self, index: int) -> int:
        if index in self._files:
            self._files.move_to_end(index)
            return self._files[index]
        if len(self._files) >= _MAX_OPEN:
            os.close(self._files.popitem(last=False)[1])
        self._files[index] = os.open(self._shards.path(index), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        return self._files[index]


class _Rows:
    """Rows of an array as a sequence of tuples, for `bisect`."""

    def __init__(self, keys: NDArray[np.uint32]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, at: int) -> tuple[int, ...]:
        return tuple(self._keys[at].tolist())
