"""Walks over a source, whole pixels and channels alone, that compare it with the pixels it should give."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.sources.base import Source


def assert_reads_like(source: Source, expected: NDArray[Any], *sides: int, travels: bool = True) -> None:
    """Every block of a walk of each side equals the same part of `expected`: all channels, each two, each alone."""
    info = source.info
    expected = expected.reshape(info.shape)
    assert info.dtype == expected.dtype.name
    reader = (pickle.loads(pickle.dumps(source)) if travels else source).open()
    try:
        for side in sides or (32, 500):
            for count in {1, min(2, info.samples), info.samples}:
                for plane in range(0, info.samples - count + 1):
                    _walk(reader, expected, side, plane, count)
    finally:
        reader.close()
        reader.close()


def _walk(reader: Any, expected: NDArray[Any], side: int, plane: int, count: int) -> None:
    out = np.empty((side, side, count), expected.dtype)
    for y in range(0, expected.shape[0], side):
        for x in range(0, expected.shape[1], side):
            height, width = min(side, expected.shape[0] - y), min(side, expected.shape[1] - x)
            got = reader.read(y, x, height, width, out, plane)
            assert got.dtype == expected.dtype
            assert got.dtype.isnative
            wanted = expected[y : y + height, x : x + width, plane : plane + count]
            np.testing.assert_array_equal(got, wanted)
