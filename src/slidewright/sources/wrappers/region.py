"""A region of a source as an image of its own (`region=`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from slidewright.errors import OptionError
from slidewright.geometry import Region, Size
from slidewright.sources.base import Blank, Pixels, Reader, Source, SourceInfo
from slidewright.sources.wrappers.view import ViewSource
from slidewright.sources.wrappers.wrapped import WrappedReader


def region_of(source: Source, region: tuple[int, int, int, int]) -> Source:
    """The part of a source from x, y on, of so much width and height, all in pixels of the level that is read.

    Raises
    ------
    OptionError
        When it does not lie wholly inside the image.
    """
    x, y, width, height = region
    size = source.info.size
    if x + width > size.width or y + height > size.height:
        raise OptionError(
            f"region {','.join(map(str, region))} (x,y,width,height) does not lie inside {source.info.name}, "
            f"which is {size}"
        )
    return RegionSource(source, Region(y, x, height, width))


@dataclass(frozen=True, slots=True)
class RegionSource(ViewSource):
    """A rectangle of another source."""

    region: Region

    @property
    def info(self) -> SourceInfo:
        """The other source's, but for the size; `tile` still says what is decoded at once."""
        info, region = self.source.info, self.region
        size = Size(region.height, region.width)
        return replace(info, size=size, stored=None, not_stored="only a region of it is read")

    @property
    def how(self) -> dict[str, Any]:
        """See `ViewSource`."""
        return {"region": list(self.region)}

    def open(self) -> Reader:
        """Open the source in this process."""
        return RegionReader(self.source.open(), self.region)


class RegionReader(WrappedReader):
    """Reads parts of the rectangle."""

    def __init__(self, reader: Reader, region: Region) -> None:
        super().__init__(reader)
        self._y, self._x = region.y, region.x

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a part, see `Reader.read`."""
        return self._reader.read(self._y + y, self._x + x, height, width, out, plane)

    def ahead(self, region: Region, channels: range) -> None:
        """See `Reader`."""
        self._reader.ahead(Region(self._y + region.y, self._x + region.x, region.height, region.width), channels)
