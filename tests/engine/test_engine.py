"""The engine end to end: every level exact, the same bytes however it was made."""

from __future__ import annotations

import itertools
import time
from multiprocessing import connection

import numpy as np
import pytest
import tifffile
from fake_sources import SlowSource
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written import assert_levels_equal_oracle, digest, image

import slidewright
from slidewright.report import RUN_STAGES

quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(
    height=st.integers(1, 300), width=st.integers(1, 300), tile=st.sampled_from([16, 32, 48, 80]),
    block=st.sampled_from([None, 1, 2, 4, 8]), kind=st.sampled_from([(1, "uint8"), (3, "uint8"), (1, "uint16")]),
    compression=st.sampled_from(["none", "deflate", "zstd"]), method=st.sampled_from(["mean", "nearest", "mode",
    "max", "min"]),
)  # fmt: skip
def test_every_level_equals_the_oracle(tmp_path, height, width, tile, block, kind, compression, method):
    pixels = image(height, width, *kind)
    slidewright.convert(
        pixels, tmp_path / "out.tif", n_workers=0, tile_size=tile, block_tiles=block, compression=compression,
        resampling=method, overwrite=True,
    )  # fmt: skip
    assert_levels_equal_oracle(tmp_path / "out.tif", pixels, tile, method)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 777), (777, 1), (15, 17), (16, 4000), (3001, 33), (1025, 1023)]
)
def test_odd_shapes_through_workers(tmp_path, height, width):
    pixels = image(height, width)
    slidewright.convert(pixels, tmp_path / "out.tif", n_workers=2, tile_size=32, compression="zstd", block_tiles=4)
    assert_levels_equal_oracle(tmp_path / "out.tif", pixels, 32)


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "none"])
def test_output_is_the_same_for_any_number_of_workers_and_any_block(tmp_path, compression):
    pixels = image(1500, 1100)
    digests = set()
    for n, (workers, block) in enumerate(
        [*itertools.product([0, 1, 2, 3, 8], [2]), *itertools.product([0, 2], [None, 1, 4, 16])]
    ):
        path = tmp_path / f"{n}.tif"
        slidewright.convert(pixels, path, n_workers=workers, block_tiles=block, tile_size=64, compression=compression)
        digests.add(digest(path))
    assert len(digests) == 1


@pytest.mark.parametrize("levels", [1, 2, 9])
def test_number_of_levels_can_be_chosen(tmp_path, levels):
    pixels = image(300, 200)
    slidewright.convert(
        pixels, tmp_path / "out.tif", n_workers=0, levels=levels, tile_size=32, compression="none", block_tiles=2
    )
    assert_levels_equal_oracle(tmp_path / "out.tif", pixels, 32, n_levels=levels)


@pytest.mark.parametrize("subsampling", ["420", "422", "444"])
def test_jpeg_is_close_and_declares_its_subsampling(tmp_path, subsampling):
    rng = np.random.default_rng(0)
    smooth = np.kron(rng.integers(60, 200, (20, 20, 3)), np.ones((32, 32, 1))).astype(np.uint8)
    slidewright.convert(smooth, tmp_path / "out.tif", n_workers=0, subsampling=subsampling, quality=95)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        page = tiff.pages[0]
        assert page.tags["YCbCrSubSampling"].value == {"420": (2, 2), "422": (2, 1), "444": (1, 1)}[subsampling]
        assert page.photometric.name == ("RGB" if subsampling == "444" else "YCBCR")
        assert page.jpegtables
        error = page.asarray().astype(int) - smooth
    assert np.sqrt((error**2).mean()) < 5


def test_grey_jpeg(tmp_path):
    pixels = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    slidewright.convert(pixels, tmp_path / "out.tif", n_workers=0, tile_size=128)
    assert np.abs(tifffile.imread(tmp_path / "out.tif", key=0).astype(int) - pixels).max() < 8


def test_segments_larger_than_a_slot_go_through_the_ring(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1400, 3), dtype=np.uint8)
    slidewright.convert(pixels, tmp_path / "out.tif", n_workers=2, tile_size=1024, compression="none")
    assert_levels_equal_oracle(tmp_path / "out.tif", pixels, 1024)


