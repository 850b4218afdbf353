"""Zeros in the place of a part of a JPEG, as a copy leaves them that broke off or lost a block of its disk.

libjpeg only warns of them: it takes zeros for coefficients, and what comes after them for the rest of the image.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from slidewright.tiff.jpeg_header import read_jpeg_header

_HOLE = bytes(512)  # a sector; one that reaches beyond a tile takes its header or its end
_END = b"\xff\xd9"
_FEW = 8
_HUFFMAN = 2  # the highest n of SOFn that libjxl reads: baseline, extended and progressive
_COMPONENTS = (1, 3)
_MOST_SAMPLING = 2
_SCAN, _RESTARTS, _COMMENT = 0xDA, 0xDD, 0xFE


def has_hole(stream: bytes, joined: bytes = b"") -> bool:
    """Whether a JPEG of a whole tile has zeros in its codes, and these do not add up to its image. Such zeros alone are
    no hole: codes may be zeros where a tile has one colour. `joined` is what makes the stream whole, behind its first
    marker.
    """
    return _HOLE in stream and not _adds_up(stream, joined)


@lru_cache(maxsize=8)  # of an empty slide's tiles, which are all alike
def _adds_up(stream: bytes, joined: bytes) -> bool:
    """Whether all bytes of its codes are of its image, as libjxl reads them, which gives a JPEG back bit for bit; true
    of what it would not hold anyway.
    """
    parts = _parts(stream[:2] + joined + stream[2:])
    if parts is None or _HOLE not in parts.codes:
        return True
    header = read_jpeg_header(parts.head + parts.codes[:4])
    if header is None or header.process > _HUFFMAN or header.bits != 8 or len(header.sampling) not in _COMPONENTS:
        return True
    if max(map(max, header.sampling)) > _MOST_SAMPLING:
        return True
    if _is_read(parts.head + parts.codes + _END):  # what has bytes to spare takes zeros for more than there was
        return not _is_read(parts.head + parts.codes[:-_FEW] + _END)
    start = 2 + int.from_bytes(parts.codes[2:4])
    enough = bytes(4 * len(parts.codes) + parts.pixels)
    return not _is_read(parts.plain + parts.codes[:start] + enough + _END)  # else its head alone is why it is not read


class _Parts(NamedTuple):
    head: bytes
    """Tables and frame, up to the first scan, without what applications and people have added."""
    plain: bytes
    """The same without restarts."""
    codes: bytes
    """From the first scan on, up to the end."""
    pixels: int


def _parts(stream: bytes) -> _Parts | None:
    """What of a JPEG its pixels are made of; None where it is none."""
    at, head, plain, pixels = 2, stream[:2], stream[:2], 0
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == _SCAN:
            end = stream.find(_END, at)
            return None if end < 0 else _Parts(head, plain, stream[at:end].rstrip(b"\xff"), pixels)
        length = 2 + max(2, int.from_bytes(stream[at + 2 : at + 4]))
        if not (0xE0 <= marker <= 0xEF or marker == _COMMENT):
            head += stream[at : at + length]
            plain += stream[at : at + length] if marker != _RESTARTS else b""
        if 0xC0 <= marker <= 0xC2:
            pixels = int.from_bytes(stream[at + 5 : at + 7]) * int.from_bytes(stream[at + 7 : at + 9])
        at += length
    return None


def _is_read(stream: bytes) -> bool:
    from imagecodecs import jpegxl_encode_jpeg

    try:
        jpegxl_encode_jpeg(stream, numthreads=1)
    except MemoryError:
        raise
    except Exception:  # a class of its own, without a reason
        return False
    return True
