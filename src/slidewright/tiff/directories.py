"""The directories of a TIFF, walked before tifffile reads any: every table's declared size is held against the size of
the file, so that no hostile count allocates memory.
"""

from __future__ import annotations

import contextlib
import os
import struct
from typing import BinaryIO

from slidewright.errors import SourceError, VerifyError
from slidewright.system.remote_file import open_stream

MAX_DIRECTORIES = 65_536  # and as many that SubIFDs name
_MAX_REPEATED = 4096  # that SubIFDs have named before, or that are 0
MAX_REPEATED_BYTES = 1 << 26  # of tables that several directories share, such as an ICC profile
_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_LONG8 = 16
_SUB_IFDS = 330
_EXTENTS = frozenset({256, 257, 277, 278, 322, 323, 32997, 32998})
"""Tags of sizes: ImageWidth and the like. With one below zero tifffile walks its pages without end."""
_NEEDED = frozenset({258, 259, 262, 273, 277, 279, 284, 317, 324, 325, 339, 347} | _EXTENTS)
"""Tags without which pixels are others."""
_TABLES, _PLACES = frozenset({273, 279, 324, 325}), frozenset({3, 4, 9, 13, 16, 17, 18})
"""Tags of where segments lie and how long they are, and the types that hold such numbers."""
_CODES, _NUMBERS = frozenset({258, 259, 262, 284, 317, 339}), frozenset({1, 3, 4, 6, 8, 9})
"""Tags that name a way of coding, where readers take the usual one if they can't read the tag, and their types."""
_STARTS = {65426: 0, 65432: 32}
"""McuStarts of an NDPI, and the high bits of it: tifffile reads from 0 to the first in one piece."""
_WHOLE = frozenset({1, 3, 4, 16})
_SIGNED = {6: "b", 8: "h", 9: "i", 17: "q"}


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts as a classic TIFF or a BigTIFF does."""
    try:
        with open_stream(path) as file:
            return starts_as_tiff(file.read(4))
    except (OSError, SourceError):
        return False


def starts_as_tiff(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a classic TIFF or a BigTIFF."""
    return _layout(start[:4]) is not None


def _layout(magic: bytes) -> tuple[str, bool] | None:
    """(byte order for struct, is BigTIFF) of the first four bytes."""
    return {
        b"II*\0": ("<", False),
        b"MM\0*": (">", False),
        b"II+\0": ("<", True),
        b"MM\0+": (">", True),
    }.get(magic)


def check_directories(path: str | os.PathLike[str], stream: BinaryIO | None = None) -> int:
    """Walk every image file directory and check that each table it declares lies inside the file, which may be open
    already, as `stream`.

    Returns
    -------
    int
        The number of directories, SubIFDs included.

    Raises
    ------
    SourceError
        When the file can't be read or is not a TIFF.
    VerifyError
        When a directory or a table lies outside the file, directories form a loop, there are more of them than
        anybody has, or they or the tables together are larger than the file.
    """
    try:
        with open_stream(path) if stream is None else contextlib.nullcontext(stream) as file:
            return _Walk(file, os.fspath(path)).run()
    except OSError as error:
        raise SourceError(f"{os.fspath(path)} can't be read: {error.strerror or error}") from error
    except struct.error as error:  # a table of directories with entries of an odd size, or cut short
        raise VerifyError(f"{os.fspath(path)}: a directory makes no sense ({error}); the file is damaged") from error


