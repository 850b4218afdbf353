"""The worker's role: take a block, encode it into ring slots, hand its reduced piece to the scratch, say that it is
done.

A worker has one pipe, to the coordinator, and no lock in common with anybody. Messages in: ("block", block), ("free",
slot); the end of the pipe is the end of the work. Messages out: ("ready",), ("slot", slot, entries), ("done", block,
bytes, seconds), ("corrupt", places), ("no memory",), ("failed", class, message, traceback).
"""

from __future__ import annotations

import traceback
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from slidewright.codecs import Encoding
from slidewright.engine.ring import SlotWriter
from slidewright.errors import SlidewrightError
from slidewright.pyramid.block import BlockEncoder, Emit
from slidewright.pyramid.level_store import Scratch, ScratchLevel
from slidewright.pyramid.plan import Block, Key, Plan
from slidewright.sources.base import Reader, Source
from slidewright.sources.wrappers.fill import CorruptPlace, drain
from slidewright.system.shared_memory import SharedBuffer


@dataclass(frozen=True, slots=True)
class BlockWork:
    """What it takes to encode any block of a run; the same for every worker."""

    plan: Plan
    encoding: Encoding
    source: Source
    scratch: Scratch | None


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """A worker's job: the work, and its own slots of the ring."""

    work: BlockWork
    ring: SharedBuffer
    slots: tuple[int, ...]
    memory_guard: int | None = None
    """Bytes that the process may allocate beyond those it begins with; applied by the fork server."""


class BlockRunner:
    """Runs blocks of any pass: opens sources and scratch levels when first needed, in this process."""

    def __init__(self, work: BlockWork) -> None:
        self._work = work
        self._encoder = BlockEncoder(work.plan, work.encoding)
        self._reader: tuple[int, Reader] | None = None
        self._writers: dict[int, ScratchLevel] = {}
        self._scratch_seconds = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage since the start."""
        return {**self._encoder.seconds, "scratch": self._scratch_seconds}

    def run(self, block: Block, emit: Emit) -> None:
        """Encode one block, passing its segments to `emit`, and write its reduced piece to the scratch."""
        handed_on = self._encoder.run(self._reader_for(block.pass_index), block, emit)
        if handed_on is not None:
            start = perf_counter()
            level = self._work.plan.passes[block.pass_index].scratch_level
            assert level is not None and self._work.scratch is not None
            if level not in self._writers:
                self._writers[level] = self._work.scratch.level(level)
            self._writers[level].write(*handed_on, band=block.band)
            self._scratch_seconds += perf_counter() - start

    def close(self) -> None:
        """Close the open source and scratch levels."""
        self._close_reader()
        for level in self._writers.values():
            level.close()
        self._writers.clear()

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader[1].close()
            self._reader = None

    def _reader_for(self, pass_index: int) -> Reader:
        if self._reader is None or self._reader[0] != pass_index:
            self._close_reader()
            self._reader = (pass_index, self._open(pass_index))
        return self._reader[1]

    def _open(self, pass_index: int) -> Reader:
        if pass_index == 0:
            return self._work.source.open()
        assert self._work.scratch is not None
        return self._work.scratch.level(self._work.plan.passes[pass_index].first)


def main(connection: Connection[Any, Any], job: WorkerJob) -> None:
    """Serve blocks until the coordinator closes the pipe."""
    _one_thread()
    try:
        _Worker(connection, job).serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the coordinator is done with us, or gone
    except MemoryError:
        connection.send(("no memory",))  # and die: the block is done again, by fewer workers if there are others
    except Exception as error:
        connection.send(failure(error))


def failure(error: Exception) -> tuple[str, str, str, str]:
    """An exception as a message that needs no unpickling of its class."""
    if isinstance(error, SlidewrightError):
        return ("failed", type(error).__name__, str(error), traceback.format_exc())
    if isinstance(error, MemoryError):
        return (
            "failed",
            "RunError",
            "out of memory in a worker; use fewer workers or a smaller tile",
            traceback.format_exc(),
        )
    return ("failed", "RunError", f"{type(error).__name__}: {error}", traceback.format_exc())


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


class _Worker:
    def __init__(self, connection: Connection[Any, Any], job: WorkerJob) -> None:
        self._connection = connection
        self._free = deque(job.slots)
        self._blocks: deque[Block] = deque()
        self._slots = SlotWriter(job.ring, self._acquire, self._send_slot)
        self._runner = BlockRunner(job.work)
        self._found: dict[CorruptPlace, str] = getattr(job.work.source, "found", {})
        self._waited = 0.0

    def serve(self) -> None:
        self._connection.send(("ready",))
        try:
            while True:
                self._run(self._next_block())
        finally:
            self._runner.close()

    def _run(self, block: Block) -> None:
        before = {**self._runner.seconds, "wait": self._waited}
        nbytes = 0

        def emit(key: Key, segment: bytes) -> None:
            nonlocal nbytes
            nbytes += len(segment)
            self._slots.put(key, segment)

        self._runner.run(block, emit)
        if found := drain(self._found):
            self._connection.send(("corrupt", found))  # before the last slot, which may complete a shard
        self._slots.flush()
        after = {**self._runner.seconds, "wait": self._waited}
        self._connection.send(("done", block, nbytes, {name: after[name] - before[name] for name in after}))

    def _next_block(self) -> Block:
        start = perf_counter()
        while not self._blocks:
            self._receive()
        self._waited += perf_counter() - start
        return self._blocks.popleft()

    def _acquire(self) -> int:
        start = perf_counter()
        while not self._free:
            self._receive()
        self._waited += perf_counter() - start
        return self._free.popleft()

    def _receive(self) -> None:
        message = self._connection.recv()
        if message[0] == "block":
            self._blocks.append(message[1])
        else:
            self._free.append(message[1])

    def _send_slot(self, slot: int, entries: int) -> None:
        self._connection.send(("slot", slot, entries))
