"""The writer's role: take segments out of the ring as they come and hand them to the format in its order.

It pulls: the format asks for the next segment, and as long as that has not come, messages are taken in. Slots are
emptied at once into the segment store, so that a worker never waits for the order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from slidewright.engine.messages import Failed, Filled, NoMore, Pipe, SlotFree, SlotFull, Written
from slidewright.engine.ring import read_slot
from slidewright.engine.segment_store import SegmentStore
from slidewright.errors import RunError

if TYPE_CHECKING:
    from slidewright.engine.run import Run
    from slidewright.pyramid.plan import Key
    from slidewright.shards.log import Shelf
    from slidewright.system.shared_memory import SharedBuffer


@dataclass(frozen=True, slots=True)
class WriterJob:
    """The writer's job."""

    run: Run
    ring: SharedBuffer


def main(connection: Pipe, job: WriterJob) -> None:
    """Write everything, then say so."""
    try:
        _write(connection, job)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the coordinator is gone; the fork server removes the file
    except Exception as error:
        connection.send(Failed.of(error))


def _write(connection: Pipe, job: WriterJob) -> None:
    outputs = Outputs(job.run)
    waited, more = 0.0, True

    def receive() -> None:
        nonlocal waited, more
        if not more:
            raise RunError("every block is done, yet a segment is missing; this is an error of slidewright")
        start = perf_counter()
        message = connection.recv()
        waited += perf_counter() - start
        match message:
            case SlotFull(slot, entries, sender):
                outputs.store.add_parts(sender, read_slot(job.ring, slot, entries))
                connection.send(SlotFree(slot))
            case Filled():
                outputs.note_filled(message)
            case NoMore():
                more = False

    begin = perf_counter()
    try:
        sizes = outputs.write(receive)
    finally:
        outputs.close()
    connection.send(Written(sizes, outputs.store.spilled_bytes, perf_counter() - begin - waited))


class Outputs:
    """Where segments go: the format's file, the shards of the run, or both; in the writer process, or in the caller's
    for a run without processes.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._shelf = _shelf_of(run)
        log = None if self._shelf is None else self._shelf.add
        self.store = SegmentStore(run.plan, run.format.wave, run.memory.store_bytes, run.temporary, log)

    def write(self, more: Callable[[], None]) -> list[int]:
        """Write everything; `more` is called while a segment is missing. Returns the encoded bytes of each level."""
        if self._run.output is None:
            return self._collect(more)

        def take(key: Key) -> bytes:
            while (segment := self._take(key)) is None:
                more()
            return segment

        return self._run.format.write(self._run.output, self._run.image, take)

    def note_filled(self, message: Filled) -> None:
        """Note in the block's shard what was filled, before its last segment comes."""
        if self._shelf is not None:
            self._shelf.note_corrupt(message.block, message.places)

    def close(self) -> None:
        """Close everything; unfinished shards are dropped."""
        self.store.close()
        if self._shelf is not None:
            self._shelf.close()

    def _take(self, key: Key) -> bytes | None:
        segment = self.store.take(key)
        return segment if segment is not None or self._shelf is None else self._shelf.take(key)

    def _collect(self, more: Callable[[], None]) -> list[int]:
        """Let segments go to the shelf alone, until its shards are complete."""
        assert self._shelf is not None
        while not self._shelf.complete:
            more()
            self.store.drop_held()
        return self._shelf.level_bytes


def _shelf_of(run: Run) -> Shelf | None:
    if run.shards is None:
        return None
    from slidewright.shards.log import Shelf

    return Shelf(run.shards, run.format.block_files(run.output, run.image))
