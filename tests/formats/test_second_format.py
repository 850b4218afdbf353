"""A format that is none of ours is written by everything that writes: nothing outside `formats` knows TIFF."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from fake_sources import SlowSource
from folder_format import FolderFormat, read_level
from oracle import pyramid
from written import image

import slidewright
from slidewright.engine.segment_store import SegmentStore
from slidewright.formats.registry import settle_format
from slidewright.geometry import Size
from slidewright.options import ConvertOptions
from slidewright.pyramid.plan import make_plan

TESTS = Path(__file__).parents[1]
OPTIONS = {"tile_size": 32, "compression": "none", "block_tiles": 2}


def assert_levels(path, pixels):
    levels = pyramid(pixels, 32)
    for number, level in enumerate(levels):
        found = read_level(path, number, (level.shape[2], str(level.dtype)))
        np.testing.assert_array_equal(found, level, err_msg=f"level {number}")


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("samples", "kind"), [(3, "rgb"), (4, "multichannel")])
def test_convert_writes_it(tmp_path, workers, samples, kind):
    pixels = image(300, 220, samples)
    report = slidewright.convert(pixels, tmp_path / "out.segments", n_workers=workers, kind=kind, **OPTIONS)
    assert_levels(tmp_path / "out.segments", pixels)
    assert report.bytes > pixels.nbytes
    assert [level.tiles for level in report.levels][-1] == (samples if kind == "multichannel" else 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out.segments"]


def test_segments_that_spill_come_back_in_its_order(tmp_path):
    form, plan = FolderFormat(), make_plan(Size(320, 320), 16, block_tiles=4)
    store = SegmentStore(plan, form.wave, 2000, str(tmp_path))
    for pas in plan.passes:
        for number in range(pas.n_blocks):
            for key in plan.tiles_of(pas.block(number)):
                store.add(key, repr(key).encode() * 20)
    assert store.held_bytes <= 2000 < store.spilled_bytes
    for key in form.order(plan):
        assert store.take(key) == repr(key).encode() * 20
    store.close()


def test_tiles_that_are_handed_over_are_written_to_it(tmp_path):
    pixels = image(130, 200)
    with slidewright.PyramidWriter(tmp_path / "out.segments", pixels.shape, n_workers=2, **OPTIONS) as writer:
        for row, column in reversed(list(np.ndindex(5, 7))):
            tile = pixels[row * 32 : (row + 1) * 32, column * 32 : (column + 1) * 32]
            writer.write_tile(tile, row, column)
    assert_levels(tmp_path / "out.segments", pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_are_assembled_to_it(tmp_path, workers):
    source = SlowSource(400, 300)
    options = {**OPTIONS, "format": "folder", "n_workers": workers}
    for index in (1, 0, 2):
        slidewright.shard(source, tmp_path / "parts", index=index, count=3, **options)
    slidewright.assemble(tmp_path / "parts", tmp_path / "joined.segments", source=source, n_workers=workers)
    slidewright.convert(source, tmp_path / "whole.segments", n_workers=0, **OPTIONS)
    assert contents(tmp_path / "joined.segments") == contents(tmp_path / "whole.segments")
    assert_levels(tmp_path / "joined.segments", source.pixels())


def test_a_killed_conversion_to_it_goes_on(tmp_path):
    source = SlowSource(500, 400, seconds=0.03)
    script = textwrap.dedent(f"""\
        import sys
        sys.path.insert(0, {str(TESTS)!r})
        import folder_format, slidewright
        from fake_sources import SlowSource
        source, path = SlowSource(500, 400, seconds=0.03), {str(tmp_path / "out.segments")!r}
        slidewright.convert(source, path, resume=True, n_workers=2, **{OPTIONS!r})
        """)
    process = subprocess.Popen([sys.executable, "-c", script])
    shards, deadline = tmp_path / "out.segments.shards", time.monotonic() + 60
    while not (shards.exists() and [name for name in os.listdir(shards) if name.startswith("shard-0000")]):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    report = slidewright.convert(source, tmp_path / "out.segments", resume=True, n_workers=2, **OPTIONS)
    assert_levels(tmp_path / "out.segments", source.pixels())
    assert len(report.levels) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out.segments"]


def test_finished_folder_is_kept_and_replaced_only_when_asked(tmp_path):
    path = tmp_path / "out.segments"
    slidewright.convert(image(40, 40), path, n_workers=0, **OPTIONS)
    before = contents(path)
    with pytest.raises(slidewright.DestinationError, match="exists"):
        slidewright.convert(image(40, 40, seed=1), path, n_workers=0, **OPTIONS)
    assert contents(path) == before
    slidewright.convert(image(40, 40, seed=1), path, n_workers=0, overwrite=True, **OPTIONS)
    assert contents(path) != before
    assert [item.name for item in tmp_path.iterdir()] == ["out.segments"]


def test_failed_conversion_leaves_no_folder(tmp_path):
    source = SlowSource(300, 300, fault="corrupt", at=(64, 64))
    with pytest.raises(slidewright.CorruptTileError):
        slidewright.convert(source, tmp_path / "out.segments", n_workers=2, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_every_key_is_asked_for_once():
    plan = make_plan(Size(300, 500), 32, planes=2, block_tiles=2)
    keys = list(FolderFormat().order(plan))
    assert len(keys) == len(set(keys)) == plan.n_tiles


@pytest.mark.parametrize(
    ("destination", "asked", "expected"),
    [("a.segments", None, "folder"), ("a.segments/", None, "folder"), ("a.tif", None, "tiff"), ("a", None, "tiff"),
     ("a.tif", "folder", "folder"), (None, None, "tiff")],
)  # fmt: skip
def test_format_is_what_was_asked_for_or_what_the_name_says(destination, asked, expected):
    assert settle_format(ConvertOptions(format=asked), destination).format == expected


def test_unknown_format_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(slidewright.OptionError, match="format 'gif' is not known; choose one of tiff"):
        slidewright.convert(image(40, 40), tmp_path / "a.tif", format="gif")
