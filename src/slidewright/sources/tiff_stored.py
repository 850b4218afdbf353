"""How the tiles of a TIFF are encoded, for those who would keep them as they are, or why that can't be said.

Apart from `tiff.py`, which decides what the pixels are: here only encoded bytes matter.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal

from slidewright.sources.base import Stored
from slidewright.tiff.jpeg_header import JpegHeader, header_segments, read_jpeg_header
from slidewright.tiff.page import Page
from slidewright.tiff.series import Image
from slidewright.tiff.slide import TiffSlide

PHOTOMETRIC: dict[str, Literal["rgb", "ycbcr", "grey", "palette"]] = {
    "rgb": "rgb",
    "ycbcr": "ycbcr",
    "minisblack": "grey",
    "palette": "palette",
}
_APERIO = "aperio_jp2000_rgb"  # Compression 33005: a plain codestream under a number of Aperio's
_READABLE_JPEGS = (0, 1, 2)  # SOF0 to SOF2: baseline, extended, progressive
CONFLICT = "its JPEG tiles say that they are YCbCr, and its tags that they are RGB"
_SOI = b"\xff\xd8"
_NOTHING_TO_COPY = "none of its tiles has any bytes"


def stored_of(slide: TiffSlide, image: Image) -> tuple[Stored | None, str]:
    """How the tiles of an image are stored; None, and why not as a clause, where they are not to be kept."""
    page = _renamed(slide, image.pages[0])
    reason = _refusal(page)
    if reason:
        return None, reason
    if image.offsets is not None:
        return None, "it has no tiles of its own"
    if page.nodata and slide.vendor != "philips" and not all(each.counts.all() for each in image.pages):
        return None, f"the tiles that it leaves out stand for {page.nodata:g} (GDAL_NODATA), and would for 0"
    stored = Stored(
        compression=page.compression,
        photometric=PHOTOMETRIC[page.photometric],
        predictor=page.predictor,
        bits=page.bits,
        separate=page.planes > 1 or image.channels is not None,
        big_endian=page.big_endian,
    )
    for other in image.pages[1:]:
        if _encoding(_renamed(slide, other)) != _encoding(page):
            return None, "its channels or planes are not all encoded alike"
    return _of_jpeg(slide, image, stored) if page.is_jpeg else (stored, "")


def _renamed(slide: TiffSlide, page: Page) -> Page:
    """The page with the name of its compression in the compression table."""
    return slide.look(replace(page, compression="jpeg2000") if page.compression == _APERIO else page)


def _refusal(page: Page) -> str:
    if not page.tiled:
        return "it is stored in strips, not in tiles"
    if page.photometric not in PHOTOMETRIC:
        words = {"miniswhite": "in its tiles 0 is white"}
        return words.get(page.photometric, f"its colours are {page.photometric}")
    if page.bits not in (8, 16, 32):
        return f"its samples have {page.bits} bit{'s' * (page.bits > 1)}"
    if page.predictor not in {"f": (1, 3)}.get(page.dtype.kind, (1, 2)):
        return f"its predictor is {page.predictor}, of samples of {page.dtype}"
    if page.is_read_in_two_ways:
        return f"its predictor, beside compression {page.compression}, is one that readers that use libtiff do not heed"
    if page.dtype.name == "float16":
        return "its samples are floats of 16 bits"
    if page.reversed_bits:
        return "its bytes begin with the lowest bit (FillOrder 2)"
    if page.premultiplied:
        return "alpha is multiplied into its colours"
    if page.is_jpeg and not page.is_plain_jpeg :
        return "its JPEG tiles are no streams of their own"
    if page.photometric == "ycbcr" and not page.is_jpeg:
        return "its colours are YCbCr outside JPEG"
    return ""


def _encoding(page: Page) -> tuple[object, ...]:
    alike = page.compression, page.photometric, page.predictor, page.bits, page.reversed_bits, page.premultiplied
    return (*alike, page.samples, page.planes, page.is_jpeg and page.photometric == "rgb" and page.is_jfif)


def _of_jpeg(slide: TiffSlide, image: Image, stored: Stored) -> tuple[Stored | None, str]:
    """The same with what JPEG tiles share, and what their streams say of chroma and quality."""
    page = image.pages[0]
    if any(other.jpeg_tables != page.jpeg_tables for other in image.pages):
        return None, "its channels or planes have JPEG tables of their own"
    if not page.counts.any():
        return None, _NOTHING_TO_COPY
    if page.photometric == "rgb" and page.is_jfif:
        return None, CONFLICT
    header = read_jpeg_header(slide.head(page), page.jpeg_tables)
    return jpeg_stored(replace(stored, tables=page.jpeg_tables), header, 1 if stored.separate else page.samples)


def is_of_kind(stored: Stored, stream: bytes, components: int) -> bool:
    """Whether a JPEG tile has the colours that the first of its image says of all; of one without a header nothing else
    is known. Another sampling of its chroma every reader minds that minds those of the source.
    """
    return _is_of_kind(stored, header_segments(stream), components)


@lru_cache(maxsize=64)  # most tiles of an image have the same header
def _is_of_kind(stored: Stored, segments: bytes, components: int) -> bool:
    header = read_jpeg_header(_SOI + segments)
    if header is None:
        return True
    found, _ = jpeg_stored(stored, header, components)
    return found is not None and not (stored.photometric == "rgb" and header.told == "ycbcr")


def jpeg_stored(stored: Stored, header: JpegHeader | None, components: int) -> tuple[Stored | None, str]:
    """How JPEG tiles are stored, with what the header of the first says; None, and why not, for what a TIFF can't say
    or few readers know.
    """
    if header is None:
        return None, "its first JPEG has no header"
    if header.process not in _READABLE_JPEGS or header.bits != 8:
        return None, f"its JPEG tiles are of a process (SOF{header.process}, {header.bits} bits) that few readers know"
    if len(header.sampling) != components:
        return None, f"its JPEG tiles have {len(header.sampling)} components"
    chroma = header.subsampling if stored.photometric == "ycbcr" else None
    if stored.photometric == "ycbcr" and chroma is None:
        return None, "the chroma of its JPEG tiles is sampled in a way that TIFF can't say"
    return replace(stored, subsampling=chroma, quality=header.quality), ""
