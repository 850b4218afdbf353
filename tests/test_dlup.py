"""The drop-in for dlup's writer: its constructor, conventions, number of levels and errors."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import textwrap
from enum import Enum

import numpy as np
import pytest
import tifffile
from PIL import Image
from written import assert_levels_equal_oracle, image

import slidewright
from slidewright.dlup import TiffCompression, TifffileImageWriter
from slidewright.errors import OptionError, SourceError

pytestmark = pytest.mark.timeout(60)


class Resampling(Enum):  # dlup 0.3's, by name
    NEAREST = 0
    LANCZOS = 1


def tiles_of(pixels, tile=64):
    for y in range(0, pixels.shape[0], tile):
        for x in range(0, pixels.shape[1], tile):
            yield pixels[y : y + tile, x : x + tile]


def write(path, pixels, **arguments):
    size = (pixels.shape[1], pixels.shape[0], *pixels.shape[2:])
    arguments = {"mpp": 0.5, "tile_size": (64, 64), "n_workers": 0, "compression": "zstd", **arguments}
    writer = TifffileImageWriter(path, size, **arguments)
    writer.from_tiles_iterator(tiles_of(pixels))
    return tifffile.TiffFile(path)


def test_constructor_takes_the_arguments_of_every_generation_by_name_and_the_common_ones_by_place():
    parameters = list(inspect.signature(TifffileImageWriter).parameters)
    latest = ["filename", "size", "mpp", "tile_size", "pyramid", "colormap", "compression", "is_mask", "quality"]
    assert parameters[: len(latest) + 1] == [*latest, "metadata"]
    assert {"interpolator", "anti_aliasing", "n_workers"} <= set(parameters)


@pytest.mark.parametrize(
    ("height", "width", "levels"),
    [(64, 64, 1), (65, 65, 2), (512, 512, 4), (513, 700, 5), (130, 4000, 3), (20, 500, 1)],
)
def test_levels_are_as_many_and_as_large_as_dlups(tmp_path, height, width, levels):
    """dlup: ceil(log2(side / tile)) of the shorter side, and each side floored."""
    with write(tmp_path / "out.tif", image(height, width), pyramid=True) as tiff:
        shapes = [page.shape[:2] for page in tiff.pages]
    assert shapes == [(height // 2**n, width // 2**n) for n in range(levels)]


def test_without_a_pyramid_there_is_one_level_and_size_is_width_first(tmp_path):
    pixels = image(200, 300)
    with write(tmp_path / "out.tif", pixels, mpp=(0.25, 0.5)) as tiff:
        assert len(tiff.pages) == 1
        page = tiff.pages.first
        assert page.shape == (200, 300, 3)
        assert page.resolution == (40000, 20000)
        np.testing.assert_array_equal(page.asarray(), pixels)


@pytest.mark.parametrize("mpp", [1, np.int64(1), np.float32(0.5), np.float16(0.25), np.array([0.5, 0.25], np.float32)])
def test_micrometres_are_any_number_of_numpys(tmp_path, mpp):
    with write(tmp_path / "out.tif", image(64, 64), mpp=mpp) as tiff:
        assert tiff.pages.first.resolution == tuple(np.broadcast_to(1e4 / np.float64(mpp), 2))
        assert f'"PhysicalSizeX": {float(np.ravel(mpp)[0])}' in tiff.pages.first.description


def test_images_are_reduced_by_the_mean_masks_by_the_maximum_and_03_nearest_by_nearest(tmp_path):
    mask = (np.random.default_rng(0).random((300, 200)) < 0.1).astype(np.uint8) * 3
    for name, arguments, method in [
        ("mean", {}, "mean"),
        ("max", {"is_mask": True}, "max"),
        ("nearest", {"interpolator": Resampling.NEAREST}, "nearest"),
        ("place", {"is_mask": Resampling.NEAREST}, "nearest"),
    ]:
        path = tmp_path / f"{name}.tif"
        write(path, mask, pyramid=True, **arguments).close()
        assert_levels_equal_oracle(path, mask, 64, method, n_levels=3)


def test_colormap_becomes_the_palette_of_a_mask(tmp_path):
    mask = (np.arange(300 * 200) // 7 % 3).astype(np.uint8).reshape(300, 200)
    with write(tmp_path / "out.tif", mask, is_mask=True, colormap={1: "green", 2: "#ff0000"}) as tiff:
        page = tiff.pages.first
        np.testing.assert_array_equal(page.asarray(), mask)
        assert page.photometric == 3
        assert (page.colormap[:, :3] >> 8).tolist() == [[0, 0, 255], [0, 128, 0], [0, 0, 0]]


def test_colormap_of_rgb_is_dlups_error(tmp_path):
    with pytest.raises(ValueError, match=r"^Colormaps only work with integer-valued images \(e\.g\. masks\)\.$"):
        write(tmp_path / "out.tif", image(100, 100), colormap={1: "green"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("compression", "tag"),
    [
        (TiffCompression.NONE, 1), (None, 1), (TiffCompression.JPEG, 7), (TiffCompression.DEFLATE, 8),
        (TiffCompression.PACKBITS, 32773), (TiffCompression.LZW, 5), (TiffCompression.WEBP, 50001),
        (TiffCompression.ZSTD, 50000), (TiffCompression.JP2K, 34712), (TiffCompression.JP2K_LOSSY, 34712),
        (TiffCompression.PNG, 34933), ("jp2k_lossy", 34712),
    ],
)  # fmt: skip
def test_every_compression_of_dlup_writes_an_image(tmp_path, compression, tag):
    ramp = np.add.outer(np.arange(100), np.arange(150)).astype(np.uint8)[:, :, None].repeat(3, 2)
    with write(tmp_path / "out.tif", ramp, compression=compression) as tiff:
        assert tiff.pages.first.compression == tag
        error = np.abs(tiff.pages.first.asarray().astype(int) - ramp)
    lossy = compression in (TiffCompression.JPEG, TiffCompression.JP2K_LOSSY, "jp2k_lossy")
    assert error.max() <= (40 if lossy else 0)


def test_fax4_writes_bits(tmp_path):
    mask = np.zeros((100, 150), np.uint8)
    mask[20:50, 30:100] = 1
    with write(tmp_path / "out.tif", mask, compression=TiffCompression.CCITTFAX4) as tiff:
        assert (tiff.pages.first.compression, tiff.pages.first.bitspersample) == (4, 1)


def test_quality_of_a_lossless_compression_is_dlups_error_but_03_gave_it_to_all(tmp_path):
    with pytest.raises(ValueError, match=r"Quality is not supported for the .* compression type"):
        TifffileImageWriter(tmp_path / "x.tif", (10, 10), 1.0, compression=TiffCompression.ZSTD, quality=80)
    write(tmp_path / "x.tif", image(80, 80), quality=100, interpolator=Resampling.LANCZOS).close()


def test_03_defaults_to_the_best_quality(tmp_path):
    pixels = image(200, 200)
    for name, arguments in (("new", {}), ("old", {"interpolator": Resampling.LANCZOS}), ("given", {"quality": 100})):
        write(tmp_path / f"{name}.tif", pixels, compression="jpeg", **arguments).close()
    sizes = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes["old"] == sizes["given"] > 1.3 * sizes["new"]


def test_other_bad_arguments_are_refused(tmp_path):
    for arguments, error, match in [
        ({"tile_size": (64, 128)}, ValueError, "square"),
        ({"compression": "floppy"}, ValueError, "floppy"),
        ({"interpolator": Resampling.NEAREST, "anti_aliasing": True}, ValueError, "nearest neighbor"),
        ({"anti_aliasing": True}, NotImplementedError, "Anti-aliasing"),
        ({"compression": "jpeg", "is_mask": True}, OptionError, "choose one of"),
    ]:
        with pytest.raises(error, match=match):
            write(tmp_path / "x.tif", image(100, 100)[:, :, 0], **arguments)
    assert list(tmp_path.iterdir()) == []


def test_metadata_and_the_size_of_a_pixel_are_in_the_description(tmp_path):
    with write(tmp_path / "out.tif", image(80, 90), mpp=(0.25, 0.5), metadata={"Author": "me"}) as tiff:
        metadata = json.loads(tiff.pages.first.description)
    assert metadata["PhysicalSizeX"] == 0.25
    assert metadata["PhysicalSizeYUnit"] == "µm"
    assert metadata["Author"] == "me"


def test_existing_file_is_replaced_and_only_by_a_whole_one(tmp_path):
    path = tmp_path / "out.tif"
    path.write_bytes(b"old")
    pixels = image(100, 100)
    writer = TifffileImageWriter(path, (100, 100, 3), 0.5, (64, 64), n_workers=1)
    with pytest.raises(SourceError, match="ended after 3 of 4"):
        writer.from_tiles_iterator(list(tiles_of(pixels))[:3])
    assert path.read_bytes() == b"old"
    writer.from_tiles_iterator(tiles_of(pixels))
    assert tifffile.imread(path).shape == (100, 100, 3)
    assert writer.report.levels[0].size == (100, 100)


def test_from_pil(tmp_path):
    pixels = image(200, 130)
    for name, array in (("rgb", pixels), ("grey", pixels[:, :, 0])):
        writer = TifffileImageWriter(
            tmp_path / f"{name}.tif", (130, 200, *array.shape[2:]), 0.5, (64, 64), compression="lzw", n_workers=0
        )
        writer.from_pil(Image.fromarray(array))
        np.testing.assert_array_equal(tifffile.imread(tmp_path / f"{name}.tif"), array)
    small = TifffileImageWriter(tmp_path / "small.tif", (30, 30, 3), 0.5, (64, 64))
    with pytest.raises(RuntimeError, match="PIL Image must be larger than set tile size"):
        small.from_pil(Image.new("RGB", (30, 30)))


def test_pil_image_of_another_grid_than_the_size_is_refused(tmp_path):
    """Of whole tiles, as many of them, and each would lie elsewhere."""
    writer = TifffileImageWriter(tmp_path / "out.tif", (128, 256, 3), 0.5, (64, 64), compression="lzw", n_workers=0)
    with pytest.raises(ValueError, match=r"of 256 x 128 pixels \(width x height\), and size says 128 x 256"):
        writer.from_pil(Image.fromarray(image(128, 256)))
    assert not (tmp_path / "out.tif").exists()
    padded = image(256, 128)
    writer = TifffileImageWriter(tmp_path / "out.tif", (100, 250, 3), 0.5, (64, 64), compression="lzw", n_workers=0)
    writer.from_pil(Image.fromarray(padded))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), padded[:250, :100])


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB"])
def test_pil_image_in_other_colours_becomes_rgb(tmp_path, mode):
    colour = Image.new("RGB", (64, 64), (200, 40, 90)).convert(mode)
    writer = TifffileImageWriter(tmp_path / "out.tif", (64, 64, 3), 0.5, (64, 64), compression="lzw", n_workers=0)
    writer.from_pil(colour)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), colour.convert("RGB"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("dtype", ["uint16", "int32", "float32"])
def test_pil_image_whose_values_do_not_fit_is_refused(tmp_path, dtype):
    """Cut to 8 bits, label 257 would be label 1."""

    def write_pil(pixels):
        size = (130, 200)
        writer = TifffileImageWriter(tmp_path / "out.tif", size, 0.5, (64, 64), compression="lzw", n_workers=0)
        writer.from_pil(Image.fromarray(pixels))

    labels = np.arange(130 * 200, dtype=dtype).reshape(200, 130) % 7
    with pytest.raises(SourceError, match="expected 64x64x1 of uint8"):
        write_pil(labels + np.dtype(dtype).type(256))
    assert os.listdir(tmp_path) == []
    if dtype != "float32":
        write_pil(labels)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), labels)


def test_integer_masks_are_taken_where_they_fit(tmp_path):
    mask = np.arange(100 * 100).reshape(100, 100) % 7
    with write(tmp_path / "out.tif", mask, is_mask=True) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), mask)
    with pytest.raises(SourceError, match="expected 64x64x1 of uint8"):
        write(tmp_path / "bad.tif", mask + 300, is_mask=True)


def test_rgba_tiles_of_an_rgb_image_are_composed_on_white(tmp_path):
    rgba = np.dstack([image(100, 80), np.full((100, 80), 255, np.uint8)])
    rgba[:50, :, 3] = 0
    writer = TifffileImageWriter(tmp_path / "a.tif", (80, 100, 3), 0.5, (64, 64), compression="zstd", n_workers=0)
    writer.from_tiles_iterator(tiles_of(rgba))
    pixels = tifffile.imread(tmp_path / "a.tif")
    assert (pixels[:50] == 255).all()
    np.testing.assert_array_equal(pixels[50:], rgba[50:, :, :3])


def test_real_dlup_dataset_through_its_iterator_and_in_the_workers(tmp_path, real_slide):
    """dlup 0.9 where it is installed; its dataset's tiles are not always the same, so a few may differ."""
    dataset = pytest.importorskip("dlup.data.dataset", reason="dlup is not installed")
    slide = pytest.importorskip("dlup").SlideImage.from_file_path(real_slide)
    config = dataset.TilingConfig(mpp=slide.mpp, tile_size=(512, 512))
    tiles = dataset.SlideDataset.from_standard_tiling(real_slide, tiling_config=config)
    writer = TifffileImageWriter(tmp_path / "a.tif", (*slide.size, 3), slide.mpp, pyramid=True, compression="zstd")
    writer.from_tiles_iterator(np.asarray(sample.image.to_numpy()) for sample in tiles)
    slidewright.convert(tiles, tmp_path / "b.tif", compression="zstd", levels=4)
    one, other = (tifffile.imread(tmp_path / name) for name in ("a.tif", "b.tif"))
    assert one.shape == other.shape == (2967, 2220, 3)
    assert np.mean(one == other) > 0.85


