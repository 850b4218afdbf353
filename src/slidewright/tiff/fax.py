"""Decoding CCITT segments by libtiff, through Pillow, from a TIFF of that one segment.

Apart from `segments.py` because of that detour, which is worth it: imagecodecs ends without a word at some codes that
libtiff reads, and the rest of the page is empty.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.tiff.page import Page

_CODES = {"ccittrle": 2, "ccitt-t4": 3, "ccitt-t6": 4}
_T4_OPTIONS, _T6_OPTIONS, _FILL_ORDER = 292, 293, 266
_LONG = 4


def fax_decoder(page: Page) -> Callable[..., Any] | None:
    """A decoder of the page's segments, called as tifffile's is; None for a page that is no fax."""
    if page.compression not in _CODES or page.samples // page.planes != 1:
        return None
    from PIL.TiffImagePlugin import TiffImageFile

    options = {tag: int(page.page.tags.valueof(tag, 0)) for tag in (_T4_OPTIONS, _T6_OPTIONS)}

    def decode(data: bytes, index: int, **_: Any) -> tuple[NDArray[Any], ...]:
        row = index % page.grid.height if not page.tiled else 0
        rows = page.cell.height if page.tiled else min(page.cell.height, page.size.height - row * page.cell.height)
        tags = {256: page.cell.width, 257: rows, 258: 1, 259: _CODES[page.compression], 262: 1, 277: 1, 278: rows}
        tags |= {_FILL_ORDER: 2 if page.reversed_bits else 1, 279: len(data), **options}
        with TiffImageFile(io.BytesIO(_tiff(tags, data))) as image:  # Image.open would warn of large ones
            return (np.asarray(image)[None, :, :, None],)

    return decode


def _tiff(tags: dict[int, int], data: bytes) -> bytes:
    """A TIFF of one strip, whose bits are given as they are: MinIsBlack."""
    start = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = sorted({**tags, 273: start}.items())
    table = b"".join(struct.pack("<HHII", tag, _LONG, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + data
