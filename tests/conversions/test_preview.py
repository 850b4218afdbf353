"""A preview says what a conversion makes, before it does, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

import slidewright
from slidewright.cli.main import main
from slidewright.errors import DestinationError, OptionError, OutputError, SourceError


@pytest.fixture
def slide(tmp_path, tissue):
    """Seven tiles of texture across, six down, in JPEG."""
    path = tmp_path / "in" / "slide.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, tissue, tile=(128, 128), photometric="rgb", compression="jpeg")
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tif", {}),
        ("a.tif", {"keep_tiles": "never", "tile_size": 64}),
        ("a.ome.tif", {"compression": "deflate", "tile_size": 64}),
        ("a.ome.zarr", {"tile_size": 64, "zarr_shard": 2}),
        ("a.ome.zarr", {"tile_size": 64, "ngff": "0.4"}),
        ("a.tif", {"region": (0, 0, 300, 200), "tile_size": 64, "levels": 1}),
    ],
)
def test_levels_files_and_bytes_are_those_of_the_conversion(tmp_path, slide, name, options):
    shown = slidewright.preview(slide, tmp_path / name, n_workers=0, **options)
    assert os.listdir(tmp_path) == ["in"]

    report = slidewright.convert(slide, tmp_path / name, n_workers=0, **options)

    assert [(level.size, level.tiles) for level in shown.levels] == [
        (level.size, level.tiles) for level in report.levels
    ]
    assert shown.bytes == pytest.approx(sum(level.bytes for level in report.levels), rel=0.15)
    files = [path for path in (tmp_path / name).rglob("*") if path.is_file()] or [tmp_path / name]
    assert shown.files == len(files)
    assert 0 < shown.seconds < 60


def test_channels_in_planes_are_counted(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 60000, (300, 400, 5), np.uint16)
    options = {"kind": "multichannel", "tile_size": 64, "n_workers": 0}
    for name in ("a.tif", "a.ome.zarr"):
        shown = slidewright.preview(pixels, tmp_path / name, **options)
        report = slidewright.convert(pixels, tmp_path / name, **options)
        assert [level.tiles for level in shown.levels] == [level.tiles for level in report.levels]
        assert shown.bytes == pytest.approx(sum(level.bytes for level in report.levels), rel=0.1)
    assert shown.files == sum(path.is_file() for path in (tmp_path / "a.ome.zarr").rglob("*"))


def test_settings_are_those_that_would_be_used(tmp_path, slide):
    settings = slidewright.preview(slide, tmp_path / "a.tif", n_workers=0).settings
    assert settings["keep_tiles"].startswith("kept as they are in the source: jpeg")
    assert (settings["tile_size"], settings["compression"], settings["mpp"]) == (128, "jpeg", "unknown")
    assert slidewright.preview(slide, tmp_path / "a.tif", n_workers=0, mpp=0.25).settings["mpp"] == "0.25 x 0.25"


def test_what_a_conversion_would_refuse_a_preview_refuses(tmp_path, slide):
    with pytest.raises(DestinationError, match="source itself"):
        slidewright.preview(slide, slide)
    slide.with_name("taken.tif").touch()
    with pytest.raises(DestinationError, match="exists"):
        slidewright.preview(slide, slide.with_name("taken.tif"))
    with pytest.raises(DestinationError, match="does not exist"):
        slidewright.preview(slide, tmp_path / "none" / "a.tif")
    with pytest.raises(DestinationError, match="of the report does not exist"):
        slidewright.preview(slide, tmp_path / "a.tif", report=tmp_path / "none" / "a.html")
    with pytest.raises(OptionError, match="compression 'zap'"):
        slidewright.preview(slide, tmp_path / "a.tif", compression="zap")
    with pytest.raises(SourceError):
        slidewright.preview(tmp_path / "none.tif", tmp_path / "a.tif")
    assert os.listdir(tmp_path) == ["in"]


def test_disk_that_is_too_small_is_told_beforehand(tmp_path, slide, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("usage", (), {"total": 10**9, "free": 1000}))
    with pytest.raises(OutputError, match="will take at least"):
        slidewright.preview(slide, tmp_path / "a.tif", compression="none")


def test_command_prints_a_preview(tmp_path, slide, capsys):
    assert main(["convert", str(slide), str(tmp_path / "a.ome.zarr"), "--dry-run", "--mpp", "0.5"]) == 0
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'a.ome.zarr'} would be written; nothing was\n" in out
    assert "  format       ome-zarr, a folder of at most 5 files\n" in out
    assert "  resolution   0.5 x 0.5 um a pixel\n" in out
    assert err == ""
    assert os.listdir(tmp_path) == ["in"]


def test_batch_of_a_dry_run_says_what_each_slide_would_become(tmp_path, slide, capsys):
    (slide.with_name("broken.tif")).write_bytes(b"no slide")
    out = tmp_path / "out"
    for status in ("planned", "skipped"):
        report = slidewright.batch(slide.parent, out, dry_run=True, n_workers=0)
        assert [item.status for item in report.items] == ["failed", status]
        assert (status == "planned") == (not out.exists())
        slidewright.batch(slide, out, n_workers=0)
    assert main(["batch", str(slide.parent), "--out", str(tmp_path / "other"), "--dry-run"]) == 1
    text, err = capsys.readouterr()
    assert f"planned  {slide} -> {tmp_path / 'other' / 'slide.tif'} (about " in text
    assert "broken.tif: SourceError" in err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("height", "width", "most"), [(1, 1, 2), (200, 300, 10), (256, 1, 10), (1, 255, 9)])
@pytest.mark.parametrize("name", ["a.tif", "a.ome.tif", "a.ome.zarr"])
def test_levels_that_no_halving_makes_are_refused_before_the_run(
    tmp_path: Path, height: int, width: int, most: int, name: str
) -> None:
    pixels = np.zeros((height, width, 3), np.uint8)
    slidewright.convert(pixels, tmp_path / name, levels=most, tile_size=64, n_workers=0, verify=True)
    with pytest.raises(OptionError, match=f"levels {most + 1} are too many for .* at most {most}$"):
        slidewright.preview(pixels, tmp_path / f"other-{name}", levels=most + 1, tile_size=64)


@pytest.mark.timeout(60)
def test_what_would_not_be_passed_on_is_told_beforehand(tmp_path):
    tags = [(42113, 2, 0, "17", True)]
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint8), photometric="minisblack", extratags=tags)
    given = {"associated": ["label"], "n_workers": 0}
    shown = slidewright.preview(tmp_path / "a.tif", tmp_path / "b.tif", **given)
    place, label = shown.warnings
    assert ("17 stands for no data" in place, "no label" in label) == (True, True)
    assert shown.warnings == slidewright.convert(tmp_path / "a.tif", tmp_path / "b.tif", **given).warnings
