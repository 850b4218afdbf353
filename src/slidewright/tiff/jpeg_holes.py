"""Zeros in the place of a part of a JPEG, as a copy leaves them that broke off or lost a block of its disk.

libjpeg only warns of them: it takes zeros for coefficients, and what comes after them for the rest of the image.
"""

from __future__ import annotations

from functools import lru_cache

from slidewright.tiff.jpeg_header import read_jpeg_header

_ZEROS, _END = bytes(64), b"\xff\xd9"
_FEW = 8
_HUFFMAN = 2  # the highest n of SOFn that libjxl reads: baseline, extended and progressive
_COMPONENTS = (1, 3)
_MOST_SAMPLING = 2


def has_hole(stream: bytes, joined: bytes = b"") -> bool:
    """Whether a JPEG of a whole tile does not add up and has a run of zeros. Such a run alone is none: codes may be
    zeros where a tile has one colour. `joined` is what makes the stream whole, behind its first marker.
    """
    return stream.find(_ZEROS, 0, stream.rfind(_END)) >= 0 and not _adds_up(stream, joined)


@lru_cache(maxsize=8)  # of an empty slide's tiles, which are all alike
def _adds_up(stream: bytes, joined: bytes) -> bool:
    """Whether all bytes of its scan are codes of its image, as libjxl reads them, which gives a JPEG back bit for bit;
    true of what it would not hold anyway.
    """
    header = read_jpeg_header(stream)
    known = header is not None and header.process <= _HUFFMAN and header.bits == 8
    if header is None or not known or len(header.sampling) not in _COMPONENTS:
        return True
    if max(map(max, header.sampling)) > _MOST_SAMPLING:
        return True
    end = stream.rfind(_END)
    shorter = stream[: end - _FEW] + stream[end:]  # what has bytes to spare takes zeros for more than there was
    return _is_read(stream, joined) and not _is_read(shorter, joined)


def _is_read(stream: bytes, joined: bytes) -> bool:
    from imagecodecs import jpegxl_encode_jpeg

    try:
        jpegxl_encode_jpeg(stream[:2] + joined + stream[2:], numthreads=1)
    except MemoryError:
        raise
    except Exception:  # a class of its own, without a reason
        return False
    return True
