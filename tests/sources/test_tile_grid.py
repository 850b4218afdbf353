"""The cache of decoded cells: exact for any grid, bounded, and no cell is decoded twice for neighbours within the
bound.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from slidewright.geometry import Size
from slidewright.sources.access.tile_grid import CellReader


class Grid:
    """An image cut into cells, which counts what is decoded."""

    def __init__(self, size: Size, cell: Size, samples: int = 1, depth: int | None = None) -> None:
        self.pixels = np.arange(size.height * size.width * samples, dtype=np.uint16).reshape(*size, samples)
        self.cell, self.depth = cell, depth or samples
        self.decoded: list[tuple[int, int, int]] = []

    def decode(self, row: int, column: int, band: int, out: NDArray[Any]) -> None:
        assert out.flags.c_contiguous
        assert out.shape == (*self.cell, self.depth)
        self.decoded.append((row, column, band))
        y, x, z = row * self.cell.height, column * self.cell.width, band * self.depth
        part = self.pixels[y : y + self.cell.height, x : x + self.cell.width, z : z + self.depth]
        out[...] = 65_535
        out[: part.shape[0], : part.shape[1], : part.shape[2]] = part

    def reader(self, budget: int = 10**6) -> CellReader:
        height, width, samples = self.pixels.shape
        return CellReader(Size(height, width), self.cell, samples, "uint16", self.decode, budget, self.depth)


sides = st.integers(1, 40)


@given(sides, sides, sides, sides, st.integers(1, 5000), st.data())
def test_any_walk_over_any_grid_is_exact(
    height: int, width: int, tall: int, wide: int, budget: int, data: st.DataObject
) -> None:
    grid = Grid(Size(height, width), Size(tall, wide))
    reader = grid.reader(budget)
    side = data.draw(sides)
    out = np.empty((side, side, 1), np.uint16)
    for y in range(0, height, side):
        for x in range(0, width, side):
            h, w = min(side, height - y), min(side, width - x)
            np.testing.assert_array_equal(reader.read(y, x, h, w, out), grid.pixels[y : y + h, x : x + w])


def test_one_cell_is_decoded_straight_into_the_callers_memory() -> None:
    grid = Grid(Size(20, 20), Size(8, 8))
    out = np.empty((8, 8, 1), np.uint16)
    assert np.shares_memory(grid.reader().read(16, 8, 4, 8, out), out)
    assert grid.decoded == [(2, 1, 0)]


def test_neighbours_share_decoded_cells() -> None:
    grid = Grid(Size(24, 24), Size(24, 24))
    reader = grid.reader()
    out = np.empty((8, 8, 1), np.uint16)
    for y in (0, 8, 16):
        for x in (0, 8, 16):
            reader.read(y, x, 8, 8, out)
    assert grid.decoded == [(0, 0, 0)]


def test_failed_decode_is_not_kept() -> None:
    grid = Grid(Size(24, 24), Size(16, 16))
    calls = []

    def decode(row: int, column: int, band: int, out: NDArray[Any]) -> None:
        calls.append((row, column))
        if len(calls) == 1:
            raise ValueError("damaged")
        grid.decode(row, column, band, out)

    reader = CellReader(Size(24, 24), Size(16, 16), 1, "uint16", decode, 1)
    out = np.empty((8, 8, 1), np.uint16)
    with pytest.raises(ValueError, match="damaged"):
        reader.read(0, 0, 8, 8, out)
    np.testing.assert_array_equal(reader.read(0, 0, 8, 8, out), grid.pixels[:8, :8])


@given(st.integers(1, 7), st.integers(1, 7), sides, sides, st.integers(1, 5000), st.data())
def test_any_channels_of_cells_of_any_depth_are_exact(
    samples: int, depth: int, side: int, cell: int, budget: int, data: st.DataObject
) -> None:
    depth = min(samples, depth)
    grid = Grid(Size(30, 25), Size(cell, cell), samples, depth)
    reader = grid.reader(budget)
    for _ in range(4):
        plane = data.draw(st.integers(0, samples - 1))
        out = np.empty((side, side, data.draw(st.integers(1, samples - plane))), np.uint16)
        for y in range(0, 30, side):
            for x in range(0, 25, side):
                h, w = min(side, 30 - y), min(side, 25 - x)
                expected = grid.pixels[y : y + h, x : x + w, plane : plane + out.shape[2]]
                np.testing.assert_array_equal(reader.read(y, x, h, w, out, plane), expected)


def test_single_channel_cell_is_decoded_alone_and_in_place() -> None:
    grid = Grid(Size(16, 16), Size(8, 8), samples=5, depth=1)
    out = np.empty((8, 8, 1), np.uint16)
    assert np.shares_memory(grid.reader().read(8, 0, 8, 8, out, 3), out)
    assert grid.decoded == [(1, 0, 3)]


def test_channels_of_one_cell_share_its_decoding() -> None:
    grid = Grid(Size(16, 16), Size(8, 8), samples=5)
    reader = grid.reader()
    for plane in range(5):
        reader.read(0, 8, 8, 8, np.empty((8, 8, 1), np.uint16), plane)
    assert grid.decoded == [(0, 1, 0)]
