"""The pyramid as an OME-Zarr: a folder with an array a level, whose chunks are the tiles.

NGFF 0.5 on zarr v3, sharded, or NGFF 0.4 on zarr v2. The folder gets its name when all of it is on the disk, so nobody
sees a part of it.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import math
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, ClassVar

import numpy as np

from slidewright.codecs import resolve
from slidewright.errors import DestinationError, OptionError, OutputError
from slidewright.formats import ome_zarr_metadata as metadata
from slidewright.formats.base import Format, ImageDescription, TakeSegment
from slidewright.formats.zarr_blocks import LevelFiles, Receipt, ZarrBlocks, fills, link
from slidewright.formats.zarr_images import image_name, whole_stream, why_not_kept
from slidewright.formats.zarr_json import has_json, list_label, mark_series, write_json
from slidewright.formats.zarr_shard import PlaneWriter, Syncer
from slidewright.geometry import Size
from slidewright.inspection.verify import check_structure, verify_file
from slidewright.inspection.zarr_pyramid import ZarrPyramid, is_zarr
from slidewright.options import DEFAULTS
from slidewright.pixels import MASKS
from slidewright.report import LevelReport
from slidewright.system.files import make_below, regular, sync_folder

if TYPE_CHECKING:
    from slidewright.codecs import Encoding
    from slidewright.options import ConvertOptions
    from slidewright.pixels import PixelFormat
    from slidewright.pyramid.block_files import BlockFiles, SharedFolder
    from slidewright.pyramid.kept import Kept
    from slidewright.pyramid.plan import Key, Level, Plan
    from slidewright.sources.base import Stored

SHARD_BYTES = 32 << 20
"""A default shard has at most about so many encoded bytes."""
_METADATA = (("zarr.json",), (".zgroup", ".zattrs"))
"""Files of a group that only zarr v3 has, and those that only v2 has."""
_SAMPLED_CHUNKS = 16  # of the last level, for the windows of channels


@dataclass(frozen=True, slots=True)
class OmeZarrFormat(Format):
    """An OME-Zarr image, or label image."""

    shard: int | None = None
    """Chunks a side of a shard, at most; 0 for none, None for what makes shards of about `SHARD_BYTES`."""
    ngff: str = "0.5"
    workers_write: bool = False
    """Whether who encodes a block writes the files that it fills."""
    shared: SharedFolder | None = None
    """Where those of the first pass are written when they belong to shards."""

    name: ClassVar[str] = "ome-zarr"
    suffixes: ClassVar[tuple[str, ...]] = (".ome.zarr", ".zarr")
    is_folder: ClassVar[bool] = True
    holds_stacks: ClassVar[bool] = True
    shown_everywhere: ClassVar[tuple[str, ...]] = ("zstd",)
    holds_gaps: ClassVar[bool] = False  # what is left out is the background here

    @classmethod
    def from_options(cls, options: ConvertOptions) -> OmeZarrFormat:
        """See `Format`."""
        refuse_tiff_options(options)
        if options.ngff == "0.4" and options.zarr_shard:
            raise OptionError("NGFF 0.4 is stored as zarr v2, which has no shards; leave zarr_shard out, or make it 0")
        return cls(0 if options.ngff == "0.4" else options.zarr_shard, options.ngff or "0.5")

    def encoding(self, options: ConvertOptions, pixels: PixelFormat) -> Encoding:
        """See `Format`: zarr has neither TIFF's predictor nor pixels of single bits, and samples are sorted in a chunk,
        but for those of an image: GDAL and Viv don't read chunks whose samples lie side by side (docs/ome-zarr.md).
        """
        encoding = resolve(options, pixels, "zarr")
        if self.ngff == "0.4" and image_name(encoding.compression):
            raise OptionError(
                f"compression {encoding.compression!r} needs NGFF 0.5 (zarr v3); leave ngff out, or choose zstd"
            )
        return replace(encoding, planar=image_name(encoding.compression) is None)

    def warning(self, encoding: Encoding) -> str | None:
        """See `Format`."""
        name = image_name(encoding.compression)
        return name and (
            f"chunks of {encoding.compression} are an experiment: zarr has no such codec yet, and few readers know "
            f"{name!r} (in Python: pip install imagecodecs-zarr)"
        )

    def no_place(self, image: ImageDescription) -> tuple[str, ...]:
        """See `Format`: what a viewer shows as colours has channels that are named for these, and labels have none."""
        if image.encoding.pixels.kind not in ("rgb", "rgba", *MASKS) or not image.metadata.tells_of_channels:
            return ()
        return ("name and colour of its channel, for which colours and labels have no place in NGFF",)

    def keeps(self, stored: Stored) -> str | None:
        """See `Format`."""
        return why_not_kept(stored) if self.ngff == "0.5" else "the chunks of zarr v2 have their samples sorted"

    def by_blocks(self, shared: SharedFolder | None = None) -> OmeZarrFormat:
        """See `Format`."""
        return replace(self, workers_write=True, shared=shared)

    def block_files(self, path: str | None, image: ImageDescription) -> BlockFiles | None:
        """See `Format`."""
        if not self.workers_write:
            return None
        levels = {}
        for level in image.plan.levels:
            shared = self._shared_at(image.plan, level)
            root = shared.path if shared is not None else path
            files = None if root is None else self._files(root, image, level, shared)
            if files is not None and fills(image.plan, level.index, files.side):
                levels[level.index] = files
        return ZarrBlocks(levels) if levels else None

    def _shared_at(self, plan: Plan, level: Level) -> SharedFolder | None:
        """Where files of a level that blocks fill are, if they belong to shards."""
        return self.shared if level.index <= plan.passes[0].top else None

    def held_bytes(self, encoding: Encoding, level: Level, block_tiles: int) -> int:
        """See `Format`: a block is walked as a quadtree, so when the first row of chunks of a shard is whole, a third
        of the shard is there; shards of the levels above are a quarter of it, and less.
        """
        side = min(self.side(encoding, level) or 1, block_tiles)
        return (side**2 // 2 + 2) * encoding.tile_bytes

    def order(self, plan: Plan) -> Iterator[Key]:
        """Row by row, so that a row of shards is written side by side, of all levels as they come (see `Format`)."""
        keys = [(level.index, *place) for level in plan.levels for place in np.ndindex(plan.planes, *level.tiles)]
        yield from sorted(keys, key=lambda key: (_turn(plan, key[0], key[2] + 1), *key))

    def wave(self, plan: Plan, key: Key) -> int | None:
        """A row of blocks of level 0, with what they make of upper levels; planes that a block holds together wait for
        the first to end, those of a frame in a file of their own (see `Format`).
        """
        level, plane, row, _ = key
        if level and math.isinf(_turn(plan, level, row)):
            return None
        band, waiting = divmod(plane, plan.band)
        if waiting and plan.band == plan.planes:
            return None
        first = plan.passes[0]
        return -1 - band if waiting else band * first.blocks.height + (row << level) // first.block_tiles

    def write(self, path: str, image: ImageDescription, take: TakeSegment) -> list[int]:
        """See `Format`."""
        try:
            if not (self.workers_write and os.path.isdir(path)):
                os.mkdir(path)
            with Syncer() as syncer:
                sizes = self._write_levels(path, image, take, syncer)
                syncer.wait()
            said = self._write_group(path, image)
            found = _sync_folders(path)
            whole = self._says(path, said)
        except OSError as error:
            raise OutputError(f"can't write {path!r}: {error.strerror or error}") from error
        if not whole:
            raise OutputError(f"{path!r} was replaced by a copy while its metadata were written; run again")
        if found != (syncer.files, syncer.nbytes):
            raise OutputError(
                f"{path!r} has {found[0]:,} files of chunks with {found[1]:,} bytes, and {syncer.files:,} with "
                f"{syncer.nbytes:,} were written: it was moved, or replaced by a copy, while it was made; run again"
            )
        return sizes

    def check(self, path: str, image: ImageDescription) -> None:
        """See `Format`."""
        check_structure(path, [level.size for level in image.plan.levels], kept=len(image.kept_levels))

    def verify(self, path: str, n_workers: int | None) -> None:
        """See `Format`."""
        verify_file(path, n_workers=n_workers)

    def levels(self, path: str) -> tuple[LevelReport, ...]:
        """See `Format`."""
        with ZarrPyramid(path) as pyramid:
            return tuple(LevelReport(level.size, level.n_segments, level.bytes) for level in pyramid.levels)

    def accept_place(self, path: str) -> None:
        """See `Format`: metadata of another version of zarr would hide those that are there."""
        group, name = os.path.split(os.path.abspath(path))
        image = os.path.dirname(group)
        label, numbered = os.path.basename(group) == "labels", name.isdecimal() and group.lower().endswith(".zarr")
        for folder in ([group, image] if label and is_zarr(image) else [group] if numbered else []):
            if any(os.path.exists(os.path.join(folder, other)) for other in _METADATA[self.ngff != "0.4"]):
                other = "0.4" if self.ngff == "0.5" else "0.5"
                raise DestinationError(f"{folder!r} is of NGFF {other}; what is written into it must be too (ngff)")

    def named(self, path: str) -> None:
        """A label image in the group "labels" of an image is added to that group's list; a store that has an image
        under a number says that it holds a series of them (see `Format`).
        """
        group, name = os.path.split(os.path.abspath(path))
        if name.isdecimal() and group.lower().endswith(".zarr"):
            try:
                mark_series(group, self.ngff)
            except OSError as error:
                raise OutputError(f"{path!r} is complete, but {group!r} can't say so: {error}") from error
        if os.path.basename(group) == "labels" and is_zarr(os.path.dirname(group)):
            try:
                list_label(group, name, self.ngff)
            except (OSError, ValueError) as error:
                raise OutputError(f"{path!r} is complete, but {group!r} can't list it: {error}") from error

    def side(self, encoding: Encoding, level: Level) -> int | None:
        """Chunks a side of a shard of a level, a power of two; None where a chunk is a file."""
        side = self.shard
        if side is None:
            side, ratio = 1, encoding.codec.likely_ratio
            while (2 * side) ** 2 * encoding.tile_bytes // ratio <= SHARD_BYTES:
                side *= 2
        if not side:
            return None
        while side > 1 and side // 2 >= max(level.tiles):
            side //= 2
        return side

    def count_files(self, image: ImageDescription) -> int:
        """See `Format`."""
        count = 1 if self.ngff == "0.5" else 2
        for level in image.plan.levels:
            side = self.side(image.encoding, level) or 1
            count += 1 + image.plan.planes * math.prod(Size(*level.tiles).grid(side))
        return count

    def _write_levels(self, path: str, image: ImageDescription, take: TakeSegment, syncer: Syncer) -> list[int]:
        sizes = [0] * len(image.plan.levels)
        with contextlib.ExitStack() as stack:
            turns: list[tuple[float, int, Rows]] = []
            for level in image.plan.levels:
                rows = self._write_level(path, image, level, take, syncer)
                stack.callback(rows.close)
                turns.append((0, level.index, rows))  # a heap, since these are in order
            while turns:
                _, index, rows = turns[0]
                try:
                    heapq.heapreplace(turns, (_turn(image.plan, index, next(rows)), index, rows))
                except StopIteration as end:
                    heapq.heappop(turns)
                    sizes[index] = end.value
        return sizes

    def _write_level(self, path: str, image: ImageDescription, level: Level, take: TakeSegment, syncer: Syncer) -> Rows:
        files = self._files(path, image, level)
        kept, encoding = _stored_as(image, level)
        folder = os.path.join(path, str(level.index))
        make_below(path, folder)
        if self.ngff == "0.5":
            write_json(os.path.join(folder, "zarr.json"), metadata.array_v3(encoding, level, files.side, kept))
        else:
            write_json(os.path.join(folder, ".zarray"), metadata.array_v2(encoding, level))
        there = None
        if self.workers_write and fills(image.plan, level.index, files.side):
            shared = self._shared_at(image.plan, level)
            there = files if shared is None else self._files(shared.path, image, level, shared)
        total = 0
        for plane in range(image.plan.planes):
            if there is None:
                total += yield from _write_plane(files, plane, take, syncer)
            else:
                total += yield from _await_files(there, files, plane, take, syncer)
        return total

    def _files(
        self, path: str, image: ImageDescription, level: Level, shared: SharedFolder | None = None
    ) -> LevelFiles:
        """Where the chunks of a level go."""
        kept, encoding = _stored_as(image, level)
        blank: list[bytes] = []  # encoded when it is first needed: some codecs take a while

        def chunk(segment: bytes) -> bytes | None:
            if not blank:
                blank.append(_blank_segment(encoding))
            if segment == blank[0]:
                return None
            return segment if kept is None else whole_stream(segment, kept.stored)

        folder = functools.partial(self._plane_folder, os.path.join(path, str(level.index)), encoding)
        return LevelFiles(level, path, self.side(encoding, level), folder, chunk, shared)

    def _plane_folder(self, folder: str, encoding: Encoding, plane: int) -> str:
        """Where the chunk keys of a plane begin: "c" (v3), then its time, channel and z, where there are those axes."""
        frame, channel = divmod(plane, encoding.pixels.frame_planes)
        time, depth = divmod(frame, encoding.pixels.stack.z)
        place = {"t": time, "c": channel, "z": depth}
        axes = metadata.axes_of(encoding.pixels)[:-2]
        return os.path.join(folder, *(["c"] if self.ngff == "0.5" else []), *(str(place[axis]) for axis in axes))

    def _write_group(self, path: str, image: ImageDescription) -> dict[str, Any]:
        """The group last, first without windows, which are then looked up in the last level; its attributes."""
        said = metadata.group_attributes(image, self.ngff, None)
        self._write_attributes(path, said)
        if image.encoding.pixels.kind not in MASKS:
            windows = _windows(path, image.encoding.pixels)
            said = metadata.group_attributes(image, self.ngff, windows)
            self._write_attributes(path, said)
        return said

    def _says(self, path: str, said: dict[str, Any]) -> bool:
        """Whether the group has these attributes, and no other try at them lies there."""
        names, wanted = os.listdir(path), self._documents(said)
        return not any(name.endswith(".partial") for name in names) and all(
            name in names and has_json(os.path.join(path, name), value) for name, value in wanted.items()
        )

    def _write_attributes(self, path: str, attributes: dict[str, Any]) -> None:
        for name, value in self._documents(attributes).items():
            write_json(os.path.join(path, name), value)

    def _documents(self, attributes: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The files that say what a group is."""
        if self.ngff == "0.5":
            return {"zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": attributes}}
        return {".zgroup": {"zarr_format": 2}, ".zattrs": attributes}


