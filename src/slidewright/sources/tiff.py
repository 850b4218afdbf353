"""TIFF files as sources, SVS and OME-TIFF included: `tiff/` says what a file holds, and here is decided which image is
meant and what its pixels are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slidewright.errors import OptionError, SlidewrightError, SourceError, VerifyError
from slidewright.geometry import Size, reduction
from slidewright.metadata import Metadata
from slidewright.pixels import MAX_CHANNELS
from slidewright.selection import Selection
from slidewright.sources.access.colours import given_as
from slidewright.sources.access.shapes import check_dtype
from slidewright.sources.access.tile_grid import check_height
from slidewright.sources.base import (
    LIBRARY_BYTES,
    Pixels,
    Source,
    SourceInfo,
    as_bytes,
    check_associated,
    known,
    more_images,
    no_associated,
    pickled_identity,
)
from slidewright.sources.on_disk import file_identity
from slidewright.sources.tiff_reader import TiffReader
from slidewright.sources.tiff_stored import stored_of
from slidewright.sources.wrappers.orient import TRANSPOSED, OrientedReader
from slidewright.system.remote_file import AHEAD_BYTES, is_url
from slidewright.tiff.page import Page
from slidewright.tiff.series import Image
from slidewright.tiff.shown import change_of
from slidewright.tiff.slide import TiffSlide, damage_named, vendor_of
from slidewright.tiff.stripes import check_size

__all__ = ["TiffSource", "opened", "vendor_of"]

MAX_SEGMENT_BYTES = 1 << 30
_SPARE = 4096  # bytes that nothing in a file refers to, where an image has no pixels at all
_IMAGES = frozenset({"jpeg2000", "jpeg2000-lossy", "htj2k", "webp", "webp-lossless", "jpegxl", "jpegxl-lossless"})
_GREYS = ("miniswhite", "minisblack")
_OF_FLOATS = 3  # of Predictor (TIFF technical note 3)
_APERIO_YCBCR = "aperio_jp2000_ycbc"  # Compression 33003, whatever the page says of its colours
_COLOR_DTYPES = ("uint8", "uint16")


@dataclass(frozen=True, slots=True)
class TiffSource(Source):
    """One image of a TIFF file: a page, or a level of a series."""

    path: str
    selection: Selection
    """Which of the file's images; series and level are settled, where it is not a page."""
    info: SourceInfo

    @classmethod
    def describe(cls, path: str, selection: Selection = Selection()) -> TiffSource:  # noqa: B008 - frozen
        """Look at a file and choose an image; by default level 0 of the largest series.

        Raises
        ------
        OptionError
            When there is no such page, series, level, plane or time, or page is given together with one of the others.
        SourceError
            When the file is damaged or the pixels are of a kind that can't be converted yet.
        """
        with opened(path) as slide:
            return cls.of(slide, selection)

    @classmethod
    def of(cls, slide: TiffSlide, selection: Selection) -> TiffSource:
        """As `describe`, of a file that is open."""
        if selection.page is not None and len(selection.place) > 1:
            raise OptionError("page chooses one image by itself; leave out series, level, z and t, or page")
        if selection.axes is not None:
            raise OptionError(f"axes {selection.axes} has no meaning for a TIFF, whose axes are known; leave it out")
        series = slide.default_series if selection.series is None else selection.series
        chosen = replace(selection, series=series, level=selection.level or 0, region=None)
        chosen = chosen if selection.page is None else Selection(page=selection.page)
        info = _info(slide, chosen)
        if selection.page is None and selection.series is None:
            info = replace(info, left_out=(*info.left_out, *more_images(slide.other_images)))
        return cls(slide.path, chosen, info)

    def page(self) -> Page:
        """The first page of the image; the file is closed again."""
        with opened(self.path) as slide:
            return slide.image(self.selection).pages[0]

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {**pickled_identity(self), **file_identity(self.path, self.info.seen)}

    def open(self) -> TiffReader:
        """Open the file in this process."""
        with opened(self.path) as slide:
            image, info = slide.image(self.selection), self.info
            found = (*image.shape[:2], _samples(image), image.stack, dtype_of(image.pages[0]))
            if found != (*info.shape, info.stack, info.dtype) or (info.seen and slide.seen != info.seen):
                raise SourceError(f"{self.path} is not the file it was when the run began; start again")
            return TiffReader(info, image)

    def reduced(self) -> tuple[Source, ...]:
        """See `Source`; levels that can't be read are left out, with those above them."""
        found: list[Source] = []
        if self.selection.page is not None:
            return ()
        with opened(self.path) as slide, contextlib.suppress(SlidewrightError):
            while True:
                chosen = replace(self.selection, level=(self.selection.level or 0) + len(found) + 1)
                found.append(TiffSource(self.path, chosen, _info(slide, chosen)))
        return tuple(found)

    def associated_image(self, name: str) -> Pixels:
        """See `Source`."""
        with opened(self.path) as slide:
            page = next((page for page in slide.others if page.name == name), None)
            if page is None or name not in slide.associated:
                raise no_associated(self.info, name)
            return as_bytes(_shown(slide, page))


