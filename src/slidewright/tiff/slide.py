"""Written TIFF files as info and verify see them: levels, other images, segment tables, one decoded segment.

Apart from the sources because it distrusts the file: before tifffile reads anything, every directory is walked and
every table's declared size is held against the size of the file, so that no hostile count allocates memory.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import SourceError, VerifyError
from slidewright.geometry import Size
from slidewright.tiff.directories import check_directories
from slidewright.tiff.page import Page, read_page
from slidewright.tiff.stream_headers import HEAD_BYTES, look

MAX_SEGMENT_BYTES = 1 << 28  # decoded; a 4096-pixel RGB tile of uint16 is 100 MB

_EITHER = frozenset({"jpeg2000", "webp", "jpegxl"})  # the tag does not say whether it is lossless; the stream does


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
    pages = tuple(read_page(page, f"level {number}") for number, page in enumerate(levels))
    if series:
        taken |= {page.offset for level in series.levels for page in level.pages if page is not None}
    others = [(number, page) for number, page in enumerate(_all_pages(tiff)) if page.offset not in taken]
    names = {s.keyframe.offset: str(s.name) for s in tiff.series} if series else {}
    return pages, tuple(read_page(page, _other_name(page, number, names)) for number, page in others), kind


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


def file_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes of a file, or of all files in a folder."""
    root = Path(path)
    if root.is_dir():
        return sum(item.stat().st_size for item in root.rglob("*") if item.is_file())
    return root.stat().st_size
