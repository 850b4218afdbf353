"""Zeros in the place of a part of a JPEG, as a copy leaves them that broke off or lost a block of its disk.

imagecodecs does not tell what libjpeg warns of: it takes zeros for coefficients, and what comes after them for the rest
of the image. simplejpeg tells the first warning.
"""

from __future__ import annotations

import re
from functools import lru_cache

from slidewright.geometry import Size
from slidewright.tiff.jpeg_header import PROGRESSIVE, read_jpeg_header
from slidewright.tiff.stream_headers import is_far_larger, look

_HOLE = bytes(512)  # a sector; one that reaches beyond a tile takes its header or its end
_DAMAGE = "Corrupt JPEG data"  # how libjpeg begins the warnings about codes (jerror.h), and no others
_SPARE = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
_END = b"\xff\xd9"


def has_hole(stream: bytes, cell: Size, joined: bytes = b"") -> bool:
    """Whether a JPEG of a tile of `cell` pixels has zeros in its codes, and these do not add up to its image. Such
    zeros alone are no hole: codes may be zeros where a tile has one colour. `joined` is what makes the stream whole,
    behind its first marker. False for one far larger than its tile, for which no room is to be made.
    """
    if _HOLE not in stream:
        return False
    size = look("jpeg", stream).size
    if size is None or is_far_larger(size, cell):
        return False
    return not _adds_up(stream, joined)


@lru_cache(maxsize=8)  # of an empty slide's tiles, which are all alike
def _adds_up(stream: bytes, joined: bytes) -> bool:
    """Whether libjpeg finds codes for all of the image and no more; true of what it can't decode for another reason."""
    from simplejpeg import decode_jpeg

    whole = stream[:2] + joined + stream[2:]
    header = read_jpeg_header(whole)
    if header is None or header.process > PROGRESSIVE:
        return True
    try:
        decode_jpeg(whole, "CMYK" if len(header.sampling) == 4 else "GRAY", strict=True)
    except MemoryError:
        raise
    except Exception as error:
        if _DAMAGE not in str(error):
            return True
        spare = _SPARE.search(str(error))  # zeros behind the last code of a whole image are no part of it
        return spare is not None and _zeros_at_end(stream) >= int(spare[1])
    return True


def _zeros_at_end(stream: bytes) -> int:
    """How many bytes of zeros there are before the marker of the end."""
    codes = stream[: stream.rfind(_END)].rstrip(b"\xff")
    return len(codes) - len(codes.rstrip(b"\0"))
