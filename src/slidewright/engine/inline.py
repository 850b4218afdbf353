"""A run without any child process (`n_workers=0`): the same schedule, blocks and outputs in the caller's process, by
turns, or with a few threads that encode blocks (codecs let go of the interpreter's lock) while the caller's writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from time import perf_counter
from typing import NamedTuple

from slidewright.engine.block_runner import BlockRunner
from slidewright.engine.messages import Filled
from slidewright.engine.run import Outcome, Run
from slidewright.engine.schedule import Schedule
from slidewright.engine.writer import Outputs
from slidewright.errors import RunError
from slidewright.pyramid.plan import Block, Key
from slidewright.report import Going, Progress
from slidewright.sources.base import CorruptPlace
from slidewright.system.forks import refuse_fork
from slidewright.system.thread_pool import ThreadPool


class _Encoded(NamedTuple):
    """What a block became."""

    block: Block
    segments: list[tuple[Key, bytes]]
    """But for those that went to files of its own."""
    nbytes: int
    """Of all."""
    filled: dict[CorruptPlace, str]
    seconds: dict[str, float]


class Inline:
    """Coordinator, worker and writer in one; a block is encoded whenever the writer asks for a segment that is not
    there yet, or when the caller that feeds the schedule has `turn` called.
    """

    def __init__(
        self, run: Run, report: Callable[[Progress], None] | None, schedule: Schedule | None = None
    ) -> None:
        self._run, self._report, self._pid = run, report, os.getpid()
        self.outcome = Outcome()
        self._schedule = schedule or Schedule.pulled(run)
        self._outputs = Outputs(run)
        tell = self._tell if run.threads == 1 else _ignore  # a caller is told in its own thread
        self._runners = [BlockRunner(run, tell) for _ in range(run.threads)]
        self._idle = list(self._runners)
        self._pool = ThreadPool(run.threads, "slidewright-inline") if run.threads > 1 else None
        self._running: dict[Future[_Encoded], BlockRunner] = {}
        self._encoding = 0.0
        if run.levels is not None:
            run.levels.create()
        self.outcome.lap(run, "open")

    def execute(self) -> Outcome:
        """Run to the end."""
        try:
            return self.finish()
        finally:
            self.close()

    def turn(self) -> bool:
        """Encode the next block, or wait for one that a thread encodes; whether there was one."""
        refuse_fork(self._pid)
        begin = perf_counter()
        found = self._encode_one() if self._pool is None else self._await_one(self._pool)
        for encoded in found:
            self._take(encoded)
        if self._pool is not None:
            self._give_out(self._pool)  # so that threads encode while this one writes
        self._encoding += perf_counter() - begin
        return bool(found)

    def _encode_one(self) -> list[_Encoded]:
        block = self._schedule.next()
        return [] if block is None else [_encode(self._runners[0], block)]

    def _await_one(self, pool: ThreadPool) -> list[_Encoded]:
        """Wait for a thread to be done with its block."""
        self._give_out(pool)
        finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
        for future in finished:
            self._idle.append(self._running.pop(future))
        return [future.result() for future in finished]

    def _give_out(self, pool: ThreadPool) -> None:
        """Have each idle runner encode a block, as long as there are any."""
        while self._idle:
            block = self._schedule.next()
            if block is None:
                return
            runner = self._idle.pop()
            self._running[pool.submit(_encode, runner, block)] = runner

    def _take(self, encoded: _Encoded) -> None:
        """Keep a block's segments until the writer asks for them."""
        block, segments, nbytes, places, seconds = encoded
        if places:
            self.outcome.corrupt.update(places)
            self._outputs.note_filled(Filled(block, places))  # before the last segment, which may complete a shard
        for key, segment in segments:
            self._outputs.store.add(key, segment)
        self.outcome.count(self._run, 0, block, nbytes, seconds)
        self._schedule.done(block)
        self._tell()

    def _tell(self, *going: Going) -> None:
        if self._report is not None:
            self._report(self.outcome.progress(self._run, "encoding", 0, going))
            refuse_fork(self._pid)

    def finish(self) -> Outcome:
        """Write everything, encoding what is left on the way."""
        begin, before = perf_counter(), self._encoding
        self.outcome.level_bytes = self._outputs.write(self._turn_for_writer)
        self.outcome.seconds["write"] = perf_counter() - begin - (self._encoding - before)
        self.outcome.lap(self._run, "encoding")
        return self.outcome

    def _turn_for_writer(self) -> None:
        """Encode the next block for a writer that misses a segment."""
        if not self.turn():
            raise RunError("every block is done, yet a segment is missing; this is an error of slidewright")

    def close(self) -> None:
        """Close everything, once the blocks that threads are at are done."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for runner in self._runners:
            runner.close()
        self._outputs.close()


def _ignore(going: Going) -> None:
    """Nobody is told."""


def _encode(runner: BlockRunner, block: Block) -> _Encoded:
    before = runner.seconds
    segments: list[tuple[Key, bytes]] = []
    nbytes = runner.run(block, lambda key, segment: segments.append((key, segment)))
    spent = {name: value - before[name] for name, value in runner.seconds.items()}
    return _Encoded(block, segments, nbytes, runner.filled(), spent)
