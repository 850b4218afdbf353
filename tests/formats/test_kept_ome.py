"""Kept tiles in an OME-TIFF and in the flavours: the source's bytes, its colours, in readers that nobody here wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import slidewright

TILE = 64


def source(path: Path, pixels: NDArray[np.uint8], subsampling: tuple[int, int], *, rgb: bool = False) -> None:
    options = {"subsampling": subsampling} if not rgb else {}
    tifffile.imwrite(
        path, pixels, photometric="rgb", compression="jpeg", tile=(TILE, TILE), metadata=None,
        compressionargs={"level": 85, **({"outcolorspace": "rgb"} if rgb else {})}, **options,
    )  # fmt: skip
    if rgb:
        with tifffile.TiffFile(path, mode="r+") as tiff:
            tiff.pages.first.tags[262].overwrite(2)


@pytest.mark.parametrize("suffix", [".ome.tif", ".tif"])
@pytest.mark.parametrize(("subsampling", "rgb"), [((2, 2), False), ((2, 1), False), ((1, 1), True)])
def test_tiles_and_colours_are_the_sources(
    tmp_path: Path, tissue: NDArray[np.uint8], suffix: str, subsampling: tuple[int, int], rgb: bool
) -> None:
    openslide = pytest.importorskip("openslide")
    path, out = tmp_path / "source.tif", tmp_path / f"out{suffix}"
    source(path, np.ascontiguousarray(tissue[:300, :420]), subsampling, rgb=rgb)
    report = slidewright.convert(path, out, keep_tiles="always", n_workers=2)
    assert report.levels[0].tiles == 35
    with tifffile.TiffFile(path) as before, tifffile.TiffFile(out) as after:
        old, new = before.pages.first, after.pages.first
        for index in range(35):
            assert _segment(before, old, index) == _segment(after, new, index)
        assert new.photometric == old.photometric
        assert rgb or new.tags.valueof(530) == old.tags.valueof(530)
        np.testing.assert_array_equal(new.asarray(), old.asarray())
        wanted = old.asarray()
        assert len(after.series[0].levels) == 4
    slide = openslide.OpenSlide(out)
    assert slide.level_count == 4
    found = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    assert np.abs(found.astype(int) - wanted).max() <= 2


def _segment(tiff: tifffile.TiffFile, page: tifffile.TiffPage, index: int) -> bytes:
    tiff.filehandle.seek(page.dataoffsets[index])
    return bytes(tiff.filehandle.read(page.databytecounts[index]))
