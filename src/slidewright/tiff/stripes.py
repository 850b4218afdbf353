"""The stripes of a Hamamatsu NDPI, joined to square JPEGs without decoding them.

A level of an NDPI is one JPEG of any size, cut by restart markers into stripes one MCU high (mostly 2048 x 8 pixels),
and its McuStarts tag says where each begins. No stripe depends on another (ITU T.81, E.2.4): those below each other are
a JPEG of their own as soon as the header has its size and the markers between them are counted from 0 again. Nothing
is coded anew, so the coefficients, and even the coded bits, are the scanner's.
"""

from __future__ import annotations

from slidewright.errors import CorruptTileError, SourceError
from slidewright.geometry import Size
from slidewright.system.pixel_file import PixelFile
from slidewright.tiff.jpeg_header import is_damaged
from slidewright.tiff.page import Page
from slidewright.tiff.stream_headers import HEAD_BYTES, look

MAX_SIDE = 4096
_MAX_JPEG_SIDE = 65_500
"""Of libjpeg, and of OpenSlide, which asks no JPEG of a larger page for its size: Hamamatsu writes 0 there, or less."""
_STRIP_OFFSETS, _SOURCE_LENS = 273, 65421
_END = b"\xff\xd9"


def joined_size(page: Page) -> Size | None:
    """The size of tiles that the stripes of a page join to, square where they can be; None for another kind of page."""
    width, height = page.cell.width, page.cell.height
    striped = page.jpeg_header is not None and page.is_jpeg and page.planes == 1 and page.samples in (1, 3)
    if not striped or page.bits != 8 or height > 32 or width % height or page.size.width % width:
        return None
    return Size(width if width <= MAX_SIDE else 512, width)


def check_size(page: Page, file: PixelFile) -> None:
    """Hold the size of an NDPI's level against that of its JPEG and the number of its stripes, where they are known.

    Raises
    ------
    SourceError
        When it is another: stripes would lie in wrong places, or some would be missing.
    """
    header = page.jpeg_header or b""
    one_jpeg = page.page.is_ndpi and page.is_jpeg and (header or (page.n_segments == 1 and not page.tiled))
    lens = page.page.tags.valueof(_SOURCE_LENS) if one_jpeg else None
    if not isinstance(lens, float) or lens <= 0:
        return
    where = f"{file.path}: page {page.page.index}"
    start = int(page.page.tags.valueof(_STRIP_OFFSETS)[0])
    size = look("jpeg", file.read(start, max(HEAD_BYTES, len(header)))).size
    if size is not None and min(size) > 0 and max(page.size) <= _MAX_JPEG_SIDE and size != page.size:
        raise SourceError(
            f"{where} is of {page.size} pixels by its tags, and of {size} by its JPEG; the file is damaged, copy it "
            "again"
        )
    if header and len(page.offsets) != page.n_segments:
        raise SourceError(
            f"{where} is of {page.size} pixels, {page.n_segments} stripes of {page.cell}, and lists "
            f"{len(page.offsets)} (McuStarts); the file is damaged, copy it again"
        )


class Stripes:
    """The stripes of one page.

    Parameters
    ----------
    page
        A page that `joined_size` has an answer for.
    file
        Where the bytes are.
    """

    def __init__(self, page: Page, file: PixelFile) -> None:
        assert page.jpeg_header is not None
        self._page, self._file = page, file
        self._header = page.jpeg_header
        if is_damaged(self._header):
            raise CorruptTileError(f"{file.path}: {page.name or 'level 0'} has a damaged JPEG header; copy it again")
        self._frame = _frame_at(self._header)

    def join(self, row: int, column: int, height: int, *, all_of_it: bool = True) -> bytes:
        """The JPEG of a tile of this height, at a place in the grid of such tiles; below the image, the last stripe
        again. Without `all_of_it`, a stripe that is not to be had has no bits, and decoders go on at the next.

        Raises
        ------
        CorruptTileError
            When a stripe lies outside the file, or does not end where the next one begins.
        """
        page, stripe = self._page, self._page.cell.height
        size = height.to_bytes(2) + page.cell.width.to_bytes(2)
        parts = [self._header[: self._frame], size, self._header[self._frame + 4 :]]
        for number in range(height // stripe):
            line = min(row * height // stripe + number, page.grid.height - 1)
            parts.append(self._scan(page.index(line, column), all_of_it))
            parts.append(b"\xff" + bytes([0xD0 + number % 8]))
        parts[-1] = _END
        return b"".join(parts)

    def _scan(self, index: int, all_of_it: bool) -> bytes:
        """The coded bits of a stripe, without the marker that ends it."""
        offset, count = int(self._page.offsets[index]), int(self._page.counts[index])
        data = self._file.read(offset, count) if 0 < count <= self._file.nbytes - offset and offset > 0 else b""
        if data and len(data) < count:  # it has become shorter since it was opened, or the disk gives less of it
            raise CorruptTileError(
                f"{self._file.path}: {self._page.place(index)} (a stripe) ends outside the file; the file is cut "
                "short, copy it again"
            )
        last = index == self._page.n_segments - 1
        if last and (end := data.rfind(_END)) >= 0 and not data[end + 2 :].strip(b"\xff"):
            return data[:end]
        if data[-2:-1] == b"\xff" and 0xD0 <= data[-1] <= 0xD7:
            return data[:-2]
        if not all_of_it:
            return b""
        marker = "the marker of an end" if last else "a restart marker"
        raise CorruptTileError(
            f"{self._file.path}: {self._page.place(index)} (a stripe) does not end in {marker}; the file is damaged, "
            "copy it again"
        )


def _frame_at(header: bytes) -> int:
    """Where the height stands in a JPEG's header (ITU T.81, B.2.2)."""
    at = 2
    while header[at + 1] != 0xC0:  # tifffile found one
        at += 2 + int.from_bytes(header[at + 2 : at + 4])
    return at + 5
