"""Memory is bounded by the workers, not by the slide: measured over all processes of real runs."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest
from fake_sources import BlankSource

import slidewright
from slidewright.system.limits import proportional_memory

pytestmark = pytest.mark.alone
needs_pss = pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")


@needs_pss
def test_peak_memory_does_not_depend_on_the_size_of_the_slide(tmp_path):
    slidewright.convert(
        BlankSource(1_000), tmp_path / "out.tif", n_workers=2
    )  # what pytest's process imports is its own
    peaks = []
    for side in (20_000, 40_000):
        report = slidewright.convert(BlankSource(side), tmp_path / "out.tif", n_workers=2, overwrite=True)
        peaks.append(report.peak_memory)
    print(peaks)
    own = proportional_memory([os.getpid()])  # pytest itself, with its plugins
    assert max(peaks) < (2 * 64 + 256) * 1e6 + own
    assert peaks[1] < 1.10 * peaks[0]


@pytest.mark.slow
@needs_pss
def test_peak_memory_when_waiting_segments_do_not_fit_in_memory(tmp_path):
    slidewright.convert(BlankSource(1_000), tmp_path / "out.tif", n_workers=2)
    peaks = []
    for side in (8_000, 16_000):
        report = slidewright.convert(
            BlankSource(side), tmp_path / "out.tif", n_workers=2, compression="none", overwrite=True
        )
        peaks.append(report.peak_memory)
    print(peaks)
    assert peaks[1] < 1.10 * peaks[0]


@pytest.mark.long
@needs_pss
@pytest.mark.parametrize("shuffled", [False, True])
def test_peak_memory_of_tiles_that_are_handed_over_does_not_depend_on_the_height(tmp_path, shuffled):
    tile = np.full((512, 512, 3), 230, np.uint8)
    tile[::16, ::16] = 90
    with slidewright.PyramidWriter(tmp_path / "out.tif", (600, 600, 3), n_workers=2) as writer:
        writer.write_tile(tile, 0, 0)  # what pytest's process imports is its own
    peaks = []
    for height in (16_384, 49_152):
        places = [(row, column) for row in range(height // 512) for column in range(8)]
        if shuffled:
            random.Random(7).shuffle(places)
        with slidewright.PyramidWriter(
            tmp_path / "out.tif", (height, 4096, 3), n_workers=2, overwrite=True, compression="packbits"
        ) as writer:
            for row, column in places:
                writer.write_tile(tile, row, column)
        peaks.append(writer.report.peak_memory)
    print(peaks)
    assert peaks[1] < 1.25 * peaks[0]  # three times the height
