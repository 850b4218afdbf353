"""The output in Bio-Formats, which QuPath and Fiji read with."""

from __future__ import annotations

import by_bioformats as bioformats
import numpy as np
import pytest

import slidewright

pytestmark = pytest.mark.skipif(not bioformats.AVAILABLE, reason=bioformats.WHY)


@pytest.mark.parametrize(("subsampling", "most"), [("420", 6.0), ("444", 3.0)])
def test_jpeg_has_its_colours(subsampling, most, tissue, tmp_path):
    path = tmp_path / "out.tif"
    slidewright.convert(tissue, path, subsampling=subsampling, tile_size=256, n_workers=0)
    found = bioformats.by_bioformats(path)
    assert np.abs(found.astype(int) - tissue).mean() < most


def test_mask_of_bytes_is_read_at_any_width(tmp_path):
    y, x = np.mgrid[:150, :203]
    mask = ((x // 11 + y // 13) % 3 == 0).astype(np.uint8)
    slidewright.convert(mask, tmp_path / "out.tif", kind="binary", tile_size=64, n_workers=0)
    np.testing.assert_array_equal(bioformats.by_bioformats(tmp_path / "out.tif")[..., 0], mask)
