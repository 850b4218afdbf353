"""TIFFs whose colours are stored as something else come out as Pillow and libvips show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms
from reading import assert_reads_like

import slidewright
from slidewright.errors import CorruptTileError
from slidewright.sources.open import open_source

Y, X = np.mgrid[:90, :130]
PIXELS = np.stack([X * 255 // 130, Y * 255 // 90, (X + Y) % 256], 2).astype(np.uint8)


def read(path: Path) -> NDArray[Any]:
    """All pixels, which every walk over the source gives."""
    source = open_source(path)
    pixels = np.array(source.open().read(0, 0, *source.info.size, np.empty(source.info.shape, source.info.dtype)))
    assert_reads_like(source, pixels, 32, 500)
    return pixels


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("compression", ["none", "lzw"])
def test_ycbcr_outside_jpeg_is_what_libtiff_shows(
    subsampling: tuple[int, int], compression: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    smooth = cv2.GaussianBlur(PIXELS, (0, 0), 5)
    write_ycbcr(path, smooth, subsampling, compression)
    if subsampling == (1, 1):  # which libvips shows as it is stored
        with Image.open(path) as image:
            shown = np.asarray(image.convert("RGB")).astype(int)
    else:  # which Pillow can't read uncompressed
        shown = pyvips.Image.tiffload(str(path)).numpy()[..., :3].astype(int)
    found = read(path)
    assert open_source(path).info.kind == "rgb"
    assert np.abs(found - shown).mean() < 1.5
    assert np.abs(found.astype(int) - smooth).mean() < 6


def write_ycbcr(path: Path, pixels: NDArray[Any], subsampling: tuple[int, int], compression: str) -> None:
    """Strips of 16 rows, whose units are packed by hand: no writer makes them outside JPEG."""
    across, down = subsampling
    yrb = cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb)
    height, width = pixels.shape[:2]
    wide, tall = -(-width // across) * across, -(-height // 16) * 16
    full = np.pad(yrb, ((0, tall - height), (0, wide - width), (0, 0)), mode="edge")
    luma = full[..., 0].reshape(tall // down, down, wide // across, across).transpose(0, 2, 1, 3)
    chroma = full[::down, ::across, [2, 1]]
    units = np.concatenate([luma.reshape(tall // down, wide // across, -1), chroma], 2)
    strips = units.reshape(tall // 16, 16 // down, wide // across, -1)
    rows = [min(16, height - 16 * n) for n in range(len(strips))]
    data = [strip[: -(-count // down)].tobytes() for strip, count in zip(strips, rows, strict=True)]
    if compression == "lzw":
        import imagecodecs

        data = [bytes(imagecodecs.lzw_encode(strip)) for strip in data]
    tags = [(530, "H", 2, subsampling, True)]
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"compression": "lzw", "rowsperstrip": 16, "extratags": tags, "metadata": None}
        tiff.write(iter(data), shape=pixels.shape, dtype="uint8", photometric="rgb", **options)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(6)
        tiff.pages.first.tags["Compression"].overwrite(5 if compression == "lzw" else 1)


@pytest.mark.parametrize("subsampling", [(4, 1), (4, 4)])
def test_subsampled_chroma_takes_less_than_the_pixels(subsampling: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_ycbcr(path, np.full((16, 64, 3), (200, 90, 40), np.uint8), subsampling, "none")
    np.testing.assert_allclose(read(path), pyvips.Image.tiffload(str(path)).numpy()[..., :3], atol=1)


@pytest.mark.parametrize("compression", ["none", "lzw"])
def test_strip_of_chroma_that_has_too_few_rows_is_damage(tmp_path: Path, compression: str) -> None:
    """It had those of the strip that was decoded before. The last one has fewer."""
    path, good = tmp_path / "a.tif", tmp_path / "b.tif"
    write_ycbcr(good, PIXELS[:70], (2, 2), compression)
    assert read(good).shape == (70, *PIXELS.shape[1:])
    write_ycbcr(path, PIXELS, (2, 2), compression)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["StripByteCounts"]
        tag.overwrite([count // 2 if n == 3 else count for n, count in enumerate(tag.value)])
    with pytest.raises(CorruptTileError, match="strip 3 does not decode"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0, tile_size=64)
    report = slidewright.convert(path, tmp_path / "o.tif", n_workers=0, tile_size=64, on_corrupt="fill")
    assert report.corrupt_tiles > 0


@pytest.mark.parametrize("kind", ["H", "2I"])
def test_reference_range_may_be_whole_numbers(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    grey = np.arange(15, 236, dtype=np.uint8)[None].repeat(16, 0)
    pixels = np.dstack([grey, np.full_like(grey, 128), np.full_like(grey, 128)])
    numbers = (15, 235, 128, 240, 128, 240)
    values = numbers if kind == "H" else tuple(part for number in numbers for part in (number, 1))
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, pixels, extratags=[(530, "H", 2, (1, 1), True), (532, kind, 6, values, True)], **options)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(6)
    expected = np.round((grey - 15.0) * 255 / 220)
    np.testing.assert_allclose(read(path), np.dstack([expected] * 3), atol=1)


@pytest.mark.parametrize(
    "options", [{"tile": (64, 64)}, {"compression": "zlib"}, {"planarconfig": "separate"}], ids=str
)
def test_inks_without_a_profile_are_what_pillow_shows(options: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    inks = np.dstack([PIXELS, PIXELS[..., 0] // 3])
    stored = inks.transpose(2, 0, 1) if "planarconfig" in options else inks
    tifffile.imwrite(path, np.ascontiguousarray(stored), photometric="separated", metadata=None, **options)
    np.testing.assert_array_equal(read(path), np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")))


def test_inks_of_sixteen_bits_are_those_of_eight(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    inks = np.dstack([PIXELS, PIXELS[..., 0] // 3])
    tifffile.imwrite(path, inks.astype(np.uint16) * 257, photometric="separated", tile=(64, 64), metadata=None)
    np.testing.assert_array_equal(read(path), np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")))


def test_inks_with_a_profile_are_what_littlecms_and_libvips_show(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    profile = bytes(pyvips.Image.profile_load("cmyk"))
    inks = np.dstack([PIXELS // 2, PIXELS[..., 0] // 3])
    tifffile.imwrite(path, inks, photometric="separated", tile=(64, 64), iccprofile=profile, metadata=None)
    shown = pyvips.Image.tiffload(str(path)).icc_transform("srgb", embedded=True, intent="perceptual").numpy()
    assert np.abs(read(path).astype(int) - shown).mean() < 2
    slidewright.convert(path, tmp_path / "out.tif", tile_size=64, n_workers=0)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.pages.first.iccprofile is None


def test_lab_is_what_pillow_shows(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    muted = Image.fromarray((PIXELS // 2 + 60).astype(np.uint8))
    image = ImageCms.profileToProfile(muted, srgb, lab, outputMode="LAB")
    image.save(path)  # type: ignore[union-attr]
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.photometric.name == "CIELAB"
    with Image.open(path) as stored:
        shown = np.asarray(ImageCms.profileToProfile(stored, lab, srgb, outputMode="RGB"))
    np.testing.assert_array_equal(read(path), shown)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_with_alpha_is_rgba(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = PIXELS[..., :2].astype(dtype)
    tifffile.imwrite(path, pixels, photometric="minisblack", extrasamples=["unassalpha"], tile=(64, 64), metadata=None)
    expected = pixels[..., [0, 0, 0, 1]]
    np.testing.assert_array_equal(read(path), expected)
    assert open_source(path).info.kind == "rgba"
    if dtype == "uint8":
        vips = pyvips.Image.tiffload(str(path)).colourspace("srgb").numpy()
        np.testing.assert_array_equal(vips, expected)
