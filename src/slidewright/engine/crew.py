"""The workers of a run, each on a seat whose slots stay when the process in it dies.

Apart from the coordinator because who has which block and which slots, and what a death means, is a matter of its own.
Rejected: queues shared by the workers (see ring.py); `concurrent.futures` (no place to hold back a result that has no
room, and a dead worker breaks the whole pool).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from time import monotonic

from slidewright.engine import worker
from slidewright.engine.messages import DoBlock, Pipe, SlotFree
from slidewright.engine.run import Outcome, Run
from slidewright.engine.schedule import Schedule
from slidewright.engine.worker import WorkerJob
from slidewright.errors import RunError
from slidewright.pyramid.plan import Block
from slidewright.report import Going
from slidewright.system.launcher import Child, Launcher
from slidewright.system.limits import count_memory_kills
from slidewright.system.shared_memory import SharedBuffer

OUT_OF_MEMORY = "it ran out of memory"
_START_SECONDS = 60.0  # beyond the timeout, for a worker to begin: a busy machine may be slow to import
MAX_DEATHS = 3  # of workers on one block, before the block is to blame


@dataclass(eq=False)
class Seat:
    """A worker's place: its slots stay, the process in it may change."""

    number: int
    child: Child
    sender: int
    at_writer: set[int] = field(default_factory=set)
    block: Block | None = None
    next_block: Block | None = None
    since: float | None = None
    """When the process began with `block`, or last waited for the writer; None until it is ready."""
    hired: float = field(default_factory=monotonic)
    going: Going = field(default_factory=Going)
    """How far the process is with `block`."""
    fate: str | None = None
    """Why the process is about to die, where that is known before it has."""

    @property
    def blocks(self) -> list[Block]:
        """The blocks that it was given and has not finished."""
        return [block for block in (self.block, self.next_block) if block is not None]

    def tell(self, message: DoBlock | SlotFree) -> None:
        """Send a message, see `Child.tell`."""
        self.child.tell(message)


