"""Verification finds what is wrong with a file, says where, and is not fooled or exhausted by a hostile one."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import slidewright
from slidewright.errors import CorruptTileError, OptionError, SourceError, VerifyError
from slidewright.geometry import Size, halvings
from slidewright.inspection.verify import check_structure, check_tables, verify_file
from slidewright.pyramid.reduce import halve
from slidewright.sources.base import SourceInfo
from slidewright.sources.tiff import TiffSource
from slidewright.tiff.directories import check_directories
from slidewright.tiff.page import Page
from slidewright.tiff.slide import TiffSlide
from slidewright.tiff.stream_headers import look

Pixels = NDArray[Any]
SLIDE = Path(__file__).parents[3] / "shared" / "data" / "CMU-1-Small-Region.svs"


class ArraySource:
    """The smallest source: an array."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        size = Size(*pixels.shape[:2])
        self.info = SourceInfo("array", "array", size, pixels.shape[2], pixels.dtype.name)

    def open(self) -> ArraySource:
        return self

    def read(self, y: int, x: int, height: int, width: int, out: Pixels) -> Pixels:
        return self.pixels[y : y + height, x : x + width]

    def close(self) -> None:
        pass


def image(height: int = 501, width: int = 333, seed: int = 0, samples: int = 3, dtype: str = "uint8") -> Pixels:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (height, width, samples), dtype)


def smooth(height: int = 501, width: int = 333) -> Pixels:
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([y % 256, x % 256, (x + y) // 8 % 256], axis=-1).astype(np.uint8)


def write(path: Path, pixels: Pixels, *, levels: int = 4, tile: int = 64, method: str = "mean", **options: Any) -> Path:
    """A pyramid as slidewright lays it out, written by tifffile alone."""
    options = {"compression": "deflate", "software": "slidewright 0", **options}
    photometric = "rgb" if pixels.shape[2] == 3 else "minisblack"
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(levels):
            data = pixels if pixels.shape[2] == 3 else pixels[..., 0]
            tiff.write(
                data,
                tile=(tile, tile),
                photometric=photometric,
                subfiletype=1 if level else 0,
                metadata=None,
                **options,
            )
            pixels = halve(method, pixels)
    return path


def patch(path: Path, tag: str, index: int, value: int, page: int = 0) -> None:
    """Overwrite one value of a table of 64-bit numbers."""
    with tifffile.TiffFile(path) as tiff:
        entry = tiff.pages[page].aspage().tags[tag]
        offset, size = entry.valueoffset, struct.calcsize("<" + {16: "Q", 4: "I", 3: "H"}[int(entry.dtype)])
    with path.open("r+b") as file:
        file.seek(offset + index * size)
        file.write(value.to_bytes(size, "little"))


def test_good_file_is_reported_level_by_level(tmp_path: Path) -> None:
    report = verify_file(write(tmp_path / "a.tif", image()))
    assert [tuple(level.size) for level in report.levels] == [(501, 333), (250, 166), (125, 83), (62, 41)]
    assert [level.tiles for level in report.levels] == [48, 12, 4, 1] == [level.decoded for level in report.levels]
    assert report.decoded == 65
    assert report.warnings == ()


def test_structure_of_a_fresh_file_is_checked_against_the_plan(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image())
    sizes = [Size(501, 333).halved(n) for n in range(4)]
    check_structure(path, sizes)
    with pytest.raises(VerifyError, match=r"the levels are .* expected"):
        check_structure(path, sizes[:3])


def test_structure_of_a_large_file_is_checked_in_a_few_calls_a_tile(tmp_path: Path) -> None:
    path, tiles_written = tmp_path / "a.tif", 0
    tile = np.zeros((512, 512, 3), np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for n in range(7):
            size = Size(20000, 20000).halved(n)
            count = size.grid(512).height * size.grid(512).width
            tiles_written += count
            tiles = iter([tile] * count)
            options: dict[str, Any] = {
                "tile": (512, 512),
                "compression": "zstd",
                "photometric": "rgb",
                "metadata": None,
            }
            tiff.write(tiles, shape=(*size, 3), dtype=np.uint8, subfiletype=1 if n else 0, **options)
    check_structure(path)  # imports
    calls: Counter[str] = Counter()
    sys.setprofile(lambda _, event, __: calls.update([event]))
    try:
        check_structure(path)
    finally:
        sys.setprofile(None)
    assert calls["call"] < 4 * tiles_written  # 2.1 when this was written


def test_segment_outside_the_file_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image())
    patch(path, "TileOffsets", 7, 1 << 40, page=1)
    with pytest.raises(VerifyError, match=r"level 1, tile at row 2, column 1 .* outside the file"):
        verify_file(path)


def test_overlapping_segments_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image())
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages.first.dataoffsets[0]
    patch(path, "TileOffsets", 1, first + 5)
    with pytest.raises(VerifyError, match="row 0, column 0 and level 0, tile at row 0, column 1 overlap"):
        verify_file(path)


def test_shared_and_missing_tiles_of_other_writers_are_warnings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image(), software="another")
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages.first
        offset, count = first.dataoffsets[0], first.databytecounts[0]
    patch(path, "TileOffsets", 1, offset)
    patch(path, "TileByteCounts", 1, count)
    patch(path, "TileOffsets", 2, 0)
    patch(path, "TileByteCounts", 2, 0)
    report = verify_file(path)
    assert len(report.warnings) == 2
    assert report.levels[0].decoded == 47
    with pytest.raises(VerifyError, match="column 2 is empty"):
        check_structure(path)


