"""Observations of a run: what the progress bar, the tests and the benchmarks all read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
    """Tiles, strips or chunks of the source that did not decode and were filled (`on_corrupt="fill"`)."""

    @property
    def megapixels_per_second(self) -> float:
        """Level-0 megapixels a second over the whole run."""
        size = self.levels[0].size
        return size.height * size.width / 1e6 / max(self.seconds, 1e-9)
