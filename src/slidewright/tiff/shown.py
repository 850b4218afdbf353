"""From the numbers that a TIFF stores to those that a viewer shows: white where zero is white, and the full range of
8 bits for samples of fewer.

Apart from `segments.py`, which gives what is stored; both the source and the check against a source need this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.tiff.page import TiledImage

Change = Callable[[NDArray[Any]], None]
"""Of decoded pixels, in place."""


def change_of(page: TiledImage) -> Change | None:
    """What makes decoded pixels those that are shown, in place; None where they are already.

    MinIsWhite (TIFF 6.0, PhotometricInterpretation 0) is turned over, single bits too: 1 is what a viewer shows white.
    Signed and floating numbers are left alone, which have no darkest value.
    """
    inverted = page.photometric == "miniswhite" and page.dtype.kind == "u"
    spread = spread_of(page)
    if not inverted:
        return spread
    if page.is_mask:
        return _flip
    top = page.dtype.type(255 if spread else (1 << page.bits) - 1)

    def change(pixels: NDArray[Any]) -> None:
        if spread is not None:
            spread(pixels)
        np.subtract(top, pixels, out=pixels)

    return change


def spread_of(page: TiledImage) -> Change | None:
    """What spreads samples of less than 8 bits over 0 to 255, as libvips and Pillow do; indices of a palette are none,
    and a single bit a pixel is a mask.
    """
    if page.bits >= 8 or page.photometric == "palette" or page.is_mask:
        return None
    top = (1 << page.bits) - 1
    table = np.round(np.arange(256).clip(max=top) * (255 / top)).astype(np.uint8)

    def spread(pixels: NDArray[Any]) -> None:
        pixels[...] = table[pixels]

    return spread


def _flip(bits: NDArray[Any]) -> None:
    """0 and 1, or False and True, exchanged."""
    bits ^= bits.dtype.type(1)
