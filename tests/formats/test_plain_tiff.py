"""Aperio's flavour and the generic one, with images beside their levels, as readers see them."""

from __future__ import annotations

import time
import zlib
from dataclasses import replace

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide
from oracle import next_level, pyramid
from PIL import Image, ImageFile, ImageOps

import slidewright
from slidewright.errors import OptionError, SourceError
from slidewright.sources.openslide import OpenSlideSource

TILE = 128
BESIDE = ("thumbnail", "label", "macro")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory, tissue):
    """A slide as a scanner might have written it, with a label, a macro and fields that identify; and those images."""
    folder = tmp_path_factory.mktemp("scanned")
    rng = np.random.default_rng(5)
    label, macro = (rng.integers(0, 256, shape, np.uint8) for shape in ((60, 40, 3), (30, 90, 3)))
    head = "Aperio Image Library v11.2.1 \r\n"
    fields = "|AppMag = 40|MPP = 0.2500|ScanScope ID = SS1234|Filename = case-77|User = jane|Barcode = 4711|Left = 2.0"
    with tifffile.TiffWriter(folder / "in.svs") as tiff:
        rgb = {"photometric": "rgb", "metadata": None, "software": False}
        tiff.write(tissue, tile=(240, 240), description=head + "900x700 (240x240)" + fields, **rgb)
        tiff.write(tissue[::4, ::4], description=head + "900x700 -> 225x175", rowsperstrip=16, **rgb)
        tiff.write(label, description=head + "label 40x60", subfiletype=1, rowsperstrip=60, **rgb)
        tiff.write(macro, description=head + "macro 90x30", subfiletype=9, rowsperstrip=7, **rgb)
    return folder / "in.svs", label, macro


def converted(path, scanned, **options):
    defaults = {"tile_size": TILE, "n_workers": 0, "compression": "deflate", "levels": 4}
    slidewright.convert(scanned[0], path, **{**defaults, **options})
    return path


def test_source_gives_its_images_pixel_for_pixel(scanned):
    path, label, macro = scanned
    source = slidewright.open_source(path)
    assert source.info.associated == BESIDE
    np.testing.assert_array_equal(source.associated_image("label"), label)
    np.testing.assert_array_equal(source.associated_image("macro"), macro)
    assert source.info.metadata.objective_power == 40


@pytest.mark.parametrize("suffix", ["tif", "svs"])
def test_openslide_and_tiffslide_take_the_flavour_for_an_aperio_slide(tmp_path, scanned, tissue, suffix):
    path = converted(tmp_path / f"a.{suffix}", scanned, flavour="aperio", associated=BESIDE)
    _, label, macro = scanned
    levels = pyramid(tissue, TILE)
    with openslide.OpenSlide(path) as slide, tiffslide.TiffSlide(path) as other:
        assert slide.properties["openslide.vendor"] == other.properties["tiffslide.vendor"] == "aperio"
        assert slide.properties["openslide.objective-power"] == "40"
        assert slide.properties["openslide.mpp-x"] == "0.25"
        assert slide.level_dimensions == other.level_dimensions == tuple(level.shape[1::-1] for level in levels)
        for number, level in enumerate(levels):
            pixels = slide.read_region((0, 0), number, slide.level_dimensions[number]).convert("RGB")
            np.testing.assert_array_equal(np.asarray(pixels), level)
        assert set(slide.associated_images) == set(other.associated_images) == set(BESIDE)
        np.testing.assert_array_equal(np.asarray(slide.associated_images["label"].convert("RGB")), label)
        np.testing.assert_array_equal(np.asarray(slide.associated_images["macro"].convert("RGB")), macro)
        thumbnail = np.asarray(slide.associated_images["thumbnail"].convert("RGB"))
        np.testing.assert_array_equal(thumbnail, next_level(levels[-1]))


