"""The hybrid OME-TIFF: one series of all levels for readers of OME, a pyramid for readers that know only TIFF."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
import tiffslide
from ome_types import from_xml
from ome_xml import validate_xml
from oracle import pyramid

import slidewright
from slidewright.errors import OptionError
from slidewright.formats.ome_tiff import OmeTiff
from slidewright.geometry import Size
from slidewright.options import ConvertOptions
from slidewright.pyramid.plan import make_plan
from slidewright.tiff.vendor_metadata import ome

TILE = 64
RGB = np.random.default_rng(1).integers(0, 256, (300, 433, 3), np.uint8)
CHANNELS = np.random.default_rng(2).integers(0, 4000, (200, 333, 4), np.uint16)
OPTIONS = {"tile_size": TILE, "compression": "deflate", "mpp": (0.25, 0.5), "n_workers": 0}


@pytest.fixture(scope="module")
def rgb(tmp_path_factory):
    path = tmp_path_factory.mktemp("ome") / "rgb.ome.tif"
    slidewright.convert(RGB, path, objective_power=40, **OPTIONS)
    return path


@pytest.fixture(scope="module")
def channels(tmp_path_factory):
    path = tmp_path_factory.mktemp("ome") / "channels.ome.tif"
    given = {"channel_names": ["DAPI", "CD3", "CD8", "PanCK"], "channel_colors": ["blue", "#00ff00", "red", (1, 2, 3)]}
    slidewright.convert(CHANNELS, path, **given, **OPTIONS)
    return path


def xml_of(path):
    with tifffile.TiffFile(path) as tiff:
        return tiff.pages.first.description


def test_tifffile_sees_one_series_with_all_levels(rgb):
    with tifffile.TiffFile(rgb) as tiff:
        (series,) = tiff.series
        assert (series.kind, series.axes) == ("ome", "YXS")
        for level, expected in zip(series.levels, pyramid(RGB, TILE), strict=True):
            np.testing.assert_array_equal(level.asarray(), expected)


def test_openslide_and_tiffslide_see_every_level(rgb):
    levels = pyramid(RGB, TILE)
    with openslide.OpenSlide(rgb) as slide, tiffslide.TiffSlide(rgb) as other:
        assert slide.level_dimensions == other.level_dimensions == tuple(level.shape[1::-1] for level in levels)
        assert (slide.properties["openslide.mpp-x"], slide.properties["openslide.mpp-y"]) == ("0.25", "0.5")
        for number, expected in enumerate(levels):
            size = slide.level_dimensions[number]
            pixels = np.asarray(slide.read_region((0, 0), number, size).convert("RGB"))
            np.testing.assert_array_equal(pixels, expected)
            np.testing.assert_array_equal(other.read_region((0, 0), number, size, as_array=True), expected)


def test_libvips_reads_levels_as_subifds_and_as_pages(rgb):
    for number, expected in enumerate(pyramid(RGB, TILE)):
        below = pyvips.Image.tiffload(str(rgb), page=0, subifd=number - 1)
        np.testing.assert_array_equal(below.numpy(), expected)
        np.testing.assert_array_equal(pyvips.Image.tiffload(str(rgb), page=number).numpy(), expected)
        assert 1000 / below.xres == pytest.approx(0.25 * 2**number, rel=1e-4)


def test_copies_in_the_main_chain_are_directories_of_their_own_with_the_same_segments(rgb):
    with tifffile.TiffFile(rgb) as tiff:
        below, copies = list(tiff.pages.first.pages), list(tiff.pages)[1:]
        assert len(below) == len(copies) == 3
        for child, copy in zip(below, copies, strict=True):
            assert child.offset != copy.offset
            assert child.dataoffsets == copy.dataoffsets
            assert child.subfiletype == copy.subfiletype == 1
        tables = [page.tags["TileOffsets"].valueoffset for page in (below[0], copies[0])]
        assert tables[0] == tables[1], "the table is stored once"
        assert tiff.pages.first.subfiletype == 0
        assert tiff.pages.first.resolutionunit == 3
        assert [page.description for page in (*below, *copies)] == [""] * 6


def test_strict_leaves_the_copies_out(tmp_path):
    slidewright.convert(RGB, tmp_path / "a.ome.tif", strict=True, **OPTIONS)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert len(tiff.pages) == 1
        assert len(tiff.series[0].levels) == 4
    assert pyvips.Image.tiffload(str(tmp_path / "a.ome.tif"), n=-1).width == RGB.shape[1]


def test_every_channel_has_a_directory_and_its_own_levels(channels):
    levels = pyramid(CHANNELS, TILE)
    with tifffile.TiffFile(channels) as tiff:
        (series,) = tiff.series
        assert series.axes == "CYX"
        for level, expected in zip(series.levels, levels, strict=True):
            np.testing.assert_array_equal(level.asarray(), np.moveaxis(expected, 2, 0))
        assert len(tiff.pages) == 4 + 3
        assert all(len(tiff.pages[number].aspage().pages) == 3 for number in range(4))


@pytest.mark.parametrize("name", ["rgb", "channels"])
def test_xml_keeps_to_the_schema(name, request):
    validate_xml(xml_of(request.getfixturevalue(name)))


def test_xml_says_what_the_image_is(rgb, channels):
    ome = from_xml(xml_of(rgb))
    (image,) = ome.images
    pixels = image.pixels
    assert (pixels.size_x, pixels.size_y, pixels.size_c, pixels.type.value) == (433, 300, 3, "uint8")
    assert (pixels.physical_size_x, pixels.physical_size_y) == (0.25, 0.5)
    assert pixels.physical_size_x_unit.value == "µm"
    assert (pixels.interleaved, pixels.significant_bits, pixels.dimension_order.value) == (True, 8, "XYCZT")
    assert [channel.samples_per_pixel for channel in pixels.channels] == [3]
    assert ome.instruments[0].objectives[0].nominal_magnification == 40
    assert image.objective_settings.id == ome.instruments[0].objectives[0].id
    assert ome.uuid is None

    pixels = from_xml(xml_of(channels)).images[0].pixels
    assert [channel.name for channel in pixels.channels] == ["DAPI", "CD3", "CD8", "PanCK"]
    assert [channel.color.as_rgb_tuple()[:3] for channel in pixels.channels] == [
        *((0, 0, 255), (0, 255, 0), (255, 0, 0), (1, 2, 3))
    ]
    assert [(data.first_c, data.ifd, data.plane_count) for data in pixels.tiff_data_blocks] == [
        *((0, 0, 1), (1, 1, 1), (2, 2, 1), (3, 3, 1))
    ]


def test_images_beside_the_levels_are_images_of_the_xml(tmp_path):
    from PIL import Image

    label = np.random.default_rng(3).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(label).save(tmp_path / "label.png")
    path = tmp_path / "a.ome.tif"
    slidewright.convert(RGB, path, associated=["thumbnail"], label=tmp_path / "label.png", **OPTIONS)
    validate_xml(xml_of(path))
    with tifffile.TiffFile(path) as tiff:
        assert [(one.name, len(one.levels)) for one in tiff.series] == [("image", 4), ("thumbnail", 1), ("label", 1)]
        np.testing.assert_array_equal(tiff.series[2].asarray(), label)
        np.testing.assert_array_equal(tiff.series[1].asarray(), RGB)  # it fits as it is
    with openslide.OpenSlide(path) as slide:
        assert slide.level_count == 4


@pytest.mark.parametrize("compression", ["jpeg", "lzw", "zstd", "jpeg2000", "none"])
def test_every_codec_is_read_back_and_verified(tmp_path, tissue, compression):
    path = tmp_path / "a.ome.tif"
    slidewright.convert(tissue, path, tile_size=128, compression=compression, n_workers=0, verify=True)
    with tifffile.TiffFile(path) as tiff:
        for level, expected in zip(tiff.series[0].levels, pyramid(tissue, 128), strict=True):
            error = np.abs(level.asarray().astype(float) - expected).mean()
            assert error < (8 if compression == "jpeg" else 1e-9)


@pytest.mark.parametrize(
    ("pixels", "options", "kind"),
    [
        (RGB[:, :, 0] // 100, {"kind": "labels", "colormap": {0: "white", 1: "red", 2: "blue"}}, "uint8"),
        (RGB[:, :, 0] > 99, {"compression": "ccitt-t6"}, "bit"),
        (RGB[:, :, 0].astype(np.float32), {}, "float"),
        (RGB[:, :, 0].astype(np.int16), {}, "int16"),
    ],
)
def test_masks_and_numbers_have_the_type_of_the_schema(tmp_path, pixels, options, kind):
    path = tmp_path / "a.ome.tif"
    slidewright.convert(pixels, path, **{**OPTIONS, **options})
    validate_xml(xml_of(path))
    assert from_xml(xml_of(path)).images[0].pixels.type.value == kind
    with tifffile.TiffFile(path) as tiff:
        np.testing.assert_array_equal(tiff.series[0].asarray(), pixels)


def test_classic_tiff_is_smaller_and_the_same_to_readers(tmp_path):
    slidewright.convert(CHANNELS, tmp_path / "a.ome.tif", bigtiff=False, **OPTIONS)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        assert not tiff.is_bigtiff
        np.testing.assert_array_equal(tiff.series[0].levels[1].asarray(), np.moveaxis(pyramid(CHANNELS, TILE)[1], 2, 0))


@pytest.mark.parametrize("pixels", [RGB, CHANNELS], ids=["rgb", "channels"])
def test_bytes_are_the_same_for_workers_shards_and_tiles_that_are_pushed(tmp_path, pixels):
    np.save(tmp_path / "in.npy", pixels)
    kind = {} if pixels is RGB else {"kind": "multichannel"}
    made = {**OPTIONS, **kind}
    slidewright.convert(tmp_path / "in.npy", tmp_path / "0.ome.tif", **made)
    wanted = (tmp_path / "0.ome.tif").read_bytes()
    slidewright.convert(tmp_path / "in.npy", tmp_path / "2.ome.tif", **{**made, "n_workers": 2, "block_tiles": 1})
    slidewright.convert(tmp_path / "in.npy", tmp_path / "r.ome.tif", resume=True, **made)
    for index in range(2):
        slidewright.shard(tmp_path / "in.npy", tmp_path / "s", index=index, count=2, format="ome-tiff", **made)
    slidewright.assemble(tmp_path / "s", tmp_path / "s.ome.tif", n_workers=0)
    with slidewright.PyramidWriter(tmp_path / "w.ome.tif", pixels.shape, dtype=pixels.dtype, **made) as writer:
        for row in reversed(range(-(-pixels.shape[0] // TILE))):
            for column in range(-(-pixels.shape[1] // TILE)):
                y, x = row * TILE, column * TILE
                writer.write_tile(pixels[y : y + TILE, x : x + TILE], row, column)
    for name in "2rsw":
        assert (tmp_path / f"{name}.ome.tif").read_bytes() == wanted, name


@pytest.mark.parametrize("band", [1, 5])
def test_level_0_is_asked_for_wave_by_wave_and_every_key_once(band):
    plan = make_plan(Size(1000, 700), TILE, block_tiles=4, planes=5, band=band)
    form = OmeTiff()
    keys = list(form.order(plan))
    assert len(keys) == len(set(keys)) == plan.n_tiles
    waves = [form.wave(plan, key) for key in keys]
    first = [wave for wave in waves if wave is not None]
    assert first == sorted(first)
    assert waves[len(first) :] == [None] * (len(waves) - len(first))
    for number in range(plan.passes[0].n_blocks):
        block = plan.passes[0].block(number)
        found = {form.wave(plan, key) for key in plan.tiles_of(block) if key[0] == 0}
        assert len(found) == 1, "a block's tiles are asked for together"


def test_flavour_of_plain_tiffs_is_refused(tmp_path):
    with pytest.raises(OptionError, match="flavour"):
        slidewright.convert(RGB, tmp_path / "a.ome.tif", flavour="aperio", **OPTIONS)


def test_suffix_chooses_it():
    from slidewright.formats.registry import settle_format

    for name in ("a.ome.tif", "A.OME.TIFF", "b.ome.btf"):
        assert settle_format(ConvertOptions(), name).format == "ome-tiff"
    assert settle_format(ConvertOptions(), "a.tif").format == "tiff"


def test_what_was_written_is_read_as_a_source(channels):
    source = slidewright.open_source(channels)
    assert source.info.mpp == (0.25, 0.5)
    assert [channel.name for channel in source.info.metadata.channels] == ["DAPI", "CD3", "CD8", "PanCK"]
    assert source.info.metadata.channels[3].color == (1, 2, 3)
    assert source.info.shape == CHANNELS.shape


def test_characters_that_no_xml_can_hold_do_not_spoil_it(tmp_path):
    """A source's own description may have them; no reader opened the file as OME-TIFF then."""
    said = {"description": "a\x00b\x1f\ufffe\tc", "channel_names": ["\x02", "é", "<&>"]}
    slidewright.convert(CHANNELS[..., :3], tmp_path / "a.ome.tif", kind="multichannel", **said, **OPTIONS)
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        (image,) = from_xml(tiff.ome_metadata).images
    assert image.description == "a\ufffdb\ufffd\ufffd\tc"
    assert [channel.name for channel in image.pixels.channels] == ["\ufffd", "é", "<&>"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({}, 12),
        ({"compression": "zstd"}, 12),
        ({"level": 1}, 12),
        ({"compression": "jpeg2000-lossy"}, 16),  # whose values may be a little larger
        ({"keep_metadata": "none"}, 16),
    ],
)
def test_bits_that_the_values_use_are_those_of_the_source(tmp_path, options, bits):
    pixels = np.random.default_rng(4).integers(0, 4096, (3, 200, 150), np.uint16)
    with tifffile.TiffWriter(tmp_path / "in.ome.tif", ome=True) as tiff:
        said = {"tile": (64, 64), "photometric": "minisblack", "compression": "zstd"}
        tiff.write(pixels, subifds=1, metadata={"axes": "CYX", "SignificantBits": 12}, **said)
        tiff.write(pixels[:, ::2, ::2], subfiletype=1, **said)
    slidewright.convert(tmp_path / "in.ome.tif", tmp_path / "a.ome.tif", n_workers=0, tile_size=64, **options)
    found = from_xml(xml_of(tmp_path / "a.ome.tif")).images[0].pixels
    assert (found.significant_bits, found.type.value) == (bits, "uint16")


@pytest.mark.parametrize("said", ["16", "17", "0", "-1", "x", ""])
def test_bits_that_make_no_sense_or_are_all_are_not_kept(said):
    xml = f'<OME><Image><Pixels Type="uint16" SignificantBits="{said}"/></Image></OME>'
    assert ome(xml, 0).significant_bits is None
    assert ome(xml.replace(f'="{said}"', '="10"'), 0).significant_bits == 10
