"""TIFF sources give tifffile's pixels, whatever the codec, layout and region, and say clearly what they can't read."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from imagecodecs import jpeg8_decode, jpeg8_encode
from numpy.typing import NDArray

import slidewright
from slidewright.errors import CorruptTileError, OptionError, SourceError
from slidewright.geometry import Size
from slidewright.sources.base import Source
from slidewright.sources.open import open_source
from slidewright.sources.tiff import TiffSource
from slidewright.tiff.jpeg_header import is_damaged
from slidewright.tiff.jpeg_holes import has_hole

HEIGHT, WIDTH = 150, 205


def picture(samples: int = 3, dtype: str = "uint8", height: int = HEIGHT, width: int = WIDTH) -> NDArray[Any]:
    y, x = np.mgrid[:height, :width]
    top = np.iinfo(dtype).max
    planes = [(np.sin(x / (9 + c)) * np.cos(y / (13 - c)) + 1) / 2 * top for c in range(samples)]
    pixels = np.stack(planes, axis=-1).astype(dtype)
    pixels[40:60, 70:95] ^= np.random.default_rng(1).integers(0, 32, (20, 25, samples)).astype(dtype)
    return pixels if samples > 1 else pixels[..., 0]


def assert_reads_like(source: Source, expected: NDArray[Any], *sides: int) -> None:
    """Every block of a walk equals the same part of `expected`, for a walk of each side."""
    info = source.info
    expected = expected.reshape(info.shape)
    reader = pickle.loads(pickle.dumps(source)).open()
    for side in sides or (32, 48, 64, 500):
        out = np.empty((side, side, info.samples), info.dtype)
        for y in range(0, info.size.height, side):
            for x in range(0, info.size.width, side):
                height, width = min(side, info.size.height - y), min(side, info.size.width - x)
                got = reader.read(y, x, height, width, out)
                assert got.dtype == expected.dtype
                np.testing.assert_array_equal(got, expected[y : y + height, x : x + width])
    reader.close()
    reader.close()


CODECS: dict[str, dict[str, Any]] = {
    "none": {},
    "deflate": {"compression": "zlib"},
    "deflate-predictor": {"compression": "zlib", "predictor": True},
    "lzw": {"compression": "lzw"},
    "lzw-predictor": {"compression": "lzw", "predictor": True},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd"},
    "jpeg-420": {"compression": "jpeg", "subsampling": (2, 2), "photometric": "ycbcr"},
    "jpeg-422": {"compression": "jpeg", "subsampling": (2, 1), "photometric": "ycbcr"},
    "jpeg-444": {"compression": "jpeg", "subsampling": (1, 1), "photometric": "ycbcr"},
    "jpeg-rgb": {"compression": "jpeg", "photometric": "rgb"},
    "webp": {"compression": "webp"},
    "jpeg2000": {"compression": "jpeg2000"},
}


@pytest.mark.parametrize("layout", ["tiles", "wide-tiles", "strips", "one-strip"])
@pytest.mark.parametrize("codec", CODECS)
def test_pixels_are_tifffiles_for_every_codec_and_layout(tmp_path: Path, codec: str, layout: str) -> None:
    path = tmp_path / "a.tif"
    shape = {"tiles": {"tile": (64, 64)}, "wide-tiles": {"tile": (32, 48)}, "strips": {"rowsperstrip": 32}}
    options = {"photometric": "rgb", **CODECS[codec], **shape.get(layout, {"rowsperstrip": HEIGHT})}
    tifffile.imwrite(path, picture(), metadata=None, **options)
    source = open_source(path)
    assert source.info.format == "tiff"
    assert_reads_like(source, tifffile.imread(path))


@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib", "predictor": True}, {"compression": "zstd"}])
@pytest.mark.parametrize(("samples", "dtype"), [(1, "uint16"), (1, "uint8"), (3, "uint8")])
def test_both_byte_orders_come_out_native(
    tmp_path: Path, samples: int, dtype: str, options: dict[str, Any], byteorder: Any, tile: Any
) -> None:
    path = tmp_path / "a.tif"
    pixels = picture(samples, dtype)
    photometric = "rgb" if samples == 3 else "minisblack"
    tifffile.imwrite(path, pixels, byteorder=byteorder, tile=tile, photometric=photometric, metadata=None, **options)
    assert_reads_like(open_source(path), pixels)


@pytest.mark.parametrize("compression", [None, "zlib", "jpeg"])
@pytest.mark.parametrize("tile", [None, (48, 64)])
def test_planar_rgb_comes_out_interleaved(tmp_path: Path, tile: Any, compression: Any) -> None:
    path = tmp_path / "a.tif"
    planes = np.ascontiguousarray(picture().transpose(2, 0, 1))
    tifffile.imwrite(
        path, planes, planarconfig="separate", photometric="rgb", tile=tile, compression=compression, metadata=None
    )
    assert_reads_like(open_source(path), tifffile.imread(path).transpose(1, 2, 0))


@pytest.mark.parametrize("compression", [None, "jpeg"])
def test_white_is_zero_greys_are_turned_over(tmp_path: Path, compression: Any) -> None:
    path = tmp_path / "a.tif"
    options = {"photometric": "miniswhite", "tile": (64, 64), "compression": compression, "metadata": None}
    tifffile.imwrite(path, picture(1), **options)
    assert_reads_like(open_source(path), 255 - tifffile.imread(path))


def test_left_out_tiles_are_black(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = picture(height=192, width=192)
    pixels[64:128, 64:128] = 0
    tiles = [pixels[y : y + 64, x : x + 64] for y in range(0, 192, 64) for x in range(0, 192, 64)]
    encoded = iter([None if not tile.any() else tile for tile in tiles])
    tifffile.imwrite(
        path, encoded, shape=pixels.shape, dtype="uint8", tile=(64, 64), photometric="rgb", metadata=None, bigtiff=True
    )
    with tifffile.TiffFile(path) as tiff:
        assert 0 in tiff.pages.first.databytecounts
    assert_reads_like(open_source(path), pixels)


@pytest.fixture(scope="module")
def samples_of_layouts(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Source, NDArray[Any]]]:
    folder = tmp_path_factory.mktemp("layouts")
    layouts: list[dict[str, Any]] = [
        {"tile": (32, 80), "compression": "zlib"},
        {"tile": (64, 64), "compression": "jpeg"},
        {"rowsperstrip": 7},
        {"rowsperstrip": 7, "compression": "lzw"},
    ]
    found = []
    for number, options in enumerate(layouts):
        path = folder / f"{number}.tif"
        tifffile.imwrite(path, picture(), photometric="rgb", metadata=None, **options)
        found.append((open_source(path), tifffile.imread(path)))
    return found


@settings(max_examples=60)
@given(data=st.data())
def test_any_region_of_any_layout(samples_of_layouts: list[tuple[Source, NDArray[Any]]], data: st.DataObject) -> None:
    source, expected = data.draw(st.sampled_from(samples_of_layouts))
    reader = source.open()
    for _ in range(4):
        y, x = data.draw(st.integers(0, HEIGHT - 1)), data.draw(st.integers(0, WIDTH - 1))
        height, width = data.draw(st.integers(1, HEIGHT - y)), data.draw(st.integers(1, WIDTH - x))
        spare = data.draw(st.integers(0, 70))
        out = np.empty((height + spare, width + spare, 3), np.uint8)
        np.testing.assert_array_equal(reader.read(y, x, height, width, out), expected[y : y + height, x : x + width])
    reader.close()


def test_real_slide_equals_tifffile_and_openslide(real_slide: Path) -> None:
    openslide = pytest.importorskip("openslide")
    source = open_source(real_slide)
    expected = tifffile.imread(real_slide)
    assert_reads_like(source, expected, 240, 512)
    with openslide.OpenSlide(real_slide) as slide:
        region = np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]
    np.testing.assert_array_equal(region, expected)
    assert source.info.format == "svs"
    assert source.info.mpp == (0.499, 0.499)
    assert source.info.associated == ("thumbnail", "label", "macro")
    assert source.info.description is not None
    assert source.info.description.startswith("Aperio")


def test_description_pickles_small(real_slide: Path) -> None:
    assert len(pickle.dumps(open_source(real_slide))) < 3000


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [((20_000, 10_000), 3, (0.5, 1.0)), ((25_400, 25_400), 2, (1.0, 1.0)), ((300, 300), 1, None)],
)
def test_mpp_from_resolution_tags(tmp_path: Path, resolution: Any, unit: Any, expected: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), resolution=resolution, resolutionunit=unit, photometric="rgb", metadata=None)
    assert open_source(path).info.mpp == expected


@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.ome.zarr"])
def test_mpp_of_a_level_of_odd_sides_is_that_of_its_halvings(name: str, tmp_path: Path) -> None:
    pixels = np.zeros((525, 777, 3), np.uint8)
    slidewright.convert(pixels, tmp_path / name, mpp=0.25, tile_size=16, n_workers=0)
    found = [slidewright.open_source(tmp_path / name, level=level).info.mpp for level in range(6)]
    assert found == [pytest.approx((0.25 * 2**level, 0.25 * 2**level)) for level in range(6)]


def test_mpp_from_ome_xml_scales_with_the_level(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(picture(), subifds=1, photometric="rgb", tile=(64, 64), metadata=metadata)
        tiff.write(picture(height=75, width=102), subfiletype=1, photometric="rgb", tile=(64, 64))
    info = open_source(path).info
    assert info.mpp == pytest.approx((0.25, 0.5))
    assert info.description is None
    half = open_source(path, level=1)
    assert half.info.size == (75, 102)
    assert half.info.mpp == pytest.approx((0.5, 1.0))
    assert_reads_like(half, picture(height=75, width=102))
    with pytest.raises(OptionError, match="no level 2"):
        open_source(path, level=2)


def test_icc_profile_and_description_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, picture(), photometric="rgb", iccprofile=b"profile", description="mouse liver", metadata=None
    )
    info = open_source(path).info
    assert info.icc_profile == b"profile"
    assert info.description == "mouse liver"


def test_page_and_series_choose_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    small = picture(1, height=70, width=100)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(picture(), photometric="rgb", metadata=None)
        tiff.write(small, photometric="minisblack", metadata=None)
    assert_reads_like(open_source(path), picture())
    assert_reads_like(open_source(path, page=1), small)
    assert_reads_like(open_source(path, series=1), small)
    with pytest.raises(OptionError, match="no page 2"):
        open_source(path, page=2)
    with pytest.raises(OptionError, match="by itself"):
        open_source(path, page=1, level=0)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (np.zeros((20, 30, 3), np.uint16), {"photometric": "cielab"}, "cielab.*save it as RGB first"),
        (np.zeros((20, 30), np.float64), {"photometric": "minisblack"}, r"float64.*astype\('float32'\)"),
        (np.zeros((101, 20, 30), np.uint8), {"ome": True, "metadata": {"axes": "CYX"}}, "101 channels"),
        (np.zeros((2, 3, 20, 30), np.uint8), {"ome": True, "metadata": {"axes": "ZCYX"}}, "choose one with z, 0 to 1"),
        (np.zeros((5, 20, 30), np.uint8), {"photometric": "minisblack"}, "choose one with z, 0 to 4, or keep all"),
    ],
)
def test_other_pixels_are_refused_with_a_reason(tmp_path: Path, pixels: Any, options: Any, message: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, **options)
    with pytest.raises(SourceError, match=message) as caught:
        open_source(path)
    assert str(path) in str(caught.value)


def tag_place(path: Path, code: int) -> int:
    with tifffile.TiffFile(path) as tiff:
        return int(tiff.pages.first.tags[code].valueoffset)


def overwrite(path: Path, place: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_absurd_size_is_an_error_not_a_memory_error(tmp_path: Path, compression: Any, tile: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", metadata=None, tile=tile, compression=compression)
    for code in (256, 257):
        overwrite(path, tag_place(path, code), (10**9).to_bytes(4, "little"))
    with pytest.raises(SourceError, match=str(path)):
        open_source(path)


@pytest.mark.parametrize("compression", ["jpeg", "zlib", None])
def test_damaged_tile_is_named(tmp_path: Path, compression: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", metadata=None, tile=(64, 64), compression=compression)
    with tifffile.TiffFile(path) as tiff:
        place, count = tiff.pages.first.dataoffsets[6], tiff.pages.first.databytecounts[6]
    if compression is None:
        table = tag_place(path, 324) + 6 * 4
        overwrite(path, table, (2**31).to_bytes(4, "little"))
    else:
        overwrite(path, place, b"\x55" * count)
    reader = open_source(path).open()
    out = np.empty((64, 64, 3), np.uint8)
    reader.read(0, 0, 64, 64, out)
    with pytest.raises(CorruptTileError, match=r"row 1, column 2") as caught:
        reader.read(64, 128, 64, 64, out)
    assert str(path) in str(caught.value)
    reader.read(0, 64, 64, 64, out)


def test_jpeg_that_stops_in_the_middle_is_not_grey(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", metadata=None, tile=(64, 64), compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        place, count = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    overwrite(path, place + count // 2, bytes(count - count // 2))
    with pytest.raises(CorruptTileError, match="row 0, column 0"):
        open_source(path).open().read(0, 0, 64, 64, np.empty((64, 64, 3), np.uint8))


SHORT_OF_MEMORY = """
import resource, sys
import numpy as np
from slidewright.sources.open import open_source
reader = open_source(sys.argv[1]).open()
out = np.empty((512, 512, 3), np.uint8)
reader.read(0, 0, 512, 512, out)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (40 << 20), resource.RLIM_INFINITY))
held = []
try:
    while True:
        held.append(bytearray(1 << 16))
