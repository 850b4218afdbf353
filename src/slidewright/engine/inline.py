"""A run without any child process (`n_workers=0`): the same blocks and the same writer, taking turns; for debugging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

from slidewright.engine.coordinator import Outcome, Run
from slidewright.engine.segment_store import SegmentStore
from slidewright.engine.worker import BlockRunner
from slidewright.engine.writer import collect
from slidewright.formats.tiff import write_pyramid
from slidewright.pyramid.plan import Block, Key
from slidewright.report import Progress
from slidewright.shards.log import Shelf
from slidewright.sources.wrappers.fill import CorruptPlace, drain


def execute_inline(run: Run, report: Callable[[Progress], None] | None) -> Outcome:
    """Encode a block whenever the writer asks for a segment that is not there yet."""
    if run.scratch is not None:
        run.scratch.create()
    engine = _Inline(run, report)
    try:
        engine.write()
    finally:
        engine.close()
    return engine.outcome


class _Inline:
    """Worker and writer in one."""

    def __init__(self, run: Run, report: Callable[[Progress], None] | None) -> None:
        self._run, self._report = run, report
        self.outcome = Outcome()
        self._shelf = Shelf(run.shards) if run.shards is not None else None
        log = None if self._shelf is None else self._shelf.add
        self._store = SegmentStore(run.layout.plan, run.store_bytes, run.temporary, log)
        self._runner = BlockRunner(run.work)
        self._found: dict[CorruptPlace, str] = getattr(run.work.source, "found", {})
        self._blocks = _blocks(run)

    def write(self) -> None:
        """Write the file, or the shards."""
        run, begin = self._run, perf_counter()
        if run.shards is None or run.shards.tiff:
            self.outcome.level_bytes = write_pyramid(run.partial, run.layout, self._take)
        else:
            assert self._shelf is not None
            self.outcome.level_bytes = collect(self._shelf, self._store, self._encode_next)
        self.outcome.seconds.update(self._runner.seconds)
        self.outcome.seconds["write"] = perf_counter() - begin - sum(self._runner.seconds.values())

    def close(self) -> None:
        """Close everything."""
        self._runner.close()
        self._store.close()
        if self._shelf is not None:
            self._shelf.close()
        self.outcome.corrupt.update(drain(self._found))

    def _take(self, key: Key) -> bytes:
        while True:
            segment = self._store.take(key)
            if segment is None and self._shelf is not None:
                segment = self._shelf.take(key)
            if segment is not None:
                return segment
            self._encode_next()

    def _encode_next(self) -> None:
        block, outcome, store = next(self._blocks), self.outcome, self._store
        before, received = self._runner.seconds, store.received_bytes
        if self._shelf is None:
            self._runner.run(block, store.add)
        else:
            self._encode_for(self._shelf, block)
        plan = self._run.layout.plan
        region = plan.region(block)
        pixels = 0 if block.pass_index else region.height * region.width
        outcome.pixels_done += pixels
        outcome.tiles_done += sum(1 for _ in plan.tiles_of(block))
        if self._run.recorder is not None:
            seconds = {name: value - before[name] for name, value in self._runner.seconds.items()}
            self._run.recorder.block(0, block[:3], seconds, store.received_bytes - received, pixels)
        if self._report is not None:
            outcome.bytes_received = store.received_bytes
            self._report(outcome.progress(self._run, "encoding", 0))

    def _encode_for(self, shelf: Shelf, block: Block) -> None:
        """Encode a block for a shard, which its last segment may complete: what the shard says of the block's chunk and
        of corrupt tiles must be known by then.
        """
        segments: list[tuple[Key, bytes]] = []
        self._runner.run(block, lambda key, segment: segments.append((key, segment)))
        found = drain(self._found)
        self.outcome.corrupt.update(found)
        shelf.note_corrupt(block, found)
        for key, segment in segments:
            self._store.add(key, segment)


def _blocks(run: Run) -> Iterator[Block]:
    for pas, numbers in run.sweeps():
        for number in numbers:
            yield pas.block(number)
