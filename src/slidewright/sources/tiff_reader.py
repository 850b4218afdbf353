"""Decodes the segments of TIFF pages into regions of pixels; apart from `tiff.py`, which decides what a file holds.

Segments are decoded one by one, straight into the caller's memory where the grids agree: `TiffPage.asarray` would
decode the whole page, and its zarr view costs more than the codec. What comes out is what tifffile gives, to the pixel,
except that colours that alpha was multiplied into are freed of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from slidewright.errors import CorruptTileError
from slidewright.geometry import Size
from slidewright.sources.access.raw_rows import PixelFile, RowsReader, is_native
from slidewright.sources.access.tile_grid import CellReader
from slidewright.sources.base import Pixels, Reader, SourceInfo
from slidewright.sources.wrappers.alpha import straighten

NO_COMPRESSION, SEPARATE = 1, 2
JPEG_FAMILY = (6, 7, 33007, 34892)
RGB, YCBCR = 2, 6
_PLAIN_JPEG = (7, 33007)
_ASSOCIATED_ALPHA = 1


class TiffReader(Reader):
    """Reads regions of one image of a TIFF file: a page, or several with a channel each.

    Parameters
    ----------
    info
        Of the image.
    pages
        tifffile's pages; the file may be closed again.
    offsets
        Byte of each channel's first pixel, where they lie uncompressed in the file without pages of their own.
    """

    def __init__(self, info: SourceInfo, pages: Sequence[Any], offsets: tuple[int, ...] | None) -> None:
        assert info.tile is not None
        page = pages[0]
        self._file = PixelFile(info.name)
        self._height, self._cell_height = info.size.height, info.tile.height
        self._tiled = bool(page.is_tiled)
        self._straighten = info.kind == "rgba" and is_premultiplied(page)
        self._channels = _channels(info, pages, self._file)
        self._regions: RowsReader | CellReader
        rows = None if self._straighten else offsets or _row_offsets(info, pages)
        if rows is not None:
            dtype = np.dtype(info.dtype).newbyteorder(page.parent.byteorder)
            self._regions = RowsReader(self._file, rows[0] if len(rows) == 1 else rows, info.size, info.samples, dtype)
        else:
            depth = 1 if info.planar else info.samples
            self._regions = CellReader(info.size, info.tile, info.samples, info.dtype, self._decode, depth=depth)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        return self._regions.read(y, x, height, width, out, plane)

    def close(self) -> None:
        """Close the file and drop the cache."""
        self._file.close()
        if isinstance(self._regions, CellReader):
            self._regions.clear()

    def _decode(self, row: int, column: int, band: int, out: Pixels) -> None:
        """Decode one tile or strip into `out`, all planes of it that a cell has."""
        if not self._tiled:
            out = out[: self._height - row * self._cell_height]
        if len(self._channels) == 1:
            self._channels[0].decode(row, column, out)
        else:
            for index in range(out.shape[2]):
                self._channels[band + index].decode(row, column, out[..., index : index + 1])
        if self._straighten:
            straighten(out)


class _Segments:
    """The segments of one page, or of one channel of a page with separate planes."""

    def __init__(self, page: Any, grid: Size, rows: int, columns: int, name: str, file: PixelFile, plane: int) -> None:
        self._name, self._file, self._page, self._grid = name, file, page, grid
        self._tiled, self._columns = bool(page.is_tiled), columns
        self._base = plane * rows * columns
        self._nodata = page.nodata or 0
        self._tables, self._header = page.jpegtables, page.jpegheader
        self._jpeg = _jpeg_colours(page)
        self._raw = raw_order(page)
        self._generic: Callable[..., Any] = page.decode
        self._offsets = np.asarray(page.dataoffsets, np.int64)
        self._counts = np.asarray(page.databytecounts, np.int64)

    def decode(self, row: int, column: int, out: Pixels) -> None:
        """Decode one tile or strip into `out`."""
        self._segment(row, column, self._base + row * self._columns + column, out)

    def _segment(self, row: int, column: int, index: int, out: Pixels) -> None:
        offset, count = int(self._offsets[index]), int(self._counts[index])
        if not offset or not count:  # a segment that was left out
            out[...] = self._nodata
            return
        if offset < 0 or count < 0 or offset + count > self._file.nbytes:
            raise CorruptTileError(
                f"{self._place(row, column)} lies outside the file ({self._file.nbytes} bytes); copy the file again"
            )
        if self._raw is not None and out.flags.c_contiguous and count >= out.nbytes:
            self._file.read_into(offset, memoryview(out).cast("B"))
            if not is_native(self._raw):
                out.byteswap(inplace=True)
            return
        data = self._file.read(offset, count)
        if self._jpeg is None or not self._decode_jpeg(row, column, data, out):
            self._decode_any(row, column, data, index, out)

    def _decode_jpeg(self, row: int, column: int, data: bytes, out: Pixels) -> bool:
        """Decode a JPEG straight into `out`; False where it must go the slow way (an edge tile that is stored
        smaller).
        """
        from imagecodecs import jpeg8_decode

        assert self._jpeg is not None
        if data.rfind(b"\xff\xd9") < 0:  # libjpeg only warns, and the rest of the tile would be grey
            raise CorruptTileError(f"{self._place(row, column)} is a JPEG without an end; copy the file again")
        try:
            jpeg8_decode(data, tables=self._tables, colorspace=self._jpeg[0], outcolorspace=self._jpeg[1], out=out)
        except ValueError:
            return False
        except Exception as error:
            raise self._corrupt(row, column, error) from error
        return True

    def _decode_any(self, row: int, column: int, data: bytes, index: int, out: Pixels) -> None:
        """Decode by tifffile's decoder, which knows every codec, predictor and byte order."""
        self._check_jpeg_size(row, column, data)
        try:
            pixels = self._generic(data, index, jpegtables=self._tables, jpegheader=self._header)[0]
            pixels = pixels[0]
            height, width = min(pixels.shape[0], out.shape[0]), min(pixels.shape[1], out.shape[1])
            if pixels.shape[2] != out.shape[2]:
                raise ValueError(f"{pixels.shape[2]} samples a pixel instead of {out.shape[2]}")
            out[:height, :width] = pixels[:height, :width]
        except MemoryError:
            raise
        except Exception as error:  # each codec has an error class of its own
            raise self._corrupt(row, column, error) from error

    def _check_jpeg_size(self, row: int, column: int, data: bytes) -> None:
        """Refuse a JPEG that says it is far larger than its tile, before a decoder makes room for it."""
        if int(self._page.compression) not in JPEG_FAMILY:
            return
        from slidewright.tiff.slide import jpeg_size

        size = jpeg_size(data)
        if size is not None and size.height * size.width > 4 * self._grid.height * self._grid.width + 65_536:
            raise CorruptTileError(f"{self._place(row, column)} holds a JPEG of {size} pixels; the file is damaged")

    def _corrupt(self, row: int, column: int, error: Exception) -> CorruptTileError:
        return CorruptTileError(
            f"{self._place(row, column)} does not decode ({error}); the file is damaged, copy it again"
        )

    def _place(self, row: int, column: int) -> str:
        return f"{self._name}: tile at row {row}, column {column}" if self._tiled else f"{self._name}: strip {row}"


