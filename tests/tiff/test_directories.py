"""The walk over a TIFF's directories takes SubIFDs as files have them, and ends early where they have no end."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import slidewright
from slidewright.errors import SourceError, VerifyError
from slidewright.geometry import Size
from slidewright.tiff import directories
from slidewright.tiff.directories import MAX_DIRECTORIES, check_directories
from slidewright.tiff.slide import TiffSlide

FIRST = 8
SIDES = [(256, 4, 1, 16), (257, 4, 1, 16)]
Entry = tuple[int, int, int, int]


def directory(entries: list[Entry], following: int = 0) -> bytes:
    table = b"".join(struct.pack("<HHII", *each) for each in entries)
    return struct.pack("<H", len(entries)) + table + struct.pack("<I", following)


LENGTH = len(directory([*SIDES, (330, 4, 3, 0)]))


def named(path: Path, children: list[int], *, count: int | None = None, more: bytes = b"") -> Path:
    """A TIFF of one page whose SubIFDs are a table of these, which `more` follows, or says to be of `count`."""
    page = directory([*SIDES, (330, 4, len(children) if count is None else count, FIRST + LENGTH)])
    path.write_bytes(b"II*\0" + struct.pack("<I", FIRST) + page + struct.pack(f"<{len(children)}I", *children) + more)
    return path


def distinct(path: Path, count: int) -> Path:
    """A TIFF of one page with so many SubIFDs."""
    child, start = directory(SIDES), FIRST + LENGTH + 4 * count
    return named(path, [start + len(child) * n for n in range(count)], more=child * count)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("name", ["BitsPerSample", "Compression", "Predictor"])
def test_entry_of_no_type_is_damage(tmp_path, name, big):
    """Readers pass over it, and take what stands for nothing: one bit a sample, no compression."""
    path = tmp_path / "a.tif"
    options = {"compression": "zlib", "predictor": 2, "photometric": "rgb", "bigtiff": big}
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), tile=(64, 64), **options)
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags[name].offset
    data = bytearray(path.read_bytes())
    data[at + 2 : at + 4] = bytes(2)
    path.write_bytes(data)
    with pytest.raises(VerifyError, match="which TIFF does not know"):
        check_directories(path)


def test_child_that_is_named_again_and_again_counts_each_time(tmp_path: Path) -> None:
    """tifffile reads it as often as it is named."""
    count = 10_000
    end = FIRST + LENGTH + 4 * count
    path = named(tmp_path / "a.tif", [end] * count, more=directory(SIDES))
    with pytest.raises(VerifyError, match="name the same directories again and again; the file is damaged"):
        check_directories(path)


def test_children_of_several_pages_count_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "MAX_DIRECTORIES", 5)
    page, path = directory([*SIDES, (330, 4, 3, 0)], 1), tmp_path / "a.tif"
    pages = b"".join(
        directory([*SIDES, (330, 4, 3, 200 + 12 * n)], (FIRST + len(page)) if n == 0 else 0) for n in range(2)
    )
    path.write_bytes((b"II*\0" + struct.pack("<I", FIRST) + pages).ljust(300, b"\0"))  # tables of zeros
    with pytest.raises(VerifyError, match="more than 5 directories"):
        check_directories(path)
    monkeypatch.setattr(directories, "MAX_DIRECTORIES", 6)
    assert check_directories(path) == 2


def test_child_that_two_pages_name_is_one(tmp_path: Path) -> None:
    second, child = FIRST + len(directory([*SIDES, (330, 4, 1, 0)])), 300
    pages = directory([*SIDES, (330, 4, 1, child)], second) + directory([*SIDES, (330, 4, 1, child)])
    path = tmp_path / "a.tif"
    path.write_bytes((b"II*\0" + struct.pack("<I", FIRST) + pages).ljust(child, b"\0") + directory(SIDES))
    assert check_directories(path) == 3


def test_directories_that_lie_over_each_other_are_refused(tmp_path: Path) -> None:
    """Each entry's last bytes are the number of entries of one more directory: hours for a megabyte."""
    count, number = 200, 1000
    start = FIRST + LENGTH + 4 * count + 10
    entry = struct.pack("<HHII", 0, 0, 1, number << 16)
    more = entry * (count + number + 1)
    path = named(tmp_path / "a.tif", [start + 12 * n for n in range(count)], more=more)
    with pytest.raises(VerifyError, match="lies over others, which together have more bytes than the file"):
        check_directories(path)


