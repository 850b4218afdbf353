"""The segments (tiles or strips) of one page: read by number, decoded, and refused when a stream lies about its size.

Apart from `page.py`, which only says what is there: this reads the file. Segments are decoded one by one and, where the
codec can, straight into the caller's memory: `TiffPage.asarray` would decode the whole page, and its zarr view costs
more than the codec. What comes out is what tifffile gives, to the pixel.
"""

from __future__ import annotations

import functools
import sys
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import CorruptTileError, SlidewrightError, SourceError
from slidewright.geometry import Region, Size
from slidewright.system.interrupts import let_through
from slidewright.system.limits import blame_memory
from slidewright.system.pixel_file import PixelFile
from slidewright.tiff.fax import fax_decoder
from slidewright.tiff.half_jpeg import decode_half_jpeg
from slidewright.tiff.jpeg2000 import too_much
from slidewright.tiff.jpeg_header import LOSSLESS, is_damaged, read_process
from slidewright.tiff.jpeg_holes import MAX_SCANS, has_hole, number_of_scans
from slidewright.tiff.jpegxl import joined_of
from slidewright.tiff.lerc import has_gaps
from slidewright.tiff.page import Page
from slidewright.tiff.stream_headers import is_far_larger, look
from slidewright.tiff.stripes import Stripes

MAX_SEGMENT_BYTES = 1 << 28  # decoded; a 4096-pixel RGB tile of uint16 is 100 MB
HEADER_BYTES = 8  # at the beginning of a file, where no pixels are
_NO_BYTES = 8  # between two segments: what begins at an even place, or at one of eight
_OVERSHOOT = 16
"""By how much a JPEG, of 8 bits whatever the page says, may exceed samples of fewer, as a lossy one does."""
_BYTEWISE = ("none", "lzw", "deflate", "packbits", "zstd", "lzma")
_RGB = 2  # libjpeg's number of it, by way of TIFF's


