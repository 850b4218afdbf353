"""Segments waiting for their turn: a store that holds some in memory and the rest in temporary files.

What is written while it arrives (level 0 of a TIFF) waits for a moment, the rest to the end of the run: a third of the
output. Early arrivals go to one file for each wave that the format asks for together, which the next wave writes over
when this one is written: the disk used is bounded by the dispatch window. Files have no name, so a kill leaves none.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable
from typing import IO, NamedTuple

import numpy as np

from slidewright.engine.ring import Part
from slidewright.errors import OutputError
from slidewright.pyramid.plan import Key, Plan
from slidewright.system.checksum import crc32
from slidewright.system.files import read_at, temporary_folder


class _Place(NamedTuple):
    bucket: int | None
    offset: int
    length: int
    crc: int
    """The temporary disk may have lost it, of which the system tells nobody who does not wait for that disk."""


class _Spill:
    """A temporary file without a name, and how many segments in it are still wanted."""

    def __init__(self, folder: str | None) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(prefix="slidewright-", dir=folder, buffering=0)  # noqa: SIM115
        self.size = 0
        self.live = 0


class _Partial(NamedTuple):
    sender: int
    data: bytearray
    filled: list[int]


class SegmentStore:
    """Segments by key; each is taken once, and a segment that comes again (from a redone block) is ignored.

    Parameters
    ----------
    plan
        Of the run.
    wave
        The format's word for which keys are asked for together, see `Format.wave`.
    memory
        Bytes to hold in memory.
    folder
        Where temporary files go.
    log
        Called with each segment as it comes.
    """

    def __init__(
        self,
        plan: Plan,
        wave: Callable[[Plan, Key], int | None],
        memory: int,
        folder: str | None = None,
        log: Callable[[Key, bytes], None] | None = None,
    ) -> None:
        self._log = log
        self._memory = memory
        self._folder = folder
        self._plan, self._wave = plan, wave
        self._seen = [np.zeros((plan.planes, *level.tiles), dtype=bool) for level in plan.levels]
        self._held: dict[Key, bytes] = {}
        self._spilled: dict[Key, _Place] = {}
        self._spills: dict[int | None, _Spill] = {}
        self._spare: list[_Spill] = []  # to write over: new pages cost more than the copy into them
        self._partial: dict[Key, _Partial] = {}
        self.held_bytes = 0
        self.spilled_bytes = 0
        self.received_bytes = 0

    def add_parts(self, sender: int, parts: Iterable[Part]) -> None:
        """Take in a slot's parts; `sender` tells one try at a block from the next."""
        for part in parts:
            key = part.key
            if self._seen[key[0]][key[1:]]:
                continue
            if len(part.data) == part.total:
                self._partial.pop(key, None)
                self.add(key, part.data)
                continue
            partial = self._partial.get(key)
            if partial is None or partial.sender != sender:
                partial = self._partial[key] = _Partial(sender, bytearray(part.total), [0])
            partial.data[part.offset : part.offset + len(part.data)] = part.data
            partial.filled[0] += len(part.data)
            if partial.filled[0] == part.total:
                del self._partial[key]
                self.add(key, partial.data)

    def add(self, key: Key, segment: bytes | bytearray | memoryview) -> None:
        """Take in a whole segment, which is copied once, into memory or into a file, unless it is bytes that can be
        held as they are; raises OutputError when the temporary disk is full.
        """
        seen = self._seen[key[0]]
        if seen[key[1:]]:
            return
        seen[key[1:]] = True
        self.received_bytes += len(segment)
        if self._log is not None:
            segment = bytes(segment)
            self._log(key, segment)
        # Upper levels wait to the end of the run: left alone, they would fill the memory and send all of level 0, which
        # waits for a moment, to the disk and back.
        room = self._memory // 2 if self._wave(self._plan, key) is None else self._memory
        if self.held_bytes + len(segment) <= room:
            self._held[key] = bytes(segment)
            self.held_bytes += len(segment)
        else:
            self._spill(key, segment)

    def take(self, key: Key) -> bytes | None:
        """Hand out a segment, or None while it has not come."""
        segment = self._held.pop(key, None)
        if segment is not None:
            self.held_bytes -= len(segment)
            return segment
        place = self._spilled.pop(key, None)
        if place is None:
            return None
        spill = self._spills[place.bucket]
        data = read_at(spill.file.fileno(), place.offset, place.length)
        if len(data) != place.length or crc32(data) != place.crc:
            raise OutputError("a temporary file of waiting segments has lost some; check the temporary disk")
        spill.live -= 1
        if not spill.live:
            del self._spills[place.bucket]
            spill.size = 0
            self._spare.append(spill)
        return data

    def drop_held(self) -> None:
        """Forget what is held in memory: it went to the log, and nobody will take it."""
        self._held.clear()
        self.held_bytes = 0

    def close(self) -> None:
        """Drop everything."""
        for spill in (*self._spills.values(), *self._spare):
            with contextlib.suppress(OSError):  # nobody needs what is in it any more
                spill.file.close()
        self._spills.clear()
        self._spare.clear()
        self._held.clear()

    def _spill(self, key: Key, segment: bytes | bytearray | memoryview) -> None:
        bucket = self._wave(self._plan, key)
        try:
            if bucket not in self._spills:
                self._spills[bucket] = self._spare.pop() if self._spare else _Spill(self._folder)
            spill = self._spills[bucket]
            spill.file.seek(spill.size)
            rest = memoryview(segment)
            while rest:
                rest = rest[spill.file.write(rest) :]
        except OSError as error:
            where = self._folder or temporary_folder()
            raise OutputError(
                f"can't keep waiting segments in {where!r}: {error.strerror}; "
                "point TMPDIR or --scratch to a disk with room"
            ) from error
        self._spilled[key] = _Place(bucket, spill.size, len(segment), crc32(segment))
        spill.size += len(segment)
        spill.live += 1
        self.spilled_bytes += len(segment)
