"""Which images of a TIFF are levels is decided once, for info, sources and verify; a page tells its encoding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

import slidewright
from slidewright.errors import VerifyError
from slidewright.geometry import Size
from slidewright.inspection.info import info as describe
from slidewright.sources.open import open_source
from slidewright.tiff import series
from slidewright.tiff.slide import TiffSlide

APERIO = "Aperio Image Library v12.0.15\r\n200x150 [0,0 200x150] (64x64) JPEG/RGB Q=70|AppMag = 20|MPP = 0.499"


def picture(height: int = 150, width: int = 200, samples: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (height, width, samples), np.uint8)


def sizes_of_source(path: Path, count: int) -> list[Size]:
    return [open_source(path, level=level).info.size for level in range(count)]


@pytest.mark.parametrize("reduced", [1, 0])
def test_info_and_sources_agree_on_levels_whether_or_not_the_file_marks_them(tmp_path: Path, reduced: int) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for level in range(3):
            pixels = picture(160 >> level, 192 >> level)
            kind = reduced if level else 0
            tiff.write(pixels, tile=(64, 64), photometric="rgb", subfiletype=kind, metadata=None)
    sizes = [level.size for level in describe(path).levels]
    assert sizes == [Size(160, 192), Size(80, 96), Size(40, 48)]
    assert sizes_of_source(path, 3) == sizes


def test_levels_of_our_files_are_levels_though_the_description_is_a_vendors(tmp_path: Path) -> None:
    ours = tmp_path / "ours.tif"
    with tifffile.TiffWriter(ours) as tiff:  # as slidewright wrote them before it refused such a description
        for level in range(3):
            pixels, first = picture(150 >> level, 200 >> level), level == 0
            said = {"description": APERIO, "software": "slidewright 0"} if first else {"subfiletype": 1}
            tiff.write(pixels, tile=(64, 64), photometric="rgb", metadata=None, **said)
    with tifffile.TiffFile(ours) as tiff:
        assert tiff.is_svs
    sizes = [level.size for level in describe(ours).levels]
    assert sizes[:2] == [Size(150, 200), Size(75, 100)]
    assert sizes_of_source(ours, len(sizes)) == sizes


def test_page_says_how_its_tiles_are_encoded(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, picture(), photometric="ycbcr", tile=(64, 64), compression="jpeg", subsampling=(2, 1),
        extratags=[(274, "H", 1, 3, True)], metadata=None,
    )  # fmt: skip
    with TiffSlide(path) as slide, tifffile.TiffFile(path) as tiff:
        page, truth = slide.levels[0], tiff.pages.first
        assert (page.compression, page.photometric, page.subsampling) == ("jpeg", "ycbcr", (2, 1))
        assert (page.orientation, page.predictor, page.planes, page.bits) == (3, 1, 1, 8)
        assert page.jpeg_tables == truth.jpegtables
        offset, count = truth.dataoffsets[5], truth.databytecounts[5]
        assert slide.segments(page).read(page.index(1, 1)) == path.read_bytes()[offset : offset + count]


@pytest.mark.parametrize("options", [{"tile": (64, 64)}, {"rowsperstrip": 40}, {"planarconfig": "separate"}])
def test_small_image_is_read_whole(tmp_path: Path, options: dict[str, Any]) -> None:
    path, pixels = tmp_path / "a.tif", picture()
    stored = np.moveaxis(pixels, 2, 0) if "planarconfig" in options else pixels
    tifffile.imwrite(path, stored, photometric="rgb", compression="zlib", metadata=None, **options)
    with TiffSlide(path) as slide:
        np.testing.assert_array_equal(slide.segments(slide.levels[0]).whole(), pixels)


def test_large_image_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tiles = iter([b"\0" * 256] * 1024**2)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            tiles, shape=(16 * 1024, 16 * 1024 + 16), dtype="uint8", tile=(16 * 1024, 16 * 1024 + 16),
            compression="zlib", photometric="minisblack", metadata=None,
        )  # fmt: skip
    with TiffSlide(path) as slide, pytest.raises(VerifyError, match="too large to be read in one piece"):
        slide.segments(slide.levels[0]).whole()


def test_subifds_that_are_chained_as_well_as_listed_are_no_loop(tmp_path: Path) -> None:
    """Bio-Formats writes pyramids so: each SubIFD's pointer to the next directory leads to the next of the list."""
    path = tmp_path / "chained.tif"
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(pixels, tile=(16, 16), subifds=2, metadata=None)
        tiff.write(pixels[::2, ::2], tile=(16, 16), subfiletype=1, metadata=None)
        tiff.write(pixels[::4, ::4], tile=(16, 16), subfiletype=1, metadata=None)
    with tifffile.TiffFile(path) as tiff:
        first, second = tiff.pages.first.subifds
        count = len(tiff.pages.first.pages[0].tags)
    with open(path, "r+b") as file:
        file.seek(first + 8 + 20 * count)
        file.write(second.to_bytes(8, "little"))
    with TiffSlide(path) as slide:
        assert [page.size for page in slide.levels] == [Size(64, 64), Size(32, 32), Size(16, 16)]
    slidewright.convert(path, tmp_path / "out.tif", n_workers=0, tile_size=16, compression="deflate", levels=1)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), pixels)


