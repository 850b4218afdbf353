"""The writer's role: take segments out of the ring as they come and write them to the file in order.

It pulls: tifffile asks for the next segment, and as long as that has not come, messages are taken in. Slots are
emptied at once into the segment store, so that a worker never waits for the order. Messages in: ("slot", slot,
entries, sender); out: ("free", slot), ("written", bytes by level, spilled bytes, seconds) and ("failed",
...).
"""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing.connection import Connection
from time import perf_counter
from typing import Any

from slidewright.plan import Key
from slidewright.ring import read_slot
from slidewright.segments import SegmentStore
from slidewright.sharing import SharedBuffer
from slidewright.tiff import Layout, write_pyramid
from slidewright.worker import failure


@dataclass(frozen=True, slots=True)
class WriterJob:
    """The writer's job."""

    layout: Layout
    path: str
    ring: SharedBuffer
    store_bytes: int
    temporary: str | None


def main(connection: Connection[Any, Any], job: WriterJob) -> None:
    """Write the file, then say so."""
    try:
        _write(connection, job)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the coordinator is gone; the nursery removes the file
    except Exception as error:
        connection.send(failure(error))


def _write(connection: Connection[Any, Any], job: WriterJob) -> None:
    store = SegmentStore(job.layout.plan, job.store_bytes, job.temporary)
    view = job.ring.view()
    waited = 0.0

    def take(key: Key) -> bytes:
        nonlocal waited
        while (segment := store.take(key)) is None:
            start = perf_counter()
            _, slot, entries, sender = connection.recv()
            waited += perf_counter() - start
            store.add_parts(sender, read_slot(view, slot, entries))
            connection.send(("free", slot))
        return segment

    begin = perf_counter()
    try:
        sizes = write_pyramid(job.path, job.layout, take)
    finally:
        store.close()
    connection.send(("written", sizes, store.spilled_bytes, perf_counter() - begin - waited))
