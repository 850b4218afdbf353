"""Directories of a TIFF, laid into a file by hand (TIFF 6.0, section 2, and the BigTIFF proposal).

Segments may lie anywhere, so a format can write them as they come and say at the end where they are; and several
directories may point to the same table. tifffile's writer can do neither, but it knows the tags of every codec: they
are taken from a page of one tile that it writes to memory.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OutputError

NEW_SUBFILE_TYPE, IMAGE_WIDTH, IMAGE_LENGTH, IMAGE_DESCRIPTION, SOFTWARE = 254, 256, 257, 270, 305
STRIP_OFFSETS, ROWS_PER_STRIP, STRIP_BYTE_COUNTS = 273, 278, 279
TILE_OFFSETS, TILE_BYTE_COUNTS, SUB_IFDS, ICC_PROFILE = 324, 325, 330, 34675
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT = 282, 283, 296
CENTIMETRE = 3
CLASSIC_LIMIT = (1 << 32) - (1 << 24)  # offsets are 32 bits; the rest is for the directories

_ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _LONG8, _IFD8 = 2, 3, 4, 5, 7, 16, 18
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Tag(NamedTuple):
    """The value of a tag: its TIFF type, how many, and their bytes, little endian."""

    type: int
    number: int
    value: bytes


Tags = dict[int, Tag]


def short(*values: int) -> Tag:
    """A SHORT, or several."""
    return Tag(_SHORT, len(values), b"".join(value.to_bytes(2, "little") for value in values))


def long(value: int) -> Tag:
    """One LONG."""
    return Tag(_LONG, 1, value.to_bytes(4, "little"))


def longs(values: Sequence[int] | NDArray[Any]) -> Tag:
    """LONGs, such as the lengths of segments."""
    return Tag(_LONG, len(values), np.asarray(values, "<u4").tobytes())


def places(values: Sequence[int] | NDArray[Any]) -> Tag:
    """Offsets in the file, of the type that BigTIFF has for them; a classic TIFF gets LONGs as it is laid."""
    return Tag(_LONG8, len(values), np.asarray(values, "<u8").tobytes())


def text(value: str) -> Tag:
    """ASCII, which everybody takes for UTF-8, with its final zero."""
    data = value.encode("utf-8") + b"\0"
    return Tag(_ASCII, len(data), data)


def undefined(value: bytes) -> Tag:
    """Bytes."""
    return Tag(_UNDEFINED, len(value), value)


def rational(value: float) -> Tag:
    """The fraction of two LONGs that is nearest."""
    number = Fraction(value)
    number = number.limit_denominator(max(1, min((1 << 32) - 1, int(((1 << 32) - 1) / max(1.0, value)))))
    return Tag(_RATIONAL, 1, np.array([number.numerator, number.denominator], "<u4").tobytes())


def resolution(mpp: tuple[float, float]) -> Tags:
    """The tags of the resolution: pixels a centimetre, from micrometres a pixel along (x, y)."""
    x, y = mpp
    return {
        X_RESOLUTION: rational(1e4 / x),
        Y_RESOLUTION: rational(1e4 / y),
        RESOLUTION_UNIT: short(CENTIMETRE),
    }


@dataclass
class Directory:
    """One image's tags, and the directories below it (SubIFDs)."""

    tags: Tags
    children: list[Directory] = field(default_factory=list)


def encoding_tags(arguments: Mapping[str, Any], tile: int, samples: int) -> Tags:
    """The tags that tifffile's writer has for these arguments, without those of size, place and resolution."""
    import tifffile

    memory = io.BytesIO()
    plain = tile * tile * samples * np.dtype(arguments["dtype"]).itemsize  # which tifffile insists on
    segment = bytes(plain if arguments["compression"] is None else 1)
    shape = (tile, tile, samples) if samples > 1 else (tile, tile)
    with tifffile.TiffWriter(memory, bigtiff=True, byteorder="<", ome=False, shaped=False) as writer:
        writer.write(iter([segment]), shape=shape, tile=(tile, tile), metadata=None, software=False, **arguments)
    data = memory.getvalue()
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        tags = {tag.code: _raw(tag, data) for tag in tiff.pages.first.tags}
    for code in (TILE_OFFSETS, TILE_BYTE_COUNTS, X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT):
        tags.pop(code, None)
    return tags


