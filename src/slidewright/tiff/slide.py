"""An open TIFF: its levels, the images beside them, its metadata and its segments; the one reader of TIFF files.

It distrusts the file: before tifffile reads anything, every directory is walked and every table's declared size is
held against the size of the file, so that no hostile count allocates memory.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from slidewright.errors import SlidewrightError, SourceError, VerifyError
from slidewright.metadata import Metadata
from slidewright.selection import Selection
from slidewright.system.file_identity import seen_as
from slidewright.system.interrupts import let_through
from slidewright.system.pixel_file import PixelFile
from slidewright.system.remote_file import RemoteFile, is_url
from slidewright.tiff import series as layout
from slidewright.tiff.directories import check_directories
from slidewright.tiff.left_out import left_out_of
from slidewright.tiff.metadata import description_of, mpp_of
from slidewright.tiff.page import Page, TiledImage, bytes_of, read_page
from slidewright.tiff.raw import RawDirectory, RawTags, raw_directory
from slidewright.tiff.segments import Segments
from slidewright.tiff.series import Image
from slidewright.tiff.stream_headers import HEAD_BYTES, look
from slidewright.tiff.vendor_metadata import metadata_of, own_kind

_EITHER = frozenset({"jpeg2000", "webp", "jpegxl"})  # the tag does not say whether it is lossless; the stream does
_KEPT_MARK = re.compile(r", levels? 0(?: to (\d{1,3}))? as in its source$")
"""At the end of Software: the tiles of these levels are another encoder's."""
_APERIO_YCBCR = 33003  # JPEG 2000 whose colours tifffile leaves as YCbCr
_ENTRY = 20  # bytes of a tag in a directory of BigTIFF
_TIMES = 4  # that a directory and its tables may be in the file


def kept_mark(levels: int) -> str:
    """What Software says where so many levels, from level 0 on, have the source's tiles."""
    if not levels:
        return ""
    return ", level 0 as in its source" if levels == 1 else f", levels 0 to {levels - 1} as in its source"


def kept_levels(software: str) -> int:
    """Of how many levels, from level 0 on, Software says so."""
    found = _KEPT_MARK.search(software)
    return 0 if found is None else 1 + int(found[1] or 0)


