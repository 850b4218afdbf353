"""The rest of an edge tile is filled as lossy codecs like it, for any width."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from slidewright.pyramid.block import repeat_last_column


@given(
    st.integers(1, 9), st.integers(1, 70), st.data(), st.sampled_from([1, 3, 4]), st.sampled_from(["u1", "u2", "f4"])
)
def test_last_column_is_repeated_to_the_edge(height, side, data, samples, dtype):
    width = data.draw(st.integers(1, side))
    tile = (np.arange(height * side * samples) % 251).reshape(height, side, samples).astype(dtype)
    wanted = np.concatenate([tile[:, :width], np.repeat(tile[:, width - 1 : width], side - width, axis=1)], axis=1)

    repeat_last_column(tile, width)

    np.testing.assert_array_equal(tile, wanted)
