"""Written TIFF files as info and verify see them: levels, other images, segment tables, one decoded segment.

Apart from the sources because it distrusts the file: before tifffile reads anything, every directory is walked and
every table's declared size is held against the size of the file, so that no hostile count allocates memory.
"""

from __future__ import annotations

import dataclasses
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import SourceError, VerifyError
from slidewright.geometry import Region, Size
from slidewright.tiff.stream_headers import HEAD_BYTES, look

MAX_DIRECTORIES = 65_536
MAX_SEGMENT_BYTES = 1 << 28  # decoded; a 4096-pixel RGB tile of uint16 is 100 MB
LOSSLESS = frozenset({"none", "lzw", "deflate", "zstd", "packbits", "lzma", "packints", "png"})
LOSSLESS |= {"ccitt-t4", "ccitt-t6", "ccittrle"}

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_SUB_IFDS = 330
_SHORT_NAMES = {
    "adobe_deflate": "deflate",
    "pixtiff": "deflate",
    "zstd_deprecated": "zstd",
    "ccittfax3": "ccitt-t4",
    "ccittfax4": "ccitt-t6",
}
_EITHER = frozenset({"jpeg2000", "webp", "jpegxl"})  # the tag does not say whether it is lossless; the stream does


def is_tiff(path: str | os.PathLike[str]) -> bool:
    """Whether a file starts as a classic TIFF or a BigTIFF does."""
    try:
        with open(path, "rb") as file:
            return _layout(file.read(4)) is not None
    except OSError:
        return False


def _layout(magic: bytes) -> tuple[str, bool] | None:
    """(byte order for struct, is BigTIFF) of the first four bytes."""
    return {
        b"II*\0": ("<", False),
        b"MM\0*": (">", False),
        b"II+\0": ("<", True),
        b"MM\0+": (">", True),
    }.get(magic)


def check_directories(path: str | os.PathLike[str]) -> int:
    """Walk every image file directory and check that each table it declares lies inside the file.

    Returns
    -------
    int
        The number of directories, SubIFDs included.

    Raises
    ------
    SourceError
        When the file can't be read or is not a TIFF.
    VerifyError
        When a directory or a table lies outside the file, directories form a loop, or the tables together are larger
        than the file.
    """
    try:
        with open(path, "rb") as file:
            return _Walk(file, os.fspath(path)).run()
    except OSError as error:
        raise SourceError(f"{os.fspath(path)} can't be read: {error.strerror or error}") from error
    except struct.error as error:  # a table of directories with entries of an odd size, or cut short
        raise VerifyError(f"{os.fspath(path)}: a directory makes no sense ({error}); the file is damaged") from error


