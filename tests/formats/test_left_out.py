"""What a source says, or the options, and an output has no place for, is told in a warning."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tifffile
import zarr
from PIL import ImageCms

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


@pytest.mark.parametrize("kind", ["whole", "no unit", "moved", "turned", "colours"])
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
    elif kind == "turned":
        image["coordinateTransformations"] = [{"type": "identity"}, {"type": "affine", "affine": [[0, 1, 0, 9]]}]
    elif kind == "colours":
        ome["image-label"] = {"colors": [{"label-value": 200, "rgba": [255, 0, 0, 255]}]}
    group.attrs["ome"] = ome
    words = {"no unit": "0.25 x 0.25, of which it names no unit", "moved": "1000 and 0", "colours": "of uint32"}
    words["turned"] = "a transformation of kind affine)"
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


GDAL = (
    '<GDALMetadata><Item name="DESCRIPTION" sample="0" role="description">near &amp; far</Item>'
    '<Item name="DESCRIPTION" sample="1">a word about it</Item></GDALMetadata>'
)
OBJECTIVES = '<Objective ID="O:0" NominalMagnification="40"/><Objective ID="O:1" NominalMagnification="10"/>'


def ome_of(pixels: str, planes: str = "") -> str:
    return (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint16" SizeX="300" SizeY="200" SizeC="1" SizeZ="1" '
        f'SizeT="1" {pixels}><Channel ID="Channel:0:0"/><TiffData/>{planes}</Pixels></Image></OME>'
    )


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"resolution": (2, 3), "resolutionunit": "NONE"}, "its resolution of 2 x 3 pixels in a unit"),
        ({"resolution": (1, 1), "resolutionunit": "NONE"}, None),
        ({"extratags": [(286, 5, 1, (3, 2), True)]}, "where it lies"),
        ({"extratags": [(33550, 12, 3, (10.0, 10.0, 0.0), True)]}, "where it lies on the earth"),
        ({"description": ome_of('PhysicalSizeX="0.5"')}, r"PhysicalSizeX 0.5 \(µm\), which is not two"),
        ({"description": ome_of('PhysicalSizeX="2" PhysicalSizeXUnit="pixel" PhysicalSizeY="2"')}, "Y 2 .pixel, µm.,"),
        ({"description": ome_of('PhysicalSizeX="2" PhysicalSizeY="2"')}, None),
        ({"description": ome_of('SignificantBits="12"')}, None),
        ({"description": ome_of('SignificantBits="16"', '<Plane TheC="0" TheZ="0" TheT="0"/>')}, None),
        ({"description": ome_of("", '<Plane TheC="0" TheZ="0" TheT="0" PositionX="3"/>')}, "plane .PositionX."),
        ({"description": ome_of("").replace("</Pixels>", '</Pixels><ROIRef ID="ROI:0"/>')}, "what is drawn on it"),
        ({"description": ome_of("").replace("<Image", OBJECTIVES + "<Image")}, "of its objectives .* 10, 40: give obj"),
        ({"imagej": True, "metadata": {"unit": "furlong"}, "resolution": (2, 3)}, "2 x 3 pixels in a unit"),
        ({"imagej": True, "metadata": {"unit": "micron", "xorigin": 3.0}, "resolution": (2, 3)}, "ImageJ's origin"),
        ({"imagej": True, "metadata": {"ROI": b"Iout"}}, "what is drawn on it"),
        ({"imagej": True, "metadata": {"min": 10.0, "max": 500.0}}, "shows as black and white .10 to 500"),
        ({"imagej": True, "metadata": {"min": 0.0, "max": 65535.0}}, None),
        ({"extratags": [(42112, 2, 0, GDAL, True)]}, "names of its bands as GDAL has them .near & far"),
    ],
)
def test_what_a_tiff_says_of_size_place_and_bits_is_told(tmp_path, given, words):
    given = {"metadata": None, **given}
    given["description"] = given.get("description", "").encode() or None
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[:, :, 0].astype(np.uint16), **given)
    report = slidewright.convert(tmp_path / "a.tif", tmp_path / "b.ome.tif", n_workers=0)
    assert [bool(re.search(words or "", warning)) for warning in report.warnings] == ([] if words is None else [True])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kept", ["allowed", "all"])
def test_what_is_given_in_place_of_what_is_lost_is_not_asked_for(tmp_path, kept):
    given = {"resolution": (1, 2), "resolutionunit": "INCH", "description": ome_of("").encode(), "metadata": None}
    given["description"] = given["description"].replace(b"<Image", OBJECTIVES.encode() + b"<Image")
    tifffile.imwrite(tmp_path / "a.tif", PIXELS[:, :, 0].astype(np.uint16), **given)
    options = {"n_workers": 0, "overwrite": True, "keep_metadata": kept}
    (warning,) = slidewright.convert(tmp_path / "a.tif", tmp_path / "b.ome.tif", **options).warnings
    assert {"give mpp", "give objective_power"} <= set(re.findall(r"give \w+", warning))
    (warning,) = slidewright.convert(tmp_path / "a.tif", tmp_path / "b.ome.tif", mpp=0.5, **options).warnings
    assert re.findall(r"give \w+", warning) == ["give objective_power"]
    more = {"mpp": 0.5, "objective_power": 40}
    assert slidewright.convert(tmp_path / "a.tif", tmp_path / "b.ome.tif", **more, **options).warnings == ()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "told"), [("b.ome.tif", False), ("b.tif", True), ("b.ome.zarr", True)])
@pytest.mark.parametrize("bits", [12, None])
def test_bits_that_are_used_are_said_or_told(tmp_path, name, told, bits):
    """Those that OME says, and those of a plain TIFF whose samples have fewer than 16."""
    said = {"description": ome_of(f'SignificantBits="{bits}"').encode()} if bits else {"bitspersample": 10}
    tifffile.imwrite(tmp_path / "a.tif", np.full((200, 300), 700, np.uint16), metadata=None, **said)
    report = slidewright.convert(tmp_path / "a.tif", tmp_path / name, n_workers=0)
    assert [f"that {bits or 10} bits of each" in warning for warning in report.warnings] == [True] * told
    if not told:
        with tifffile.TiffFile(tmp_path / name) as tiff:
            assert f'SignificantBits="{bits or 10}"' in tiff.ome_metadata


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "word"), [("b.svs", "a plain TIFF has no place"), ("b.ome.zarr", "no place in NGFF")])
def test_name_of_the_channel_of_colours_has_no_place(tmp_path, name, word):
    slidewright.convert(PIXELS, tmp_path / "a.ome.tif", channel_names=["H&E"], n_workers=0)
    options = {"flavour": "aperio"} if name.endswith("svs") else {}
    report = slidewright.convert(tmp_path / "a.ome.tif", tmp_path / name, n_workers=0, **options)
    assert [word in warning for warning in report.warnings] == [True]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["b.tif", "b.ome.zarr"])
def test_default_colour_and_number_of_a_channel_are_no_loss(tmp_path, name):
    """As Bio-Formats writes them of colours and of a single grey."""
    said = {"channel_colors": ["white"], "channel_names": ["Channel 0"], "n_workers": 0}
    slidewright.convert(PIXELS, tmp_path / "a.ome.tif", **said)
    assert slidewright.convert(tmp_path / "a.ome.tif", tmp_path / name, n_workers=0).warnings == ()
    slidewright.convert(PIXELS[:, :, 0], tmp_path / "a.ome.tif", overwrite=True, **said)
    assert slidewright.convert(tmp_path / "a.ome.tif", tmp_path / name, overwrite=True, n_workers=0).warnings == ()
    slidewright.convert(PIXELS, tmp_path / "a.ome.tif", overwrite=True, **said | {"channel_names": ["488"]})
    assert slidewright.convert(tmp_path / "a.ome.tif", tmp_path / name, overwrite=True, n_workers=0).warnings != ()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "names", [("DAPI", "FITC", "Cy5"), ("Red", "green", "B"), ("Channel 0", "Channel 1", "Channel 2"), (0, 1, 2)]
)
def test_names_of_channels_that_are_taken_for_colours_are_told(tmp_path, names):
    slidewright.convert(PIXELS, tmp_path / "a.ome.zarr", n_workers=0)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r+")
    ome = dict(group.attrs)["ome"]
    for channel, name in zip(ome["omero"]["channels"], names, strict=True):
        channel["label"] = name
    group.attrs["ome"] = ome
    report = slidewright.convert(tmp_path / "a.ome.zarr", tmp_path / "b.ome.tif", n_workers=0)
    assert ["DAPI, FITC, Cy5" in warning for warning in report.warnings] == ([True] if names[0] == "DAPI" else [])
    coloured = {"channel_colors": ["white"], "n_workers": 0}
    assert slidewright.convert(tmp_path / "a.ome.zarr", tmp_path / "d.ome.tif", **coloured).warnings == report.warnings
    told = {"channel_names": ["H&E"], "n_workers": 0}
    assert slidewright.convert(tmp_path / "a.ome.zarr", tmp_path / "c.ome.tif", **told).warnings == ()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_names_and_attributes_of_a_zarr_that_nobody_here_knows_are_kept_when_all_is(tmp_path, ngff):
    multiscale = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}], "name": "case of Smith"}
    said = {"multiscales": [multiscale], "omero": {"channels": [], "name": "smith.czi", "id": 7}}
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2 if ngff == "0.4" else 3)
    group.create_array("0", data=PIXELS[:, :, 0], chunks=(64, 64))
    group.attrs.update({"stain": {"by": "jane"}, **(said if ngff == "0.4" else {"ome": {"version": ngff, **said}})})
    found = dict(slidewright.open_source(tmp_path / "a.zarr").info.metadata.identifying)
    wanted = {"Name": "case of Smith", "stain": '{"by": "jane"}', "omero name": '"smith.czi"', "omero id": "7"}
    assert found == wanted
    for name in ("b.ome.zarr", "c.ome.tif"):
        slidewright.convert(tmp_path / "a.zarr", tmp_path / name, keep_metadata="all", n_workers=0)
        assert dict(slidewright.open_source(tmp_path / name).info.metadata.identifying) == wanted
        slidewright.convert(tmp_path / "a.zarr", tmp_path / f"less {name}", n_workers=0)
        assert slidewright.open_source(tmp_path / f"less {name}").info.metadata.identifying == ()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("label", "words"),
    [
        ({"colors": [{"label-value": 1, "rgba": [1, 2, 3, 99]}]}, "which colours of its labels are transparent"),
        ({"colors": [{"label-value": 1, "rgba": [1, 2, 3, 255]}], "properties": [{"label-value": 1}]}, "properties"),
        ({"colors": [{"label-value": 70_000, "rgba": [1, 2, 3, 255]}]}, "not all of labels from 0"),
        ({"colors": [{"label-value": 1, "rgba": [1, 2, 3, 255]}]}, None),
    ],
)
def test_what_an_ome_zarr_says_of_labels_is_told(tmp_path, label, words):
    slidewright.convert(PIXELS[:, :, 0] % 2, tmp_path / "a.ome.zarr", kind="labels", n_workers=0)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r+")
    group.attrs["ome"] = {**dict(group.attrs)["ome"], "image-label": label}
    report = slidewright.convert(tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr", n_workers=0)
    assert [(words or "") in warning for warning in report.warnings] == ([] if words is None else [True])


@pytest.mark.timeout(60)
def test_place_of_the_planes_of_an_ome_zarr_is_told(tmp_path):
    given = {"axes": "zyx", "z": "all", "n_workers": 0}
    slidewright.convert(np.stack([PIXELS[:, :, 0]] * 3), tmp_path / "a.ome.zarr", z_spacing=2, **given)
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="r+")
    ome = dict(group.attrs)["ome"]
    ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][1]["translation"][0] = 12.0
    group.attrs["ome"] = ome
    report = slidewright.convert(tmp_path / "a.ome.zarr", tmp_path / "b.ome.tif", z="all", n_workers=0)
    assert ["where its planes lie" in warning for warning in report.warnings] == [True]


@pytest.mark.timeout(60)
def test_steps_of_a_stack_in_no_known_unit_are_told(tmp_path):
    stack = np.zeros((2, 3, 64, 64), np.uint8)
    said = {"axes": "TZYX", "unit": "micron", "zunit": "ells", "spacing": 2, "finterval": 3, "tunit": "lunch"}
    tifffile.imwrite(tmp_path / "ij.tif", stack, imagej=True, metadata=said)
    units = {"PhysicalSizeZUnit": "reference frame", "TimeIncrementUnit": "fortnight"}
    said = {"axes": "TZYX", "PhysicalSizeZ": 2, "TimeIncrement": 3, **units}
    tifffile.imwrite(tmp_path / "o.ome.tif", stack, photometric="minisblack", metadata=said)
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=stack, chunks=(1, 1, 64, 64))
    transforms = [{"type": "scale", "scale": [3, 2, 1, 1]}]
    datasets = [{"path": "0", "coordinateTransformations": transforms}]
    group.attrs["multiscales"] = [{"axes": [{"name": axis} for axis in "tzyx"], "datasets": datasets}]
    words = {
        "ij.tif": "the distance of its planes, 2 .*the distance of its times, 3 lunch",
        "o.ome.tif": r"PhysicalSizeZ 2(.0)? \(reference frame\).*TimeIncrement 3(.0)? \(fortnight\)",
        "a.zarr": "its scale of 3 along t.*its scale of 2 along z",
    }
    for name, wanted in words.items():
        report = slidewright.convert(tmp_path / name, tmp_path / f"{name}.ome.zarr", z="all", t="all", n_workers=0)
        assert [bool(re.search(wanted, warning)) for warning in report.warnings] == [True], name


@pytest.mark.timeout(60)
def test_background_of_a_slide_goes_through_every_format(tmp_path):
    """OpenSlide states it of some vendors' slides, and a plain TIFF has it in its line."""
    before = tmp_path / "0.tif"
    tifffile.imwrite(before, PIXELS, photometric="rgb", metadata=None, description="slidewright|background = #f0f107")
    for name in ("a.ome.tif", "b.ome.zarr", "c.svs", "d.ome.tif", "e.tif", "f.ome.zarr", "g.tif"):
        options = {"flavour": "aperio"} if name == "c.svs" else {}
        slidewright.convert(before, tmp_path / name, n_workers=0, **options)
        before = tmp_path / name
        found = slidewright.info(before).metadata
        assert (found.background, found.identifying) == ((240, 241, 7), ()), name


