"""TIFF files as sources, SVS and OME-TIFF included: tifffile parses the directories, the segments are read and decoded
here.

Segments are decoded one by one, straight into the caller's memory where the grids agree: `TiffPage.asarray` would
decode the whole page, and its zarr view costs more than the codec. What comes out is what tifffile gives, to the pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from slidewright.errors import CorruptTileError, OptionError, SourceError, VerifyError
from slidewright.geometry import Size
from slidewright.sources.base import Pixels, SourceInfo
from slidewright.sources.cells import CellReader
from slidewright.sources.rows import PixelFile, RowsReader, is_native

MAX_SEGMENT_BYTES = 1 << 30
_NO_COMPRESSION = 1
_JPEG_FAMILY = (6, 7, 33007, 34892)
_PLAIN_JPEG = (7, 33007)
_GREYS, _RGB, _YCBCR = (0, 1), 2, 6
_SEPARATE = 2


@dataclass(frozen=True, slots=True)
class TiffSource:
    """One image of a TIFF file: a page, or a level of a series."""

    path: str
    page: int | None
    series: int
    level: int
    info: SourceInfo

    @classmethod
    def describe(
        cls, path: str, *, page: int | None = None, series: int | None = None, level: int | None = None
    ) -> TiffSource:
        """Look at a file and choose an image; by default level 0 of series 0.

        Raises
        ------
        OptionError
            When there is no such page, series or level, or page is given together with one of the others.
        SourceError
            When the file is damaged or the pixels are of a kind that can't be converted yet.
        """
        if page is not None and (series is not None or level is not None):
            raise OptionError("page chooses one image by itself; leave out series and level, or page")
        from slidewright.tiffread import check_directories

        try:
            check_directories(path)
        except VerifyError as error:
            raise SourceError(str(error)) from error
        with _parsed(path) as tiff:
            chosen = _select(tiff, path, page, series or 0, level or 0)
            info = _info(tiff, chosen, path, page, series or 0, level or 0)
        return cls(path, page, series or 0, level or 0, info)

    @property
    def strips_to_decode(self) -> bool:
        """Whether the pixels come in strips that must be decoded."""
        with _parsed(self.path) as tiff:
            page = _select(tiff, self.path, self.page, self.series, self.level)
            return not page.is_tiled and _raw_order(page) is None

    def open(self) -> TiffReader:
        """Open the file in this process."""
        with _parsed(self.path) as tiff:
            page = _select(tiff, self.path, self.page, self.series, self.level)
            if (int(page.imagelength), int(page.imagewidth)) != self.info.size:
                raise SourceError(f"{self.path} is not the file it was when the run began; start again")
            return TiffReader(self, page)


class TiffReader:
    """Reads regions of one image of a TIFF file."""

    def __init__(self, source: TiffSource, page: Any) -> None:
        info = source.info
        assert info.grid is not None
        self._name, self._size, self._cell, self._samples = source.path, info.size, info.grid, info.samples
        self._dtype = np.dtype(info.dtype)
        self._columns = -(-info.size.width // self._cell.width)
        self._rows = -(-info.size.height // self._cell.height)
        self._tiled = bool(page.is_tiled)
        self._planes = info.samples if int(page.planarconfig) == _SEPARATE else 1
        self._nodata = page.nodata or 0
        self._tables, self._header = page.jpegtables, page.jpegheader
        self._jpeg = _jpeg_colours(page)
        self._raw = _raw_order(page)
        self._page = page
        self._generic: Callable[..., Any] = page.decode
        self._offsets = np.asarray(page.dataoffsets, np.int64)
        self._counts = np.asarray(page.databytecounts, np.int64)
        self._file = PixelFile(source.path)
        contiguous = not self._tiled and self._raw is not None and self._planes == 1 and bool(page.is_contiguous)
        self._regions: RowsReader | CellReader
        if contiguous:
            stored = self._dtype if is_native(self._raw or "<") else self._dtype.newbyteorder()
            self._regions = RowsReader(self._file, int(self._offsets[0]), info.size, info.samples, stored)
        else:
            self._regions = CellReader(info.size, self._cell, info.samples, info.dtype, self._decode)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        return self._regions.read(y, x, height, width, out)

    def close(self) -> None:
        """Close the file and drop the cache."""
        self._file.close()
        if isinstance(self._regions, CellReader):
            self._regions.clear()

    def _decode(self, row: int, column: int, out: Pixels) -> None:
        """Decode one tile or strip into `out`, all planes of it."""
        if not self._tiled:
            out = out[: self._size.height - row * self._cell.height]
        for plane in range(self._planes):
            target = out if self._planes == 1 else out[..., plane : plane + 1]
            self._segment(row, column, (plane * self._rows + row) * self._columns + column, target)

    def _segment(self, row: int, column: int, index: int, out: Pixels) -> None:
        offset, count = int(self._offsets[index]), int(self._counts[index])
        if not offset or not count:  # a segment that was left out
            out[...] = self._nodata
            return
        if offset < 0 or count < 0 or offset + count > self._file.nbytes:
            raise CorruptTileError(
                f"{self._place(row, column)} lies outside the file ({self._file.nbytes} bytes); copy the file again"
            )
        if self._raw is not None and self._planes == 1 and count >= out.nbytes:
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
        if int(self._page.compression) not in _JPEG_FAMILY:
            return
        from slidewright.tiffread import jpeg_size

        size = jpeg_size(data)
        if size is not None and size.height * size.width > 4 * self._cell.height * self._cell.width + 65_536:
            raise CorruptTileError(f"{self._place(row, column)} holds a JPEG of {size} pixels; the file is damaged")

    def _corrupt(self, row: int, column: int, error: Exception) -> CorruptTileError:
        return CorruptTileError(
            f"{self._place(row, column)} does not decode ({error}); the file is damaged, copy it again"
        )

    def _place(self, row: int, column: int) -> str:
        return f"{self._name}: tile at row {row}, column {column}" if self._tiled else f"{self._name}: strip {row}"


@contextmanager
def _parsed(path: str) -> Iterator[Any]:
    """The file's directories, parsed by tifffile; what tifffile raises over a damaged tag becomes a SourceError."""
    import tifffile

    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:  # no other file, whatever its OME-XML names
            yield tiff
    except (SourceError, OptionError, MemoryError):
        raise
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:
        raise SourceError(f"{path}: its TIFF directories can't be read ({error}); the file is damaged") from error


