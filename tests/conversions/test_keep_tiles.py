"""Level 0 keeps the source's encoded tiles: byte for byte, in readers that nobody here wrote, and only where nothing
that was asked for contradicts it.
"""

from __future__ import annotations

import functools
import os
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from kept_sources import (
    ASKED,
    ENDS,
    SOURCES,
    TIFF_ONLY,
    TILE,
    aperio_jpeg2000,
    ended_otherwise,
    level_0,
    ome,
    philips,
    picture,
    segments,
    tiles_of,
)
from oracle import pyramid
from written import digest

import slidewright
from slidewright.errors import CorruptTileError, OptionError, VerifyError
from slidewright.inspection.verify import verify_file
from slidewright.system.pixel_file import PixelFile

LOSSLESS = ("deflate", "lzw", "zstd", "none", "png", "rgba", "shared", "jpeg2000")


@pytest.fixture(params=[*(kind for kind in SOURCES if kind != "ome channels"), *TIFF_ONLY, *ASKED])
def kept(request: Any, tmp_path: Path) -> tuple[str, Path, Path]:
    """(kind, source, converted) of every kind of source that can be kept."""
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    asked: dict[str, Any] = {"compression": _compression(request.param)} if request.param in ASKED else {}
    {**SOURCES, **TIFF_ONLY, **ASKED}[request.param](source)
    report = slidewright.convert(source, out, n_workers=0, **asked)
    assert report.kept_tiles == report.levels[0].tiles > 0
    assert report.keeping.startswith("kept as they are in the source")
    assert report.warnings == ()
    return request.param, source, out


def _compression(kind: str) -> str:
    return "webp" if kind == "webp" else kind


def test_level_0_is_the_sources_bytes_and_pixels(kept):
    _, source, out = kept
    assert segments(out) == segments(source)
    np.testing.assert_array_equal(level_0(out), level_0(source))


def test_tags_of_level_0_are_the_sources(kept):
    _, source, out = kept
    with tifffile.TiffFile(source) as there, tifffile.TiffFile(out) as here:
        old, new = there.pages.first, here.pages.first
        for name in ("photometric", "tile", "predictor", "jpegtables", "compression"):
            assert getattr(new, name) == getattr(old, name) or name == "compression", name
        if old.photometric == 6:
            assert new.tags["YCbCrSubSampling"].value == old.tags["YCbCrSubSampling"].value


def test_levels_above_are_made_of_the_decoded_pixels(kept):
    kind, source, out = kept
    with tifffile.TiffFile(out) as tiff:
        tile = tiff.pages.first.tilelength
        expected = pyramid(level_0(source), tile, "mean", None)
        assert len(tiff.pages) == len(expected)
        for page, level in zip(list(tiff.pages)[1:], expected[1:], strict=True):
            found = page.asarray()
            found = np.moveaxis(found, 0, 2) if page.planarconfig == 2 and found.ndim == 3 else found
            if kind.startswith(LOSSLESS):
                np.testing.assert_array_equal(found.reshape(level.shape), level)
            else:
                difference = found.reshape(level.shape).astype(float) - level
                assert np.abs(difference).mean() < 8


def test_verify_compares_tiles_byte_by_byte(kept):
    _, source, out = kept
    report = verify_file(out, against=source)
    assert report.levels[0].exact
    verify_file(out)


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if "channels" not in kind and "16" not in kind])
def test_other_readers_see_the_same_in_source_and_output(tmp_path, kind):
    openslide, pyvips, image = (
        pytest.importorskip("openslide"),
        pytest.importorskip("pyvips"),
        pytest.importorskip("PIL.Image"),
    )
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    SOURCES[kind](source)
    slidewright.convert(source, out, n_workers=0)
    pixels = level_0(source)
    height, width, samples = pixels.shape

    def openslides(path: Path) -> Any:
        with openslide.OpenSlide(path) as slide:
            return np.asarray(slide.read_region((0, 0), 0, (width, height)))

    if kind != "jpeg big-endian":  # OpenSlide refuses the source
        np.testing.assert_array_equal(openslides(out), openslides(source))
    if kind != "sparse jpeg":  # libtiff reports a tile of no bytes as an error, of the source as well
        seen = pyvips.Image.new_from_file(str(out)).numpy()
        np.testing.assert_array_equal(seen, pyvips.Image.new_from_file(str(source)).numpy())
        np.testing.assert_allclose(seen.reshape(pixels.shape).astype(int), pixels, atol=4)
        np.testing.assert_array_equal(np.asarray(image.open(out)), np.asarray(image.open(source)))
        if samples == 3:
            np.testing.assert_allclose(openslides(out)[..., :3].astype(int), pixels, atol=4)


