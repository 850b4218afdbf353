"""What Pillow does not look at in a PNG: EXIF that stands behind the pixels, and the checksum of the pixels."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from slidewright.system.files import regular

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MAX_EXIF = 1 << 16
_READ, _INFLATE = 1 << 18, 1 << 20
_SPARE = 1 << 20
"""Bytes behind the pixels that are let pass, as libpng does."""
_IHDR_BITS, _IHDR_END = 24, 29  # where the number of bits is in a file, and its first chunk ends
_MOST_COLOURS = 3 * 256  # bytes
_SAMPLES = {2: 3, 4: 2, 6: 4}  # by kind of colour; greys and palettes have one
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps along them, of each pass (8.2)."""
_PIXEL_BYTES = 8
"""Of the largest pixel that there is, RGBA of 16 bits."""


def late_exif(path: str) -> bytes | None:
    """EXIF that stands behind the pixels of a PNG (PNG 3rd edition, 5.3 and 11.3.4.5), which need not be decoded."""
    with open(path, "rb", opener=regular) as file:
        for kind, count in _chunks(file):
            if kind == b"eXIf" and count <= _MAX_EXIF:
                return file.read(count)
    return None


def damage_of(path: str, width: int, height: int) -> str:
    """What is wrong with the compressed pixels of a PNG, in words, or "" where their checksum (RFC 1950, 2.2) is right.

    Pillow stops where it has all rows, and so does not see what comes after them, nor in the last chunk its checksum.
    """
    if problem := _order_damage(path):
        return problem
    stream, found = zlib.decompressobj(), 0
    most = _SPARE + _PIXEL_BYTES * (width + 8) * (height + 8)  # with filters, in each of an interlaced image's passes
    try:
        for data in _pixel_data(path):
            while data and not stream.eof:
                found += len(stream.decompress(data, _INFLATE))
                if found > most:
                    return "its pixels are more than its size says"
                data = stream.unconsumed_tail
        found += len(stream.flush())  # what was read and not yet asked for: the end of a run of bytes
    except zlib.error as error:
        return f"its pixels: {error}"
    if not stream.eof:
        return "its pixels end before their checksum"
    return "its pixels are fewer than its size says" if found < _least_bytes(path, width, height) else ""


def _order_damage(path: str) -> str:
    """Whether the header is first, and a palette of whole colours before the pixels where they are indices of one
    (5.6, 11.2.2).
    """
    with open(path, "rb", opener=regular) as file:
        start = file.read(_IHDR_END)
        if start[len(_SIGNATURE) + 4 :][:4] != b"IHDR":
            return "its header is not where it begins"
        if start[_IHDR_BITS + 1 :][:1] != b"\3":
            return ""
        for kind, count in _chunks(file):
            if kind in (b"PLTE", b"IDAT"):
                good = kind == b"PLTE" and 0 < count <= _MOST_COLOURS and count % 3 == 0
                return "" if good else "its palette is missing, or damaged"
    return "its palette is missing, or damaged"


def _least_bytes(path: str, width: int, height: int) -> int:
    """Of the pixels with their filters (5.3, 7.2, 8.1; IHDR is 11.2.1): bits a sample, kind of colour, interlacing."""
    with open(path, "rb", opener=regular) as file:
        header = file.read(_IHDR_END)[_IHDR_BITS:]
    bits, colour, interlaced = header[0], header[1], header[4]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for x, y, across, down in passes:
        columns, rows = -(-(width - x) // across), -(-(height - y) // down)
        if columns > 0:
            total += max(rows, 0) * (1 + -(-columns * bits * _SAMPLES.get(colour, 1) // 8))
    return total


def _pixel_data(path: str) -> Iterator[bytes]:
    """The compressed pixels (IDAT), piece by piece."""
    with open(path, "rb", opener=regular) as file:
        for kind, count in _chunks(file):
            left = count if kind == b"IDAT" else 0
            while left > 0 and (data := file.read(min(left, _READ))):
                left -= len(data)
                yield data


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Kind and bytes of each chunk, with the file at its beginning, up to the last or what is none (5.3)."""
    at = len(_SIGNATURE)
    while True:
        file.seek(at)
        head = file.read(8)
        count, kind = int.from_bytes(head[:4]), head[4:]
        if kind == b"IEND" or len(kind) < 4 or not kind.isalpha():
            return
        yield kind, count
        at += 8 + count + 4
