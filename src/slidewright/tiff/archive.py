"""What an archive is: a TIFF cut at its JPEG segments, and the recipe that puts it together again.

The archive holds the pieces of the original in their order, its JPEG segments as JPEG XL. Directories of its own, after
them, make it a TIFF that readers of JPEG XL show; a tag of the first has the recipe. docs/archive.md has the layout.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import SourceError
from slidewright.tiff.jpegxl import joined_of
from slidewright.tiff.page import Page
from slidewright.tiff.slide import TiffSlide

RECIPE = 65428
"""The private tag of the recipe."""
HEADER_BYTES = 16
"""Of a BigTIFF, before the first piece."""
MAX_CELL = 4096
"""Side of the largest tile that is recompressed: libjxl takes some forty bytes a pixel."""

_VERSION = 1
_MAX_RECIPE = 1 << 30
_JPEG = 7
_COLOURS = {"rgb": 3, "ycbcr": 3, "minisblack": 1}
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Cut:
    """The original, cut at its JPEG segments; what lies between these are gaps, one before each and one at the end."""

    size: int
    """Bytes of the original."""
    starts: Numbers
    """Of each segment, in the order of the file; no two overlap."""
    lengths: Numbers
    joins: Numbers
    """Which of `joined` makes the stream whole."""
    joined: tuple[bytes, ...]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def gap_starts(self) -> Numbers:
        """The first byte of each gap."""
        return np.concatenate([[0], self.starts + self.lengths])

    @property
    def gaps(self) -> Numbers:
        """Bytes of each gap."""
        return np.concatenate([self.starts, [self.size]]) - self.gap_starts


@dataclass(frozen=True, eq=False, slots=True)
class Recipe:
    """How an archive becomes its original."""

    cut: Cut
    stored: Numbers
    """Bytes of each segment in the archive."""
    recompressed: NDArray[np.bool_]
    """Which segments are JPEG XL; the others are as they were."""
    sha256: str
    """Of the whole original."""

    @property
    def segment_places(self) -> Numbers:
        """The byte of each segment in the archive."""
        return HEADER_BYTES + np.cumsum(self.cut.gaps[:-1]) + np.cumsum(self.stored) - self.stored

    @property
    def gap_places(self) -> Numbers:
        """The byte of each gap in the archive."""
        return np.concatenate([[HEADER_BYTES], self.segment_places + self.stored])

    @property
    def end(self) -> int:
        """The byte behind the last piece."""
        return HEADER_BYTES + int(self.cut.gaps.sum() + self.stored.sum())

    def packed(self) -> bytes:
        """As the tag has it: a line of JSON and the tables, deflated."""
        cut = self.cut
        head = {
            "version": _VERSION,
            "bytes": cut.size,
            "sha256": self.sha256,
            "segments": len(cut),
            "joined": [base64.b64encode(each).decode() for each in cut.joined],
        }
        tables = (cut.gaps.astype("<u8"), *(table.astype("<u4") for table in self._tables))
        return zlib.compress(json.dumps(head).encode() + b"\n" + b"".join(table.tobytes() for table in tables), 6)

    @property
    def _tables(self) -> tuple[NDArray[Any], ...]:
        return self.cut.lengths, self.stored, self.cut.joins, self.recompressed


def is_archive(slide: TiffSlide) -> bool:
    """Whether a TIFF is an archive."""
    return slide.has_tag(RECIPE)


def read_recipe(path: str) -> Recipe:
    """The recipe of an archive; raises SourceError for what is none, or is damaged."""
    with TiffSlide(path) as slide:
        if not is_archive(slide):
            raise SourceError(f"{path} is no archive, which convert makes with archive 'jpegxl'; nothing to restore")
        data, size = slide.directories[0].tags[RECIPE][2], slide.bytes
    try:
        recipe = _unpacked(data)
    except Exception as error:  # it can be anything
        raise SourceError(f"{path}: the recipe of the archive is damaged ({error}); copy the archive again") from error
    if recipe.end > size:
        raise SourceError(f"{path}: its pieces end at byte {recipe.end}, the file at {size}; copy the archive again")
    return recipe


def _unpacked(data: bytes) -> Recipe:
    inflated = zlib.decompressobj()
    line, _, rest = inflated.decompress(data, _MAX_RECIPE).partition(b"\n")
    head = json.loads(line)
    if head["version"] != _VERSION:
        raise ValueError(f"it is of version {head['version']}, and known is {_VERSION}; update slidewright")
    number, joined = int(head["segments"]), tuple(base64.b64decode(each) for each in head["joined"])
    wide = 8 * (number + 1)
    gaps = np.frombuffer(rest[:wide], "<u8").astype(np.int64)
    lengths, stored, joins, recompressed = np.frombuffer(rest[wide:], "<u4").astype(np.int64).reshape(4, number)
    size = int(head["bytes"])
    if len(gaps) != number + 1 or (gaps < 0).any() or (gaps > size).any() or (joins >= len(joined)).any():
        raise ValueError("its tables make no sense")
    if int(gaps.sum() + lengths.sum()) != size or number >= 1 << 32:
        raise ValueError("its pieces are not the whole")
    starts = np.cumsum(gaps[:-1]) + np.cumsum(lengths) - lengths
    cut = Cut(size, starts, lengths, joins, joined)
    return Recipe(cut, stored, recompressed.astype(bool), str(head["sha256"]))


def cut_of(slide: TiffSlide) -> tuple[Cut, frozenset[int]]:
    """Where to cut a file, and which of its directories, in the order of `walk`, have their segments recompressed."""
    pages = [each.page for top in slide.directories for each in top.walk()]
    chosen = {number for number, page in enumerate(pages) if _fits(page, slide.bytes)}
    while True:
        cut, clashing = _cut(pages, sorted(chosen), slide.bytes)
        if not clashing:
            return cut, frozenset(chosen)
        chosen -= clashing


def _fits(page: Page, size: int) -> bool:
    """Whether the segments of a page are plain JPEGs, all of them inside the file."""
    if page.compression != "jpeg":
        return False
    plain = int(page.page.compression) == _JPEG and page.is_plain_jpeg and len(page.offsets) == len(page.counts)
    if not plain or _COLOURS.get(page.photometric) != page.samples or max(page.cell) > MAX_CELL:
        return False
    there = (page.offsets >= HEADER_BYTES // 2) & (page.counts >= 0) & (page.offsets + page.counts <= size)
    return bool(page.counts.any() and (there | (page.counts == 0)).all())


def _cut(pages: list[Page], chosen: list[int], size: int) -> tuple[Cut, set[int]]:
    """The cut along the segments of the chosen pages, and those of them that share bytes with what is not like them."""
    joined: list[bytes] = []
    rows = [np.empty((0, 4), np.int64)]
    for number, page in enumerate(pages):
        join = -1
        if number in chosen:
            made = joined_of(page)
            joined += [] if made in joined else [made]
            join = joined.index(made)
        used = page.counts > 0
        if len(used) != len(page.offsets):  # tables that make no sense
            continue
        places = np.stack([page.offsets[used], page.counts[used]], 1)
        rows.append(np.column_stack([places, np.full(len(places), join), np.full(len(places), number)]))
    table = np.concatenate(rows)
    table = table[np.lexsort(table.T[::-1])]
    _, first = np.unique(table[:, :3], axis=0, return_index=True)
    found = table[np.sort(first)]  # a segment that several tiles share is one
    reach = np.maximum.accumulate(found[:, 0] + found[:, 1]) if len(found) else found[:, 0]
    touching = np.zeros(len(found), bool)
    touching[1:] = found[1:, 0] < reach[:-1]
    touching[:-1] |= touching[1:]
    clashing = {int(number) for number in found[touching & (found[:, 2] >= 0)][:, 3]}
    mine = found[found[:, 2] >= 0]
    return Cut(size, mine[:, 0], mine[:, 1], mine[:, 2], tuple(joined)), clashing


def hasher() -> Any:
    """The hash of originals."""
    return hashlib.sha256()