def test_aperio_jpeg2000_is_kept_under_the_number_that_readers_know(tmp_path):
    aperio_jpeg2000(tmp_path / "in.tif")
    slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", n_workers=0, compression="jpeg2000")
    assert segments(tmp_path / "out.tif") == segments(tmp_path / "in.tif")
    np.testing.assert_array_equal(level_0(tmp_path / "out.tif"), picture())
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.pages.first.compression == 34712


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        ("jpeg 420", {"quality": 80}, "quality 80 was asked for"),
        ("jpeg 420", {"tile_size": 128}, "tile_size 128 was asked for, and its tiles are 64 x 64"),
        ("jpeg 420", {"compression": "deflate"}, "compression 'deflate' was asked for"),
        ("jpeg 420", {"subsampling": "444"}, "subsampling '444' was asked for"),
        ("deflate", {"predictor": False}, "predictor False was asked for"),
        ("deflate", {"compression": "deflate", "effort": 9}, "effort 9 was asked for"),
        ("deflate", {"kind": "multichannel"}, "kind 'multichannel' was asked for"),
        ("rgba deflate", {"alpha": "compose", "compression": "deflate"}, "its pixels are changed on the way"),
        ("zstd", {}, "not every reader shows zstd"),
        ("none", {}, "its tiles are uncompressed"),
        ("jpeg 420", {"keep_tiles": "never"}, "as keep_tiles 'never' asks"),
    ],
)
def test_what_was_asked_for_comes_first(tmp_path, kind, options, reason):
    {**SOURCES, **ASKED}[kind](tmp_path / "in.tif")
    report = slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", n_workers=0, **options)
    assert report.kept_tiles == 0
    assert report.keeping.startswith("encoded anew")
    assert reason in report.keeping
    if options.get("keep_tiles") != "never":
        given = {name: value for name, value in options.items() if name not in ("quality", "effort")}
        if given == options and options:
            with pytest.raises(OptionError, match="keep_tiles 'always' can't be"):
                slidewright.convert(tmp_path / "in.tif", tmp_path / "x.tif", keep_tiles="always", **options)


def test_quality_beside_always_is_that_of_the_levels_above(tmp_path):
    SOURCES["jpeg 420"](tmp_path / "in.tif")
    sizes = {}
    for quality in (30, 95):
        report = slidewright.convert(
            tmp_path / "in.tif", tmp_path / f"{quality}.tif", n_workers=0, keep_tiles="always", quality=quality
        )
        sizes[quality] = [level.bytes for level in report.levels]
    assert sizes[30][0] == sizes[95][0]
    assert sizes[30][1] < sizes[95][1]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tile": (64, 80)}, "not squares whose side is a multiple of 16"),
        ({"rowsperstrip": 20}, "it is stored in strips"),
        ({"tile": (64, 64), "photometric": "miniswhite"}, "0 is white"),
        ({"tile": (64, 64), "byteorder": ">", "compression": "zlib"}, "its samples are big-endian"),
    ],
)
def test_always_says_why_it_can_not_be(tmp_path, options, reason):
    grey = {"photometric": "minisblack", **options}
    tifffile.imwrite(tmp_path / "in.tif", picture(1, "uint16")[:, :, 0], metadata=None, **grey)
    with pytest.raises(OptionError, match=reason):
        slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", keep_tiles="always")
    with pytest.raises(OptionError, match="its tiles are not of a kind that can be copied"):
        slidewright.convert(picture(), tmp_path / "out.tif", keep_tiles="always")
    assert not (tmp_path / "out.tif").exists()


