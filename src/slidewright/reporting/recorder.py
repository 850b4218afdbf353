"""What a run's report is made from: who did which block when. Kept apart so that a run without a report pays nothing.

The engine calls it once a block and once a death; it only appends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from time import monotonic

from slidewright.pyramid.plan import Block


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """One finished block."""

    worker: int
    """The number of the worker's seat."""
    block: Block
    ended: float
    """Seconds after the start of the run."""
    seconds: dict[str, float]
    """By stage."""
    bytes: int
    """Encoded, over all levels that the block made."""
    pixels: int
    """Of level 0; 0 in later passes, which read what the first has reduced."""

    @property
    def began(self) -> float:
        """When the worker began to wait for the block or to work on it."""
        return max(0.0, self.ended - sum(self.seconds.values()))


@dataclass(frozen=True, slots=True)
class DeathRecord:
    """A worker that died."""

    worker: int
    at: float
    reason: str


@dataclass(slots=True)
class Recorder:
    """The records of one run."""

    started: float = field(default_factory=monotonic)
    """`time.monotonic()` when the caller's wait began."""
    blocks: list[BlockRecord] = field(default_factory=list)
    deaths: list[DeathRecord] = field(default_factory=list)

    def block(self, worker: int, block: Block, seconds: dict[str, float], nbytes: int, pixels: int) -> None:
        """A block has just been finished."""
        self.blocks.append(BlockRecord(worker, block, monotonic() - self.started, seconds, nbytes, pixels))

    def death(self, worker: int, reason: str) -> None:
        """A worker has just died."""
        self.deaths.append(DeathRecord(worker, monotonic() - self.started, reason))
