"""Pillow images as arrays: which mode is which kind of image.

Modes whose samples are not those of a slide (CMYK, YCbCr, LAB and others) become RGB, as Pillow converts them; CMYK by
its ICC profile, where it has one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import SourceError
from slidewright.pixels import Colormap
from slidewright.sources.access.colours import by_profile
from slidewright.sources.array import ArraySource
from slidewright.system.interrupts import let_through

if TYPE_CHECKING:
    from PIL.Image import Image

_KINDS = {"1": "binary", "L": "grey", "P": "labels", "RGB": "rgb", "RGBA": "rgba", "I": "grey", "F": "grey"}
_SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
_CONVERTED = {"LA": "RGBA", "La": "RGBA", "PA": "RGBA", "RGBa": "RGBA"}
PROFILED = ("RGB", "RGBA", "L", "LA")
"""Modes whose ICC profile is of the pixels that are given; that of CMYK is not."""


@dataclass(frozen=True, slots=True)
class PilPixels:
    """The pixels of a Pillow image, (height, width[, samples]), and what they are."""

    pixels: NDArray[Any]
    kind: str
    colormap: Colormap | None
    icc_profile: bytes | None


def pil_source(image: Image) -> ArraySource:
    """A Pillow image as a source, with its palette as the colours of labels (mode P) and its ICC profile.

    Raises
    ------
    SourceError
        When Pillow can't load it, or can't turn its mode into RGB.
    """
    name = f"Pillow image of mode {image.mode}"
    found = pil_pixels(image, name)
    return ArraySource(found.pixels, name, kind=found.kind, colormap=found.colormap, icc_profile=found.icc_profile)


def pil_pixels(image: Image, name: str) -> PilPixels:
    """Load an image and tell its kind by its mode; `name` is what a SourceError calls it."""
    profile = image.info.get("icc_profile") if image.mode in PROFILED else None
    try:
        inks = by_profile("CMYK", image.info.get("icc_profile")) if image.mode == "CMYK" else None
        if inks is not None:
            pixels = np.empty((image.height, image.width, 3), np.uint8)
            inks(np.asarray(image), pixels)
            return PilPixels(pixels, "rgb", None, None)
        if has_transparent_colour(image):
            image = image.convert("RGBA")
        if image.mode not in _KINDS and image.mode not in _SIXTEEN:
            straight = image.convert("LA") if image.mode == "La" else image  # Pillow goes no further in one step
            image = straight.convert(_CONVERTED.get(image.mode, "RGB"))
        pixels = np.asarray(image)
    except Exception as error:  # a damaged file that is only read now, or a conversion that Pillow does not have
        let_through(error)
        raise SourceError(
            f"{name} can't be read ({type(error).__name__}: {error}); check the file it is from, or convert it to RGB"
        ) from error
    colormap = _colormap(image) if image.mode == "P" else None
    return PilPixels(pixels, _KINDS.get(image.mode, "grey"), colormap, profile)


def has_transparent_colour(image: Image) -> bool:
    """Whether one colour, or grey, stands for no pixels (PNG's tRNS), so that they become RGBA. Of a palette it would
    cost the labels.
    """
    return image.mode in ("1", "L", "RGB") and "transparency" in image.info


def kind_of_mode(mode: str) -> tuple[str, int, str]:
    """Dtype, samples and kind of what `pil_pixels` makes of an image of this mode."""
    if mode in _SIXTEEN:
        return "uint16", 1, "grey"
    mode = mode if mode in _KINDS else _CONVERTED.get(mode, "RGB")
    dtype = {"1": "bool", "I": "int32", "F": "float32"}.get(mode, "uint8")
    return dtype, {"RGB": 3, "RGBA": 4}.get(mode, 1), _KINDS[mode]


def colormap_of(image: Image) -> Colormap | None:
    """The palette of an image file of mode P that was opened and not decoded, which this does not do either."""
    from PIL import Image as Pillow

    small = Pillow.new("P", (1, 1))
    small.palette = image.palette and image.palette.copy()
    return _colormap(small) if small.palette else None


def _colormap(image: Image) -> Colormap | None:
    """The palette, 8 bits a colour, as (red, green, blue) of 0 to 65535."""
    try:
        values = image.getpalette("RGB")
    except ValueError as error:
        name = getattr(image, "filename", "") or "the image"
        raise SourceError(f"{name} has a palette that makes no sense ({error}); the file is damaged") from error
    if not values:
        return None
    colors = np.array(values, np.int64).reshape(-1, 3) * 257
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colors)
