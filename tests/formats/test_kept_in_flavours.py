"""Kept tiles in OME-TIFF and in Aperio's flavour: the source's bytes, and its pixels in other readers."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
from kept_sources import SOURCES, level_0, segments

import slidewright


@pytest.mark.parametrize("kind", list(SOURCES))
def test_level_0_is_the_sources_in_an_ome_tiff(tmp_path, kind):
    source, out = tmp_path / "in.tif", tmp_path / "out.ome.tif"
    SOURCES[kind](source)
    report = slidewright.convert(source, out, n_workers=0, verify=True, keep_tiles="always")
    assert report.kept_tiles == report.levels[0].tiles > 0
    with tifffile.TiffFile(source) as there, tifffile.TiffFile(out) as here:
        old, new = (list(tiff.series[0].pages) for tiff in (there, here))
        np.testing.assert_array_equal(here.series[0].asarray().squeeze(), there.series[0].asarray().squeeze())
        if len(old) == len(new):
            assert _segments(here, new) == _segments(there, old)
        assert len(here.series) == 1
        assert len(here.series[0].levels) > 1


def _segments(tiff, pages):
    found = []
    for page in pages:
        page = page.aspage()
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            tiff.filehandle.seek(offset)
            found.append(tiff.filehandle.read(count))
    return found


@pytest.mark.parametrize("kind", ["jpeg rgb", "jpeg 420", "deflate"])
def test_level_0_is_the_sources_in_the_aperio_flavour(tmp_path, kind):
    source, out = tmp_path / "in.tif", tmp_path / "out.svs"
    SOURCES[kind](source)
    slidewright.convert(source, out, n_workers=0, flavour="aperio", verify=True, keep_tiles="always")
    assert segments(out) == segments(source)
    np.testing.assert_array_equal(level_0(out), level_0(source))
    with openslide.OpenSlide(out) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    assert np.abs(pixels.astype(float) - level_0(source)).mean() < 3