def _raw(tag: Any, data: bytes) -> Tag:
    kind, count = int(tag.dtype), int(tag.count)
    return Tag(kind, count, data[tag.valueoffset : tag.valueoffset + _SIZES[kind] * count])


class DirectoryWriter:
    """Writes the directories of a file after its segments; equal values are stored once.

    Parameters
    ----------
    file
        Open for writing, with `header` at its start.
    big
        BigTIFF, or a classic TIFF.
    """

    def __init__(self, file: IO[bytes], *, big: bool) -> None:
        self._file, self._big = file, big
        self._stored: dict[bytes, int] = {}
        self._width = 8 if big else 4

    @staticmethod
    def header(*, big: bool) -> bytes:
        """The start of a file, whose first directory is not known yet."""
        return b"II\x2b\0\x08\0\0\0" + bytes(8) if big else b"II\x2a\0" + bytes(4)

    def write(self, chain: Sequence[Directory]) -> None:
        """Write the directories of the main chain, and have the header point to the first."""
        self._file.seek(0, io.SEEK_END)
        link = 8 if self._big else 4  # where the header says where the first is
        for directory in chain:
            place, after = self._lay(directory)
            self._file.seek(link)
            self._file.write(self._offset(place))
            self._file.seek(0, io.SEEK_END)
            link = after

    def _lay(self, directory: Directory) -> tuple[int, int]:
        """Write a directory after those below it; where it is, and where the place of the next is to be noted."""
        tags = dict(directory.tags)
        if directory.children:
            offsets = [self._lay(child)[0] for child in directory.children]
            tags[SUB_IFDS] = Tag(_IFD8, len(offsets), np.array(offsets, "<u8").tobytes())
        entries = [self._entry(code, self._fitted(tag)) for code, tag in sorted(tags.items())]
        place = self._align()
        data = len(entries).to_bytes(8 if self._big else 2, "little") + b"".join(entries)
        self._file.write(data + bytes(self._width))
        return place, place + len(data)

    def _fitted(self, tag: Tag) -> Tag:
        """The tag as this kind of file has it: no types of 64 bits in a classic one."""
        if self._big or tag.type not in (_LONG8, _IFD8):
            return tag
        values = np.frombuffer(tag.value, "<u8")
        if values.size and int(values.max()) > (1 << 32) - 1:
            raise _too_large()
        return longs(values)

    def _entry(self, code: int, tag: Tag) -> bytes:
        inside = len(tag.value) <= self._width
        value = tag.value.ljust(self._width, b"\0") if inside else self._offset(self._store(tag.value))
        head = code.to_bytes(2, "little") + tag.type.to_bytes(2, "little")
        return head + tag.number.to_bytes(self._width, "little") + value

    def _store(self, value: bytes) -> int:
        if value not in self._stored:
            self._stored[value] = self._align()
            self._file.write(value)
        return self._stored[value]

    def _align(self) -> int:
        """The end of the file, on a boundary of 8 bytes (TIFF 6.0 asks for words)."""
        end = self._file.tell()
        self._file.write(bytes(-end % 8))
        return end + -end % 8

    def _offset(self, value: int) -> bytes:
        if not self._big and value > (1 << 32) - 1:
            raise _too_large()
        return value.to_bytes(self._width, "little")


def _too_large() -> OutputError:
    return OutputError("the output does not fit in a classic TIFF (4 GB); write a BigTIFF, or compress more")


def segment_tables(offsets: NDArray[np.uint64], counts: NDArray[np.uint32], *, tiled: bool = True) -> Tags:
    """The tags of where segments are and how long."""
    first, second = (TILE_OFFSETS, TILE_BYTE_COUNTS) if tiled else (STRIP_OFFSETS, STRIP_BYTE_COUNTS)
    return {first: places(offsets), second: longs(counts)}


def page_of(tags: Tags, tile: int) -> Any:
    """A `tifffile.TiffPage` of one tile with these tags, which can decode segments."""
    import tifffile

    memory = io.BytesIO(DirectoryWriter.header(big=True))
    memory.seek(0, io.SEEK_END)
    whole = {
        **tags,
        IMAGE_WIDTH: long(tile),
        IMAGE_LENGTH: long(tile),
        **segment_tables(np.array([8], np.uint64), np.array([1], np.uint32)),
    }
    DirectoryWriter(memory, big=True).write([Directory(whole)])
    memory.seek(0)
    return tifffile.TiffFile(memory).pages.first
