"""The small slides of a batch, each converted whole by one of a few processes that stay.

A large slide is split among all cores. For a small one that costs more than it gains: two pipes, a ring and a writer
process for what takes 50 ms. A process that dies takes no slide along: its slide is tried again.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from time import monotonic
from typing import TYPE_CHECKING, Any

from slidewright.conversions import batch_slide
from slidewright.conversions.batch_slide import (
    FRESH_EVERY,
    PRELOAD,
    Announced,
    Line,
    Noted,
    Outcome,
    PoolJob,
    Task,
    failed,
)
from slidewright.conversions.destination import sweep_beside
from slidewright.conversions.opening import make_launcher
from slidewright.errors import RunError
from slidewright.system.early import LARGE_SOURCE
from slidewright.system.limits import available_memory, usable_cpus

if TYPE_CHECKING:
    from slidewright.conversions.manifest import Entry
    from slidewright.engine.messages import Pipe
    from slidewright.options import ConvertOptions
    from slidewright.report import Progress
    from slidewright.system.launcher import Child, Launcher

PROCESS_BYTES = 512 << 20
"""Of memory that each process must have for itself."""
MAX_DEATHS = 3
"""Of processes on one slide, before the slide is to blame."""
_LOOK = 1.0  # seconds between looks at who is gone, of which may have been told while another was started


@dataclass(eq=False)
class Slide:
    """A slide that waits, or that a process has."""

    entry: Entry
    before: Line | None
    deaths: int = 0
    begun: bool = False
    """Whether a process has got as far as to make files."""
    started: float = field(default_factory=monotonic)


@dataclass(eq=False)
class _Worker:
    child: Child
    slide: Slide | None = None
    served: int = 0


def is_small(entry: Entry) -> bool:
    """Whether a slide is one for the pool, as far as can be told without opening it."""
    options = entry.options
    if options.resume or options.engine == "dask" or options.timeout is not None:
        return False
    try:
        return os.path.isfile(entry.source) and os.path.getsize(entry.source) <= LARGE_SOURCE
    except OSError:
        return False


def count_processes(options: ConvertOptions, slides: int) -> int:
    """How many processes to convert so many small slides with; 0 where they are better done one after the other."""
    if options.n_workers == 0:
        return 0
    count = min(options.n_workers or usable_cpus(), slides, _room(options) // PROCESS_BYTES)
    return count if count > 1 or (options.n_workers and count) else 0


def _room(options: ConvertOptions) -> int:
    """Bytes of memory for all processes."""
    return options.memory_bytes if options.memory_bytes is not None else available_memory().bytes


class SlidePool:
    """The processes; a context manager, which ends them, and leaves nothing of a slide that one was at."""

    def __init__(self, options: ConvertOptions, n_processes: int) -> None:
        self._options, self._wanted = options, n_processes
        self._stack = contextlib.ExitStack()
        self._workers: dict[Pipe, _Worker] = {}
        self._idle_deaths = 0
        self._pid = os.getpid()
        self._launcher: Launcher

    def __enter__(self) -> SlidePool:
        launcher = self._stack.enter_context(make_launcher(self._options, PRELOAD))
        assert launcher is not None  # count_processes is 0 then
        self._launcher = launcher
        return self

    def __exit__(self, *_: object) -> None:
        busy = [worker.slide for worker in self._workers.values() if worker.slide is not None]
        self._stack.close()
        for slide in busy if os.getpid() == self._pid else ():  # else a fork, as of a callback of the caller's
            sweep_beside(slide.entry.destination)

    def run(self, slides: Sequence[Slide]) -> Iterator[tuple[Slide, Outcome | None, Progress | None]]:
        """Convert slides: each with what became of it and its last progress, as they are done; None where all cores
        should do it.
        """
        waiting = deque(slides)
        try:
            while waiting or self._busy:
                self._give_out(waiting)
                for worker in self._heard_of():
                    slide = worker.slide
                    answered = self._listen(worker, waiting)
                    if answered is not None:
                        assert slide is not None
                        yield (slide, *answered)
        except RunError:  # processes can't be started any more; what they had is done as large slides are
            rest = [*waiting, *(slide for slide in self._busy)]
            self._workers.clear()
            for slide in rest:
                yield slide, None, None

    @property
    def _busy(self) -> list[Slide]:
        return [worker.slide for worker in self._workers.values() if worker.slide is not None]

    def _heard_of(self) -> list[_Worker]:
        """Wait for workers that say something or are gone, and be it that their pipe does not end, since a fork of the
        caller's program lives that has it too.
        """
        came = wait([*self._workers, *self._launcher.waitable], _LOOK)
        if any(each not in self._workers for each in came):
            self._launcher.attend()
        gone = self._launcher.ended
        return [worker for pipe, worker in self._workers.items() if pipe in came or worker.child.pid in gone]

    def _give_out(self, waiting: deque[Slide]) -> None:
        while waiting and len(self._workers) < self._wanted and len(self._workers) < len(self._busy) + len(waiting):
            self._hire()
        for worker in self._workers.values():
            if worker.slide is None and waiting:
                worker.slide = waiting.popleft()
                worker.child.tell(Task(worker.slide.entry, worker.slide.before))

    def _hire(self) -> None:
        job = PoolJob(hushed=bool(logging.getLogger("tifffile").handlers))
        guard = max(PROCESS_BYTES, _room(self._options) // self._wanted)
        name = f"slidewright-s{len(self._workers)}"
        child = self._launcher.spawn(batch_slide.__name__, name, job, expendable=True, memory_guard=guard)
        self._workers[child.connection] = _Worker(child)

    def _listen(self, worker: _Worker, waiting: deque[Slide]) -> tuple[Outcome | None, Progress | None] | None:
        """Handle a message or a death; what became of the worker's slide, if it is done."""
        try:
            if worker.child.pid in self._launcher.ended and not worker.child.connection.poll():
                raise EOFError
            message: Any = worker.child.connection.recv()
        except (EOFError, OSError):
            return self._replace(worker, waiting)
        if isinstance(message, Announced):
            if worker.slide is not None:
                worker.slide.begun = True
            self._launcher.own(message.path)
            worker.child.tell(Noted())
            return None
        slide, worker.slide = worker.slide, None
        worker.served += 1
        outcome, progress = message
        assert slide is not None
        failed_at_work = slide.begun and outcome is not None and outcome.item.status == "failed"
        if worker.served >= FRESH_EVERY or outcome is None or failed_at_work:
            self._dismiss(worker)
        return _with_retries(outcome, slide.deaths), progress

    def _replace(self, worker: _Worker, waiting: deque[Slide]) -> tuple[Outcome, None] | None:
        """A process is dead: its slide is the next, unless several died on it."""
        reason, slide = self._launcher.reason(worker.child), worker.slide
        self._dismiss(worker)
        if slide is None:
            self._idle_deaths += 1
            if self._idle_deaths >= MAX_DEATHS:
                raise RunError(f"processes die before they get to work; the last: {reason}")
            return None
        slide.deaths += 1
        sweep_beside(slide.entry.destination)
        if slide.deaths < MAX_DEATHS:
            waiting.appendleft(slide)
            return None
        text = f"RunError: {MAX_DEATHS} processes died on this slide; the last: {reason}; try it alone, with convert"
        return failed(slide.entry, text, monotonic() - slide.started, slide.deaths), None

    def _dismiss(self, worker: _Worker) -> None:
        del self._workers[worker.child.connection]
        worker.child.connection.close()


def _with_retries(outcome: Outcome | None, deaths: int) -> Outcome | None:
    """The outcome, with the processes that died on the slide counted."""
    if outcome is None or not deaths:
        return outcome
    item = replace(outcome.item, retries=outcome.item.retries + deaths)
    return Outcome(item, None if outcome.line is None else {**outcome.line, "retries": item.retries})
