"""Codecs of images, which know rows, samples and dtypes: JPEG 2000, WebP, PNG and JPEG XL. All use one thread."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.codecs.encoding import EncodeTile, Encoding

_WEBP_METHOD = 2  # half the time of libwebp's default 4, files 3 % larger, the same PSNR (measured on tissue)
_JPEGXL_EFFORT = 3  # a quarter of the time of 5, a higher PSNR in a larger file
_J2K_STEPS = (0.2, 1, 2, 4, 6, 9, 13)  # dB more than wanted that OpenJPEG is asked for, until a tile has what is wanted
_WORD_PSNR = 24.1  # dB between the peaks of 12 and of 16 bits: what cameras fill of a uint16


def _squeezed(tile: NDArray[Any]) -> Any:
    return tile[:, :, 0] if tile.shape[2] == 1 else tile


def make_jpeg2000(encoding: Encoding) -> EncodeTile:
    """A bare codestream by the reversible 5-3 wavelet, with the reversible colour transform for colours."""
    from imagecodecs import jpeg2k_encode

    settings: dict[str, Any] = {"codecformat": "j2k", "reversible": True, "mct": encoding.samples >= 3, "numthreads": 1}
    return lambda tile: bytes(jpeg2k_encode(_squeezed(tile), 0, **settings))


def make_htj2k(encoding: Encoding) -> EncodeTile:
    """The same wavelet, its coefficients by T.814's block coder, which decoders of JPEG 2000 of today know too."""
    from imagecodecs import htj2k_encode

    colours = encoding.samples >= 3
    return lambda tile: bytes(htj2k_encode(_squeezed(tile), reversible=True, rgb=colours))


def make_jpeg2000_lossy(encoding: Encoding) -> EncodeTile:
    """A bare codestream by the irreversible 9-7 wavelet, of which every tile has the PSNR that was asked for.

    OpenJPEG misses it by up to 10 dB where a tile is smooth. So each tile is decoded again, and one that fell short is
    asked for more, and in the end kept by the reversible wavelet; all that takes 0.44 times as long as encoding once.
    """
    from imagecodecs import jpeg2k_decode, jpeg2k_encode

    least = jpeg2000_psnr(encoding.effort or 0) + (_WORD_PSNR if encoding.dtype == "uint16" else 0)
    settings: dict[str, Any] = {"codecformat": "j2k", "reversible": False}
    settings |= {"mct": encoding.samples >= 3, "numthreads": 1}
    lossless = make_jpeg2000(encoding)

    def encode(tile: NDArray[Any]) -> bytes:
        pixels = _squeezed(tile)
        for more in _J2K_STEPS:
            level: Any = least + more
            stream = bytes(jpeg2k_encode(pixels, level, **settings))
            if _psnr(jpeg2k_decode(stream, numthreads=1), pixels) >= least:
                return stream
        return lossless(tile)

    return encode


def jpeg2000_psnr(quality: int) -> float:
    """The PSNR in dB that every tile of a quality has at least."""
    return 20 + quality / 5


def _psnr(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Of whole tiles, against the peak of the dtype."""
    import cv2
    import numpy as np

    squares = float(cv2.norm(found, wanted, cv2.NORM_L2SQR)) / wanted.size
    peak = float(np.iinfo(wanted.dtype).max)
    return 10 * math.log10(peak * peak / squares) if squares > 0 else math.inf


def make_webp(encoding: Encoding) -> EncodeTile:
    """VP8, its alpha lossless."""
    from imagecodecs import webp_encode

    quality = encoding.effort
    return lambda tile: bytes(webp_encode(tile, quality, lossless=False, method=_WEBP_METHOD, numthreads=1))


def make_webp_lossless(encoding: Encoding) -> EncodeTile:
    """VP8L, exact where alpha is 0 too."""
    from imagecodecs import webp_encode

    method = encoding.effort
    return lambda tile: bytes(webp_encode(tile, 0, lossless=True, method=method, numthreads=1))


def make_png(encoding: Encoding) -> EncodeTile:
    """A whole PNG file: tissue shrinks best by the Paeth filter alone, masks without a filter."""
    from imagecodecs import PNG, png_encode

    level = encoding.effort
    row_filter = PNG.FILTER.NO if encoding.pixels.kind in ("labels", "binary") else PNG.FILTER.PAETH
    return lambda tile: bytes(png_encode(_squeezed(tile), level, filter=row_filter))


def make_jpegxl(encoding: Encoding) -> EncodeTile:
    """A bare codestream; alpha is lossless."""
    from imagecodecs import jpegxl_encode

    settings: dict[str, Any] = {"distance": jpegxl_distance(encoding.effort or 0), "effort": _JPEGXL_EFFORT}
    settings |= {"lossless": False, "usecontainer": False, "numthreads": 1}
    return lambda tile: bytes(jpegxl_encode(_squeezed(tile), **settings))


def jpegxl_distance(quality: int) -> float:
    """The Butteraugli distance of a quality: libjxl's JxlEncoderDistanceFromQuality."""
    if quality >= 100:
        return 0.0
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality * quality - 23 / 20 * quality + 25


def make_jpegxl_lossless(encoding: Encoding) -> EncodeTile:
    """A bare codestream of modular mode."""
    from imagecodecs import jpegxl_encode

    settings: dict[str, Any] = {"lossless": True, "effort": encoding.effort, "usecontainer": False, "numthreads": 1}
    return lambda tile: bytes(jpegxl_encode(_squeezed(tile), **settings))
