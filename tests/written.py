"""Images to write, and what a written file is held against."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import tifffile
from oracle import pyramid


def image(height, width, samples=3, dtype="uint8", seed=0):
    """Smooth colour with noise: something that compresses, and where every pixel matters."""
    rng = np.random.default_rng(seed)
    top = np.iinfo(dtype).max
    ramp = np.linspace(0, top * 0.8, height * width).reshape(height, width, 1)
    noise = rng.integers(0, max(2, top // 5), (height, width, samples))
    return (ramp + noise).astype(dtype)


def assert_levels_equal_oracle(path, pixels, tile, method="mean", n_levels=None):
    expected = pyramid(pixels, tile, method, n_levels)
    with tifffile.TiffFile(path) as tiff:
        assert len(tiff.pages) == len(expected)
        for index, (page, level) in enumerate(zip(tiff.pages, expected, strict=True)):
            np.testing.assert_array_equal(page.asarray().reshape(level.shape), level, err_msg=f"level {index}")
            assert (page.tilelength, page.tilewidth) == (tile, tile)
            assert bool(page.subfiletype & 1) == (index > 0)


def digest(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
