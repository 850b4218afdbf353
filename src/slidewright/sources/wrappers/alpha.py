"""Arithmetic of transparency: RGBA laid on a colour, and colours freed of an alpha that was multiplied into them.

Exact in integers, so that it gives the same pixels on every machine. OpenCV moves the samples: NumPy takes ten times as
long to leave out every fourth.
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
    alpha, top = _alpha(rgba), int(np.iinfo(rgba.dtype).max)
    if int(alpha.min(initial=top)) == top:
        _drop_alpha(rgba, out)
        return
    wide: Any = np.uint16 if top == 255 else np.uint32  # top * top + top // 2 just fits
    weight = alpha.astype(wide)
    rest = top - weight
    for sample in range(3):
        mixed = rgba[..., sample] * weight
        mixed += rest * wide(background[sample])
        mixed += top // 2  # top is odd: no quotient lies halfway between two numbers
        mixed //= top
        out[..., sample] = mixed


def straighten(rgba: Pixels) -> None:
    """Divide the alpha out of colours that it was multiplied into (TIFF 6.0, ExtraSamples 1), rounded to nearest."""
    alpha, top = _alpha(rgba), int(np.iinfo(rgba.dtype).max)
    if int(alpha.min(initial=top)) == top:
        return
    divisor = np.maximum(alpha, 1).astype(np.uint32 if top == 255 else np.uint64)
    for sample in range(3):
        colour = rgba[..., sample] * divisor.dtype.type(top)
        colour += divisor // 2
        colour //= divisor
        rgba[..., sample] = np.where(alpha == 0, 0, np.minimum(colour, top))


def _alpha(rgba: Pixels) -> Pixels:
    import cv2

    return cv2.extractChannel(rgba, 3)


def _drop_alpha(rgba: Pixels, out: Pixels) -> None:
    import cv2

    result = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB, dst=out)
    if not np.may_share_memory(result, out):  # OpenCV made an array of its own: out's strides did not suit it
        out[...] = result