def test_tifffile_names_the_series_of_the_flavour(tmp_path, scanned):
    path = converted(tmp_path / "a.tif", scanned, flavour="aperio", associated=BESIDE)
    with tifffile.TiffFile(path) as tiff:
        assert [one.name for one in tiff.series] == ["Baseline", "Thumbnail", "Label", "Macro"]
        assert len(tiff.series[0].levels) == 4
        assert [page.is_tiled for page in tiff.pages][:3] == [True, False, True]
        assert [page.subfiletype for page in tiff.pages][-2:] == [1, 9]
    assert slidewright.open_source(path).info.associated == BESIDE


def test_flavour_has_a_thumbnail_by_default_and_nothing_that_shows_the_patient(tmp_path, scanned):
    path = converted(tmp_path / "a.svs", scanned, flavour="aperio", compression="jpeg")
    with openslide.OpenSlide(path) as slide:
        assert set(slide.associated_images) == {"thumbnail"}
    assert_absent(path, b"jane", b"4711", b"case-77", b"SS1234")


def test_generic_file_has_its_images_last_and_in_strips(tmp_path, scanned, tissue):
    path = converted(tmp_path / "a.tif", scanned, associated=["macro", "label"])
    _, label, macro = scanned
    with tifffile.TiffFile(path) as tiff:
        assert [page.is_tiled for page in tiff.pages] == [True] * 4 + [False] * 2
        np.testing.assert_array_equal(tiff.pages[4].asarray(), label)
        np.testing.assert_array_equal(tiff.pages[5].asarray(), macro)
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_count == 4
    found = slidewright.info(path)
    assert [(one.name, one.size) for one in found.associated] == [("label", (60, 40)), ("macro", (30, 90))]
    assert slidewright.open_source(path).info.associated == ("label", "macro")


