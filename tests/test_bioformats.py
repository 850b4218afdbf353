"""The output in Bio-Formats, which QuPath and Fiji read with."""

from __future__ import annotations

import by_bioformats as bioformats
import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

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


@pytest.mark.parametrize(("width", "right"), [(200, True), (203, False)])
def test_mask_of_single_bits_is_read_if_its_width_is_a_multiple_of_eight(width, right, tmp_path):
    """What the page on compression says of it; masks have 8 bits by default because of it."""
    y, x = np.mgrid[:150, :width]
    mask = (x // 11 + y // 13) % 3 == 0
    slidewright.convert(mask, tmp_path / "out.tif", bits=1, compression="deflate", tile_size=64, n_workers=0)
    found = bioformats.by_bioformats(tmp_path / "out.tif")[..., 0] > 0
    assert (found == mask).all() == right


@pytest.mark.parametrize(("tag", "right"), [((1, 1), False), (None, True)])
def test_full_chroma_as_ycbcr_is_pink_where_its_tag_says_so(tag, right, tissue, tmp_path):
    """Why full chroma is stored as RGB, and that leaving the tag out would do, were it allowed."""
    path, tile = tmp_path / "a.tif", np.ascontiguousarray(tissue[:256, :256])
    data = bytes(imagecodecs.jpeg8_encode(tile, level=90, subsampling="444"))
    options = {"photometric": "rgb", "tile": (256, 256), "compression": 7, "subsampling": (1, 1), "metadata": None}
    tifffile.imwrite(path, iter([data]), shape=tile.shape, dtype="uint8", **options)
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.photometric.name == "YCBCR"
        place = tiff.pages.first.tags["YCbCrSubSampling"].offset
    if tag is None:
        with open(path, "r+b") as file:
            file.seek(place)
            file.write((65_000).to_bytes(2, "little"))
    shown = tifffile.imread(path)
    with Image.open(path) as image:
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - shown).mean() < 1
    assert (np.abs(bioformats.by_bioformats(path).astype(int) - shown).mean() < 3) == right
