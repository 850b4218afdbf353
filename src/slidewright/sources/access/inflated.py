"""Compressed members of .zip files of which parts are read in any order, as of the shards of a zarr store: each part is
inflated from a place near it, and not from the member's first byte on.
"""

from __future__ import annotations

import bisect
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import IO, Any

_STEP = 1 << 20
_READ = 1 << 14  # as long as a decompressor is kept it has what it was last given and did not need
_PARTS_KEPT = 8
_LOCAL_BYTES = 30
"""Of the header before a member, without its name and what is said more of it (PKWARE's APPNOTE, 4.3.7)."""


class InflatedMember:
    """A member compressed by deflate. About each megabyte a decompressor of some 60 kB is kept.

    Raises zipfile.BadZipFile where it is not what the directory says.
    """

    def __init__(self, archive: IO[bytes], member: zipfile.ZipInfo) -> None:
        self._archive, self._name = archive, member.filename
        archive.seek(member.header_offset)
        head = archive.read(_LOCAL_BYTES)
        name, more = (int.from_bytes(head[at : at + 2], "little") for at in (26, 28))
        self._begin = member.header_offset + len(head) + name + more
        self._compressed, self._size = member.compress_size, member.file_size
        self._parts: OrderedDict[int, bytes] = OrderedDict()
        self._starts = [0]
        self._states: list[tuple[int, Any]] = [(0, zlib.decompressobj(-zlib.MAX_WBITS))]
        """For each of the `starts`: compressed bytes before it, and the decompressor that has had them."""
        size = crc = 0
        for taken, state, piece in self._inflate(0):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
            if size > self._size:
                break
            if size - self._starts[-1] >= _STEP and size < self._size:
                self._starts.append(size)
                self._states.append((taken, state.copy()))
        if (size, crc) != (self._size, member.CRC):
            raise zipfile.BadZipFile(f"Bad CRC-32 or size for file {self._name!r}")

    def read(self, start: int, end: int) -> bytes:
        """The bytes from `start` to `end`, which lie in it."""
        found = []
        number = bisect.bisect_right(self._starts, start) - 1
        while start < end:
            begin, part = self._starts[number], self._part(number)
            found.append(part[start - begin : end - begin])
            start, number = begin + len(part), number + 1
        return b"".join(found)

    def _part(self, number: int) -> bytes:
        """All from one of the starts to the next."""
        part = self._parts.pop(number, None)
        if part is None:
            length = (*self._starts, self._size)[number + 1] - self._starts[number]
            pieces, got = [], 0
            for _, _, piece in self._inflate(number):
                pieces.append(piece)
                got += len(piece)
                if got >= length:
                    break
            if got != length:
                raise zipfile.BadZipFile(f"{self._name!r} has changed while it was read")
            part = b"".join(pieces)
        self._parts[number] = part
        if len(self._parts) > _PARTS_KEPT:
            self._parts.popitem(last=False)
        return part

    def _inflate(self, number: int) -> Iterator[tuple[int, Any, bytes]]:
        """(compressed bytes before what comes next, the decompressor, a piece), from one of the starts on."""
        taken, kept = self._states[number]
        state = kept.copy()
        while not state.eof:
            self._archive.seek(self._begin + taken)
            data = self._archive.read(min(_READ, self._compressed - taken))
            try:
                piece = state.decompress(data, _STEP)
            except zlib.error as error:
                raise zipfile.BadZipFile(f"{self._name!r} can't be inflated: {error}") from None
            used = len(data) - len(state.unconsumed_tail) - len(state.unused_data)
            if not piece and not used:
                raise zipfile.BadZipFile(f"{self._name!r} is cut short")
            taken += used
            yield taken, state, piece
