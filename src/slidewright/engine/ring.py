"""The segment ring: a shared-memory queue of fixed slots in which workers hand segments to the writer.

Each worker owns a few slots; a slot travels worker -> coordinator -> writer -> coordinator -> the same worker, as a
number in a message of fixed size. So memory is bounded by the number of slots, there is no lock in shared memory that
a killed process could hold, and the coordinator always knows who has which slot. The index of a slot lies at its end,
growing downwards, so that the message does not grow with the number of segments and no pipe can fill up. A segment
that does not fit is continued in the next slot. Where there is no room in memory the ring is a file, and each entry has
a checksum: a disk may lose it.

Rejected: `multiprocessing.Queue` (a lock shared by all workers: one killed while holding it hangs everybody); one
slot a segment (slots would have to fit the largest segment any codec can make, for any tile size).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from slidewright.errors import OutputError
from slidewright.system.checksum import crc32

if TYPE_CHECKING:
    from slidewright.pyramid.plan import Key
    from slidewright.system.shared_memory import SharedBuffer

SLOT_BYTES = 1 << 20
SLOTS_PER_WORKER = 4
_ENTRY = struct.Struct("<HIIIIQQI")
_MIN_PART = 4096  # a part smaller than this is not worth its entry, except at a segment's end


class Part(NamedTuple):
    """A segment, or a piece of one, in a slot: `data` belongs at `offset` of a segment of `total` bytes."""

    key: Key
    offset: int
    total: int
    data: memoryview


class SlotWriter:
    """A worker's end: packs segments into its slots.

    `acquire` gives the number of a free slot, waiting if need be; `send` passes a slot on with its number of entries.
    """

    def __init__(self, memory: SharedBuffer, acquire: Callable[[], int], send: Callable[[int, int], None]) -> None:
        self._view, self._checked = memory.view(), memory.in_file
        self._acquire = acquire
        self._send = send
        self._slot: int | None = None
        self._used = 0
        self._entries = 0

    def put(self, key: Key, segment: bytes) -> None:
        """Append a tile's segment, going on to further slots where it does not fit."""
        offset, total = 0, len(segment)
        while True:
            room = self._room()
            if room < min(total - offset, _MIN_PART):
                self.flush()
                continue
            part = segment[offset : offset + room] if offset or room < total else segment
            self._append(key, offset, total, part)
            offset += len(part)
            if offset >= total:
                return

    def flush(self) -> None:
        """Pass the current slot on, if anything is in it."""
        if self._slot is not None and self._entries:
            slot, self._slot = self._slot, None
            self._send(slot, self._entries)

    def _room(self) -> int:
        if self._slot is None:
            self._slot, self._used, self._entries = self._acquire(), 0, 0
        return SLOT_BYTES - self._used - (self._entries + 1) * _ENTRY.size

    def _append(self, key: Key, offset: int, total: int, part: bytes) -> None:
        assert self._slot is not None
        base = self._slot * SLOT_BYTES
        self._view[base + self._used : base + self._used + len(part)] = part
        self._entries += 1
        at = base + SLOT_BYTES - self._entries * _ENTRY.size
        crc = _crc(self._view[base + self._used :], *key, len(part), offset, total) if self._checked else 0
        _ENTRY.pack_into(self._view, at, *key, len(part), offset, total, crc)
        self._used += len(part)


def read_slot(memory: SharedBuffer, slot: int, entries: int) -> Iterator[Part]:
    """The writer's end: the parts in a slot, in the order in which they were put; valid until the slot is freed. Raises
    OutputError for what a disk has lost.
    """
    view = memory.view()
    base = slot * SLOT_BYTES
    at = base
    for number in range(1, entries + 1):
        entry = base + SLOT_BYTES - number * _ENTRY.size
        level, plane, row, column, length, offset, total, crc = _ENTRY.unpack_from(view, entry)
        if memory.in_file and crc != _crc(view[at:], level, plane, row, column, length, offset, total):
            raise OutputError("a temporary file of segments on their way has lost some; check the temporary disk")
        yield Part((level, plane, row, column), offset, total, view[at : at + length])
        at += length


def _crc(data: memoryview, level: int, plane: int, row: int, column: int, length: int, offset: int, total: int) -> int:
    """That of an entry and its data, which is not 0 for zeros."""
    entry = _ENTRY.pack(level, plane, row, column, length, offset, total, 0)
    return crc32(data[:length]) ^ crc32(entry)
