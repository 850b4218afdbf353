"""The writer's access to shards: it logs arriving segments into those that are to be made, and takes segments out of
those that are there.

It works inside the writer process, beside the segment store, so that shards need no process or writer of their own: a
resumed run logs while it writes, an array task only logs, assembling only takes.
"""

from __future__ import annotations

from slidewright.errors import OutputError
from slidewright.pyramid.block_files import BlockFiles
from slidewright.pyramid.level_store import Scratch
from slidewright.pyramid.plan import Block, Key
from slidewright.shards.file import ShardWriter, corrupt_rows
from slidewright.shards.folder import share_of
from slidewright.shards.plan import ShardPlan
from slidewright.shards.stream import ShardStream
from slidewright.sources.base import CorruptPlace


class Shelf:
    """The shards of one run: `add` logs a segment, `take` gives one that was there before. Of `files` that blocks fill
    they have receipts.
    """

    def __init__(self, shards: ShardPlan, files: BlockFiles | None = None) -> None:
        self._log, self._files = ShardLog(shards), files
        self._stream = ShardStream(shards)
        self.level_bytes = [0] * len(shards.plan.levels)
        """Bytes logged, by level."""

    def add(self, key: Key, segment: bytes) -> None:
        """Log a segment; those of later passes are not kept."""
        if key[0] <= self._log.last_level:
            if self._files is not None and self._files.has_receipt(key):
                self.level_bytes[key[0]] += self._files.nbytes(segment)
            else:
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
        self.last_level = shards.plan.passes[0].top
        self._waiting = list(reversed(shards.to_make))
        self._of: dict[Key, int] = {}
        self._writers: dict[int, ShardWriter] = {}
        self._missing: dict[int, int] = {}
        self._corrupt: dict[int, dict[CorruptPlace, str]] = {}
        if shards.watched is not None:
            shards.watched.hold()  # in the writer's own process, until its end
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
        if shards.watched is not None:
            # A later run takes what has the shard's name for what the source has now. A task makes one alone.
            shards.watched.check(quick=not shards.sync)
        chunks = []
        if shards.levels is not None:
            for number in shards.blocks(index):
                crc = _crc_of(shards.levels, first.block(number))
                if crc is not None:
                    chunks.append((number, crc))
        footer = {
            **{"job": shards.job_id, "index": index, "count": shards.count, "chunks": chunks},
            "corrupt": corrupt_rows({**shards.corrupt, **self._corrupt.pop(index, {})}),
        }
        self._writers.pop(index).finish(footer, sync=shards.sync)
        del self._missing[index]


def _crc_of(levels: Scratch, block: Block) -> int | None:
    try:
        return levels.chunk_crc(block)
    except OSError as error:
        raise OutputError(f"can't read {levels.folder!r} back: {error.strerror or error}; check that disk") from error