def test_corrupt_tile_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image())
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages.first.dataoffsets[20]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 100)
    with pytest.raises(VerifyError, match=r"level 0, tile at row 3, column 2 does not decode"):
        verify_file(path)
    verify_file(path, decode="none")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "a.tif", image())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(VerifyError):
        verify_file(path)


def test_level_of_a_wrong_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "compression": "deflate"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image(501, 333), subfiletype=0, **options)
        tiff.write(image(251, 167), subfiletype=1, **options)
    assert "halving 333 x 501 1 times gives 166 x 250" in verify_file(path).warnings[0]
    with pytest.raises(VerifyError, match="level 1 is 167 x 251"):
        check_structure(path)


def test_strips_are_not_a_pyramid(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image(), photometric="rgb")
    with pytest.raises(VerifyError, match="strips"):
        verify_file(tmp_path / "a.tif")


def test_file_that_is_missing_or_no_tiff_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"not a TIFF at all")
    with pytest.raises(SourceError, match="not a TIFF"):
        verify_file(tmp_path / "a.tif")
    with pytest.raises(SourceError, match="can't be read"):
        verify_file(tmp_path / "b.tif")


def test_hostile_table_size_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image())
    with tifffile.TiffFile(path) as tiff:
        entry = tiff.pages.first.tags["TileOffsets"].offset
    with path.open("r+b") as file:
        file.seek(entry + 4)
        file.write(struct.pack("<Q", 1 << 60))
    with pytest.raises(VerifyError, match="tag 324 declares"):
        verify_file(path)


def test_directories_in_a_loop_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image(), levels=2)
    with tifffile.TiffFile(path) as tiff:
        first, second = tiff.pages[0].offset, tiff.pages[1].aspage()
        n = len(second.tags)
    with path.open("r+b") as file:
        file.seek(second.offset + 8 + 20 * n)
        file.write(struct.pack("<Q", first))
    with pytest.raises(VerifyError, match="reached twice"):
        check_directories(path)


