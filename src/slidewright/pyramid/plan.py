"""Geometry of a run: levels, passes and blocks, as pure values without I/O.

A *pass* sweeps the blocks of one source level and makes every level that a block holds whole; what is left of a block
(half a tile a side) is one chunk of the next pass's source. Level sizes follow `Size.halved`, so a pixel of a level
depends on 2 x 2 pixels of the level below and never on a neighbouring block. The channels of a multichannel image are
planes, stored one after the other; a block holds a *band* of them: one, or all where the source gives them only
together. Each frame of a stack has such planes; its bands follow those of the frame before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from slidewright.geometry import Region, Size

Key = tuple[int, int, int, int]
"""What names a tile: (level, plane, row, column)."""

DEFAULT_BLOCK_PIXELS = 4096  # the side of a default block: keeps zarr under 2 % of a run (docs/design.md)


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of the pyramid: its size in pixels and its grid of tiles."""

    index: int
    size: Size
    tiles: Size

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return self.tiles.height * self.tiles.width


class Block(NamedTuple):
    """One unit of work: the block at (row, column) of a pass, of one band of planes."""

    pass_index: int
    row: int
    column: int
    band: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """One sweep of the workers over one source level.

    `first` is the level that the pass reads, `last` the highest it encodes; `scratch_level` is the level it hands on to
    the next pass, or None for the last pass. A block is `block_tiles` x `block_tiles` tiles of the level `first`.
    """

    index: int
    first: int
    last: int
    block_tiles: int
    blocks: Size
    scratch_level: int | None
    bands: int = 1
    top: int = 0
    """The highest level that it makes or copies: beyond `last` where the source's own levels are reused, whose tiles
    belong to the block in their corner.
    """

    @property
    def n_blocks(self) -> int:
        """Number of blocks, of all bands."""
        return self.bands * self.blocks.height * self.blocks.width

    def block(self, number: int) -> Block:
        """The block with this number: band by band, each in raster order."""
        row, column = divmod(number, self.blocks.width)
        band, row = divmod(row, self.blocks.height)
        return Block(self.index, row, column, band)

    def number(self, block: Block) -> int:
        """The number of a block, see `block`."""
        return (block.band * self.blocks.height + block.row) * self.blocks.width + block.column


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a run that follows from the size, the tile size, the number of levels and the block size."""

    tile: int
    levels: tuple[Level, ...]
    passes: tuple[Pass, ...]
    planes: int = 1
    """Planes stored one after the other."""
    band: int = 1
    """How many of them a block holds: one, or all of a frame."""
    reused: int = 0
    """Levels 1 to this one are the source's own; those above are made of the last of them."""

    @property
    def n_tiles(self) -> int:
        """Number of tiles of all levels and planes."""
        return self.planes * sum(level.n_tiles for level in self.levels)

    @property
    def n_pixels(self) -> int:
        """Pixels of level 0, counted once a band."""
        size = self.levels[0].size
        return size.height * size.width * (self.planes // self.band)

    def region(self, block: Block) -> Region:
        """The pixels of the pass's source level that a block covers."""
        pas = self.passes[block.pass_index]
        side = pas.block_tiles * self.tile
        return Region(block.row * side, block.column * side, side, side).clipped(self.size_at(pas.first))

    def size_at(self, level: int) -> Size:
        """The size of a level, also of one beyond the last (a scratch level never is, but a child may ask)."""
        return self.levels[0].size.halved(level) if level else self.levels[0].size

    def tiles_of(self, block: Block) -> Iterator[Key]:
        """The key of every tile that a block makes."""
        planes = range(block.band * self.band, (block.band + 1) * self.band)
        pas = self.passes[block.pass_index]
        for level in range(pas.first, pas.last + 1):
            side = max(1, pas.block_tiles >> (level - pas.first))
            tiles = self.levels[level].tiles
            for row in range(block.row * side, min((block.row + 1) * side, tiles.height)):
                for column in range(block.column * side, min((block.column + 1) * side, tiles.width)):
                    for plane in planes:
                        yield level, plane, row, column
        for level in range(pas.last + 1, pas.top + 1):
            corner = _corner(block, level - pas.last)
            if corner is not None:
                yield from ((level, plane, *corner) for plane in planes)

    def chunk_of(self, block: Block) -> tuple[int, int] | None:
        """Row and column of the chunk that a block hands on, if it is one that does."""
        pas = self.passes[block.pass_index]
        return _corner(block, pas.top - pas.last)


def _corner(block: Block, shift: int) -> tuple[int, int] | None:
    """The tile, so many levels above a block's last, in whose corner the block is."""
    if block.row % (1 << shift) or block.column % (1 << shift):
        return None
    return block.row >> shift, block.column >> shift


def count_levels(size: Size, tile: int) -> int:
    """Levels until both sides fit in one tile."""
    count = 1
    while max(size.halved(count - 1)) > tile:
        count += 1
    return count


def default_block_tiles(tile: int) -> int:
    """The largest power of two of tiles that makes a block of at most `DEFAULT_BLOCK_PIXELS` a side."""
    tiles = 1
    while tiles * 2 * tile <= DEFAULT_BLOCK_PIXELS:
        tiles *= 2
    return tiles


def make_plan(
    size: Size,
    tile: int,
    *,
    n_levels: int | None = None,
    block_tiles: int | None = None,
    n_workers: int = 1,
    planes: int = 1,
    band: int = 1,
    reused: int = 0,
) -> Plan:
    """Plan a pyramid of an image of `size`.

    Parameters
    ----------
    size
        Height and width of level 0 in pixels.
    tile
        Tile side in pixels, a multiple of 16.
    n_levels
        Number of levels; by default until both sides fit in one tile.
    block_tiles
        Block side in tiles of the pass's source level, a power of two, for every pass; by default about 4096 pixels,
        smaller where a pass would otherwise leave workers idle. It changes speed and memory, never a byte of output.
    n_workers
        How many workers share a pass; only the default block size depends on it.
    planes, band
        How many planes are stored apart, and how many of them a block holds: 1, or all of a frame.
    reused
        How many of the levels above level 0 are the source's own.
    """
    count = n_levels or count_levels(size, tile)
    levels = tuple(Level(i, size.halved(i), size.halved(i).grid(tile)) for i in range(count))
    passes: list[Pass] = []
    first = 0
    while first < count:
        side = block_tiles or _balanced_block(levels[first], tile, n_workers)
        last = min(first + side.bit_length() - 1, count - 1)
        top = last if passes else max(last, reused)
        onward = top + 1 if top + 1 < count else None
        passes.append(Pass(len(passes), first, last, side, levels[first].tiles.grid(side), onward, planes // band, top))
        first = top + 1
    return Plan(tile, levels, tuple(passes), planes, band, reused)


def _balanced_block(level: Level, tile: int, n_workers: int) -> int:
    """The default block, halved until the pass has a few blocks a worker or blocks are 1024 pixels."""
    side = default_block_tiles(tile)
    while side > 1 and side * tile > 1024:
        blocks = level.tiles.grid(side)
        if n_workers <= 1 or blocks.height * blocks.width >= 4 * n_workers:
            break
        side //= 2
    return side
