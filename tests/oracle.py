"""The pyramid as the design defines it, computed plainly in NumPy: what every level is compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def next_level(pixels: NDArray[Any], method: str = "mean") -> NDArray[Any]:
    """One level up: 2 x 2 parents, odd last row and column dropped, a side of one pixel counted twice."""
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    height, width = max(1, pixels.shape[0] // 2), max(1, pixels.shape[1] // 2)
    rows = np.minimum(np.arange(2 * height), pixels.shape[0] - 1)
    columns = np.minimum(np.arange(2 * width), pixels.shape[1] - 1)
    parents = pixels[rows][:, columns].reshape(height, 2, width, 2, -1).transpose(0, 2, 1, 3, 4)
    parents = parents.reshape(height, width, 4, -1)
    if method == "mean" and pixels.dtype.kind == "f":
        return ((parents[:, :, 0] + parents[:, :, 1]) + (parents[:, :, 2] + parents[:, :, 3])) / np.float32(4)
    if method == "mean":
        return ((parents.astype(np.int64).sum(2) + 2) // 4).astype(pixels.dtype)
    if method == "median":
        middle = np.sort(parents, axis=2)[:, :, 1:3]
        if pixels.dtype.kind == "f":
            return (middle[:, :, 0] + middle[:, :, 1]) / np.float32(2)
        return ((middle.astype(np.int64).sum(2) + 1) // 2).astype(pixels.dtype)
    if method == "nearest":
        return parents[:, :, 0]
    if method == "max":
        return parents.max(2)
    if method == "min":
        return parents.min(2)
    assert method == "mode"
    votes = (parents[:, :, :, None] == parents[:, :, None]).all(-1).sum(3)
    return np.take_along_axis(parents, votes.argmax(2)[:, :, None, None], axis=2)[:, :, 0]


def pyramid(pixels: NDArray[Any], tile: int, method: str = "mean", n_levels: int | None = None) -> list[NDArray[Any]]:
    """Every level, (height, width, samples), until both sides fit in a tile."""
    levels = [pixels if pixels.ndim == 3 else pixels[:, :, None]]
    while len(levels) < (n_levels or 99) and (n_levels or max(levels[-1].shape[:2]) > tile):
        levels.append(next_level(levels[-1], method))
    return levels