class Crew:
    """Hires workers, gives them blocks and slots, and replaces those that die."""

    def __init__(self, run: Run, launcher: Launcher, ring: SharedBuffer, schedule: Schedule, outcome: Outcome) -> None:
        self._run, self._launcher, self._ring, self._schedule = run, launcher, ring, schedule
        self._outcome = outcome
        self._carried = replace(run, recorder=None)
        self._seats: dict[Pipe, Seat] = {}
        self._senders = self._idle_deaths = 0
        self._deaths: dict[Block, int] = {}
        self._memory_kills = count_memory_kills()

    def __len__(self) -> int:
        return len(self._seats)

    def __iter__(self) -> Iterator[Pipe]:
        """The pipes of the living."""
        return iter(self._seats)

    def __contains__(self, pipe: object) -> bool:
        return pipe in self._seats

    @property
    def seats(self) -> list[Seat]:
        """Of the living, and of those whose death nobody has heard of."""
        return list(self._seats.values())

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are processes."""
        return [seat.child.pid for seat in self._seats.values() if seat.child.pid is not None]

    @property
    def going(self) -> list[Going]:
        """How far each is with its block."""
        return [seat.going for seat in self._seats.values()]

    @property
    def busy(self) -> bool:
        """Whether any worker has a block."""
        return any(seat.block is not None for seat in self._seats.values())

    def seat(self, pipe: Pipe) -> Seat:
        """Whose pipe it is."""
        return self._seats[pipe]

    def hire(self, number: int, at_writer: set[int] | None = None) -> None:
        """Put a fresh worker on a seat; the slots that are at the writer come later."""
        self._senders += 1
        away = at_writer or set()
        slots = range(number * self._run.slots_per_worker, (number + 1) * self._run.slots_per_worker)
        job = WorkerJob(self._carried, self._ring, tuple(slot for slot in slots if slot not in away))
        guard = self._run.memory.guard_bytes
        child = self._launcher.spawn(
            worker.__name__, f"slidewright-w{number}", job, expendable=True, memory_guard=guard
        )
        self._seats[child.connection] = Seat(number, child, self._senders, away)

    def give_out(self) -> None:
        """Give each idle worker a block, and a second in advance while plenty remain, so that it never waits for an
        answer.
        """
        for seat in self._seats.values():
            if seat.block is None:
                seat.block = self._schedule.next()
                if seat.block is None:
                    return
                seat.since = monotonic() if seat.since is not None else None
                seat.tell(DoBlock(seat.block))
        for seat in self._seats.values():
            if seat.next_block is None and seat.block is not None and self._schedule.plenty(len(self)):
                seat.next_block = self._schedule.next()
                if seat.next_block is None:
                    return
                seat.tell(DoBlock(seat.next_block))

    def return_slot(self, slot: int) -> None:
        """The writer has emptied a slot; a successor takes at once every slot that is not at the writer."""
        number = slot // self._run.slots_per_worker
        for seat in self._seats.values():
            if seat.number == number:
                seat.at_writer.discard(slot)
                seat.tell(SlotFree(slot))
                return

    def end_overdue(self, timeout: float) -> None:
        """Kill the workers that hang; the time that one waits for the writer, all its slots being there, is not its
        own.
        """
        now = monotonic()
        for seat in self._seats.values():
            if seat.block is None or seat.fate is not None:
                continue
            if seat.since is None:
                if now - seat.hired > timeout + _START_SECONDS and not seat.child.connection.poll():
                    seat.fate = f"it was not ready after {timeout + _START_SECONDS:g} s, and was ended"
                    self._launcher.kill(seat.child)
            elif len(seat.at_writer) == self._run.slots_per_worker:
                seat.since = now
            elif now - seat.since > timeout and not seat.child.connection.poll():  # what it has said is heard first
                seat.fate = f"it was not done with it after {timeout:g} s, the limit (timeout), and was ended"
                self._launcher.kill(seat.child)

    def pardon(self, seconds: float) -> None:
        """All were stopped for a while, which counts for nobody."""
        for seat in self._seats.values():
            seat.hired += seconds
            seat.since = None if seat.since is None else seat.since + seconds

    def replace(self, seat: Seat) -> None:
        """A worker is dead: its blocks go back to the front of the queue, a fresh worker takes its seat, unless
        memory was short and others are left.

        Raises
        ------
        RunError
            When several have died on the same block, or before they had any.
        """
        del self._seats[seat.child.connection]
        reason = self._reason(seat)
        seat.child.connection.close()
        if self._run.recorder is not None:
            self._run.recorder.death(seat.number, reason)
        if seat.block is not None:
            deaths = self._deaths[seat.block] = self._deaths.get(seat.block, 0) + 1
            if deaths >= MAX_DEATHS:
                raise self._deadly(seat.block, reason)
            self._outcome.retries += 1
        else:
            self._idle_deaths += 1
            if self._idle_deaths >= MAX_DEATHS:
                raise RunError(f"workers die before they get to work; the last: {reason}")
        self._schedule.give_back(seat.blocks)
        if reason.startswith(OUT_OF_MEMORY) and self._seats:
            self._outcome.warnings.append(
                f"memory ran out; the run went on with {len(self)} of {self._run.n_workers} workers"
            )
        else:
            self.hire(seat.number, seat.at_writer)

    def dismiss(self) -> None:
        """All blocks are done: workers end when their pipe does."""
        for pipe in self._seats:
            pipe.close()
        self._seats.clear()

    def died_of_memory(self, reason: str) -> bool:
        """Whether a process that was killed for this reason was killed by the kernel because memory was short: its
        count of such kills has grown.
        """
        kills = count_memory_kills()
        grown, self._memory_kills = kills > self._memory_kills, max(kills, self._memory_kills)
        return grown and "SIGKILL" in reason

    def _reason(self, seat: Seat) -> str:
        """Why a worker died."""
        if seat.fate is not None:
            return seat.fate
        reason = self._launcher.reason(seat.child)
        return f"{OUT_OF_MEMORY} and was killed by the kernel" if self.died_of_memory(reason) else reason

    def _deadly(self, block: Block, reason: str) -> RunError:
        """The error that says which block killed its workers."""
        plan = self._run.plan
        return RunError(
            f"{MAX_DEATHS} workers died on the same block (row {block.row}, column {block.column} of pass "
            f"{block.pass_index}: {plan.region(block)} of level {plan.passes[block.pass_index].first} of "
            f"{self._run.source.info.name}); the last: {reason}; "
            + (
                "use fewer workers or a smaller tile_size, or give the job more memory"
                if reason.startswith(OUT_OF_MEMORY)
                else "try fewer workers, or check that part of the source"
            )
        )
