"""Which shards a run finds and which it makes, as one picklable value."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from slidewright.errors import ShardError
from slidewright.pyramid.block_files import SharedFolder
from slidewright.pyramid.level_store import Scratch
from slidewright.pyramid.plan import Plan
from slidewright.shards.file import ShardDamageError, ShardIndex, read_index
from slidewright.shards.folder import shard_name, share
from slidewright.sources.base import CorruptPlace
from slidewright.sources.watched import WatchedFiles
from slidewright.system.files import remove, token


@dataclass(frozen=True, slots=True)
class ShardPlan:
    """Which shards a run finds and which it makes; picklable."""

    folder: str
    job_id: str
    count: int
    plan: Plan
    levels: Scratch | None
    """The stores of what the shards' blocks hand on, where there are any."""
    found: tuple[int, ...]
    to_make: tuple[int, ...]
    sync: bool = False
    """Whether to wait for the disk when a shard is finished."""
    corrupt: dict[CorruptPlace, str] = field(default_factory=dict)
    """What was filled before the first block, see `sources.filling.fill_corrupt`: it is noted in every shard."""
    watched: WatchedFiles | None = None
    """The source's files: no shard is finished once one of them has changed."""
    changes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """`Job.changes`."""
    token: str = field(default_factory=token)
    """Tells what this run has begun to write from what others have."""

    @property
    def files(self) -> SharedFolder:
        """Where files of the output that belong to shards are written."""
        staging = f"{self.path(self.to_make[0] if self.to_make else 0)}.files.{self.token}.partial"
        return SharedFolder(os.path.join(self.folder, "files"), staging, self.sync)

    def blocks(self, index: int) -> range:
        """The numbers of a shard's blocks."""
        return share(self.plan.passes[0].n_blocks, index, self.count)

    def found_corrupt(self) -> dict[CorruptPlace, str]:
        """What was filled with background when the shards were made that are there."""
        corrupt: dict[CorruptPlace, str] = {}
        for index in self.found:
            corrupt.update(self.index_of(index).corrupt)
        return corrupt

    def index_of(self, index: int) -> ShardIndex:
        """What is in a shard that is there; raises ShardError where it can't be read any more."""
        try:
            return read_index(self.path(index))
        except (OSError, ShardDamageError) as error:
            raise ShardError(f"shard {self.path(index)!r} can't be read ({error}); make it again") from error

    def remove_made(self) -> None:
        """Remove the shards that this run was to make, as far as it has."""
        for index in self.to_make:
            remove(self.path(index))

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
