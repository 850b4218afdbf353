"""What a run is made of, decided before it starts, and what it turned out to be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TYPE_CHECKING

from slidewright.report import Progress, Recorder

if TYPE_CHECKING:
    from slidewright.codecs import Encoding
    from slidewright.engine.memory_budget import MemoryPlan
    from slidewright.formats.base import Format, ImageDescription
    from slidewright.pyramid.block import BlockMaker
    from slidewright.pyramid.level_store import Scratch
    from slidewright.pyramid.plan import Block, Pass, Plan
    from slidewright.report import Going
    from slidewright.shards.plan import ShardPlan
    from slidewright.sources.base import CorruptPlace, Source


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run is made of: one value, for the caller's process, the workers and the writer."""

    source: Source
    """As the engine takes it: adapted to what its pixels become."""
    image: ImageDescription
    """What the file will be: the plan, the encoding, and what it says besides its pixels."""
    format: Format
    memory: MemoryPlan
    n_workers: int
    """Worker processes; 0 for a run in this process."""
    threads: int
    """That encode blocks in a run in this process."""
    temporary: str
    """The folder for temporary files."""
    started: float
    """`time.monotonic()` when the caller's wait began."""
    timeout: float | None = None
    """Seconds that a worker may take for one block."""
    levels: Scratch | None = None
    """The stores of reduced levels, where a pass hands any on."""
    output: str | None = None
    """What the writer writes, under a name of its own; None for a run that makes shards alone."""
    shards: ShardPlan | None = None
    """Shards to find and to make; None for a run without any."""
    reused: tuple[Source, ...] = ()
    """The source's own reduced levels that are copied, from level 1 on."""
    keeping: str = ""
    """What becomes of the source's own tiles and why, in words."""
    recorder: Recorder | None = None
    """Is told of every block and every death, for a report."""

    @property
    def plan(self) -> Plan:
        """How the pyramid is cut."""
        return self.image.plan

    @property
    def encoding(self) -> Encoding:
        """How tiles are encoded."""
        return self.image.encoding

    @property
    def at_once(self) -> int:
        """Blocks that are encoded at the same time."""
        return max(self.n_workers, self.threads)

    @property
    def slots_per_worker(self) -> int:
        """Slots of the ring that each worker has."""
        return self.memory.slots_per_worker

    def maker(self) -> BlockMaker:
        """What makes the segments of blocks in this process."""
        from slidewright.pyramid.block import BlockEncoder

        pack, sparse = self.format.packer(self.encoding), self.source.info.sparse
        return BlockEncoder(self.plan, self.encoding, pack, sparse=sparse, kept=self.image.kept)

    def sweeps(self) -> Iterator[tuple[Pass, Sequence[int]]]:
        """Each pass with the numbers of the blocks to do in it, in order."""
        first, *others = self.plan.passes
        yield first, range(first.n_blocks) if self.shards is None else self.shards.numbers()
        if self.output is not None:
            for pas in others:
                yield pas, range(pas.n_blocks)


class SegmentRun(Run):
    """A run whose source gives segments and no pixels."""

    __slots__ = ()

    def maker(self) -> BlockMaker:
        """See `Run`."""
        from slidewright.pyramid.passing import SegmentPasser

        return SegmentPasser(self.plan)


@dataclass(slots=True)
class Outcome:
    """What a run turned out to be; grows while it runs."""

    level_bytes: list[int] = field(default_factory=list)
    retries: int = 0
    corrupt: dict[CorruptPlace, str] = field(default_factory=dict)
    """What was wrong with each part of the source that was filled with the background."""
    warnings: list[str] = field(default_factory=list)
    peak_memory: int | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    tiles_done: int = 0
    pixels_done: int = 0
    bytes_received: int = 0
    _lapped: float | None = None

    def lap(self, run: Run, name: str) -> None:
        """A part of the run ends, which began where the one before ended: together they are all the time it took."""
        now = monotonic()
        self.seconds[name] = now - (run.started if self._lapped is None else self._lapped)
        self._lapped = now

    def progress(self, run: Run, stage: str, workers: int, going: Sequence[Going] = ()) -> Progress:
        """A snapshot, with what is done of the blocks in hand."""
        pixels = self.pixels_done + sum(part.pixels for part in going)  # too many at the borders
        return Progress(
            tiles_done=self.tiles_done + sum(part.tiles for part in going),
            tiles_total=run.plan.n_tiles,
            pixels_done=min(pixels, run.plan.n_pixels),
            pixels_total=run.plan.n_pixels,
            bytes_written=self.bytes_received + sum(part.bytes for part in going),
            seconds=monotonic() - run.started,
            workers=workers,
            retries=self.retries,
            stage=stage,
        )

    def count(self, run: Run, worker: int, block: Block, nbytes: int, seconds: dict[str, float]) -> None:
        """Add a finished block: its seconds by stage, its tiles, and its pixels where they are of level 0."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
        self.bytes_received += nbytes
        self.tiles_done += sum(1 for _ in run.plan.tiles_of(block))
        region = run.plan.region(block)
        pixels = 0 if block.pass_index else region.height * region.width
        self.pixels_done += pixels
        if run.recorder is not None:
            run.recorder.block(worker, block[:3], seconds, nbytes, pixels)