@pytest.fixture
def corrupt(tmp_path: Path) -> Path:
    """A source with one JPEG that has lost its end."""
    path = tmp_path / "corrupt.tif"
    SOURCES["jpeg 420"](path)
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages.first.dataoffsets[8], tiff.pages.first.databytecounts[8]
    data = bytearray(path.read_bytes())
    data[offset + count // 2 : offset + count] = bytes(count - count // 2)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_tile_is_kept_with_a_warning_that_names_it(tmp_path, corrupt, workers):
    report = slidewright.convert(corrupt, tmp_path / "out.tif", n_workers=workers)
    assert segments(tmp_path / "out.tif") == segments(corrupt)
    assert report.corrupt_tiles == 1
    (warning,) = report.warnings
    assert "kept as it is" in warning
    assert "row 1, column 1" in warning
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        above = tiff.pages[1].asarray()
    assert (above[34:62, 34:62] > 245).all()  # white, where the tile was


def test_corrupt_tile_ends_the_run_or_is_filled_where_that_is_asked_for(tmp_path, corrupt):
    with pytest.raises(CorruptTileError, match="row 1, column 1"):
        slidewright.convert(corrupt, tmp_path / "out.tif", on_corrupt="error", n_workers=0)
    report = slidewright.convert(corrupt, tmp_path / "out.tif", on_corrupt="fill", n_workers=0)
    assert report.kept_tiles
    there, here = segments(corrupt), segments(tmp_path / "out.tif")
    assert [number for number, pair in enumerate(zip(there, here, strict=True)) if pair[0] != pair[1]] == [8]
    assert (level_0(tmp_path / "out.tif")[64:128, 64:128] > 250).all()


def test_filled_tile_among_rgb_jpegs_is_of_their_kind(tmp_path):
    SOURCES["jpeg rgb"](tmp_path / "in.tif")
    with tifffile.TiffFile(tmp_path / "in.tif") as tiff:
        offset, count = tiff.pages.first.dataoffsets[1], tiff.pages.first.databytecounts[1]
    data = bytearray((tmp_path / "in.tif").read_bytes())
    data[offset : offset + count] = bytes(count)
    (tmp_path / "in.tif").write_bytes(data)
    slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", on_corrupt="fill", background="navy", n_workers=0)
    np.testing.assert_allclose(level_0(tmp_path / "out.tif")[:240, 240:480].astype(int) - (0, 0, 128), 0, atol=2)
    pyvips = pytest.importorskip("pyvips")
    seen = pyvips.Image.new_from_file(str(tmp_path / "out.tif")).numpy()
    np.testing.assert_allclose(seen[:240, 240:480].astype(int) - (0, 0, 128), 0, atol=2)


def _jpeg(tile, subsampling="420", marked=True, **options):
    data = bytes(imagecodecs.jpeg8_encode(tile, 90, subsampling=subsampling, **options))
    return data if marked else data[:2] + data[4 + int.from_bytes(data[4:6]) :]


ODD = {
    "grey": ("ycbcr", lambda tile: _jpeg(np.ascontiguousarray(tile[:, :, 0]), None)),
    "colours": ("rgb", _jpeg),
}
"""By what one tile differs from the first: the colours of the page, and what makes that tile."""


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
@pytest.mark.parametrize("kind", ODD)
def test_tile_of_another_kind_than_the_first_is_encoded_anew(tmp_path, kind, name, scaled):
    photometric, odd = ODD[kind]
    path, out = tmp_path / "in.tif", tmp_path / name
    plain = functools.partial(_jpeg, marked=photometric == "ycbcr")
    tiles = [(odd if number == 8 else plain)(tile) for number, tile in enumerate(tiles_of(picture(), TILE))]
    how = {"shape": (300, 410, 3), "dtype": "uint8", "tile": (TILE, TILE), "metadata": None, "compression": "jpeg"}
    tifffile.imwrite(path, iter(tiles), photometric="ycbcr", subsampling=(2, 2), **how)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite({"ycbcr": 6, "rgb": 2}[photometric])
    options = {"compression": "jpeg", "n_workers": 0, "scaled_decoding": scaled}
    options |= {"zarr_shard": 0} if name == "out.zarr" else {}
    assert slidewright.convert(path, out, verify=True, **options).kept_tiles == 35
    verify_file(out, against=path)
    if name == "out.tif":
        found = segments(out)
        assert [number for number, tile in enumerate(tiles) if found[number] != tile] == [8]
        tile = level_0(out)[64:128, 64:128]
    else:  # by a decoder that is told nothing of colours
        tile = imagecodecs.jpeg8_decode((out / "0/c/0/1/1").read_bytes())
    assert np.abs(tile.astype(int) - level_0(path)[64:128, 64:128]).mean() < 2


def test_tile_of_12_bits_among_those_of_8_does_not_decode(tmp_path):
    path, out = tmp_path / "in.tif", tmp_path / "out.tif"
    tiles = list(map(_jpeg, tiles_of(picture(), TILE)))
    wide = np.ascontiguousarray(picture()[64:128, 64:128]).astype(np.uint16) * 16
    tiles[8] = bytes(imagecodecs.jpeg8_encode(wide, 90, bitspersample=12))
    how = {"shape": (300, 410, 3), "dtype": "uint8", "tile": (TILE, TILE), "metadata": None, "compression": "jpeg"}
    tifffile.imwrite(path, iter(tiles), photometric="ycbcr", subsampling=(2, 2), **how)
    report = slidewright.convert(path, out, n_workers=0)
    assert report.corrupt_tiles == 1
    assert "row 1, column 1 does not decode: its samples are uint16, not uint8" in report.warnings[0]
    assert segments(out) == segments(path)
    slidewright.convert(path, out, n_workers=0, on_corrupt="fill", verify=True, overwrite=True)


def test_left_out_tiles_stay_left_out(tmp_path):
    SOURCES["sparse jpeg"](tmp_path / "in.tif")
    slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", n_workers=2)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        counts, offsets = tiff.pages.first.databytecounts, tiff.pages.first.dataoffsets
    assert [number for number, count in enumerate(counts) if not count] == [1, 2, 9, 10, 34]
    assert all(not offset for offset, count in zip(offsets, counts, strict=True) if not count)
    report = verify_file(tmp_path / "out.tif")
    assert report.warnings == ("level 0: 5 of 35 segments are left out",)


def test_tiles_left_out_that_stand_for_another_value_than_0_are_not_kept(tmp_path):
    tiles = [b"" if number % 3 else zlib.compress(bytes([number]) * 64 * 64) for number in range(12)]
    how = {"tile": (64, 64), "compression": "zlib", "photometric": "minisblack", "metadata": None}
    nodata = [(42113, 2, 4, "255", True)]  # GDAL_NODATA
    tifffile.imwrite(tmp_path / "in.tif", iter(tiles), shape=(180, 250), dtype="uint8", extratags=nodata, **how)
    report = slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", compression="deflate", n_workers=0)
    assert report.kept_tiles == 0
    assert "stand for 255" in slidewright.open_source(tmp_path / "in.tif").info.not_stored
    expected = tifffile.imread(tmp_path / "in.tif")
    assert expected[0, 100] == 255
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), expected)


