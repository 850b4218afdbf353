"""One block in, segments and a reduced piece out: pure, so it runs the same in a worker, in a shard or in the
caller's process.

The tiles of a block are walked depth first, as a quadtree: four tiles are reduced into the quadrants of their parent,
which is then encoded and reduced in turn. So a block of B x B tiles needs one tile of memory a level instead of B x
B, each pixel is touched while it is in the cache, and every level is encoded from unencoded pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.codecs import Encoding
from slidewright.errors import SourceError
from slidewright.geometry import Region, Size
from slidewright.pyramid.kept import Kept
from slidewright.pyramid.plan import Block, Key, Pass, Plan
from slidewright.pyramid.reduce import reduce_into
from slidewright.sources.base import BLANK, Blank, Reader

Pixels = NDArray[Any]
Emit = Callable[[Key, bytes], None]
"""Takes a tile's key and its segment."""
Pack = Callable[[bytes], bytes]
"""From what a codec gives to what the format stores of it."""


@dataclass(frozen=True, slots=True)
class _Walk:
    """What stays the same while a block's tiles are walked."""

    reader: Reader
    pas: Pass
    plane: int
    """The first of the block's planes."""
    emit: Emit
    keeps: bool = False
    """Whether the tiles that are read are kept as the source has them."""


class BlockMaker(ABC):
    """Makes the segments of blocks, one block after the other."""

    seconds: dict[str, float]
    """Time spent by stage."""

    @abstractmethod
    def run(self, readers: Sequence[Reader], block: Block, emit: Emit) -> tuple[Region, Pixels] | None:
        """Pass every segment of a block to `emit`; the answer is what is handed on to the next pass, if anything.

        The first reader is that of what the pass reads; those of the source's own reduced levels follow where these are
        reused.
        """


