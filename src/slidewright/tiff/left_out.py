"""What a TIFF says that a conversion does not pass on, in words for one warning."""

from __future__ import annotations

from typing import Any

from slidewright.tiff.metadata import MAX_MPP, resolution_of
from slidewright.tiff.series import main_pages

_MASK = 4  # NewSubfileType, bit 2: a transparency mask
_NODATA = 42113  # GDAL's


def left_out_of(tiff: Any, page: Any, mpp: tuple[float, float] | None) -> tuple[str, ...]:
    """One clause for each thing of an image's page that is lost."""
    found: list[str] = []
    resolution = resolution_of(tiff, page)
    if mpp is None and resolution is not None and max(resolution) > MAX_MPP:
        found.append(
            f"its resolution of {resolution[0]:.4g} um a pixel, which is a printer's or a screen's and no microscope's "
            "(give mpp where it is right)"
        )
    if any(int(one.subfiletype) & _MASK for one in main_pages(tiff)):
        found.append("a mask of what is transparent (NewSubfileType 4)")
    if page.photometric == 2 and page.dtype is not None and page.dtype.name not in ("uint8", "uint16"):
        found.append(f"that its {page.samplesperpixel} channels of {page.dtype.name} are red, green and blue")
    elif page.photometric == 2 and page.samplesperpixel > 4:
        found.append(f"that the first three of its {page.samplesperpixel} channels are red, green and blue")
    if _NODATA in page.tags:
        found.append(f"that the value {str(page.tags[_NODATA].value).strip()} stands for no data")
    return tuple(found)
