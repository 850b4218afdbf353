"""Channels of a plain TIFF, as readers that nobody here wrote open them."""

from __future__ import annotations

import numpy as np
import pytest
import pyvips
import tifffile
from oracle import pyramid

import slidewright

RNG = np.random.default_rng(6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [2, 5, 16])
@pytest.mark.parametrize("compression", ["deflate", "lzw", "none"])
def test_channels_side_by_side_are_exact_in_many_readers(compression, channels, dtype, tmp_path):
    tiffslide = pytest.importorskip("tiffslide")
    pixels, out = RNG.integers(0, np.iinfo(dtype).max, (150, 203, channels), dtype), tmp_path / "out.tif"
    slidewright.convert(pixels, out, kind="multichannel", compression=compression, tile_size=64, n_workers=0)
    levels = pyramid(pixels, 64)
    with tifffile.TiffFile(out) as tiff:
        assert {page.planarconfig.name for page in tiff.pages} == {"CONTIG"}
        for number, (page, level) in enumerate(zip(tiff.pages, levels, strict=True)):
            np.testing.assert_array_equal(page.asarray(), level)
            np.testing.assert_array_equal(pyvips.Image.tiffload(str(out), page=number).numpy(), level)
    with tiffslide.TiffSlide(out) as slide:
        for number, level in enumerate(levels):
            size = (level.shape[1], level.shape[0])
            np.testing.assert_array_equal(slide.read_region((0, 0), number, size, as_array=True), level)


def test_channels_side_by_side_in_rasterio_large_image_and_slideio(tmp_path):
    pixels, out = RNG.integers(0, 60_000, (150, 203, 5), np.uint16), tmp_path / "out.tif"
    slidewright.convert(pixels, out, compression="deflate", tile_size=64, n_workers=0)
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(out) as data:
        np.testing.assert_array_equal(data.read().transpose(1, 2, 0), pixels)
    large_image = pytest.importorskip("large_image_source_tiff")
    np.testing.assert_array_equal(large_image.open(str(out)).getRegion(format="numpy")[0], pixels)
    slideio = pytest.importorskip("slideio")
    np.testing.assert_array_equal(slideio.open_slide(str(out), "GDAL").get_scene(0).read_block(), pixels)


@pytest.mark.parametrize(
    "options", [{"compression": "png"}, {"compression": "jpeg"}, {"channels": 17}, {"resampling": "mode"}], ids=str
)
def test_other_channels_are_planes(options, tmp_path):
    pixels = RNG.integers(0, 255, (90, 130, options.pop("channels", 5)), np.uint8)
    slidewright.convert(
        pixels, tmp_path / "out.tif", tile_size=64, n_workers=0, **{"compression": "deflate", **options}
    )
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert {page.planarconfig.name for page in tiff.pages} == {"SEPARATE"}
