"""NDPI: stripes joined to tiles without coding anything anew, with OpenSlide's pixels."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import struct
import sys
from pathlib import Path

import ndpi_slides as made
import numpy as np
import pytest
import tifffile
from kept_sources import picture, segments
from PIL import Image

import slidewright
from slidewright.errors import CorruptTileError, SlidewrightError, SourceError
from slidewright.sources.ndpi import NdpiSource
from slidewright.system.pixel_file import PixelFile

WIDTH, HEIGHT, TILE = 768, 304, 256


@pytest.mark.parametrize(("chroma", "samples"), [("422", 3), ("444", 3), ("420", 3), ("422", 1)])
def test_any_region_has_the_pixels_of_the_stripes(tmp_path, chroma, samples):
    source = slidewright.open_source(made.slide(tmp_path / "in.ndpi", chroma, samples))
    source = pickle.loads(pickle.dumps(source))
    assert isinstance(source, NdpiSource)
    assert source.info.tile == (TILE, TILE)
    expected = tifffile.imread(tmp_path / "in.ndpi", key=0).reshape(HEIGHT, WIDTH, samples)
    reader = source.open()
    whole = reader.read(0, 0, HEIGHT, WIDTH, np.empty((HEIGHT, WIDTH, samples), np.uint8)).copy()
    inner = np.ones((HEIGHT, WIDTH), bool)  # tifffile decodes all stripes as one, and smooths chroma where they meet
    inner[:, 255:512:256] = inner[:, 256:513:256] = chroma == "444" or samples == 1
    if chroma != "420":
        np.testing.assert_array_equal(whole[inner], expected[inner])
    assert np.abs(whole.astype(int) - picture(samples, height=HEIGHT, width=WIDTH)).mean() < 3
    out = np.empty((TILE, TILE, samples), np.uint8)
    for y, x, height, width in [(0, 0, 256, 256), (256, 512, 48, 256), (100, 200, 200, 150), (297, 3, 7, 9)]:
        np.testing.assert_array_equal(
            reader.read(y, x, height, width, out), whole[y : y + height, x : x + width], str((y, x))
        )
    reader.close()
    reader.close()


def test_pixels_are_openslides(tmp_path):
    openslide = pytest.importorskip("openslide")
    source = slidewright.open_source(made.slide(tmp_path / "in.ndpi"))
    pixels = source.open().read(0, 0, HEIGHT, WIDTH, np.empty((HEIGHT, WIDTH, 3), np.uint8))
    with openslide.OpenSlide(tmp_path / "in.ndpi") as slide:
        shown = np.asarray(slide.read_region((0, 0), 0, (WIDTH, HEIGHT)))[:, :, :3]
        assert float(slide.properties["openslide.mpp-x"]) == source.info.mpp[0] == 0.25
        assert sorted(slide.associated_images) == list(source.info.associated) == ["macro"]
        macro = np.asarray(slide.associated_images["macro"])[:, :, :3]
    np.testing.assert_array_equal(pixels, shown)
    np.testing.assert_array_equal(source.associated_image("macro"), macro)


def test_kept_tiles_have_the_very_bits_of_the_stripes(tmp_path):
    made.slide(tmp_path / "in.ndpi")
    report = slidewright.convert(tmp_path / "in.ndpi", tmp_path / "out.tif", n_workers=0)
    assert report.kept_tiles == 6
    kept = segments(tmp_path / "out.tif")
    with tifffile.TiffFile(tmp_path / "in.ndpi") as tiff:
        page = tiff.pages.first
        tiff.filehandle.seek(0)
        file = (tmp_path / "in.ndpi").read_bytes()
        for index, (offset, count) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True)):
            row, column = divmod(index, 3)
            assert file[offset : offset + count - 2] in kept[row // 32 * 3 + column]
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        found = tiff.pages.first.asarray()
        assert tiff.pages.first.tags["YCbCrSubSampling"].value == (2, 1)
    pixels = slidewright.open_source(tmp_path / "in.ndpi").open().read(
        0, 0, HEIGHT, WIDTH, np.empty((HEIGHT, WIDTH, 3), np.uint8)
    )
    np.testing.assert_array_equal(found, pixels)
    for tile in kept:
        assert Image.open(io.BytesIO(tile)).size == (TILE, TILE)
    slidewright.verify_file(tmp_path / "out.tif", against=tmp_path / "in.ndpi")


def test_444_is_kept_when_it_is_asked_for(tmp_path):
    made.slide(tmp_path / "in.ndpi", "444")
    report = slidewright.convert(tmp_path / "in.ndpi", tmp_path / "out.tif", n_workers=0)
    assert report.kept_tiles == 0
    assert "Bio-Formats shows YCbCr of 4:4:4 in wrong colours" in report.keeping
    for asked in ({"compression": "jpeg"}, {"keep_tiles": "always"}):
        report = slidewright.convert(tmp_path / "in.ndpi", tmp_path / "out.tif", n_workers=0, overwrite=True, **asked)
        assert report.kept_tiles == 6


def test_another_tile_size_encodes_anew_with_the_reason(tmp_path):
    made.slide(tmp_path / "in.ndpi")
    report = slidewright.convert(tmp_path / "in.ndpi", tmp_path / "out.tif", n_workers=0, tile_size=128)
    assert report.kept_tiles == 0
    assert "tile_size 128 was asked for" in report.keeping
    slidewright.verify_file(tmp_path / "out.tif", against=tmp_path / "in.ndpi")


def test_level_and_what_identifies(tmp_path):
    made.slide(tmp_path / "in.ndpi")
    source = slidewright.open_source(tmp_path / "in.ndpi", level=1)
    assert (source.info.size, source.info.tile, source.info.mpp) == ((152, 384), (128, 128), (0.5, 0.5))
    assert source.info.metadata.objective_power == 20
    assert dict(source.info.metadata.identifying) == {"SlideLabel": "CASE 4711", "DateTime": "2024:01:02 03:04:05"}
    slidewright.convert(tmp_path / "in.ndpi", tmp_path / "out.tif", n_workers=0)
    assert b"4711" not in (tmp_path / "out.tif").read_bytes()


def test_stripes_that_do_not_join_are_read_as_before(tmp_path):
    pixels = picture(height=304, width=768)
    jpeg = made.restarted(pixels[:, :700], "422")  # restart markers run on into the next row
    made.write(tmp_path / "odd.ndpi", [(jpeg, 20.0, True)])
    try:
        assert not isinstance(slidewright.open_source(tmp_path / "odd.ndpi"), NdpiSource)
    except SourceError:
        pass
    made.write(tmp_path / "whole.ndpi", [(made.restarted(pixels, "422"), 20.0, False)])
    assert not isinstance(slidewright.open_source(tmp_path / "whole.ndpi"), NdpiSource)


@pytest.mark.parametrize("damage", ["starts", "cut"])
def test_damaged_stripes_are_named_and_may_be_kept_or_filled(tmp_path, damage):
    path = made.slide(tmp_path / "in.ndpi")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        place, starts = page.tags[65426].valueoffset, page.tags[65426].value
        count = len(starts)
    data = bytearray(path.read_bytes())
    if damage == "starts":
        data[place + 4 * 4 : place + 4 * 5] = (int(starts[4]) + 7).to_bytes(4, "little")
    else:
        data[place + 4 * 4 : place + 4 * 5] = (0x7FFFFFFF).to_bytes(4, "little")
    path.write_bytes(data)
    assert count == 114
    with pytest.raises(CorruptTileError, match=r"in\.ndpi: .*(row|stripe)"):
        slidewright.convert(path, tmp_path / "no.tif", n_workers=0, on_corrupt="error")
    report = slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    assert "did not decode" in report.warnings[0]
    assert report.kept_tiles == 6
    pixels, found = tifffile.imread(made.slide(tmp_path / "whole.ndpi"), key=0), tifffile.imread(tmp_path / "out.tif")
    rows = np.abs(found[:256, 256:500].astype(int) - pixels[:256, 256:500]).max(axis=(1, 2)) < 5
    assert rows[24:].all()  # only stripes 0 to 2 can be lost
    assert not rows[8:16].all()
    slidewright.convert(path, tmp_path / "filled.tif", n_workers=0, on_corrupt="fill")


@pytest.mark.parametrize("less", [1, 40])
def test_last_stripe_without_an_end_is_damage(tmp_path, less):
    """OpenSlide refuses the whole file for it."""
    path = made.slide(tmp_path / "in.ndpi")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["StripByteCounts"]
        tag.overwrite(tag.value[0] - less)
    with pytest.raises(CorruptTileError, match="does not end in the marker of an end"):
        slidewright.convert(path, tmp_path / "no.tif", n_workers=0, keep_tiles="never")
    report = slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    assert "did not decode" in report.warnings[0]


@pytest.mark.parametrize("count", [100, 512, 4096])
def test_hole_in_the_stripes_of_a_page_is_damage(tmp_path, count):
    path = made.slide(tmp_path / "in.ndpi")
    with tifffile.TiffFile(path) as tiff:
        place, size = tiff.pages.first.dataoffsets[40], tiff.pages.first.databytecounts[40]
    data = bytearray(path.read_bytes())
    data[place + size - 50 : place + size - 50 + count] = bytes(count)
    path.write_bytes(data)
    for chosen in ({}, {"page": 0}, {"series": 0}):
        with pytest.raises(CorruptTileError, match=r"stripe\) does not end in a restart marker"):
            slidewright.convert(path, tmp_path / "no.tif", n_workers=0, keep_tiles="never", **chosen)


def test_header_of_stripes_with_a_hole_is_damage(tmp_path):
    path = made.slide(tmp_path / "in.ndpi")
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xdb") + 20  # of a quantisation table
    data[at : at + 32] = bytes(32)
    path.write_bytes(data)
    with pytest.raises(CorruptTileError, match="has a damaged JPEG header"):
        slidewright.convert(path, tmp_path / "no.tif", n_workers=0)


@pytest.mark.parametrize("stripe", [4, -1])
def test_stripe_of_which_the_disk_gives_a_part_is_not_kept(tmp_path, monkeypatch, stripe):
    """It is whole in the file."""
    path = made.slide(tmp_path / "in.ndpi")
    place = int(slidewright.open_source(path).open()._stripes._page.offsets[stripe])
    read = PixelFile.read
    monkeypatch.setattr(PixelFile, "read", lambda f, at, count: read(f, at, count // 2 if at == place else count))
    with pytest.raises(CorruptTileError, match="ends outside the file"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    assert not (tmp_path / "out.tif").exists()


def test_every_way_to_convert_gives_the_same_bytes_and_leaves_nothing_open(tmp_path):
    source = made.slide(tmp_path / "in.ndpi")
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    slidewright.convert(source, tmp_path / "0.tif", n_workers=0)
    slidewright.convert(source, tmp_path / "2.tif", n_workers=2, block_tiles=1)
    for index in range(2):
        slidewright.shard(source, tmp_path / "parts", index=index, count=2, n_workers=0)
    slidewright.assemble(tmp_path / "parts", tmp_path / "joined.tif", n_workers=0)
    slidewright.convert(source, tmp_path / "resumed.tif", n_workers=0, resume=True)
    assert len({(tmp_path / f"{name}.tif").read_bytes() for name in ("0", "2", "joined", "resumed")}) == 1
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) <= before + 12  # what the fork server keeps
    shutil.rmtree(tmp_path / "parts")


def test_opentile_makes_tiles_of_the_same_pixels(tmp_path: Path) -> None:
    opentile = pytest.importorskip("opentile")
    path = made.slide(tmp_path / "in.ndpi")
    try:
        slide = opentile.OpenTile.open(path, TILE)
    except Exception as error:  # PyTurboJPEG does not find libturbojpeg
        pytest.skip(f"opentile can't open it here: {error}")
    source = slidewright.open_source(path)
    with slide:
        reader, out = source.open(), np.empty((TILE, TILE, 3), np.uint8)
        for row, column in [(0, 0), (0, 2)]:
            theirs = np.asarray(Image.open(io.BytesIO(slide.get_level(0).get_tile((column, row)))))
            np.testing.assert_array_equal(reader.read(row * TILE, column * TILE, TILE, TILE, out), theirs)
        reader.close()


@pytest.mark.parametrize("tag", ["starts", "high", "wide"])
def test_stripes_that_begin_behind_the_end_are_refused(tmp_path, tag):
    """tifffile would read so many gigabytes in one piece."""
    path = made.slide(tmp_path / "in.ndpi")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        starts = tiff.pages.first.tags[65426]
        if tag == "starts":
            struct.pack_into("<I", data, starts.valueoffset, 0xF0000000)
        elif tag == "wide":  # numbers of eight bytes, two of the table's as one
            struct.pack_into("<HH", data, starts.offset, 65426, 18)
        else:  # in place of the serial number
            struct.pack_into("<HHII", data, tiff.pages.first.tags[65427].offset, 65432, 4, 1, 5)
    path.write_bytes(data)
    with pytest.raises(SlidewrightError, match="behind the end of the file"):
        slidewright.info(path)


_SIZES = {"width": (256, 512, "512 x 304"), "height": (257, 296, "768 x 296"), "level": (257, 48, "768 x 48")}
"""A tag of the first directory, another number in it, and the size that the page then says it has."""


def _tag(path: Path, code: int, value: int, at: int = 8) -> None:
    """Change the value of a tag of the first directory, or, at 4, how many values it says it has."""
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.tags[code].offset
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, place + at, value)
    path.write_bytes(data)


def _sides_of_jpeg(path: Path, height: int, width: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    path.write_bytes(data)


@pytest.mark.parametrize("openslide", [True, False])
@pytest.mark.parametrize("which", _SIZES)
def test_size_that_is_not_its_jpegs_is_refused(tmp_path, monkeypatch, which, openslide):
    code, value, size = _SIZES[which]
    path = made.slide(tmp_path / "in.ndpi")
    _tag(path, code, value)
    if not openslide:
        monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(SourceError, match=r"dimension mismatch" if openslide else f"page 0 is of {size} pixels"):
        slidewright.open_source(path)
    with pytest.raises(SourceError, match=f"page 0 is of {size} pixels by its tags, and of 768 x 304 by its JPEG"):
        slidewright.open_source(path, page=0)
    slidewright.open_source(path, page=1)


def test_size_of_a_jpeg_without_stripes_is_held_against_it_too(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    path, pixels = tmp_path / "in.ndpi", picture(height=HEIGHT, width=WIDTH)
    half = made.restarted(np.ascontiguousarray(pixels[::2, ::2]), "422", 128)
    made.write(path, [(made.restarted(pixels, "422"), 20.0, False), (half, 10.0, True)])
    slidewright.open_source(path)
    _tag(path, 257, 48)  # the level below would be the largest
    with pytest.raises(SourceError, match="page 0 is of 768 x 48 pixels by its tags, and of 768 x 304 by its JPEG"):
        slidewright.open_source(path)


def test_number_of_stripes_tells_where_the_jpeg_does_not(tmp_path, monkeypatch):
    """As in a page of more than 65,500 pixels, of which a JPEG can't say the size."""
    monkeypatch.setitem(sys.modules, "openslide", None)
    path = made.slide(tmp_path / "in.ndpi")
    _sides_of_jpeg(path, 0, 0)
    assert isinstance(slidewright.open_source(path), NdpiSource)
    report = slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    assert report.kept_tiles == 6
    for code, value, stripes in ((256, 512, 76), (257, 296, 111)):
        made.slide(path)
        _sides_of_jpeg(path, 0, 0)
        _tag(path, code, value)
        with pytest.raises(SourceError, match=f"{stripes} stripes of 256 x 8, and lists 114 "):
            slidewright.open_source(path)
    made.slide(path)
    _tag(path, 65426, 113, at=4)
    with pytest.raises(SourceError, match="lists 113"):
        slidewright.open_source(path)


