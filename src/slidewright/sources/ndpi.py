"""Hamamatsu's NDPI: stripes that are read, decoded and handed out as tiles.

Apart from `tiff.py`, which says everything else of the file. OpenSlide decodes stripe by stripe and hands out none.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from slidewright.errors import CorruptTileError
from slidewright.geometry import Size
from slidewright.selection import Selection
from slidewright.sources.access.jpeg_tiles import decode_jpeg, halve_jpeg
from slidewright.sources.access.tile_grid import CellReader
from slidewright.sources.base import Pixels, Reader, Source, SourceInfo, Stored
from slidewright.sources.tiff import TiffSource
from slidewright.sources.tiff_stored import PHOTOMETRIC, jpeg_stored
from slidewright.system.pixel_file import PixelFile
from slidewright.tiff.jpeg_header import read_jpeg_header
from slidewright.tiff.page import Page
from slidewright.tiff.slide import TiffSlide
from slidewright.tiff.stripes import Stripes, check_size, joined_size

_ROWS = 512
"""Of what is decoded at once where not whole tiles are asked for."""


def ndpi_source(slide: TiffSlide, selection: Selection) -> NdpiSource | None:
    """A level of an NDPI; None where it is no JPEG of stripes that can be joined.

    Raises
    ------
    OptionError, SourceError
        As `TiffSource.of`.
    """
    for each in slide.pages:  # one that says it is smaller than it is would leave another to be the largest
        check_size(each, slide.file)
    source = TiffSource.of(slide, selection)
    image = slide.image(source.selection)
    page = image.pages[0]
    tile = joined_size(page)
    if tile is None or len(image.pages) > 1 or page.photometric not in PHOTOMETRIC or page.orientation != 1:
        return None
    header = read_jpeg_header(page.jpeg_header or b"")
    if header is None:
        return None
    stored, reason = jpeg_stored(Stored("jpeg", PHOTOMETRIC[page.photometric]), header, page.samples)
    info = replace(source.info, tile=tile, stored=stored, not_stored=reason)
    return NdpiSource(source, info)


@dataclass(frozen=True, slots=True)
class NdpiSource(Source):
    """A level of an NDPI whose stripes are joined to tiles."""

    source: TiffSource
    info: SourceInfo

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {**self.source.identity(), "joined": list(self.info.tile or ())}

    def open(self) -> NdpiReader:
        """Open the file in this process."""
        return NdpiReader(self.info, self.source.page())

    def associated_image(self, name: str) -> Pixels:
        """See `Source`."""
        return self.source.associated_image(name)


class NdpiReader(Reader):
    """Reads regions and joined tiles of one level."""

    def __init__(self, info: SourceInfo, page: Page) -> None:
        assert info.tile is not None
        self._tile, self._page = info.tile, page
        self._colours = PHOTOMETRIC[page.photometric]
        self._file = PixelFile(info.name)
        self._file.require(info.seen)
        self._stripes = Stripes(page, self._file)
        self._last: tuple[tuple[int, int], bytes] = ((-1, -1), b"")
        # Chroma that is halved along y is smoothed across stripes, so the pixels are those of whole tiles only.
        rows = self._tile.height if page.cell.height > 8 else min(_ROWS, self._tile.height)
        self._cell = Size(rows // page.cell.height * page.cell.height, self._tile.width)
        self._regions = CellReader(info.size, self._cell, info.samples, info.dtype, self._decode)
        self._whole = CellReader(info.size, self._tile, info.samples, info.dtype, self._decode_whole)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        whole = out.shape[:2] == self._tile and not (y % self._tile.height or x % self._tile.width)
        return (self._whole if whole else self._regions).read(y, x, height, width, out, plane)

    def segment(self, row: int, column: int, plane: int = 0) -> bytes | None:
        """See `Reader`."""
        try:
            return self._joined(row, column)
        except CorruptTileError:  # which the pixels of the tile have told of
            return self._stripes.join(row, column, self._tile.height, all_of_it=False)

    def halved(self, row: int, column: int, out: Pixels) -> bool:
        """See `Reader`."""
        return halve_jpeg(self._joined(row, column), out, self._tile, self._colours, self._where(row, column))

    def close(self) -> None:
        """Close the file and drop the cache."""
        self._file.close()
        self._regions.clear()
        self._whole.clear()

    def _decode(self, row: int, column: int, band: int, out: Pixels) -> None:
        decode_jpeg(self._stripes.join(row, column, self._cell.height), out, self._colours, self._where(row, column))

    def _decode_whole(self, row: int, column: int, band: int, out: Pixels) -> None:
        decode_jpeg(self._joined(row, column), out, self._colours, self._where(row, column))

    def _joined(self, row: int, column: int) -> bytes:
        """A whole tile, the last one from memory."""
        if self._last[0] != (row, column):
            self._last = ((row, column), self._stripes.join(row, column, self._tile.height))
        return self._last[1]

    def _where(self, row: int, column: int) -> str:
        return f"{self._file.path}: {self._page.name or 'level 0'}, stripes of tile row {row}, column {column}"
