"""The source's own reduced levels are copied where each is half the one below, the others are made of the last of them,
and what was done is said.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from kept_sources import picture

import slidewright
from slidewright.cli.main import main
from slidewright.errors import CorruptTileError, OptionError, VerifyError
from slidewright.inspection.verify import verify_file
from slidewright.inspection.zarr_pyramid import ZarrPyramid
from slidewright.pyramid.reduce import halve

TILE = 16


def pyramid_of(path: Path, levels: int, compression: str = "zlib", height: int = 300, width: int = 410) -> None:
    """A pyramid by tifffile whose levels no mean makes: each is brighter than the one below."""
    pixels = picture(height=height, width=width) // 2
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(levels):
            tiff.write(
                pixels, tile=(TILE, TILE), compression=compression, photometric="rgb", subfiletype=int(level > 0),
                metadata=None,
            )  # fmt: skip
            pixels = pixels[: pixels.shape[0] // 2 * 2 : 2, : pixels.shape[1] // 2 * 2 : 2] + 4


def tiles(path: Path, level: int) -> list[bytes]:
    """The encoded tiles of a level."""
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        page, found = tiff.pages[level], []
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            file.seek(offset)
            found.append(file.read(count))
    return found


def converted(source: Path, out: Path, **options: Any) -> slidewright.Report:
    return slidewright.convert(source, out, reuse_levels=True, **{"n_workers": 0, **options})


@pytest.mark.parametrize("compression", ["zlib", "jpeg"])
@pytest.mark.parametrize("levels", [6, 5, 3, 2])
@pytest.mark.parametrize("block_tiles", [1, 2, 8])
def test_levels_that_fit_are_copied_and_the_others_made_of_the_last(compression, levels, block_tiles, tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    pyramid_of(source, levels, compression)
    report = converted(source, out, block_tiles=block_tiles)
    assert report.reused_levels == levels - 1
    assert "own" in report.keeping
    assert len(report.levels) == 6
    for level in range(levels):
        assert tiles(out, level) == tiles(source, level)
    assert verify_file(out, against=source).levels[levels - 1].exact
    with tifffile.TiffFile(out) as tiff:
        for level in range(levels, 6):
            wanted = halve("mean", tiff.pages[level - 1].asarray())
            if compression == "zlib":
                np.testing.assert_array_equal(tiff.pages[level].asarray(), wanted)
            else:
                assert abs(tiff.pages[level].asarray().mean() - wanted.mean()) < 2


def test_every_way_gives_the_same_bytes(tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    pyramid_of(source, 4, "jpeg")
    converted(source, out)
    for number, options in enumerate(({"n_workers": 1}, {"n_workers": 3, "block_tiles": 1}, {"resume": True})):
        other = tmp_path / f"{number}.tif"
        converted(source, other, **options)
        assert other.read_bytes() == out.read_bytes()
    for block_tiles in (1, 4):
        shards = tmp_path / f"shards{block_tiles}"
        for index in range(3):
            slidewright.shard(
                source, shards, index=index, count=3, n_workers=0, reuse_levels=True, block_tiles=block_tiles
            )
        slidewright.assemble(shards, tmp_path / "assembled.tif", n_workers=0, overwrite=True)
        assert (tmp_path / "assembled.tif").read_bytes() == out.read_bytes()


def test_a_level_that_does_not_fit_ends_it(tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    pixels = picture()
    with tifffile.TiffWriter(source) as tiff:
        for step, tile, compression in ((1, 16, "jpeg"), (2, 16, "jpeg"), (4, 32, "jpeg"), (8, 16, "jpeg")):
            tiff.write(
                pixels[: 300 // step * step : step, : 410 // step * step : step], tile=(tile, tile),
                compression=compression, photometric="rgb", subfiletype=int(step > 1), metadata=None,
            )  # fmt: skip
    report = converted(source, out)
    assert report.reused_levels == 1
    assert "level 2 and those above are not: its tiles are 32 x 32 there" in report.keeping
    assert tiles(out, 1) == tiles(source, 1)


def test_quartered_levels_are_not_reused(tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    pixels = picture(height=320, width=448)
    with tifffile.TiffWriter(source) as tiff:
        for step in (1, 4, 16):
            tiff.write(
                pixels[::step, ::step], tile=(TILE, TILE), compression="jpeg", photometric="rgb",
                subfiletype=int(step > 1), metadata=None,
            )  # fmt: skip
    report = converted(source, out)
    assert report.reused_levels == 0
    assert "no level is reused, level 1 and those above are not: the source has none of 224 x 160" in report.keeping
    plain = tmp_path / "plain.tif"
    slidewright.convert(source, plain, n_workers=0)
    assert plain.read_bytes() == out.read_bytes()


def test_where_level_0_is_not_kept_nothing_is_reused(tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    pyramid_of(source, 4)
    report = converted(source, out, compression="lzw")
    assert (report.kept_tiles, report.reused_levels) == (0, 0)
    assert "no level is reused, since level 0 is not kept" in report.keeping


@pytest.mark.parametrize("options", [{"on_corrupt": "fill"}, {"scaled_decoding": True}, {"resampling": "max"}])
def test_what_needs_levels_decoded_or_made_is_refused(options, tmp_path):
    source = tmp_path / "in.tif"
    pyramid_of(source, 3, "jpeg")
    with pytest.raises(OptionError, match="reuse_levels"):
        converted(source, tmp_path / "out.tif", **options)
    assert os.listdir(tmp_path) == ["in.tif"]


@pytest.mark.parametrize("name", ["out.ome.tif", "aperio.svs"])
def test_other_kinds_of_tiff_have_them_too(name, tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / name
    pyramid_of(source, 4, "jpeg")
    report = converted(source, out, **({"flavour": "aperio", "levels": 4} if name.endswith("svs") else {}))
    assert report.reused_levels == 3
    verify_file(out, against=source)
    with tifffile.TiffFile(source) as there, tifffile.TiffFile(out) as here:
        for old, new in zip(there.pages, here.series[0].levels, strict=False):
            np.testing.assert_array_equal(new.asarray(), old.asarray())


def test_info_and_the_page_say_what_was_reused_and_verify_finds_what_is_not(tmp_path, capsys):
    source, out, page = tmp_path / "in.tif", tmp_path / "out.tif", tmp_path / "page.html"
    pyramid_of(source, 4, "jpeg")
    arguments = ["convert", str(source), str(out), "--reuse-levels", "--workers", "0", "--report", str(page)]
    assert main(arguments) == 0
    assert main(["info", str(out)]) == 0
    said = capsys.readouterr().out
    assert "levels 0 to 3 kept as they were" in said
    assert "as those of levels 1 to 3 are" in said
    assert "levels 1 to 3 are the source&#x27;s own" in page.read_text()
    with tifffile.TiffFile(out) as tiff:
        place = tiff.pages[2].dataoffsets[4] + 20
    with out.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)
        file.seek(place)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(VerifyError, match="level 2, tile at row 0, column 4 is not the source's own tile"):
        verify_file(out, against=source)


@pytest.mark.parametrize("compression", ["jpeg", "zstd"])
def test_tiles_that_a_source_leaves_out_are_made_for_an_ome_zarr(compression, tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / "out.ome.zarr"
    pyramid_of(source, 4, compression)
    with tifffile.TiffFile(source, mode="r+") as tiff:
        for number, gaps in enumerate(((0, 1, 26, 27, 30), (0, 5))):
            for code in (324, 325):
                tag = tiff.pages[number].tags[code]
                tag.overwrite([0 if at in gaps else value for at, value in enumerate(tag.value)])
    report = converted(source, out, compression=compression)
    assert report.reused_levels == 3
    assert verify_file(out).levels
    with ZarrPyramid(out) as pyramid:
        for number, level in enumerate(pyramid.levels[:4]):
            shown = tifffile.imread(source, key=number)
            found = pyramid.segments(level).whole()
            assert np.abs(found.astype(int) - shown).max() <= (8 if compression == "jpeg" else 0)


def test_verify_finds_copied_tiles_that_the_files_own_tags_show_otherwise(tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    pixels = picture(height=304, width=416)
    with tifffile.TiffWriter(source) as tiff:
        for step in (1, 2, 4):
            tiff.write(
                pixels[::step, ::step], tile=(TILE, TILE), compression="zlib", predictor=True, photometric="rgb",
                subfiletype=int(step > 1), metadata=None,
            )  # fmt: skip
    assert converted(source, out).reused_levels == 2
    assert [level.exact for level in verify_file(out, against=source).levels[:3]] == [True] * 3
    with tifffile.TiffFile(out, mode="r+") as tiff:
        tiff.pages[1].tags["Predictor"].overwrite(1)
    with pytest.raises(VerifyError, match="level 1, tile at row 0, column 0 differs from the source"):
        verify_file(out, against=source)


def test_verify_decodes_copied_tiles(tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / "out.tif"
    pyramid_of(source, 4, "jpeg")
    with tifffile.TiffFile(source) as tiff:
        place, count = tiff.pages[1].dataoffsets[4], tiff.pages[1].databytecounts[4]
    with source.open("r+b") as file:
        file.seek(place)
        file.write(bytes(count))
    converted(source, out)
    with pytest.raises(CorruptTileError, match="tile at row 0, column 4"):
        verify_file(out, against=source)


@pytest.mark.parametrize("compression", ["jpeg", "zstd"])
def test_verify_holds_copied_levels_of_an_ome_zarr_against_the_sources_own(compression, tmp_path):
    source, out = tmp_path / "in.tif", tmp_path / "out.ome.zarr"
    pyramid_of(source, 4, compression)
    assert converted(source, out, compression=compression).reused_levels == 3
    assert [level.exact for level in verify_file(out, against=source).levels[:4]] == [True] * 4
    other = tmp_path / "other.tif"
    slidewright.convert(source, other, compression="deflate", tile_size=32, levels=2, n_workers=0)
    with pytest.raises(VerifyError, match="has no such levels"):
        verify_file(out, against=other)