def test_size_of_a_page_that_is_too_large_for_a_jpeg_is_not_asked_of_it(tmp_path, monkeypatch):
    monkeypatch.setattr("slidewright.tiff.stripes._MAX_JPEG_SIDE", 700)
    path = made.slide(tmp_path / "in.ndpi")
    _sides_of_jpeg(path, 17, 232)
    assert isinstance(slidewright.open_source(path), NdpiSource)


def test_macro_that_openslide_can_not_decode_is_a_source_error(tmp_path):
    pytest.importorskip("openslide")
    from slidewright.sources.openslide import OpenSlideSource

    path = made.slide(tmp_path / "in.ndpi")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        macro = tiff.pages[2].dataoffsets[0]
    data[macro + 700 : macro + 1400] = b"\xff\xd5" * 350
    path.write_bytes(data)
    source = OpenSlideSource.at(str(path), 0)
    with pytest.raises(SourceError, match="its macro can't be decoded by OpenSlide"):
        source.associated_image("macro")
    with pytest.raises(SourceError, match="has no associated image"):
        source.associated_image("label")


def test_focal_planes_that_are_not_read_are_named(tmp_path):
    pytest.importorskip("openslide")
    planes = [picture(height=HEIGHT, width=WIDTH) // part for part in (1, 2, 3)]
    images = [(made.restarted(plane, "422"), 20.0, True) for plane in planes]
    made.write(tmp_path / "in.ndpi", images, depths=(-1000, 0, 1000))
    assert slidewright.open_source(tmp_path / "in.ndpi").info.left_out == ("2 more focal planes (z chooses one)",)
    assert slidewright.open_source(tmp_path / "in.ndpi", z=2).info.left_out == ()


def test_slide_that_is_opened_late_is_the_one_that_was_described(tmp_path):
    """As by a worker that is started again while another slide has the name."""
    path = made.slide(tmp_path / "in.ndpi")
    source, status = slidewright.open_source(path), path.stat()
    source.open().close()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(SourceError, match="is not the file it was when the run began"):
        source.open()