def test_a_changed_tile_is_found_by_verify(tmp_path):
    SOURCES["jpeg 420"](tmp_path / "in.tif")
    slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", n_workers=0)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        at = tiff.pages.first.dataoffsets[17] + tiff.pages.first.databytecounts[17] - 20
    data = bytearray((tmp_path / "out.tif").read_bytes())
    data[at] ^= 1
    (tmp_path / "out.tif").write_bytes(data)
    with pytest.raises(VerifyError, match="row 2, column 3 is not the source's own tile"):
        verify_file(tmp_path / "out.tif", against=tmp_path / "in.tif")


@pytest.mark.parametrize("kind", ["jpeg rgb", "sparse jpeg", "deflate grey 16"])
def test_every_way_to_convert_gives_the_same_bytes(tmp_path, kind):
    source = tmp_path / "in.tif"
    SOURCES[kind](source)
    slidewright.convert(source, tmp_path / "0.tif", n_workers=0)
    slidewright.convert(source, tmp_path / "2.tif", n_workers=2, block_tiles=1)
    slidewright.convert(source, tmp_path / "resumed.tif", n_workers=2, resume=True)
    for index in range(2):
        slidewright.shard(source, tmp_path / "parts", index=index, count=2, n_workers=0)
    slidewright.assemble(tmp_path / "parts", tmp_path / "joined.tif", n_workers=0)
    names = ("0.tif", "2.tif", "resumed.tif", "joined.tif")
    assert len({digest(tmp_path / name) for name in names}) == 1


def test_kept_again_it_is_the_same(tmp_path):
    SOURCES["jpeg rgb"](tmp_path / "in.tif")
    slidewright.convert(tmp_path / "in.tif", tmp_path / "one.tif", n_workers=0)
    slidewright.convert(tmp_path / "one.tif", tmp_path / "two.tif", n_workers=0)
    assert segments(tmp_path / "two.tif") == segments(tmp_path / "in.tif")


