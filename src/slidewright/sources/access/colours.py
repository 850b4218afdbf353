"""Colours of TIFFs that are stored as something else: YCbCr outside JPEG, inks, CIE L*a*b*, grey with alpha.

Apart from the reader because each is a formula of its own, applied to decoded pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.tiff.page import Page
from slidewright.tiff.shown import change_of, spread_of

Convert = Callable[[NDArray[Any], NDArray[Any]], None]
"""From stored pixels to those that are given, of the same height and width."""


def given_as(page: Page) -> str | None:
    """The kind of pixels that a page's colours are turned into; None where they are taken as they are, or refused."""
    eight, photometric, samples = page.dtype == np.uint8 and page.bits == 8, page.photometric, page.samples
    words = page.dtype in (np.uint8, np.uint16) and page.bits in (2, 4, 8, 16)
    if photometric == "ycbcr" and not page.is_jpeg and samples == 3 and eight and page.compression in _BYTES:
        # What libtiff makes of a predictor beside units of subsampled chroma is nowhere said.
        return "rgb" if page.subsampling == (1, 1) or (page.planes == 1 and page.predictor == 1) else None
    if photometric == "separated" and samples == 4 and words and page.bits > 7 and not page.is_jpeg and page.is_cmyk:
        return "rgb"
    if photometric == "cielab" and samples == 3 and eight and not (page.is_jpeg or page.compression in _RGB):
        return "rgb"
    if photometric in ("minisblack", "miniswhite") and samples == 2 and page.has_alpha and words:
        return "rgba"
    return None


_RGB = ("webp", "png")  # which hold no other colours than RGB
_BYTES = ("none", "lzw", "deflate", "packbits", "zstd")


def converter_of(page: Page) -> Convert | None:
    """What turns a page's stored pixels into those that `given_as` names."""
    if given_as(page) is None:
        return None
    if page.photometric == "ycbcr":
        return _ycbcr(page)
    if page.photometric == "separated":
        convert = by_profile("CMYK", page.icc_profile) or _inks
        return convert if page.bits == 8 else lambda stored, out: convert((stored // 257).astype(np.uint8), out)
    if page.photometric == "cielab":
        return by_profile("LAB", None)
    return _grey_alpha(page)


def _ycbcr(page: Page) -> Convert:
    """TIFF 6.0 section 21: R = Y + Cr (2 - 2 LumaRed) and so on, by the page's own coefficients and reference range."""
    red, green, blue = page.luma
    black, white = page.reference[0::2], page.reference[1::2]
    codes = np.arange(256, dtype=np.float32)
    y = (codes - black[0]) * (255 / (white[0] - black[0]))
    cb, cr = ((codes - black[n]) * (127 / (white[n] - black[n])) for n in (1, 2))

    def convert(stored: NDArray[Any], out: NDArray[Any]) -> None:
        luma, to_blue, to_red = y[stored[..., 0]], cb[stored[..., 1]], cr[stored[..., 2]]
        r = luma + to_red * (2 - 2 * red)
        b = luma + to_blue * (2 - 2 * blue)
        g = (luma - b * blue - r * red) / green
        for sample, values in enumerate((r, g, b)):
            out[..., sample] = np.clip(values + 0.5, 0, 255)

    return convert


def _inks(stored: NDArray[Any], out: NDArray[Any]) -> None:
    """Without a profile: each colour is what its ink and black leave of white, (255 - C)(255 - K) / 255, as Pillow
    rounds it.
    """
    left = 255 - stored[..., 3].astype(np.uint32)
    for sample in range(3):
        product = stored[..., sample] * left + 128
        out[..., sample] = left - (((product >> 8) + product) >> 8)


def by_profile(mode: str, profile: bytes | None) -> Convert | None:
    """Into sRGB by littleCMS: from an ICC profile, or from L*a*b* of D50; None where there is no usable profile."""
    from PIL import Image, ImageCms

    try:
        if mode != "LAB" and profile is None:
            return None
        source = ImageCms.createProfile("LAB") if profile is None else ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform: Any = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError):
        return None

    def convert(stored: NDArray[Any], out: NDArray[Any]) -> None:
        size = (stored.shape[1], stored.shape[0])
        image = Image.frombytes(mode, size, np.ascontiguousarray(stored).tobytes(), "raw", mode)
        out[...] = np.asarray(ImageCms.applyTransform(image, transform))

    return convert


def _grey_alpha(page: Page) -> Convert:
    """Grey three times, as it is shown, and its alpha."""
    change, spread = change_of(page), spread_of(page)

    def convert(stored: NDArray[Any], out: NDArray[Any]) -> None:
        out[..., :3] = stored[..., :1]
        out[..., 3] = stored[..., 1]
        if change is not None:
            change(out[..., :3])
        if spread is not None:
            spread(out[..., 3])

    return convert
