"""One shard on disk: the segments of a range of blocks, with an index and checksums; apart because only it knows the
bytes.

Segments lie in the order in which they came; the index, a JSON footer and a trailer that finds them follow. The file
is written under another name and renamed when complete, so a shard is whole or not there; the checksums are for disks
and copies that lie.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import zlib
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OutputError
from slidewright.pyramid.plan import Key
from slidewright.shards.schema import Whole, Within, read_as
from slidewright.sources.base import CorruptPlace
from slidewright.system.files import new_file, read_at, regular
from slidewright.system.forks import of_this_process
from slidewright.system.json_file import parse_json

MAGIC = b"slidewright shard 1\n"
_TRAILER = struct.Struct("<QQI12s")  # where the index begins, where the footer begins, the CRC-32 of both, a mark
_END = b"end of shard"


class ShardDamageError(Exception):
    """A shard file is not what it says it is; caught where its name and its remedy are known."""


@dataclass(frozen=True, slots=True)
class Footer:
    """What a shard says of itself, as JSON holds it."""

    job: str
    index: Whole
    count: Whole
    chunks: tuple[tuple[Whole, Whole], ...]
    segments: Whole
    key_length: Annotated[int, Within(0, 8)]
    corrupt: tuple[tuple[Whole, Whole, Whole, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """What is in a shard: `keys` (n, length of a key), `places` (offset, length, CRC-32) row by row, and its footer."""

    keys: NDArray[np.uint32]
    places: NDArray[np.uint64]
    footer: Footer

    @property
    def chunks(self) -> dict[int, int]:
        """The CRC-32 of the scratch chunk of each block that has one, by block number."""
        return dict(self.footer.chunks)

    @property
    def corrupt(self) -> dict[CorruptPlace, str]:
        """What of the source was filled with background, see `corrupt_rows`."""
        return {(y, x, plane): text for y, x, plane, text in self.footer.corrupt}


def corrupt_rows(found: dict[CorruptPlace, str]) -> list[list[Any]]:
    """What was filled, as a footer has it: [y, x, plane, message], the message of the first alone."""
    return [[*place, found[place] if not number else ""] for number, place in enumerate(sorted(found))]


class ShardWriter:
    """Writes one shard beside its final name."""

    def __init__(self, path: str, partial: str) -> None:
        self._path, self._partial, self._pid = path, partial, os.getpid()
        self._keys: list[Key] = []
        self._places: list[tuple[int, int, int]] = []
        with _writing(partial):
            self._file = of_this_process(open(partial, "wb", buffering=1 << 16, opener=new_file))  # noqa: SIM115
            self._size = self._file.write(MAGIC)

    def put(self, key: Key, segment: bytes) -> None:
        """Append a segment."""
        with _writing(self._path):
            self._file.write(segment)
        self._keys.append(key)
        self._places.append((self._size, len(segment), zlib.crc32(segment)))
        self._size += len(segment)

    def finish(self, footer: dict[str, Any], *, sync: bool) -> None:
        """Write the index, and give the file its name; `sync` waits for the disk."""
        keys = np.array(self._keys, "<u4").reshape(len(self._keys), -1 if self._keys else 0)
        places = np.array(self._places, "<u8").reshape(-1, 3)
        index = keys.tobytes() + places.tobytes()
        tail = json.dumps({**footer, "segments": len(keys), "key_length": keys.shape[1]}).encode()
        with _writing(self._path):
            crc = zlib.crc32(tail, zlib.crc32(index))
            self._file.write(index + tail + _TRAILER.pack(self._size, self._size + len(index), crc, _END))
            self._file.flush()
            if sync:
                os.fsync(self._file.fileno())
            self._file.close()
            self._rename()

    def discard(self) -> None:
        """Drop what was written; in a fork it is the parent's."""
        with contextlib.suppress(OSError):
            self._file.close()
        if os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                os.unlink(self._partial)

    def _rename(self) -> None:
        try:
            os.replace(self._partial, self._path)
        except FileNotFoundError:  # a second task for the same shard was faster, and tidied up
            if not os.path.exists(self._path):
                raise


def read_index(path: str) -> ShardIndex:
    """The index of a shard, checked; raises FileNotFoundError or ShardDamageError."""
    with open(path, "rb", opener=regular) as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(MAGIC) + _TRAILER.size:
            raise ShardDamageError("it is cut short")
        file.seek(size - _TRAILER.size)
        index_at, footer_at, crc, end = _TRAILER.unpack(file.read(_TRAILER.size))
        if end != _END or not len(MAGIC) <= index_at <= footer_at <= size - _TRAILER.size:
            raise ShardDamageError("it has no end; it is cut short or overwritten")
        file.seek(index_at)
        data = file.read(size - _TRAILER.size - index_at)
        file.seek(0)
        if file.read(len(MAGIC)) != MAGIC or zlib.crc32(data) != crc:
            raise ShardDamageError("its index does not match its checksum")
    try:
        footer = read_as(Footer, parse_json(data[footer_at - index_at :]))
    except ValueError as error:
        raise ShardDamageError(f"its footer makes no sense: {error}") from None
    count, length = footer.segments, footer.key_length
    if count * (4 * length + 24) != footer_at - index_at:
        raise ShardDamageError(f"its index has not the size of one of {count} segments")
    keys = np.frombuffer(data, "<u4", count * length).reshape(count, length)
    places = np.frombuffer(data, "<u8", count * 3, keys.nbytes).reshape(count, 3)
    offsets, lengths = places[:, 0], places[:, 1]
    if count and (offsets.max() > index_at or (lengths > index_at - offsets).any() or offsets.min() < len(MAGIC)):
        raise ShardDamageError("a segment lies outside it")
    return ShardIndex(keys, places, footer)


def check_segments(path: str, index: ShardIndex) -> None:
    """Read every segment; raises ShardDamageError at the first whose checksum differs."""
    with open(path, "rb", opener=regular) as file:
        for place in index.places.tolist():
            read_segment(file.fileno(), *place)


def read_segment(fd: int, offset: int, length: int, crc: int) -> bytes:
    """One segment by its place; raises ShardDamageError when its checksum differs."""
    data = read_at(fd, offset, length)
    if len(data) != length or zlib.crc32(data) != crc:
        raise ShardDamageError(f"the segment at byte {offset} does not match its checksum")
    return data


@contextlib.contextmanager
def _writing(path: str) -> Any:
    try:
        yield
    except OSError as error:
        raise OutputError(f"can't write shard {path!r}: {error.strerror or error}; check that disk") from error
