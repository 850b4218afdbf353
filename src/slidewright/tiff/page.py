"""One image of a TIFF as a value: its size, tiles, encoding, segment tables and tags; and what any file says of tiles.

What other packages may know of a page is declared here; `tifffile.TiffPage` stays inside `tiff/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slidewright.geometry import Region, Size
from slidewright.tiff.lerc import PARAMETERS

LOSSLESS = frozenset({"none", "lzw", "deflate", "zstd", "packbits", "lzma", "packints", "png"})
LOSSLESS |= {"ccitt-t4", "ccitt-t6", "ccittrle"}
_SHORT_NAMES = {
    "adobe_deflate": "deflate",
    "pixtiff": "deflate",
    "zstd_deprecated": "zstd",
    "ccittfax3": "ccitt-t4",
    "ccittfax4": "ccitt-t6",
}
_WITHOUT_PREDICTOR = ("none", "packbits", "lerc")
_JPEG_CODES = (6, 7, 33007, 34892)
_PLAIN_JPEG_CODES = (7, 33007)
_OLD_JPEG = 6
_SEPARATE = 2
_ASSOCIATED_ALPHA = 1
_SUBSAMPLING, _ORIENTATION = 530, 274
_INK_SET, _COEFFICIENTS, _REFERENCE = 332, 529, 532
_BITS, _PHOTOMETRIC = 258, 262
_ROWS, _TILE_WIDTH, _TILE_LENGTH, _TILE_OFFSETS = 278, 322, 323, 324
_ENCODING = (258, 259, 262, 266, 277, 284, 317, 322, 323, 338, 339, 347, 530)
"""BitsPerSample, Compression, PhotometricInterpretation, FillOrder, SamplesPerPixel, PlanarConfiguration, Predictor,
TileWidth, TileLength, ExtraSamples, SampleFormat, JPEGTables, YCbCrSubSampling.
"""


@dataclass(frozen=True, eq=False, slots=True)
class TiledImage:
    """One image of a file, whatever file that is: a level of the pyramid, a channel, or another image beside them."""

    name: str
    """How to call it in a message: "level 2", "label", "page 3"; may be empty."""
    size: Size
    cell: Size
    """Tile, or strip, in pixels; of a damaged file it may be 0 x 0."""
    tiled: bool
    samples: int
    planes: int
    """1, or the number of samples when each sample is a plane of its own."""
    dtype: np.dtype[Any]
    """Of decoded pixels; single bits decode to uint8 of 0 and 1. Of kind "V" where the file's is unknown."""
    bits: int
    """Bits a sample in the file."""
    compression: str
    """By the name that `convert` gives it, or tifffile's."""
    lossless: bool
    """Whether the codec gives back exactly what it was given, as far as tag and stream say."""
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    grid: Size = field(init=False)
    """Rows and columns of tiles (or strips)."""

    def __post_init__(self) -> None:
        rows, columns = (-(-side // max(1, cell)) for side, cell in zip(self.size, self.cell, strict=True))
        object.__setattr__(self, "grid", Size(rows, columns))

    @property
    def photometric(self) -> str:
        """What the samples mean, in the words of TIFF 6.0: "miniswhite", "minisblack", "rgb", "palette", "ycbcr" ..."""
        raise NotImplementedError

    @property
    def colormap(self) -> tuple[tuple[int, int, int], ...] | None:
        """The palette as (red, green, blue) of 0 to 65535 by index."""
        raise NotImplementedError

    @property
    def masks(self) -> bool:
        """Whether pixels are labels or bits, of which no mean can be made."""
        return self.photometric == "palette" or self.bits == 1

    @property
    def is_mask(self) -> bool:
        """Whether a pixel is a single bit, and that no index of a palette."""
        return self.bits == 1 and self.samples == 1 and self.photometric in ("miniswhite", "minisblack")

    @property
    def orientation(self) -> int:
        """TIFF's Orientation, 1 to 8; 1 is upright."""
        return 1

    @property
    def bytes(self) -> int:
        """Encoded bytes of all segments."""
        return int(self.counts.sum())

    @property
    def n_segments(self) -> int:
        """Segments that the size and the tile size ask for."""
        return self.grid.height * self.grid.width * self.planes

    def index(self, row: int, column: int, plane: int = 0) -> int:
        """The number of a segment in the tables."""
        return (plane * self.grid.height + row) * self.grid.width + column

    def place(self, index: int) -> str:
        """Where a segment is, for a message: "level 0, tile at row 3, column 4"."""
        plane, index_in_plane = divmod(index, max(1, self.grid.height * self.grid.width))
        row, column = divmod(index_in_plane, max(1, self.grid.width))
        where = f"tile at row {row}, column {column}" if self.tiled else f"strip {index_in_plane}"
        parts = (self.name, f"channel {plane}" if self.planes > 1 else "", where)
        return ", ".join(part for part in parts if part)

    def pixels_of(self, index: int) -> Region:
        """The pixels of the image that a segment has."""
        row, column = divmod(index % (self.grid.height * self.grid.width), self.grid.width)
        height, width = self.cell
        return Region(row * height, column * width, height, width).clipped(self.size)

    def tiles_in(self, region: Region) -> Iterator[tuple[int, Region]]:
        """(index, pixels of the region) for each tile that a region touches."""
        for row in range(region.y // self.cell.height, -(-(region.y + region.height) // self.cell.height)):
            for column in range(region.x // self.cell.width, -(-(region.x + region.width) // self.cell.width)):
                top, left = max(region.y, row * self.cell.height), max(region.x, column * self.cell.width)
                bottom = min(region.y + region.height, (row + 1) * self.cell.height)
                right = min(region.x + region.width, (column + 1) * self.cell.width)
                yield row * self.grid.width + column, Region(top, left, bottom - top, right - left)


@dataclass(frozen=True, eq=False, slots=True)
class Page(TiledImage):
    """One image of a TIFF."""

    page: Any
    """The `tifffile.TiffPage`, for the modules of this package alone."""

    @property
    def photometric(self) -> str:
        """PhotometricInterpretation: "miniswhite", "minisblack", "rgb", "palette", "ycbcr" ...

        What does not say so is taken for what libtiff takes it for, by its samples and whether it is a fax.
        """
        if not self.says_colours:
            return "rgb" if self.samples > 2 else "miniswhite" if self.compression.startswith("ccitt") else "minisblack"
        return str(getattr(self.page.photometric, "name", self.page.photometric)).lower()

    @property
    def says_colours(self) -> bool:
        """Whether it has a PhotometricInterpretation."""
        return _PHOTOMETRIC in self.page.tags

    @property
    def is_jpeg(self) -> bool:
        """Whether each segment is a JPEG."""
        return int(self.page.compression) in _JPEG_CODES

    @property
    def is_old_jpeg(self) -> bool:
        """Whether its Compression is 6, whose segments may be any part of a JPEG."""
        return int(self.page.compression) == _OLD_JPEG

    @property
    def is_plain_jpeg(self) -> bool:
        """Whether each segment is a baseline JPEG of 8 bits with all samples of a pixel, whose header is its own."""
        known = int(self.page.compression) in _PLAIN_JPEG_CODES and self.planes == 1
        return known and self.dtype == np.uint8 and self.bits == 8 and self.jpeg_header is None

    @property
    def jpeg_header(self) -> bytes | None:
        """The header that the JPEGs of an NDPI's stripes have in common, up to the scan; None elsewhere."""
        header: bytes | None = self.page.jpegheader
        return header

    @property
    def is_jfif(self) -> bool:
        """Whether a JPEG says its colours itself."""
        return bool(self.page.is_jfif)

    @property
    def jpeg_tables(self) -> bytes | None:
        """JPEGTables: what all JPEG segments of the page have in common."""
        return bytes_of(self.page.jpegtables)

    @property
    def subsampling(self) -> tuple[int, int] | None:
        """YCbCrSubSampling, (2, 2) where YCbCr does not say (TIFF 6.0, section 21), None for other colours."""
        value = self.page.tags.valueof(_SUBSAMPLING)
        if value is None:
            return (2, 2) if self.photometric == "ycbcr" else None
        return (int(value[0]), int(value[1]))

    @property
    def encoding(self) -> tuple[Any, ...]:
        """What the tags say of how segments are encoded and what samples mean, to be held against another page's."""
        return (*map(self.page.tags.valueof, _ENCODING), self.colormap)

    @property
    def uneven_bits(self) -> tuple[int, ...]:
        """Bits of each sample, where they are not the same."""
        bits = self.page.bitspersample
        return () if isinstance(bits, int) or len(set(bits)) == 1 else tuple(map(int, bits))

    @property
    def has_lost_its_cell(self) -> bool:
        """Whether it does not say how large its tiles are, or that its strips have no rows."""
        tags = self.page.tags
        if _TILE_OFFSETS in tags:
            return not (tags.valueof(_TILE_WIDTH) and tags.valueof(_TILE_LENGTH))
        return bool(tags.valueof(_ROWS, 1) == 0)

    @property
    def has_extra_samples(self) -> bool:
        """Whether ExtraSamples says what a pixel has beside its colours."""
        return bool(self.page.extrasamples)

    @property
    def undecodable(self) -> bool:
        """Whether nothing here knows its compression."""
        import tifffile

        try:
            return not callable(tifffile.TIFF.DECOMPRESSORS[self.page.compression])
        except KeyError:
            return True

    @property
    def predictor(self) -> int:
        """Predictor, 1 for none."""
        return int(self.page.predictor)

    @property
    def is_read_in_two_ways(self) -> bool:
        """Whether it has a predictor beside a compression for which libtiff has none and shows differences as pixels;
        tifffile undoes them, which it writes so with PackBits.
        """
        return self.predictor != 1 and self.compression in _WITHOUT_PREDICTOR

    @property
    def lerc_compression(self) -> int:
        """What LERC is compressed with, see `lerc.has_gaps`."""
        values = self.page.tags.valueof(PARAMETERS)
        return int(values[1]) if isinstance(values, (tuple, np.ndarray)) and len(values) > 1 else 0

    @property
    def raw_order(self) -> Literal["<", ">"] | None:
        """The byte order, "<" or ">", of segments that hold pixels as they are; None where they must be decoded."""
        bits = self.page.bitspersample
        plain = self.compression == "none" and self.predictor == 1 and int(self.page.fillorder) == 1
        plain = plain and (self.photometric != "ycbcr" or self.subsampling == (1, 1))
        if not plain or not isinstance(bits, int) or bits not in (8, 16, 32) or self.dtype == np.float16:
            return None
        return "<" if self.page.parent.byteorder == "<" else ">"

    @property
    def big_endian(self) -> bool:
        """Whether the file's byte order is that, which samples of several bytes have in most codecs."""
        return str(self.page.parent.byteorder) == ">"

    @property
    def reversed_bits(self) -> bool:
        """Whether the bits of each byte begin with the lowest (TIFF 6.0, FillOrder 2)."""
        return int(self.page.fillorder) != 1

    @property
    def says_bits(self) -> bool:
        """Whether it says how many bits a sample has; tifffile takes one where it does not."""
        return _BITS in self.page.tags

    @property
    def contiguous(self) -> bool:
        """Whether its pixels lie in the file one after the other, from its first segment on."""
        return bool(self.page.is_contiguous)

    @property
    def premultiplied(self) -> bool:
        """Whether alpha was multiplied into the colours (TIFF 6.0, ExtraSamples)."""
        extra = self.page.extrasamples
        return bool(extra) and int(extra[0]) == _ASSOCIATED_ALPHA

    @property
    def has_alpha(self) -> bool:
        """Whether the last sample of a pixel is its alpha (TIFF 6.0, ExtraSamples 1 or 2)."""
        extra = self.page.extrasamples
        return bool(extra) and int(extra[-1]) in (1, 2)

    @property
    def is_cmyk(self) -> bool:
        """Whether inks are cyan, magenta, yellow and black (TIFF 6.0 section 16, InkSet)."""
        return int(self.page.tags.valueof(_INK_SET, 1)) == 1

    @property
    def luma(self) -> tuple[float, float, float]:
        """YCbCrCoefficients: what red, green and blue weigh in Y."""
        red, green, blue = self._numbers(_COEFFICIENTS, 3) or (0.299, 0.587, 0.114)
        return red, green, blue

    @property
    def reference(self) -> tuple[float, ...]:
        """ReferenceBlackWhite of three samples; without it all codes, and chroma around 128."""
        return self._numbers(_REFERENCE, 6) or (0, 255, 128, 255, 128, 255)

    def _numbers(self, tag: int, count: int) -> tuple[float, ...]:
        """The numbers of a tag, which may be fractions or not; none where there are not so many."""
        values = self.page.tags.valueof(tag) or ()
        if len(values) == 2 * count:
            return tuple(float(values[n]) / float(values[n + 1]) for n in range(0, 2 * count, 2))
        return tuple(map(float, values)) if len(values) == count else ()

    @property
    def nodata(self) -> float:
        """The value of pixels whose segment was left out: what the file says, and white for Philips, which scans only
        where there is tissue.
        """
        return self.page.nodata or (255 if self.page.parent.is_philips else 0)

    @property
    def depth(self) -> int:
        """ImageDepth: more than 1 for a volume."""
        return int(self.page.imagedepth)

    @property
    def orientation(self) -> int:
        """Orientation, 1 to 8; 1 is upright."""
        value = self.page.tags.valueof(_ORIENTATION, 1)
        first = value[0] if isinstance(value, (bytes, tuple)) and value else value  # bytes where "undefined"
        return int(first) if isinstance(first, int) else 1

    @property
    def icc_profile(self) -> bytes | None:
        """The ICC profile."""
        return bytes_of(self.page.iccprofile)

    @property
    def colormap(self) -> tuple[tuple[int, int, int], ...] | None:
        """The palette as (red, green, blue) by index; its tag has all reds, then all greens, then all blues.

        Where none is above 255, they are of 8 bits and not of 16, as libtiff takes them.
        """
        table = self.page.colormap
        if table is None or np.ndim(table) != 2 or len(table) != 3:  # in a damaged file
            return None
        colors = np.asarray(table).astype(np.int64).T
        wide = 257 if colors.size and 0 <= colors.min() <= colors.max() <= 255 else 1
        return tuple((int(r), int(g), int(b)) for r, g, b in colors * wide)


def bytes_of(value: Any) -> bytes | None:
    """The value of a tag of bytes; None where a damaged file gives it another type."""
    return value if isinstance(value, bytes) else None


def read_page(page: Any, name: str = "") -> Page:
    """What a `tifffile.TiffPage` says, under the name that messages give it."""
    tiled = bool(page.is_tiled)
    size = Size(int(page.imagelength), int(page.imagewidth))
    if tiled:
        cell = Size(int(page.tilelength), int(page.tilewidth))
    else:
        cell = Size(min(int(page.rowsperstrip or size.height), size.height), size.width)
    samples = max(1, int(page.samplesperpixel))
    compression = str(getattr(page.compression, "name", page.compression)).lower()
    compression = _SHORT_NAMES.get(compression, compression)
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    dtype = np.dtype("V1" if page.dtype is None else page.dtype)
    return Page(
        name=name,
        page=page,
        size=size,
        cell=cell,
        tiled=tiled,
        samples=samples,
        planes=samples if int(page.planarconfig or 1) == _SEPARATE else 1,
        dtype=np.dtype(np.uint8) if dtype == np.bool_ else dtype,
        bits=bits,
        compression=compression,
        lossless=compression in LOSSLESS,
        offsets=np.asarray(page.dataoffsets, np.int64),
        counts=np.asarray(page.databytecounts, np.int64),
    )
