"""How much work a JPEG 2000 stream claims to be, before a decoder begins with it: a few hundred bytes can be hours."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import NamedTuple

_SIZ, _COD, _COC, _SOT, _SOD = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93
_FEW = 65_536  # packets, which OpenJPEG goes over in 0.1 s
_MOST_PARTS = 1024  # of an image that are counted; more than those are not needed to find that there are too many
_MOST_KINDS = 16  # of components


class _Style(NamedTuple):
    """What decides how many packets a component has: its precincts' sides, one pair for each resolution."""

    layers: int
    precincts: tuple[tuple[int, int], ...]


def too_many_packets(data: bytes) -> str:
    """What is wrong with a stream that claims more packets than it has bytes; nothing of others.

    Each packet of a layer, resolution, component and precinct has a header of at least one byte (ITU-T T.800, B.9 and
    B.10.1), so most of these are not there, and a decoder looks for all of them.
    """
    try:
        most = max(len(data), _FEW)
        packets = _packets(data, most)
    except (IndexError, ValueError, ZeroDivisionError):  # the decoder says what is wrong with it
        return ""
    return f"it claims more than {most} packets in {len(data)} bytes" if packets > most else ""


def _packets(data: bytes, most: int) -> int:
    """How many a stream has at least; it is counted no further than beyond `most`."""
    at = data.index(b"\xff\x4f\xff\x51") + 4
    right, bottom, left, top, width, height, first_x, first_y = (_int(data, at + 4 + 4 * n, 4) for n in range(8))
    count = _int(data, at + 36, 2)
    steps = [(data[at + 39 + 3 * n], data[at + 40 + 3 * n]) for n in range(count)]
    columns = _parts(left, right, first_x, width)
    rows = _parts(top, bottom, first_y, height)
    at += _int(data, at, 2)
    default, styles, at = _header(data, at, count, None, {})
    found = _of_tiles(columns, rows, steps, default, styles, most)
    if found > most:
        return found
    across = _ceil(right - first_x, width)
    while at + 12 <= len(data) and _int(data, at, 2) == _SOT:
        tile, length = _int(data, at + 4, 2), _int(data, at + 6, 4)
        own, owns, _ = _header(data, at + 12, count, default, styles)
        if (own, owns) != (default, styles):
            y, x = divmod(tile, across)
            if x < len(columns) and y < len(rows):
                found = max(found, _of_tiles([columns[x]], [rows[y]], steps, own, owns, most))
        if length < 14:
            break
        at += length
    return found


def _header(
    data: bytes, at: int, count: int, default: _Style | None, styles: dict[int, _Style]
) -> tuple[_Style | None, dict[int, _Style], int]:
    """The coding style for all components and those for some, of a main header or a tile-part's, and where it ends."""
    styles = dict(styles)
    while at + 4 <= len(data) and (marker := _int(data, at, 2)) not in (_SOT, _SOD) and marker >> 8 == 0xFF:
        body = data[at + 4 : at + 2 + _int(data, at + 2, 2)]
        if marker == _COD:
            default = _Style(_int(body, 2, 2), _precincts(body[5:], body[0]))
        elif marker == _COC and default is not None:
            wide = 1 if count < 257 else 2
            styles[_int(body, 0, wide)] = _Style(default.layers, _precincts(body[wide + 1 :], body[wide]))
        at += 2 + max(2, _int(data, at + 2, 2))
    return default, styles, at


def _precincts(body: bytes, style: int) -> tuple[tuple[int, int], ...]:
    """The exponents of width and height, for each resolution from the smallest."""
    resolutions = body[0] + 1
    if not style & 1:
        return ((15, 15),) * resolutions
    sides = body[5 : 5 + resolutions]
    return tuple((side & 15, side >> 4) for side in sides)


def _parts(begin: int, end: int, first: int, length: int) -> list[tuple[int, int]]:
    """Where the first columns, or rows, of tiles begin and end."""
    places = range(first, end, length)
    return [(max(place, begin), min(place + length, end)) for place in islice(places, _MOST_PARTS)]


def _of_tiles(
    columns: list[tuple[int, int]],
    rows: list[tuple[int, int]],
    steps: list[tuple[int, int]],
    default: _Style | None,
    styles: dict[int, _Style],
    most: int,
) -> int:
    """The packets of a grid of tiles."""
    kinds = Counter((step, styles.get(number, default)) for number, step in enumerate(steps))
    found = 0
    for ((across, down), style), times in islice(kinds.items(), _MOST_KINDS):
        if style is None:
            continue
        for number, (wide, high) in enumerate(style.precincts):
            halvings = len(style.precincts) - 1 - number
            x = sum(_pieces(part, across, halvings, wide) for part in columns)
            y = sum(_pieces(part, down, halvings, high) for part in rows)
            found += times * style.layers * x * y
            if found > most:
                return found
    return found


def _pieces(part: tuple[int, int], step: int, halvings: int, exponent: int) -> int:
    """How many precincts there are along one side of a tile, of a component and resolution (T.800, B.6)."""
    begin, end = (_ceil(_ceil(place, step), 1 << halvings) for place in part)
    return _ceil(end, 1 << exponent) - (begin >> exponent) if end > begin else 0


def _int(data: bytes, at: int, length: int) -> int:
    if at + length > len(data):
        raise ValueError("the stream is too short")
    return int.from_bytes(data[at : at + length])


def _ceil(value: int, divisor: int) -> int:
    """Division that rounds up."""
    return -(-value // divisor)
