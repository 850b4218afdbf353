"""Chunks that are images of their own, an experiment: the names of their codecs, and a source's tiles as such chunks.

No such codec is part of zarr yet, and "jpeg" and "jpegxl" are but proposed to it (zarr-extensions 66 and 70). The names
used here are those that the package imagecodecs-zarr registers.
"""

from __future__ import annotations

from typing import Any

from slidewright.codecs import Encoding
from slidewright.codecs.images import jpegxl_distance
from slidewright.pyramid.kept import Kept
from slidewright.sources.access.image_chunks import NAMES
from slidewright.sources.base import Stored
from slidewright.tiff.jpeg_header import ADOBE, header_segments

_BY_CODEC = {codec: name for name, codec in NAMES.items() if name.startswith("imagecodecs")}
_COLOURS = {"rgb": ("RGB", b"\0"), "ycbcr": ("YCBCR", b"\1")}


def image_name(compression: str) -> str | None:
    """The name of the codec of chunks that are images; None for a codec of bytes."""
    return _BY_CODEC.get(compression.removesuffix("-lossy").removesuffix("-lossless"))


def image_codec(encoding: Encoding, kept: Kept | None) -> dict[str, Any] | None:
    """The zarr v3 codec of such chunks, with the settings that imagecodecs has for it; None for codecs of bytes."""
    name = image_name(encoding.compression)
    if name is None:
        return None
    settings = _settings(encoding) if kept is None else {}
    if encoding.compression == "jpeg" and encoding.samples == 3:
        inside = "RGB" if encoding.rgb_inside else "YCBCR"
        if kept is not None:
            inside = _COLOURS[kept.stored.photometric][0]
        settings |= {"colorspace_data": "RGB", "colorspace_jpeg": inside}
    if encoding.compression.startswith("webp") and encoding.samples == 4:
        settings |= {"hasalpha": True}  # an opaque tile has none of its own
    return {"name": name, **({"configuration": settings} if settings else {})}


def _settings(encoding: Encoding) -> dict[str, Any]:
    match encoding.compression:
        case "jpeg":
            chroma = {} if encoding.subsampling is None else {"subsampling": encoding.subsampling}
            return {"level": encoding.effort, **chroma}
        case "jpeg2000" | "jpeg2000-lossy":
            return {"codecformat": "J2K", "reversible": encoding.compression == "jpeg2000"}
        case "webp":
            return {"level": encoding.effort, "lossless": False}
        case "webp-lossless":
            return {"lossless": True, "method": encoding.effort}
        case "jpegxl":
            return {"distance": jpegxl_distance(encoding.effort or 0), "lossless": False}
        case _:
            return {"lossless": True, "effort": encoding.effort}


def why_not_kept(stored: Stored) -> str | None:
    """Why chunks can't be tiles that are stored so, as a clause; None if they can."""
    if stored.compression == "zstd":
        if stored.predictor != 1:
            return "its tiles have a predictor, which zarr has not"
        return "its samples are big-endian" if stored.big_endian and stored.bits > 8 else None
    return None if image_name(stored.compression) else f"an OME-Zarr holds no {stored.compression}"


def whole_stream(segment: bytes, stored: Stored) -> bytes:
    """A tile as a chunk by itself: of a JPEG the tables that tiles share go into it, and a marker that says its colours
    where nothing does (Adobe's APP14, as in libjpeg); its own bytes stay as they are.
    """
    if stored.compression != "jpeg":
        return segment
    told = b""
    if stored.photometric in _COLOURS and segment[2:4] not in (b"\xff\xe0", b"\xff\xee"):
        told = ADOBE + _COLOURS[stored.photometric][1]
    return segment[:2] + told + header_segments(stored.tables) + segment[2:]
