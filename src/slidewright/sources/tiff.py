"""TIFF files as sources, SVS and OME-TIFF included: tifffile parses the directories, and here is decided which image is
meant and what its pixels are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from slidewright.errors import OptionError, SourceError, VerifyError
from slidewright.geometry import Size
from slidewright.pixels import MAX_CHANNELS
from slidewright.sources.access.shapes import check_dtype
from slidewright.sources.base import Source, SourceInfo, pickled_identity
from slidewright.sources.on_disk import file_identity
from slidewright.sources.tiff_reader import JPEG_FAMILY, NO_COMPRESSION, RGB, SEPARATE, YCBCR, TiffReader, raw_order

MAX_SEGMENT_BYTES = 1 << 30
_FILE_NAME = re.compile(r'FileName="([^"]*)"')
_GREYS, _PALETTE = (0, 1), 3
_COLOR_DTYPES = ("uint8", "uint16")


@dataclass(frozen=True, slots=True)
class TiffSource(Source):
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
        from slidewright.tiff.directories import check_directories

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
            page = _select(tiff, self.path, self.page, self.series, self.level).pages[0]
            return not page.is_tiled and raw_order(page) is None

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {**pickled_identity(self), **file_identity(self.path)}

    def open(self) -> TiffReader:
        """Open the file in this process."""
        with _parsed(self.path) as tiff:
            image = _select(tiff, self.path, self.page, self.series, self.level)
            page, info = image.pages[0], self.info
            shape = (int(page.imagelength), int(page.imagewidth), image.channels or int(page.samplesperpixel))
            if shape != info.shape or np.dtype(page.dtype).name != info.dtype:
                raise SourceError(f"{self.path} is not the file it was when the run began; start again")
            return TiffReader(info, image.pages, image.offsets)


@dataclass(frozen=True, slots=True)
class _Image:
    """What makes one image: a page, or one page a channel, or the places of channels that have no pages."""

    pages: tuple[Any, ...]
    channels: int | None = None
    """How many channels are stored as images of their own."""
    offsets: tuple[int, ...] | None = None


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


def _select(tiff: Any, path: str, page: int | None, series: int, level: int) -> _Image:
    """The chosen image."""
    if page is not None:
        return _Image((_pick(tiff.pages, page, "page", path).aspage(),))
    _refuse_several_files(tiff, path)
    levels = _pick(tiff.series, series, "series", path).levels
    chosen = _pick(levels, level, "level", path)
    pages = list(chosen.pages)
    first = next((item for item in pages if item is not None), None)
    if first is None:
        raise SourceError(f"{path}: {_which(series, level)} has no image")
    first = first.aspage()
    if int(np.prod(chosen.shape)) == int(np.prod(first.shape)):
        images = int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1
        if images > 1 and images > len(tiff.pages):  # tifffile only logs that, and shows the first
            raise SourceError(f"{path}: ImageJ put {images} images into it, and it has not all; copy the file again")
        return _Image((first,))
    long = [axis for axis, length in zip(chosen.axes, chosen.shape, strict=True) if length > 1 and axis not in "YX"]
    if long != ["C"]:
        raise SourceError(
            f"{path}: {_which(series, level)} is a stack of images (axes {chosen.axes}, shape {chosen.shape}); "
            f"choose one with page, 0 to {len(tiff.pages) - 1}"
        )
    return _stack(tiff, path, _which(series, level), chosen, first)


def _stack(tiff: Any, path: str, which: str, chosen: Any, first: Any) -> _Image:
    """The channels of a series whose only long axis beside Y and X is C: a page each."""
    count = int(chosen.shape[chosen.axes.index("C")])
    if count > MAX_CHANNELS:
        raise SourceError(f"{path}: {which} has {count} channels, and {MAX_CHANNELS} at most can be converted")
    pages = list(chosen.pages)
    if len(pages) == 1 and chosen.dataoffset is not None and raw_order(first) is not None:  # ImageJ's large files
        plane_bytes = int(first.imagelength) * int(first.imagewidth) * np.dtype(first.dtype).itemsize
        offsets = tuple(int(chosen.dataoffset) + index * plane_bytes for index in range(count))
        if offsets[-1] + plane_bytes > tiff.filehandle.size:
            raise SourceError(f"{path}: {count} channels do not fit in the file; it is cut short, copy it again")
        return _Image((first,), count, offsets)
    if len(pages) != count or any(page is None for page in pages):
        raise SourceError(f"{path}: {which} has {count} channels, but not a page for each; the file is damaged")
    whole = tuple(page.aspage() for page in pages)
    if any(_layout(page) != _layout(first) for page in whole):
        raise SourceError(f"{path}: the channels of {which} differ in size, tiles or dtype; choose one with page")
    return _Image(whole, count)


def _refuse_several_files(tiff: Any, path: str) -> None:
    """An OME-TIFF may lie in several files, which its XML names; those are not opened, and a part is not the image."""
    if tiff.is_ome and len(set(_FILE_NAME.findall(tiff.ome_metadata or ""))) > 1:
        raise SourceError(
            f"{path} is one of several files of an OME-TIFF; choose an image of this file with page, or write all to "
            "one first, such as tifffile.imwrite(new, tifffile.imread(path), ome=True, metadata={'axes': 'CYX'})"
        )


def _layout(page: Any) -> tuple[Any, ...]:
    grid = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip,)
    return (page.imagelength, page.imagewidth, page.is_tiled, page.dtype, *grid)


def _pick(items: Any, index: int, what: str, path: str) -> Any:
    count = len(items)
    if not 0 <= index < count:
        raise OptionError(
            f"{path} has no {what} {index}; it has {count}: 0 to {count - 1}" if count else f"{path} has no {what}"
        )
    return items[index]


def _which(series: int, level: int) -> str:
    return f"level {level} of series {series}"


def _info(tiff: Any, image: _Image, path: str, number: int | None, series: int, level: int) -> SourceInfo:
    from slidewright.tiff import metadata as tiffmeta

    page = image.pages[0]
    where = path if number is None else f"{path} (page {number})"
    dtype, kind = _check_pixels(page, where)
    samples = int(page.samplesperpixel)
    if image.channels is not None:
        if samples > 1 or kind in ("labels", "binary"):
            raise SourceError(f"{where} has channels that are {kind} images; choose one with page")
        samples, kind = image.channels, "multichannel"
    size = Size(int(page.imagelength), int(page.imagewidth))
    for each in image.pages:
        grid = _check_grid(each, size, int(page.samplesperpixel), np.dtype(dtype), where, tiff.filehandle.size)
    base = page
    if number is None and level:
        base = _select(tiff, path, None, series, 0).pages[0]
    mpp = tiffmeta.mpp_of(tiff, base, series)
    if mpp is not None and base is not page:
        mpp = (mpp[0] * base.imagewidth / size.width, mpp[1] * base.imagelength / size.height)
    return SourceInfo(
        name=path,
        format="svs" if tiff.is_svs else "ndpi" if tiff.is_ndpi else "tiff",
        size=size,
        samples=samples,
        dtype=dtype,
        kind=kind,
        colormap=_colormap(page) if kind == "labels" else None,
        planar=kind == "multichannel" and (image.channels is not None or int(page.planarconfig) == SEPARATE),
        mpp=mpp,
        tile=grid,
        worker_bytes=0,
        icc_profile=base.iccprofile,
        description=tiffmeta.description_of(tiff, base),
        associated=tiffmeta.associated_of(tiff, series),
    )


def _check_pixels(page: Any, where: str) -> tuple[str, str]:
    """Dtype name and kind of a page that can be converted; a SourceError says why another can't."""
    if page.dtype is None or int(page.imagelength) <= 0 or int(page.imagewidth) <= 0:
        raise SourceError(f"{where} has an image of no size or of an unknown kind of sample; the file is damaged")
    samples, photometric = int(page.samplesperpixel), int(page.photometric)
    if int(page.imagedepth) > 1:
        raise SourceError(f"{where} is a volume of {page.imagedepth} planes; save one plane of it first")
    if samples > MAX_CHANNELS:
        raise SourceError(f"{where} has {samples} samples a pixel, and {MAX_CHANNELS} at most can be converted")
    dtype = check_dtype(np.dtype(page.dtype), where)
    if photometric == YCBCR and int(page.compression) not in JPEG_FAMILY:
        raise SourceError(
            f"{where} stores YCbCr colours outside JPEG: install slidewright[openslide] if it is a slide, else pass "
            "PIL.Image.open(path), which is converted to RGB"
        )
    kind = _kind(photometric, samples, dtype)
    if kind is None:
        name = str(getattr(page.photometric, "name", photometric)).lower()
        raise SourceError(
            f"{where} has {samples} {name} samples of {dtype} a pixel, which can't be read as they are: pass "
            "PIL.Image.open(path), which is converted to RGB"
        )
    return dtype, kind


