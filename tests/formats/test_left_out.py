"""What a source says, or the options, and an output has no place for, is told in a warning."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

import slidewright

PIXELS = np.full((200, 300, 3), 200, np.uint8)


def test_channels_of_a_source_have_no_place_in_a_plain_tiff(tmp_path):
    given = {"channel_names": ["a", "b"], "kind": "multichannel", "n_workers": 0}
    slidewright.convert(PIXELS[:, :, :2].astype(np.uint16), tmp_path / "a.ome.tif", **given)
    report = slidewright.convert(tmp_path / "a.ome.tif", tmp_path / "b.tif", n_workers=0)
    assert ["names and colours of its channels" in warning for warning in report.warnings] == [True]


def test_description_that_is_given_takes_the_place_of_what_is_known(tmp_path):
    said = {"description": "mine", "n_workers": 0, "overwrite": True}
    report = slidewright.convert(PIXELS, tmp_path / "a.tif", objective_power=20, **said)
    assert ["objective power, in whose place" in warning for warning in report.warnings] == [True]
    assert slidewright.info(tmp_path / "a.tif").description == "mine"
    assert slidewright.convert(PIXELS, tmp_path / "a.tif", **said).warnings == ()
    assert slidewright.convert(PIXELS, tmp_path / "a.ome.tif", objective_power=20, **said).warnings == ()


def test_image_beside_the_levels_that_is_not_there_is_told(tmp_path):
    wanted = {"associated": ["label", "macro", "thumbnail"], "n_workers": 0}
    report = slidewright.convert(PIXELS, tmp_path / "a.tif", **wanted)
    assert report.warnings == ("NumPy array has no label and no macro to write beside the levels",)
    report = slidewright.convert(PIXELS.astype(np.uint16), tmp_path / "b.ome.tif", **wanted)
    assert report.warnings == ("NumPy array has no label and no macro and no thumbnail to write beside the levels",)


def test_all_that_an_ome_tiff_says_is_in_a_plain_tiff_when_it_is_asked_for(tmp_path):
    said = "Aperio Image Library v12\r\n1x1|AppMag = 20|User = jane|Filename = case 7"
    rgb = {"photometric": "rgb", "metadata": None, "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "0.svs", PIXELS, description=said, software=False, **rgb)
    for before, name in (("0.svs", "1.ome.tif"), ("1.ome.tif", "2.tif"), ("2.tif", "3.tif"), ("3.tif", "4.ome.zarr")):
        slidewright.convert(tmp_path / before, tmp_path / name, keep_metadata="all", n_workers=0)
        found = slidewright.info(tmp_path / name).metadata
        assert found.objective_power == 20
        assert "jane" in str(found.identifying), name
        assert "case 7" in str(found.identifying), name
    assert "jane" not in str(slidewright.convert(tmp_path / "3.tif", tmp_path / "5.tif", n_workers=0))
    assert b"jane" not in (tmp_path / "5.tif").read_bytes()


@pytest.mark.parametrize("kind", ["whole", "no unit", "moved", "colours"])
def test_what_an_ome_zarr_says_of_place_scale_and_colours_is_told(tmp_path, kind):
    pixels = PIXELS[:, :, 0].astype(np.uint32) if kind == "colours" else PIXELS
    options = {"kind": "labels"} if kind == "colours" else {}
    slidewright.convert(pixels, tmp_path / "a.ome.zarr", mpp=0.25, tile_size=64, n_workers=0, **options)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r+")
    ome = dict(group.attrs)["ome"]
    (image,) = ome["multiscales"]
    if kind == "no unit":
        for axis in image["axes"]:
            axis.pop("unit", None)
    elif kind == "moved":
        for dataset in image["datasets"]:
            dataset["coordinateTransformations"][1]["translation"][-1] += 1000
    elif kind == "colours":
        ome["image-label"] = {"colors": [{"label-value": 200, "rgba": [255, 0, 0, 255]}]}
    group.attrs["ome"] = ome
    words = {"no unit": "0.25 x 0.25, of which it names no unit", "moved": "1000 and 0", "colours": "of uint32"}
    for level in (0, 1):
        report = slidewright.convert(tmp_path / "a.ome.zarr", tmp_path / f"{level}.ome.zarr", level=level, n_workers=0)
        assert [words[kind] in warning for warning in report.warnings] == ([] if kind == "whole" else [True])


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
@pytest.mark.parametrize("kind", ["labels", "binary"])
def test_masks_without_a_palette_stay_masks(tmp_path, kind, name):
    dtype, top = ("uint32", 70_000) if kind == "labels" else ("uint8", 1)
    pixels = np.random.default_rng(3).integers(0, 2, (200, 300)).astype(dtype) * np.dtype(dtype).type(top)
    slidewright.convert(pixels, tmp_path / name, kind=kind, tile_size=64, n_workers=0)
    source = slidewright.open_source(tmp_path / name)
    assert (source.info.kind, source.info.metadata.identifying) == (kind, ())
    slidewright.convert(tmp_path / name, tmp_path / "b.ome.zarr", tile_size=64, n_workers=0)
    group = zarr.open_group(tmp_path / "b.ome.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][...], pixels)
    np.testing.assert_array_equal(group["1"][...], pixels[::2, ::2])


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif"])
@pytest.mark.parametrize("kind", ["labels", "binary"])
def test_labels_and_masks_are_verified_as_such_against_an_array(tmp_path, kind, name):
    pixels = np.random.default_rng(5).integers(0, 2, (130, 140), np.uint8)
    options = {"kind": kind, "tile_size": 32, "compression": "deflate", "n_workers": 0}
    slidewright.convert(pixels, tmp_path / name, **options)
    assert all(level.exact for level in slidewright.verify_file(tmp_path / name, against=pixels).levels)


@pytest.mark.timeout(60)
def test_images_that_nobody_chose_from_are_told_with_their_series(tmp_path):
    small = {"label": PIXELS[:40, :50], "macro image": PIXELS[:30, :60]}
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        for name, pixels in {"label": small["label"], "first": PIXELS, "second": PIXELS, **small}.items():
            tiff.write(pixels, photometric="rgb", tile=(64, 64), subifds=1, metadata={"Name": name, "axes": "YXS"})
            tiff.write(pixels[::2, ::2], photometric="rgb", tile=(64, 64), subfiletype=1)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        for number, pixels in enumerate((PIXELS, PIXELS[::2, ::2], PIXELS[:90], PIXELS[:, :90], small["label"])):
            said = {"description": "label" if number == 4 else "", "subfiletype": int(number == 1)}
            tiff.write(pixels, photometric="rgb", tile=(64, 64), metadata=None, **said)
    store = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    store.attrs["bioformats2raw.layout"] = 3
    for number in ("0", "1", "2"):
        member = store.create_group(number)
        member.create_array("0", shape=(64, 64), dtype="u1", chunks=(64, 64))[...] = 1
        axes = [{"name": axis, "type": "space"} for axis in "yx"]
        member.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    listed = {"a.ome.tif": "1 more image (series 2:", "a.tif": "2 more images (series 1, 2:", "a.zarr": "2 more images"}
    for name, words in listed.items():
        (warning,) = slidewright.convert(tmp_path / name, tmp_path / "out.tif", overwrite=True, n_workers=0).warnings
        assert words in warning
        assert words in str(slidewright.info(tmp_path / name).left_out)
        chosen = {"series": 1, "overwrite": True, "n_workers": 0}
        assert slidewright.convert(tmp_path / name, tmp_path / "out.tif", **chosen).warnings == ()
