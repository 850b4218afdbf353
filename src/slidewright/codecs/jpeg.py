"""JPEG, as whole streams: what a format shares between tiles, such as the tables, it takes out itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from slidewright.codecs.encoding import EncodeTile, Encoding


def make_jpeg(encoding: Encoding) -> EncodeTile:
    """Baseline streams with fixed Huffman tables: the same header for every tile."""
    from imagecodecs import jpeg8_encode

    settings: dict[str, Any] = {"level": encoding.effort, "optimize": False}
    if encoding.rgb_inside:
        settings |= {"colorspace": "rgb", "outcolorspace": "rgb", "subsampling": "444"}
        return lambda tile: bytes(jpeg8_encode(tile, **settings))
    if encoding.samples == 3:
        settings |= {"colorspace": "rgb", "outcolorspace": "ycbcr", "subsampling": encoding.subsampling}
        return lambda tile: bytes(jpeg8_encode(tile, **settings))
    settings |= {"colorspace": "grayscale", "outcolorspace": "grayscale"}
    return lambda tile: bytes(jpeg8_encode(tile[:, :, 0], **settings))