class TiffSlide:
    """An open TIFF. A context manager.

    Raises
    ------
    SourceError
        When the file can't be read or is not a TIFF.
    VerifyError
        When its directories are damaged, here or at the first use of a part of it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.seen = seen_as(path)
        remote = RemoteFile(self.path) if is_url(self.path) else None
        stream = None if remote is None else remote.stream()
        directories = check_directories(path, stream)
        if stream is not None:
            stream.seek(0)
        import tifffile

        with damage_named(self.path, VerifyError):
            self._tiff = tifffile.TiffFile(stream or path, _multifile=False)  # no other, whatever its OME-XML names
            try:
                layout.prepare(self._tiff, directories)
                first = self._tiff.pages.first
                self.software = str(first.software or "")
                self.description = str(first.description or "")
                self.icc_profile = bytes_of(first.iccprofile)
                self.bigtiff = bool(self._tiff.is_bigtiff)
                self.vendor = layout.vendor(self._tiff)
                if self._tiff.is_ome:
                    layout.check_planes(self._tiff, self.path)
                self.is_aperio_ycbcr = self.vendor == "svs" and int(first.compression) == _APERIO_YCBCR
                self.file = remote or PixelFile(self.path)
            except BaseException:
                self._tiff.close()
                raise
        self.bytes = self.file.nbytes

    def __enter__(self) -> TiffSlide:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        self._tiff.close()

    @property
    def ours(self) -> bool:
        """Whether slidewright says it wrote the file: such a file is held to every rule."""
        return layout.is_ours(self._tiff)

    @property
    def kept(self) -> int:
        """Of how many levels, from level 0 on, slidewright says that the tiles are those of its source."""
        return kept_levels(self.software) if self.ours else 0

    @property
    def kind(self) -> str:
        """A word for the kind of file: tifffile's for a vendor's, else "tiff" or "bigtiff"."""
        if self.vendor and self._tiff.series:
            return str(self._tiff.series[0].kind)
        return "bigtiff" if self.bigtiff else "tiff"

    @cached_property
    def levels(self) -> tuple[Page, ...]:
        """The levels of the largest series, largest first."""
        with damage_named(self.path, VerifyError):
            found = enumerate(self._levels)
            return tuple(self.look(read_page(level.keyframe, f"level {number}")) for number, level in found)

    @cached_property
    def planes(self) -> tuple[tuple[Page, ...], ...]:
        """Every page of each level: more than one where channels are images of their own."""
        with damage_named(self.path, VerifyError):
            found = []
            for first, level in zip(self.levels, self._levels, strict=True):
                word = "plane" if {*level.axes} & {*"ZT"} else "channel"
                others = enumerate(layout.channels_of(level), 1)
                pages = (read_page(page, f"{first.name}, {word} {number}") for number, page in others)
                found.append((first, *map(self.look, pages)))
            return tuple(found)

    @cached_property
    def _levels(self) -> list[Any]:
        return layout.levels_of(self._tiff, layout.default_series(self._tiff))

    @property
    def pages(self) -> tuple[Page, ...]:
        """Every page: of each level all channels, then the images beside them."""
        return (*(page for level in self.planes for page in level), *self.others)

    @cached_property
    def others(self) -> tuple[Page, ...]:
        """The images beside the levels: label, macro, thumbnail, and what has no name."""
        with damage_named(self.path, VerifyError):
            return tuple(map(self.look, layout.other_pages(self._tiff)[0]))

    @cached_property
    def directories(self) -> tuple[RawDirectory, ...]:
        """Every directory of the main chain as it is, with those below it."""
        with damage_named(self.path, VerifyError):
            return tuple(raw_directory(page, self.file) for page in layout.main_pages(self._tiff))

    @property
    def copies(self) -> tuple[list[RawTags], list[RawTags]]:
        """Tags of the directories of the main chain that show a level once more, and of the levels below the first."""
        with damage_named(self.path, VerifyError):
            shown = {page.page.offset for page in self.pages}
            first, *others = layout.main_pages(self._tiff)
            copies = [raw_directory(page, self.file).tags for page in others if page.offset not in shown]
            return copies, [child.tags for child in raw_directory(first, self.file).children]

    @property
    def spare_bytes(self) -> int:
        """How many bytes of the file no directory tells the purpose of, beside tables that may have been written anew:
        GDAL leaves the old ones.
        """
        with damage_named(self.path, VerifyError):
            told, todo = 0, list(layout.main_pages(self._tiff))
            while todo:
                page = todo.pop().aspage()
                tables = 2 * 8 * len(page.databytecounts) + sum(_ENTRY + tag.valuebytecount for tag in page.tags)
                told += sum(page.databytecounts) + _TIMES * tables
                todo += page.pages or ()
            return self.bytes - told

    def has_tag(self, code: int) -> bool:
        """Whether the first directory has a tag."""
        return code in self._tiff.pages.first.tags

    @property
    def associated(self) -> tuple[str, ...]:
        """Names of the images beside the levels, as the vendor's layout or their own description names them."""
        with damage_named(self.path, VerifyError):
            pages, names = layout.other_pages(self._tiff)
            known = names if self.vendor not in ("", "ome", "qpi") else layout.ASSOCIATED
            return tuple(page.name for page in pages if page.name in known)

    @property
    def default_series(self) -> int:
        """The number of the series whose image is the largest."""
        with damage_named(self.path, VerifyError):
            return layout.default_series(self._tiff)

    @property
    def other_images(self) -> list[int]:
        """The numbers of the other series that are images as the default one is."""
        with damage_named(self.path, VerifyError):
            return layout.other_images(self._tiff)

    @property
    def focal_planes(self) -> int:
        """How many planes the largest series has along z."""
        with damage_named(self.path, VerifyError):
            series = self._tiff.series[layout.default_series(self._tiff)]
            return int(dict(zip(series.axes, series.shape, strict=True)).get("Z", 1))

    def image(self, chosen: Selection) -> Image:
        """One image: a page by its number, or a level of a series, or one plane of that.

        Raises
        ------
        OptionError
            When there is no such page, series, level, plane or time.
        SourceError
            When it is no single image, such as a stack.
        """
        with damage_named(self.path, VerifyError):
            if chosen.page is not None:
                return Image((read_page(layout.pick(self._tiff.pages, chosen.page, "page", self.path).aspage()),))
            return layout.image_of(self._tiff, self.path, chosen)

    def owner(self, page: Page) -> tuple[int, Page]:
        """The series that a page is of, and its full-size page; -1 and the page itself where it is of none."""
        with damage_named(self.path, VerifyError):
            if self.vendor:
                series, first = layout.owner_of(self._tiff, page.page)
                return series, read_page(first)
            reduced = self.ours and page.page.offset in [level.page.offset for level in self.levels]
            return 0, self.levels[0] if reduced else page

    def first_page(self, series: int) -> Page:
        """The first page of a series."""
        with damage_named(self.path, VerifyError):
            return read_page(self._tiff.series[series].keyframe)

    def mpp(self, page: Page, series: int = 0) -> tuple[float, float] | None:
        """Micrometres a pixel along (x, y) of a full-size page of a series, or None where nothing states them."""
        with damage_named(self.path, VerifyError):
            return mpp_of(self._tiff, page.page, self._described(series))

    def left_out(self, page: Page, series: int, mpp: tuple[float, float] | None) -> tuple[str, ...]:
        """What the file says of a series that a conversion does not pass on, as clauses; with its full-size page."""
        with damage_named(self.path, VerifyError):
            return left_out_of(self._tiff, page.page, self._described(series), mpp)

    def description_of(self, page: Page) -> str | None:
        """The page's ImageDescription, unless it describes the layout of the very file."""
        return description_of(self._tiff, page.page)

    def metadata(self, page: Page, series: int = 0) -> Metadata:
        """What the file says of optics, instrument and channels of a series, and what of it may identify."""
        with damage_named(self.path, VerifyError):
            return metadata_of(self._tiff, page.page, self._described(series), self.vendor)

    @property
    def noted_kind(self) -> str | None:
        """What slidewright noted of pixels that a TIFF takes for greys: "labels", "binary", or None."""
        with damage_named(self.path, VerifyError):
            return own_kind(self._tiff, self.description) if self.ours else None

    def _described(self, series: int) -> int:
        """The number by which the file's own description knows a series."""
        return layout.described_in(self._tiff, series) if self._tiff.is_ome else series

    def segments(self, page: TiledImage, error: type[SlidewrightError] = VerifyError) -> Segments:
        """The segments of a page, which raise `error` for a damaged one."""
        assert isinstance(page, Page)
        try:
            return Segments(page, self.file, error)
        except SlidewrightError:
            raise
        except Exception as problem:  # tifffile raises many kinds over a damaged tag
            let_through(problem)
            raise VerifyError(f"{self.path}: {page.name} has tags that make no sense: {problem}") from problem

    def head(self, page: Page) -> bytes:
        """The first bytes of the first segment that a page has; nothing where it has none."""
        if not page.counts.any():
            return b""
        index = int(page.counts.nonzero()[0][0])
        offset, count = int(page.offsets[index]), min(HEAD_BYTES, int(page.counts[index]))
        return self.file.read(offset, count) if 0 <= offset < self.bytes else b""

    def look(self, page: Page) -> Page:
        """The page, its compression named by its first segment where the tag is the same for two sorts."""
        if page.compression not in _EITHER or not page.counts.any():
            return page
        stream = look(page.compression, self.head(page))
        lossless, name = stream.lossless, page.compression
        if page.compression == "jpeg2000":
            exact = "htj2k" if stream.high_throughput else name
            name = f"{name}-lossy" if lossless is False else exact
        elif lossless:
            name += "-lossless"
        # Others may cut a reversible stream short, or code what is no longer the source's pixels.
        return dataclasses.replace(page, compression=name, lossless=bool(lossless) and self.ours)


@contextmanager
def damage_named(path: str, error: type[SlidewrightError]) -> Iterator[None]:
    """What tifffile raises over a damaged tag becomes an error of ours."""
    try:
        yield
    except (SlidewrightError, MemoryError):
        raise
    except OSError as problem:
        let_through(problem)
        raise SourceError(f"{path} can't be read: {problem.strerror or problem}") from problem
    except NotImplementedError as problem:
        raise error(f"{path} is stored in a way that can't be read ({problem}); save it again in another") from problem
    except Exception as problem:
        let_through(problem)
        raise error(f"{path}: its TIFF directories can't be read ({problem}); the file is damaged") from problem


def vendor_of(slide: TiffSlide) -> str:
    """The kind of file, by its first page alone: one of `series.VENDORS`, "aperio-ycbcr", "trestle" or ""."""
    if slide.is_aperio_ycbcr:
        return "aperio-ycbcr"
    return "trestle" if slide.software.startswith("MedScan") else slide.vendor
