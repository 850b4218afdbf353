"""One block in, segments and a reduced piece out: pure, so it runs the same in a worker, in a shard or in the
caller's process.

The tiles of a block are walked depth first, as a quadtree: four tiles are reduced into the quadrants of their parent,
which is then encoded and reduced in turn. So a block of B x B tiles needs one tile of memory a level instead of B x
B, each pixel is touched while it is in the cache, and every level is encoded from unencoded pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.codecs import Encoding
from slidewright.geometry import Region
from slidewright.plan import Block, Pass, Plan
from slidewright.reduce import reduce_into
from slidewright.sources.base import Reader

Pixels = NDArray[Any]
Emit = Callable[[int, int, int, bytes], None]
"""Takes (level, row, column, segment)."""


class BlockEncoder:
    """Encodes blocks of one plan; keeps its buffers and encoder from block to block.

    `seconds` accumulates the time spent by stage: "read", "encode", "reduce".
    """

    def __init__(self, plan: Plan, encoding: Encoding, resampling: str) -> None:
        self._plan = plan
        self._encode = encoding.encoder()
        self._lossy = encoding.codec.lossy
        self._method = resampling
        depth = max(pas.last - pas.first for pas in plan.passes) + 1
        shape = (plan.tile, plan.tile, encoding.samples)
        self._tiles = [np.empty(shape, encoding.dtype) for _ in range(depth)]
        half = max(1, plan.tile // 2)
        self._piece: Pixels = np.empty((half, half, encoding.samples), encoding.dtype)
        self.seconds = {"read": 0.0, "encode": 0.0, "reduce": 0.0}

    def run(self, reader: Reader, block: Block, emit: Emit) -> tuple[Region, Pixels] | None:
        """Encode every tile of a block, passing each segment to `emit`.

        Returns the block's piece of the pass's scratch level, as (region of that level, pixels), the pixels valid until
        the next call; None when the pass hands nothing on or the block has no pixel there.
        """
        pas = self._plan.passes[block.pass_index]
        top = self._tile(reader, pas, pas.block_tiles.bit_length() - 1, block.row, block.column, emit)
        if pas.scratch_level is None or top is None:
            return None
        half = self._plan.tile // 2
        region = Region(block.row * half, block.column * half, half, half).clipped(
            self._plan.size_at(pas.scratch_level)
        )
        if region.empty:
            return None
        piece = self._piece[: region.height, : region.width]
        self._reduce(top, piece)
        return region, piece

    def _tile(self, reader: Reader, pas: Pass, depth: int, row: int, column: int, emit: Emit) -> Pixels | None:
        """The valid pixels of one tile, `depth` levels above the pass's source, after emitting it and all below it."""
        level, tile = pas.first + depth, self._plan.tile
        source = self._plan.size_at(pas.first)
        if (row << depth) * tile >= source.height or (column << depth) * tile >= source.width:
            return None
        if level > pas.last:  # a small pyramid: the block is larger than what its last level needs
            self._children(reader, pas, depth, row, column, emit, None)
            return None
        region = Region(row * tile, column * tile, tile, tile).clipped(self._plan.size_at(level))
        if depth == 0:
            start = perf_counter()
            pixels = reader.read(region.y, region.x, region.height, region.width, self._tiles[0])
            self.seconds["read"] += perf_counter() - start
        else:
            pixels = self._tiles[depth][: region.height, : region.width]
            self._children(reader, pas, depth, row, column, emit, pixels)
            if region.empty:
                return None
        start = perf_counter()
        segment = self._encode(self._padded(pixels, depth))
        self.seconds["encode"] += perf_counter() - start
        emit(level, row, column, segment)
        return pixels

    def _children(
        self, reader: Reader, pas: Pass, depth: int, row: int, column: int, emit: Emit, out: Pixels | None
    ) -> None:
        """Make the four children of a tile and reduce each into its quadrant of `out`, where there is one."""
        half = self._plan.tile // 2
        for down in (0, 1):
            for right in (0, 1):
                child = self._tile(reader, pas, depth - 1, 2 * row + down, 2 * column + right, emit)
                if child is None or out is None:
                    continue
                quadrant = out[down * half : (down + 1) * half, right * half : (right + 1) * half]
                if quadrant.size:
                    self._reduce(child, quadrant)

    def _reduce(self, pixels: Pixels, out: Pixels) -> None:
        start = perf_counter()
        reduce_into(self._method, pixels, out)
        self.seconds["reduce"] += perf_counter() - start

    def _padded(self, pixels: Pixels, depth: int) -> Pixels:
        """`pixels` as a whole tile: the last row and column repeated for a lossy codec, zeros otherwise."""
        buffer = self._tiles[depth]
        height, width = pixels.shape[:2]
        if pixels.shape == buffer.shape:
            return np.ascontiguousarray(pixels)
        if not np.shares_memory(pixels, buffer[:height, :width]) or pixels.strides != buffer.strides:
            buffer[:height, :width] = pixels.copy()
        if self._lossy:
            repeat_last_column(buffer[:height], width)
        else:
            buffer[:height, width:] = 0
        buffer[height:] = buffer[height - 1 : height] if self._lossy else 0
        return buffer


def repeat_last_column(tile: Pixels, width: int) -> None:
    """Fill a tile right of its first `width` columns with the last of these, by doubling what is filled.

    NumPy would copy a broadcast column pixel by pixel, 3 bytes at a time: 1.1 ms for a tile of 512, twice as long as
    encoding it as JPEG takes; so it is 0.1 ms.
    """
    filled = width
    while filled < tile.shape[1]:
        step = min(filled - width + 1, tile.shape[1] - filled)
        tile[:, filled : filled + step] = tile[:, width - 1 : width - 1 + step]
        filled += step