class _Walk:
    """The walk over the directories of one file."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._bytes = os.fstat(file.fileno()).st_size
        layout = _layout(file.read(4))
        if layout is None:
            raise SourceError(f"{name} is not a TIFF file")
        self._order, self._big = layout
        self._table_bytes = 0
        # Hamamatsu's NDPI is the one format that is a classic TIFF of more than 4 GB: its offsets can't be judged here
        self._judge = self._big or self._bytes < 1 << 32

    def run(self) -> int:
        seen: set[int] = set()
        todo = [self._unpack("Q", 8) if self._big else self._unpack("I", 4)]
        while todo:
            offset = todo.pop()
            while offset:
                if offset in seen:
                    raise VerifyError(
                        f"{self._name}: the directory at byte {offset} is reached twice; the file is damaged"
                    )
                seen.add(offset)
                if len(seen) > MAX_DIRECTORIES:
                    raise VerifyError(f"{self._name}: more than {MAX_DIRECTORIES} directories; this is not a slide")
                offset, children = self._directory(offset)
                todo += children
        if not seen:
            raise VerifyError(f"{self._name}: no image in it; the file was not finished")
        return len(seen)

    def _directory(self, offset: int) -> tuple[int, list[int]]:
        """The offset of the next directory and those of the children of the one at `offset`."""
        count_format, entry_bytes = ("Q", 20) if self._big else ("H", 12)
        entries = self._unpack(count_format, offset)
        start = offset + struct.calcsize("=" + count_format)
        if entries > 65_536 or start + entries * entry_bytes > self._bytes:
            raise VerifyError(
                f"{self._name}: the directory at byte {offset} does not fit in the file; it is cut short or damaged"
            )
        data = self._read(start, entries * entry_bytes)
        children: list[int] = []
        for at in range(0, len(data), entry_bytes):
            children += self._entry(data[at : at + entry_bytes])
        if self._big or self._judge:
            return self._unpack("Q" if self._big else "I", start + len(data)), children
        return self._unpack("Q", start + len(data)), children

    def _entry(self, entry: bytes) -> list[int]:
        """Check one tag; the answer is the directories it points to."""
        code, kind, count = struct.unpack_from(self._order + ("HHQ" if self._big else "HHI"), entry)
        inline = 8 if self._big else 4
        size = count * _TYPE_BYTES.get(kind, 1)
        value = entry[-inline:]
        if size > inline:
            (offset,) = struct.unpack(self._order + ("Q" if self._big else "I"), value)
            self._table_bytes += size
            if self._judge and (offset + size > self._bytes or self._table_bytes > self._bytes):
                raise VerifyError(
                    f"{self._name}: tag {code} declares {size} bytes at byte {offset}, but the file has {self._bytes}; "
                    "it is cut short or damaged"
                )
            if code != _SUB_IFDS or not self._judge:
                return []
            value = self._read(offset, size)
        if code != _SUB_IFDS or not 0 < size <= len(value):
            return []
        return list(struct.unpack(f"{self._order}{count}{'Q' if size == 8 * count else 'I'}", value[:size]))

    def _unpack(self, code: str, offset: int) -> int:
        size = struct.calcsize("=" + code)
        data = self._read(offset, size)
        if len(data) < size:
            raise VerifyError(
                f"{self._name}: no directory at byte {offset}, the file has {self._bytes}; it is cut short or damaged"
            )
        (value,) = struct.unpack(self._order + code, data)
        return int(value)

    def _read(self, offset: int, size: int) -> bytes:
        if offset >= self._bytes:
            return b""
        self._file.seek(offset)
        return self._file.read(size)


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


class TiffSlide:
    """An open TIFF: its levels, largest first, and its other images. A context manager."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        check_directories(path)
        import tifffile

        try:
            self._tiff = tifffile.TiffFile(path, _multifile=False)  # no other file, whatever its OME-XML names
            try:
                self.levels, self.others, self.kind = _sort_pages(self._tiff)
                first = self._tiff.pages.first
                self.software = str(first.software or "")
                self.description = str(first.description or "")
                self.icc_profile: bytes | None = first.iccprofile
                self.bigtiff = bool(self._tiff.is_bigtiff)
            except BaseException:
                self._tiff.close()
                raise
        except (SourceError, VerifyError, OSError):
            raise
        except Exception as error:  # tifffile raises many kinds over a damaged tag
            raise VerifyError(f"{self.path}: tifffile can't read its directories: {error}") from error
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed in close()
        self.bytes = os.fstat(self._file.fileno()).st_size
        self.levels = tuple(map(self._look, self.levels))
        self.others = tuple(map(self._look, self.others))

    def __enter__(self) -> TiffSlide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        self._tiff.close()

    @property
    def ours(self) -> bool:
        """Whether slidewright says it wrote the file: such a file is held to every rule."""
        return self.software.startswith("slidewright")

    def _look(self, page: Page) -> Page:
        """The page, its compression named by its first segment where the tag is the same for two sorts."""
        if page.compression not in _EITHER or not page.counts.any():
            return page
        first = int(np.flatnonzero(page.counts)[0])
        count, offset = min(int(page.counts[first]), HEAD_BYTES), int(page.offsets[first])
        head = os.pread(self._file.fileno(), count, offset) if 0 <= offset < self.bytes else b""
        lossless = look(page.compression, head).lossless
        name = page.compression
        if page.compression == "jpeg2000":
            name += "-lossy" if lossless is False else ""
        elif lossless:
            name += "-lossless"
        # Others may cut a reversible stream short, or code what is no longer the source's pixels.
        return dataclasses.replace(page, compression=name, lossless=bool(lossless) and self.ours)

    def prepare(self, page: Page) -> None:
        """Have tifffile make the decoder of a page: once, here, not in every thread. Raises VerifyError."""
        try:
            _ = page.page.decode, page.page.jpegtables, page.page.jpegheader
        except Exception as error:  # tifffile raises many kinds over a damaged tag
            raise VerifyError(f"{self.path}: {page.name} has tags that make no sense: {error}") from error

    def decode(self, page: Page, index: int) -> NDArray[Any] | None:
        """The pixels of a segment as (height, width, samples), padding included; None for one of 0 bytes.

        Safe to call from several threads. Raises VerifyError, naming the place.
        """
        offset, count = int(page.offsets[index]), int(page.counts[index])
        if not count:
            return None
        data = os.pread(self._file.fileno(), count, offset)
        if len(data) < count:
            raise VerifyError(f"{self.path}: {page.place(index)} ends outside the file")
        self._check_stream(page, index, data)
        options = (
            {"jpegtables": page.page.jpegtables, "jpegheader": page.page.jpegheader} if page.page.jpegtables else {}
        )
        try:
            pixels = page.page.decode(data, index, **options)[0]
        except Exception as error:  # codecs raise errors of their own
            raise VerifyError(f"{self.path}: {page.place(index)} does not decode: {error}") from error
        if pixels is None:
            return None
        found = np.asarray(pixels[0])
        return found.astype(np.uint8, copy=False) if page.bits == 1 else found

    def _check_stream(self, page: Page, index: int, data: bytes) -> None:
        """Refuse an image that says it is far larger than its tile, before a decoder believes it."""
        codec = page.compression.partition("-")[0]
        size = look(codec, data).size
        if size is not None and size.height * size.width > 4 * page.cell.height * page.cell.width + 65_536:
            raise VerifyError(f"{self.path}: {page.place(index)} holds a {codec.upper()} of {size}, not of {page.cell}")


