"""OpenSlide sources: levels, transparency on the background colour, metadata, and errors that say what to do."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

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
