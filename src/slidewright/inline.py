"""A run without any child process (`n_workers=0`): the same blocks and the same writer, taking turns; for debugging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter

from slidewright.coordinator import Outcome, Run
from slidewright.plan import Block, Key
from slidewright.report import Progress
from slidewright.segments import SegmentStore
from slidewright.sources.filling import drain
from slidewright.tiff import write_pyramid
from slidewright.worker import BlockRunner


def execute_inline(run: Run, report: Callable[[Progress], None] | None) -> Outcome:
    """Encode a block whenever the writer asks for a segment that is not there yet."""
    outcome, plan = Outcome(), run.layout.plan
    if run.scratch is not None:
        run.scratch.create()
    store = SegmentStore(plan, run.store_bytes, run.temporary)
    runner = BlockRunner(run.work)
    blocks = _blocks(run)

    def emit(key: Key, segment: bytes) -> None:
        store.add(key, segment)
        outcome.tiles_done += 1

    def take(key: Key) -> bytes:
        while (segment := store.take(key)) is None:
            block = next(blocks)
            before, received = runner.seconds, store.received_bytes
            runner.run(block, emit)
            region = plan.region(block)
            pixels = 0 if block.pass_index else region.height * region.width
            outcome.pixels_done += pixels
            if run.recorder is not None:
                seconds = {name: value - before[name] for name, value in runner.seconds.items()}
                run.recorder.block(0, block, seconds, store.received_bytes - received, pixels)
            if report is not None:
                outcome.bytes_received = store.received_bytes
                report(outcome.progress(run, "encoding", 0))
        return segment

    begin = perf_counter()
    try:
        outcome.level_bytes = write_pyramid(run.partial, run.layout, take)
        outcome.seconds.update(runner.seconds)
        outcome.seconds["write"] = perf_counter() - begin - sum(runner.seconds.values())
    finally:
        runner.close()
        store.close()
        outcome.corrupt.update(drain(getattr(run.work.source, "found", {})))
    return outcome


def _blocks(run: Run) -> Iterator[Block]:
    for pas in run.layout.plan.passes:
        for number in range(pas.n_blocks):
            yield pas.block(number)