class Segments:
    """Reads and decodes the segments of a page; safe to use from several threads.

    Parameters
    ----------
    page
        The page; its tags are read here, so the file that tifffile opened may be closed again.
    file
        Where the bytes are.
    error
        What a damaged segment raises; the message names the file and the place.
    """

    def __init__(self, page: Page, file: PixelFile, error: type[SlidewrightError]) -> None:
        self.page = page
        self._file, self._error = file, error
        self._generic: Callable[..., Any] = _chroma_units(page) or fax_decoder(page) or page.page.decode
        self._tables, self._header = page.jpeg_tables, page.jpeg_header
        if page.is_jpeg and self._tables and is_damaged(self._tables):
            raise error(f"{file.path}: {page.name or 'level 0'} has damaged JPEGTables; copy the file again")
        self._bits_of = _bits_of(page)
        self._joined = joined_of(page)
        self._stripes = Stripes(page, file) if self._header is not None and page.is_jpeg else None
        self._jpeg = _jpeg_colours(page)
        self._separate = page.planes > 1 and page.dtype == np.uint8
        few = page.dtype.kind == "u" and page.bits < 8
        self._top = (1 << page.bits) - 1 + _OVERSHOOT if few else 0
        order = page.raw_order
        self._raw, self._swap = order is not None, order == (">" if sys.byteorder == "little" else "<")
        self._nodata = page.nodata
        self._offsets, self._counts = page.offsets[: page.n_segments], page.counts[: page.n_segments]
        own = page.compression.startswith("aperio_jp2000")
        self._codec = "jpeg" if page.is_jpeg else "jpeg2000" if own else page.compression.partition("-")[0]
        self._lerc = page.lerc_compression if self._codec == "lerc" else 0
        self._cell_bytes = page.cell.height * page.cell.width * page.samples * page.dtype.itemsize
        rows = page.cell.height + 1
        plain = page.tiled and self._raw  # strips may say more than they have, such as all of a stack
        self._most = self._cell_bytes // page.planes * rows // page.cell.height if plain else 0
        self._last: tuple[int, bytes] = (-1, b"")

    def read(self, index: int) -> bytes | None:
        """The bytes of a segment as they are in the file, the last one from memory; None for one that was left out."""
        last = self._last
        if last[0] == index:
            return last[1]
        place = self._place(index)
        if place is None:
            return None
        data = self._file.read(*place)
        if len(data) < place[1]:
            raise self._cut_short(index)
        self._last = (index, data)
        return data

    def ahead(self, indexes: Iterable[int]) -> None:
        """Told which segments will be read next (see `PixelFile`)."""
        self._file.ahead(place for index in indexes if (place := self._place(index)) is not None)

    def decode(self, index: int) -> NDArray[Any] | None:
        """The pixels of a segment as (height, width, samples), padding included; None for one that was left out."""
        data = self.read(index)
        if data is not None and self._jpeg is not None:
            self._check_end(index, data)
        pixels = None if data is None else self._decode_any(index, data)
        return pixels.astype(np.uint8, copy=False) if pixels is not None and self.page.bits == 1 else pixels

    def decode_into(self, index: int, out: NDArray[Any]) -> None:
        """Decode a segment into `out`, (height, width, samples) and at most as large as the segment."""
        place = self._place(index)
        if place is None:
            out[...] = self._nodata
            return
        if self._raw and out.flags.c_contiguous and place[1] >= out.nbytes:
            if self._file.read_into(place[0], memoryview(out).cast("B")) < out.nbytes:
                raise self._cut_short(index)
            if self._swap:
                out.byteswap(inplace=True)
            return
        data = self.read(index)
        assert data is not None
        if self._jpeg is not None and self._decode_jpeg(index, data, out):
            return
        pixels = self._decode_any(index, data)
        if pixels is None:
            out[...] = self._nodata
            return
        if pixels.shape[2] != out.shape[2]:
            raise self._damaged(index, f"{pixels.shape[2]} samples a pixel instead of {out.shape[2]}")
        height, width = min(pixels.shape[0], out.shape[0]), min(pixels.shape[1], out.shape[1])
        out[:height, :width] = pixels[:height, :width]

    def decode_half(self, index: int, out: NDArray[Any]) -> bool:
        """Decode a JPEG at half its size, as libjpeg does it in the frequencies of its blocks, into `out`, at most half
        as large as the segment; False for what is no plain JPEG.
        """
        if self._jpeg is None or out.shape[2] not in (1, 3):
            return False
        data = self.read(index)
        if data is None:
            out[...] = self._nodata
            return True
        self._check_end(index, data)
        self._check_stream(index, data)
        try:
            as_rgb = self._jpeg[0] == _RGB
            return decode_half_jpeg(data, out, self.page.cell, tables=self._tables, as_rgb=as_rgb)
        except MemoryError:
            raise
        except Exception as error:
            let_through(error)
            raise self._damaged(index, error) from error

    def is_cut(self, index: int) -> bool:
        """Whether a tile at the edge is stored without what lies beyond the image, which TIFF does not allow (TIFF 6.0,
        section 15) and some readers do not show; not so one that does not decode.
        """
        size, cell, grid = self.page.size, self.page.cell, self.page.grid
        row, column = divmod(index % (grid.height * grid.width), grid.width)
        inside = (row + 1) * cell.height <= size.height and (column + 1) * cell.width <= size.width
        data = None if inside else self.read(index)
        if data is None or look(self._codec, data).size == cell:
            return False
        try:
            pixels = self._decode_any(index, data)
        except SlidewrightError:
            return False
        return pixels is not None and pixels.shape[:2] != cell

    def whole(self) -> NDArray[Any]:
        """All pixels of a small image, such as a label or a thumbnail, as (height, width, samples)."""
        page = self.page
        shape = (*page.size, page.samples)
        if int(np.prod(shape, dtype=object)) * page.dtype.itemsize > MAX_SEGMENT_BYTES:
            raise self._error(f"{self._file.path}: {page.name} of {page.size} is too large to be read in one piece")
        out: NDArray[Any] = np.full(shape, page.nodata, page.dtype)
        for index, part in page.tiles_in(Region(0, 0, *page.size)):
            for plane in range(page.planes):
                pixels = self.decode(page.n_segments // page.planes * plane + index)
                if pixels is not None:
                    channels = slice(plane, plane + 1) if page.planes > 1 else slice(None)
                    y, x, height, width = part
                    out[y : y + height, x : x + width, channels] = pixels[:height, :width]
        return out

    def _place(self, index: int) -> tuple[int, int] | None:
        """(byte, number of bytes) of a segment inside the file; None for one that was left out."""
        offset, count = int(self._offsets[index]), int(self._counts[index])
        if not offset or not count:
            if count or (offset and self._lost[index]):
                raise self._error(f"{self.where(index)} has no place in the file; the file is damaged, copy it again")
            return None
        if offset < HEADER_BYTES or count < 0 or offset + count > self._file.nbytes:
            raise self._error(
                f"{self.where(index)} lies outside the file ({self._file.nbytes} bytes); copy the file again"
            )
        if self._most and count > self._most:
            raise self._damaged(index, f"{count} bytes of pixels, where {self._most} are the most that there can be")
        return offset, count

    @functools.cached_property
    def _lost(self) -> NDArray[np.bool_]:
        """Which segments have lost their number of bytes: those one after the other of which most have bytes of their
        own up to the next. What a writer leaves out lies where another begins, if anywhere.
        """
        empty = (self._counts == 0) & (self._offsets != 0)
        starts = np.sort(self._offsets)
        after = starts[np.minimum(np.searchsorted(starts, self._offsets) + 1, len(starts) - 1)]
        alone = empty & (after - self._offsets >= _NO_BYTES)
        edges = np.flatnonzero(np.diff(empty, prepend=False, append=False))
        found = np.zeros(len(empty), np.bool_)
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            told = np.count_nonzero(self._offsets[first:end] < starts[-1])  # what follows the last of all nobody knows
            if told and 4 * np.count_nonzero(alone[first:end]) >= 3 * told:
                found[first:end] = True
        return found

    def _decode_jpeg(self, index: int, data: bytes, out: NDArray[Any]) -> bool:
        """Decode a JPEG straight into `out`; False where it must go the slow way (an edge tile that is stored
        smaller).
        """
        from imagecodecs import jpeg8_decode

        assert self._jpeg is not None
        self._check_end(index, data)
        try:
            jpeg8_decode(data, tables=self._tables, colorspace=self._jpeg[0], outcolorspace=self._jpeg[1], out=out)
        except Exception as error:  # the slow way says what is damaged, and knows colours that libjpeg does not change
            let_through(error)
            return False
        return True

    def _decode_any(self, index: int, data: bytes) -> NDArray[Any] | None:
        """Decode by tifffile's decoder, which knows every codec, predictor and byte order."""
        self._check_stream(index, data)
        if self._codec in ("jpeg2000", "htj2k") or (self._codec == "jpeg" and self._separate):
            self._check_end(index, data)
        if self._bits_of is not None:
            self._check_length(index, data, self._bits_of)
        if self._stripes is not None:
            self._check_stripe(self._stripes, index)
        try:
            if self._codec == "jpeg" and self.page.planes > 1:
                # Bio-Formats: a grey JPEG a channel, whatever the photometric says, which tifffile would believe
                from imagecodecs import jpeg8_decode

                plane: NDArray[Any] = np.asarray(jpeg8_decode(data, tables=self._tables))
                return plane[:, :, None] if plane.ndim == 2 else plane
            pixels = self._generic(data, index, jpegtables=self._tables, jpegheader=self._header)[0]
        except MemoryError:
            raise
        except Exception as error:  # each codec has an error class of its own
            let_through(error)
            cut = self._cut(index, data)
            if cut is None:
                blame_memory(self._cell_bytes)
                raise self._damaged(index, error) from error
            return self._decode_any(index, cut)
        found = None if pixels is None else np.asarray(pixels[0])
        if found is not None and found.dtype.itemsize != self.page.dtype.itemsize:
            raise self._damaged(index, f"its samples are {found.dtype}, not {self.page.dtype}")
        if found is not None and self._top and found.size and int(found.max()) > self._top:
            raise self._damaged(index, f"its samples have more than the {self.page.bits} bits that the page says")
        return found

    def _cut(self, index: int, data: bytes) -> bytes | None:
        """The deflate stream of a last strip that was padded to the height of the others, ended where its pixels do, as
        libtiff reads it; None for any other.
        """
        page = self.page
        if self._codec != "deflate" or page.bits < 8 or page.tiled:
            return None
        row = page.cell.width * page.samples // page.planes * page.dtype.itemsize
        rows = page.size.height - index % page.grid.height * page.cell.height
        stream = zlib.decompressobj()
        try:
            pixels = stream.decompress(data, page.cell.height * row + 1)
        except zlib.error:
            return None
        padded = stream.eof and rows * row < len(pixels) <= page.cell.height * row  # with its checksum (RFC 1950, 2.2)
        return zlib.compress(pixels[: rows * row], 0) if padded else None

    def _check_end(self, index: int, data: bytes) -> None:
        """Refuse a JPEG or a JPEG 2000 without an end, and a JPEG with a hole, of which the libraries only warn: the
        rest would be grey, blurred or moved. A JPEG of too many scans is refused as well, and a JPEG 2000 of too many
        packets.
        """
        if data.rfind(b"\xff\xd9") < 0:
            what = "JPEG" if self._codec == "jpeg" else "JPEG 2000"
            raise self._error(f"{self.where(index)} is a {what} without an end; copy the file again")
        if self._codec in ("jpeg2000", "htj2k") and (problem := too_much(data)):
            raise self._damaged(index, problem)
        if self._codec == "jpeg" and (scans := number_of_scans(data)) > MAX_SCANS:
            raise self._error(f"{self.where(index)} is a JPEG of {scans} scans; {MAX_SCANS} are the most that are read")
        if self._codec == "jpeg" and is_damaged(data):
            raise self._damaged(index, "its JPEG header is damaged")
        if self._codec == "jpeg" and has_hole(data, self.page.cell, self._joined):
            raise self._error(f"{self.where(index)} is a JPEG with zeros in the place of a part; copy the file again")

    def _check_stripe(self, stripes: Stripes, index: int) -> None:
        """Refuse a stripe of an NDPI that is not whole, see `_check_end`."""
        cell, (row, column) = self.page.cell, divmod(index, self.page.grid.width)
        try:
            stream = stripes.join(row, column, cell.height)
        except CorruptTileError as error:
            raise self._error(str(error)) from error
        if has_hole(stream, cell):
            raise self._error(f"{self.where(index)} is a JPEG with zeros in the place of a part; copy the file again")

    def _check_length(self, index: int, data: bytes, decompress: Callable[[bytes], bytes]) -> None:
        """Refuse bits of which there are more than a segment has, and of which tifffile takes the first: any of
        PackBits, and where the page does not say how many bits a sample has, else a row or more.
        """
        page, given = self.page, 0
        row = -(-page.cell.width * (page.samples // page.planes) * page.bits // 8)
        try:
            given = len(decompress(data))
        except Exception as error:  # of what does not decode, which tifffile tells
            let_through(error)
        whole = page.cell.height * row
        if page.compression == "packbits" or (not page.says_bits and page.compression != "none"):
            rows = page.cell.height if page.tiled else page.pixels_of(index).height
            too_many = given > rows * row and given != whole  # a last strip may be filled up
        else:
            too_many = given >= whole + row
        if too_many:
            raise self._damaged(index, "more bits than it has pixels")

    def _inside(self, index: int) -> Size:
        """How much of a segment lies in the image."""
        _, _, height, width = self.page.pixels_of(index)
        return Size(height, width)

    def _check_stream(self, index: int, data: bytes) -> None:
        """Refuse an image that says it is far larger than its tile, before a decoder makes room for it; and one of
        another shape with as many pixels, which tifffile would lay in rows of the tile's length.
        """
        if self._codec == "lerc" and has_gaps(data, self._lerc, self._inside(index)):
            raise SourceError(
                f"{self.where(index)} has pixels without a value (a mask of LERC), which are not read; save it again "
                "with another compression, such as deflate"
            )
        size, cell = look(self._codec, data).size, self.page.cell
        swapped = size is not None and size != cell and size.height * size.width == cell.height * cell.width
        if swapped and self._codec == "jpeg" and read_process(data) == LOSSLESS:  # whose rows a DNG lays as it likes
            swapped = False
        if size is not None and (swapped or is_far_larger(size, cell)):
            raise self._error(
                f"{self.where(index)} holds a {self._codec.upper()} of {size}, not of {cell}; the file is damaged"
            )

    def _cut_short(self, index: int) -> SlidewrightError:
        """The error about a file that has become shorter since it was opened, or a disk that gives less of it."""
        return self._error(f"{self.where(index)} ends outside the file; the file is cut short, copy it again")

    def _damaged(self, index: int, error: object) -> SlidewrightError:
        return self._error(f"{self.where(index)} does not decode: {error}; the file is damaged, copy it again")

    def where(self, index: int) -> str:
        """The file and the place in it, for a message."""
        return f"{self._file.path}: {self.page.place(index)}"


def _bits_of(page: Page) -> Callable[[bytes], bytes] | None:
    """What decompresses the segments of a page whose samples are not whole bytes, for the number of its bytes; None for
    another kind of page, and for codecs that say their samples themselves.
    """
    unsaid = page.bits == 1 and not page.says_bits and not page.compression.startswith("ccitt")
    if page.bits % 8 == 0 or (page.compression not in _BYTEWISE and not unsaid):
        return None
    import tifffile

    return bytes if page.compression == "none" else tifffile.TIFF.DECOMPRESSORS[int(page.page.compression)]


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits the other way round (TIFF 6.0, FillOrder 2)."""


def _chroma_units(page: Page) -> Callable[..., Any] | None:
    """Decoder of YCbCr outside JPEG whose chroma is subsampled, which tifffile does not unpack: units of some Y, one Cb
    and one Cr each (TIFF 6.0 section 21). None for other pages.
    """
    chroma = page.subsampling
    if page.photometric != "ycbcr" or page.is_jpeg or chroma is None or chroma == (1, 1):
        return None
    import tifffile

    across, down = chroma
    decompress: Callable[[bytes], bytes] = tifffile.TIFF.DECOMPRESSORS[page.page.compression]

    def decode(data: bytes, index: int, **_: Any) -> tuple[NDArray[Any], ...]:
        if page.reversed_bits:
            data = data.translate(_REVERSED)
        columns, unit = -(-page.cell.width // across), across * down + 2
        raw: NDArray[Any] = np.frombuffer(decompress(data) if page.compression != "none" else data, np.uint8)
        height = page.cell.height
        if not page.tiled:  # the last strip may have fewer rows
            height = min(height, page.size.height - index % page.grid.height * height)
        most = -(-page.cell.height // down)
        if raw.size >= (most + 1) * columns * unit:  # as of pixels whose chroma is not subsampled, or less
            raise ValueError(f"{raw.size} samples, of which {most * columns * unit} belong to pixels")
        rows = min(most, raw.size // (columns * unit))
        if rows * down < height:
            raise ValueError(f"{rows * down} rows of pixels instead of {height}")
        units = raw[: rows * columns * unit].reshape(rows, columns, unit)
        luma = units[:, :, :-2].reshape(rows, columns, down, across).transpose(0, 2, 1, 3)
        chroma = units[:, :, -2:].repeat(down, axis=0).repeat(across, axis=1)
        pixels = np.concatenate([luma.reshape(rows * down, columns * across, 1), chroma], axis=2)
        return (pixels[None, : page.cell.height, : page.cell.width],)

    return decode


def _jpeg_colours(page: Page) -> tuple[int | None, int | None] | None:
    """(colorspace, outcolorspace) for `jpeg8_decode`, as tifffile chooses them; None for what it can't decode
    directly.
    """
    if not page.is_plain_jpeg:
        return None
    if page.photometric == "ycbcr":
        return None, _RGB
    if page.samples not in (1, 3):
        return None, None  # alpha, and inks, are no colours that libjpeg changes
    if page.photometric == "rgb":  # Aperio stores RGB without saying so inside the JPEG
        return (None if page.is_jfif else _RGB), _RGB
    return None, None