@pytest.mark.timeout(60)
def test_profile_and_names_of_colours_that_become_channels_are_told(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", metadata=None, iccprofile=profile)
    slidewright.convert(tmp_path / "a.tif", tmp_path / "b.ome.tif", channel_names=["H&E"], n_workers=0)
    report = slidewright.convert(tmp_path / "b.ome.tif", tmp_path / "c.ome.tif", kind="multichannel", n_workers=0)
    words = r"names of its channels \(H&E\), where the output has 3; its ICC profile, which is of other channels"
    assert [bool(re.search(words, warning)) for warning in report.warnings] == [True]
    with tifffile.TiffFile(tmp_path / "c.ome.tif") as tiff:
        assert tiff.pages.first.iccprofile is None


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("software", "xml"),
    [
        (None, "<GDALMetadata>" + '<Item name="DESCRIPTION" role="description" ' * 20_000),
        (
            "Philips DP v1.0",
            '<?xml?>ObjectType="PixelDataRepresentation"' + 'Name="DICOM_PIXEL_SPACING"' * 60_000 + "</DataObject>",
        ),
    ],
)
def test_xml_without_an_end_takes_no_time(tmp_path, software, xml):
    """Searched for by patterns, it took minutes to hours."""
    path, code = tmp_path / "a.tif", 42112 if software is None else 270
    options = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "software": software}
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), extratags=[(code, 2, 0, xml, True)], **options)
    slidewright.convert(path, tmp_path / "o.tif", n_workers=0)
    assert (tmp_path / "o.tif").exists()
