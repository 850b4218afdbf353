"""Reductions against the oracle, over odd sizes and single pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import next_level

from slidewright.options import RESAMPLINGS
from slidewright.pyramid.reduce import halve, reduce_into


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3, 4, 7]),
    st.sampled_from(["uint8", "uint16", "uint32", "int8", "int16", "int32", "float32"]),
    st.sampled_from(RESAMPLINGS), st.integers(2, 1 << 32), st.integers(0, 99),
)  # fmt: skip
def test_halving_equals_the_oracle(height, width, samples, dtype, method, values, seed):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        pixels = rng.normal(0, values, (height, width, samples)).astype(dtype)
    else:
        limits = np.iinfo(dtype)
        low, high = max(limits.min, -values), min(values, limits.max)
        pixels = rng.integers(low, high, (height, width, samples), dtype=dtype, endpoint=True)
    np.testing.assert_array_equal(halve(method, pixels), next_level(pixels, method))


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_halving_writes_into_a_quadrant_and_nowhere_else(samples, dtype):
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (64, 64, samples)).astype(dtype)
    whole = np.full((64, 64, samples), 7, dtype)
    reduce_into("mean", pixels, whole[32:, :32])
    np.testing.assert_array_equal(whole[32:, :32], next_level(pixels))
    assert (whole[:32] == 7).all()
    assert (whole[32:, 32:] == 7).all()


def test_mean_is_rounded_half_up():
    pixels = np.array([[0, 1], [1, 0]], np.uint8)[:, :, None]
    assert halve("mean", pixels)[0, 0, 0] == 1


def test_mode_prefers_the_majority_and_then_reading_order():
    pixels = np.array([[1, 2, 3, 4], [2, 5, 4, 3]], np.uint8)[:, :, None]
    assert halve("mode", pixels)[0, :, 0].tolist() == [2, 3]


@pytest.mark.parametrize("method", ["mean", "median"])
def test_values_whose_sum_is_too_large_have_their_mean(method: str) -> None:
    """Such as the largest float32, which stands for "no data" elsewhere."""
    least = np.finfo(np.float32).min
    pixels = np.full((4, 4, 1), least, np.float32)
    pixels[:2, :2, 0] = [[3e38, 3e38], [1, 2e38]]
    out = halve(method, pixels)
    expected = [[2e38 if method == "mean" else 2.5e38, least], [least, least]]
    np.testing.assert_allclose(out[:, :, 0], np.array(expected, np.float32), rtol=1e-6)


def test_channels_that_are_no_colours_vote_each_for_their_own_mode():
    pixels = np.array([[[1, 5], [2, 6]], [[1, 6], [3, 7]]], np.uint8)
    assert halve("mode", pixels)[0, 0].tolist() == [1, 5]
    assert halve("mode-of-each", pixels)[0, 0].tolist() == [1, 6]
