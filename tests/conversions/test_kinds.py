"""Kinds of image, end to end: through `convert` and through `PyramidWriter`, every level against the oracle, the same
bytes for any number of workers and any block size; and what makes no sense, refused.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import tifffile
from oracle import pyramid
from PIL import Image
from written import digest, image

import slidewright
from slidewright import OptionError, PyramidWriter, SourceError
from slidewright.geometry import Size
from slidewright.options import ConvertOptions
from slidewright.pixels import parse_colormap
from slidewright.sources.base import SourceInfo
from slidewright.sources.pixel_format import resolve_pixels

pytestmark = pytest.mark.timeout(60)
TILE = 32
RNG = np.random.default_rng(5)
LABELS = np.kron(RNG.integers(0, 5, (40, 30)), np.ones((7, 9), np.int64))[:261, :259]

KINDS = {
    "rgba": (np.dstack([image(261, 259), RNG.integers(0, 256, (261, 259), np.uint8)]), {}, "mean"),
    "grey16": (image(261, 259, 1, "uint16"), {}, "mean"),
    "signed": ((image(261, 259, 1, "uint16").astype(np.int32) - 30000).astype(np.int16), {}, "mean"),
    "float": (RNG.normal(0, 50, (261, 259)).astype(np.float32), {}, "mean"),
    "float median": (RNG.normal(0, 50, (261, 259)).astype(np.float32), {"resampling": "median"}, "median"),
    "two channels": (image(261, 259, 2), {"kind": "multichannel"}, "mean"),
    "channels": (image(261, 259, 7, "uint16"), {}, "mean"),
    "labels": (LABELS.astype(np.uint8), {"kind": "labels"}, "nearest"),
    "labels of instances": (LABELS.astype(np.uint32) * 100_000, {"kind": "labels", "resampling": "mode"}, "mode"),
    "palette": (LABELS.astype(np.uint16), {"colormap": {1: "red", 5: "blue"}, "resampling": "max"}, "max"),
    "flags": (LABELS > 2, {}, "nearest"),
    "mask": ((LABELS > 2).astype(np.uint8), {"kind": "binary", "resampling": "min"}, "min"),
    "bits": (LABELS > 2, {"bits": 1, "resampling": "mode"}, "mode"),
    "fax": (LABELS > 2, {"compression": "ccitt-t6"}, "nearest"),
}


def assert_file(path, pixels, method):
    stored = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
    with tifffile.TiffFile(path) as tiff:
        for page, level in zip(tiff.pages, pyramid(stored, TILE, method), strict=True):
            found = page.asarray()
            found = np.moveaxis(found, 0, -1) if page.planarconfig == 2 else found
            np.testing.assert_array_equal(found.reshape(level.shape), level)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_exact_on_every_level_however_it_was_made(tmp_path, kind):
    pixels, options, method = KINDS[kind]
    digests = set()
    for n_workers, block_tiles in ((0, 1), (0, 8), (2, 2)):
        path = tmp_path / f"{n_workers}-{block_tiles}.tif"
        slidewright.convert(pixels, path, n_workers=n_workers, block_tiles=block_tiles, tile_size=TILE, **options)
        digests.add(digest(path))
    assert_file(path, pixels, method)
    for overlap in ("refuse", "replace"):
        path = tmp_path / f"{overlap}.tif"
        arguments = {"dtype": pixels.dtype, "overlap": overlap, "n_workers": 1, "tile_size": TILE, **options}
        with PyramidWriter(path, pixels.shape, **arguments) as writer:
            for row in range(9):
                for column in range(9):
                    tile = pixels[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
                    writer.write_tile(tile, row, column)
        digests.add(digest(path))
    assert len(digests) == 1


@pytest.mark.parametrize("overlap", ["refuse", "replace"])
def test_missing_tiles_of_every_kind_are_its_background(tmp_path, overlap):
    for kind, background, expected in [
        ("rgba", None, (255, 255, 255, 0)), ("rgba", "red", (255, 0, 0, 0)), ("grey16", 700, 700), ("signed", -3, -3),
        ("float", 0.5, 0.5), ("channels", 9, 9), ("channels", None, 0), ("palette", 4, 4), ("flags", None, 0),
        ("fax", 1, 1),
    ]:  # fmt: skip
        pixels, options, method = KINDS[kind]
        path = tmp_path / "out.tif"
        arguments = {"dtype": pixels.dtype, "overwrite": True, "n_workers": 0, "tile_size": TILE, **options}
        with PyramidWriter(path, pixels.shape, overlap=overlap, background=background, **arguments) as writer:
            writer.write_tile(pixels[64:96, 32:64], 2, 1)
        wanted = np.empty_like(pixels)
        wanted[...] = expected
        wanted[64:96, 32:64] = pixels[64:96, 32:64]
        assert_file(path, wanted, method)


def test_alpha_is_composed_wherever_pixels_come_from(tmp_path):
    rgba = KINDS["rgba"][0]
    alpha = rgba[:, :, 3:].astype(int)
    red = np.array([255, 0, 0])
    composed = ((rgba[:, :, :3] * alpha + red * (255 - alpha)) / 255 + 0.5).astype(np.uint8)
    options = {"alpha": "compose", "background": "red", "tile_size": TILE, "compression": "lzw"}
    slidewright.convert(rgba, tmp_path / "a.tif", n_workers=2, **options)
    assert_file(tmp_path / "a.tif", composed, "mean")
    for overlap in ("refuse", "replace"):
        with PyramidWriter(tmp_path / f"{overlap}.tif", rgba.shape, overlap=overlap, n_workers=1, **options) as writer:
            writer.write_tile(rgba[:32, :32], 0, 0)
        wanted = np.empty_like(composed)
        wanted[...] = red
        wanted[:32, :32] = composed[:32, :32]
        assert_file(tmp_path / f"{overlap}.tif", wanted, "mean")


def test_hundred_channels(tmp_path):
    pixels = image(130, 140, 100, "uint16")
    with PyramidWriter(tmp_path / "out.tif", pixels.shape, dtype="uint16", n_workers=2, tile_size=TILE) as writer:
        writer.write(pixels[y : y + 32, x : x + 32] for y in range(0, 130, 32) for x in range(0, 140, 32))
    assert_file(tmp_path / "out.tif", pixels, "mean")
    assert tifffile.imread(tmp_path / "out.tif").shape == (100, 130, 140)
    with pytest.raises(SourceError, match="at most 100"):
        PyramidWriter(tmp_path / "x.tif", (10, 10, 101), dtype="uint16", n_workers=0).__enter__()


@pytest.mark.parametrize("n_workers", [0, 1])
@pytest.mark.parametrize(
    ("value", "dtype", "options", "message"),
    [
        (
            5,
            "uint8",
            {"colormap": ["white", "red"]},
            "value 5 at x=40, y=70 is a label beyond the palette, which ends at 1",
        ),
        (2, "uint8", {"kind": "binary"}, "value 2 at x=40, y=70 is neither 0 nor 1"),
        (-1, "int16", {"kind": "labels"}, "value -1 at x=40, y=70 is no label"),
        (np.nan, "float32", {}, "value nan at x=40, y=70 .*nan_to_num"),
    ],
)
def test_bad_values_are_refused_as_soon_as_seen_with_their_place(tmp_path, n_workers, value, dtype, options, message):
    pixels = np.zeros((100, 100), dtype)
    pixels[70, 40] = value
    with pytest.raises(SourceError, match=message):
        slidewright.convert(pixels, tmp_path / "out.tif", n_workers=n_workers, tile_size=TILE, **options)
    for overlap in ("refuse", "replace"):
        writer = PyramidWriter(
            tmp_path / "out.tif",
            (100, 100),
            dtype=dtype,
            overlap=overlap,
            n_workers=n_workers,
            tile_size=TILE,
            **options,
        )
        with pytest.raises(SourceError, match=message), writer:
            writer.write_tile(pixels[64:96, 32:64], 2, 1)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("samples", "dtype", "options", "message"),
    [
        (3, "uint8", {"colormap": ["red"]}, "colormap is for labels"),
        (3, "uint8", {"kind": "labels"}, "kind 'labels' has 1 sample"),
        (1, "uint8", {"kind": "rgb"}, "kind 'rgb' has 3 samples"),
        (1, "uint8", {"kind": "grey", "colormap": ["red"]}, "'grey' has no palette"),
        (1, "uint32", {"colormap": ["red"]}, "uint8 or uint16"),
        (1, "uint8", {"colormap": {256: "red"}}, "labels of uint8 end at 255"),
        (1, "uint8", {"colormap": {}}, "colormap is empty"),
        (1, "uint8", {"colormap": {-1: "red"}}, "index -1"),
        (1, "uint8", {"colormap": {1: "rouge"}}, r"colormap\[1\] 'rouge' is not a colour"),
        (1, "uint8", {"colormap": {1: (1, 2, 256)}}, r"not \(red, green, blue\)"),
        (1, "uint8", {"kind": "labels", "resampling": "mean"}, "choose one of nearest, mode, max, min"),
        (1, "bool", {"resampling": "median"}, "choose one of nearest"),
        (1, "uint8", {"alpha": "compose"}, "alpha 'compose' applies to RGBA"),
        (3, "uint8", {"background": 3}, "wants a colour"),
        (1, "uint8", {"background": "red"}, "want a number"),
        (1, "uint8", {"background": 256}, "not a value of uint8"),
        (1, "bool", {"background": 2}, "not a value of"),
        (1, "float32", {"background": float("nan")}, "not a value of float32"),
        (1, "float64", {}, r"astype\('float32'\)"),
        (1, "int64", {"kind": "labels"}, r"astype\('int32'\)"),
    ],
)
def test_kinds_that_make_no_sense_are_refused_with_the_remedy(samples, dtype, options, message):
    with pytest.raises((OptionError, SourceError), match=message):
        resolve_pixels(ConvertOptions(**options), SourceInfo("it", "array", Size(10, 10), samples, dtype))


def test_kind_follows_dtype_samples_and_source():
    def kind(samples, dtype, said=None, **options):
        info = SourceInfo("it", "array", Size(10, 10), samples, dtype, kind=said)
        return resolve_pixels(ConvertOptions(**options), info).kind

    assert [kind(n, "uint8") for n in (1, 2, 3, 4, 5)] == ["grey", "multichannel", "rgb", "rgba", "multichannel"]
    assert [kind(n, "uint16") for n in (1, 3, 4)] == ["grey", "multichannel", "multichannel"]
    assert kind(1, "bool") == "binary"
    assert kind(1, "uint8", said="labels") == "labels"
    assert kind(1, "uint8", colormap=["red"]) == "labels"
    assert kind(3, "uint16", kind="rgb") == "rgb"
    assert kind(4, "uint8", alpha="compose") == "rgb"


def test_colormap_is_a_palette_up_to_its_highest_index():
    assert parse_colormap({2: "red", 0: (1, 2, 3)}) == ((257, 514, 771), (0, 0, 0), (65535, 0, 0))
    assert parse_colormap(["white", "#102030"]) == ((65535, 65535, 65535), (0x1010, 0x2020, 0x3030))


def test_page_of_labels_is_of_labels(tmp_path):
    labels = np.random.default_rng(0).integers(0, 9, (2, 128, 128), np.uint16)
    slidewright.convert(labels, tmp_path / "a.ome.tif", kind="labels", axes="ZYX", z="all", n_workers=0, tile_size=64)
    slidewright.convert(tmp_path / "a.ome.tif", tmp_path / "b.tif", page=1, n_workers=0, tile_size=64)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert np.array_equal(tiff.series[0].levels[1].asarray(), labels[1, ::2, ::2])


@pytest.mark.parametrize("beside", [None, "label.png"])
def test_labels_with_a_description_of_their_own_stay_labels(tmp_path, beside):
    labels = np.random.default_rng(0).integers(0, 9, (200, 300), np.uint8)
    Image.fromarray(labels[:20, :30]).save(tmp_path / "label.png")
    said = {"kind": "labels", "description": "of cells", "n_workers": 0, "tile_size": 64, "compression": "deflate"}
    said["label"] = tmp_path / beside if beside else None
    assert slidewright.convert(labels, tmp_path / "a.tif", **said).warnings == ()
    for source, out in (("a", "b"), ("b", "c")):  # the second has tiles of the first
        description = {"description": "of the same"} if out == "b" else {}
        slidewright.convert(tmp_path / f"{source}.tif", tmp_path / f"{out}.tif", n_workers=0, **description)
        with tifffile.TiffFile(tmp_path / f"{out}.tif") as tiff:
            assert np.array_equal(tiff.series[0].asarray(), labels)
            assert np.array_equal(tiff.series[0].levels[1].asarray(), labels[::2, ::2])
    assert slidewright.info(tmp_path / "b.tif").keeping.startswith("kept from its source")
