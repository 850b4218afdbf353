"""Memory is bounded by the workers, not by the slide: measured over all processes of real runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fake_sources import BlankSource

import slidewright
from slidewright.resources import proportional_memory

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
