"""The writer's role: take segments out of the ring as they come and write them to the file in order.

It pulls: tifffile asks for the next segment, and as long as that has not come, messages are taken in. Slots are
emptied at once into the segment store, so that a worker never waits for the order. Messages in: ("slot", slot,
entries, sender) and ("corrupt", block, places); out: ("free", slot), ("written", bytes by level, spilled bytes,
seconds) and ("failed", ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from slidewright.engine.ring import read_slot
from slidewright.engine.segment_store import SegmentStore
from slidewright.engine.worker import failure
from slidewright.formats.tiff import Layout, write_pyramid
from slidewright.pyramid.plan import Key
from slidewright.shards.log import Shelf
from slidewright.shards.plan import ShardPlan
from slidewright.system.shared_memory import SharedBuffer


@dataclass(frozen=True, slots=True)
class WriterJob:
    """The writer's job."""

    layout: Layout
    path: str
    ring: SharedBuffer
    store_bytes: int
    temporary: str | None
    shards: ShardPlan | None = None


def main(connection: Connection[Any, Any], job: WriterJob) -> None:
    """Write the file, then say so."""
    try:
        _write(connection, job)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the coordinator is gone; the fork server removes the file
    except Exception as error:
        connection.send(failure(error))


def _write(connection: Connection[Any, Any], job: WriterJob) -> None:
    shelf = Shelf(job.shards) if job.shards is not None else None
    store = SegmentStore(job.layout.plan, job.store_bytes, job.temporary, None if shelf is None else shelf.add)
    view = job.ring.view()
    waited = 0.0

    def receive() -> None:
        nonlocal waited
        start = perf_counter()
        message = connection.recv()
        waited += perf_counter() - start
        if message[0] == "corrupt":
            assert shelf is not None
            shelf.note_corrupt(*message[1:])
            return
        _, slot, entries, sender = message
        store.add_parts(sender, read_slot(view, slot, entries))
        connection.send(("free", slot))

    def take(key: Key) -> bytes:
        while (segment := store.take(key)) is None and (shelf is None or (segment := shelf.take(key)) is None):
            receive()
        return segment

    begin = perf_counter()
    try:
        if job.shards is None or job.shards.tiff:
            sizes = write_pyramid(job.path, job.layout, take)
        else:
            assert shelf is not None
            sizes = collect(shelf, store, receive)
    finally:
        store.close()
        if shelf is not None:
            shelf.close()
    connection.send(("written", sizes, store.spilled_bytes, perf_counter() - begin - waited))


def collect(shelf: Shelf, store: SegmentStore, receive: Callable[[], None]) -> list[int]:
    """Let segments go to the shelf alone, until its shards are complete; returns the bytes of each level."""
    while not shelf.complete:
        receive()
        store.drop_held()
    return shelf.level_bytes