def test_info_tells_of_kept_tiles(tmp_path):
    SOURCES["jpeg 420"](tmp_path / "in.tif")
    assert slidewright.info(tmp_path / "in.tif").keeping == "can be kept as they are"
    slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", n_workers=0)
    assert slidewright.info(tmp_path / "out.tif").keeping == "kept from its source; can be kept as they are"
    tifffile.imwrite(tmp_path / "strips.tif", picture(), photometric="rgb", compression="zlib")
    assert slidewright.info(tmp_path / "strips.tif").keeping == "can't be kept: it is stored in strips, not in tiles"


def test_the_real_slide_is_kept(tmp_path, real_slide):
    slidewright.convert(real_slide, tmp_path / "out.tif", n_workers=2)
    assert segments(tmp_path / "out.tif") == segments(real_slide)
    np.testing.assert_array_equal(level_0(tmp_path / "out.tif"), level_0(real_slide))
    openslide = pytest.importorskip("openslide")
    with openslide.OpenSlide(tmp_path / "out.tif") as here, openslide.OpenSlide(real_slide) as there:
        size = there.dimensions
        np.testing.assert_array_equal(
            np.asarray(here.read_region((0, 0), 0, size)), np.asarray(there.read_region((0, 0), 0, size))
        )
    assert TILE  # the real one has tiles of 240 pixels


@pytest.mark.parametrize("kind", ["jpeg rgb", "jpeg 420", "jpeg 444", "jpeg grey", "sparse jpeg"])
def test_scaled_decoding_is_near_the_mean_and_the_same_for_all_blocks_and_workers(tmp_path, kind):
    SOURCES[kind](tmp_path / "in.tif")
    exact = slidewright.convert(tmp_path / "in.tif", tmp_path / "exact.tif", n_workers=0)
    for name, workers, blocks in (("a", 0, None), ("b", 2, 1), ("c", 0, 2)):
        report = slidewright.convert(
            tmp_path / "in.tif", tmp_path / f"{name}.tif", n_workers=workers, block_tiles=blocks, scaled_decoding=True
        )
        assert report.kept_tiles == exact.kept_tiles
    assert len({digest(tmp_path / f"{name}.tif") for name in "abc"}) == 1
    assert segments(tmp_path / "a.tif") == segments(tmp_path / "in.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as scaled, tifffile.TiffFile(tmp_path / "exact.tif") as mean:
        for page, other in list(zip(scaled.pages, mean.pages, strict=True))[1:]:
            error = np.mean((page.asarray().astype(float) - other.asarray()) ** 2)
            assert error < 255**2 / 10**3.4  # more than 34 dB


@pytest.mark.parametrize("end", ENDS)
def test_scaled_decoding_takes_tables_that_end_otherwise(tmp_path, end):
    SOURCES["jpeg rgb"](tmp_path / "plain.tif")
    ended_otherwise(tmp_path / "in.tif", ENDS[end])
    for name in ("plain", "in"):
        slidewright.convert(tmp_path / f"{name}.tif", tmp_path / f"{name}.out.tif", n_workers=0, scaled_decoding=True)
    found, wanted = (tifffile.imread(tmp_path / f"{name}.out.tif", level=1) for name in ("in", "plain"))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("keep_tiles", ["always", "never"])
def test_tile_of_which_the_disk_gives_a_part_is_not_kept(tmp_path, monkeypatch, keep_tiles):
    """It is whole in the file; what is damaged there is kept as it is, with a warning."""
    tifffile.imwrite(tmp_path / "in.tif", picture(), tile=(128, 128), photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "in.tif") as tiff:
        place = tiff.pages[0].dataoffsets[4]
    read = PixelFile.read

    def part(file, offset, count):
        return read(file, offset, count // 2 if offset == place else count)

    monkeypatch.setattr(PixelFile, "read", part)
    with pytest.raises(CorruptTileError, match="row 1, column 0 ends outside the file"):
        slidewright.convert(tmp_path / "in.tif", tmp_path / "o.tif", n_workers=0, tile_size=128, keep_tiles=keep_tiles)
    assert os.listdir(tmp_path) == ["in.tif"]


def test_scaled_decoding_keeps_what_is_corrupt(tmp_path, corrupt):
    report = slidewright.convert(corrupt, tmp_path / "out.tif", n_workers=2, scaled_decoding=True)
    assert segments(tmp_path / "out.tif") == segments(corrupt)
    assert report.corrupt_tiles == 1
    slidewright.convert(corrupt, tmp_path / "filled.tif", n_workers=0, scaled_decoding=True, on_corrupt="fill")
    assert (level_0(tmp_path / "filled.tif")[64:128, 64:128] > 250).all()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("jpeg 420", {"quality": 80}),
        ("jpeg 420", {"resampling": "max"}),
        ("deflate", {}),
        ("jpeg 420", {"keep_tiles": "never"}),
    ],
)
def test_scaled_decoding_is_refused_where_it_can_not_be(tmp_path, kind, options):
    SOURCES[kind](tmp_path / "in.tif")
    with pytest.raises(OptionError, match="scaled_decoding is for"):
        slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", n_workers=0, scaled_decoding=True, **options)


