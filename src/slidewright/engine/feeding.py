"""The engine fed by the caller: tiles come when the caller has them, instead of being read when a worker is free.

The schedule's first pass is fed, and messages are handled while a tile is handed over, so there is no thread beside
the caller's, and a worker's failure is raised where the caller is. A block is one tile in the first pass, since
nothing says which tile comes next; the passes after it are as in any run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from slidewright.engine.coordinator import Coordinator
from slidewright.engine.inbox import Inbox
from slidewright.engine.inline import Inline
from slidewright.engine.run import Outcome, Run
from slidewright.engine.schedule import FedSweep, Schedule
from slidewright.pyramid.plan import Block
from slidewright.report import Progress
from slidewright.system.launcher import Launcher

SLOTS_PER_WORKER = 3  # one tile being encoded, one in advance, one being filled


class Feeder:
    """Encodes the tiles that a caller hands over, with worker processes or, where there is no launcher, without."""

    def __init__(
        self, run: Run, launcher: Launcher | None, report: Callable[[Progress], None] | None, inbox: Inbox
    ) -> None:
        self._run, self._inbox = run, inbox
        self._sweep = FedSweep(self._encoded)
        schedule = Schedule.fed(run, self._sweep)
        self._coordinator: Coordinator | None = None
        if launcher is None:
            self._inline = Inline(run, report, schedule)
        else:
            self._coordinator = Coordinator(run, launcher, report, schedule)
            try:
                self._coordinator.start()
            except BaseException:  # Ctrl-C, or a full disk: nobody has what could be closed yet, and memory would stay
                self._coordinator.close()
                raise

    def make_room(self) -> None:
        """Wait until the inbox has a free slot."""
        while self._inbox.full:
            self._wait()

    def feed(self, block: Block) -> None:
        """Have the block of a tile in the inbox encoded; with workers, this returns before it is."""
        self._sweep.feed(block)
        if self._coordinator is None:
            self._inline.turn()
        else:
            while self._coordinator.turn("encoding", 0.0):
                pass

    def finish(self, missing: Iterable[Block]) -> Outcome:
        """Encode what was never handed over, as background, and everything above; write the file."""
        for block in missing:
            self.feed(block)
            while self._sweep.waiting > self._run.n_workers:
                self._wait()
        self._sweep.end()
        return self._inline.finish() if self._coordinator is None else self._coordinator.finish()

    def close(self) -> None:
        """Let go of everything."""
        if self._coordinator is None:
            self._inline.close()
        else:
            self._coordinator.close()

    def _wait(self) -> None:
        if self._coordinator is None:
            self._inline.turn()
        else:
            self._coordinator.turn("encoding")

    def _encoded(self, block: Block) -> None:
        tile = self._run.plan.tile
        self._inbox.release(block.row * tile, block.column * tile, block.band)