@contextmanager
def opened(path: str) -> Iterator[TiffSlide]:
    """The file, whose damage is a SourceError here, in the `with` block too."""
    try:
        with damage_named(path, SourceError), TiffSlide(path) as slide:
            yield slide
    except VerifyError as error:
        raise SourceError(str(error)) from error


def _info(slide: TiffSlide, chosen: Selection) -> SourceInfo:
    image, number, series = slide.image(chosen), chosen.page, chosen.series or 0
    page = image.pages[0]
    where = slide.path if number is None else f"{slide.path} (page {number})"
    dtype, kind = _check_pixels(page, where)
    if image.channels is not None:
        if page.samples > 1 or kind == "binary":  # a palette is how a microscope's software shows a channel
            raise SourceError(f"{where} has channels that are {kind} images; choose one with page")
        kind = "multichannel"
    elif kind == "grey" and not series and np.dtype(dtype).kind in "iu":
        kind = (slide.noted_kind if not number or _is_of_levels(slide, page) else None) or kind
    if page.is_old_jpeg and not slide.head(page).startswith(b"\xff\xd8"):
        raise SourceError(
            f"{where} is compressed by old-style JPEG (TIFF's Compression 6), of which segments are no JPEGs; save it "
            "again with a program that opens it, such as vips or Pillow"
        )
    for each in image.pages:
        _check_segments(each, np.dtype(dtype), where, slide)
        check_size(each, slide.file)
        if each.tiled:
            check_height(where, each.size, each.cell, each.samples * each.dtype.itemsize)
    base = slide.image(replace(chosen, level=0)).pages[0] if chosen.level else page
    if number is not None:
        series, base = slide.owner(page)
    first = slide.first_page(series) if number is None else base  # whoever writes a stack says of it all there
    mpp = slide.mpp(base, series)
    left_out = slide.left_out(base, series, mpp)
    across, down = reduction(base.size.width, page.size.width), reduction(base.size.height, page.size.height)
    mpp = None if mpp is None else (mpp[0] * across, mpp[1] * down)
    stored, not_stored = stored_of(slide, image)
    return SourceInfo(
        name=slide.path,
        format=slide.vendor if slide.vendor in ("svs", "ndpi") else "tiff",
        size=page.size,
        samples=_samples(image),
        dtype=dtype,
        kind=kind,
        colormap=_palette(page, where) if kind == "labels" else None,
        stack=image.stack,
        planar=kind == "multichannel" and (image.channels is not None or page.planes > 1),
        mpp=mpp,
        tile=page.cell,
        worker_bytes=AHEAD_BYTES + LIBRARY_BYTES if is_url(slide.path) else 0,
        icc_profile=base.icc_profile if given_as(page) != "rgb" or page.photometric == "ycbcr" else None,  # of inks
        description=slide.description_of(first),
        metadata=_as_given(page, replace(slide.metadata(first, series), reduction=across)),
        left_out=left_out,
        associated=slide.associated,
        stored=stored,
        not_stored=not_stored,
        seen=slide.seen,
    )


def _as_given(page: Page, said: Metadata) -> Metadata:
    """What is said of the pixels as they are given, which may use more bits than those that are stored."""
    changed = given_as(page) is not None or change_of(page) is not None or page.premultiplied
    return replace(said, significant_bits=None) if changed else said


