"""TIFF files whose segments are written as they come, and whose directories are laid after them.

Where SubIFDs hold the levels, tifffile's writer wants every level of one channel before the first level of the next;
but upper levels come at the end of a run, so nearly the whole output would wait on disk. Offsets may point anywhere, so
segments go to the file in the order in which the engine makes them, and only the directories are in the order that
the format wants.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OutputError
from slidewright.formats.associated import Associated, has_thumbnail, thumbnail_level, thumbnail_of
from slidewright.formats.base import Format, ImageDescription, PackSegment, TakeSegment
from slidewright.formats.flush import Flusher
from slidewright.formats.tiff_directories import (
    CLASSIC_LIMIT,
    ICC_PROFILE,
    IMAGE_LENGTH,
    IMAGE_WIDTH,
    NEW_SUBFILE_TYPE,
    SOFTWARE,
    Directory,
    DirectoryWriter,
    Tags,
    encoding_tags,
    long,
    page_of,
    resolution,
    segment_tables,
    short,
    text,
    undefined,
)
from slidewright.formats.tiff_tags import (
    abbreviator,
    corrections,
    encoding_arguments,
    kept_arguments,
    kept_corrections,
    why_not_kept,
)
from slidewright.geometry import SINGLE, Size
from slidewright.inspection.verify import check_structure, verify_file
from slidewright.report import LevelReport
from slidewright.system.forks import of_this_process
from slidewright.system.interrupts import let_through
from slidewright.tiff.slide import TiffSlide

if TYPE_CHECKING:
    from slidewright.codecs import Encoding
    from slidewright.pyramid.kept import Kept
    from slidewright.pyramid.plan import Key, Level, Plan
    from slidewright.sources.base import Stored

REDUCED = 1  # NewSubfileType's bit 0
_LEAST_SEGMENT = 12  # bytes of the two table entries of a tile
_CORRECTED = {"BitsPerSample": 258, "Compression": 259, "PhotometricInterpretation": 262, "YCbCrSubSampling": 530}


@dataclass(slots=True)
class Written:
    """Where everything in the file is: by level and plane the offsets and lengths of its segments."""

    file: IO[bytes]
    image: ImageDescription
    offsets: list[NDArray[np.uint64]]
    """A level: (planes, tiles)."""
    counts: list[NDArray[np.uint32]]
    kept: tuple[Tags, ...] = ()
    """What says how the segments of level 0, and those above it, are encoded where they are the source's own."""
    associated: list[tuple[Associated, int, int]] = field(default_factory=list)
    """Images beside the levels, with the offset and length of their strip."""

    def tags(self, level: Level, plane: int, encoding: Tags) -> Tags:
        """The tags of one plane of one level, without text."""
        image = self.image
        tags = {
            **(self.kept[level.index] if level.index < len(self.kept) else encoding),
            NEW_SUBFILE_TYPE: long(REDUCED if level.index else 0),
            IMAGE_WIDTH: long(level.size.width),
            IMAGE_LENGTH: long(level.size.height),
            **segment_tables(self.offsets[level.index][plane], self.counts[level.index][plane]),
        }
        if image.mpp is not None:
            x, y = image.mpp
            tags |= resolution((x * (1 << level.index), y * (1 << level.index)))
        if image.icc_profile is not None:
            tags[ICC_PROFILE] = undefined(image.icc_profile)
        return tags