def test_script_without_a_main_guard_works(tmp_path):
    """The shape of the example on dlup's page, its dataset stood in for by one with the same samples."""
    script = textwrap.dedent(
        """
        import numpy as np
        from slidewright.dlup import TifffileImageWriter, TiffCompression

        class Slide:
            size = (1000, 700)
            mpp = 0.5

        class Dataset:  # C order, overflow: tiles at the border are padded to their size
            def __iter__(self):
                for y in range(0, 700, 512):
                    for x in range(0, 1000, 512):
                        yield {"image": np.full((512, 512, 3), (x + y) % 256, np.uint8)}

        slide, ds = Slide(), Dataset()
        writer = TifffileImageWriter(
            filename="out.tif",
            size=(*slide.size, 3),
            tile_size=(512, 512),
            mpp=slide.mpp,
            compression=TiffCompression.JPEG,
            pyramid=True,
        )

        def iterator():
            for sample in ds:
                image = np.asarray(sample["image"])
                yield image

        writer.from_tiles_iterator(iterator())
        """
    )
    (tmp_path / "script.py").write_text(script)
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, timeout=50)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert [page.shape for page in tiff.pages] == [(700, 1000, 3), (350, 500, 3)]
        np.testing.assert_allclose(tiff.pages.first.asarray()[600, 900], 1024 % 256, atol=2)
