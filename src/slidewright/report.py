"""Values that tell what happened in a run: what the progress bar, the page about it, tests and benchmarks all read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from time import monotonic
from typing import Any, NamedTuple

from slidewright.geometry import Size


class Going(NamedTuple):
    """How much of a block that is not finished is done."""

    tiles: int = 0
    pixels: int = 0
    """Of level 0."""
    bytes: int = 0
    """Encoded, of all levels."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of a running conversion; passed to a `progress=` callback a few times a second and once at the end."""

    tiles_done: int
    tiles_total: int
    pixels_done: int
    """Of level 0."""
    pixels_total: int
    bytes_written: int
    """Encoded, over all levels."""
    seconds: float
    """Since the start of the run."""
    workers: int
    retries: int
    stage: str
    """"encoding", "writing" or "done"; on a Dask cluster without workers, "waiting for Dask workers"."""


UNUSED = "not used"
"""The value of an option that has no place in a run."""

ProgressOption = bool | Callable[[Progress], None]
"""True for a bar on a terminal and plain lines elsewhere, or what is called with snapshots."""


@dataclass(frozen=True, slots=True)
class LevelReport:
    """One level of the written file."""

    size: Size
    tiles: int
    bytes: int


RUN_STAGES = ("open", "start", "encoding", "writing", "finish")
"""The parts of a run, one after the other: until the source is open and all is decided, until the processes are
started, until every block is encoded, until the last byte is written, and checking, renaming.
"""


@dataclass(frozen=True, slots=True)
class Report:
    """What a finished conversion did.

    `stages` maps a stage name to seconds: those of `RUN_STAGES` add up to `seconds`; "read", "encode", "reduce",
    "scratch", "files" (of an OME-Zarr, written by workers) and "wait" are the workers', summed over them, "write" is
    the writer's, beside them. `peak_memory` is the
    highest sum of the proportional set sizes (PSS) of the run's processes that was sampled, in bytes, or None where the
    system does not tell.
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
    """Tiles of level 0 where the source's own are kept, byte for byte: all of them, or none. Counted with them are the
    few that had to be encoded anew all the same: at the edge, where it stores them smaller than a tile, and JPEGs of
    other colours than the first.
    """
    reused_levels: int = 0
    """Levels, from level 1 on, that are the source's own, byte for byte."""
    keeping: str = ""
    """What became of the source's own tiles and why, in words; empty for a source without any."""

    @property
    def megapixels_per_second(self) -> float:
        """Level-0 megapixels a second over the whole run."""
        size = self.levels[0].size
        return size.height * size.width / 1e6 / max(self.seconds, 1e-9)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        said = [f"{self.bytes / 1e6:,.2f} MB in {self.seconds:.2f} s", f"{self.megapixels_per_second:,.0f} Mpx/s"]
        said += [f"level 0 {self.keeping}"] if self.keeping else []
        said += [f"{self.retries} blocks done again"] if self.retries else []
        rows = [
            f"<tr><td>{number}<td>{level.size}<td>{level.tiles:,}<td>{level.bytes / 1e6:,.2f} MB"
            for number, level in enumerate(self.levels)
        ]
        return (
            f"<p><b>{escape(self.destination)}</b>: {escape(', '.join(said))}</p>"
            f"<table><tr><th>level<th>pixels<th>tiles<th>bytes{''.join(rows)}</table>"
            + "".join(f"<p>Warning: {escape(text)}</p>" for text in self.warnings)
        )


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
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The value of each option as the run uses it."""

    def block(
        self, worker: int, place: tuple[int, int, int], seconds: dict[str, float], nbytes: int, pixels: int
    ) -> None:
        """A block has just been finished."""
        self.blocks.append(BlockRecord(worker, place, monotonic() - self.started, seconds, nbytes, pixels))

    def death(self, worker: int, reason: str) -> None:
        """A worker has just died."""
        self.deaths.append(DeathRecord(worker, monotonic() - self.started, reason))
