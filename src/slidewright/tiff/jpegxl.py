"""A JPEG stream to JPEG XL and back, bit for bit, with the tables that TIFF keeps apart put in and taken out again."""

from __future__ import annotations

from slidewright.tiff.jpeg_header import ADOBE, header_segments
from slidewright.tiff.page import Page

_SOI = b"\xff\xd8"


def joined_of(page: Page) -> bytes:
    """What is put behind a stream's first marker to make it whole: the tables, and that its colours are RGB where only
    the page says so.
    """
    told = ADOBE + b"\0" if page.photometric == "rgb" and not page.is_jfif else b""
    return told + header_segments(page.jpeg_tables)


def to_jpegxl(stream: bytes, joined: bytes) -> bytes | None:
    """A JPEG stream as JPEG XL; None for one that would not come back as it was."""
    from imagecodecs import jpegxl_encode_jpeg

    if not stream.startswith(_SOI):
        return None
    try:
        found = bytes(jpegxl_encode_jpeg(_SOI + joined + stream[2:], numthreads=1))
        kept = from_jpegxl(found, joined) == stream
    except MemoryError:
        raise
    except Exception:  # libjxl refuses what it can't hold, such as arithmetic coding or damage
        return None
    return found if kept else None


def from_jpegxl(data: bytes, joined: bytes) -> bytes:
    """The JPEG stream that `to_jpegxl` was given; raises ValueError, or what libjxl does, for anything else."""
    from imagecodecs import jpegxl_decode_jpeg

    whole = bytes(jpegxl_decode_jpeg(data, numthreads=1))
    start = _SOI + joined
    if not whole.startswith(start):
        raise ValueError("the JPEG XL holds another JPEG")
    return _SOI + whole[len(start) :]
