"""The worker's role: take a block, encode it into ring slots, hand its reduced piece to the next pass, say that it is
done.

A worker has one pipe, to the coordinator, and no lock in common with anybody. The end of the pipe is the end of the
work.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import perf_counter

from slidewright.engine.block_runner import BlockRunner
from slidewright.engine.messages import (
    DoBlock,
    Done,
    Failed,
    Filled,
    NoMemory,
    Pipe,
    Ready,
    SlotFree,
    SlotFull,
    Working,
)
from slidewright.engine.ring import SlotWriter
from slidewright.engine.run import Run
from slidewright.pyramid.plan import Block
from slidewright.system.shared_memory import SharedBuffer


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """A worker's job: the run, and its own slots of the ring."""

    run: Run
    ring: SharedBuffer
    slots: tuple[int, ...]


def main(connection: Pipe, job: WorkerJob) -> None:
    """Serve blocks until the coordinator closes the pipe."""
    _one_thread()
    try:
        _Worker(connection, job).serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the coordinator is done with us, or gone
    except MemoryError:
        connection.send(NoMemory())  # and die: the block is done again, by fewer workers if there are others
    except Exception as error:
        connection.send(Failed.of(error))


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


class _Worker:
    def __init__(self, connection: Pipe, job: WorkerJob) -> None:
        self._connection = connection
        self._free = deque(job.slots)
        self._blocks: deque[Block] = deque()
        self._slots = SlotWriter(job.ring, self._acquire, self._send_slot)
        self._runner = BlockRunner(job.run, lambda going: connection.send(Working(going)))
        self._waited = 0.0

    def serve(self) -> None:
        self._connection.send(Ready())
        try:
            while True:
                self._run(self._next_block())
        finally:
            self._runner.close()

    def _run(self, block: Block) -> None:
        before = {**self._runner.seconds, "wait": self._waited}
        nbytes = self._runner.run(block, self._slots.put)
        if places := self._runner.filled():
            self._connection.send(Filled(block, places))  # before the last slot, which may complete a shard
        self._slots.flush()
        after = {**self._runner.seconds, "wait": self._waited}
        self._connection.send(Done(block, nbytes, {name: after[name] - before[name] for name in after}))

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
        match self._connection.recv():
            case DoBlock(block):
                self._blocks.append(block)
            case SlotFree(slot):
                self._free.append(slot)

    def _send_slot(self, slot: int, entries: int) -> None:
        self._connection.send(SlotFull(slot, entries))
