"""How much work a JPEG 2000 stream claims to be, before a decoder begins with it: a few hundred bytes can be hours.

Where readers could differ in what a header says, all of what any could take from it counts.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_LAYERS = 100
"""Of a stream that is decoded: each goes over all of its blocks."""
_SOC_SIZ = b"\xff\x4f\xff\x51"
_SOT = re.compile(rb"\xff\x90\x00\x0a", re.DOTALL)  # which is in no codes (T.800, B.10.1)
_COD, _COC = 0x52, 0x53
_ENDS = (0x90, 0x93, 0xD9)  # SOT, SOD, EOC
_SEGMENTS = (*range(0x50, 0x60), 0x60, 0x61, 0x63, 0x64, 0x74, 0x75, 0x76, 0x77, 0x78)
_PLAIN = (0x54, 0x56, 0x5A, 0x5B, 0x76)  # segments that OpenJPEG does not know: it looks for the next marker in them
_FEW = 65_536  # packets, which OpenJPEG goes over in 0.1 s
_MOST_PARTS = 1024  # of an image that are counted; more than those are not needed to find that there are too many
_MOST_KINDS = 16  # of components
_MOST_STYLES = 64
_OVERLAPS = 4
"""Times its length that a stream's headers may be in all, where they lie in one another."""


class _Style(NamedTuple):
    """What decides how many packets a component has: its precincts' sides, one pair for each resolution."""

    layers: int
    precincts: tuple[tuple[int, int], ...]


def too_much(data: bytes) -> str:
    """What is wrong with a stream that claims far more work than its bytes can hold; nothing of others.

    Each packet of a layer, resolution, component and precinct has a header of at least one byte (ITU-T T.800, B.9 and
    B.10.1), so where there are more of them than bytes most are not there, and a decoder looks for all of them.
    """
    try:
        begin = _begin(data)
        styles = list(_styles(data, begin))
        layers = max(style.layers for style in styles)
        if layers > MAX_LAYERS:
            return f"it claims {layers} layers, where {MAX_LAYERS} are the most that are read"
        most = max(len(data), _FEW)
        if (kinds := len(_steps(data, begin))) > _MOST_KINDS:
            return f"its components are sampled in {kinds} ways, where {_MOST_KINDS} are the most that are read"
        precincts = {style.precincts for style in styles}
        pieces = _Pieces(data, begin)
        if len(precincts) > _MOST_STYLES:
            return f"it has {len(precincts)} coding styles, where {_MOST_STYLES} are the most that are read"
        # Each component of a tile has one of the styles; which one is not asked.
        if sum(layers * _packets(pieces, each, most) for each in precincts) > most:
            return f"it claims more than {most} packets in {len(data)} bytes"
    except _UnknownMarkerError as error:
        return str(error)
    except (IndexError, ValueError, ZeroDivisionError):  # the decoder says what is wrong with it
        return ""
    return ""


class _UnknownMarkerError(Exception):
    """A header has what readers could take for different things."""


def _begin(data: bytes) -> int:
    """Where the codestream begins: at once, or in the first box of the kind (T.800, I.4)."""
    at = 0
    while data[:4] != _SOC_SIZ and at + 8 <= len(data):
        length, kind, head = _int(data, at, 4), data[at + 4 : at + 8], 8
        if length == 1:
            length, head = _int(data, at + 8, 8), 16
        if kind == b"jp2c":
            return data.index(_SOC_SIZ, at + head)
        if length < head:
            break
        at += length
    return data.index(_SOC_SIZ)


def _styles(data: bytes, begin: int) -> Iterator[_Style]:
    """All that the main header and those of tile parts say of layers and precincts."""
    components = _int(data, begin + 40, 2)
    layers = 1
    starts = [begin + 2, *(found.start() + 12 for found in _SOT.finditer(data, begin))]
    seen: set[int] = set()
    length = 0
    for start in starts:
        for marker, body in _segments(data, start, seen):
            length += len(body)
            if length > _OVERLAPS * len(data):
                raise _UnknownMarkerError("its headers lie in one another")
            if marker == _COD:
                layers = max(layers, _int(body, 2, 2))
                yield _Style(layers, _precincts(body[5:], body[0]))
            elif marker == _COC:
                wide = 1 if components < 257 else 2
                yield _Style(layers, _precincts(body[wide + 1 :], body[wide]))