def test_left_out_tiles_of_philips_are_white_in_the_levels_above(tmp_path):
    philips(tmp_path / "in.tiff")
    with tifffile.TiffFile(tmp_path / "in.tiff") as tiff:
        assert tiff.is_philips
    report = slidewright.convert(tmp_path / "in.tiff", tmp_path / "out.tif", n_workers=0)
    assert report.kept_tiles
    assert segments(tmp_path / "out.tif") == segments(tmp_path / "in.tiff")
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        above = tiff.pages[1].asarray()
    assert (above[:30, 34:94] > 250).all()  # tiles 1 and 2
    assert (above[:30, :30] < 250).any()
    verify_file(tmp_path / "out.tif", against=tmp_path / "in.tiff")


def test_channels_of_their_own_are_kept_where_the_format_has_them_so(tmp_path):
    ome(tmp_path / "in.ome.tif")
    report = slidewright.convert(tmp_path / "in.ome.tif", tmp_path / "out.ome.tif", n_workers=0)
    assert report.kept_tiles == len(segments(tmp_path / "in.ome.tif"))
    assert segments(tmp_path / "out.ome.tif") == segments(tmp_path / "in.ome.tif")
    np.testing.assert_array_equal(level_0(tmp_path / "out.ome.tif"), level_0(tmp_path / "in.ome.tif"))
    report = slidewright.convert(tmp_path / "in.ome.tif", tmp_path / "out.tif", n_workers=0)
    assert report.kept_tiles  # so many channels have tiles of their own in a TIFF too
    np.testing.assert_array_equal(level_0(tmp_path / "out.tif"), level_0(tmp_path / "in.ome.tif"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("compression", "option"),
    [("jpeg", ""), ("jpeg", "scaled_decoding"), ("jpeg", "reuse_levels"), ("deflate", ""), ("deflate", "reuse_levels")],
)
def test_tiles_at_the_edge_that_are_stored_smaller_are_made_whole(tmp_path, compression, option):
    pixels = np.random.default_rng(8).integers(90, 160, (20, 26, 3), np.uint8).repeat(8, 0).repeat(8, 1)[:150, :200]

    def tiles(level):
        for y, x in np.ndindex(*(-(-side // 64) for side in level.shape[:2])):
            tile = np.ascontiguousarray(level[64 * y :, 64 * x :][:64, :64])
            yield imagecodecs.jpeg8_encode(tile, level=95) if compression == "jpeg" else zlib.compress(tile.tobytes())

    with tifffile.TiffWriter(tmp_path / "in.tif") as tiff:
        for level in (pixels, pixels[::2, ::2]):
            kind = {"photometric": "ycbcr", "subsampling": (2, 2)} if compression == "jpeg" else {"photometric": "rgb"}
            said = {"dtype": np.uint8, "tile": (64, 64), "compression": compression, "metadata": None, **kind}
            tiff.write(tiles(level), shape=level.shape, subfiletype=int(level is not pixels), **said)
    given = {option: True} if option else {}
    report = slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", keep_tiles="always", n_workers=0, **given)
    assert (report.kept_tiles, report.reused_levels) == (12, int(option == "reuse_levels"))
    verify_file(tmp_path / "out.tif", against=tmp_path / "in.tif")
    wanted = tifffile.imread(tmp_path / "in.tif").astype(int)
    with openslide.OpenSlide(tmp_path / "out.tif") as slide:
        found = np.asarray(slide.read_region((0, 0), 0, (200, 150)))[:, :, :3]
    np.testing.assert_array_equal(found[:128, :192], wanted[:128, :192])
    assert np.abs(found - wanted).mean() < (2 if compression == "jpeg" else 0.01)