def test_children_that_are_none_are_passed_over(tmp_path: Path) -> None:
    """A writer that was to fill them in later left zeros."""
    end = FIRST + LENGTH + 4 * 3
    assert check_directories(named(tmp_path / "a.tif", [0, end, 0], more=directory(SIDES))) == 2


def test_children_count_as_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "MAX_DIRECTORIES", 10)
    assert check_directories(distinct(tmp_path / "a.tif", 9)) == 10
    with pytest.raises(VerifyError, match="more than 10 directories; this is not a slide"):
        check_directories(distinct(tmp_path / "a.tif", 10))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("count", [MAX_DIRECTORIES + 1, 500_000_000])
def test_table_of_too_many_children_is_refused_by_its_number(tmp_path: Path, count: int, big: bool) -> None:
    """The file is as large as its table says, but sparse."""
    path = named(tmp_path / "a.tif", [], count=count)
    if big:
        entry = struct.pack("<HHQQ", 330, 13, count, 64)
        path.write_bytes(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 1) + entry)
    with open(path, "r+b") as file:
        file.truncate(100 + 4 * count)
    with pytest.raises(VerifyError, match=f"more than {MAX_DIRECTORIES} directories; this is not a slide"):
        check_directories(path)


def test_many_pages_of_several_children_each_are_read(tmp_path: Path) -> None:
    """As OME-TIFF has a pyramid for each plane."""
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        data = np.zeros((40, 64, 64), np.uint8)
        tiff.write(data, tile=(16, 16), subifds=2, metadata={"axes": "ZYX"})
        for step in (2, 4):
            tiff.write(data[:, ::step, ::step], tile=(16, 16), subfiletype=1)
    assert check_directories(path) == 120
    with TiffSlide(path) as slide:
        assert [page.size for page in slide.levels] == [Size(64, 64), Size(32, 32), Size(16, 16)]


@pytest.mark.parametrize("kind", [2, 5, 6, 7, 8, 11, 12])
def test_tables_of_places_hold_whole_numbers_that_a_file_can_have(kind: int, tmp_path: Path) -> None:
    """Of others most were 0, as of tiles that a writer leaves out."""
    path = tmp_path / "a.tif"
    pixels = np.arange(128 * 128, dtype=np.uint16).reshape(128, 128)
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="minisblack")
    for name in ("TileByteCounts", "TileOffsets"):
        data = bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as tiff:
            at = tiff.pages.first.tags[name].offset
        data[at + 2 : at + 4] = kind.to_bytes(2, "little")
        (tmp_path / "b.tif").write_bytes(data)
        with pytest.raises(SourceError, match=f"of places in the file, has type {kind}"):
            slidewright.open_source(tmp_path / "b.tif")


@pytest.mark.parametrize("name", ["Compression", "PhotometricInterpretation", "PlanarConfiguration"])
@pytest.mark.parametrize("kind", [2, 5, 11, 12, 16])
def test_ways_of_coding_are_whole_numbers(name: str, kind: int, tmp_path: Path) -> None:
    """The usual way was taken."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.uint8), photometric="rgb", planarconfig="contig")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags[name].offset
    data[at + 2 : at + 4] = kind.to_bytes(2, "little")
    path.write_bytes(data)
    with pytest.raises(SourceError, match=f"which names a way of coding, has 1 of type {kind}"):
        slidewright.open_source(path)


@pytest.mark.parametrize("tiled", [False, True])
def test_page_that_has_lost_the_size_of_its_strips_or_tiles_is_damaged(tiled: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"tile": (32, 32)} if tiled else {"rowsperstrip": 16}
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), photometric="minisblack", **options)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["TileWidth" if tiled else "RowsPerStrip"].overwrite(0)
    with pytest.raises(SourceError, match="does not say how large its tiles or strips are"):
        slidewright.open_source(path)