def _segments(data: bytes, at: int, seen: set[int]) -> Iterator[tuple[int, bytes]]:
    """(the second byte of its marker, what is in it) for each segment of a header, but for those that were `seen`: what
    looks like the begin of a tile part may lie in a comment.
    """
    while at + 4 <= len(data) and at not in seen and (marker := _int(data, at, 2)) & 0xFF not in _ENDS:
        seen.add(at)
        body = data[at + 4 : at + 2 + _int(data, at + 2, 2)]
        kind = marker & 0xFF
        if marker >> 8 != 0xFF or kind not in _SEGMENTS or (kind in _PLAIN and (b"\xff" in body or len(body) % 2)):
            raise _UnknownMarkerError(f"it has a marker {marker:#06x} that is not known")
        yield kind, body
        at += 2 + max(2, _int(data, at + 2, 2))


def _precincts(body: bytes, style: int) -> tuple[tuple[int, int], ...]:
    """The exponents of width and height, for each resolution from the smallest."""
    resolutions = body[0] + 1
    if not style & 1:
        return ((15, 15),) * resolutions
    sides = body[5 : 5 + resolutions]
    return tuple((side & 15, side >> 4) for side in sides)


def _packets(pieces: _Pieces, precincts: tuple[tuple[int, int], ...], most: int) -> int:
    """How many packets a layer has, of a style for all; it is counted no further than beyond `most`."""
    found = 0
    for (across, down), times in pieces.steps.items():
        for number, (wide, high) in enumerate(precincts):
            halvings = len(precincts) - 1 - number
            found += times * pieces.count(0, across, halvings, wide) * pieces.count(1, down, halvings, high)
            if found > most:
                return found
    return found


class _Pieces:
    """How many precincts lie side by side, and one below the other, in all tiles; each is counted once."""

    def __init__(self, data: bytes, begin: int) -> None:
        at = begin + 4
        right, bottom, left, top, width, height, first_x, first_y = (_int(data, at + 4 + 4 * n, 4) for n in range(8))
        self.steps = _steps(data, begin)
        self._sides = _parts(left, right, first_x, width), _parts(top, bottom, first_y, height)
        self._known: dict[tuple[int, int, int, int], int] = {}

    def count(self, axis: int, step: int, halvings: int, exponent: int) -> int:
        """Those of a component that is sampled with `step`, a resolution and an exponent of their sides (T.800, B.6),
        along x or y.
        """
        key = axis, step, halvings, exponent
        if key not in self._known:
            if not step:
                raise ZeroDivisionError
            begin, end = (-(-self._sides[axis] // step) + (1 << halvings) - 1) >> halvings
            pieces = -(-end >> exponent) - (begin >> exponent)
            self._known[key] = int(pieces[end > begin].sum())
        return self._known[key]


def _steps(data: bytes, begin: int) -> Counter[tuple[int, int]]:
    """How many components there are of each (across, down): a sample for so many pixels."""
    count, at = _int(data, begin + 40, 2), begin + 42
    return Counter((data[at + 3 * n + 1], data[at + 3 * n + 2]) for n in range(count))


def _parts(begin: int, end: int, first: int, length: int) -> NDArray[np.int64]:
    """Where the first columns, or rows, of tiles begin; and where they end."""
    places = range(first, end, length)
    found = [(max(place, begin), min(place + length, end)) for place in islice(places, _MOST_PARTS)]
    return np.array(found, np.int64).reshape(-1, 2).T


def _int(data: bytes, at: int, length: int) -> int:
    if at + length > len(data):
        raise ValueError("the stream is too short")
    return int.from_bytes(data[at : at + length])