def _sync_folders(path: str) -> tuple[int, int]:
    """Have the names in all folders of a store on the disk; how many files of chunks there are, and their bytes."""
    files = nbytes = 0
    for folder, _, names in os.walk(path):
        sync_folder(folder)
        chunks = [name for name in names if name.isdecimal()]
        files += len(chunks)
        nbytes += sum(os.lstat(os.path.join(folder, name)).st_size for name in chunks)
    return files, nbytes


def refuse_tiff_options(options: ConvertOptions) -> None:
    """Raises OptionError for options of a TIFF."""
    given = {
        "a classic TIFF (bigtiff)": not options.bigtiff,
        "strict": options.strict,
        "label": options.label is not None,
    }
    given |= {"flavour": options.flavour != DEFAULTS["flavour"], "associated": bool(options.associated)}
    for name, is_given in given.items():
        if is_given:
            raise OptionError(f"{name} is for a TIFF, and the output is an OME-Zarr: leave it out")


def _stored_as(image: ImageDescription, level: Level) -> tuple[Kept | None, Encoding]:
    """What a level keeps of the source, and how its other tiles are encoded."""
    kept = image.kept_at(level.index)
    return kept, image.encoding if kept is None else kept.filling


Rows = Generator[int, None, int]
"""Writes a level row by row: gives the number of the plane's rows of tiles that it is about to have asked for, and in
the end the bytes that they took."""


