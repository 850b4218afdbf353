"""An archive shows the slide in readers of JPEG XL, is the same for any number of workers, and gives its original back
byte for byte, whatever that holds besides JPEG tiles.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from kept_sources import ENDS, SOURCES, TILE, ended_otherwise, picture

import slidewright
from slidewright.cli.main import main
from slidewright.conversions.batch_slide import convert_slide
from slidewright.conversions.manifest import Entry
from slidewright.errors import (
    CorruptTileError,
    DestinationError,
    OptionError,
    RunError,
    SlidewrightError,
    SourceError,
    VerifyError,
)
from slidewright.options import make_options
from slidewright.selection import Selection
from slidewright.tiff.archive import RECIPE, read_recipe
from slidewright.tiff.slide import TiffSlide

JPEGS = [kind for kind in SOURCES if "jpeg" in kind]


def slide(path: Path, **options: Any) -> None:
    """Two levels of JPEG, one below the other, a label in LZW between bytes that no directory knows of."""
    pixels = picture()
    with tifffile.TiffWriter(path, **options) as tiff:
        tiff.write(pixels, tile=(TILE, TILE), compression="jpeg", photometric="rgb", subifds=1, metadata=None)
        tiff.write(
            pixels[::2, ::2], tile=(TILE, TILE), compression="jpeg", photometric="rgb", subfiletype=1, metadata=None
        )
        tiff.write(pixels[:50, :70], compression="lzw", photometric="rgb", description="label", metadata=None)
    with path.open("ab") as file:
        file.write(b"what nobody knows of")


def change(path: Path, at: int, data: bytes) -> None:
    """Overwrite some bytes."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def round_trip(source: Path, tmp_path: Path, **options: Any) -> tuple[Path, slidewright.Report]:
    """The archive, once its original has come out of it."""
    archive, back = tmp_path / "archive.tif", tmp_path / "back.tif"
    report = slidewright.convert(source, archive, archive="jpegxl", **{"n_workers": 0, **options})
    restored = slidewright.restore(archive, back, n_workers=0)
    assert back.read_bytes() == source.read_bytes()
    assert restored.bytes == source.stat().st_size
    return archive, report


def psnr(one: Any, other: Any) -> float:
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((one.astype(float) - other) ** 2))))


@pytest.mark.parametrize("kind", JPEGS)
def test_every_kind_of_jpeg_comes_back_and_is_shown(kind, tmp_path):
    source = tmp_path / "in.tif"
    SOURCES[kind](source)
    archive, report = round_trip(source, tmp_path)
    assert report.warnings == ()
    with tifffile.TiffFile(source) as there, tifffile.TiffFile(archive) as here:
        old, new = there.pages.first, here.pages.first
        assert (int(new.compression), new.tile) == (50002, old.tile)
        assert psnr(new.asarray(), old.asarray()) > 32


@pytest.mark.parametrize("end", ENDS)
def test_tables_may_end_otherwise(end, tmp_path):
    source = tmp_path / "in.tif"
    ended_otherwise(source, ENDS[end])
    archive, report = round_trip(source, tmp_path)
    assert report.warnings == ()
    with tifffile.TiffFile(source) as there, tifffile.TiffFile(archive) as here:
        assert psnr(here.pages.first.asarray(), there.pages.first.asarray()) > 32


@pytest.mark.parametrize("layout", [{}, {"bigtiff": True}, {"byteorder": ">"}], ids=["classic", "big", "big-endian"])
def test_the_whole_file_comes_back_with_what_is_no_tile(layout, tmp_path):
    source = tmp_path / "in.tif"
    slide(source, **layout)
    archive, report = round_trip(source, tmp_path)
    assert report.bytes == archive.stat().st_size
    with tifffile.TiffFile(source) as there, tifffile.TiffFile(archive) as here:
        assert len(here.pages) == 2
        assert len(here.pages.first.pages) == 1
        np.testing.assert_array_equal(here.pages[1].asarray(), there.pages[1].asarray())
        below = here.pages.first.pages[0]
        assert psnr(below.asarray(), there.pages.first.pages[0].asarray()) > 32


