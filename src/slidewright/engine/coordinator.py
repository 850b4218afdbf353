"""The coordinator: gives blocks to workers, passes slots between workers and the writer, and watches everybody's life.

It runs in the caller's process. Every other process has one pipe to it, and it waits on all of them at once; a
process that dies shows as the end of its pipe, at once. Since every slot and every block passes through here, the
coordinator knows what a dead worker
had: its slots go to its successor, its block is done again. Nobody waits for anybody whose death nobody would see.

Rejected: queues shared by the workers (see ring.py); `concurrent.futures` (no place to hold back a result that has no
room, and a dead worker breaks the whole pool).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from time import monotonic, perf_counter
from typing import Any

from slidewright import errors
from slidewright.engine import worker, writer
from slidewright.engine.ring import SLOT_BYTES, SLOTS_PER_WORKER
from slidewright.engine.worker import BlockWork, WorkerJob
from slidewright.engine.writer import WriterJob
from slidewright.errors import RunError, SlidewrightError
from slidewright.formats.tiff import Layout
from slidewright.pyramid.level_store import Scratch
from slidewright.pyramid.plan import Block, Pass
from slidewright.report import Progress, Recorder
from slidewright.shards.plan import ShardPlan
from slidewright.sources.wrappers.fill import CorruptPlace
from slidewright.system.launcher import Child, Launcher
from slidewright.system.limits import count_memory_kills, proportional_memory
from slidewright.system.shared_memory import SharedBuffer

OUT_OF_MEMORY = "it ran out of memory"
MAX_DEATHS = 3  # of workers on one block, before the block is to blame
_TICK = 0.25  # seconds between progress reports
_MEMORY_TICK = (
    0.4  # seconds between samples of memory at first; later an eighth of the time gone by: each costs 2 to 9 ms
)


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run is made of, decided before it starts."""

    work: BlockWork
    layout: Layout
    partial: str
    scratch: Scratch | None
    temporary: str | None
    n_workers: int
    store_bytes: int
    started: float
    """`time.monotonic()` when the caller's wait began."""
    slots_per_worker: int = SLOTS_PER_WORKER
    memory_guard: int | None = None
    """Bytes beyond which a worker's own allocations fail; None for no such limit."""
    timeout: float | None = None
    """Seconds that a worker may take for one block."""
    recorder: Recorder | None = None
    """Is told of every block and every death, for a report."""
    shards: ShardPlan | None = None
    """Shards to find and to make; None for a run without any."""

    def sweeps(self) -> Iterator[tuple[Pass, Sequence[int]]]:
        """Each pass with the numbers of the blocks to do in it, in order."""
        first, *others = self.layout.plan.passes
        yield first, range(first.n_blocks) if self.shards is None else self.shards.numbers()
        if self.shards is None or self.shards.tiff:
            for pas in others:
                yield pas, range(pas.n_blocks)


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

    def progress(self, run: Run, stage: str, workers: int) -> Progress:
        """A snapshot."""
        plan = run.layout.plan
        return Progress(
            tiles_done=self.tiles_done,
            tiles_total=plan.n_tiles,
            pixels_done=self.pixels_done,
            pixels_total=plan.n_pixels,
            bytes_written=self.bytes_received,
            seconds=monotonic() - run.started,
            workers=workers,
            retries=self.retries,
            stage=stage,
        )

    def add_seconds(self, seconds: dict[str, float]) -> None:
        """Add a block's seconds by stage."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value


@dataclass(eq=False)
class _Seat:
    """A worker's place: its slots stay, the process in it may change."""

    number: int
    child: Child
    sender: int
    at_writer: set[int] = field(default_factory=set)
    block: Block | None = None
    next_block: Block | None = None
    since: float | None = None
    """When the process began with `block`, or last waited for the writer; None until it is ready."""
    fate: str | None = None
    """Why the process is about to die, where that is known before it has."""

    @property
    def blocks(self) -> list[Block]:
        return [block for block in (self.block, self.next_block) if block is not None]