def _turn(plan: Plan, level: int, rows: int) -> float:
    """When rows of a level are asked for, by the rows of tiles of level 0 that they are made of: what blocks of the
    first pass give is written as they come, so that little of it waits. Other levels come after them, as do those of
    images with planes, which are asked for one by one.
    """
    return rows << level if plan.planes == 1 and level <= plan.passes[0].top else math.inf


def _write_plane(files: LevelFiles, plane: int, take: TakeSegment, syncer: Syncer) -> Rows:
    level, total = files.level, 0
    folder = files.plane_folder(plane)
    with contextlib.closing(PlaneWriter(folder, level.tiles, files.side, syncer, files.home)) as writer:
        for row in range(level.tiles.height):
            yield row + 1
            for column in range(level.tiles.width):
                total += writer.add(row, column, files.chunk(take((level.index, plane, row, column))))
    return total


def _await_files(there: LevelFiles, files: LevelFiles, plane: int, take: TakeSegment, syncer: Syncer) -> Rows:
    """Take the receipts of a plane's files, which others wrote; give those that are elsewhere their name, and have all
    synced.
    """
    total = 0
    for row, column in files.firsts():
        if column == 0:
            yield row + files.step
        receipt = Receipt.read(take((files.level.index, plane, row, column)))
        if receipt.nbytes:
            path = files.path(plane, row, column)
            if there is not files:
                link(there.path(plane, row, column), path, files.home)
            syncer.close(_opened(path), receipt.size)
        total += receipt.nbytes
    return total


