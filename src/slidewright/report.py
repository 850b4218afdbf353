"""Values that tell what happened in a run: what the progress bar, the page about it, tests and benchmarks all read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from slidewright.geometry import Size


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of a running conversion; passed to a `progress=` callback a few times a second and once at the end."""

    tiles_done: int
    tiles_total: int
    pixels_done: int
    """Level-0 pixels of finished blocks."""
    pixels_total: int
    bytes_written: int
    """Encoded bytes received by the writer, over all levels."""
    seconds: float
    """Since the start of the run."""
    workers: int
    retries: int
    stage: str
    """"encoding", "writing" or "done"."""


ProgressOption = bool | Callable[[Progress], None]
"""True for a bar on a terminal and plain lines elsewhere, or what is called with snapshots."""


@dataclass(frozen=True, slots=True)
class LevelReport:
    """One level of the written file."""

    size: Size
    tiles: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a finished conversion did.

    `stages` maps a stage name ("read", "encode", "reduce", "scratch", "wait" of the workers, summed over them;
    "write" of the writer; "start", "encoding", "finish" of the run) to seconds. `peak_memory` is the highest sum of
    the proportional set sizes (PSS) of the run's processes that was sampled, in bytes, or None where the system does
    not tell.
    """

    destination: str
    levels: tuple[LevelReport, ...]
    bytes: int
    seconds: float
    n_workers: int
    block_tiles: int
    retries: int
    peak_memory: int | None
    stages: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    corrupt_tiles: int = 0
    """Tiles, strips or chunks of the source that did not decode and were filled (`on_corrupt="fill"`), or kept as they
    are and filled in the levels above.
    """
    kept_tiles: int = 0
    """Tiles of level 0 that are the source's own, byte for byte: all of them, or none."""
    reused_levels: int = 0
    """Levels, from level 1 on, that are the source's own, byte for byte."""
    keeping: str = ""
    """What became of the source's own tiles and why, in words; empty for a source without any."""

    @property
    def megapixels_per_second(self) -> float:
        """Level-0 megapixels a second over the whole run."""
        size = self.levels[0].size
        return size.height * size.width / 1e6 / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """One finished block."""

    worker: int
    """The number of the worker's seat."""
    place: tuple[int, int, int]
    """(pass, row, column) of the block."""
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
    """Who did which block when; apart from `Report`, so that a run that nobody draws a page of pays nothing."""

    started: float = field(default_factory=monotonic)
    """`time.monotonic()` when the caller's wait began."""
    blocks: list[BlockRecord] = field(default_factory=list)
    deaths: list[DeathRecord] = field(default_factory=list)

    def block(
        self, worker: int, place: tuple[int, int, int], seconds: dict[str, float], nbytes: int, pixels: int
    ) -> None:
        """A block has just been finished."""
        self.blocks.append(BlockRecord(worker, place, monotonic() - self.started, seconds, nbytes, pixels))

    def death(self, worker: int, reason: str) -> None:
        """A worker has just died."""
        self.deaths.append(DeathRecord(worker, monotonic() - self.started, reason))
