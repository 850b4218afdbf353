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
from slidewright.sources.cells import CellReader


class Grid:
    """An image cut into cells, which counts what is decoded."""

    def __init__(self, size: Size, cell: Size) -> None:
        self.pixels = np.arange(size.height * size.width, dtype=np.uint16).reshape(*size, 1)
        self.cell = cell
        self.decoded: list[tuple[int, int]] = []

    def decode(self, row: int, column: int, out: NDArray[Any]) -> None:
        assert out.flags.c_contiguous
        assert out.shape == (*self.cell, 1)
        self.decoded.append((row, column))
        y, x = row * self.cell.height, column * self.cell.width
        part = self.pixels[y : y + self.cell.height, x : x + self.cell.width]
        out[...] = 65_535
        out[: part.shape[0], : part.shape[1]] = part

    def reader(self, budget: int = 10**6) -> CellReader:
        height, width = self.pixels.shape[:2]
        return CellReader(Size(height, width), self.cell, 1, "uint16", self.decode, budget)


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
    assert grid.decoded == [(2, 1)]


def test_neighbours_share_decoded_cells() -> None:
    grid = Grid(Size(24, 24), Size(24, 24))
    reader = grid.reader()
    out = np.empty((8, 8, 1), np.uint16)
    for y in (0, 8, 16):
        for x in (0, 8, 16):
            reader.read(y, x, 8, 8, out)
    assert grid.decoded == [(0, 0)]


def test_failed_decode_is_not_kept() -> None:
    grid = Grid(Size(24, 24), Size(16, 16))
    calls = []

    def decode(row: int, column: int, out: NDArray[Any]) -> None:
        calls.append((row, column))
        if len(calls) == 1:
            raise ValueError("damaged")
        grid.decode(row, column, out)

    reader = CellReader(Size(24, 24), Size(16, 16), 1, "uint16", decode, 1)
    out = np.empty((8, 8, 1), np.uint16)
    with pytest.raises(ValueError, match="damaged"):
        reader.read(0, 0, 8, 8, out)
    np.testing.assert_array_equal(reader.read(0, 0, 8, 8, out), grid.pixels[:8, :8])