def test_real_slide_comes_back_and_its_associated_images_are_shown(real_slide, tmp_path):
    archive, report = round_trip(real_slide, tmp_path)
    assert report.bytes < 0.81 * real_slide.stat().st_size
    with tifffile.TiffFile(real_slide) as there, tifffile.TiffFile(archive) as here:
        assert [page.shape for page in here.pages] == [page.shape for page in there.pages]
        for old, new in zip(there.pages, here.pages, strict=True):
            assert psnr(new.asarray(), old.asarray()) > 30


def test_archive_and_original_are_the_same_for_any_number_of_workers(tmp_path):
    source = tmp_path / "in.tif"
    slide(source)
    archives = []
    for workers in (0, 1, 3):
        archive, back = tmp_path / f"{workers}.tif", tmp_path / f"back{workers}.tif"
        slidewright.convert(source, archive, archive="jpegxl", n_workers=workers)
        slidewright.restore(archive, back, n_workers=workers)
        archives.append(archive.read_bytes())
        assert back.read_bytes() == source.read_bytes()
    assert archives[0] == archives[1] == archives[2]
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["in.tif", *(f"{start}{n}.tif" for start in ("", "back") for n in (0, 1, 3))]
    )


def test_a_tile_that_does_not_return_is_kept_as_it_is_and_told(tmp_path):
    source = tmp_path / "in.tif"
    SOURCES["jpeg 420"](source)
    with tifffile.TiffFile(source) as tiff:
        offset = tiff.pages.first.dataoffsets[3]
    change(source, offset, b"no JPEG")
    archive, report = round_trip(source, tmp_path)
    assert "1 of 35 JPEG segments are kept as they are" in report.warnings[0]
    with tifffile.TiffFile(archive) as tiff, archive.open("rb") as file:
        file.seek(tiff.pages.first.dataoffsets[3])
        assert file.read(7) == b"no JPEG"


def test_tiles_that_share_bytes_are_kept_once_or_left_alone(tmp_path):
    source = tmp_path / "in.tif"
    SOURCES["jpeg 420"](source)
    with tifffile.TiffFile(source, mode="r+") as tiff:
        page = tiff.pages.first
        offsets, counts = list(page.dataoffsets), list(page.databytecounts)
        offsets[1], counts[1] = offsets[0], counts[0]
        page.tags["TileOffsets"].overwrite(offsets)
        page.tags["TileByteCounts"].overwrite(counts)
    archive, _ = round_trip(source, tmp_path)
    with tifffile.TiffFile(archive) as tiff:
        assert tiff.pages.first.dataoffsets[0] == tiff.pages.first.dataoffsets[1]
    archive.unlink()
    (tmp_path / "back.tif").unlink()
    with tifffile.TiffFile(source, mode="r+") as tiff:
        tiff.pages.first.tags["TileOffsets"].overwrite([offsets[0], offsets[0] + 1, *offsets[2:]])
    with pytest.raises(OptionError, match="no JPEG tiles"):
        slidewright.convert(source, archive, archive="jpegxl", n_workers=0)


