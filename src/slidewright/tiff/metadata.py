"""What a TIFF says about itself beside its pixels: micrometres a pixel and description.

Takes tifffile's pages and files; the rules come from TIFF 6.0 (resolution, section 8), Aperio's description line and
the OME schema.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from slidewright.tiff.series import is_ours

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

OWN = "slidewright|"
"""How a description begins in which slidewright itself kept metadata."""
KIND_MARK = ", pixels are "
"""What Software says of the kind of pixels where the description is another's."""
MICROMETRES = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "in": 25_400.0,
    "meter": 1e6, "centimeter": 1e4, "millimeter": 1e3, "micrometer": 1.0, "micron": 1.0, "nanometer": 1e-3,
    "angstrom": 1e-4, "inch": 25_400.0, "microns": 1.0, "micrometers": 1.0,
}  # fmt: skip
"""Micrometres in a unit, by its OME symbol or its UDUNITS name."""

SECONDS = {
    "s": 1.0, "ms": 1e-3, "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "d": 86400.0,
    "second": 1.0, "sec": 1.0, "millisecond": 1e-3, "microsecond": 1e-6, "nanosecond": 1e-9, "minute": 60.0,
    "hour": 3600.0, "day": 86400.0, "seconds": 1.0, "milliseconds": 1e-3, "minutes": 60.0, "hours": 3600.0,
    "msec": 1e-3, "hr": 3600.0,
}  # fmt: skip
"""Seconds in a unit of time, by its OME symbol or its UDUNITS name."""

MAX_MPP = 100.0
"""The coarsest resolution that is taken for a microscope's without OME or a vendor to say so (72 dpi are 353).
"""

_APERIO_MPP = re.compile(r"\|\s*MPP\s*=\s*([0-9.eE+-]+)")
_RESOLUTION_UNITS = {2: 25_400.0, 3: 10_000.0}  # micrometres in an inch, in a centimetre


def mpp_of(tiff: Any, page: Any, series: int) -> tuple[float, float] | None:
    """Micrometres a pixel along (x, y) of the full-size page of a series, or None where nothing states them.

    Aperio says those of the slide on every page, its label too. In a file of ours the tags are more exact.
    """
    description = str(page.description or "")
    if tiff.is_svs and series == 0 and not is_ours(tiff):
        found = _APERIO_MPP.search(description) or _APERIO_MPP.search(str(tiff.pages.first.description or ""))
        value = positive(found.group(1)) if found else None
        if value is not None:
            return (value, value)
    if tiff.is_philips and series == 0:
        spacing = _philips_mpp(str(tiff.philips_metadata or ""))
        if spacing is not None:
            return spacing
    if tiff.is_ome:
        pixels = ome_pixels(str(tiff.ome_metadata or ""), series)
        value_xy = None if pixels is None else ome_mpp(pixels)
        if value_xy is not None:
            return value_xy
    found_xy = resolution_of(tiff, page)
    return None if found_xy is None or (max(found_xy) > MAX_MPP and not is_ours(tiff)) else found_xy


def description_of(tiff: Any, page: Any) -> str | None:
    """The page's ImageDescription, unless it describes the layout of the very file (OME-XML, ImageJ, tifffile's JSON
    shape, which may stand in a second one).
    """
    text = str(page.description or "").strip("\0 \r\n")
    shaped = page.is_shaped and page.is_shaped == page.description
    if not text or tiff.is_ome or page.is_imagej or shaped or text.startswith(OWN):
        return None
    return text


def resolution_of(tiff: Any, page: Any) -> tuple[float, float] | None:
    """Micrometres a pixel by the resolution tags alone, whatever they are worth; ImageJ says their unit elsewhere."""
    unit = _RESOLUTION_UNITS.get(int(page.tags.valueof(296, 2)))  # TIFF 6.0: an absent ResolutionUnit means inch
    across = down = unit
    if tiff.is_imagej:
        across, down = (imagej_unit(tiff.imagej_metadata or {}, axis, unit) for axis in "xy")
    values = [ratio_of(page.tags.valueof(code)) for code in (282, 283)]
    x, y = values[0], values[1] if values[1] is not None else values[0]
    if across is None or down is None or x is None or y is None:
        return None
    return (across / x, down / y)


def imagej_unit(found: Mapping[str, Any], axis: str, otherwise: float | None = None) -> float | None:
    """Micrometres in the unit that ImageJ names for an axis, or for all of them."""
    name = str(found.get(f"{axis}unit", found.get("unit", ""))).replace("\\u00B5", "µ").lower()
    return MICROMETRES.get(name, otherwise)


def ratio_of(value: Any) -> float | None:
    """A fraction of a tag, above 0; None for what is none."""
    try:
        return positive(value[0] / value[1])
    except (TypeError, IndexError, ZeroDivisionError):
        return None


def positive(value: Any) -> float | None:
    """A number above 0, of text or anything; None for what is none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _philips_mpp(xml: str) -> tuple[float, float] | None:
    """DICOM_PIXEL_SPACING of the first level: two numbers in quotes, millimetres from row to row and column to column;
    these files have no resolution tags.
    """
    level = re.search(r'ObjectType="PixelDataRepresentation".*', xml, re.DOTALL)
    found = level and re.search(r'Name="DICOM_PIXEL_SPACING"[^>]{0,200}>([^<]*)<', level[0])
    values = [positive(text) for text in re.split(r"&quot;|[\s\"]+", found[1]) if text] if found else []
    if len(values) != 2 or values[0] is None or values[1] is None:
        return None
    return (values[1] * 1000, values[0] * 1000)


def ome_pixels(xml: str, series: int) -> Element | None:
    """The Pixels of the `series`-th Image."""
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = [element for element in root.iter() if element.tag.rpartition("}")[2] == "Pixels"]
    return pixels[series] if 0 <= series < len(pixels) else None


def ome_mpp(pixels: Element) -> tuple[float, float] | None:
    """PhysicalSizeX and Y; the schema's default unit is the micrometre."""
    found: list[float] = []
    for axis in "XY":
        value = positive(pixels.get(f"PhysicalSize{axis}"))
        unit = MICROMETRES.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").lower())
        if value is None or unit is None:
            return None
        found.append(value * unit)
    return (found[0], found[1])
