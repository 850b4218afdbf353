"""Chunks of a zarr array that are images of their own: the names of their codecs, and their pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.tiff.jpeg2000 import too_much
from slidewright.tiff.jpeg_holes import has_hole
from slidewright.tiff.stream_headers import look

NAMES = {
    "imagecodecs_jpeg": "jpeg",
    "imagecodecs_jpeg2k": "jpeg2000",
    "imagecodecs_webp": "webp",
    "imagecodecs_jpegxl": "jpegxl",
    "jpeg": "jpeg",
    "jpegxl": "jpegxl",
}
"""What the compression table calls such a codec: those of the package imagecodecs-zarr, and those that are proposed to
zarr-extensions (66 and 70).
"""


def decode_image(
    codec: str, data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], settings: Mapping[str, Any]
) -> NDArray[Any]:
    """The pixels of a chunk of (height, width) or (height, width, samples); ValueError for others, or a part."""
    import imagecodecs

    size = look(codec, data).size
    if size is None or tuple(size) != shape[:2]:
        raise ValueError(f"it is an image of {size}, not of {shape[1]} x {shape[0]}")
    match codec:
        case "jpeg" | "jpeg2000" if data.rfind(b"\xff\xd9") < 0:  # the libraries only warn, and the rest would be grey
            raise ValueError(f"it is a {codec.upper()} without an end")
        case "jpeg2000" if problem := too_much(data):
            raise ValueError(problem)
        case "jpeg" if has_hole(data, size):
            raise ValueError("it is a JPEG with zeros in the place of a part")
        case "jpeg":
            colours = {"colorspace": settings.get("colorspace_jpeg"), "outcolorspace": settings.get("colorspace_data")}
            pixels = imagecodecs.jpeg8_decode(data, **colours)
        case "jpeg2000":
            pixels = imagecodecs.jpeg2k_decode(data, numthreads=1)
        case "webp":
            pixels = imagecodecs.webp_decode(data, hasalpha=len(shape) > 2 and shape[2] == 4)
        case _:
            pixels = imagecodecs.jpegxl_decode(data, numthreads=1)
    if pixels.dtype != dtype:
        raise ValueError(f"its samples are {pixels.dtype}, not {dtype}")
    return np.asarray(pixels).reshape(shape)
