"""One image of a TIFF as a value: its size, grid, compression and segment tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.geometry import Region, Size

LOSSLESS = frozenset({"none", "lzw", "deflate", "zstd", "packbits", "lzma", "packints", "png"})
LOSSLESS |= {"ccitt-t4", "ccitt-t6", "ccittrle"}
_SHORT_NAMES = {
    "adobe_deflate": "deflate",
    "pixtiff": "deflate",
    "zstd_deprecated": "zstd",
    "ccittfax3": "ccitt-t4",
    "ccittfax4": "ccitt-t6",
}


@dataclass(frozen=True, eq=False, slots=True)
class Page:
    """One image of a file: a level of the pyramid, or another image beside it."""

    name: str
    """How to call it in a message: "level 2", "label", "page 3"."""
    page: Any
    """The `tifffile.TiffPage`."""
    size: Size
    cell: Size
    """Tile, or strip, in pixels."""
    tiled: bool
    samples: int
    planes: int
    """1, or the number of samples when each sample is a plane of its own."""
    dtype: np.dtype[Any]
    """Of decoded pixels; single bits decode to uint8 of 0 and 1."""
    bits: int
    """Bits a sample in the file."""
    compression: str
    """By the name that `convert` gives it, or tifffile's."""
    lossless: bool
    """Whether the codec gives back exactly what it was given, as far as tag and stream say."""
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def masks(self) -> bool:
        """Whether pixels are labels or bits, of which no mean can be made."""
        return int(self.page.photometric) == 3 or self.bits == 1

    @property
    def bytes(self) -> int:
        """Encoded bytes of all segments."""
        return int(self.counts.sum())

    @property
    def grid(self) -> Size:
        """Rows and columns of tiles (or strips)."""
        return Size(-(-self.size.height // self.cell.height), -(-self.size.width // self.cell.width))

    @property
    def n_segments(self) -> int:
        """Segments that the size and the tile size ask for."""
        return self.grid.height * self.grid.width * self.planes

    def place(self, index: int) -> str:
        """Where a segment is, for a message: "level 0, tile at row 3, column 4"."""
        plane, index_in_plane = divmod(index, max(1, self.grid.height * self.grid.width))
        row, column = divmod(index_in_plane, self.grid.width)
        where = f"tile at row {row}, column {column}" if self.tiled else f"strip {index_in_plane}"
        return f"{self.name}, {f'channel {plane}, ' if self.planes > 1 else ''}{where}"

    def tiles_in(self, region: Region) -> Iterator[tuple[int, Region]]:
        """(index, pixels of the region) for each tile that a region touches."""
        for row in range(region.y // self.cell.height, -(-(region.y + region.height) // self.cell.height)):
            for column in range(region.x // self.cell.width, -(-(region.x + region.width) // self.cell.width)):
                top, left = max(region.y, row * self.cell.height), max(region.x, column * self.cell.width)
                bottom = min(region.y + region.height, (row + 1) * self.cell.height)
                right = min(region.x + region.width, (column + 1) * self.cell.width)
                yield row * self.grid.width + column, Region(top, left, bottom - top, right - left)


def read_page(page: Any, name: str) -> Page:
    """What a `tifffile.TiffPage` says, under the name that messages give it."""
    tiled = bool(page.is_tiled)
    size = Size(int(page.imagelength), int(page.imagewidth))
    cell = (
        Size(int(page.tilelength), int(page.tilewidth))
        if tiled
        else Size(int(page.rowsperstrip or size.height), size.width)
    )
    samples = max(1, int(page.samplesperpixel))
    compression = str(getattr(page.compression, "name", page.compression)).lower()
    compression = _SHORT_NAMES.get(compression, compression)
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    dtype = np.dtype(page.dtype) if page.dtype is not None else np.dtype("V1")
    return Page(
        name=name,
        page=page,
        size=size,
        cell=Size(max(1, min(cell.height, max(1, size.height)) if not tiled else cell.height), max(1, cell.width)),
        tiled=tiled,
        samples=samples,
        planes=samples if int(page.planarconfig or 1) == 2 else 1,
        dtype=np.dtype(np.uint8) if bits == 1 else dtype,
        bits=bits,
        compression=compression,
        lossless=compression in LOSSLESS,
        offsets=np.asarray(page.dataoffsets, np.int64),
        counts=np.asarray(page.databytecounts, np.int64),
    )
