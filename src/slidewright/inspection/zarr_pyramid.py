"""An OME-Zarr image on disk, looked at as a stranger would: its levels, shard indexes and chunks.

It has the shape of `tiff.slide.TiffSlide`, so that `verify`, `compare` and the page about a run treat both alike, and
shares no code with the writer. It reads chunks of images of one plane or of channels, as slidewright writes them, from
files; `sources/zarr.py`, which has zarr do it, reads many more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import SlidewrightError, SourceError, VerifyError
from slidewright.geometry import Size
from slidewright.inspection.zarr_layout import ArrayLayout, read_layout
from slidewright.pixels import MASKS
from slidewright.sources.access.image_chunks import NAMES
from slidewright.sources.ome_attributes import OmeAttributes
from slidewright.system.files import broken_link, read_at, regular, total_bytes
from slidewright.system.interrupts import let_through
from slidewright.system.json_file import read_json
from slidewright.system.zarr_thread import check_zarr_thread
from slidewright.tiff.page import TiledImage
from slidewright.tiff.slide import kept_levels

_MOST_LEVELS = 100  # each of which is opened; 40 halve the largest image there can be to a pixel
_MISSING = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
MAX_BYTES = 1 << 28


@dataclass(frozen=True, eq=False, slots=True)
class ZarrLevel(TiledImage):
    """A frame of a level of an OME-Zarr, its chunks as the tiles of a page: plane by plane, in raster order.

    `offsets` are places in the file of a chunk (0 in a file of its own); `counts` are 0 for chunks that were left out.
    """

    folder: str
    layout: ArrayLayout
    kind: str | None
    palette: tuple[tuple[int, int, int], ...] | None
    frame: int = 0

    @property
    def masks(self) -> bool:
        """See `TiledImage`."""
        return self.kind in MASKS

    @property
    def colormap(self) -> tuple[tuple[int, int, int], ...] | None:
        """See `TiledImage`."""
        return self.palette

    @property
    def photometric(self) -> str:
        """See `TiledImage`."""
        return "palette" if self.palette else "rgb" if self.kind in ("rgb", "rgba") else "minisblack"

    def chunk(self, index: int) -> tuple[int, int, int]:
        """(plane, row, column) of a chunk."""
        plane, rest = divmod(index, self.grid.height * self.grid.width)
        return (plane, *divmod(rest, self.grid.width))

    def file_of(self, plane: int, row: int, column: int) -> str:
        """The file with a chunk."""
        plane += self.frame * self.planes
        return self.layout.path(self.folder, plane, row // self.layout.shard, column // self.layout.shard)


class ZarrSegments:
    """Reads and decodes the chunks of a level; safe to use from several threads."""

    def __init__(self, path: str, level: ZarrLevel, error: type[SlidewrightError]) -> None:
        self.page, self._path, self._error = level, path, error
        self._decompress = level.layout.decompressor()

    def read(self, index: int) -> bytes | None:
        """The bytes of a chunk as they are in the file; None for one that was left out."""
        count = int(self.page.counts[index])
        if not count:
            return None
        path = self.page.file_of(*self.page.chunk(index))
        try:
            with open(path, "rb", buffering=0, opener=regular) as file:
                data = read_at(file.fileno(), int(self.page.offsets[index]), count)
        except OSError as error:
            raise self._error(f"{self.where(index)} can't be read: {error.strerror or error}") from error
        if len(data) != count:
            raise self._error(f"{self.where(index)} is cut short; the store is damaged")
        return data

    def decode(self, index: int) -> NDArray[Any]:
        """The pixels of a chunk as (height, width, samples), padding included; of one left out, the fill value."""
        level = self.page
        shape = (*level.cell, level.samples // level.planes)
        data = self.read(index)
        if data is None:
            return np.full(shape, level.layout.fill, level.dtype)
        stored = shape if not level.layout.planar else (shape[2], shape[0], shape[1])
        try:
            raw = self._decompress(data)
            pixels = np.frombuffer(raw, level.dtype) if not isinstance(raw, np.ndarray) else raw
            pixels = pixels.reshape(stored)
        except MemoryError:
            raise
        except Exception as error:  # each codec has an error class of its own
            let_through(error)
            raise self._error(f"{self.where(index)} does not decode: {error}; the store is damaged") from error
        return pixels.transpose(1, 2, 0) if level.layout.planar else pixels

    def whole(self) -> NDArray[Any]:
        """All pixels of a small level, as (height, width, samples)."""
        level = self.page
        shape = (*level.size, level.samples)
        if int(np.prod(shape, dtype=object)) * level.dtype.itemsize > MAX_BYTES:
            raise self._error(f"{self._path}: {level.name} of {level.size} is too large to be read in one piece")
        out: NDArray[Any] = np.empty(shape, level.dtype)
        for index in range(level.n_segments):
            plane = level.chunk(index)[0]
            channels = slice(plane, plane + 1) if level.planes > 1 else slice(None)
            y, x, height, width = level.pixels_of(index)
            out[y : y + height, x : x + width, channels] = self.decode(index)[:height, :width]
        return out

    def where(self, index: int) -> str:
        """The store and the place in it, for a message."""
        return f"{self._path}: {self.page.place(index)}"


class ZarrPyramid:
    """An OME-Zarr image. A context manager, like `TiffSlide`, though nothing stays open.

    Raises
    ------
    SourceError
        When it is no OME-Zarr image, or of a layout that is not read here.
    VerifyError
        When its metadata or an index are damaged.
    """

    others: tuple[ZarrLevel, ...] = ()

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        attributes = _attributes(self.path)
        inner = attributes.get("ome")
        ome: dict[str, Any] = inner if isinstance(inner, dict) else attributes
        self._said = OmeAttributes(attributes)
        with _damage_named(self.path):
            multiscale = ome["multiscales"][0]
            self.ngff = str(ome.get("version") or multiscale.get("version"))
            kind = self._said.any_kind or ("labels" if "image-label" in ome else None)
            palette = self._said.colormap
            paths = [str(dataset["path"]) for dataset in multiscale["datasets"]]
            axes = "".join(str(axis["name"]) for axis in multiscale["axes"])
            if len(paths) > _MOST_LEVELS:
                most = f"where {_MOST_LEVELS} are the most that are read"
                raise VerifyError(f"{self.path}: it lists {len(paths)} levels, {most}; the store is damaged")
            self.planes = tuple(self._level(number, name, axes, kind, palette) for number, name in enumerate(paths))
            self.levels = tuple(frames[0] for frames in self.planes)
        if not self.levels:
            raise VerifyError(f"{self.path}: it lists no level; the store is damaged")

    def __enter__(self) -> ZarrPyramid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is open."""

    @property
    def pages(self) -> tuple[ZarrLevel, ...]:
        """Everything that can be decoded."""
        return tuple(frame for level in self.planes for frame in level)

    @property
    def ours(self) -> bool:
        """Whether slidewright says it wrote it."""
        return self.software.startswith("slidewright ")

    @property
    def kept(self) -> int:
        """Of how many levels, from level 0 on, slidewright says that the tiles are those of its source."""
        return kept_levels(self.software) if self.ours else 0

    @property
    def software(self) -> str:
        """What wrote it, or nothing."""
        return self._said.software or ""

    @property
    def noted_kind(self) -> str | None:
        """See `TiffSlide`."""
        kind = self.levels[0].kind
        return kind if kind in MASKS else None

    @property
    def kind(self) -> str:
        """A word for the kind of store."""
        return f"ome-zarr {self.ngff}"

    @property
    def bytes(self) -> int:
        """Bytes of all its files."""
        return total_bytes(self.path)

    def segments(self, page: TiledImage, error: type[SlidewrightError] = VerifyError) -> ZarrSegments:
        """The chunks of one of the levels, which raise `error` for a damaged one."""
        assert isinstance(page, ZarrLevel)
        return ZarrSegments(self.path, page, error)

    def check(self) -> None:
        """Hold every index against its file: its checksum, and that chunks fill the file without gap or overlap; in a
        store of ours also that every level that is there is listed, and stored as the others are.
        """
        if not any(os.path.exists(os.path.join(self.path, name)) for name in ("zarr.json", ".zgroup")):
            raise VerifyError(f"{self.path}: there is no .zgroup, without which it is no group; copy the store again")
        listed = {os.path.basename(level.folder) for level in self.levels}
        for name in sorted(os.listdir(self.path)) if self.ours else ():
            if name.isdecimal() and name not in listed and is_zarr(os.path.join(self.path, name)):
                raise VerifyError(f"{self.path}: its multiscales do not list the level {name}; the store is damaged")
        made = self.levels[self.kept :] if self.ours else ()
        for level in made:
            layout, first = level.layout, made[0].layout
            if replace(layout, size=first.size, shard=first.shard, sharded=first.sharded) != first:
                raise VerifyError(f"{level.folder} is stored otherwise than {made[0].folder}; the store is damaged")
        for level in self.levels:
            if level.layout.sharded:
                planes = level.planes * level.layout.stack.frames
                for plane, row, column in np.ndindex(planes, *level.grid.grid(level.layout.shard)):
                    self._check_shard(level, plane, row, column)

    def check_opens(self) -> None:
        """Have zarr itself open the group, and the levels but those of codecs that it may not have: it looks at more of
        the JSON than is read here. Raises VerifyError.
        """
        import zarr

        plain = [level.folder for level in self.levels if level.layout.compression not in NAMES.values()]
        check_zarr_thread(str(self.path))
        for folder in (self.path, *plain):
            try:
                zarr.open(store=folder, mode="r")
            except MemoryError:
                raise
            except Exception as error:  # zarr raises many kinds
                raise VerifyError(f"{folder}: zarr can't open it ({error}); the store is damaged") from error

    def check_gaps(self) -> None:
        """Hold chunks that are left out, and so background, against the level above, which is background there too
        where it was made of them and is no copy. Raises VerifyError for one that has been lost; of lossy chunks nobody
        can tell.
        """
        if not self.ours or self.kept > 1:
            return
        for below, above in zip(self.planes, self.planes[1:], strict=False):
            for page, upper in zip(below, above, strict=False):
                if page.lossless and upper.lossless and (page.cell, page.planes) == (upper.cell, upper.planes):
                    self._check_gaps_of(page, upper)

    def _check_gaps_of(self, page: ZarrLevel, upper: ZarrLevel) -> None:
        """Hold the left-out chunks of a level against the level above, whose chunks are decoded once each."""
        segments, half, seen, pixels = self.segments(upper), page.cell.width // 2, -1, np.empty(0)
        gaps = map(page.chunk, np.flatnonzero(page.counts == 0).tolist())
        for plane, row, column in sorted(gaps, key=lambda gap: (gap[0], gap[1] // 2, gap[2] // 2)):
            if row // 2 >= upper.grid.height or column // 2 >= upper.grid.width:
                continue  # a last odd row or column, of which no pixel of the level above is made
            index = upper.index(row // 2, column // 2, plane)
            if not upper.counts[index]:
                continue
            if index != seen:
                region = upper.pixels_of(index)
                seen, pixels = index, segments.decode(index)[: region.height, : region.width]
            top, left = row % 2 * half, column % 2 * half
            if (pixels[top : top + half, left : left + half] != page.layout.fill).any():
                raise VerifyError(
                    f"{self.path}: {page.place(page.index(row, column, plane))} is not there, and {upper.name} shows "
                    "more than background in its place; copy the store again"
                )

    def _check_shard(self, level: ZarrLevel, plane: int, row: int, column: int) -> None:
        import google_crc32c

        path = level.layout.path(level.folder, plane, row, column)
        if not os.path.exists(path):
            return
        index, checksum = _read_index(path, level.layout)
        if int(google_crc32c.value(index.tobytes())) != checksum:
            raise VerifyError(f"{path}: the checksum of the shard's index is wrong; the store is damaged")
        there = index[index[:, 0] != _MISSING].astype(np.int64)
        there = there[np.argsort(there[:, 0])]
        ends = there.sum(axis=1)
        end = os.path.getsize(path) - level.layout.index_bytes
        if not len(there) or there[0, 0] != 0 or ends[-1] != end or (ends[:-1] != there[1:, 0]).any():
            raise VerifyError(f"{path}: its chunks do not fill the shard of {end} bytes; the store is damaged")

    def _level(
        self, number: int, name: str, axes: str, kind: str | None, palette: tuple[tuple[int, int, int], ...] | None
    ) -> tuple[ZarrLevel, ...]:
        """The frames of a level, each with all channels."""
        folder = os.path.join(self.path, name)
        if os.path.commonpath((os.path.realpath(self.path), os.path.realpath(folder))) != os.path.realpath(self.path):
            raise VerifyError(f"{self.path}: level {number} is {name!r}, outside the store")
        layout = read_layout(folder, axes)
        grid = layout.size.grid(layout.chunk)
        planes = layout.samples // layout.depth
        frames = layout.stack.frames
        offsets, counts = (table.reshape(frames, -1) for table in _tables(folder, layout, planes * frames, grid))
        first = ZarrLevel(
            name=f"level {number}",
            size=layout.size,
            cell=Size(layout.chunk, layout.chunk),
            tiled=True,
            samples=layout.samples,
            planes=planes,
            dtype=layout.dtype,
            bits=8 * layout.dtype.itemsize,
            compression=layout.compression,
            lossless=layout.lossless,
            offsets=offsets[0],
            counts=counts[0],
            folder=folder,
            layout=layout,
            kind=kind,
            palette=palette,
        )
        others = (
            replace(first, name=f"level {number}, frame {n}", offsets=offsets[n], counts=counts[n], frame=n)
            for n in range(1, frames)
        )
        return (first, *others)


def is_zarr(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a zarr group or array."""
    return any(os.path.exists(os.path.join(path, name)) for name in ("zarr.json", ".zgroup", ".zarray"))


def _attributes(path: str) -> dict[str, Any]:
    """Attributes of the group."""
    for name in ("zarr.json", ".zattrs"):
        try:
            value = read_json(os.path.join(path, name))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise SourceError(f"{path} can't be read: {error.strerror or error}") from error
        except ValueError as error:
            raise VerifyError(f"{path}: its {name} is not JSON ({error}); the store is damaged") from error
        found = value.get("attributes", {}) if name == "zarr.json" and isinstance(value, dict) else value
        inner = found.get("ome") if isinstance(found, dict) else None
        if isinstance(found, dict) and any("multiscales" in it for it in (found, inner) if isinstance(it, dict)):
            return found
    raise SourceError(f"{path} is not an OME-Zarr image; name a TIFF or the folder of one image with multiscales")


@contextmanager
def _damage_named(path: str) -> Iterator[None]:
    """Whatever goes wrong with metadata that can be anything becomes an error of ours."""
    try:
        yield
    except (SlidewrightError, MemoryError):
        raise
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:
        raise VerifyError(
            f"{path}: its metadata can't be used ({type(error).__name__}: {error}); the store is damaged"
        ) from error


def _tables(folder: str, layout: ArrayLayout, planes: int, grid: Size) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each chunk is in its file, and its bytes: 0 for those left out."""
    offsets = np.zeros((planes, *grid), np.int64)
    counts = np.zeros((planes, *grid), np.int64)
    side = layout.shard
    for plane, row, column in np.ndindex(planes, *grid.grid(side)):
        path = layout.path(folder, plane, row, column)
        if not os.path.exists(path):
            link = broken_link(folder, path)
            if link is not None:
                raise VerifyError(f"{link} is a link to what is not there; fetch it, or mount its disk, and try again")
            continue
        if not layout.sharded:
            counts[plane, row, column] = os.path.getsize(path)
            if not counts[plane, row, column]:  # which would be taken for one that was left out
                raise VerifyError(f"{path}: the chunk is empty; the store is damaged")
            continue
        index = _read_index(path, layout)[0].reshape(side, side, 2)
        here = np.s_[plane, row * side : (row + 1) * side, column * side : (column + 1) * side]
        index = index[: offsets[here].shape[0], : offsets[here].shape[1]]
        missing = index[:, :, 0] == _MISSING
        end = os.path.getsize(path) - layout.index_bytes
        if (index[~missing] > end).any() or (index[~missing].sum(axis=1) > end).any():
            raise VerifyError(f"{path}: a chunk lies outside the shard of {end} bytes; the store is damaged")
        offsets[here] = np.where(missing, 0, index[:, :, 0]).astype(np.int64)
        counts[here] = np.where(missing, 0, index[:, :, 1]).astype(np.int64)
    return offsets.ravel(), counts.ravel()


def _read_index(path: str, layout: ArrayLayout) -> tuple[NDArray[np.uint64], int]:
    """(offset, bytes) of each chunk of a shard, and the index's checksum."""
    with open(path, "rb", opener=regular) as file:
        size = file.seek(0, os.SEEK_END)
        if size < layout.index_bytes:
            raise VerifyError(f"{path}: the shard of {size} bytes has no index; the store is damaged")
        file.seek(size - layout.index_bytes)
        data = file.read(layout.index_bytes)
    return np.frombuffer(data[:-4], "<u8").reshape(-1, 2), int.from_bytes(data[-4:], "little")