class BlockEncoder(BlockMaker):
    """Encodes blocks of one plan; keeps its buffers and encoder from block to block.

    Parameters
    ----------
    plan, encoding
        Of the run.
    pack
        Done to each segment after it has been encoded; None for nothing.
    sparse
        Whether tiles of nothing but background are kept out of what a block hands on.
    kept
        What level 0 keeps of the source: its tiles are handed on as they are, and not encoded.

    `seconds` accumulates the time spent by stage: "read", "encode", "reduce".
    """

    def __init__(
        self,
        plan: Plan,
        encoding: Encoding,
        pack: Pack | None = None,
        *,
        sparse: bool = False,
        kept: Kept | None = None,
    ) -> None:
        self._plan = plan
        self._encoder = encoding.encoder()
        self._filling = None if kept is None else kept.filling.encoder()
        self._scaled = kept is not None and kept.scaled
        self._gaps = kept is not None and kept.gaps
        self._pack, self._sparse = pack, sparse
        self._queue: list[tuple[Key, Pixels]] = []
        self._background = np.array(encoding.pixels.background * encoding.pixels.stack.frames)
        self._samples = encoding.samples
        self._lossy = encoding.codec.lossy
        self._method = encoding.pixels.reduction
        depth = max(pas.last - pas.first for pas in plan.passes) + 1
        channels = plan.band * encoding.samples
        shape = (plan.tile, plan.tile, channels)
        self._tiles = [np.empty(shape, encoding.dtype) for _ in range(depth)]
        half = max(1, plan.tile // 2)
        self._piece: Pixels = np.empty((half, half, channels), encoding.dtype)
        self._blanks: dict[int, Pixels] = {}
        self._blank_segments: dict[int, list[bytes]] = {}
        self.seconds = {"read": 0.0, "encode": 0.0, "reduce": 0.0}

    def run(self, readers: Sequence[Reader], block: Block, emit: Emit) -> tuple[Region, Pixels] | None:
        """Encode every tile of a block, passing each segment to `emit`.

        Returns the block's piece of the pass's scratch level, as (region of that level, pixels), the pixels valid until
        the next call; None when the pass hands nothing on, the block has no pixel there, or nothing but background
        of a sparse source.
        """
        pas = self._plan.passes[block.pass_index]
        if self._plan.reused and not block.pass_index:
            return self._reuse(readers, block, emit)
        keeps = self._filling is not None and not pas.first
        return self._made(_Walk(readers[0], pas, block.band * self._plan.band, emit, keeps), block)

    def _reuse(self, readers: Sequence[Reader], block: Block, emit: Emit) -> tuple[Region, Pixels] | None:
        """Copy the tiles of level 0 and of the reused levels; of the highest, make those above."""
        plan, pas, base = self._plan, self._plan.passes[0], self._plan.reused
        ends = base + 1 == len(plan.levels)
        for level in range(min(base, pas.last + 1)):
            self._tell_ahead(readers[level], level, pas.block_tiles >> level, block)
        for key in plan.tiles_of(block):
            if key[0] < base or (key[0] == base and ends):
                emit(key, self._copied(_Walk(readers[key[0]], pas, key[1] // plan.band * plan.band, emit, True), key))
        place = (block.row, block.column) if base <= pas.last else plan.chunk_of(block)
        if ends or place is None:
            return None
        pas = replace(pas, first=base, last=max(base, pas.last), block_tiles=max(1, pas.block_tiles >> base))
        walk = _Walk(readers[base], pas, block.band * plan.band, emit, keeps=True)
        return self._made(walk, Block(0, *place, block.band))

    def _tell_ahead(self, reader: Reader, level: int, tiles: int, block: Block) -> None:
        """Tell a reader what of its level a block of so many tiles a side will read."""
        plan, side = self._plan, self._plan.tile * tiles
        region = Region(block.row * side, block.column * side, side, side).clipped(plan.size_at(level))
        channels = plan.band * self._samples
        reader.ahead(region, range(block.band * channels, (block.band + 1) * channels))

    def _copied(self, walk: _Walk, key: Key) -> bytes:
        """The source's own tile of a level; one that is not to be had is made of its pixels."""
        level, plane, row, column = key
        start = perf_counter()
        segment = walk.reader.segment(row, column, plane)
        self.seconds["read"] += perf_counter() - start
        if segment is not None and (segment or self._gaps):
            return segment
        tile = self._plan.tile
        region = Region(row * tile, column * tile, tile, tile).clipped(self._plan.size_at(level))
        return self._filled_in(self._shown(walk, self._read(walk, region), region), plane - walk.plane)

    def _made(self, walk: _Walk, block: Block) -> tuple[Region, Pixels] | None:
        """Make the tiles of a block from what its pass reads."""
        pas, keeps = walk.pas, walk.keeps
        half = self._plan.tile // 2
        above = Size(0, 0) if pas.scratch_level is None else self._plan.size_at(pas.scratch_level)
        region = Region(block.row * half, block.column * half, half, half).clipped(above)
        piece = self._piece[: region.height, : region.width]
        depth = pas.block_tiles.bit_length() - 1
        self._tell_ahead(walk.reader, pas.first, pas.block_tiles, block)
        if keeps and self._scaled and not depth and not region.empty:
            self._keep_halved(walk, block.row, block.column, piece)
            return region, piece
        top = self._tile(walk, depth, block.row, block.column)
        self._flush(walk.emit)
        if region.empty or top is None or (self._sparse and self._is_blank(top, walk.plane)):
            return None
        self._reduce(top, piece)
        return region, piece

    def _tile(self, walk: _Walk, depth: int, row: int, column: int) -> Pixels | None:
        """The valid pixels of one tile, `depth` levels above the pass's source, after emitting it and all below it."""
        pas = walk.pas
        level, tile = pas.first + depth, self._plan.tile
        source = self._plan.size_at(pas.first)
        if (row << depth) * tile >= source.height or (column << depth) * tile >= source.width:
            return None
        if level > pas.last:  # a small pyramid: the block is larger than what its last level needs
            self._children(walk, depth, row, column, None)
            return None
        region = Region(row * tile, column * tile, tile, tile).clipped(self._plan.size_at(level))
        if depth == 0:
            answer = self._read(walk, region)
            if walk.keeps:
                return self._keep(walk, row, column, answer, region)
            if answer is BLANK:
                return self._blank_tile(walk, (level, row, column), region)
            pixels = answer
        else:
            pixels = self._tiles[depth][: region.height, : region.width]
            self._children(walk, depth, row, column, pixels)
            if region.empty:
                return None
        self._put(walk, (level, row, column), self._padded(pixels, depth))
        return pixels

    def _read(self, walk: _Walk, region: Region) -> Pixels | Blank:
        start = perf_counter()
        if self._plan.planes > 1:
            pixels = walk.reader.read(*region, self._tiles[0], walk.plane * self._samples)
        else:
            pixels = walk.reader.read(*region, self._tiles[0])
        self.seconds["read"] += perf_counter() - start
        if pixels is not BLANK:
            self._check_answer(pixels, region)
        return pixels

    def _check_answer(self, pixels: Pixels, region: Region) -> None:
        """Refuse what a reader of the caller's gives that is not what it was asked for: encoded, it would be another
        image, or bytes that nobody can decode.
        """
        shape, dtype = (*region[2:], self._tiles[0].shape[2]), self._tiles[0].dtype
        given = getattr(pixels, "shape", None), getattr(pixels, "dtype", None)
        if given != (shape, dtype) and given != (shape, dtype.newbyteorder()):
            what = f"{given[1]} of shape {given[0]}" if given[1] is not None else f"a {type(pixels).__name__}"
            raise SourceError(f"the reader of the source gave {what} for {region}; expected {dtype} of shape {shape}")

    def _keep(self, walk: _Walk, row: int, column: int, answer: Pixels | Blank, region: Region) -> Pixels:
        """Hand on the source's own tile, whose pixels were read; one that is not to be had is made of them."""
        pixels = self._shown(walk, answer, region)
        self._hand_on(walk, row, column, lambda: pixels)
        return pixels

    def _keep_halved(self, walk: _Walk, row: int, column: int, out: Pixels) -> None:
        """Hand on the source's own tile, and have its codec decode it at half its size into `out`."""
        tile = self._plan.tile
        region = Region(row * tile, column * tile, tile, tile).clipped(self._plan.size_at(0))
        start = perf_counter()
        done = walk.reader.halved(row, column, out)
        self.seconds["read"] += perf_counter() - start
        if not done:
            self._reduce(self._keep(walk, row, column, self._read(walk, region), region), out)
            return
        self._hand_on(walk, row, column, lambda: self._shown(walk, self._read(walk, region), region))

    def _shown(self, walk: _Walk, answer: Pixels | Blank, region: Region) -> Pixels:
        """The pixels of an answer, which may be background."""
        return self._blank(walk.plane)[: region.height, : region.width] if answer is BLANK else answer

    def _hand_on(self, walk: _Walk, row: int, column: int, pixels: Callable[[], Pixels]) -> None:
        """Emit the source's own tile, of each plane; one that is not to be had is made of its pixels."""
        for plane in range(walk.plane, walk.plane + self._plan.band):
            start = perf_counter()
            segment = walk.reader.segment(row, column, plane)
            self.seconds["read"] += perf_counter() - start
            if segment is None or not (segment or self._gaps):
                segment = self._filled_in(pixels(), plane - walk.plane)
            walk.emit((walk.pas.first, plane, row, column), segment)

    def _filled_in(self, pixels: Pixels, plane: int) -> bytes:
        """A tile, or one plane of a band's, encoded as the source's own are."""
        assert self._filling is not None
        return self._filling.encode([self._planes(self._padded(pixels, 0))[plane]])[0]

    def _put(self, walk: _Walk, place: tuple[int, int, int], tile: Pixels) -> None:
        """Have a padded tile at (level, row, column) encoded: now, or when the encoder's batch is full."""
        level, row, column = place
        for plane, part in enumerate(self._planes(tile), walk.plane):
            waiting = part if self._encoder.batch == 1 else part.copy()  # its memory is used again for the next tile
            self._queue.append(((level, plane, row, column), waiting))
            if len(self._queue) >= self._encoder.batch:
                self._flush(walk.emit)

    def _flush(self, emit: Emit) -> None:
        """Encode what waits."""
        if not self._queue:
            return
        start = perf_counter()
        segments = self._encode([tile for _, tile in self._queue])
        self.seconds["encode"] += perf_counter() - start
        for (key, _), segment in zip(self._queue, segments, strict=True):
            emit(key, segment)
        self._queue.clear()

    def _encode(self, tiles: list[Pixels]) -> list[bytes]:
        segments = self._encoder.encode(tiles)
        return segments if self._pack is None else [self._pack(segment) for segment in segments]

    def _planes(self, tile: Pixels) -> list[Pixels]:
        """What is encoded of a tile: all of it, or each plane of the band by itself."""
        if self._plan.band == 1:
            return [tile]
        return [np.ascontiguousarray(tile[:, :, plane, None]) for plane in range(tile.shape[2])]

    def _blank_tile(self, walk: _Walk, place: tuple[int, int, int], region: Region) -> Pixels:
        """The background's pixels of a region of a tile, after emitting that tile; a whole one is encoded once."""
        level, row, column = place
        tile = self._blank(walk.plane)
        if walk.plane not in self._blank_segments:
            self._blank_segments[walk.plane] = self._encode(self._planes(tile))
        segments = self._blank_segments[walk.plane]
        if (region.height, region.width) != tile.shape[:2]:
            pixels = tile[: region.height, : region.width]
            self._put(walk, place, self._padded(pixels, 0))
            return pixels
        for plane, segment in enumerate(segments, walk.plane):
            walk.emit((level, plane, row, column), segment)
        return tile

    def _blank(self, plane: int) -> Pixels:
        """A tile of the background, of the planes from `plane` on; the same array every time."""
        if plane not in self._blanks:
            tile: Pixels = np.empty_like(self._tiles[0])
            first = plane * self._samples
            tile[...] = self._background[first : first + tile.shape[2]]
            self._blanks[plane] = tile
        return self._blanks[plane]

    def _is_blank(self, pixels: Pixels, plane: int) -> bool:
        return plane in self._blanks and pixels is self._blanks[plane]

    def _children(self, walk: _Walk, depth: int, row: int, column: int, out: Pixels | None) -> None:
        """Make the four children of a tile and reduce each into its quadrant of `out`, where there is one."""
        half = self._plan.tile // 2
        halving = depth == 1 and walk.keeps and self._scaled
        for down in (0, 1):
            for right in (0, 1):
                if halving and out is not None:
                    quadrant = out[down * half : (down + 1) * half, right * half : (right + 1) * half]
                    if quadrant.size:
                        self._keep_halved(walk, 2 * row + down, 2 * column + right, quadrant)
                        continue
                child = self._tile(walk, depth - 1, 2 * row + down, 2 * column + right)
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
