"""CCITT's codecs of single bits, through libtiff as Pillow has it: imagecodecs only decodes them.

Pillow saves the tile as a TIFF of one strip in memory, and that strip is the segment: TIFF codes tiles and strips
alike.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from slidewright.codecs.bytewise import pack_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.codecs.encoding import EncodeTile, Encoding

_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTE_COUNTS = 273, 278, 279


def make_ccitt_t4(encoding: Encoding) -> EncodeTile:
    """One-dimensional coding, which is what a missing T4Options means (TIFF 6.0 section 11)."""
    return _make(encoding, "group3")


def make_ccitt_t6(encoding: Encoding) -> EncodeTile:
    """Two-dimensional coding without ends of lines."""
    return _make(encoding, "group4")


def _make(encoding: Encoding, compression: str) -> EncodeTile:
    from PIL import Image

    size = (encoding.tile, encoding.tile)

    def encode(tile: NDArray[Any]) -> bytes:
        # A 0 bit is coded as white whatever the photometric says, so the mask's 0 stays 0 in a file of minisblack.
        bits = Image.frombuffer("1", size, pack_bits(tile).tobytes(), "raw", "1", 0, 1)
        buffer = io.BytesIO()
        bits.save(buffer, "TIFF", compression=compression, tiffinfo={_ROWS_PER_STRIP: encoding.tile})
        with Image.open(buffer) as saved:
            tags: Any = saved.tag_v2  # type: ignore[attr-defined]
            (offset,), (count,) = tags[_STRIP_OFFSETS], tags[_STRIP_BYTE_COUNTS]
        return buffer.getvalue()[offset : offset + count]

    return encode