def _opened(path: str) -> IO[bytes]:
    """A file to sync; to read where it may not be changed, as of shards that are kept so."""
    try:
        return open(path, "r+b", buffering=0, opener=regular)
    except PermissionError:
        return open(path, "rb", buffering=0, opener=regular)


def _blank_segment(encoding: Encoding) -> bytes:
    """The segment of a tile of nothing but the fill value, which is left out."""
    tile = np.full(
        (encoding.tile, encoding.tile, encoding.samples), metadata.fill_value(encoding.pixels), encoding.dtype
    )
    return encoding.encoder().encode([tile])[0]


def _windows(path: str, pixels: PixelFormat) -> list[metadata.Window]:
    """What a viewer shows first of each channel: all of uint8, else the range of what the last level shows."""
    if pixels.dtype == "uint8" or pixels.kind in ("rgb", "rgba"):
        return [metadata.whole_window(pixels.dtype)] * pixels.channels
    windows = []
    with ZarrPyramid(path) as pyramid:
        level = pyramid.levels[-1]
        segments, each = pyramid.segments(level), level.n_segments // level.planes
        for plane in range(level.planes):
            values = []
            for number in range(0, each, -(-each // _SAMPLED_CHUNKS)):
                part = level.pixels_of(number)
                values.append(segments.decode(plane * each + number)[: part.height, : part.width].ravel())
            low, high = np.percentile(np.concatenate(values), (0.1, 99.9))
            if pixels.dtype.startswith("float"):
                windows.append((float(low), float(max(high, low + 1e-6))))
            else:
                windows.append((int(low), max(int(high), int(low) + 1)))
    return windows