except MemoryError:
    del held[-int(sys.argv[2]) :]
try:
    reader.read(512, 512, 512, 512, out)
except MemoryError:
    print("no memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")
@pytest.mark.parametrize("left", [20, 40])
@pytest.mark.parametrize("codec", ["jpeg2000", "jpegxl", "lzma"])
def test_codec_that_lacks_memory_is_no_damage(tmp_path: Path, codec: str, left: int) -> None:
    """Some codecs say of it what they say of damage; what is damaged would be background in the levels above."""
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 60, (1024, 1024, 3)).astype(np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(512, 512), compression=codec)
    script = [sys.executable, "-c", SHORT_OF_MEMORY, str(path), str(left)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "no memory\n"), done.stderr


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_file_cut_short_is_an_error(tmp_path: Path, tile: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", metadata=None, tile=tile)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 20_000])
    with pytest.raises(SourceError, match=str(path)):
        open_source(path).open().read(64, 64, 86, 141, np.empty((512, 512, 3), np.uint8))


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_file_that_shrinks_after_it_was_described_is_an_error(tmp_path: Path, tile: Any) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", metadata=None, tile=tile)
    reader = open_source(path).open()
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CorruptTileError, match="cut short"):
        reader.read(100, 10, 40, 40, np.empty((64, 64, 3), np.uint8))


