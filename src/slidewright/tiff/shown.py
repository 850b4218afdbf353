"""From the numbers that a TIFF stores to those that a viewer shows: white where zero is white, and the full range of
8 bits for samples of 2 and 4.

Apart from `segments.py`, which gives what is stored; both the source and the check against a source need this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.tiff.page import TiledImage


def change_of(page: TiledImage) -> Callable[[NDArray[Any]], None] | None:
    """What makes decoded pixels those that are shown, in place; None where they are already.

    MinIsWhite (TIFF 6.0, PhotometricInterpretation 0) is turned over, single bits too: 1 is what a viewer shows white.
    Signed and floating numbers are left alone, which have no darkest value. Samples of 2 and 4 bits are spread over 0
    to 255, as libvips and Pillow do; indices of a palette are none.
    """
    inverted = page.photometric == "miniswhite" and page.dtype.kind == "u"
    factor = 255 // ((1 << page.bits) - 1) if page.bits in (2, 4) and page.photometric != "palette" else 1
    if not inverted and factor == 1:
        return None
    if page.bits == 1:
        return _flip
    top = page.dtype.type(255 if factor > 1 else (1 << page.bits) - 1)

    def change(pixels: NDArray[Any]) -> None:
        if factor > 1:
            pixels *= pixels.dtype.type(factor)
        if inverted:
            np.subtract(top, pixels, out=pixels)

    return change


def _flip(bits: NDArray[Any]) -> None:
    """0 and 1, or False and True, exchanged."""
    bits ^= bits.dtype.type(1)