class _Walk:
    """The walk over the directories of one file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._bytes = file.seek(0, os.SEEK_END)
        file.seek(0)
        layout = _layout(file.read(4))
        if layout is None:
            raise SourceError(f"{name} is not a TIFF file")
        self._order, self._big = layout
        self._table_bytes = 0
        self._repeated_bytes = 0
        self._directory_bytes = 0
        self._tables: set[tuple[int, int]] = set()
        self._named = 0  # by SubIFDs, those that are 0 included, which name nothing
        # Hamamatsu's NDPI is the one format that is a classic TIFF of more than 4 GB: its offsets can't be judged here
        self._judge = self._big or self._bytes < 1 << 32

    def run(self) -> int:
        seen, named = set[int](), set[int]()
        todo = [self._unpack("Q", 8) if self._big else self._unpack("I", 4)]
        while todo:
            offset, chain = todo.pop(), set[int]()
            while offset and (offset not in seen or offset in chain):  # Bio-Formats chains the SubIFDs of a list too
                if offset in chain:
                    raise VerifyError(
                        f"{self._name}: the directory at byte {offset} is reached twice; the file is damaged"
                    )
                seen.add(offset)
                chain.add(offset)
                if len(seen) > MAX_DIRECTORIES:
                    raise self._too_many()
                offset, children = self._directory(offset)
                todo += children
                named.update(children)
                if self._named - len(named) > _MAX_REPEATED:  # tifffile would read one as often as it is named
                    raise VerifyError(
                        f"{self._name}: its SubIFDs name the same directories again and again; the file is damaged"
                    )
        if not seen:
            raise VerifyError(f"{self._name}: no image in it; the file was not finished")
        return len(seen)

    def _too_many(self) -> VerifyError:
        return VerifyError(f"{self._name}: more than {MAX_DIRECTORIES} directories; this is not a slide")

    def _directory(self, offset: int) -> tuple[int, list[int]]:
        """The offset of the next directory and those of the children of the one at `offset`."""
        count_format, entry_bytes = ("Q", 20) if self._big else ("H", 12)
        entries = self._unpack(count_format, offset)
        start = offset + struct.calcsize("=" + count_format)
        if entries > 65_536 or start + entries * entry_bytes > self._bytes:
            raise VerifyError(
                f"{self._name}: the directory at byte {offset} does not fit in the file; it is cut short or damaged"
            )
        self._directory_bytes += entries * entry_bytes
        if self._directory_bytes > self._bytes:  # each would be parsed: a few bytes apart they are many
            raise VerifyError(
                f"{self._name}: the directory at byte {offset} lies over others, which together have more bytes than "
                "the file; it is damaged"
            )
        data = self._read(start, entries * entry_bytes)
        children: list[int] = []
        for at in range(0, len(data), entry_bytes):
            children += self._entry(data[at : at + entry_bytes])
        if self._big or self._judge:
            return self._unpack("Q" if self._big else "I", start + len(data)), children
        return self._unpack("Q", start + len(data)), children

    def _entry(self, entry: bytes) -> list[int]:
        """Check one tag; the answer is the directories it points to."""
        code, kind, count = struct.unpack_from(self._order + ("HHQ" if self._big else "HHI"), entry)
        if code == _SUB_IFDS:
            self._named += count
            if self._named > MAX_DIRECTORIES:  # before the table is read, which may be gigabytes of a sparse file
                raise self._too_many()
        inline = 8 if self._big else 4
        size = count * _TYPE_BYTES.get(kind, 1)
        value = entry[-inline:]
        if code in _EXTENTS and kind not in _WHOLE and not self._is_size(kind, count, value):
            raise VerifyError(f"{self._name}: tag {code}, a size, is of type {kind} and no size; the file is damaged")
        if code in _TABLES and kind in _TYPE_BYTES and kind not in _PLACES:  # most numbers would be 0: no such tile
            raise VerifyError(f"{self._name}: tag {code}, of places in the file, has type {kind}; the file is damaged")
        number = kind in _NUMBERS or (self._big and kind == _LONG8)
        if code in _CODES and kind in _TYPE_BYTES and not (number and count):
            raise VerifyError(
                f"{self._name}: tag {code}, which names a way of coding, has {count} of type {kind}; it is damaged"
            )
        if code in _NEEDED and kind not in _TYPE_BYTES:  # which readers pass over, as if it were not there
            raise VerifyError(f"{self._name}: tag {code} has type {kind}, which TIFF does not know; it is damaged")
        if size > inline:
            (offset,) = struct.unpack(self._order + ("Q" if self._big else "I"), value)
            if (offset, size) in self._tables:  # directories may share one, but reading it again costs memory again
                self._repeated_bytes += size
            else:
                self._tables.add((offset, size))
                self._table_bytes += size
            too_many = self._table_bytes > self._bytes or self._repeated_bytes > max(self._bytes, MAX_REPEATED_BYTES)
            if self._judge and (offset + size > self._bytes or too_many):
                raise VerifyError(
                    f"{self._name}: tag {code} declares {size} bytes at byte {offset}, but the file has {self._bytes}; "
                    "it is cut short or damaged"
                )
            if code in _STARTS:
                self._check_start(code, self._read(offset, _TYPE_BYTES.get(kind, 1)))
            if code != _SUB_IFDS or not self._judge:
                return []
            value = self._read(offset, size)
        if code in _STARTS and count:
            self._check_start(code, value[: _TYPE_BYTES.get(kind, 1)])
        if code != _SUB_IFDS or not 0 < size <= len(value):
            return []
        return list(struct.unpack(f"{self._order}{count}{'Q' if size == 8 * count else 'I'}", value[:size]))

    def _check_start(self, code: int, first: bytes) -> None:
        """Refuse a first stripe that begins behind the end of the file; a number that is none is one there too."""
        if int.from_bytes(first, "little" if self._order == "<" else "big") << _STARTS[code] > self._bytes:
            raise VerifyError(f"{self._name}: tag {code} names bytes behind the end of the file; it is damaged")

    def _is_size(self, kind: int, count: int, value: bytes) -> bool:
        """Whether a size of a type that sizes don't have is one all the same: a whole number, not below zero."""
        letter = _SIGNED.get(kind)
        if letter is None or count != 1 or struct.calcsize(letter) > len(value):
            return False
        (number,) = struct.unpack_from(self._order + letter, value)
        return int(number) >= 0

    def _unpack(self, code: str, offset: int) -> int:
        size = struct.calcsize("=" + code)
        data = self._read(offset, size)
        if len(data) < size:
            raise VerifyError(
                f"{self._name}: no directory at byte {offset}, the file has {self._bytes}; it is cut short or damaged"
            )
        (value,) = struct.unpack(self._order + code, data)
        return int(value)

    def _read(self, offset: int, size: int) -> bytes:
        if offset >= self._bytes:
            return b""
        self._file.seek(offset)
        return self._file.read(size)