def test_file_replaced_by_one_of_another_size_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", metadata=None)
    source = TiffSource.describe(str(path))
    tifffile.imwrite(path, picture(height=80), photometric="rgb", metadata=None)
    with pytest.raises(SourceError, match="start again"):
        source.open()


@pytest.mark.parametrize("options", [{}, {"flavour": "aperio", "compression": "jpeg"}])
@pytest.mark.parametrize("resolution", [(0xFFFFFFFF, 1), (1, 0xFFFFFFFF)])
def test_resolution_that_no_slide_has_is_left_out_with_a_warning(tmp_path, options, resolution):
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((90, 90, 3), np.uint8), photometric="rgb", resolution=(99, 99))
    with tifffile.TiffFile(tmp_path / "s.tif", mode="r+") as tiff:
        for name in ("XResolution", "YResolution"):
            tiff.pages.first.tags[name].overwrite(resolution)
    report = slidewright.convert(tmp_path / "s.tif", tmp_path / "o.tif", n_workers=0, tile_size=64, **options)
    assert "its resolution" in " ".join(report.warnings)
    with pytest.raises(slidewright.OptionError, match="mpp"):
        slidewright.convert(tmp_path / "s.tif", tmp_path / "p.tif", n_workers=0, mpp=1e-7)


@pytest.mark.parametrize("predictor", [3, 65534])
def test_tiles_of_a_predictor_that_their_samples_can_not_have_are_not_kept(tmp_path, predictor):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, np.zeros((90, 90), np.uint8), tile=(64, 64), compression="zlib", predictor=True)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Predictor"].overwrite(predictor)
    try:
        report = slidewright.convert(path, tmp_path / "o.tif", n_workers=0)
    except slidewright.SlidewrightError:
        return
    assert "predictor" in report.keeping