@dataclass(frozen=True, slots=True)
class LaidTiff(Format):
    """What kinds of TIFF whose directories are laid after the segments have in common."""

    bigtiff: bool = True
    """BigTIFF, or a classic TIFF of at most 4 GB."""

    name: ClassVar[str] = "tiff"
    suffixes: ClassVar[tuple[str, ...]] = ()

    thumbnail_is_smallest: ClassVar[bool] = False
    """Whether a thumbnail must be smaller than every level."""

    def thumbnail_level(self, plan: Plan) -> Level | None:
        """The level that a thumbnail is made of; None where that would take too much memory."""
        return thumbnail_level(plan)

    @abstractmethod
    def directories(self, written: Written, encoding: Tags) -> Sequence[Directory]:
        """The main chain; `encoding` are the tags of every plane that say how it is encoded."""

    def keeps(self, stored: Stored) -> str | None:
        """As any TIFF (see `Format`)."""
        return why_not_kept(stored)

    def packer(self, encoding: Encoding) -> PackSegment | None:
        """JPEG tables go into a tag, once (see `Format`)."""
        return abbreviator(encoding) if encoding.compression == "jpeg" else None

    def order(self, plan: Plan) -> Iterator[Key]:
        """Level 0 in the order of the blocks, which hold all planes or one; then level by level (see `Format`)."""
        first = plan.levels[0]
        for band in range(0, plan.planes, plan.band):
            for row in range(first.tiles.height):
                for plane in range(band, band + plan.band):
                    for column in range(first.tiles.width):
                        yield 0, plane, row, column
        for level in plan.levels[1:]:
            for plane, row, column in np.ndindex(plan.planes, *level.tiles):
                yield level.index, plane, row, column

    def wave(self, plan: Plan, key: Key) -> int | None:
        """A row of blocks of level 0 (see `Format`)."""
        level, plane, row, _ = key
        if level:
            return None
        first = plan.passes[0]
        return plane // plan.band * first.blocks.height + row // first.block_tiles

    def write(self, path: str, image: ImageDescription, take: TakeSegment) -> list[int]:
        """See `Format`; OutputError also when the file outgrows classic TIFF."""
        try:
            with of_this_process(open(path, "x+b", buffering=1 << 13)) as file, Flusher(file.fileno()) as flusher:
                file.write(DirectoryWriter.header(big=self.bigtiff))
                written = self._segments(file, image, take, flusher)
                encoding = _encoding_tags(image.encoding)
                for extra in self._extras(written, encoding):
                    strip = extra.encoded()
                    written.associated.append((extra, file.tell(), len(strip)))
                    file.write(strip)
                DirectoryWriter(file, big=self.bigtiff).write(self.directories(written, encoding))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"can't write {path!r}: {error.strerror or error}") from error
        return [int(counts.sum()) for counts in written.counts]

    def check(self, path: str, image: ImageDescription) -> None:
        """See `Format`."""
        check_structure(path, [level.size for level in image.plan.levels], kept=len(image.kept_levels))

    def verify(self, path: str, n_workers: int | None) -> None:
        """See `Format`."""
        verify_file(path, n_workers=n_workers)

    def levels(self, path: str) -> tuple[LevelReport, ...]:
        """See `Format`."""
        with TiffSlide(path) as slide:
            return tuple(
                LevelReport(Size(*pages[0].size), sum(p.n_segments for p in pages), sum(p.bytes for p in pages))
                for pages in slide.planes
            )

    def least_bytes(self, plan: Plan, encoding: Encoding) -> int:
        """See `Format`."""
        return plan.n_tiles * _LEAST_SEGMENT

    def _segments(self, file: IO[bytes], image: ImageDescription, take: TakeSegment, flusher: Flusher) -> Written:
        """Write every segment as it comes, and note where."""
        plan = image.plan
        shapes = [(plan.planes, level.n_tiles) for level in plan.levels]
        offsets = [np.zeros(shape, np.uint64) for shape in shapes]
        counts = [np.zeros(shape, np.uint32) for shape in shapes]
        place = file.tell()
        for key in self.order(plan):
            level, plane, row, column = key
            segment = take(key)
            index = row * plan.levels[level].tiles.width + column
            offsets[level][plane, index] = place if segment else 0  # a tile that the source leaves out
            counts[level][plane, index] = len(segment)
            place += len(segment)
            if not self.bigtiff and place > CLASSIC_LIMIT:
                raise OutputError("the output does not fit in a classic TIFF (4 GB); write a BigTIFF, or compress more")
            file.write(segment)
            flusher.count(len(segment))
        return Written(file, image, offsets, counts, tuple(map(_kept_tags, image.kept_levels)))

    def _extras(self, written: Written, encoding: Tags) -> Iterator[Associated]:
        """What lies beside the levels: a thumbnail first, where one is wanted and can be made."""
        image = written.image
        level = self.thumbnail_level(image.plan) if image.thumbnail and has_thumbnail(image.encoding) else None
        if level is not None:
            pixels, smaller = _decoded(written, level, encoding), self.thumbnail_is_smallest and level.index > 0
            yield thumbnail_of(pixels, lossy=image.encoding.codec.lossy, smaller=smaller)
        yield from image.associated


def _encoding_tags(encoding: Encoding) -> Tags:
    """The tags of one plane."""
    encoding = _one_plane(encoding)
    arguments = {"dtype": encoding.dtype, **encoding_arguments(encoding)}
    tags = encoding_tags(arguments, encoding.tile, encoding.samples)
    for name, value in corrections(encoding).items():
        tags[_CORRECTED[name]] = short(value)
    return tags


def _one_plane(encoding: Encoding) -> Encoding:
    """The encoding of one plane by itself."""
    pixels = replace(encoding.pixels, stack=SINGLE)
    if pixels.planes > 1:
        pixels = replace(pixels, kind="grey", channels=1, colormap=None)
    return replace(encoding, pixels=pixels)


def _kept_tags(kept: Kept) -> Tags:
    """The tags of one plane of another encoder's tiles."""
    kept = replace(kept, filling=_one_plane(kept.filling))
    arguments = {"dtype": kept.filling.dtype, **kept_arguments(kept)}
    tags = encoding_tags(arguments, kept.filling.tile, kept.filling.samples)
    for name, value in kept_corrections(kept).items():
        tags[_CORRECTED[name]] = short(*value) if isinstance(value, tuple) else short(value)
    return tags


def _decoded(written: Written, level: Level, encoding: Tags) -> NDArray[Any]:
    """The pixels of a small level of one plane, read back from the file."""
    plan, file = written.image.plan, written.file
    page = page_of(encoding, plan.tile)
    height, width = level.tiles.height * plan.tile, level.tiles.width * plan.tile
    background = np.array(written.image.encoding.pixels.background, np.uint8)  # of tiles that are not there or damaged
    out = np.full((height, width, written.image.encoding.samples), background, np.uint8)
    end = file.tell()
    for index in range(level.n_tiles):
        file.seek(int(written.offsets[level.index][0, index]))
        data = file.read(int(written.counts[level.index][0, index]))
        row, column = divmod(index, level.tiles.width)
        cell = out[row * plan.tile : (row + 1) * plan.tile, column * plan.tile : (column + 1) * plan.tile]
        try:
            cell[...] = page.decode(data, 0, jpegtables=page.jpegtables)[0][0]
        except Exception as error:  # of a kept tile that does not decode, of which the report warns
            let_through(error)
            cell[...] = background
    file.seek(end)
    return out[: level.size.height, : level.size.width]


def first_tags(image: ImageDescription, description: str | None) -> Tags:
    """What only the first directory says."""
    tags = {SOFTWARE: text(image.software)}
    if description is not None:
        tags |= {270: text(description)}
    return tags