def test_predictor_round_trips(tmp_path):
    pixels = image(200, 300, 1, "uint16")
    for compression in ("deflate", "zstd"):
        slidewright.convert(
            pixels,
            tmp_path / "out.tif",
            n_workers=0,
            tile_size=64,
            compression=compression,
            predictor=True,
            overwrite=True,
        )
        assert_levels_equal_oracle(tmp_path / "out.tif", pixels, 64)


def test_tags_say_mpp_software_and_no_time(tmp_path):
    slidewright.convert(
        image(300, 300),
        tmp_path / "out.tif",
        n_workers=0,
        tile_size=64,
        mpp=(0.25, 0.5),
        description="µ tissue",
        compression="none",
    )
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.is_bigtiff
        for index, page in enumerate(tiff.pages):
            assert page.tags["ResolutionUnit"].value == 3
            x, y = (page.tags[name].value for name in ("XResolution", "YResolution"))
            assert 1e4 * x[1] / x[0] == pytest.approx(0.25 * 2**index)
            assert 1e4 * y[1] / y[0] == pytest.approx(0.5 * 2**index)
            assert "DateTime" not in page.tags
        assert tiff.pages[0].tags["Software"].value.startswith("slidewright ")
        assert "tissue" in tiff.pages[0].description


def test_classic_tiff_when_asked(tmp_path):
    slidewright.convert(image(300, 300), tmp_path / "out.tif", n_workers=0, bigtiff=False)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert not tiff.is_bigtiff


def test_report_tells_what_was_done(tmp_path):
    seen = []
    report = slidewright.convert(
        image(700, 500), tmp_path / "out.tif", n_workers=1, tile_size=128, progress=seen.append
    )
    assert [tuple(level.size) for level in report.levels] == [(700, 500), (350, 250), (175, 125), (87, 62)]
    assert report.bytes == (tmp_path / "out.tif").stat().st_size
    assert report.seconds > 0
    assert report.retries == 0
    assert report.n_workers == 1
    assert {"read", "encode", "reduce", "write"} <= set(report.stages)
    assert seen[-1].stage == "done"
    assert seen[-1].tiles_done == seen[-1].tiles_total == sum(level.tiles for level in report.levels)


@pytest.mark.parametrize("workers", [0, 1])
def test_progress_moves_with_tiles_and_not_with_blocks(tmp_path, workers):
    seen = []
    source = SlowSource(64, 64, seconds=0.08)  # one block of 16 tiles, told of every 0.2 s and shown every 0.25
    slidewright.convert(
        source, tmp_path / "out.tif", n_workers=workers, tile_size=16, block_tiles=4, progress=seen.append
    )
    halfway = [progress for progress in seen if 0 < progress.tiles_done < 16]
    assert halfway
    assert sorted(halfway, key=lambda progress: progress.tiles_done) == halfway
    assert all(0 < progress.pixels_done < 64 * 64 and progress.bytes_written for progress in halfway)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("resume", [False, True])
def test_stages_of_a_run_add_up_to_all_of_its_time(tmp_path, workers, resume):
    np.save(tmp_path / "in.npy", image(300, 300))
    report = slidewright.convert(
        tmp_path / "in.npy", tmp_path / "out.tif", n_workers=workers, tile_size=64, resume=resume
    )
    assert set(RUN_STAGES) - set(report.stages) <= ({"start", "writing"} if workers == 0 else set())
    accounted = sum(report.stages.get(stage, 0.0) for stage in RUN_STAGES)
    assert accounted == pytest.approx(report.seconds, rel=0.02, abs=0.01)


def test_writer_that_ends_before_the_last_worker_is_heard_has_not_died(tmp_path, monkeypatch):
    """The writer is done with the last slot before the worker's word that its block is done has been read."""
    workers = []

    def writer_first(watched, timeout):
        ready = connection.wait(watched, timeout)
        if ready and not workers:
            workers.extend(ready)  # a writer has nothing to say before the first slot
        elif ready:
            time.sleep(0.1)
            ready = connection.wait(watched, 0)
        return [one for one in ready if one not in workers] or ready

    monkeypatch.setattr("slidewright.engine.coordinator.wait", writer_first)
    pixels = image(20, 20)
    slidewright.convert(pixels, tmp_path / "out.tif", n_workers=1, tile_size=32, compression="zstd")
    assert_levels_equal_oracle(tmp_path / "out.tif", pixels, 32)
