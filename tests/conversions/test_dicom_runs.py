"""A slide in DICOM in every way to convert: one result, from workers, shards, a resumed run, a batch and Dask."""

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from written import digest

import slidewright
from slidewright.errors import DestinationError, SourceError, VerifyError

pytest.importorskip("pydicom")

import dicom_slides as made
from kept_sources import segments


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made.slide(tmp_path / "slide")


def test_every_way_gives_the_same_bytes_and_leaves_nothing_open(tmp_path, folder):
    gc.collect()  # of what tests before this one have left
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    slidewright.convert(folder, tmp_path / "0.tif", n_workers=0)
    for index in range(2):
        slidewright.shard(folder, tmp_path / "parts", index=index, count=2, n_workers=0)
    slidewright.assemble(tmp_path / "parts", tmp_path / "joined.tif", n_workers=0)
    slidewright.convert(folder, tmp_path / "resumed.tif", n_workers=0, resume=True)
    (tmp_path / "list.csv").write_text("source,destination\nslide,listed.tif\n")
    slidewright.batch(tmp_path / "list.csv", n_workers=0)
    if sys.platform == "linux":
        assert set(os.listdir("/proc/self/fd")) == before
    slidewright.convert(folder, tmp_path / "2.tif", n_workers=2, block_tiles=1)
    assert len({digest(tmp_path / f"{name}.tif") for name in ("0", "joined", "resumed", "listed", "2")}) == 1
    assert segments(tmp_path / "0.tif") == made.frames_of("jpeg 422")


@pytest.mark.skipif(sys.platform == "win32", reason="nothing limits open files there")
def test_a_folder_of_many_files_needs_few_that_are_open(tmp_path, folder):
    label = (folder / "label.dcm").read_bytes()
    for number in range(80):
        (folder / f"label_{number}.dcm").write_bytes(label)
    command = 'ulimit -n 64; exec "$0" -m slidewright convert "$1" "$2" --workers 0'
    subprocess.run(["sh", "-c", command, sys.executable, folder, tmp_path / "o.tif"], check=True, capture_output=True)
    assert (tmp_path / "o.tif").exists()


@pytest.mark.parametrize("changes", [False, True])
def test_a_folder_by_a_relative_path_is_found_again_by_a_program_that_goes_elsewhere(
    tmp_path, folder, monkeypatch, changes
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    def go(progress):
        os.chdir(tmp_path / "elsewhere")
        if changes:
            os.utime(folder / "a_level_0.dcm", (1, 1))

    with pytest.raises(SourceError, match="changed while it was read") if changes else contextlib.nullcontext():
        slidewright.convert("slide", tmp_path / "o.tif", n_workers=0, progress=go)
    assert (tmp_path / "o.tif").exists() is not changes


@pytest.mark.parametrize("given", ["all", "all/*/"])
def test_batch_takes_the_folders_in_a_folder(tmp_path, given):
    for name in ("a", "b"):
        (tmp_path / "all").mkdir(exist_ok=True)
        made.slide(tmp_path / "all" / name)
    slidewright.batch(tmp_path / given, tmp_path / "out", n_workers=0)
    assert {path.name for path in (tmp_path / "out").glob("*.tif")} == {"a.tif", "b.tif"}


def test_verify_holds_kept_frames_against_the_source(tmp_path, folder):
    slidewright.convert(folder, tmp_path / "out.tif", n_workers=0)
    slidewright.verify_file(tmp_path / "out.tif", against=folder)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        page = tiff.pages.first
        at = page.dataoffsets[17] + page.databytecounts[17] - 20
    data = bytearray((tmp_path / "out.tif").read_bytes())
    data[at] ^= 1
    (tmp_path / "out.tif").write_bytes(data)
    with pytest.raises(VerifyError, match="row 2, column 3 is not the source's own tile"):
        slidewright.verify_file(tmp_path / "out.tif", against=folder)


def test_scaled_decoding_is_near_the_mean(tmp_path, folder):
    slidewright.convert(folder, tmp_path / "exact.tif", n_workers=0)
    report = slidewright.convert(folder, tmp_path / "scaled.tif", n_workers=0, scaled_decoding=True)
    assert "level 1 decoded at half size" in report.keeping
    one, two = (tifffile.imread(tmp_path / f"{name}.tif", level=1).astype(int) for name in ("exact", "scaled"))
    assert np.abs(one - two).mean() < 2
    assert (one != two).any()


def test_info_lists_what_a_slide_has(folder):
    found = slidewright.info(folder)
    assert (found.format, found.size, found.mpp) == ("dicom", (300, 410), (0.25, 0.5))
    assert [image.name for image in found.associated] == ["label", "macro"]
    assert [level.size for level in found.levels] == [(300, 410), (150, 205)]
    assert found.keeping == "can be kept as they are"


def test_other_files_of_the_slide_are_neither_replaced_nor_forgotten(tmp_path, folder):
    """It is given by one of its files."""
    first, *others = sorted(folder.iterdir())
    before = [path.read_bytes() for path in others]
    for other in others:
        with pytest.raises(DestinationError, match="a file of it"):
            slidewright.convert(first, other, overwrite=True, format="tiff", n_workers=0)
    assert [path.read_bytes() for path in others] == before
    level = slidewright.open_source(first).table.files[0]
    given = next(path for path in (first, *others) if str(path) != level)
    for changed, status in ((False, "done"), (False, "skipped"), (True, "done")):
        if changed:
            os.utime(level, (5, 5))
        (item,) = slidewright.batch(given, tmp_path / "out", n_workers=0).items
        assert item.status == status
