"""Geometry: every tile is made exactly once, and levels follow the rule."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidewright.geometry import Region, Size
from slidewright.pyramid.plan import Block, count_levels, make_plan

sizes = st.builds(Size, st.integers(1, 3000), st.integers(1, 3000))


@given(
    sizes, st.sampled_from([16, 32, 48, 256]), st.sampled_from([None, 1, 2, 4, 8]), st.sampled_from([None, 1, 3, 12]),
    st.sampled_from([(1, 1), (3, 1), (3, 3)]),
)  # fmt: skip
def test_every_tile_of_every_level_is_made_by_exactly_one_block(size, tile, block_tiles, n_levels, planes):
    plan = make_plan(
        size, tile, block_tiles=block_tiles, n_levels=n_levels, n_workers=2, planes=planes[0], band=planes[1]
    )
    made = Counter(key for pas in plan.passes for n in range(pas.n_blocks) for key in plan.tiles_of(pas.block(n)))
    wanted = {
        (level.index, plane, row, column)
        for level in plan.levels
        for plane in range(planes[0])
        for row in range(level.tiles.height)
        for column in range(level.tiles.width)
    }
    assert set(made) == wanted
    assert set(made.values()) == {1}


@given(sizes, st.sampled_from([16, 512]))
def test_levels_are_added_until_both_sides_fit_in_one_tile(size, tile):
    count = count_levels(size, tile)
    assert max(size.halved(count - 1)) <= tile
    assert count == 1 or max(size.halved(count - 2)) > tile


def test_level_sizes_are_floored_and_never_below_one():
    plan = make_plan(Size(5, 1000), 16)
    assert [tuple(level.size) for level in plan.levels] == [
        (5, 1000), (2, 500), (1, 250), (1, 125), (1, 62), (1, 31), (1, 15),
    ]  # fmt: skip


def test_block_numbers_are_raster_order():
    pas = make_plan(Size(4096, 8192), 256, block_tiles=4).passes[0]
    assert [pas.number(pas.block(n)) for n in range(pas.n_blocks)] == list(range(pas.n_blocks))
    assert (pas.block(8).row, pas.block(8).column) == (1, 0)
    pas = make_plan(Size(4096, 8192), 256, block_tiles=4, planes=5).passes[0]
    assert [pas.number(pas.block(n)) for n in range(pas.n_blocks)] == list(range(5 * 32))
    assert pas.block(32) == Block(0, 0, 0, 1)


def test_region_of_an_edge_block_is_clipped():
    plan = make_plan(Size(1000, 1300), 256, block_tiles=4)
    assert plan.region(plan.passes[0].block(1)) == Region(0, 1024, 1000, 276)


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_default_block_leaves_no_worker_idle_where_it_can_help_it(workers):
    pas = make_plan(Size(20000, 20000), 512, n_workers=workers).passes[0]
    assert pas.n_blocks >= min(4 * workers, 25)
