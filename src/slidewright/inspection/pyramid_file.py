"""A finished pyramid of either kind, for what looks at files whatever they are: a TIFF or an OME-Zarr folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from slidewright.tiff.slide import TiffSlide

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.inspection.zarr_pyramid import ZarrPyramid
    from slidewright.tiff.page import TiledImage

PyramidFile: TypeAlias = "TiffSlide | ZarrPyramid"


class SegmentReader(Protocol):
    """The segments or chunks of one level."""

    @property
    def page(self) -> TiledImage:
        """The level."""

    def decode(self, index: int) -> NDArray[Any] | None:
        """The pixels of a segment as (height, width, samples), padding included; None for one that was left out."""

    def where(self, index: int) -> str:
        """The file and the place in it, for a message."""


def open_pyramid(path: str | os.PathLike[str]) -> PyramidFile:
    """Open a TIFF, or the folder of an OME-Zarr image; raises SourceError and VerifyError as they do."""
    if not os.path.isdir(path):
        return TiffSlide(path)
    from slidewright.inspection.zarr_pyramid import ZarrPyramid

    return ZarrPyramid(path)
