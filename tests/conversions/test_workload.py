"""Processes are started where they pay: a small slide is done in the caller's process unless somebody asks for more."""

from __future__ import annotations

import os

import numpy as np
import pytest
from children import descendants
from written import digest, image

import slidewright
from slidewright.conversions import workload
from slidewright.conversions.workload import Workforce, work_seconds
from slidewright.geometry import Size
from slidewright.options import ConvertOptions
from slidewright.sources.base import SourceInfo


def info(side, **known):
    return SourceInfo("a", known.get("format", "tiff"), Size(side, side), 3, "uint8")


@pytest.mark.parametrize(("given", "expected"), [({}, 0), ({"n_workers": 1}, 1), ({"n_workers": 2}, 2)])
def test_small_image_takes_no_process_unless_asked(tmp_path, given, expected):
    report = slidewright.convert(image(300, 400), tmp_path / "a.tif", **given)
    assert report.n_workers == expected
    assert descendants() == []


def test_bytes_are_the_same_either_way(tmp_path):
    pixels = image(600, 700)
    for name, given in (("a.tif", {}), ("b.tif", {"n_workers": 2})):
        slidewright.convert(pixels, tmp_path / name, tile_size=64, **given)
    assert digest(tmp_path / "a.tif") == digest(tmp_path / "b.tif")


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
        file.truncate(workload.CERTAIN_BYTES + 1 if what == "large file" else 1000)
    source = {"array": np.empty((1 << 27,), np.uint8), "folder": tmp_path}.get(what, path)
    with Workforce(ConvertOptions(), source):
        assert bool(started) == at_once
