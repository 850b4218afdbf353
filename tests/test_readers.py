"""The output in readers that nobody here wrote: OpenSlide, libvips, tiffslide and tifffile agree on size, levels, mpp
and pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from oracle import pyramid

import slidewright

SLIDE = Path(__file__).parents[2] / "shared" / "data" / "CMU-1-Small-Region.svs"
MPP = 0.499


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    if not SLIDE.exists():
        pytest.skip("the shared slide is not here")
    folder = tmp_path_factory.mktemp("readers")
    paths = {}
    for compression in ("jpeg", "deflate"):
        paths[compression] = folder / f"{compression}.tif"
        slidewright.convert(SLIDE, paths[compression], compression=compression, n_workers=2, tile_size=256)
    return paths


@pytest.fixture(scope="module")
def levels(converted):
    return pyramid(tifffile.imread(SLIDE, key=0), 256)


def assert_pixels(compression, level, pixels, expected):
    if compression == "jpeg":
        error = pixels.astype(float) - expected
        assert 10 * np.log10(255**2 / (error**2).mean()) > 30, f"level {level}"
    else:
        np.testing.assert_array_equal(pixels, expected, err_msg=f"level {level}")


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_openslide_calls_it_a_generic_tiled_tiff(converted, levels, compression):
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(converted[compression]) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == tuple((level.shape[1], level.shape[0]) for level in levels)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(MPP, rel=1e-4)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(MPP, rel=1e-4)
        for index, expected in enumerate(levels):
            pixels = np.asarray(slide.read_region((0, 0), index, slide.level_dimensions[index]))
            assert (pixels[:, :, 3] == 255).all()
            assert_pixels(compression, index, pixels[:, :, :3], expected)


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_libvips_reads_every_level(converted, levels, compression):
    pyvips = pytest.importorskip("pyvips")
    for index, expected in enumerate(levels):
        image = pyvips.Image.tiffload(str(converted[compression]), page=index)
        assert (image.width, image.height, image.bands) == (expected.shape[1], expected.shape[0], 3)
        assert 1000 / image.xres == pytest.approx(MPP * 2**index, rel=1e-4)  # pixels per millimetre
        assert_pixels(compression, index, image.numpy(), expected)


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_tiffslide_reads_every_level(converted, levels, compression):
    tiffslide = pytest.importorskip("tiffslide")
    with tiffslide.TiffSlide(converted[compression]) as slide:
        assert slide.level_dimensions == tuple((level.shape[1], level.shape[0]) for level in levels)
        assert float(slide.properties["tiffslide.mpp-x"]) == pytest.approx(MPP, rel=1e-4)
        for index, expected in enumerate(levels):
            pixels = slide.read_region((0, 0), index, slide.level_dimensions[index], as_array=True)
            assert_pixels(compression, index, pixels[:, :, :3], expected)


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_tifffile_reads_every_level(converted, levels, compression):
    with tifffile.TiffFile(converted[compression]) as tiff:
        assert len(tiff.pages) == len(levels)
        for index, (page, expected) in enumerate(zip(tiff.pages, levels, strict=True)):
            assert_pixels(compression, index, page.asarray(), expected)
        assert tiff.pages[0].description.startswith("slidewright|objective_power = 20|scanner_vendor = Aperio")


def test_icc_profile_is_kept(tmp_path):
    profile = b"a profile" * 20
    tifffile.imwrite(
        tmp_path / "in.tif", np.zeros((64, 64, 3), np.uint8), tile=(32, 32), photometric="rgb", iccprofile=profile
    )
    slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", n_workers=1, tile_size=32)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert all(page.iccprofile == profile for page in tiff.pages)