def test_grey_jpegs_of_separate_planes_are_channels_though_photometric_is_ycbcr(tmp_path: Path) -> None:
    """Bio-Formats writes RGB so, and shows it so: a JPEG of one component a channel, tagged YCbCr, PlanarConfig 2."""
    path = tmp_path / "planes.tif"
    ramp = np.linspace(20, 230, 64 * 96).reshape(64, 96).astype(np.uint8)
    planes = np.stack([ramp, ramp[::-1], 255 - ramp])
    tifffile.imwrite(
        path, planes, photometric="rgb", planarconfig="separate", tile=(32, 32), compression="jpeg", metadata=None,
        compressionargs={"level": 95},
    )  # fmt: skip
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags[262].overwrite(6)
    slidewright.convert(path, tmp_path / "out.tif", n_workers=0, tile_size=32, compression="deflate", levels=1)
    written = tifffile.imread(tmp_path / "out.tif", key=0)
    assert written.shape == (64, 96, 3)
    assert np.abs(written.astype(int) - np.moveaxis(planes, 0, 2)).max() <= 4


def _many_pages(path: Path, count: int) -> Path:
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.zeros((96, 80, 3), np.uint8), photometric="rgb", tile=(64, 64), metadata=None)
        for number in range(count):
            tiff.write(np.zeros((16, 16 + number % 3), np.uint8), metadata=None, subfiletype=number % 2)
    return path


@pytest.mark.timeout(60)
def test_each_page_of_many_is_parsed_once_each_time_that_a_file_is_opened(tmp_path: Path, monkeypatch: Any) -> None:
    path = _many_pages(tmp_path / "a.tif", 300)
    parsed = []
    parse = tifffile.TiffPage.__init__
    monkeypatch.setattr(tifffile.TiffPage, "__init__", lambda *given, **more: parsed.append(1) or parse(*given, **more))
    assert len(describe(path).associated) == 300
    assert len(parsed) < 2 * 301 + 10


@pytest.mark.timeout(60)
def test_many_pages_are_grouped_as_tifffile_groups_few(tmp_path: Path, monkeypatch: Any) -> None:
    path, found = _many_pages(tmp_path / "a.tif", 20), []
    for many in (1000, 1):
        monkeypatch.setattr(series, "_MANY", many)
        with TiffSlide(path) as slide:
            groups = [(one.shape, one.axes, [page.offset for page in one.pages]) for one in slide._tiff.series]
        found.append((groups, describe(path), [open_source(path, series=n, z="all").info for n in range(4)]))
    assert found[0] == found[1]
    assert len(found[0][0]) == 4
