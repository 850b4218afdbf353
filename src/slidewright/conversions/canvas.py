"""A whole image that waits on disk, sparse: regions are put anywhere, on top of each other if need be, and read back as
tiles.

For what `PyramidWriter` can't encode at once: a region that is not a tile, and overlaps. Pixels are one zarr array of
tile-sized chunks, how often (or with what weight) each has been written another; chunks that were never touched are not
there. The caller's process alone writes, through a bounded cache; workers read once it is done.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import SourceError
from slidewright.geometry import Region, Size
from slidewright.pixels import PixelFormat
from slidewright.pyramid.level_store import ScratchLevel
from slidewright.sources.base import BLANK, Blank, Pixels, Reader, Source, SourceInfo

CACHE_BYTES = 96 << 20


@dataclass(frozen=True, slots=True)
class CanvasSource(Source):
    """Where the canvas is, and what it will be read as; picklable."""

    info: SourceInfo
    pixels: PixelFormat
    tile: int
    overlap: str
    folder: str

    def open(self) -> CanvasReader:
        """Read it in this process."""
        return CanvasReader(self)

    @property
    def blended(self) -> bool:
        """Whether pixels are sums, still to be divided by their weights."""
        return self.overlap == "blend"

    def values(self) -> ScratchLevel:
        """The array of pixels: as they were given, or sums in double precision."""
        stored = replace(self.pixels, dtype="float64") if self.blended else self.pixels
        return self._array("pixels.zarr", stored)

    def weights(self) -> ScratchLevel:
        """The array of weights, one for all channels: 0 where nothing has been written."""
        dtype = "float64" if self.blended else "uint8"
        return self._array("weights.zarr", PixelFormat("grey", dtype, 1, "nearest", (0.0,), stack=self.pixels.stack))

    def _array(self, name: str, stored: PixelFormat) -> ScratchLevel:
        path = os.path.join(self.folder, name)
        fill = (0.0,) * stored.all_channels
        return ScratchLevel(path, self.info.size, self.tile, stored, stored.channels, fill=fill, single=True)


class CanvasReader(Reader):
    """Reads whole tiles of a finished canvas."""

    def __init__(self, source: CanvasSource) -> None:
        self._source, self._values, self._weights = source, source.values(), source.weights()
        self._background = np.array(source.pixels.background, source.pixels.dtype)
        self._loaded = _Chunk.empty(source)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a tile, see `Reader.read`."""
        frame, plane = divmod(plane, self._source.info.samples)
        if not self._values.has(y, x, frame):
            return BLANK
        chunk = self._loaded
        self._values.read(y, x, height, width, chunk.values, frame * self._source.info.samples)
        self._weights.read(y, x, height, width, chunk.weights, frame)
        values = chunk.values[:height, :width, plane : plane + out.shape[2]]
        weights = chunk.weights[:height, :width]
        answer = out[:height, :width]
        if self._source.blended:
            values = np.divide(values, weights, out=np.zeros_like(values), where=weights > 0)
            if out.dtype.kind != "f":
                limits = np.iinfo(out.dtype)
                values = np.clip(np.floor(values + 0.5), limits.min, limits.max)
        answer[...] = np.where(weights > 0, values, self._background[plane : plane + out.shape[2]])
        return answer

    def close(self) -> None:
        """Close the files."""
        self._values.close()
        self._weights.close()


@dataclass(slots=True)
class _Chunk:
    values: Pixels
    weights: NDArray[np.float64] | NDArray[np.uint8]

    @classmethod
    def empty(cls, source: CanvasSource) -> _Chunk:
        side, pixels = source.tile, source.pixels
        values: Pixels = np.zeros((side, side, pixels.channels), "float64" if source.blended else pixels.dtype)
        weights: Pixels = np.zeros((side, side, 1), "float64" if source.blended else "uint8")
        return cls(values, weights)


class Canvas:
    """The writing end; `source` is what reads it back."""

    def __init__(self, source: CanvasSource) -> None:
        self.source = source
        self._values, self._weights = source.values(), source.weights()
        self._values.create()
        self._weights.create()
        chunk = _Chunk.empty(source)
        self._limit = max(4, CACHE_BYTES // (chunk.values.nbytes + chunk.weights.nbytes))
        self._cache: OrderedDict[tuple[int, int, int], _Chunk] = OrderedDict()

    def put(
        self, pixels: Pixels, y: int, x: int, weights: NDArray[np.float64] | None = None, frame: int = 0
    ) -> None:
        """Put a region, (height, width, channels), at a place inside a frame; `weights` (height, width) for a blend.

        Raises
        ------
        SourceError
            Where it overlaps what is there and overlap is refused; nothing of the region has been put then.
        """
        height, width = pixels.shape[:2]
        region = Region(y, x, height, width)
        if self.source.overlap == "refuse":
            self._refuse_overlap(region, frame)
        for chunk, there, here in self._pieces(region, frame):
            if self.source.blended:
                weight = np.ones((height, width, 1))[here] if weights is None else weights[here][:, :, None]
                chunk.values[there] += pixels[here] * weight
                chunk.weights[there] += weight
            else:
                chunk.values[there] = pixels[here]
                chunk.weights[there] = 1

    def flush(self) -> None:
        """Write what is in the cache to the disk."""
        while self._cache:
            self._evict()
        self._values.close()
        self._weights.close()

    def _refuse_overlap(self, region: Region, frame: int) -> None:
        for chunk, there, here in self._pieces(region, frame):
            taken = np.argwhere(chunk.weights[there][:, :, 0])
            if len(taken):
                top, left = here[0].start + taken[0][0], here[1].start + taken[0][1]
                raise SourceError(
                    f"the region of {region} overlaps pixels written before, first at x={region.x + left}, "
                    f"y={region.y + top}; write each pixel once, or choose overlap 'replace' or 'blend'"
                )

    def _pieces(
        self, region: Region, frame: int
    ) -> Iterator[tuple[_Chunk, tuple[slice, slice], tuple[slice, slice]]]:
        """Each chunk that a region touches, where in the chunk, and where in the region."""
        side = self.source.tile
        bottom, right = region.y + region.height, region.x + region.width
        for row in range(region.y // side, -(-bottom // side)):
            for column in range(region.x // side, -(-right // side)):
                y0, y1 = max(region.y, row * side), min(bottom, (row + 1) * side)
                x0, x1 = max(region.x, column * side), min(right, (column + 1) * side)
                there = (slice(y0 - row * side, y1 - row * side), slice(x0 - column * side, x1 - column * side))
                here = (slice(y0 - region.y, y1 - region.y), slice(x0 - region.x, x1 - region.x))
                yield self._chunk(row, column, frame), there, here

    def _chunk(self, row: int, column: int, frame: int) -> _Chunk:
        key = (row, column, frame)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        while len(self._cache) >= self._limit:
            self._evict()
        chunk = _Chunk.empty(self.source)
        region = self._region(row, column)
        if self._values.has(region.y, region.x, frame):
            self._values.read(*region, chunk.values, frame * self.source.info.samples)
            self._weights.read(*region, chunk.weights, frame)
        self._cache[key] = chunk
        return chunk

    def _evict(self) -> None:
        (row, column, frame), chunk = self._cache.popitem(last=False)
        region = self._region(row, column)
        self._values.write(region, chunk.values[: region.height, : region.width], frame)
        self._weights.write(region, chunk.weights[: region.height, : region.width], frame)

    def _region(self, row: int, column: int) -> Region:
        side = self.source.tile
        size: Size = self.source.info.size
        return Region(row * side, column * side, side, side).clipped(size)
