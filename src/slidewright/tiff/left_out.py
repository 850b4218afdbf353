"""What a TIFF says that a conversion does not pass on, in words for one warning."""

from __future__ import annotations

from typing import Any

import numpy as np

from slidewright.tiff.metadata import (
    MAX_MPP,
    MICROMETRES,
    SECONDS,
    imagej_unit,
    ome_mpp,
    ome_pixels,
    positive,
    ratio_of,
    resolution_of,
)
from slidewright.tiff.page import read_page
from slidewright.tiff.series import main_pages
from slidewright.tiff.vendor_metadata import untold_objective

_MASK = 4  # NewSubfileType, bit 2: a transparency mask
_GDAL, _NODATA = 42112, 42113  # GDAL's
_PLACES = (286, 287)  # XPosition and YPosition
_GEOTIFF = (33550, 33922, 34264, 34735)  # ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory
_OF_PLANE = ("TheC", "TheZ", "TheT")
_IMAGEJ_ORIGINS, _IMAGEJ_DRAWN = ("xorigin", "yorigin", "zorigin"), ("ROI", "Overlays")


def left_out_of(tiff: Any, page: Any, series: int, mpp: tuple[float, float] | None) -> tuple[str, ...]:
    """One clause for each thing of a series, whose full-size page is given, that is lost."""
    found = _of_ome(tiff, series) if tiff.is_ome else _of_imagej(tiff, page) if tiff.is_imagej else []
    resolution = resolution_of(tiff, page)
    if mpp is None and resolution is not None and max(resolution) > MAX_MPP:
        found.append(
            f"its resolution of {resolution[0]:.4g} um a pixel, which is a printer's or a screen's and no microscope's "
            "(give mpp where it is right)"
        )
    ratios = [ratio_of(page.tags.valueof(code)) for code in (282, 283)]
    if mpp is None and resolution is None and ratios not in ([None, None], [1, 1]):  # 1 and 1 stand for nothing known
        numbers = " x ".join("?" if ratio is None else f"{ratio:.4g}" for ratio in ratios)
        found.append(f"its resolution of {numbers} pixels in a unit that is no known length (give mpp)")
    if any(ratio_of(page.tags.valueof(code)) for code in _PLACES):
        found.append("where it lies (XPosition and YPosition)")
    if any(code in page.tags for code in _GEOTIFF):
        found.append("where it lies on the earth (GeoTIFF's tags)")
    if any(int(one.subfiletype) & _MASK for one in main_pages(tiff)):
        found.append("a mask of what is transparent (NewSubfileType 4)")
    if page.photometric == 2 and page.dtype is not None and page.dtype.name not in ("uint8", "uint16"):
        found.append(f"that its {page.samplesperpixel} channels of {page.dtype.name} are red, green and blue")
    elif page.photometric == 2 and page.samplesperpixel > 4:
        found.append(f"that the first three of its {page.samplesperpixel} channels are red, green and blue")
    if page.predictor != 1 and read_page(page).is_read_in_two_ways:
        found.append(
            f"what readers that use libtiff show (OpenSlide, vips, Pillow): its Predictor {int(page.predictor)}, which "
            "is undone here, they do not heed in such a compression (if theirs is right, save it again by one of them)"
        )
    names = _bands(str(page.tags.valueof(_GDAL) or ""))
    if names:
        found.append(f"names of its bands as GDAL has them ({', '.join(names)})")
    if _NODATA in page.tags:
        found.append(f"that the value {str(page.tags[_NODATA].value).strip()} stands for no data")
    return tuple(found)


def _bands(xml: str) -> list[str]:
    """The names of bands that GDAL_METADATA has."""
    from xml.etree import ElementTree

    try:
        items = ElementTree.fromstring(xml).iter("Item") if xml else ()
    except ElementTree.ParseError:
        return []
    told = [item.text or "" for item in items if (item.get("name"), item.get("role")) == ("DESCRIPTION", "description")]
    return [name for name in told if name.strip()]


def _of_ome(tiff: Any, series: int) -> list[str]:
    """What the OME-XML says of the pixels of a series, and has no place here."""
    pixels = ome_pixels(str(tiff.ome_metadata or ""), series)
    if pixels is None:
        return []
    found = []
    sizes = {name: pixels.get(name) for name in ("PhysicalSizeX", "PhysicalSizeY")}
    if any(sizes.values()) and ome_mpp(pixels) is None:
        units = {pixels.get(f"{name}Unit", "µm") for name in sizes if sizes[name]}
        words = " and ".join(f"{name} {value}" for name, value in sizes.items() if value)
        found.append(f"its {words} ({', '.join(sorted(units))}), which is not two known lengths (give mpp)")
    for name, default, known in (("PhysicalSizeZ", "µm", MICROMETRES), ("TimeIncrement", "s", SECONDS)):
        unit = pixels.get(f"{name}Unit", default)
        if positive(pixels.get(name)) and unit.lower() not in known:
            found.append(f"its {name} {pixels.get(name)} ({unit}), which is of no known unit")
    found += untold_objective(str(tiff.ome_metadata), series)
    if _is_drawn_on(str(tiff.ome_metadata), series):
        found.append("what is drawn on it (ROI)")
    planes = (one for one in pixels if one.tag.rpartition("}")[2] == "Plane")
    said = sorted({name for plane in planes for name in plane.attrib if name not in _OF_PLANE})
    if said:
        found.append(f"what is said of each plane ({', '.join(said)})")
    return found


def _is_drawn_on(xml: str, series: int) -> bool:
    """Whether an Image of an OME-XML that has its Pixels names regions of interest."""
    if "ROIRef" not in xml:
        return False
    from xml.etree import ElementTree

    parts = [[one.tag.rpartition("}")[2] for one in image] for image in ElementTree.fromstring(xml)]
    return any("ROIRef" in names for names in [names for names in parts if "Pixels" in names][series : series + 1])


def _of_imagej(tiff: Any, page: Any) -> list[str]:
    """What ImageJ's fields say, and has no place here."""
    said = tiff.imagej_metadata or {}
    found = []
    if positive(said.get("spacing")) and int(said.get("slices", 1)) > 1 and imagej_unit(said, "z") is None:
        found.append(f"the distance of its planes, {said['spacing']} of no known unit (give z_spacing)")
    clock = str(said.get("tunit", "sec")).strip()
    if positive(said.get("finterval")) and int(said.get("frames", 1)) > 1 and clock.lower() not in SECONDS:
        found.append(f"the distance of its times, {said['finterval']} {clock} (give time_increment)")
    ranges = said.get("Ranges") or [said.get(name) for name in ("min", "max") if name in said]
    kind = np.dtype(page.dtype)
    if ranges and (kind.kind != "u" or set(ranges) != {0, np.iinfo(kind).max}):
        words = ", ".join(f"{low:g} to {high:g}" for low, high in zip(ranges[::2], ranges[1::2], strict=False))
        found.append(f"the values that ImageJ shows as black and white ({words})")
    if any(said.get(name) for name in _IMAGEJ_ORIGINS):
        found.append("where it lies (ImageJ's origin)")
    if any(said.get(name) for name in _IMAGEJ_DRAWN):
        found.append("what is drawn on it in ImageJ (ROI and overlays)")
    return found