def _select(tiff: Any, path: str, page: int | None, series: int, level: int) -> Any:
    """The chosen `TiffPage`."""
    if page is not None:
        return _pick(tiff.pages, page, "page", path).aspage()
    levels = _pick(tiff.series, series, "series", path).levels
    chosen = _pick(levels, level, "level", path)
    first = next((item for item in chosen.pages if item is not None), None)
    if first is None:
        raise SourceError(f"{path}: {_which(series, level)} has no image")
    first = first.aspage()
    if int(np.prod(chosen.shape)) != int(np.prod(first.shape)):
        raise SourceError(
            f"{path}: {_which(series, level)} is a stack of images (axes {chosen.axes}, shape {chosen.shape}); "
            f"choose one with page, 0 to {len(tiff.pages) - 1}"
        )
    return first


def _pick(items: Any, index: int, what: str, path: str) -> Any:
    count = len(items)
    if not 0 <= index < count:
        raise OptionError(
            f"{path} has no {what} {index}; it has {count}: 0 to {count - 1}" if count else f"{path} has no {what}"
        )
    return items[index]


def _which(series: int, level: int) -> str:
    return f"level {level} of series {series}"


def _info(tiff: Any, page: Any, path: str, number: int | None, series: int, level: int) -> SourceInfo:
    from slidewright.sources import tiffmeta

    where = path if number is None else f"{path} (page {number})"
    samples, dtype = _check_pixels(page, where)
    size = Size(int(page.imagelength), int(page.imagewidth))
    grid = _check_grid(page, size, samples, np.dtype(dtype), where, tiff.filehandle.size)
    base = page
    if number is None and level:
        base = _select(tiff, path, None, series, 0)
    mpp = tiffmeta.mpp_of(tiff, base, series)
    if mpp is not None and base is not page:
        mpp = (mpp[0] * base.imagewidth / size.width, mpp[1] * base.imagelength / size.height)
    return SourceInfo(
        name=path,
        format="svs" if tiff.is_svs else "ndpi" if tiff.is_ndpi else "tiff",
        size=size,
        samples=samples,
        dtype=dtype,
        mpp=mpp,
        grid=grid,
        icc_profile=base.iccprofile,
        description=tiffmeta.description_of(tiff, base),
        associated=tiffmeta.associated_of(tiff, series),
    )