@pytest.mark.parametrize("tag", [(274, 2, 1, "", True), (274, 5, 1, (1, 3), True)])
def test_orientation_that_is_no_number_is_upright(tmp_path, tag):
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((90, 80), np.uint8), extratags=[tag])
    assert slidewright.info(tmp_path / "s.tif").size == (90, 80)


def test_tags_of_bytes_that_hold_numbers_are_not_used(tmp_path):
    """An ICC profile that is one number, of a damaged file."""
    tifffile.imwrite(
        tmp_path / "s.tif", np.zeros((90, 90, 3), np.uint8), photometric="rgb", extratags=[(34675, 4, 1, 7, True)]
    )
    assert slidewright.info(tmp_path / "s.tif").icc_bytes == 0
    for flavour in ("generic", "aperio"):
        slidewright.convert(
            tmp_path / "s.tif", tmp_path / f"{flavour}.tif", n_workers=0, flavour=flavour, compression="jpeg"
        )
        with tifffile.TiffFile(tmp_path / f"{flavour}.tif") as tiff:
            assert 34675 not in tiff.pages.first.tags


@pytest.mark.parametrize("name", ["a.tif", "a.ome.zarr"])
def test_jpeg_2000_that_stops_in_the_middle_is_no_guess(name: str, tmp_path: Path) -> None:
    """OpenJPEG makes the rest of what it has, without a word."""
    path, options = tmp_path / name, {"zarr_shard": 0} if "zarr" in name else {}
    pixels = np.random.default_rng(4).integers(0, 200, (128, 128, 3), np.uint8)
    slidewright.convert(pixels, path, n_workers=0, tile_size=64, compression="jpeg2000", **options)
    file, place = path, 0
    if path.is_dir():
        file = path / "0/c/0/1/0"
        count = file.stat().st_size
    else:
        with tifffile.TiffFile(path) as tiff:
            place, count = tiff.pages.first.dataoffsets[2], tiff.pages.first.databytecounts[2]
    overwrite(file, place + count // 2, bytes(count - count // 2))
    with pytest.raises(CorruptTileError, match="without an end"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0, keep_tiles="never")
    with pytest.raises(slidewright.VerifyError, match=r"row 1, column 0.*without an end"):
        slidewright.verify_file(path)


@pytest.mark.parametrize("noise", [256, 40])
@pytest.mark.parametrize("keep", [False, True])
def test_jpeg_with_zeros_in_the_place_of_a_part_is_damage(tmp_path: Path, noise: int, keep: bool) -> None:
    """libjpeg only warns, and gives an image in which all is moved; a tile of one colour may have such zeros."""
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, noise, (256, 256, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(128, 128), compression="jpeg", photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages.first.dataoffsets[2], tiff.pages.first.databytecounts[2]
    assert count > 4000
    data = bytearray(path.read_bytes())
    data[offset + 2000 : offset + 2512] = bytes(512)
    path.write_bytes(data)
    if keep:
        report = slidewright.convert(path, tmp_path / "o.tif", n_workers=0)
        assert "row 1, column 0" in report.warnings[0]
    else:
        with pytest.raises(CorruptTileError, match=r"row 1, column 0 is a JPEG with zeros in the place of a part"):
            slidewright.convert(path, tmp_path / "o.tif", n_workers=0, compression="zstd")
    report = slidewright.convert(path, tmp_path / "f.tif", n_workers=0, on_corrupt="fill", compression="zstd")
    assert report.corrupt_tiles == 1


def tables_of(path: Path) -> tuple[int, bytes]:
    """Where JPEGTables lie, and what they are."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags["JPEGTables"]
        return tag.valueoffset, bytes(tag.value)


@pytest.mark.parametrize("length", [64, 1000])
def test_jpegtables_with_a_hole_are_refused(tmp_path: Path, length: int) -> None:
    """libjpeg goes over it, or takes standard tables, and the colours of each pixel are others."""
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    slidewright.convert(pixels, path, n_workers=0, tile_size=64)
    at, tables = tables_of(path)
    data = path.read_bytes()
    assert not is_damaged(tables)
    assert len(tables) > 400
    for start in range(0, len(tables) - 16, 16):
        count = min(length, len(tables) - start)
        path.write_bytes(data[: at + start] + bytes(count) + data[at + start + count :])
        with pytest.raises(CorruptTileError, match="level 0 has damaged JPEGTables"):
            slidewright.convert(path, tmp_path / "o.tif", n_workers=0)


@pytest.mark.parametrize("damage", ["hole", "end"])
def test_jpeg_tiles_of_separate_planes_are_looked_at_too(tmp_path: Path, damage: str) -> None:
    """As Bio-Formats writes them."""
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (3, 256, 256), np.uint8)
    made: dict[str, Any] = {"photometric": "rgb", "planarconfig": "separate", "metadata": None}
    tifffile.imwrite(path, pixels, tile=(128, 128), compression="jpeg", **made)
    slidewright.convert(path, tmp_path / "good.tif", n_workers=0, compression="zstd")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages.first.dataoffsets[5], tiff.pages.first.databytecounts[5]
    start, end = {"hole": (2000, 2512), "end": (count // 2, count)}[damage]
    overwrite(path, offset + start, bytes(end - start))
    with pytest.raises(CorruptTileError, match=r"channel 1, tile at row 0, column 1 is a JPEG"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0, compression="zstd")


def test_jpegs_of_three_samples_in_which_0_is_white_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    slidewright.convert(np.zeros((64, 64, 3), np.uint8), path, n_workers=0, tile_size=64)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(0)
    with pytest.raises(SourceError, match="JPEGs of 3 samples in which 0 is white"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0)


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_image_none_of_whose_tiles_has_a_place_is_refused_where_the_file_has_bytes_for_them(
    tmp_path: Path, tile: tuple[int, int] | None
) -> None:
    """The tables lie one after the other, and one hole may take both: the image was background."""
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=tile, rowsperstrip=None if tile else 16, compression="zlib", photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        tags = tiff.pages.first.tags
        names = ("TileOffsets", "TileByteCounts") if tile else ("StripOffsets", "StripByteCounts")
        places = [(tags[name].valueoffset, tags[name].valuebytecount) for name in names]
    for at, count in places:
        overwrite(path, at, bytes(count))
    with pytest.raises(SourceError, match="none of its tiles or strips has a place in the file"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0, on_corrupt="fill")


@pytest.mark.parametrize("compression", [None, "jpeg", "lzw"])
def test_page_that_does_not_say_its_bits_is_refused_where_one_can_not_be_meant(
    tmp_path: Path, compression: Any
) -> None:
    """As where one bit of the tag's number has changed: tifffile takes one bit a sample."""
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    options: dict[str, Any] = {"compression": compression, "tile": (64, 64), "metadata": None}
    for each, photometric in ((pixels, "rgb"), (pixels[:, :, 0].astype(np.uint16), "minisblack")):
        if compression == "jpeg" and each.ndim == 2:
            continue
        tifffile.imwrite(path, each, photometric=photometric, **options)
        with tifffile.TiffFile(path) as tiff:
            at = tiff.pages.first.tags["BitsPerSample"].offset
        overwrite(path, at, (258 ^ 1024).to_bytes(2, "little"))
        with pytest.raises(SourceError, match=r"does not say how many bits|more bits than it has pixels"):
            slidewright.convert(path, tmp_path / "o.tif", n_workers=0)


@pytest.mark.parametrize("compression", [None, "packbits", "ccittfax4"])
def test_page_of_bits_need_not_say_so(tmp_path: Path, compression: Any) -> None:
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 2, (64, 70), np.uint8).astype(bool)
    PIL.Image.fromarray(pixels).save(path, compression={None: None, "ccittfax4": "group4"}.get(compression, "packbits"))
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages.first.tags.get("BitsPerSample")
    if tag is not None:  # Pillow leaves it out where nothing is compressed
        overwrite(path, tag.offset, (258 ^ 1024).to_bytes(2, "little"))
    source = open_source(path)
    assert source.info.dtype == "bool"
    out = np.empty((64, 70, 1), bool)
    np.testing.assert_array_equal(source.open().read(0, 0, 64, 70, out)[:, :, 0], pixels)


def test_image_all_of_whose_tiles_are_left_out_is_background(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    nothing: dict[str, Any] = {"shape": (128, 128), "dtype": "u1", "tile": (64, 64), "compression": "zlib"}
    tifffile.imwrite(path, iter([b""] * 4), **nothing)
    slidewright.convert(path, tmp_path / "o.tif", n_workers=0, compression="zstd")
    assert not tifffile.imread(tmp_path / "o.tif").any()


@pytest.mark.parametrize("page", [0, 2])
@pytest.mark.parametrize("imagej", [False, True])
def test_uncompressed_strip_without_a_place_is_not_read_from_the_beginning(
    tmp_path: Path, page: int, imagej: bool
) -> None:
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (4, 64, 64), np.uint8)
    tifffile.imwrite(path, pixels, imagej=imagej, photometric="minisblack", metadata={} if imagej else None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[page].aspage().tags["StripOffsets"].overwrite(0)
    with pytest.raises(CorruptTileError, match=r"has no place in the file|lies outside the file"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0, page=page)


@pytest.mark.parametrize("length", [32, 128])
def test_hole_in_the_header_of_a_jpeg_tile_is_damage(tmp_path: Path, length: int) -> None:
    path, pixels = tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    stream = jpeg8_encode(pixels, 90)
    begin = stream.index(b"\xff\xdb")
    tables = stream.index(b"\xff\xda") - begin
    tile: dict[str, Any] = {"shape": pixels.shape, "dtype": "u1", "tile": (64, 64), "photometric": "ycbcr"}
    tifffile.imwrite(path, iter([stream]), compression="jpeg", subsampling=(2, 2), metadata=None, **tile)
    slidewright.convert(path, tmp_path / "good.tif", n_workers=0, compression="zstd")
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.dataoffsets[0] + begin
    data = path.read_bytes()
    for start in range(0, tables - length, 16):
        at = place + start
        path.write_bytes(data[:at] + bytes(length) + data[at + length :])
        with pytest.raises(CorruptTileError, match="row 0, column 0"):
            slidewright.convert(path, tmp_path / "o.tif", n_workers=0, compression="zstd")


def test_tables_and_headers_that_are_in_order_are_not_called_damaged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for optimize in (False, True):
        for quality in (1, 50, 100):
            stream = jpeg8_encode(pixels, quality, optimize=optimize)
            tables = stream[: stream.index(b"\xff\xda")]
            ends = (b"", b"\xff\xd9", b"\xff\xd9\0\0", b"\xff", bytes(3))
            for good in (stream, *(tables + end for end in ends)):
                assert not is_damaged(good)
            assert not is_damaged(tables[:2] + b"\xff\xff\xff" + tables[2:])
            assert not is_damaged(tables[:2] + b"\xff\x01\xff\xd3" + tables[2:])
            assert is_damaged(tables + bytes(4))
    assert not is_damaged(b"\xff\xd8\xff\xd9")
    assert not is_damaged(b"\xff\xd8")


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "411", "440"])
@pytest.mark.parametrize("samples", [1, 3])
def test_zeros_in_the_codes_of_one_colour_are_no_hole(subsampling: str, samples: int) -> None:
    flat = np.full((512, 512, samples), 128, np.uint8)
    stream = jpeg8_encode(flat.squeeze(), 90, subsampling=subsampling, optimize=True)
    assert bytes(64) in stream
    assert not has_hole(stream, Size(512, 512))