@pytest.mark.parametrize("kind", ["palette", "white is zero", "planes", "bits"])
def test_label_of_other_colours_is_what_openslide_shows(kind, tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (40, 60, 3), np.uint8)
    colormap = np.tile(np.arange(65535, -1, -257), (3, 1))
    stored, how = {
        "palette": (pixels[..., 0], {"photometric": "palette", "colormap": colormap}),
        "white is zero": (pixels[..., 0], {"photometric": "miniswhite"}),
        "planes": (np.moveaxis(pixels, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        "bits": (pixels[..., 0] > 99, {"photometric": "minisblack"}),
    }[kind]
    head, rgb = "Aperio Image Library v10\r\n", {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    label = {"subfiletype": 1, "rowsperstrip": 16, "compression": "lzw", "metadata": None, **how}
    with tifffile.TiffWriter(tmp_path / "in.svs") as tiff:
        tiff.write(np.zeros((256, 256, 3), np.uint8), tile=(128, 128), description=head + "256x256", **rgb)
        tiff.write(pixels, rowsperstrip=40, description=head + "256x256 -> 60x40 - ", **rgb)
        tiff.write(stored, description=head + "label 60x40", **label)
    with openslide.OpenSlide(tmp_path / "in.svs") as slide:
        shown = np.asarray(slide.associated_images["label"].convert("RGB"))
    found = slidewright.open_source(tmp_path / "in.svs").associated_image("label")
    np.testing.assert_array_equal(np.broadcast_to(found, shown.shape), shown)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_label_is_upright(orientation, tmp_path):
    label, turned = np.zeros((40, 60, 3), np.uint8), (274, 3, 1, orientation, True)
    label[:5, :9] = 200
    with tifffile.TiffWriter(tmp_path / "in.tif") as tiff:
        rgb = {"photometric": "rgb", "metadata": None}
        tiff.write(np.zeros((256, 256, 3), np.uint8), tile=(128, 128), **rgb)
        tiff.write(label, description="label", extratags=[turned], **rgb)
    Image.fromarray(label).save(tmp_path / "label.tif", tiffinfo={274: orientation})
    with Image.open(tmp_path / "label.tif") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", associated=["label"], n_workers=0)
    found = slidewright.open_source(tmp_path / "out.tif").associated_image("label")
    np.testing.assert_array_equal(found, expected)


def test_label_that_is_given_takes_the_place_of_the_sources(tmp_path, scanned):
    given = np.full((20, 30, 3), (200, 10, 0), np.uint8)
    Image.fromarray(given).save(tmp_path / "study.png")
    path = converted(tmp_path / "a.svs", scanned, flavour="aperio", associated=["label"], label=tmp_path / "study.png")
    with openslide.OpenSlide(path) as slide:
        np.testing.assert_array_equal(np.asarray(slide.associated_images["label"].convert("RGB")), given)


@pytest.mark.parametrize("kind", ["transparent", "wide", "turned"])
def test_label_that_is_given_is_what_a_viewer_shows(kind, tmp_path):
    grey = np.linspace(0, 255, 600).round().astype(np.uint8).reshape(20, 30)
    shown, path = np.dstack([grey] * 3), tmp_path / "study.png"
    if kind == "transparent":
        Image.fromarray(np.dstack([np.zeros_like(shown), 255 - grey])).save(path)  # black, the more opaque the darker
    elif kind == "wide":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        exif = Image.Exif()
        exif[274] = 6
        Image.fromarray(np.rot90(shown)).save(path, exif=exif)
    slidewright.convert(np.zeros((64, 64, 3), np.uint8), tmp_path / "a.tif", label=path, n_workers=0)
    np.testing.assert_array_equal(slidewright.open_source(tmp_path / "a.tif").associated_image("label"), shown)


def test_label_that_is_no_image_is_an_error_before_anything_is_written(tmp_path, scanned):
    (tmp_path / "study.png").write_text("no image")
    with pytest.raises(OptionError, match="no image that Pillow reads"):
        converted(tmp_path / "a.svs", scanned, flavour="aperio", label=tmp_path / "study.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.png"]


@pytest.mark.timeout(60)
def test_label_of_gigabytes_is_refused_before_it_is_decoded(tmp_path, scanned, monkeypatch):
    """It is held whole, whatever the memory budget; a file of 2 MB took 2.7 GB."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    side, tile, strip = 8500, zlib.compress(bytes(1024 * 1024), 1), zlib.compress(bytes(8500 * 500), 1)
    grey = {"dtype": "uint8", "photometric": "minisblack", "compression": "deflate", "metadata": None}
    with tifffile.TiffWriter(tmp_path / "in.tif") as tiff:
        tiff.write(iter([tile] * 81), shape=(9216, 9216), tile=(1024, 1024), **grey)
        tiff.write(iter([strip] * 17), shape=(side, side), rowsperstrip=500, description="label", **grey)
    assert slidewright.open_source(tmp_path / "in.tif").info.associated == ("label",)
    with pytest.raises(SourceError, match="a label of 8500 x 8500 is too large to be read whole; leave it out"):
        slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", associated=["label"], n_workers=0)
    Image.new("1", (side, side)).save(tmp_path / "study.png")
    with pytest.raises(OptionError, match=r"study.png' of 8500 x 8500 pixels is too large for one"):
        converted(tmp_path / "a.svs", scanned, flavour="aperio", label=tmp_path / "study.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.tif", "study.png"]


def test_thumbnail_is_halved_until_it_fits(tmp_path):
    pixels = np.zeros((2100, 1500, 3), np.uint8)
    pixels[:, 750:] = 200
    path = tmp_path / "a.svs"
    slidewright.convert(pixels, path, flavour="aperio", levels=1, compression="lzw", n_workers=0)
    with openslide.OpenSlide(path) as slide:
        thumbnail = np.asarray(slide.associated_images["thumbnail"].convert("RGB"))
    assert thumbnail.shape == (525, 375, 3)
    assert set(np.unique(thumbnail[:, :187])) == {0}


def test_levels_of_the_flavour_end_above_the_thumbnail(tmp_path):
    path = tmp_path / "a.svs"
    slidewright.convert(np.zeros((2500, 3000, 3), np.uint8), path, flavour="aperio", compression="lzw", n_workers=0)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((3000, 2500), (1500, 1250))
        assert slide.associated_images["thumbnail"].size == (750, 625)


@pytest.mark.parametrize("flavour", ["generic", "aperio"])
def test_bytes_are_the_same_for_workers_and_shards(tmp_path, scanned, flavour):
    options = {"tile_size": TILE, "flavour": flavour, "associated": BESIDE}
    slidewright.convert(scanned[0], tmp_path / "0.tif", n_workers=0, **options)
    slidewright.convert(scanned[0], tmp_path / "2.tif", n_workers=2, block_tiles=1, **options)
    slidewright.shard(scanned[0], tmp_path / "s", index=0, count=1, format="tiff", n_workers=0, **options)
    slidewright.assemble(tmp_path / "s", tmp_path / "s.tif", n_workers=0)
    assert (tmp_path / "0.tif").read_bytes() == (tmp_path / "2.tif").read_bytes() == (tmp_path / "s.tif").read_bytes()


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.svs"])
def test_what_identifies_is_kept_only_when_all_is_asked_for(tmp_path, scanned, name):
    flavour = {"flavour": "aperio"} if name == "a.svs" else {}
    path = converted(tmp_path / name, scanned, **flavour)
    assert_absent(path, b"jane", b"4711", b"case-77", b"SS1234")
    said = slidewright.info(path).metadata
    assert said.objective_power == 40
    assert said.identifying == ()
    converted(path, scanned, keep_metadata="all", overwrite=True, **flavour)
    content = path.read_bytes()
    assert all(word in content for word in (b"jane", b"4711", b"case-77", b"SS1234"))
    assert slidewright.info(path).metadata.identifying
    converted(path, scanned, keep_metadata="none", overwrite=True, **flavour)
    assert slidewright.info(path).metadata.objective_power is None


@pytest.mark.timeout(30)
def test_many_fields_are_kept_in_linear_time(tmp_path):
    """Each was looked for in the whole description: 16,000 took 4 s of the processor, and 64,000 a minute."""
    fields = "|".join(f"Key {number} = value {number}" for number in range(64_000))
    text = f"Aperio Image Library v1\r\n64x64 (32x32) Q=30|MPP = 0.5|{fields}"
    given = {"tile": (32, 32), "photometric": "rgb", "description": text, "metadata": None}
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((64, 64, 3), np.uint8), **given)
    begin = time.process_time()
    slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", n_workers=0, keep_metadata="all")
    assert time.process_time() - begin < 15
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.pages.first.description.count("value 63999") == 1


def test_names_for_channels_that_are_not_there_are_refused(tmp_path, scanned):
    with pytest.raises(OptionError, match="channel_names has 2 entries"):
        converted(tmp_path / "a.ome.tif", scanned, channel_names=["a", "b"])


@pytest.mark.parametrize(
    ("pixels", "options", "match"),
    [
        (np.zeros((300, 300), np.uint16), {"flavour": "aperio"}, "Aperio flavour"),
        (np.zeros((300, 300, 5), np.uint8), {"associated": ["label"]}, "several channels"),
    ],
)
def test_pixels_that_a_flavour_can_not_hold_are_refused_at_once(tmp_path, pixels, options, match):
    with pytest.raises(OptionError, match=match):
        slidewright.convert(pixels, tmp_path / "a.tif", n_workers=0, **options)
    assert list(tmp_path.iterdir()) == []


def assert_absent(path, *words):
    content = path.read_bytes()
    assert [word for word in words if word in content] == []


@pytest.mark.parametrize("flavour", ["generic", "aperio"])
@pytest.mark.parametrize("given", [{"channel_names": ["DAPI"]}, {"channel_colors": ["blue"]}])
def test_names_and_colours_of_channels_have_no_place_here(given, flavour, tmp_path):
    with pytest.raises(OptionError, match=f"{next(iter(given))} has no place in a plain TIFF"):
        slidewright.convert(np.zeros((64, 64), np.uint8), tmp_path / "a.tif", flavour=flavour, n_workers=0, **given)


def test_flavour_of_one_resolution_refuses_two(tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    slidewright.convert(pixels, tmp_path / "a.svs", flavour="aperio", mpp=(0.227, 0.2269), n_workers=0)
    assert slidewright.info(tmp_path / "a.svs").mpp == pytest.approx((0.227, 0.2269), rel=1e-9)
    with pytest.raises(OptionError, match=r"says one resolution, and this image has 0.25 x 0.5 um a pixel"):
        slidewright.convert(pixels, tmp_path / "b.svs", flavour="aperio", mpp=(0.25, 0.5), n_workers=0)


def test_what_may_be_kept_comes_through_a_chain_of_formats(tmp_path, tissue):
    said = "Aperio Image Library v12.0\r\n1x1|AppMag = 20|MPP = 0.5|User = jane"
    rgb = {"photometric": "rgb", "metadata": None, "tile": (256, 256)}
    tifffile.imwrite(tmp_path / "0.svs", tissue, description=said, software=False, **rgb)
    first = slidewright.open_source(tmp_path / "0.svs").info.metadata
    assert first.scanner_software == "Aperio Image Library v12.0"
    chain = ["1.ome.tif", "2.ome.zarr", "3.svs", "4.tif", "5.svs", "6.ome.tif"]
    for before, name in zip(["0.svs", *chain], chain, strict=False):
        options = {"flavour": "aperio"} if name.endswith(".svs") else {}
        spacing = 0.123456789 if name == "1.ome.tif" else None
        slidewright.convert(tmp_path / before, tmp_path / name, n_workers=0, z_spacing=spacing, **options)
        found = slidewright.open_source(tmp_path / name).info.metadata
        assert replace(found, channels=()) == replace(first, z_spacing=0.123456789, identifying=()), name


@pytest.mark.timeout(60)
def test_magnification_of_a_level_is_its_own_and_the_objective_that_of_the_slide(tmp_path, scanned):
    names = {"a.svs": "20", "b.ome.tif": "40", "b.ome.zarr": "40"}
    converted(tmp_path / "whole.svs", scanned, flavour="aperio")
    converted(tmp_path / "whole.ome.zarr", scanned, compression="zstd")
    for source in ("whole.svs", "whole.ome.zarr"):
        for name, power in names.items():
            options = {"level": 1, "overwrite": True, **({"flavour": "aperio"} if name == "a.svs" else {})}
            slidewright.convert(tmp_path / source, tmp_path / name, tile_size=TILE, n_workers=0, **options)
            found = slidewright.info(tmp_path / name)
            assert (f"{found.metadata.objective_power:g}", found.mpp) == (power, (0.5, 0.5))
    path = tmp_path / "whole.svs"
    level = OpenSlideSource.at(str(path), level=2).info
    assert (level.size, level.metadata.reduction) == ((175, 225), 4)
    given = {"level": 1, "objective_power": 10, "flavour": "aperio", "overwrite": True, "n_workers": 0}
    slidewright.convert(path, tmp_path / "a.svs", tile_size=TILE, **given)
    assert slidewright.info(tmp_path / "a.svs").metadata.objective_power == 10


@pytest.mark.timeout(60)
def test_page_of_a_level_says_what_the_first_says_of_all(tmp_path):
    given = {"objective_power": 20, "mpp": (0.25, 0.5), "tile_size": 64, "n_workers": 0}
    slidewright.convert(np.zeros((200, 300), np.uint8), tmp_path / "a.tif", **given)
    for chosen in ({"page": 2}, {"level": 2}):
        info = slidewright.open_source(tmp_path / "a.tif", **chosen).info
        assert (info.metadata.objective_power, info.mpp, info.size) == (20, pytest.approx((1, 2)), (50, 75))
    slidewright.convert(tmp_path / "a.tif", tmp_path / "a.ome.tif", tile_size=64, n_workers=0)
    info = slidewright.open_source(tmp_path / "a.ome.tif", page=2).info  # the copy for readers without OME
    assert (info.metadata.objective_power, info.mpp, info.size) == (20, pytest.approx((1, 2)), (50, 75))


SCN = '<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
LIKE_OTHERS = {
    "ImageJ": ["ImageJ=1.54f\nimages=5\nslices=5\n", " SCIFIO=1\n"],
    "tifffile": ['{"shape": [5, 5]}', '\n{"a": 1, "shape": "x"}', "shape=(5, 5)"],
    "ScanImage": ["state.x = 1", "a\nscanimage.SI.VERSION = 5"],
    "OME-TIFF": ['<?xml version="1.0"?><OME><Image ID="Image:0"/></OME>\n', "a </ome:OME>"],
    "Leica": [f'<?xml version="1.0"?>{SCN}</scn>', f"{SCN}</scn><!-- a -->"],
    "Aperio": ["Aperio Image Library v1\n1x1 |AppMag = x"],
}


@pytest.mark.parametrize("associated", [None, ["thumbnail"]])
@pytest.mark.parametrize(("other", "text"), [(other, text) for other, texts in LIKE_OTHERS.items() for text in texts])
def test_a_description_by_which_readers_would_look_for_what_is_not_there_is_refused(tmp_path, other, text, associated):
    options = {"compression": "deflate", "n_workers": 0, "description": text, "associated": associated}
    pixels = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(OptionError, match=f"description .* file of {other}"):
        slidewright.convert(pixels, tmp_path / "a.tif", **options)
    assert not list(tmp_path.iterdir())
    slidewright.convert(pixels, tmp_path / "a.ome.tif", **options)
    slidewright.verify_file(tmp_path / "a.ome.tif")


def test_in_the_aperio_flavour_only_the_end_of_a_description_misleads(tmp_path):
    options = {"compression": "deflate", "n_workers": 0, "flavour": "aperio"}
    pixels = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(OptionError, match="file of OME-TIFF"):
        slidewright.convert(pixels, tmp_path / "a.tif", description="<OME></OME>", **options)
    for number, text in enumerate(("ImageJ=1\nimages=2\n", "Aperio of old", SCN)):
        slidewright.convert(pixels, tmp_path / f"{number}.svs", description=text, **options)
        assert openslide.OpenSlide(tmp_path / f"{number}.svs").properties["openslide.vendor"] == "aperio"
        with tifffile.TiffFile(tmp_path / f"{number}.svs") as tiff:
            assert tiff.is_svs
            assert text.strip() in tiff.pages.first.description


@pytest.mark.parametrize("text", ["[a],b", "<MetaData/>", "# ", "EPICS areaDetector", '{"a": 1}', "mouse ImageJ=1"])
def test_any_other_description_is_written_as_it_is(tmp_path, text):
    pixels = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
    slidewright.convert(pixels, tmp_path / "a.tif", compression="deflate", n_workers=0, description=text)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages.first.description == text.strip()
        np.testing.assert_array_equal(tiff.series[0].asarray(), pixels)
    slidewright.verify_file(tmp_path / "a.tif", against=pixels)


def test_description_that_is_kept_does_not_end_as_scanimages(tmp_path):
    text, source, out = "lines of the software\nscanimage.SI.x = 1", tmp_path / "in.tif", tmp_path / "out.tif"
    tifffile.imwrite(source, np.zeros((100, 100), np.uint8), tile=(64, 64), description=text, metadata=None)
    slidewright.convert(source, out, keep_metadata="all", n_workers=0, tile_size=64, levels=2, verify=True)
    with tifffile.TiffFile(out) as tiff:
        assert not tiff.is_scanimage
        assert text in tiff.pages.first.description
