"""A run without any child process (`n_workers=0`): the same schedule, blocks and outputs, taking turns in the caller's
process.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from slidewright.engine.block_runner import BlockRunner
from slidewright.engine.messages import Filled
from slidewright.engine.run import Outcome, Run
from slidewright.engine.schedule import Schedule
from slidewright.engine.writer import Outputs
from slidewright.errors import RunError
from slidewright.pyramid.plan import Key
from slidewright.report import Going, Progress


class Inline:
    """Coordinator, worker and writer in one; a block is encoded whenever the writer asks for a segment that is not
    there yet, or when the caller that feeds the schedule has `turn` called.
    """

    def __init__(
        self, run: Run, report: Callable[[Progress], None] | None, schedule: Schedule | None = None
    ) -> None:
        self._run, self._report = run, report
        self.outcome = Outcome()
        self._schedule = schedule or Schedule.pulled(run)
        self._outputs = Outputs(run)
        self._runner = BlockRunner(run, self._tell)
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
        """Encode the next block; whether there was one."""
        block = self._schedule.next()
        if block is None:
            return False
        before = self._runner.seconds
        segments: list[tuple[Key, bytes]] = []
        self._runner.run(block, lambda key, segment: segments.append((key, segment)))
        if places := self._runner.filled():
            self.outcome.corrupt.update(places)
            self._outputs.note_filled(Filled(block, places))  # before the last segment, which may complete a shard
        for key, segment in segments:
            self._outputs.store.add(key, segment)
        spent = {name: value - before[name] for name, value in self._runner.seconds.items()}
        self.outcome.count(self._run, 0, block, sum(len(segment) for _, segment in segments), spent)
        self._schedule.done(block)
        self._tell()
        return True

    def _tell(self, *going: Going) -> None:
        if self._report is not None:
            self._report(self.outcome.progress(self._run, "encoding", 0, going))

    def finish(self) -> Outcome:
        """Write everything, encoding what is left on the way."""
        begin, before = perf_counter(), sum(self._runner.seconds.values())
        self.outcome.level_bytes = self._outputs.write(self._turn_for_writer)
        spent = sum(self._runner.seconds.values()) - before
        self.outcome.seconds["write"] = perf_counter() - begin - spent
        self.outcome.lap(self._run, "encoding")
        return self.outcome

    def _turn_for_writer(self) -> None:
        """Encode the next block for a writer that misses a segment."""
        if not self.turn():
            raise RunError("every block is done, yet a segment is missing; this is an error of slidewright")

    def close(self) -> None:
        """Close everything."""
        self._runner.close()
        self._outputs.close()
