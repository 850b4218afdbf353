"""Which block comes next: in order within a window (pulled), or as the caller hands its tiles over (fed).

A schedule is a list of sweeps, one a pass, and the next begins when every block of the one before is done, since it
reads what that hands on. The coordinator and the inline engine ask the same schedule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from slidewright.engine.run import Run
from slidewright.pyramid.plan import Block, Pass


class Sweep(ABC):
    """The blocks of one pass."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether every block is done and no more will come."""

    @property
    @abstractmethod
    def plenty(self) -> int:
        """How many blocks are left to give out, at least."""

    @abstractmethod
    def next(self) -> Block | None:
        """The next block to give out; None while there is none."""

    @abstractmethod
    def done(self, block: Block) -> None:
        """A block has been encoded."""


class PulledSweep(Sweep):
    """Blocks of a pass by number, in order. They run ahead of the first unfinished one by at most a row of blocks and a
    few more, which bounds what the writer has to hold.
    """

    def __init__(self, pas: Pass, numbers: Sequence[int], n_workers: int) -> None:
        self._pass, self._numbers = pas, numbers
        self._window = pas.blocks.width + 2 * n_workers
        self._following = self._oldest = 0
        self._ahead: set[int] = set()

    @property
    def finished(self) -> bool:
        """See `Sweep`."""
        return self._oldest == len(self._numbers)

    @property
    def plenty(self) -> int:
        """See `Sweep`."""
        return len(self._numbers) - self._following

    def next(self) -> Block | None:
        """See `Sweep`."""
        if self._following >= min(len(self._numbers), self._oldest + self._window):
            return None
        self._following += 1
        return self._pass.block(self._numbers[self._following - 1])

    def done(self, block: Block) -> None:
        """See `Sweep`."""
        self._ahead.add(self._pass.number(block))
        while self._oldest < len(self._numbers) and self._numbers[self._oldest] in self._ahead:
            self._ahead.remove(self._numbers[self._oldest])
            self._oldest += 1


class FedSweep(Sweep):
    """Blocks that the caller hands over, one after the other, until it says that no more will come."""

    def __init__(self, encoded: Callable[[Block], None]) -> None:
        """Take what is called with each block that is done."""
        self._encoded = encoded
        self._waiting: deque[Block] = deque()
        self._unfinished = 0
        self._ended = False

    @property
    def finished(self) -> bool:
        """See `Sweep`."""
        return self._ended and not self._unfinished

    @property
    def plenty(self) -> int:
        """See `Sweep`: nobody knows, so workers are given a block in advance."""
        return 1 << 30

    @property
    def waiting(self) -> int:
        """How many blocks have been handed over and not given out."""
        return len(self._waiting)

    def feed(self, block: Block) -> None:
        """Hand a block over."""
        self._unfinished += 1
        self._waiting.append(block)

    def end(self) -> None:
        """No more will come."""
        self._ended = True

    def next(self) -> Block | None:
        """See `Sweep`."""
        return self._waiting.popleft() if self._waiting else None

    def done(self, block: Block) -> None:
        """See `Sweep`."""
        self._unfinished -= 1
        self._encoded(block)


class Schedule:
    """The sweeps of a run, one after the other, and the blocks of dead workers, which come first."""

    def __init__(self, sweeps: Iterable[Sweep]) -> None:
        self._sweeps = deque(sweeps)
        self._again: deque[Block] = deque()

    @classmethod
    def pulled(cls, run: Run) -> Schedule:
        """Every block of a run, in order."""
        return cls(PulledSweep(pas, numbers, run.at_once) for pas, numbers in run.sweeps())

    @classmethod
    def fed(cls, run: Run, first: FedSweep) -> Schedule:
        """The first pass as it is fed, those after it in order."""
        others = (PulledSweep(pas, numbers, run.at_once) for pas, numbers in list(run.sweeps())[1:])
        return cls([first, *others])

    @property
    def finished(self) -> bool:
        """Whether every block is done."""
        self._advance()
        return not self._sweeps

    def plenty(self, workers: int) -> bool:
        """Whether so much is left that each worker may have a block in advance."""
        self._advance()
        return bool(self._sweeps) and self._sweeps[0].plenty > 2 * workers

    def next(self) -> Block | None:
        """The next block to give out; None while there is none."""
        if self._again:
            return self._again.popleft()
        self._advance()
        return self._sweeps[0].next() if self._sweeps else None

    def give_back(self, blocks: Sequence[Block]) -> None:
        """Blocks that a dead worker had: they are the next."""
        self._again.extendleft(reversed(blocks))

    def done(self, block: Block) -> None:
        """A block has been encoded."""
        self._sweeps[0].done(block)

    def _advance(self) -> None:
        while self._sweeps and self._sweeps[0].finished:
            self._sweeps.popleft()