@pytest.mark.parametrize("kind", ["baseline", "progressive", "restarts", "cmyk", "grey"])
def test_every_hole_of_a_sector_in_the_codes_of_a_jpeg_is_seen(kind: str) -> None:
    """Wherever it is, but in the last scans of a progressive JPEG, where most codes are bits as they come."""
    pixels = np.random.default_rng(6).integers(0, 256, (256, 256, {"cmyk": 4, "grey": 1}.get(kind, 3)), np.uint8)
    buffer, options = io.BytesIO(), {"progressive": {"progressive": True}, "restarts": {"restart_marker_rows": 1}}
    mode = {"cmyk": "CMYK", "grey": "L"}.get(kind, "RGB")
    image = PIL.Image.frombytes(mode, (256, 256), pixels.tobytes())
    image.save(buffer, "JPEG", quality=90, **options.get(kind, {}))
    stream, cell = buffer.getvalue(), Size(256, 256)
    last = len(stream) - 700 if kind != "progressive" else len(stream) // 2
    for at in range(700, last, 997):
        assert has_hole(stream[:at] + bytes(512) + stream[at + 512 :], cell), at


@pytest.mark.parametrize(("noise", "quality"), [(5, 90), (5, 92), (10, 85)])
def test_hole_is_seen_where_zeros_take_as_many_codes_as_what_was_there(noise: int, quality: int) -> None:
    """By the standard's tables zeros are 96.5 bytes of 4:2:0 for 16 x 16 pixels, and libjpeg finds no fault in them."""
    y, x = np.mgrid[:512, :512]
    pattern = np.stack([127 + 100 * np.sin(y / (9 + c) + x / (7 - c) + c) for c in range(3)], -1)
    pixels = np.clip(pattern + np.random.default_rng(3).normal(0, noise, pattern.shape), 0, 255).astype(np.uint8)
    stream = jpeg8_encode(pixels, quality, subsampling="420")
    for hole in (512, 4096):
        for at in range(1000, len(stream) - hole - 2, len(stream) // 40):
            assert has_hole(stream[:at] + bytes(hole) + stream[at + hole :], Size(512, 512)), at
    padded = stream[:-2] + bytes(4096) + stream[-2:]
    assert not has_hole(padded, Size(512, 512))
    assert has_hole(stream[: len(stream) // 2] + bytes(4096) + stream[-2:], Size(512, 512))


def test_zeros_in_a_jpeg_outside_its_codes_are_no_hole() -> None:
    """In a profile, a comment, before and after the end."""
    pixels, zeros = np.random.default_rng(6).integers(0, 256, (128, 128, 3), np.uint8), bytes(2000)
    stream, cell = jpeg8_encode(pixels, 90), Size(128, 128)
    head, end = stream[:2], stream[-2:]
    length = (2 + len(zeros)).to_bytes(2, "big")
    for good in (
        head + b"\xff\xe2" + length + zeros + stream[2:],
        head + b"\xff\xfe" + length + zeros + stream[2:],
        stream[:-2] + zeros + end,
        stream[:-2] + zeros + b"\xff\xff" + end,
        stream + zeros + end,
        stream[:-2] + b"\xff\xff\xff" + end + zeros,
    ):
        np.testing.assert_array_equal(jpeg8_decode(good), jpeg8_decode(stream))
        assert not has_hole(good, cell)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("tag", ["TileOffsets", "TileByteCounts"])
def test_hole_in_a_table_of_tiles_is_damage_and_no_tile_left_out(tmp_path: Path, tag: str, big: bool) -> None:
    """Tiles of which one of the two is zero were black."""
    path = tmp_path / "a.tif"
    options = {"compression": "zlib", "photometric": "rgb", "metadata": None, "bigtiff": big}
    tifffile.imwrite(path, picture(), tile=(16, 16), **options)
    with tifffile.TiffFile(path) as tiff:
        at, item = tiff.pages.first.tags[tag].valueoffset, tiff.pages.first.tags[tag].dtype
        width = {3: 2, 4: 4, 13: 4, 16: 8}[int(item)]
    data = bytearray(path.read_bytes())
    data[at + 20 * width : at + 60 * width] = bytes(40 * width)
    path.write_bytes(data)
    with pytest.raises(CorruptTileError, match="has no place in the file"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0, tile_size=16)
    report = slidewright.convert(path, tmp_path / "o.tif", n_workers=0, tile_size=16, on_corrupt="fill")
    assert report.corrupt_tiles == 40


@pytest.mark.parametrize("which", [slice(None, 3), slice(-3, None)])
def test_hole_that_takes_a_few_counts_at_an_end_of_the_table_is_damage(tmp_path: Path, which: slice) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), tile=(16, 16), compression="zlib", photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = list(tiff.pages.first.databytecounts)
        counts[which] = [0] * 3
        tiff.pages.first.tags["TileByteCounts"].overwrite(counts)
    report = slidewright.convert(path, tmp_path / "o.tif", n_workers=0, tile_size=16, on_corrupt="fill")
    assert report.corrupt_tiles == 3


def test_last_tiles_that_are_left_out_lie_where_the_file_goes_on(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", picture()
    tifffile.imwrite(path, pixels, tile=(16, 16), compression="zlib", photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts, offsets = list(tiff.pages.first.databytecounts), list(tiff.pages.first.dataoffsets)
        counts[-3:], offsets[-3:] = [0] * 3, [offsets[-4] + counts[-4]] * 3
        tiff.pages.first.tags["TileOffsets"].overwrite(offsets)
        tiff.pages.first.tags["TileByteCounts"].overwrite(counts)
    report = slidewright.convert(path, tmp_path / "o.tif", n_workers=0, tile_size=16, on_corrupt="fill")
    assert report.corrupt_tiles == 0


@pytest.mark.parametrize("frame", [b"\xff\xc0", b"\xff\xc2"])
def test_jpeg_tile_of_scans_without_number_is_refused(tmp_path: Path, frame: bytes) -> None:
    """Each of the scans of a JPEG goes over all of it, and may have next to no bytes."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), tile=(64, 64), compression="jpeg", photometric="rgb", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        at, count = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    data = bytearray(path.read_bytes())
    scan = bytes([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0])
    many = data[at : at + count - 2].replace(b"\xff\xc0", frame, 1) + scan * 120 + b"\xff\xd9"
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        page = tiff.pages.first
        page.tags["TileOffsets"].overwrite([len(data), *page.dataoffsets[1:]])
        page.tags["TileByteCounts"].overwrite([len(many), *page.databytecounts[1:]])
    path.write_bytes(path.read_bytes() + many)
    with pytest.raises(CorruptTileError, match="of 121 scans; 100 are the most"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0, tile_size=64, compression="zstd")


def test_tiles_left_out_have_no_place_or_no_bytes_before_another(tmp_path: Path) -> None:
    """GDAL writes two zeros; others the byte at which the next tile begins."""
    path, pixels = tmp_path / "a.tif", picture()
    tifffile.imwrite(path, pixels, tile=(16, 16), compression="zlib", photometric="rgb", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        offsets, counts = list(tiff.pages.first.dataoffsets), list(tiff.pages.first.databytecounts)
        counts[3], offsets[4], counts[4] = 0, 0, 0
        offsets[3] = offsets[5]
        tiff.pages.first.tags["TileOffsets"].overwrite(offsets)
        tiff.pages.first.tags["TileByteCounts"].overwrite(counts)
    source, out = open_source(path), np.empty((HEIGHT, WIDTH, 3), np.uint8)
    found = source.open().read(0, 0, HEIGHT, WIDTH, out)
    assert not found[:16, 48:80].any()
    pixels[:16, 48:80] = 0
    np.testing.assert_array_equal(found, pixels)


LOSSLESS = """
import sys, numpy as np, tifffile, slidewright
from imagecodecs import ljpeg_encode
from slidewright.geometry import Size
from slidewright.tiff.half_jpeg import decode_half_jpeg
for side in (64, 128, 256, 512):
    stream = ljpeg_encode(np.zeros((side, side), np.uint8))
    assert bytes(512) in stream
    options = dict(shape=(side, side), dtype="u1", tile=(side, side), compression="jpeg", photometric="minisblack")
    tifffile.imwrite("a.tif", iter([stream]), **options)
    slidewright.convert("a.tif", "o.tif", n_workers=0, compression="deflate", overwrite=True)
    half = np.zeros((side // 2, side // 2, 1), np.uint8)
    assert not decode_half_jpeg(stream, half, Size(side, side), tables=None, as_rgb=False)
"""


def test_lossless_jpeg_is_not_decoded_smaller(tmp_path: Path) -> None:
    """simplejpeg 1.9.0 would write beyond the end of its array, and the process would crash."""
    line = [sys.executable, "-c", LOSSLESS]
    more = {"MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "7"}
    done = subprocess.run(line, cwd=tmp_path, env=os.environ | more, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("which", [1, 7, 14])
def test_one_tile_that_has_lost_its_number_of_bytes_is_damage(tmp_path: Path, which: int) -> None:
    """It was background. What a writer leaves out has no place of its own."""
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(3).integers(0, 255, (128, 128), np.uint8)
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        tag.overwrite([0 if n == which else count for n, count in enumerate(tag.value)])
    with pytest.raises(CorruptTileError, match=r"has no place in the file; the file is damaged"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["TileOffsets"]
        tag.overwrite([tag.value[which + 1 - 2 * (which > 13)] if n == which else at for n, at in enumerate(tag.value)])
    slidewright.convert(path, tmp_path / "o.tif", n_workers=0, compression="zstd", keep_tiles="never")
    row, column = divmod(which, 4)
    pixels[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32] = 0
    assert np.array_equal(tifffile.imread(tmp_path / "o.tif", key=0), pixels)
