"""Arithmetic of transparency: RGBA laid on a colour, and colours freed of an alpha that was multiplied into them.

Exact in integers, so that it gives the same pixels on every machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from slidewright.sources.base import Pixels


def compose(rgba: Pixels, background: tuple[float, ...], out: Pixels) -> None:
    """Lay (height, width, 4) pixels with straight alpha on a colour, into (height, width, 3).

    Each sample is (c * a + b * (top - a)) / top, rounded half up, where top is the alpha of an opaque pixel: 255 of
    uint8, 65535 of uint16. `background` has a value for each sample, of the same dtype.
    """
    top = int(np.iinfo(rgba.dtype).max)
    alpha = rgba[..., 3:]
    if int(alpha.min(initial=top)) == top:
        out[...] = rgba[..., :3]
        return
    wide: Any = np.uint32 if top == 255 else np.uint64
    weight = alpha.astype(wide)
    below = np.array(background[:3], wide)
    # top is odd, so no sum lies halfway between two multiples of it, and half of top rounded down rounds to nearest
    out[...] = (rgba[..., :3] * weight + below * (top - weight) + top // 2) // top


def straighten(rgba: Pixels, out: Pixels) -> None:
    """Divide the alpha out of colours that it was multiplied into (TIFF 6.0, ExtraSamples 1), rounded to nearest."""
    top = int(np.iinfo(rgba.dtype).max)
    alpha = rgba[..., 3:]
    if int(alpha.min(initial=top)) == top:
        out[...] = rgba
        return
    weight = alpha.astype(np.uint64)
    divisor = np.maximum(weight, 1)
    colours = (rgba[..., :3] * np.uint64(top) + divisor // 2) // divisor
    out[..., :3] = np.where(weight == 0, 0, np.minimum(colours, top))
    out[..., 3:] = alpha