def _check_pixels(page: Any, where: str) -> tuple[int, str]:
    """Samples and dtype name of a page that can be converted; a SourceError says why another can't."""
    supported = "slidewright converts uint8 RGB, uint8 grey and uint16 grey"
    if page.dtype is None or int(page.imagelength) <= 0 or int(page.imagewidth) <= 0:
        raise SourceError(f"{where} has an image of no size or of an unknown kind of sample; {supported}")
    samples, photometric, dtype = int(page.samplesperpixel), int(page.photometric), np.dtype(page.dtype).name
    if int(page.imagedepth) > 1:
        raise SourceError(f"{where} is a volume of {page.imagedepth} planes; {supported}, two-dimensional")
    if page.extrasamples or samples == 4:
        raise SourceError(f"{where} has {samples} samples a pixel, alpha or CMYK; {supported}: flatten it first")
    if photometric not in (*_GREYS, _RGB, _YCBCR) or samples not in (1, 3):
        kind = str(getattr(page.photometric, "name", photometric)).lower()
        raise SourceError(f"{where} has {samples} {kind} samples a pixel; {supported}: convert it to RGB first")
    if photometric == _YCBCR and int(page.compression) not in _JPEG_FAMILY:
        raise SourceError(
            f"{where} stores YCbCr colours outside JPEG; {supported}: install slidewright[openslide] if it is a slide"
        )
    if (dtype, samples) not in (("uint8", 1), ("uint8", 3), ("uint16", 1)):
        raise SourceError(f"{where} has {samples} sample(s) of {dtype} a pixel; {supported}")
    return samples, dtype


def _check_grid(page: Any, size: Size, samples: int, dtype: np.dtype[Any], where: str, file_bytes: int) -> Size:
    """The grid of tiles or strips, once its tables and its segments are known to be possible."""
    if page.is_tiled:
        cell = Size(int(page.tilelength), int(page.tilewidth))
    else:
        cell = Size(min(int(page.rowsperstrip or size.height), size.height), size.width)
    if cell.height <= 0 or cell.width <= 0:
        raise SourceError(f"{where}: tiles of {cell} pixels; the file is damaged")
    planes = samples if int(page.planarconfig) == _SEPARATE else 1
    needed = -(-size.height // cell.height) * -(-size.width // cell.width) * planes
    offsets = page.dataoffsets
    if len(offsets) < needed or len(page.databytecounts) < needed:
        raise SourceError(
            f"{where} claims {size} pixels in {needed} segments, but lists {len(offsets)}; the file is damaged"
        )
    pixel = samples * dtype.itemsize
    plain = int(page.compression) == _NO_COMPRESSION
    if (
        plain
        and page.is_contiguous
        and not page.is_tiled
        and offsets[0] + size.height * size.width * pixel > file_bytes
    ):
        raise SourceError(
            f"{where}: {size} uncompressed pixels do not fit in a file of {file_bytes} bytes; it is cut short"
        )
    if (
        not (plain and page.is_contiguous and not page.is_tiled)
        and cell.height * cell.width * pixel > MAX_SEGMENT_BYTES
    ):
        raise SourceError(
            f"{where} has tiles or strips of {cell} pixels, too large to decode in memory; rewrite it with "
            f"tiles first, "
            "for example with vips tiffsave --tile"
        )
    return cell


def _jpeg_colours(page: Any) -> tuple[int | None, int | None] | None:
    """(colorspace, outcolorspace) for `jpeg8_decode`, as tifffile chooses them; None for what it can't decode
    directly.
    """
    if int(page.compression) not in _PLAIN_JPEG or page.dtype != np.uint8 or page.jpegheader is not None:
        return None
    if int(page.planarconfig) == _SEPARATE:
        return None
    photometric = int(page.photometric)
    if photometric == _YCBCR:
        return None, _RGB
    if photometric == _RGB:  # Aperio stores RGB without saying so inside the JPEG
        return (None if page.is_jfif else _RGB), _RGB
    return None, None


def _raw_order(page: Any) -> str | None:
    """The byte order of segments that hold pixels as they are, or None where they must be decoded."""
    whole = int(page.bitspersample) in (8, 16) if isinstance(page.bitspersample, int) else False
    if int(page.compression) != _NO_COMPRESSION or int(page.predictor) != 1 or int(page.fillorder) != 1 or not whole:
        return None
    return str(page.parent.byteorder)


def vendor_of(path: str) -> str:
    """The kind of file, by its first page alone: "ndpi", "scn", "bif", "aperio-ycbcr" or "".

    The last is JPEG 2000 in an SVS whose colours tifffile leaves as YCbCr.
    """
    try:
        with _parsed(path) as tiff:
            if tiff.is_svs and int(tiff.pages.first.compression) == 33003:
                return "aperio-ycbcr"
            return next((kind for kind in ("ndpi", "scn", "bif") if getattr(tiff, f"is_{kind}")), "")
    except SourceError:
        return ""  # the description that follows says what is wrong
