"""Images beside the levels (thumbnail, label, macro): as values, and as directories of one strip, which no reader takes
for a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.codecs import Encoding
from slidewright.formats.tiff_directories import (
    IMAGE_DESCRIPTION,
    IMAGE_LENGTH,
    IMAGE_WIDTH,
    NEW_SUBFILE_TYPE,
    ROWS_PER_STRIP,
    Tag,
    Tags,
    long,
    segment_tables,
    short,
    text,
)
from slidewright.pyramid.plan import Level, Plan
from slidewright.pyramid.reduce import halve

NAMES = ("thumbnail", "label", "macro")
THUMBNAIL_SIDE = 1024
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _PREDICTOR, _SUBSAMPLING = 258, 259, 262, 277, 284, 317, 530
_JPEG, _DEFLATE = 7, 8


@dataclass(frozen=True, slots=True, eq=False)
class Associated:
    """An image beside the levels."""

    name: str
    """One of `NAMES`."""
    pixels: NDArray[np.uint8]
    """(height, width, samples) with 1 or 3 samples."""
    lossy: bool = False
    """Whether JPEG will do."""

    def encoded(self) -> bytes:
        """Its one strip; the same bytes every time."""
        import imagecodecs

        if self.lossy and self.pixels.shape[2] == 3:
            pixels = np.ascontiguousarray(self.pixels)
            return bytes(
                imagecodecs.jpeg8_encode(
                    pixels, level=85, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
                )
            )
        differences = self.pixels.copy()
        differences[:, 1:] -= self.pixels[:, :-1]
        return bytes(imagecodecs.zlib_encode(differences.tobytes(), level=6))

    def tags(self, offset: int, nbytes: int, subfile_type: int = 0, description: str | None = None) -> Tags:
        """The tags of its directory."""
        height, width, samples = self.pixels.shape
        jpeg = self.lossy and samples == 3
        tags = {
            NEW_SUBFILE_TYPE: long(subfile_type),
            IMAGE_WIDTH: long(width),
            IMAGE_LENGTH: long(height),
            _BITS: Tag(3, samples, b"\x08\0" * samples),
            _COMPRESSION: short(_JPEG if jpeg else _DEFLATE),
            _PHOTOMETRIC: short(6 if jpeg else 2 if samples == 3 else 1),
            _SAMPLES: short(samples),
            ROWS_PER_STRIP: long(height),
            _PLANAR: short(1),
            **segment_tables(np.array([offset], np.uint64), np.array([nbytes], np.uint32), tiled=False),
        }
        tags[_SUBSAMPLING if jpeg else _PREDICTOR] = Tag(3, 2, b"\x02\0\x02\0") if jpeg else short(2)
        if description is not None:
            tags[IMAGE_DESCRIPTION] = text(description)
        return tags


def has_thumbnail(encoding: Encoding) -> bool:
    """Whether pixels are such that a thumbnail can be made of them."""
    pixels = encoding.pixels
    return pixels.dtype == "uint8" and pixels.kind in ("rgb", "rgba", "grey")


def thumbnail_level(plan: Plan) -> Level | None:
    """The level that a thumbnail is made of: the largest that fits, else the smallest unless that is large."""
    fitting = [level for level in plan.levels if max(level.size) <= THUMBNAIL_SIDE]
    last = fitting[0] if fitting else plan.levels[-1]
    return last if max(last.size) <= 4 * THUMBNAIL_SIDE else None


def thumbnail_of(pixels: NDArray[Any], *, lossy: bool, smaller: bool) -> Associated:
    """A thumbnail of the pixels of a level, halved until it fits, or at least once."""
    while max(pixels.shape[:2]) > THUMBNAIL_SIDE or smaller:
        pixels, smaller = halve("mean", pixels), False
    return Associated("thumbnail", np.ascontiguousarray(pixels[:, :, : 3 if pixels.shape[2] > 2 else 1]), lossy)