def jpeg_size(data: bytes) -> Size | None:
    """The size in a JPEG's frame header (ITU T.81, B.2.2), or None where there is no such header."""
    return look("jpeg", data).size


def _sort_pages(tiff: Any) -> tuple[tuple[Page, ...], tuple[Page, ...], str]:
    """The levels, the other images and tifffile's word for the kind of file."""
    series = tiff.series[0] if _is_vendor(tiff) and tiff.series else None
    first = series.levels[0].keyframe if series else tiff.pages.first
    if series:
        levels = [level.keyframe for level in series.levels]
        kind = str(series.kind)
    else:
        levels = [first, *(page for page in _all_pages(tiff)[1:] if _is_reduced(page, first))]
        kind = "bigtiff" if tiff.is_bigtiff else "tiff"
    taken = {page.offset for page in levels}
    pages = tuple(_page(page, f"level {number}") for number, page in enumerate(levels))
    if series:
        taken |= {page.offset for level in series.levels for page in level.pages if page is not None}
    others = [(number, page) for number, page in enumerate(_all_pages(tiff)) if page.offset not in taken]
    names = {s.keyframe.offset: str(s.name) for s in tiff.series} if series else {}
    return pages, tuple(_page(page, _other_name(page, number, names)) for number, page in others), kind


def _is_vendor(tiff: Any) -> bool:
    """Whether tifffile knows better than NewSubfileType which pages are levels."""
    if str(tiff.pages.first.software or "").startswith("slidewright"):  # a kept description may look like a vendor's
        return False
    return any(getattr(tiff, f"is_{kind}") for kind in ("svs", "ome", "ndpi", "scn", "philips", "bif", "qpi"))


def _all_pages(tiff: Any) -> list[Any]:
    """Every page of the main chain, and the SubIFDs of the first after it."""
    pages = [tiff.pages[number] for number in range(len(tiff.pages))]
    children = tiff.pages.first.pages
    return pages[:1] + ([children[n] for n in range(len(children))] if children else []) + pages[1:]


def _is_reduced(page: Any, first: Any) -> bool:
    """Whether a page is a smaller version of the first: TIFF 6.0's NewSubfileType bit 0, same kind of pixels."""
    return bool(
        page.subfiletype & 1
        and page.is_tiled
        and page.dtype == first.dtype
        and page.samplesperpixel == first.samplesperpixel
        and not page.subfiletype & 4
        and page.imagelength <= first.imagelength
        and page.imagewidth <= first.imagewidth
    )


def _other_name(page: Any, number: int, names: dict[int, str]) -> str:
    name = names.get(page.offset, "")
    if not name:
        name = str(page.description or "").splitlines()[0][:40] if page.description else ""
    return name.lower() if name.isascii() and name.replace(" ", "").isalnum() else f"page {number}"


def _page(page: Any, name: str) -> Page:
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


def file_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes of a file, or of all files in a folder."""
    root = Path(path)
    if root.is_dir():
        return sum(item.stat().st_size for item in root.rglob("*") if item.is_file())
    return root.stat().st_size