def test_damage_of_an_archive_is_found_and_nothing_is_left(tmp_path):
    source, archive, back = tmp_path / "in.tif", tmp_path / "archive.tif", tmp_path / "back.tif"
    slide(source)
    slidewright.convert(source, archive, archive="jpegxl", n_workers=0)
    with tifffile.TiffFile(archive) as tiff:
        tile, strip = tiff.pages.first.dataoffsets[5], tiff.pages[1].dataoffsets[0]
        recipe = tiff.pages.first.tags[65428].valueoffset
    good = archive.read_bytes()
    for at, error in ((tile + 40, CorruptTileError), (strip + 9, VerifyError), (recipe + 9, SourceError)):
        change(archive, at, bytes([good[at] ^ 255]))
        with pytest.raises(error, match="archive"):
            slidewright.restore(archive, back, n_workers=0)
        change(archive, at, good[at : at + 1])
    archive.write_bytes(good[: len(good) // 2])
    with pytest.raises(SlidewrightError, match="archive"):
        slidewright.restore(archive, back, n_workers=0)
    assert sorted(os.listdir(tmp_path)) == ["archive.tif", "in.tif"]


def test_an_archive_that_does_not_give_the_original_back_gets_no_name(tmp_path, monkeypatch):
    source, archive = tmp_path / "in.tif", tmp_path / "archive.tif"
    slide(source)
    right = imagecodecs.jpegxl_decode_jpeg
    calls = 0

    def wrong_in_the_end(data: bytes, **options: Any) -> bytes:
        nonlocal calls
        calls += 1
        found = bytes(right(data, **options))
        return found if calls < 60 else found[:-3] + b"\0" + found[-2:]

    monkeypatch.setattr(imagecodecs, "jpegxl_decode_jpeg", wrong_in_the_end)
    with pytest.raises(VerifyError, match="not the file that was archived"):
        slidewright.convert(source, archive, archive="jpegxl", n_workers=0)
    assert os.listdir(tmp_path) == ["in.tif"]


def test_what_asks_for_another_file_is_refused(tmp_path):
    source, archive = tmp_path / "in.tif", tmp_path / "archive.tif"
    slide(source)
    for wrong in ({"quality": 80}, {"levels": 2}, {"resume": True}, {"level": 1}, {"compression": "jpegxl"}):
        with pytest.raises(OptionError, match=f"{next(iter(wrong))} has no meaning"):
            slidewright.convert(source, archive, archive="jpegxl", n_workers=0, **wrong)
    with pytest.raises(OptionError, match="OME-Zarr"):
        slidewright.convert(source, tmp_path / "archive.zarr", archive="jpegxl", n_workers=0)
    with pytest.raises(OptionError, match="TIFF"):
        slidewright.convert(picture(), archive, archive="jpegxl", n_workers=0)
    SOURCES["deflate"](source)
    with pytest.raises(OptionError, match="no JPEG tiles"):
        slidewright.convert(source, archive, archive="jpegxl", n_workers=0)
    with pytest.raises(SourceError, match="no archive"):
        slidewright.restore(source, tmp_path / "back.tif", n_workers=0)
    assert os.listdir(tmp_path) == ["in.tif"]


def test_restore_does_not_replace_what_it_was_not_told_to(tmp_path):
    source, archive = tmp_path / "in.tif", tmp_path / "archive.tif"
    slide(source)
    slidewright.convert(source, archive, archive="jpegxl", n_workers=0)
    with pytest.raises(DestinationError, match="exists"):
        slidewright.restore(archive, source, n_workers=0)
    with pytest.raises(DestinationError, match="source itself"):
        slidewright.restore(archive, archive, n_workers=0, overwrite=True)


def test_command_line_archives_and_restores(tmp_path, capsys):
    source, archive, back = tmp_path / "in.tif", tmp_path / "archive.tif", tmp_path / "back.tif"
    slide(source)
    assert main(["convert", str(source), str(archive), "--archive", "jpegxl", "--workers", "0"]) == 0
    assert main(["info", str(archive)]) == 0
    assert "an archive, of which restore gives back the original" in capsys.readouterr().out
    assert main(["verify", str(archive)]) == 0
    assert main(["restore", str(archive), str(back), "--workers", "0"]) == 0
    assert "the file that was archived" in capsys.readouterr().out
    assert main(["restore", str(archive), str(back), "--workers", "0", "--overwrite", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["destination"], told["bytes"]) == (str(back), source.stat().st_size)
    assert back.read_bytes() == source.read_bytes()


def test_batch_archives_many(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(2):
        SOURCES["jpeg 420"](tmp_path / "in" / f"{number}.tif")
    report = slidewright.batch(tmp_path / "in", tmp_path / "out", archive="jpegxl", n_workers=1)
    assert [item.status for item in report.items] == ["done", "done"]
    for number in range(2):
        slidewright.restore(tmp_path / "out" / f"{number}.tif", tmp_path / "back.tif", overwrite=True, n_workers=0)
        assert (tmp_path / "back.tif").read_bytes() == (tmp_path / "in" / f"{number}.tif").read_bytes()


def test_a_killed_worker_is_replaced(tmp_path, monkeypatch):
    pytest.importorskip("psutil")
    import psutil

    source, archive = tmp_path / "in.tif", tmp_path / "archive.tif"
    tifffile.imwrite(
        source, picture(height=2000, width=2000), tile=(TILE, TILE), compression="jpeg", photometric="rgb",
        metadata=None,
    )  # fmt: skip

    def kill_one() -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for child in psutil.Process().children(recursive=True):
                if child.name().startswith("slidewright-w0"):
                    child.kill()
                    return

    killer = threading.Thread(target=kill_one)
    killer.start()
    try:
        report = slidewright.convert(source, archive, archive="jpegxl", n_workers=2)
    except RunError:
        pytest.fail("one death is no reason to give up")
    killer.join()
    slidewright.restore(archive, tmp_path / "back.tif", n_workers=0)
    assert (tmp_path / "back.tif").read_bytes() == source.read_bytes()
    assert report.bytes == archive.stat().st_size


def test_a_dry_run_says_that_it_knows_nothing_of_an_archive(tmp_path):
    source = tmp_path / "in.tif"
    slide(source)
    with pytest.raises(OptionError, match="archive"):
        slidewright.preview(source, tmp_path / "out.tif", archive="jpegxl")


def test_directory_whose_compression_is_no_number_is_kept_as_it_is(tmp_path):
    """A damaged one, among others that are whole."""
    slide(tmp_path / "in.tif")
    with tifffile.TiffFile(tmp_path / "in.tif") as tiff:
        at = tiff.pages[1].tags[259].offset
    change(tmp_path / "in.tif", at + 2, b"\x02\0")  # text
    try:
        round_trip(tmp_path / "in.tif", tmp_path)
    except SlidewrightError:  # it may be refused, in our words
        assert not (tmp_path / "archive.tif").exists()


@pytest.mark.timeout(60)
def test_verify_sees_what_would_not_come_back(tmp_path, capsys):
    """Also between the tiles, where no reader looks."""
    slide(tmp_path / "s.tif")
    archive, _ = round_trip(tmp_path / "s.tif", tmp_path)
    assert main(["verify", str(archive)]) == 0
    recipe = read_recipe(str(archive))
    damaged = [int(recipe.gap_places[-1]) + 5, int(recipe.segment_places[3]) + int(recipe.stored[3]) // 2]
    with TiffSlide(archive) as opened:
        damaged.append(archive.read_bytes().find(opened.directories[0].tags[RECIPE][2]) + 40)
    whole = archive.read_bytes()
    for place in damaged:
        change(archive, place, bytes(each ^ 255 for each in whole[place : place + 8]))
        assert main(["verify", str(archive), "--workers", "1"]) == 1
        assert main(["restore", str(archive), str(tmp_path / "again.tif")]) != 0
        archive.write_bytes(whole)
    assert len(capsys.readouterr().err.splitlines()) == 6


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damaged", [False, True])
def test_verify_takes_an_archive_for_good_from_which_an_odd_original_comes_back(damaged, tmp_path):
    pixels = np.random.default_rng(8).integers(90, 160, (100, 130, 3), np.uint8)
    tiles = [pixels[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64, 128)]
    segments = [imagecodecs.jpeg8_encode(np.ascontiguousarray(tile), level=90) for tile in tiles]
    segments[1] = segments[1][: len(segments[1]) // (2 if damaged else 1)]
    said = {"shape": pixels.shape, "dtype": np.uint8, "tile": (64, 64), "compression": "jpeg", "metadata": None}
    tifffile.imwrite(tmp_path / "in.tif", iter(segments), photometric="ycbcr", subsampling=(2, 2), **said)
    slidewright.convert(tmp_path / "in.tif", tmp_path / "archive.tif", archive="jpegxl", n_workers=0)
    warnings = " ".join(slidewright.verify_file(tmp_path / "archive.tif", n_workers=1).warnings)
    assert "level 0: 4 tiles at the edge are stored smaller" in warnings
    assert ("1 segments are in the archive as they were" in warnings) == damaged
    slidewright.restore(tmp_path / "archive.tif", tmp_path / "again.tif", n_workers=0)
    assert (tmp_path / "again.tif").read_bytes() == (tmp_path / "in.tif").read_bytes()


@pytest.mark.timeout(60)
def test_process_of_a_batch_tells_of_its_files_before_it_makes_them(tmp_path):
    """Else they stay when the batch is killed."""
    slide(tmp_path / "slide.tif")
    options = make_options({"archive": "jpegxl", "n_workers": 0}, "batch")
    entry = Entry(str(tmp_path / "slide.tif"), str(tmp_path / "a.tif"), options, Selection())
    told = []

    def announce(path: str) -> None:
        assert not os.path.exists(path)
        told.append(path)

    assert convert_slide(entry, None, lambda: None, None, announce).item.status == "done"
    assert [path.rpartition(".")[2] for path in told[:2]] == ["partial", "lock"]