def _channels(info: SourceInfo, pages: Sequence[Any], file: PixelFile) -> list[_Segments]:
    """One for each page or plane with segments of its own."""
    assert info.tile is not None
    rows, columns = -(-info.size.height // info.tile.height), -(-info.size.width // info.tile.width)
    if len(pages) > 1:
        return [
            _Segments(page, info.tile, rows, columns, f"{info.name}, channel {index}", file, 0)
            for index, page in enumerate(pages)
        ]
    planes = info.samples if int(pages[0].planarconfig) == SEPARATE else 1
    return [_Segments(pages[0], info.tile, rows, columns, info.name, file, plane) for plane in range(planes)]


def _row_offsets(info: SourceInfo, pages: Sequence[Any]) -> tuple[int, ...] | None:
    """Where the rows of each plane begin, if all of them lie uncompressed one after the other; else None."""
    for page in pages:
        if page.is_tiled or raw_order(page) is None or not page.is_contiguous:
            return None
    starts = [int(page.dataoffsets[0]) for page in pages]
    if len(pages) == 1 and info.samples > 1 and int(pages[0].planarconfig) == SEPARATE:
        plane_bytes = info.size.height * info.size.width * info.itemsize
        starts = [starts[0] + plane * plane_bytes for plane in range(info.samples)]
    return tuple(starts)


def _jpeg_colours(page: Any) -> tuple[int | None, int | None] | None:
    """(colorspace, outcolorspace) for `jpeg8_decode`, as tifffile chooses them; None for what it can't decode
    directly.
    """
    if int(page.compression) not in _PLAIN_JPEG or page.dtype != np.uint8 or page.jpegheader is not None:
        return None
    if int(page.planarconfig) == SEPARATE:
        return None
    photometric = int(page.photometric)
    if photometric == YCBCR:
        return None, RGB
    if photometric == RGB:  # Aperio stores RGB without saying so inside the JPEG
        return (None if page.is_jfif else RGB), RGB
    return None, None


def raw_order(page: Any) -> str | None:
    """The byte order of segments that hold pixels as they are, or None where they must be decoded."""
    whole = int(page.bitspersample) in (8, 16, 32) if isinstance(page.bitspersample, int) else False
    if int(page.compression) != NO_COMPRESSION or int(page.predictor) != 1 or int(page.fillorder) != 1 or not whole:
        return None
    return str(page.parent.byteorder)


def is_premultiplied(page: Any) -> bool:
    """Whether alpha was multiplied into the colours (TIFF 6.0, ExtraSamples)."""
    return bool(page.extrasamples) and int(page.extrasamples[0]) == _ASSOCIATED_ALPHA
