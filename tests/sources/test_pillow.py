"""Pillow images of every mode are the kind of image that the mode is, with palette and profile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from reading import assert_reads_like

import slidewright
from slidewright.errors import OptionError, SourceError
from slidewright.sources.open import open_source

RGB = np.random.default_rng(13).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("mode", "kind", "dtype"),
    [
        ("1", "binary", "bool"),
        ("L", "grey", "uint8"),
        ("RGB", "rgb", "uint8"),
        ("RGBA", "rgba", "uint8"),
        ("I", "grey", "int32"),
        ("F", "grey", "float32"),
    ],
)
def test_plain_modes_are_read_as_they_are(mode: str, kind: str, dtype: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    source = open_source(image)
    assert (source.info.kind, source.info.dtype) == (kind, dtype)
    assert_reads_like(source, np.asarray(image), travels=False)


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_greys_of_either_byte_order(order: str) -> None:
    pixels = (RGB[..., 0].astype(np.uint16) * 257).astype(order)
    image = Image.frombytes("I;16" if order == "<u2" else "I;16B", (90, 60), pixels.tobytes())
    source = open_source(image)
    assert source.info.kind == "grey"
    assert_reads_like(source, pixels.astype(np.uint16), travels=False)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "RGBX"])
def test_other_colours_become_rgb(mode: str) -> None:
    image = Image.fromarray(RGB).convert(mode)
    source = open_source(image)
    assert source.info.kind == "rgb"
    assert_reads_like(source, np.asarray(image.convert("RGB")), travels=False)


def test_lab_becomes_rgb() -> None:
    lab = Image.merge("LAB", [Image.new("L", (20, 10), value) for value in (136, 208, 195)])  # L 53, a 80, b 67: red
    source = open_source(lab)
    assert source.info.kind == "rgb"
    red, green, blue = source.open().read(0, 0, 10, 20, np.empty((10, 20, 3), np.uint8))[5, 5]
    assert red > 240
    assert max(green, blue) < 30


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBa"])
def test_greys_and_palettes_with_alpha_become_rgba(mode: str) -> None:
    alpha = Image.fromarray(RGB[..., 1])
    if mode == "RGBa":
        image = Image.merge("RGBA", [*Image.fromarray(RGB).split(), alpha]).convert("RGBa")
    else:
        image = Image.merge("LA", [Image.fromarray(RGB[..., 0]), alpha]).convert(mode)
    source = open_source(image)
    assert source.info.kind == "rgba"
    assert_reads_like(
        source, np.asarray((image.convert("LA") if mode == "La" else image).convert("RGBA")), travels=False
    )


def test_palette_image_is_labels_with_its_colours() -> None:
    image = Image.new("P", (3, 2))
    image.putdata([0, 1, 2, 2, 1, 0])
    image.putpalette([255, 255, 255, 255, 0, 0, 0, 0, 128])
    source = open_source(image)
    assert source.info.kind == "labels"
    assert source.info.colormap is not None
    assert source.info.colormap[:3] == ((65_535, 65_535, 65_535), (65_535, 0, 0), (0, 0, 32_896))
    assert_reads_like(source, np.array([[0, 1, 2], [2, 1, 0]], np.uint8), travels=False)


def test_icc_profile_is_kept() -> None:
    image = Image.fromarray(RGB)
    image.info["icc_profile"] = b"profile"
    assert open_source(image).info.icc_profile == b"profile"
    assert open_source(image.convert("CMYK")).info.icc_profile is None


def test_damaged_file_behind_an_image_is_a_source_error(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(SourceError, match="can't be read"):
        open_source(image)


def test_choices_mean_nothing_for_an_image() -> None:
    for choice in ({"page": 0}, {"shape": (60, 90)}, {"dtype": "uint8"}):
        with pytest.raises(OptionError, match="leave it out"):
            open_source(Image.fromarray(RGB), **choice)


class Tensor:
    """What a tensor of another library is to slidewright: an object that makes an array of itself."""

    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        if self._pixels is None:
            raise TypeError("can't convert a tensor on a GPU; use tensor.cpu()")
        return self._pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, index: Any) -> Any:
        return self._pixels[index]


def test_object_that_makes_an_array_of_itself_is_one() -> None:
    source = open_source(Tensor(RGB))
    assert source.info.name == "Tensor"
    assert_reads_like(source, RGB, travels=False)
    with pytest.raises(SourceError, match=r"Tensor.*tensor\.cpu"):
        open_source(Tensor(None))


def test_image_is_converted_by_workers(tmp_path: Path) -> None:
    slidewright.convert(Image.fromarray(RGB), tmp_path / "a.tif", compression="deflate", tile_size=32, n_workers=2)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif", key=0), RGB)