def _is_of_levels(slide: TiffSlide, page: Page) -> bool:
    """Whether a page is one of the levels' own, and no image beside them."""
    return all(other.page.offset != page.page.offset for other in slide.others)


def _shown(slide: TiffSlide, page: Page) -> Pixels:
    """All pixels of a small image, such as a label, upright and in the colours that a viewer shows."""
    check_associated(slide.path, page.name, page.size)
    image, where = Image((page,)), f"{slide.path} ({page.name})"
    dtype, kind = _check_pixels(page, where)
    _check_segments(page, np.dtype(dtype), where, slide)
    info = SourceInfo(slide.path, "tiff", page.size, _samples(image), dtype, kind=kind)
    turned = page.orientation in TRANSPOSED
    size = Size(page.size.width, page.size.height) if turned else page.size
    with contextlib.closing(OrientedReader(TiffReader(info, image), size, page.orientation)) as reader:
        pixels = known(reader.read(0, 0, *size, np.empty((*size, info.samples), dtype)))
    palette = _palette(page, where) if kind == "labels" else None
    if palette is not None:
        return (np.array(palette)[pixels[:, :, 0]] >> 8).astype(np.uint8)
    return np.where(pixels, np.uint8(255), np.uint8(0)) if kind == "binary" else pixels


def _palette(page: Page, where: str) -> tuple[tuple[int, int, int], ...] | None:
    palette = page.colormap
    if palette is not None and any(not 0 <= value <= 65_535 for colour in palette for value in colour):
        raise SourceError(f"{where} has a palette of numbers that are no colours (ColorMap); the file is damaged")
    return palette


def dtype_of(page: Page) -> str:
    """The dtype of the pixels that a source gives."""
    if page.is_mask or given_as(page) == "rgb":
        return "bool" if page.is_mask else "uint8"
    return "float32" if page.dtype == np.float16 else page.dtype.name  # which holds all of it


def _samples(image: Image) -> int:
    """Samples of a pixel as it is given."""
    kind = given_as(image.pages[0])
    return image.shape[2] if kind is None else 3 if kind == "rgb" else 4