class Coordinator:
    """Runs one conversion with worker processes; `report` is called with a snapshot a few times a second."""

    def __init__(self, run: Run, launcher: Launcher, report: Callable[[Progress], None] | None) -> None:
        self._run = run
        self._launcher = launcher
        self._report = report
        self.outcome = Outcome()
        self._ring = SharedBuffer.allocate(run.n_workers * run.slots_per_worker * SLOT_BYTES, run.temporary)
        self._queue: deque[Block] = deque()
        self._deaths: dict[Block, int] = {}
        self._senders = 0
        self._seats: dict[Any, _Seat] = {}
        self._writer: Child | None = None
        self._written = False
        self._idle_deaths = 0
        self._memory_kills = count_memory_kills()
        self._ticked = self._sampled = 0.0

    def execute(self) -> Outcome:
        """Run to the end: every pass, then the writer's last word.

        Raises
        ------
        SlidewrightError
            What a worker or the writer reported, or RunError when processes died; the launcher must then be closed.
        """
        try:
            self._start()
            for pas, numbers in self._run.sweeps():
                self._sweep(pas, numbers)
            return self._conclude()
        finally:
            self._ring.close()

    def _conclude(self) -> Outcome:
        """All blocks are done: send the workers home and wait for the writer."""
        self._dismiss()
        while not self._written:
            self._turn("writing")
        return self.outcome

    def _start(self) -> None:
        run = self._run
        begin = perf_counter()
        if run.scratch is not None:
            run.scratch.create()
        for number in range(run.n_workers):
            self._hire(number)
        job = WriterJob(run.layout, run.partial, self._ring, run.store_bytes, run.temporary, run.shards)
        self._writer = self._launcher.spawn(writer.__name__, "slidewright-wri", job)
        self.outcome.seconds["start"] = perf_counter() - begin

    def _hire(self, number: int, at_writer: set[int] | None = None) -> None:
        """Put a fresh worker on a seat; the slots that are at the writer come later."""
        self._senders += 1
        away = at_writer or set()
        slots = range(number * self._run.slots_per_worker, (number + 1) * self._run.slots_per_worker)
        own = tuple(slot for slot in slots if slot not in away)
        job = WorkerJob(self._run.work, self._ring, own, self._run.memory_guard)
        child = self._launcher.spawn(worker.__name__, f"slidewright-w{number}", job, expendable=True)
        self._seats[child.connection] = _Seat(number, child, self._senders, away)

    def _sweep(self, pas: Pass, numbers: Sequence[int] | None = None) -> None:
        """One pass: give out these of its blocks, by default all, in order, until the last is done.

        Blocks run ahead of the first unfinished one by at most a row of blocks and a few more, which bounds what the
        writer has to hold.
        """
        numbers = range(pas.n_blocks) if numbers is None else numbers
        self._queue.clear()
        following, finished, oldest = 0, set[int](), 0
        window = pas.blocks.width + 2 * self._run.n_workers

        def done(block: Block) -> None:
            nonlocal oldest
            finished.add(pas.number(block))
            while oldest < len(numbers) and numbers[oldest] in finished:
                finished.remove(numbers[oldest])
                oldest += 1

        while oldest < len(numbers):
            while len(self._queue) < 2 * len(self._seats) and following < min(len(numbers), oldest + window):
                self._queue.append(pas.block(numbers[following]))
                following += 1
            self._give_out(len(numbers) - following)
            self._turn("encoding", done)

    def _give_out(self, remaining: int) -> None:
        """Give each idle worker a block, and a second in advance while plenty remain, so that it never waits for an
        answer.
        """
        for seat in self._seats.values():
            if seat.block is None and self._queue:
                seat.block = self._queue.popleft()
                seat.since = monotonic() if seat.since is not None else None
                self._tell(seat, seat.block)
        for seat in self._seats.values():
            if seat.next_block is None and seat.block is not None and self._queue and remaining > len(self._seats):
                seat.next_block = self._queue.popleft()
                self._tell(seat, seat.next_block)

    def _tell(self, seat: _Seat, block: Block) -> None:
        try:
            seat.child.connection.send(("block", block))
        except OSError:
            pass  # it is dead, which its pipe's end will tell

    def _turn(self, stage: str, done: Callable[[Block], None] | None = None, seconds: float = _TICK) -> bool:
        """Wait for whatever comes next, and handle it; whether anything came within these seconds."""
        assert self._writer is not None
        watched = [*self._seats, *self._launcher.waitable]
        if not self._written:  # the writer may end as soon as it has said so, before the last worker is heard
            watched.append(self._writer.connection)
        came = wait(watched, seconds)
        for ready in came:
            if ready is self._writer.connection:
                self._listen_to_writer()
            elif ready in self._seats:
                self._listen_to_worker(self._seats[ready], done)
            elif ready in self._launcher.waitable:
                self._launcher.attend()
        if self._run.timeout is not None:
            self._end_overdue(self._run.timeout)
        self._tick(stage)
        return bool(came)

    def _end_overdue(self, timeout: float) -> None:
        """Kill the workers that hang; the time that one waits for the writer, all its slots being there, is not its
        own.
        """
        now = monotonic()
        for seat in self._seats.values():
            if seat.block is None or seat.since is None or seat.fate is not None:
                continue
            if len(seat.at_writer) == self._run.slots_per_worker:
                seat.since = now
            elif now - seat.since > timeout:
                seat.fate = f"it was not done with it after {timeout:g} s, the limit (timeout), and was ended"
                self._launcher.kill(seat.child)

    def _listen_to_worker(self, seat: _Seat, done: Callable[[Block], None] | None) -> None:
        try:
            message = seat.child.connection.recv()
        except (EOFError, OSError):
            self._replace(seat)
            return
        if message[0] == "slot":
            _, slot, entries = message
            seat.at_writer.add(slot)
            self._tell_writer(("slot", slot, entries, seat.sender))
        elif message[0] == "done":
            _, block, nbytes, seconds = message
            seat.block, seat.next_block = seat.next_block, None
            seat.since = monotonic()
            self.outcome.bytes_received += nbytes
            pixels = self._count(block, seconds)
            if self._run.recorder is not None:
                self._run.recorder.block(seat.number, block[:3], seconds, nbytes, pixels)
            assert done is not None
            done(block)
        elif message[0] == "ready":
            seat.since = monotonic()
        elif message[0] == "corrupt":
            self.outcome.corrupt.update(message[1])
            if self._run.shards is not None and seat.block is not None:
                self._tell_writer(("corrupt", seat.block, message[1]))
        elif message[0] == "no memory":
            seat.fate = OUT_OF_MEMORY
        else:
            _raise_failure(message)

    def _listen_to_writer(self) -> None:
        assert self._writer is not None
        try:
            message = self._writer.connection.recv()
        except (EOFError, OSError):
            raise self._writer_died() from None
        self._heard_from_writer(message)

    def _heard_from_writer(self, message: tuple[Any, ...]) -> None:
        if message[0] == "free":
            self._return_slot(message[1])
        elif message[0] == "written":
            _, self.outcome.level_bytes, _, seconds = message
            self.outcome.seconds["write"] = seconds
            self._written = True
        elif message[0] == "failed":
            _raise_failure(message)

    def _return_slot(self, slot: int) -> None:
        number = slot // self._run.slots_per_worker
        for seat in self._seats.values():
            if seat.number == number:
                seat.at_writer.discard(slot)
                try:
                    seat.child.connection.send(("free", slot))
                except OSError:
                    pass  # it is dead, and its successor takes every slot that is not at the writer
                return

    def _tell_writer(self, message: tuple[Any, ...]) -> None:
        assert self._writer is not None
        try:
            if not self._written:
                self._writer.connection.send(message)
        except OSError:
            self._last_words()
            if not self._written:
                raise self._writer_died() from None
        if self._written and message[0] == "slot":  # sent twice, by a worker that died late and by its successor
            self._return_slot(message[1])

    def _last_words(self) -> None:
        """Hear what the writer said before its pipe ended; raises what it reported."""
        assert self._writer is not None
        try:
            while self._writer.connection.poll():
                self._heard_from_writer(self._writer.connection.recv())
        except (EOFError, OSError):
            pass

    def _writer_died(self) -> SlidewrightError:
        assert self._writer is not None
        reason = self._launcher.reason(self._writer)
        if "SIGKILL" in reason and count_memory_kills() > self._memory_kills:
            reason = f"{OUT_OF_MEMORY} and was killed by the kernel; use fewer workers or give the job more memory"
        return RunError(f"the writer process died: {reason}; nothing was written, run again")

    def _replace(self, seat: _Seat) -> None:
        """A worker is dead: its blocks go back to the front of the queue, a fresh worker takes its seat, unless
        memory was short and others are left.
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
            self.outcome.retries += 1
        else:
            self._idle_deaths += 1
            if self._idle_deaths >= MAX_DEATHS:
                raise RunError(f"workers die before they get to work; the last: {reason}")
        self._queue.extendleft(reversed(seat.blocks))
        if reason.startswith(OUT_OF_MEMORY) and self._seats:
            self.outcome.warnings.append(
                f"memory ran out; the run went on with {len(self._seats)} of {self._run.n_workers} workers"
            )
        else:
            self._hire(seat.number, seat.at_writer)

    def _reason(self, seat: _Seat) -> str:
        """Why a worker died; that memory ran out where the kernel's count of such kills has grown."""
        if seat.fate is not None:
            return seat.fate
        reason = self._launcher.reason(seat.child)
        kills = count_memory_kills()
        if kills > self._memory_kills and "SIGKILL" in reason:
            self._memory_kills = kills
            return f"{OUT_OF_MEMORY} and was killed by the kernel"
        return reason

    def _deadly(self, block: Block, reason: str) -> RunError:
        """The error that says which block killed its workers."""
        plan = self._run.layout.plan
        return RunError(
            f"{MAX_DEATHS} workers died on the same block (row {block.row}, column {block.column} of pass "
            f"{block.pass_index}: {plan.region(block)} of level {plan.passes[block.pass_index].first} of "
            f"{self._run.work.source.info.name}); the last: {reason}; "
            + (
                "use fewer workers or a smaller tile_size, or give the job more memory"
                if reason.startswith(OUT_OF_MEMORY)
                else "try fewer workers, or check that part of the source"
            )
        )

    def _dismiss(self) -> None:
        """All blocks are done: workers end when their pipe does."""
        self._sample_memory()
        for connection in self._seats:
            connection.close()
        self._seats.clear()

    def _count(self, block: Block, seconds: dict[str, float]) -> int:
        """Add a finished block to the outcome; its pixels of level 0."""
        self.outcome.add_seconds(seconds)
        plan = self._run.layout.plan
        self.outcome.tiles_done += sum(1 for _ in plan.tiles_of(block))
        if block.pass_index:
            return 0
        region = plan.region(block)
        self.outcome.pixels_done += region.height * region.width
        return region.height * region.width

    def _tick(self, stage: str) -> None:
        now = monotonic()
        if now - self._sampled >= max(_MEMORY_TICK, (now - self._run.started) / 8):
            self._sampled = now
            self._sample_memory()
        if self._report is not None and now - self._ticked >= _TICK:
            self._ticked = now
            self._report(self.progress(stage))

    def progress(self, stage: str) -> Progress:
        """A snapshot."""
        return self.outcome.progress(self._run, stage, len(self._seats))

    def _sample_memory(self) -> None:
        children = [seat.child.pid for seat in self._seats.values()]
        children += [self._writer.pid if self._writer else None, *self._launcher.helpers]
        total = proportional_memory([os.getpid(), *(pid for pid in children if pid is not None)])
        if total is not None:
            self.outcome.peak_memory = max(self.outcome.peak_memory or 0, total)


def _raise_failure(message: tuple[str, str, str, str]) -> None:
    """Raise in the caller what a child reported, with the child's traceback as a note."""
    _, name, text, trace = message
    error: SlidewrightError = getattr(errors, name, RunError)(text)
    error.add_note(f"In the child process:\n{trace}")
    raise error
