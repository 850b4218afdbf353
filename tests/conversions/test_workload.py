"""Processes are started where they pay: a small slide is done in the caller's process unless somebody asks for more."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import tifffile
from children import descendants
from written import digest, image

import slidewright
from slidewright.conversions import workload
from slidewright.conversions.convert import convert_opened
from slidewright.conversions.workload import Workforce, count_threads, work_seconds
from slidewright.errors import CorruptTileError
from slidewright.geometry import Size
from slidewright.options import ConvertOptions, make_options
from slidewright.selection import Selection
from slidewright.sources.base import SourceInfo
from slidewright.sources.open import open_source


def info(side, **known):
    return SourceInfo("a", known.get("format", "tiff"), Size(side, side), 3, "uint8")


@pytest.mark.parametrize(("given", "expected"), [({}, 0), ({"n_workers": 1}, 1), ({"n_workers": 2}, 2)])
def test_small_image_takes_no_process_unless_asked(tmp_path, given, expected):
    before = descendants()  # of tests before, such as what multiprocessing keeps
    report = slidewright.convert(image(300, 400), tmp_path / "a.tif", **given)
    assert report.n_workers == expected
    assert [process for process in descendants() if process not in before] == []


def test_bytes_are_the_same_either_way(tmp_path):
    pixels = image(600, 700)
    for name, given in (("a.tif", {}), ("b.tif", {"n_workers": 2})):
        slidewright.convert(pixels, tmp_path / name, tile_size=64, **given)
    assert digest(tmp_path / "a.tif") == digest(tmp_path / "b.tif")


def in_threads(source, path, threads, **given):
    options = make_options({"n_workers": 0, "tile_size": 64, "block_tiles": 2, **given}, "convert")
    return convert_opened(None, open_source(source), None, path, Selection(), options, None, 0.0, threads=threads)


@pytest.mark.parametrize("source", ["array", "tiff"])
def test_threads_of_one_process_write_the_same_bytes(tmp_path, source):
    pixels = image(700, 900)
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(64, 64), photometric="rgb", compression="zlib")
    for threads in (1, 3):
        given = pixels if source == "array" else tmp_path / "s.tif"
        report = in_threads(given, tmp_path / f"{threads}.tif", threads)
        assert report.n_workers == 0
    assert digest(tmp_path / "1.tif") == digest(tmp_path / "3.tif")


def test_error_in_a_thread_is_the_callers_and_leaves_nothing(tmp_path):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, image(700, 900), tile=(64, 64), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[40]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"no deflate")
    with pytest.raises(CorruptTileError, match="does not decode"):
        in_threads(path, tmp_path / "o.tif", 3, keep_tiles="never")
    assert [one.name for one in tmp_path.iterdir()] == ["s.tif"]
    assert not [one for one in threading.enumerate() if one.name.startswith("slidewright-inline")]


def test_threads_are_for_what_is_neither_small_nor_large_nor_of_the_caller():
    for side, form, tile, cores, expected in (
        (2000, "tiff", None, 8, 1),
        (5000, "tiff", None, 8, 4),
        (5000, "tiff", None, 2, 2),
        (5000, "tiff", Size(512, 512), 8, 4),
        (5000, "tiff", Size(8, 5000), 8, 1),
        (5000, "function", None, 8, 1),
        (20_000, "tiff", None, 8, 1),
    ):
        source = SourceInfo("a", form, Size(side, side), 3, "uint8", tile=tile)
        assert count_threads(source, work_seconds(source, ConvertOptions()), cores) == expected, (side, form, tile)


def test_work_decides(monkeypatch):
    monkeypatch.setattr(workload, "usable_cpus", lambda: 8)
    monkeypatch.setattr(workload, "make_launcher", lambda options: pytest.fail("started"))
    small, slow = info(3000), info(3000, format="ndpi")
    with Workforce(ConvertOptions(), "no such file") as workforce:
        launcher, options, threads = workforce.settle(small)
    assert (launcher, options.n_workers, threads) == (None, 0, 4)
    for work in (work_seconds(slow, ConvertOptions()), work_seconds(small, ConvertOptions(compression="webp"))):
        assert work > 2 * workload.START_SECONDS
    assert work_seconds(info(20_000), ConvertOptions()) > 1


@pytest.mark.parametrize(
    ("what", "at_once"), [("large file", True), ("small file", False), ("array", True), ("folder", True)]
)
def test_large_sources_start_processes_before_they_are_opened(tmp_path, monkeypatch, what, at_once):
    started = []

    def launcher(options):
        started.append(options)
        return open(os.devnull)

    monkeypatch.setattr(workload, "make_launcher", launcher)
    path = tmp_path / "a.tif"
    with open(path, "wb") as file:
        file.truncate(workload.LARGE_SOURCE + 1 if what == "large file" else 1000)
    source = {"array": np.empty((1 << 27,), np.uint8), "folder": tmp_path}.get(what, path)
    with Workforce(ConvertOptions(), source):
        assert bool(started) == at_once
