"""The engine fed by the caller: tiles come when the caller has them, instead of being read when a worker is free.

Apart from the coordinator, which it drives step by step: messages are handled while a tile is handed over, so there is
no thread beside the caller's, and a worker's failure is raised where the caller is. A block is one tile in the first
pass, since nothing says which tile comes next; the passes after it are as in any run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Protocol

from slidewright.engine.coordinator import Coordinator, Outcome, Run
from slidewright.engine.inbox import Inbox
from slidewright.engine.segment_store import SegmentStore
from slidewright.engine.worker import BlockRunner
from slidewright.formats.tiff import write_pyramid
from slidewright.pyramid.plan import Block, Key
from slidewright.report import Progress
from slidewright.system.launcher import Launcher

SLOTS_PER_WORKER = 3  # one tile being encoded, one in advance, one being filled


class Feeder(Protocol):
    """What encodes the tiles that a caller hands over."""

    def make_room(self) -> None:
        """Wait until the inbox has a free slot."""

    def feed(self, block: Block) -> None:
        """Have the block of a tile in the inbox encoded; returns before it is."""

    def finish(self, missing: Iterable[Block]) -> Outcome:
        """Encode what was never handed over, as background, and everything above; write the file."""

    def close(self) -> None:
        """Let go of everything."""


class FedCoordinator(Coordinator):
    """A coordinator whose first pass is fed."""

    def __init__(
        self, run: Run, launcher: Launcher, report: Callable[[Progress], None] | None, inbox: Inbox, tile: int
    ) -> None:
        super().__init__(run, launcher, report)
        self._inbox, self._tile = inbox, tile
        self._unfinished = 0
        self._start()

    def make_room(self) -> None:
        """See `Feeder`."""
        while self._inbox.full:
            self._wait()

    def feed(self, block: Block) -> None:
        """See `Feeder`."""
        self._enqueue(block)
        while self._turn("encoding", self._encoded, 0.0):
            pass

    def finish(self, missing: Iterable[Block]) -> Outcome:
        """See `Feeder`."""
        for block in missing:
            self._enqueue(block)
            while len(self._queue) > len(self._seats):
                self._wait()
        while self._unfinished:
            self._wait()
        for pas in self._run.layout.plan.passes[1:]:
            self._sweep(pas)
        return self._conclude()

    def close(self) -> None:
        """See `Feeder`."""
        self._ring.close()

    def _wait(self) -> None:
        """Wait for whatever comes next. Whoever takes the seat of a dead worker has no block yet, and if all have died,
        none will be finished, after which they would be given some.
        """
        self._give_out()
        self._turn("encoding", self._encoded)

    def _enqueue(self, block: Block) -> None:
        self._unfinished += 1
        self._queue.append(block)
        self._give_out()

    def _encoded(self, block: Block) -> None:
        self._unfinished -= 1
        self._inbox.release(block.row * self._tile, block.column * self._tile)
        self._give_out()

    def _give_out(self, remaining: int = 1 << 30) -> None:
        super()._give_out(remaining)


class InlineFeeder:
    """Encodes each tile as it comes, in this process (`n_workers=0`); the segments wait for the end."""

    def __init__(self, run: Run, report: Callable[[Progress], None] | None, inbox: Inbox, tile: int) -> None:
        self._run, self._report, self._inbox, self._tile = run, report, inbox, tile
        self._outcome = Outcome()
        if run.scratch is not None:
            run.scratch.create()
        self._store = SegmentStore(run.layout.plan, run.store_bytes, run.temporary)
        self._runner = BlockRunner(run.work)

    def make_room(self) -> None:
        """There always is."""

    def feed(self, block: Block) -> None:
        """See `Feeder`."""
        self._runner.run(block, self._emit)
        if block.pass_index == 0:
            self._inbox.release(block.row * self._tile, block.column * self._tile)
            region = self._run.layout.plan.region(block)
            self._outcome.pixels_done += region.height * region.width
        if self._report is not None:
            self._report(self._outcome.progress(self._run, "encoding", 0))

    def finish(self, missing: Iterable[Block]) -> Outcome:
        """See `Feeder`."""
        for block in missing:
            self.feed(block)
        for pas in self._run.layout.plan.passes[1:]:
            for number in range(pas.n_blocks):
                self.feed(pas.block(number))
        begin = perf_counter()
        self._outcome.level_bytes = write_pyramid(self._run.partial, self._run.layout, self._take)
        self._outcome.seconds.update(self._runner.seconds)
        self._outcome.seconds["write"] = perf_counter() - begin
        return self._outcome

    def close(self) -> None:
        """See `Feeder`."""
        self._runner.close()
        self._store.close()

    def _emit(self, key: Key, segment: bytes) -> None:
        self._store.add(key, segment)
        self._outcome.tiles_done += 1
        self._outcome.bytes_received += len(segment)

    def _take(self, key: Key) -> bytes:
        segment = self._store.take(key)
        assert segment is not None, "every block has been encoded"
        return segment