def _check_pixels(page: Page, where: str) -> tuple[str, str]:
    """Dtype name and kind of a page that can be converted; a SourceError says why another can't."""
    if page.uneven_bits:  # of 5, 6 and 5 tifffile makes noise in files of the one byte order
        raise SourceError(f"{where} has samples of {page.uneven_bits} bits; save it again with 8 bits each")
    if not page.says_bits and not _is_of_bits(page):
        raise SourceError(f"{where} does not say how many bits a sample has (BitsPerSample); the file is damaged")
    if page.bits == 24 and page.dtype.kind == "u":  # tifffile takes three bytes for bits, whatever the byte order
        raise SourceError(f"{where} has integers of 24 bits, which are not read right here; save it again with 32 bits")
    if page.dtype.kind == "V" or page.size.height <= 0 or page.size.width <= 0:
        raise SourceError(f"{where} has an image of no size or of an unknown kind of sample; the file is damaged")
    if page.has_lost_its_cell:
        raise SourceError(
            f"{where} does not say how large its tiles or strips are (TileWidth, TileLength, RowsPerStrip); the file "
            "is damaged, copy it again"
        )
    if page.undecodable:
        raise SourceError(
            f"{where} is compressed by {page.compression} (TIFF's Compression {int(page.page.compression)}), which no "
            "library here decodes; have the program that wrote it write another, such as LZW or JPEG"
        )
    unknown = page.samples > 2 and not page.has_extra_samples  # of which the photometric means one (TIFF 6.0)
    if page.photometric == "miniswhite" and (unknown or (page.is_jpeg and page.samples // page.planes > 2)):
        what = "JPEGs" if page.is_jpeg else "pixels"
        raise SourceError(f"{where} has {what} of {page.samples} samples in which 0 is white; the file is damaged")
    if page.compression.startswith("ccitt") and (page.bits != 1 or page.samples > page.planes):
        raise SourceError(
            f"{where} is a fax of {page.samples} samples of {page.bits} bits a pixel, which is damage, or read in "
            "another way by each program; save it again with another compression"
        )
    several = page.samples > 2 if page.is_jpeg else page.samples > 3 and not page.has_extra_samples
    if several and not page.says_colours:  # YCbCr or RGB; inks, or colours and something else
        raise SourceError(
            f"{where} has {page.samples} samples, and does not say of which colours (PhotometricInterpretation); the "
            "file is damaged, copy it again"
        )
    if page.predictor == _OF_FLOATS and page.dtype.kind != "f":
        raise SourceError(f"{where} has a predictor of floats (3), and samples of {page.dtype}; the file is damaged")
    if page.photometric == "palette" and page.colormap is None:
        raise SourceError(f"{where} has indices of a palette, and no palette (ColorMap); the file is damaged")
    if page.compression == _APERIO_YCBCR:
        raise SourceError(
            f"{where} has JPEG 2000 of YCbCr (Aperio's Compression 33003), which only OpenSlide reads in its colours: "
            "leave out page and series, and install slidewright[openslide]"
        )
    if page.depth > 1:
        raise SourceError(f"{where} is a volume of {page.depth} planes; save one plane of it first")
    if page.samples > MAX_CHANNELS:
        raise SourceError(f"{where} has {page.samples} samples a pixel, and {MAX_CHANNELS} at most can be converted")
    dtype = check_dtype(np.dtype(dtype_of(page)), where)
    known = page.photometric != "ycbcr" or page.is_jpeg
    kind = given_as(page) or (_kind(page.photometric, page.samples, dtype) if known else None)
    if kind is None:
        raise SourceError(
            f"{where} has {page.samples} {page.photometric} samples of {dtype} a pixel, which can't be read as they "
            "are; save it as RGB first, with vips, Pillow or another program that shows it"
        )
    return dtype, kind


def _is_of_bits(page: Page) -> bool:
    """Whether a page that says nothing of bits may have one a pixel, as faxes have (TIFF 6.0, section 3)."""
    if page.compression != "none":  # `Segments` looks at how many there are
        return page.samples == 1 and not page.is_jpeg and page.compression not in _IMAGES
    most = 2 * page.cell.height * -(-page.cell.width // 8)
    return page.samples == 1 and (not len(page.counts) or int(page.counts.max()) < most)


def _kind(photometric: str, samples: int, dtype: str) -> str | None:
    """What the pixels of a page are, by its PhotometricInterpretation (TIFF 6.0); None for what can't be converted."""
    if photometric in _GREYS:
        return "multichannel" if samples > 1 else "binary" if dtype == "bool" else "grey"
    if photometric == "palette" and samples == 1 and dtype in _COLOR_DTYPES:
        return "labels"
    if photometric == "rgb" and samples >= 3:
        return {3: "rgb", 4: "rgba"}.get(samples, "multichannel") if dtype in _COLOR_DTYPES else "multichannel"
    return "rgb" if photometric == "ycbcr" and samples == 3 else None


def _check_segments(page: Page, dtype: np.dtype[Any], where: str, slide: TiffSlide) -> None:
    """Refuse a page whose tables or segments are not possible."""
    size, cell = page.size, page.cell
    if cell.height <= 0 or cell.width <= 0:
        raise SourceError(f"{where}: tiles of {cell} pixels; the file is damaged")
    if min(len(page.offsets), len(page.counts)) < page.n_segments:
        raise SourceError(
            f"{where} claims {size} pixels in {page.n_segments} segments, but lists {len(page.offsets)}; the file is "
            "damaged"
        )
    least = size.height * size.width * page.samples * page.bits // 16 if page.compression == "none" else _SPARE
    if not (page.offsets.any() or page.counts.any()) and (spare := slide.spare_bytes) >= max(least, _SPARE):
        raise SourceError(
            f"{where}: none of its tiles or strips has a place in the file, of which nothing tells what {spare} bytes "
            "are for; it is damaged, copy it again"
        )
    pixel = page.samples * dtype.itemsize
    if page.raw_order is not None and page.contiguous and not page.tiled:
        if int(page.offsets[0]) + size.height * size.width * pixel > slide.bytes:
            raise SourceError(
                f"{where}: {size} uncompressed pixels do not fit in a file of {slide.bytes} bytes; it is cut short"
            )
    elif cell.height * cell.width * pixel > MAX_SEGMENT_BYTES:
        raise SourceError(
            f"{where} has tiles or strips of {cell} pixels, too large to decode in memory; rewrite it with tiles "
            "first, for example with vips tiffsave --tile"
        )