def test_jpeg_that_claims_to_be_huge_is_not_decoded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", smooth(), compression="jpeg")
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0", offset, offset + count)
    assert look("jpeg", bytes(data[offset : offset + count])).size == Size(64, 64)
    data[at + 5 : at + 9] = b"\xff\xf0\xff\xf0"
    path.write_bytes(data)
    with pytest.raises(VerifyError, match="holds a JPEG of 65520 x 65520"):
        verify_file(path)


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_random_bytes_end_in_one_of_our_errors(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.tif"
    path.write_bytes(b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + data)
    with pytest.raises((VerifyError, SourceError)):
        verify_file(path)


@given(position=st.integers(0, 1 << 30), value=st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_one_flipped_byte_never_ends_in_a_foreign_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "flip.tif"
    write(path, smooth(40, 50), levels=2, tile=16)
    data = bytearray(path.read_bytes())
    data[position % len(data)] = value
    path.write_bytes(data)
    try:
        verify_file(path)
    except (VerifyError, SourceError):
        pass


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("method", ["mean", "nearest", "mode", "max", "min"])
def test_lossless_levels_equal_the_oracle(tmp_path: Path, method: str, threads: int) -> None:
    pixels = image()
    path = write(tmp_path / "a.tif", pixels, method=method)
    report = verify_file(path, against=ArraySource(pixels), resampling=method, n_workers=threads)
    assert all(level.exact and math.isinf(level.psnr or 0) for level in report.levels)
    assert report.decoded == 65


@pytest.mark.parametrize(
    ("height", "width", "levels"), [(1, 1, 2), (1, 700, 6), (700, 1, 6), (65, 129, 3), (64, 64, 1), (5000, 20, 8)]
)
def test_odd_shapes_equal_the_oracle(tmp_path: Path, height: int, width: int, levels: int) -> None:
    pixels = image(height, width, samples=1, dtype="uint16")
    path = write(tmp_path / "a.tif", pixels, levels=levels, tile=32)
    assert all(level.exact for level in verify_file(path, against=ArraySource(pixels), n_workers=2).levels)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("threads", [1, 2])
def test_source_is_not_opened_again_for_each_image(tmp_path: Path, threads: int, monkeypatch) -> None:
    """Of a stack of n planes that would be n times n directories."""
    pixels = np.random.default_rng(1).integers(0, 255, (20, 100, 100), np.uint8)
    source, path, opened = tmp_path / "a.ome.tif", tmp_path / "b.ome.tif", []
    tifffile.imwrite(source, pixels, ome=True, metadata={"axes": "ZYX"}, tile=(32, 32))
    slidewright.convert(source, path, z="all", tile_size=32, compression="zstd", n_workers=0)
    monkeypatch.setattr(TiffSource, "open", lambda self, real=TiffSource.open: opened.append(1) or real(self))
    assert all(level.exact for level in verify_file(path, against=source, n_workers=threads).levels)
    assert len(opened) <= threads


def test_one_wrong_pixel_of_an_upper_level_is_named(tmp_path: Path) -> None:
    pixels = image(600, 600)
    path = tmp_path / "a.tif"
    level = pixels
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for n in range(4):
            data = level.copy()
            if n == 2:
                data[100, 70] ^= 1
            tiff.write(data, tile=(64, 64), photometric="rgb", subfiletype=min(n, 1), metadata=None, compression="zstd")
            level = halve("mean", level)
    with pytest.raises(VerifyError, match="level 2, tile at row 1, column 1 differs from the source at x=70, y=100"):
        verify_file(path, against=ArraySource(pixels))


def test_lossy_levels_are_measured(tmp_path: Path) -> None:
    pixels = smooth()
    path = write(tmp_path / "a.tif", pixels, compression="jpeg", compressionargs={"level": 90})
    report = verify_file(path, against=ArraySource(pixels))
    for level in report.levels:
        assert level.exact is False
        assert 20 < (level.worst_psnr or 0) <= (level.psnr or 0) < 60
    with pytest.raises(VerifyError, match="level 0 has a PSNR of"):
        verify_file(path, against=ArraySource(pixels), min_psnr=70)


def test_another_source_is_not_confused_with_the_right_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", image())
    with pytest.raises(VerifyError, match="but array is 100 x 100"):
        verify_file(path, against=ArraySource(image(100, 100)))
    with pytest.raises(VerifyError, match="differs from the source at x=0, y=0"):
        verify_file(path, against=ArraySource(image(seed=1)))


def test_least_psnr_needs_a_source(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="against"):
        verify_file(tmp_path / "a.tif", min_psnr=30)


def test_tables_too_short_are_refused(tmp_path: Path) -> None:
    with TiffSlide(write(tmp_path / "a.tif", image())) as slide:
        page: Page = dataclasses.replace(slide.levels[0], offsets=slide.levels[0].offsets[:-1])
        slide.levels = (page, *slide.levels[1:])
        with pytest.raises(VerifyError, match="needs 48 segments, but its tables have 47 offsets"):
            check_tables(slide, strict=True)


@pytest.mark.parametrize(("first", "size", "times"), [((9, 7), (9, 7), 0), ((9, 7), (4, 3), 1), ((1, 9), (1, 2), 2)])
def test_halvings_are_counted_on_the_longer_side(first: tuple[int, int], size: tuple[int, int], times: int) -> None:
    assert halvings(Size(*first), Size(*size)) == times


@pytest.mark.skipif(not SLIDE.exists(), reason="the real slide is not here")
def test_real_slide_is_good() -> None:
    report = verify_file(SLIDE)
    assert report.others == 3
    assert report.levels[0].decoded == 130


def test_masks_and_alpha_are_compared_as_they_are_written(tmp_path: Path) -> None:
    import slidewright

    flags = image(150, 170, samples=1)[:, :, 0] > 128
    rgba = image(150, 170, samples=4)
    labels = flags.astype(np.uint8) * 2
    options: dict[str, Any] = {"tile_size": 64, "n_workers": 0, "compression": "deflate"}
    slidewright.convert(flags, tmp_path / "flags.tif", bits=1, **options)
    slidewright.convert(rgba, tmp_path / "rgba.tif", **options)
    slidewright.convert(rgba, tmp_path / "composed.tif", alpha="compose", **options)
    slidewright.convert(labels, tmp_path / "labels.tif", colormap=["white", "red", "blue"], **options)
    for name, source in (("flags", flags), ("rgba", rgba), ("composed", rgba), ("labels", labels)):
        report = verify_file(tmp_path / f"{name}.tif", against=source)
        assert all(level.exact for level in report.levels), name
    with pytest.raises(VerifyError, match="differs"):
        verify_file(tmp_path / "labels.tif", against=labels[::-1])


@pytest.mark.parametrize("damage", ["deep", "number", "no levels", "fifo"])
def test_group_of_an_ome_zarr_that_is_damaged_is_an_error_of_ours(tmp_path, damage):
    slidewright.convert(np.zeros((80, 90), np.uint8), tmp_path / "s.ome.zarr", n_workers=0, tile_size=64)
    path = tmp_path / "s.ome.zarr" / "zarr.json"
    group = json.loads(path.read_text())
    if damage == "deep":
        path.write_text("[" * 100_000 + "]" * 100_000)
    elif damage == "number":
        path.write_text(json.dumps({**group, "attributes": {"ome": 7}}))
    elif damage == "no levels":
        group["attributes"]["ome"]["multiscales"][0]["datasets"] = []
        path.write_text(json.dumps(group))
    else:
        path.unlink()
        os.mkfifo(path)
    with pytest.raises(slidewright.SlidewrightError, match=r"zarr\.json|OME-Zarr|level|can't be read"):
        slidewright.verify_file(tmp_path / "s.ome.zarr", n_workers=1)


@pytest.mark.parametrize(("options", "lost"), [({"ngff": "0.4"}, "0/0/1/1"), ({}, "0/c/0/0/0"), ({}, "1/c/0/0/0")])
def test_chunk_of_an_ome_zarr_that_was_lost_is_no_background(options, lost, tmp_path):
    pixels = np.full((300, 410, 3), 255, np.uint8)
    pixels[90:240, 100:300] = 80
    path = tmp_path / "s.ome.zarr"
    slidewright.convert(pixels, path, n_workers=0, tile_size=64, **options)
    slidewright.verify_file(path)  # what is background is left out
    (path / lost).unlink()
    with pytest.raises(VerifyError, match=f"level {lost[0]}, tile at row ., column . is not there, and level"):
        slidewright.verify_file(path)


@pytest.mark.parametrize("name", ["out.tif", "kept.tif", "out.ome.zarr"])
def test_jpeg_that_stops_in_the_middle_does_not_decode(name, tmp_path):
    """As a download leaves it that made room for the whole file first; libjpeg makes the rest grey."""
    pixels, out = np.random.default_rng(5).integers(0, 200, (128, 128, 3), np.uint8), tmp_path / name
    tifffile.imwrite(tmp_path / "in.tif", pixels, tile=(64, 64), compression="jpeg", photometric="rgb", metadata=None)
    source, options = tmp_path / "in.tif" if name == "kept.tif" else pixels, {"zarr_shard": 0} if "zarr" in name else {}
    slidewright.convert(source, out, n_workers=0, tile_size=64, compression="jpeg", **options)
    if out.is_dir():
        file, place, count = out / "0/c/0/1/0", 0, (out / "0/c/0/1/0").stat().st_size
    else:
        with tifffile.TiffFile(out) as tiff:
            file, place, count = out, tiff.pages.first.dataoffsets[2], tiff.pages.first.databytecounts[2]
    verify_file(out)
    with file.open("r+b") as damaged:
        damaged.seek(place + count // 2)
        damaged.write(bytes(count - count // 2))
    with pytest.raises(VerifyError, match=r"row 1, column 0.* is a JPEG without an end"):
        verify_file(out)
    with pytest.raises(CorruptTileError, match="without an end"):
        slidewright.convert(out, tmp_path / "again.tif", n_workers=0, keep_tiles="never")


def test_link_to_a_chunk_that_is_not_there_is_no_background(tmp_path):
    """Of lossy chunks the level above tells nothing."""
    options = {"tile_size": 64, "zarr_shard": 0, "compression": "jpeg"}
    slidewright.convert(np.full((128, 128), 9, np.uint8), tmp_path / "a.zarr", n_workers=0, **options)
    chunk = next(path for path in sorted((tmp_path / "a.zarr/0/c").rglob("*")) if path.is_file())
    chunk.unlink()
    chunk.symlink_to(tmp_path / "gone")
    with pytest.raises(VerifyError, match="is a link to what is not there; fetch it"):
        verify_file(tmp_path / "a.zarr")
