"""What a source gives becomes what the engine takes; values that can't be written are named with place and remedy."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from reading import assert_reads_like

import slidewright
from slidewright.errors import SourceError
from slidewright.options import ConvertOptions
from slidewright.sources.base import Source
from slidewright.sources.open import open_source
from slidewright.sources.pixel_format import resolve_pixels
from slidewright.sources.wrappers.adapt import adapted
from slidewright.sources.wrappers.alpha import compose

RNG = np.random.default_rng(12)


def adapt(pixels: Any, **given: Any) -> Source:
    options = ConvertOptions(**given)
    source = open_source(pixels)
    return adapted(source, resolve_pixels(options, source.info), options)


@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        ((40, 50, 3), "uint8", {}),
        ((40, 50, 4), "uint8", {"alpha": "keep"}),
        ((40, 50), "int32", {}),
        ((40, 50, 6), "uint16", {}),
        ((40, 50), "uint32", {"kind": "labels"}),
        ((40, 50), "uint8", {"colormap": ["red"] * 256}),
    ],
)
def test_source_that_needs_nothing_stays_itself(shape: Any, dtype: str, options: dict[str, Any]) -> None:
    source = open_source(np.zeros(shape, dtype))
    checked = ConvertOptions(**options)
    assert adapted(source, resolve_pixels(checked, source.info), checked) is source


@pytest.mark.parametrize("background", ["white", "#102030"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_is_composed_on_the_background(dtype: str, background: str) -> None:
    top = np.iinfo(dtype).max
    rgba = RNG.integers(0, top, (70, 90, 4), dtype=dtype, endpoint=True)
    rgba[:20, :, 3], rgba[20:40, :, 3] = top, 0
    source = adapt(rgba, alpha="compose", background=background, kind="rgba")
    assert (source.info.samples, source.info.kind) == (3, "rgb")
    colour = [255, 255, 255] if background == "white" else [16, 32, 48]
    below = np.array(colour) * (257 if dtype == "uint16" else 1)
    alpha = rgba[..., 3:].astype(np.int64)
    expected = np.floor((rgba[..., :3] * alpha + below * (top - alpha)) / top + 0.5).astype(dtype)
    out = np.empty((64, 64, 3), dtype)
    reader = source.open()
    for y in (0, 64):
        for x in (0, 64):
            height, width = min(64, 70 - y), min(64, 90 - x)
            got = reader.read(y, x, height, width, out)
            np.testing.assert_array_equal(got, expected[y : y + 64, x : x + 64])


@given(st.sampled_from(["uint8", "uint16"]), st.data())
def test_composing_rounds_to_nearest(dtype: str, data: st.DataObject) -> None:
    top = int(np.iinfo(dtype).max)
    colour, alpha, below = (data.draw(st.integers(0, top)) for _ in range(3))
    out = np.empty((1, 1, 3), dtype)
    compose(np.array([[[colour] * 3 + [alpha]]], dtype), (below,) * 3, out)
    twice = 2 * (colour * alpha + below * (top - alpha)) + top
    assert int(out[0, 0, 0]) == twice // (2 * top)


VIEWS: dict[str, Any] = {
    "crop": np.s_[3:50, 5:40],
    "every-other": np.s_[::2, ::2],
    "upside-down": np.s_[::-1],
    "mirrored": np.s_[:, ::-1],
    "pixel": np.s_[7:8, 9:10],
}


@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("view", VIEWS)
def test_composing_reads_and_writes_views(view: str, dtype: str, opaque: bool) -> None:
    top = int(np.iinfo(dtype).max)
    whole = RNG.integers(0, top, (60, 70, 4), dtype=dtype, endpoint=True)
    if opaque:
        whole[..., 3] = top
    rgba = whole[VIEWS[view]]
    frame = np.zeros((80, 90, 3), dtype)
    compose(rgba, (3, 4, 5), frame[: rgba.shape[0], : rgba.shape[1]])
    alpha = rgba[..., 3:].astype(np.int64)
    expected = (rgba[..., :3] * alpha + np.array([3, 4, 5]) * (top - alpha) + top // 2) // top
    np.testing.assert_array_equal(frame[: rgba.shape[0], : rgba.shape[1]], expected)
    assert not frame[rgba.shape[0] :].any()


def test_flags_become_zero_and_one_without_a_copy() -> None:
    mask = RNG.random((60, 70)) > 0.5
    source = adapt(mask)
    assert (source.info.kind, source.info.dtype) == ("binary", "uint8")
    assert np.shares_memory(source.open().read(0, 0, 60, 70, np.empty((64, 70, 1), np.uint8)), mask)
    assert_reads_like(source, mask.astype(np.uint8), travels=False)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 2])
def test_flags_whose_bytes_are_others_become_zero_and_one(tmp_path: Path, workers: int) -> None:
    """`mask.view(bool)` of a mask of 0 and 255 leaves its bytes as they are, and NumPy takes them for False and True.
    """
    mask = (RNG.random((100, 130)) > 0.5) * np.uint8(255)
    assert_reads_like(adapt(mask.view(bool)), mask // 255, travels=False)
    slidewright.convert(mask.view(bool), tmp_path / "out.tif", tile_size=32, compression="zstd", n_workers=workers)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), mask // 255)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int8"])
def test_zero_one_masks_of_any_integers_become_bytes(dtype: str) -> None:
    mask = (RNG.random((60, 70)) > 0.5).astype(dtype)
    assert_reads_like(adapt(mask, kind="binary"), mask.astype(np.uint8), travels=False)


def placed(dtype: str, value: float, samples: int = 1) -> NDArray[Any]:
    """Zeros with one value at x=37, y=21, in the last channel."""
    pixels = np.zeros((50, 60, samples), dtype)
    pixels[21, 37, -1] = value
    return pixels


@pytest.mark.parametrize(
    ("pixels", "options", "value", "remedy"),
    [
        (placed("uint8", 255), {"kind": "binary"}, "255", "mask > 0"),
        (placed("int16", -1), {"kind": "binary"}, "-1", "mask > 0"),
        (
            placed("uint8", 3),
            {"colormap": {0: "white", 2: "red"}},
            "3",
            "beyond the palette, which ends at 2.*colormap",
        ),
        (placed("uint16", 300), {"colormap": ["red"] * 256}, "300", "ends at 255"),
        (placed("int32", -7), {"kind": "labels"}, "-7", r"labels\.clip\(0\)"),
        (placed("float32", np.nan), {}, "nan", r"np\.nan_to_num"),
        (placed("float32", -np.inf), {}, "-inf", r"np\.nan_to_num"),
        (placed("float32", np.nan, 5), {}, "nan", "channel 4.*nan_to_num"),
    ],
)
def test_bad_value_is_named_with_its_place_and_remedy(pixels: Any, options: Any, value: str, remedy: str) -> None:
    source = adapt(pixels, **options)
    reader, samples = source.open(), source.info.samples
    out = np.empty((16, 16, samples), source.info.dtype)
    reader.read(0, 32, 16, 16, out)
    with pytest.raises(SourceError, match=rf"value {value} at x=37, y=21.*{remedy}"):
        reader.read(16, 32, 16, 16, out)
    if samples > 1:
        single = np.empty((16, 16, 1), source.info.dtype)
        reader.read(16, 32, 16, 16, single, 3)
        with pytest.raises(SourceError, match="x=37, y=21, channel 4"):
            reader.read(16, 32, 16, 16, single, 4)


@pytest.mark.parametrize("how", [{}, {"on_disk": True}])
def test_adapted_source_travels_with_what_it_prepares(tmp_path: Path, how: Any) -> None:
    mask = RNG.random((60, 70)) > 0.5
    source: Any = adapt(mask)
    with source.shared(str(tmp_path), **how) as shared:
        assert shared.info == source.info
        assert_reads_like(shared, mask.astype(np.uint8), travels=False)
    np.save(tmp_path / "a.npy", mask)
    saved: Any = adapt(tmp_path / "a.npy")
    with saved.shared(str(tmp_path)) as same:
        assert_reads_like(pickle.loads(pickle.dumps(same)), mask.astype(np.uint8))


@pytest.mark.parametrize("how", ["image", "array", "file", "fax"])
def test_booleans_that_are_255_in_memory_become_1(how: str, tmp_path: Path) -> None:
    mask = np.zeros((70, 90), bool)
    mask[20:50, 10:60] = True
    image = Image.fromarray(mask)  # of which NumPy makes True with a byte of 255
    source = {"image": image, "array": np.asarray(image), "file": tmp_path / "mask.png", "fax": tmp_path / "mask.tif"}
    image.save(source["file"])
    image.save(source["fax"], compression="group4")
    slidewright.convert(source[how], tmp_path / "out.tif", compression="deflate", n_workers=0)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif", key=0), mask.astype(np.uint8))
