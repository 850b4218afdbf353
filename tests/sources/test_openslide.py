"""OpenSlide sources: levels, transparency on the background colour, metadata, and errors that say what to do."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import mirax_slides
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from kept_matrix import KINDS
from reading import assert_reads_like

import slidewright
from slidewright.errors import CorruptTileError, OptionError, SourceError
from slidewright.sources.on_disk import companions, file_identity
from slidewright.sources.open import open_source
from slidewright.sources.openslide import OpenSlideSource
from slidewright.sources.wrappers.alpha import compose

pytest.importorskip("openslide")


def test_real_slide_equals_tifffile(real_slide: Path) -> None:
    source = pickle.loads(pickle.dumps(OpenSlideSource.at(str(real_slide))))
    expected = tifffile.imread(real_slide)
    assert source.info.format == "aperio"
    assert source.info.size == (2967, 2220)
    assert source.info.mpp == (0.499, 0.499)
    assert source.info.tile == (240, 240)
    assert set(source.info.associated) == {"thumbnail", "label", "macro"}
    reader = source.open()
    out = np.empty((1500, 1200, 3), np.uint8)
    for y, x, height, width in [(0, 0, 512, 512), (2900, 2100, 67, 120), (37, 411, 1500, 1200)]:
        got = reader.read(y, x, height, width, out)
        np.testing.assert_array_equal(got, expected[y : y + height, x : x + width])
    reader.close()
    reader.close()


@pytest.fixture
def pyramid(tmp_path: Path) -> Path:
    path = tmp_path / "pyramid.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (512, 768, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as tiff:
        for level in (0, 1):
            part = np.ascontiguousarray(pixels[:: 1 << level, :: 1 << level])
            options = {"resolution": (20_000 >> level, 20_000 >> level), "resolutionunit": 3, "subfiletype": level}
            tiff.write(part, tile=(64, 64), photometric="rgb", metadata=None, **options)
    return path


def test_level_is_chosen_and_its_mpp_scaled(pyramid: Path) -> None:
    source = OpenSlideSource.at(str(pyramid), level=1)
    assert source.info.size == (256, 384)
    assert source.info.mpp == pytest.approx((1.0, 1.0))
    out = np.empty((64, 64, 3), np.uint8)
    expected = tifffile.imread(pyramid, key=1)
    np.testing.assert_array_equal(source.open().read(192, 64, 64, 64, out), expected[192:256, 64:128])
    with pytest.raises(OptionError, match="no level 2"):
        OpenSlideSource.at(str(pyramid), level=2)


def test_damaged_tile_is_an_error_that_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", metadata=None, compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.dataoffsets[5]
    reader = OpenSlideSource.at(str(path)).open()
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\x55" * 400)
    with pytest.raises(CorruptTileError, match=r"x=64, y=64") as caught:
        reader.read(64, 64, 64, 64, np.empty((64, 64, 3), np.uint8))
    assert str(path) in str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 1])
def test_only_the_damaged_tile_of_a_slide_is_filled(tmp_path: Path, workers: int) -> None:
    """OpenSlide has the same error for all that it is asked after one; of 64 tiles 61 were filled."""
    path = tmp_path / "damaged.tif"
    pixels = np.full((512, 512, 3), 90, np.uint8)
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="jpeg", photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[9], tiff.pages[0].databytecounts[9]
    data = bytearray(path.read_bytes())
    data[offset : offset + count] = bytes(count)
    path.write_bytes(data)
    options: dict[str, Any] = {"tile_size": 64, "compression": "zstd", "n_workers": workers}
    report = slidewright.convert(OpenSlideSource.at(str(path)), tmp_path / "o.tif", on_corrupt="fill", **options)
    assert report.corrupt_tiles == 1
    found = tifffile.imread(tmp_path / "o.tif", key=0)
    assert (found[64:128, 64:128] == 255).all()
    found[64:128, 64:128] = 90
    assert np.abs(found.astype(int) - 90).max() < 3


def test_lack_of_memory_is_no_damage_of_the_slide(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    openslide = pytest.importorskip("openslide")
    reader = OpenSlideSource.at(str(pyramid)).open()

    def fail(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(openslide.OpenSlide, "read_region", fail)
    with pytest.raises(MemoryError):
        reader.read(0, 0, 64, 64, np.empty((64, 64, 3), np.uint8))


def test_file_that_openslide_can_not_open_is_a_source_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mrxs"
    path.write_bytes(b"not a slide")
    with pytest.raises(SourceError, match="companion files"):
        OpenSlideSource.at(str(path))


def test_files_that_a_vms_names_are_part_of_its_identity(tmp_path: Path) -> None:
    """Scanned anew under the same names, a slide was not made again by a batch."""
    path = tmp_path / "a.vms"
    path.write_text("[Virtual Microscope Specimen]\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\nMapFile=none.jpg\n")
    for name in ("a.jpg", "b.jpg", "other.jpg"):
        (tmp_path / name).write_bytes(b"1")
    first = file_identity(str(path))
    (tmp_path / "other.jpg").write_bytes(b"22")
    assert file_identity(str(path)) == first
    (tmp_path / "b.jpg").write_bytes(b"22")
    assert file_identity(str(path)) != first
    assert companions(str(path)) == (str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg"))


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255))
def test_transparency_is_laid_on_the_background(colour: int, alpha: int, background: int) -> None:
    rgba = np.array([[[colour, colour, colour, alpha]]], np.uint8)
    out = np.empty((1, 1, 3), np.uint8)
    compose(rgba, (background, background, background), out)
    exact = (colour * alpha + background * (255 - alpha)) / 255
    assert abs(int(out[0, 0, 0]) - exact) <= 0.5


@pytest.mark.parametrize("chosen", [{"page": 0}, {"series": 0}])
def test_aperio_ycbcr_is_not_read_past_openslide(chosen: dict[str, int], tmp_path: Path) -> None:
    path = KINDS["Aperio, JPEG 2000 YCbCr (33003)"].make(tmp_path)
    assert open_source(path).info.format == "aperio"
    with pytest.raises(SourceError, match="leave out page and series"):
        open_source(path, **chosen)


def test_overlapping_tiles_of_trestle_are_joined(tmp_path: Path) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (224, 224, 3), np.uint8)
    tiles = [pixels[y : y + 128, x : x + 128] for y in (0, 96) for x in (0, 96)]  # each 32 pixels into the next
    said = "Background Color=e0e0e0;Objective Power=20;OverlapsXY= 32 32"
    how = {"tile": (128, 128), "compression": "zlib", "photometric": "rgb", "metadata": None, "software": "MedScan"}
    how |= {"shape": (256, 256, 3), "dtype": "uint8", "description": said, "resolution": (0.5, 0.5)}
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), **how)
    source = open_source(tmp_path / "a.tif")
    assert (source.info.format, source.info.size, source.info.mpp) == ("trestle", (224, 224), (0.5, 0.5))
    assert slidewright.info(tmp_path / "a.tif").metadata.known == source.info.metadata.known
    assert_reads_like(source, pixels)


def exchange_folders(one: Path, other: Path) -> None:
    one.rename(one.with_name("between"))
    other.rename(one)
    one.with_name("between").rename(other)


@pytest.fixture
def two_slides(tmp_path: Path) -> tuple[Path, Path]:
    """Slides of MIRAX in folders of their own, one of 10 and one of 150."""
    for name, value in (("mine", 10), ("other", 150)):
        mirax_slides.slide(tmp_path / name / "a.mrxs", 4, value)
    return tmp_path / "mine", tmp_path / "other"


def read_piece(reader: Any, number: int) -> set[int]:
    return set(reader.read(64 * number, 64 * number, 64, 64, np.empty((64, 64, 3), np.uint8)).ravel().tolist())


@pytest.mark.parametrize("linked", [False, True])
def test_mirax_is_read_through_its_folder_whatever_comes_under_the_name_of_that(
    two_slides: tuple[Path, Path], linked: bool
) -> None:
    """OpenSlide opens the file of a tile by name: pixels of two slides were in one, and nobody was told."""
    mine, other = two_slides
    link = mine.with_name("link")
    link.symlink_to("mine")
    reader = OpenSlideSource.at(str((link if linked else mine) / "a.mrxs")).open()
    assert read_piece(reader, 0) == {10}
    if linked:
        link.unlink()
        link.symlink_to("other")
    else:
        exchange_folders(mine, other)
    if sys.platform == "linux":
        assert read_piece(reader, 1) == {10}
    else:
        with pytest.raises(SourceError, match="was moved, removed or replaced while it was read"):
            read_piece(reader, 1)
    reader.close()


@pytest.mark.parametrize("name", ["a", "a/Data0000.dat"])
def test_mirax_whose_files_are_exchanged_is_an_error_until_they_are_back(
    two_slides: tuple[Path, Path], name: str
) -> None:
    mine, other = two_slides
    reader = OpenSlideSource.at(str(mine / "a.mrxs")).open()
    assert read_piece(reader, 0) == {10}
    exchange_folders(mine / name, other / name)
    with pytest.raises(SourceError, match=r"a/Data0000\.dat was moved, removed or replaced while it was read"):
        read_piece(reader, 1)
    exchange_folders(mine / name, other / name)
    assert read_piece(reader, 2) == {10}
    reader.close()


def test_files_of_mirax_that_are_away_are_no_damage_to_be_filled(two_slides: tuple[Path, Path], tmp_path: Path) -> None:
    mine, _ = two_slides
    source = OpenSlideSource.at(str(mine / "a.mrxs"))
    (mine / "a").rename(mine / "b")
    with pytest.raises(SourceError, match=r"Data0000\.dat can't be opened"):
        slidewright.convert(source, tmp_path / "o.tif", on_corrupt="fill", n_workers=0)
    (mine / "b").rename(mine / "a")
    reader = source.open()
    (mine / "a").rename(mine / "b")
    with pytest.raises(SourceError, match="was moved, removed or replaced"):
        read_piece(reader, 0)


def test_mirax_that_is_opened_late_is_the_slide_that_was_described(two_slides: tuple[Path, Path]) -> None:
    """As by a worker that is started again while another slide has the name."""
    mine, other = two_slides
    source = pickle.loads(pickle.dumps(OpenSlideSource.at(str(mine / "a.mrxs"))))
    later = mine / "a" / "Data0000.dat"
    status = later.stat()
    exchange_folders(mine / "a", other / "a")
    with pytest.raises(SourceError, match="is not the file it was when the run began"):
        source.open()
    exchange_folders(mine / "a", other / "a")
    source.open().close()
    os.utime(later, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(SourceError, match=r"Data0000\.dat is not the file it was when the run began"):
        source.open()


def test_reader_of_openslide_leaves_no_file_open(two_slides: tuple[Path, Path]) -> None:
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    source = OpenSlideSource.at(str(two_slides[0] / "a.mrxs"))
    source.open().close()
    os.utime(two_slides[0] / "a.mrxs", (1, 1))
    with pytest.raises(SourceError, match="is not the file it was"):
        source.open()
    if sys.platform == "linux":
        assert set(os.listdir("/proc/self/fd")) == before


def test_slide_in_one_file_is_read_to_its_end_when_it_is_removed(pyramid: Path) -> None:
    reader = OpenSlideSource.at(str(pyramid)).open()
    first = read_piece(reader, 0)
    pyramid.rename(pyramid.with_name("moved.tif"))
    assert read_piece(reader, 0) == first
    pyramid.write_bytes(b"another")
    with pytest.raises(SourceError, match="was moved, removed or replaced"):
        read_piece(reader, 0)


def test_errors_of_openslide_name_the_slide_and_no_descriptor(two_slides: tuple[Path, Path]) -> None:
    mine, _ = two_slides
    source = OpenSlideSource.at(str(mine / "a.mrxs"))
    index = mine / "a" / "Index.dat"
    status = index.stat()
    index.write_bytes(bytes(status.st_size))
    os.utime(index, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(SourceError, match="can't be opened by OpenSlide") as caught:
        source.open()
    assert "/proc/self" not in str(caught.value)
    assert str(mine / "a.mrxs") in str(caught.value)
