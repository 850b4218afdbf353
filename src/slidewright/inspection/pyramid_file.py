"""A finished pyramid of either kind, for what looks at files whatever they are: a TIFF or an OME-Zarr folder."""

from __future__ import annotations

import os
from typing import Any, Protocol

from numpy.typing import NDArray

from slidewright.inspection.zarr_pyramid import ZarrPyramid
from slidewright.tiff.page import TiledImage
from slidewright.tiff.slide import TiffSlide

PyramidFile = TiffSlide | ZarrPyramid


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
    return ZarrPyramid(path) if os.path.isdir(path) else TiffSlide(path)