def _kind(photometric: int, samples: int, dtype: str) -> str | None:
    """What the pixels of a page are, by its PhotometricInterpretation (TIFF 6.0); None for what can't be converted."""
    if photometric in _GREYS:
        return "multichannel" if samples > 1 else "binary" if dtype == "bool" else "grey"
    if photometric == _PALETTE and samples == 1 and dtype in _COLOR_DTYPES:
        return "labels"
    if photometric == RGB and samples >= 3:
        return {3: "rgb", 4: "rgba"}.get(samples, "multichannel") if dtype in _COLOR_DTYPES else "multichannel"
    return "rgb" if photometric == YCBCR and samples == 3 else None


def _colormap(page: Any) -> tuple[tuple[int, int, int], ...] | None:
    """The page's palette, whose tag has all reds, then all greens, then all blues."""
    table = page.colormap
    if table is None:
        return None
    return tuple((int(red), int(green), int(blue)) for red, green, blue in np.asarray(table).T)


def _check_grid(page: Any, size: Size, samples: int, dtype: np.dtype[Any], where: str, file_bytes: int) -> Size:
    """The grid of tiles or strips, once its tables and its segments are known to be possible."""
    if page.is_tiled:
        cell = Size(int(page.tilelength), int(page.tilewidth))
    else:
        cell = Size(min(int(page.rowsperstrip or size.height), size.height), size.width)
    if cell.height <= 0 or cell.width <= 0:
        raise SourceError(f"{where}: tiles of {cell} pixels; the file is damaged")
    planes = samples if int(page.planarconfig) == SEPARATE else 1
    needed = -(-size.height // cell.height) * -(-size.width // cell.width) * planes
    offsets = page.dataoffsets
    if len(offsets) < needed or len(page.databytecounts) < needed:
        raise SourceError(
            f"{where} claims {size} pixels in {needed} segments, but lists {len(offsets)}; the file is damaged"
        )
    pixel = samples * dtype.itemsize
    plain = int(page.compression) == NO_COMPRESSION
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
