"""Tiles of a source that don't decode: an error that names them, or the background's colour, counted and warned of."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tifffile
from faults.campaign import make_slide
from written import assert_levels_equal_oracle

import slidewright
from slidewright.cli.main import main
from slidewright.errors import CorruptTileError, OptionError

LOSSLESS = {"compression": "zstd", "block_tiles": 2}


def spoil(path, *segments) -> None:
    """Overwrite some segments of the first page with nonsense."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        places = [(page.dataoffsets[n], page.databytecounts[n]) for n in segments]
    with open(path, "r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(os.urandom(count))


@pytest.fixture
def spoiled(tmp_path):
    """A slide of 11 x 8 tiles of which (2, 3) and (2, 4) are spoiled, and the pixels it should give."""
    path = make_slide(tmp_path / "slide.tif")
    pixels = tifffile.imread(path)
    spoil(path, 2 * 11 + 3, 2 * 11 + 4)
    pixels[128:192, 192:320] = 255
    return path, pixels


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("tile", [64, 48, 256])
def test_corrupt_tiles_are_filled_and_only_they(tmp_path, spoiled, tile, workers):
    path, pixels = spoiled
    options = {"on_corrupt": "fill", "tile_size": tile, "n_workers": workers, **LOSSLESS}
    report = slidewright.convert(path, tmp_path / "out.tif", **options)
    assert report.corrupt_tiles == 2
    (warning,) = report.warnings
    assert "2 tiles of the source did not decode" in warning
    assert "slide.tif: tile at row 2, column 3" in warning
    assert_levels_equal_oracle(tmp_path / "out.tif", pixels, tile)


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_tile_of_what_is_encoded_anew_is_an_error_by_default_and_named(tmp_path, spoiled, workers):
    with pytest.raises(CorruptTileError, match=r"slide\.tif: tile at row 2, column [34] does not decode"):
        slidewright.convert(spoiled[0], tmp_path / "out.tif", n_workers=workers, tile_size=64, keep_tiles="never")
    assert [p.name for p in tmp_path.iterdir()] == ["slide.tif"]


def test_corrupt_wide_strip_is_filled_before_the_workers_begin(tmp_path):
    pixels = np.full((64, 30_000, 3), 80, np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", np.tile(pixels, (8, 1, 1)), rowsperstrip=64, compression="zlib")
    spoil(tmp_path / "in.tif", 3)
    expected = np.tile(pixels, (8, 1, 1))
    expected[192:256] = 255
    options = {"on_corrupt": "fill", "n_workers": 2, **LOSSLESS}
    report = slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", **options)
    assert report.corrupt_tiles == 1
    assert (tifffile.imread(tmp_path / "out.tif") == expected).all()


def test_command_line_warns_of_filled_tiles(tmp_path, spoiled, capsys):
    line = ["convert", spoiled[0], tmp_path / "out.tif", "--on-corrupt", "fill", "--workers", "0", "--tile-size", "64"]
    assert main(list(map(str, line))) == 0
    assert "slidewright: warning: 2 tiles of the source did not decode" in capsys.readouterr().err


def test_unknown_choice_is_refused():
    with pytest.raises(OptionError, match="on_corrupt 'skip' is not known; choose one of error, fill"):
        slidewright.ConvertOptions(on_corrupt="skip")


@pytest.mark.parametrize("workers", [0, 1])
def test_corrupt_tiles_get_the_background_that_was_asked_for(tmp_path, spoiled, workers):
    path, pixels = spoiled
    pixels[128:192, 192:320] = (0, 0, 128)
    options = {"on_corrupt": "fill", "background": "navy", "n_workers": workers, "tile_size": 64, **LOSSLESS}
    slidewright.convert(path, tmp_path / "out.tif", **options)
    assert_levels_equal_oracle(tmp_path / "out.tif", pixels, 64)


@pytest.mark.parametrize("planar", [True, False])
def test_corrupt_channels_are_filled_each_by_itself_where_they_are_stored_so(tmp_path, planar):
    pixels = np.random.default_rng(1).integers(0, 60_000, (3, 128, 128), dtype=np.uint16)
    layout = "separate" if planar else "contig"
    stored = pixels if planar else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    options = {"photometric": "minisblack", "planarconfig": layout, "tile": (64, 64), "compression": "zlib"}
    tifffile.imwrite(tmp_path / "in.tif", stored, metadata=None, **options)
    spoil(tmp_path / "in.tif", 4 + 1 if planar else 1)  # of the second channel, or of all
    expected = pixels.transpose(1, 2, 0).copy()
    expected[:64, 64:, 1 if planar else slice(None)] = 7
    report = slidewright.convert(
        tmp_path / "in.tif",
        tmp_path / "out.tif",
        on_corrupt="fill",
        background=7,
        n_workers=1,
        tile_size=64,
        **LOSSLESS,
    )
    assert report.corrupt_tiles == 1
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), expected)  # channels side by side
