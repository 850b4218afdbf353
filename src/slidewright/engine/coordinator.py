"""The coordinator: gives blocks to workers, passes slots between workers and the writer, and watches everybody's life.

It runs in the caller's process. Every other process has one pipe to it, and it waits on all of them at once; a
process that dies shows as the end of its pipe, at once. Since every slot and every block passes through here, the
coordinator knows what a dead worker had: its slots go to its successor, its block is done again. Nobody waits for
anybody whose death nobody would see.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from time import monotonic
from typing import Any

from slidewright.engine import writer
from slidewright.engine.crew import OUT_OF_MEMORY, Crew, Seat
from slidewright.engine.messages import (
    Done,
    Failed,
    Filled,
    NoMemory,
    NoMore,
    Ready,
    SlotFree,
    SlotFull,
    Working,
    Written,
)
from slidewright.engine.ring import SLOT_BYTES
from slidewright.engine.run import Outcome, Run
from slidewright.engine.schedule import Schedule
from slidewright.engine.writer import WriterJob
from slidewright.errors import RunError, SlidewrightError
from slidewright.report import Going, Progress
from slidewright.system.forks import refuse_fork
from slidewright.system.launcher import Child, Launcher
from slidewright.system.limits import proportional_memory
from slidewright.system.shared_memory import SharedBuffer

_TICK = 0.25  # seconds between progress reports
_AT_WRITER = 64  # slots at once: a pipe holds 278 messages on Linux, and of two full ones nobody would read either
_MEMORY_TICK = (
    0.4  # seconds between samples of memory at first; later an eighth of the time gone by: each costs 2 to 9 ms
)


class Coordinator:
    """Runs a schedule with worker processes; `report` is called with a snapshot a few times a second.

    `execute` does it all. `PyramidWriter`, which feeds the schedule, goes step by step: `start`, then `turn` while it
    waits for room, then `finish`.
    """

    def __init__(
        self, run: Run, launcher: Launcher, report: Callable[[Progress], None] | None, schedule: Schedule | None = None
    ) -> None:
        self._run, self._launcher, self._report, self._pid = run, launcher, report, os.getpid()
        self.outcome = Outcome()
        self._schedule = schedule or Schedule.pulled(run)
        self._ring = SharedBuffer.allocate(run.n_workers * run.slots_per_worker * SLOT_BYTES, run.temporary)
        try:
            self._crew = Crew(run, launcher, self._ring, self._schedule, self.outcome)
        except BaseException:  # Ctrl-C: nobody has yet what could be closed, and the memory would stay
            self._ring.close()
            raise
        self._writer: Child | None = None
        self._written = False
        self._for_writer: deque[SlotFull | Filled | NoMore] = deque()
        self._at_writer = 0
        self._ticked, self._sampled = 0.0, monotonic()

    def execute(self) -> Outcome:
        """Run to the end: every pass, then the writer's last word.

        Raises
        ------
        SlidewrightError
            What a worker or the writer reported, or RunError when processes died; the launcher must then be closed.
        """
        try:
            self.start()
            return self.finish()
        finally:
            self.close()

    def start(self) -> None:
        """Make the stores of reduced levels, and start every process."""
        run = self._run
        self.outcome.lap(run, "open")
        if run.levels is not None:
            run.levels.create()
        for number in range(run.n_workers):
            self._crew.hire(number)
        job = WriterJob(replace(run, recorder=None), self._ring)
        self._writer = self._launcher.spawn(writer.__name__, "slidewright-wri", job)
        self.outcome.lap(run, "start")

    def finish(self) -> Outcome:
        """Go on until every block is done, send the workers home and wait for the writer."""
        while not self._schedule.finished:
            self.turn("encoding")
        self.outcome.lap(self._run, "encoding")
        self._sample_memory()
        self._crew.dismiss()
        self._tell_writer(NoMore())
        while not self._written:
            self.turn("writing")
        self.outcome.lap(self._run, "writing")
        return self.outcome

    def close(self) -> None:
        """Give the ring back."""
        self._ring.close()

    def turn(self, stage: str, seconds: float = _TICK) -> bool:
        """Give out what there is, wait for whatever comes next, and handle it; whether anything came within these
        seconds.
        """
        assert self._writer is not None
        refuse_fork(self._pid)
        self._crew.give_out()
        if stage == "encoding" and not self._crew.busy and seconds and len(self._crew):
            raise RunError("no worker has anything to do, yet blocks are missing; this is an error of slidewright")
        watched: list[Any] = [*self._crew, *self._launcher.waitable]
        if not self._written:  # the writer may end as soon as it has said so, before the last worker is heard
            watched.append(self._writer.connection)
        before = monotonic()
        came = wait(watched, seconds)
        if (late := monotonic() - before - seconds) > _TICK:  # suspended, as a laptop or a job may be
            self._crew.pardon(late)
        for ready in came:
            if ready is self._writer.connection:
                self._listen_to_writer()
            elif ready in self._crew:
                self._listen_to_worker(self._crew.seat(ready))  # type: ignore[arg-type]
            elif ready in self._launcher.waitable:
                self._launcher.attend()
        self._replace_silent()
        if self._run.timeout is not None:
            self._crew.end_overdue(self._run.timeout)
        self._tick(stage)
        return bool(came)

    def _listen_to_worker(self, seat: Seat) -> None:
        try:
            message = seat.child.connection.recv()
        except (EOFError, OSError):
            self._crew.replace(seat)
            return
        match message:
            case SlotFull():
                seat.at_writer.add(message.slot)
                self._tell_writer(message._replace(sender=seat.sender))
            case Done(block, nbytes, spent):
                seat.block, seat.next_block, seat.going = seat.next_block, None, Going()
                seat.since = monotonic()
                self.outcome.count(self._run, seat.number, block, nbytes, spent)
                self._schedule.done(block)
            case Working(going):
                seat.going = going
            case Ready():
                seat.since = monotonic()
            case Filled():
                self.outcome.corrupt.update(message.places)
                if self._run.shards is not None:
                    self._tell_writer(message)
            case NoMemory():
                seat.fate = OUT_OF_MEMORY
            case Failed():
                raise message.error()

    def _replace_silent(self) -> None:
        """Replace the workers that are gone and whose pipe does not end: the caller's code forked, and that fork lives.
        The writer may have such a fork too, but no successor.
        """
        gone = self._launcher.ended
        for seat in self._crew.seats if gone else ():
            if seat.child.pid in gone and not seat.child.connection.poll():
                self._crew.replace(seat)
        writer = self._writer
        if writer is not None and writer.pid in gone and not self._written and not writer.connection.poll():
            raise self._writer_died()

    def _listen_to_writer(self) -> None:
        assert self._writer is not None
        try:
            message = self._writer.connection.recv()
        except (EOFError, OSError):
            raise self._writer_died() from None
        self._heard_from_writer(message)
        self._send_to_writer()

    def _heard_from_writer(self, message: object) -> None:
        match message:
            case SlotFree(slot):
                self._at_writer -= 1
                self._crew.return_slot(slot)
            case Written():
                self.outcome.level_bytes = message.level_bytes
                self.outcome.seconds["write"] = message.seconds
                self._written = True
            case Failed():
                raise message.error()

    def _tell_writer(self, message: SlotFull | Filled | NoMore) -> None:
        self._for_writer.append(message)
        self._send_to_writer()

    def _send_to_writer(self) -> None:
        """Send what waits for the writer, as long as it has few slots: its answers must find room in its pipe, or it
        would wait for this process, and this process for it.
        """
        while self._for_writer and (self._at_writer < _AT_WRITER or self._written):
            message = self._for_writer.popleft()
            self._at_writer += isinstance(message, SlotFull)
            self._send_one(message)

    def _send_one(self, message: SlotFull | Filled | NoMore) -> None:
        assert self._writer is not None
        try:
            if not self._written:
                self._writer.connection.send(message)
        except OSError:
            self._last_words()
            if not self._written:
                raise self._writer_died() from None
        if self._written and isinstance(message, SlotFull):  # sent twice: by a worker that died late, its successor
            self._crew.return_slot(message.slot)

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
        if self._crew.died_of_memory(reason):
            reason = f"{OUT_OF_MEMORY} and was killed by the kernel; use fewer workers or give the job more memory"
        return RunError(f"the writer process died: {reason}; nothing was written, run again")

    def _tick(self, stage: str) -> None:
        now = monotonic()
        if now - self._sampled >= max(_MEMORY_TICK, (now - self._run.started) / 8):
            self._sampled = now
            self._sample_memory()
        if self._report is not None and now - self._ticked >= _TICK:
            self._ticked = now
            self._report(self.outcome.progress(self._run, stage, len(self._crew), self._crew.going))
            refuse_fork(self._pid)

    def _sample_memory(self) -> None:
        pids = [os.getpid(), *self._crew.pids, *self._launcher.helpers]
        if self._writer is not None and self._writer.pid is not None:
            pids.append(self._writer.pid)
        total = proportional_memory(pids)
        if total is not None:
            self.outcome.peak_memory = max(self.outcome.peak_memory or 0, total)
