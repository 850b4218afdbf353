"""Reads regions of one image of a TIFF; apart from `tiff.py`, which decides what a file holds.

The segments are decoded by `tiff/`, straight into the caller's memory where the grids agree. What comes out is what
tifffile gives, to the pixel, except that colours that alpha was multiplied into are freed of it, and that greys are as
a viewer shows them (`tiff/shown.py`).
"""

from __future__ import annotations

import numpy as np

from slidewright.errors import CorruptTileError
from slidewright.geometry import Region
from slidewright.sources.access.colours import converter_of
from slidewright.sources.access.raw_rows import RowsReader
from slidewright.sources.access.tile_grid import CellReader
from slidewright.sources.base import Pixels, Reader, SourceInfo
from slidewright.sources.tiff_stored import is_of_kind
from slidewright.sources.wrappers.alpha import straighten
from slidewright.system.remote_file import open_pixels
from slidewright.tiff.segments import HEADER_BYTES, Segments
from slidewright.tiff.series import Image
from slidewright.tiff.shown import change_of


class TiffReader(Reader):
    """Reads regions of one image of a TIFF file: a page, or several with a channel or a frame each.

    Parameters
    ----------
    info
        Of the image.
    image
        Its pages; the file that they were read from may be closed again.
    """

    def __init__(self, info: SourceInfo, image: Image) -> None:
        page = image.pages[0]
        self._file = open_pixels(info.name)
        self._file.require(info.seen)
        self._page, self._all_samples, self._kind = page, info.all_samples, info.stored
        self._straighten = info.kind == "rgba" and page.premultiplied
        self._convert = converter_of(page)
        self._change = None if self._convert else change_of(page)
        self._stored: Pixels = np.empty((*page.cell, page.samples if self._convert else 0), page.dtype)
        self._segments = [Segments(each, self._file, CorruptTileError) for each in image.pages]
        self._regions: RowsReader | CellReader
        changed = self._straighten or self._convert is not None
        rows = None if changed else image.offsets or _row_offsets(image)
        if rows is not None and page.raw_order is not None:
            dtype = np.dtype(info.dtype).newbyteorder(page.raw_order)
            samples = page.samples if page.planes == 1 else 1
            self._regions = RowsReader(self._file, rows, info.size, samples, dtype)
        else:
            depth = 1 if info.planar else info.samples
            self._regions = CellReader(info.size, page.cell, info.all_samples, info.dtype, self._decode, depth=depth)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        pixels = self._regions.read(y, x, height, width, out, plane)
        if self._change is not None:
            self._change(pixels)
        return pixels

    def ahead(self, region: Region, channels: range) -> None:
        """See `Reader`."""
        page = self._page
        if not self._file.remote or isinstance(self._regions, RowsReader):
            return
        indexes = [index for index, _ in page.tiles_in(region)]
        each, in_page = page.grid.height * page.grid.width, self._all_samples // len(self._segments)
        places = [divmod(channel, in_page) for channel in channels]
        for number, plane in sorted({(number, inside if page.planes > 1 else 0) for number, inside in places}):
            self._segments[number].ahead(plane * each + index for index in indexes)

    def segment(self, row: int, column: int, plane: int = 0) -> bytes | None:
        """See `Reader`; None too for a tile that decodes but is of another kind than others, or smaller at the edge."""
        if not self._page.tiled:
            return None
        number, channel = divmod(plane, self._page.planes)
        segments, index = self._segments[number], self._page.index(row, column, channel)
        return segments.read(index) or b"" if self._is_alike(segments, index) else None

    def halved(self, row: int, column: int, out: Pixels) -> bool:
        """See `Reader`."""
        page = self._page
        single = page.tiled and page.planes == 1 and len(self._segments) == 1 and not self._straighten
        index = page.index(row, column)
        return single and self._is_alike(self._segments[0], index) and self._segments[0].decode_half(index, out)

    def _is_alike(self, segments: Segments, index: int) -> bool:
        """Whether a tile can stand among others as it is, as one can that does not decode."""
        if segments.is_cut(index):
            return False
        stored = self._kind
        data = segments.read(index) if stored is not None and stored.compression == "jpeg" else None
        components = self._page.samples // self._page.planes
        if stored is None or data is None or is_of_kind(stored, data, components):
            return True
        try:
            segments.decode(index)
        except CorruptTileError:
            return True
        return False

    def close(self) -> None:
        """Close the file and drop the cache."""
        self._file.close()
        if isinstance(self._regions, CellReader):
            self._regions.clear()

    def _decode(self, row: int, column: int, band: int, out: Pixels) -> None:
        """Decode one tile or strip into `out`, all planes of it that a cell has, in the colours that are given."""
        if self._convert is None:
            self._decode_stored(row, column, band, out)
        else:
            self._decode_stored(row, column, band, self._stored)
            self._convert(self._stored, out)
        if self._straighten:
            straighten(out)

    def _decode_stored(self, row: int, column: int, band: int, out: Pixels) -> None:
        """The same in the colours that are stored; `band` counts what `out` holds: channels, or frames."""
        page = self._page
        if not page.tiled:
            out = out[: page.size.height - row * page.cell.height]
        if page.planes == 1:
            self._segments[band].decode_into(page.index(row, column), out)
            return
        for channel in range(out.shape[2]):
            number, inside = divmod(band * out.shape[2] + channel, page.planes)
            one = out[..., channel : channel + 1]
            self._segments[number].decode_into(page.index(row, column, inside), one)


def _row_offsets(image: Image) -> tuple[int, ...] | None:
    """Where the rows of each plane begin, if all of them lie uncompressed one after the other; else None."""
    if any(page.tiled or page.raw_order is None or not page.contiguous for page in image.pages):
        return None
    starts = tuple(int(page.offsets[0]) for page in image.pages)
    if min(starts) < HEADER_BYTES:  # which has no place, see `Segments`
        return None
    page = image.pages[0]
    plane_bytes = page.size.height * page.size.width * page.dtype.itemsize
    return tuple(start + plane * plane_bytes for start in starts for plane in range(page.planes))
