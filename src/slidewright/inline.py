"""A run without any child process (`n_workers=0`): the same blocks and the same writer, taking turns; for debugging."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic, perf_counter

from slidewright.coordinator import Outcome, Run
from slidewright.plan import Block
from slidewright.report import Progress
from slidewright.segments import Key, SegmentStore
from slidewright.shelf import Shelf
from slidewright.tiff import write_pyramid
from slidewright.worker import BlockRunner
from slidewright.writer import collect


def execute_inline(run: Run, report: Callable[[Progress], None] | None) -> Outcome:
    """Encode a block whenever the writer asks for a segment that is not there yet."""
    outcome, plan = Outcome(), run.layout.plan
    if run.scratch is not None:
        run.scratch.create()
    shelf = Shelf(run.shards) if run.shards is not None else None
    store = SegmentStore(plan, run.store_bytes, run.temporary, None if shelf is None else shelf.add)
    runner = BlockRunner(run.work)
    blocks = _blocks(run)
    size = plan.levels[0].size

    def emit(level: int, row: int, column: int, segment: bytes) -> None:
        store.add((level, row, column), segment)
        outcome.tiles_done += 1

    def encode_next() -> None:
        block = next(blocks)
        runner.run(block, emit)
        if block.pass_index == 0:
            region = plan.region(block)
            outcome.pixels_done += region.height * region.width
        if report is not None:
            report(
                Progress(
                    tiles_done=outcome.tiles_done,
                    tiles_total=plan.n_tiles,
                    pixels_done=outcome.pixels_done,
                    pixels_total=size.height * size.width,
                    bytes_written=store.received_bytes,
                    seconds=monotonic() - run.started,
                    workers=0,
                    retries=0,
                    stage="encoding",
                )
            )

    def take(key: Key) -> bytes:
        while (segment := store.take(key)) is None and (shelf is None or (segment := shelf.take(key)) is None):
            encode_next()
        return segment

    begin = perf_counter()
    try:
        if run.shards is None or run.shards.tiff:
            outcome.level_bytes = write_pyramid(run.partial, run.layout, take)
        else:
            assert shelf is not None
            outcome.level_bytes = collect(shelf, store, encode_next)
        outcome.seconds.update(runner.seconds)
        outcome.seconds["write"] = perf_counter() - begin - sum(runner.seconds.values())
    finally:
        runner.close()
        store.close()
        if shelf is not None:
            shelf.close()
    return outcome


def _blocks(run: Run) -> Iterator[Block]:
    for pas, numbers in run.sweeps():
        for number in numbers:
            yield pas.block(number)
