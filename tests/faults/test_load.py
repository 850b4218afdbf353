"""Campaign 5: far more work than the machine has processors, and far larger a slide than it has memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_sources import BlankSource
from faults.campaign import OPTIONS, Campaign, clean_digest, digest, make_slide, wait_until

import slidewright

pytestmark = [pytest.mark.alone, pytest.mark.timeout(7200)]


@pytest.mark.long
def test_many_conversions_at_once(tmp_path):
    """Each a process of its own, all into one folder and through one scratch folder."""
    campaign = Campaign("conversions at once", short=6, long=20)
    slide = make_slide(tmp_path / "slide.tif", 900, 1200)
    (tmp_path / "scratch").mkdir()
    line = [sys.executable, "-m", "slidewright", "convert", str(slide), "--scratch", str(tmp_path / "scratch"), "-q"]
    line += ["--tile-size", "64", "--compression", "deflate", "--effort", "1", "--block-tiles", "2", "--workers", "2"]
    outputs = [tmp_path / f"{number}.tif" for number in range(campaign.tries)]
    runs = [subprocess.Popen([*line, str(out)], stderr=subprocess.PIPE, text=True) for out in outputs]
    errors = [run.communicate(timeout=600)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * campaign.tries, errors
    for out in outputs:
        assert digest(out) == clean_digest(slide, tmp_path)
        campaign.count("converted")
    assert list((tmp_path / "scratch").iterdir()) == []
    campaign.close()


def test_many_conversions_to_one_destination(tmp_path):
    """One gets the name, or several in turn; the file is whole at any moment."""
    slide = make_slide(tmp_path / "slide.tif")
    (tmp_path / "work").mkdir()
    out = tmp_path / "work" / "out.tif"
    failed = []

    def work():
        try:
            slidewright.convert(slide, out, n_workers=1, overwrite=True, scratch=tmp_path / "work", **OPTIONS)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if out.exists():
            assert digest(out) == clean_digest(slide, tmp_path)
        wait_until(lambda: not any(thread.is_alive() for thread in threads), 0.05)
    assert failed == []
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["out.tif"]


def test_far_more_workers_than_processors(tmp_path):
    campaign = Campaign("workers", short=16, long=64)
    slide = make_slide(tmp_path / "slide.tif", 900, 1200)
    report = slidewright.convert(slide, tmp_path / "out.tif", n_workers=campaign.tries, **OPTIONS)
    assert report.n_workers == campaign.tries
    assert digest(tmp_path / "out.tif") == clean_digest(slide, tmp_path)
    campaign.count(f"conversion with {campaign.tries} workers")
    campaign.close()


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")
def test_forty_gigapixels_in_flat_memory(tmp_path):
    """In the long form; in the short one a hundredth of it."""
    campaign = Campaign("large slides", short=1, long=10)
    peaks = []
    for side in (10_000, 20_000 * campaign.tries if campaign.long else 20_000):
        report = slidewright.convert(
            BlankSource(side), tmp_path / "out.tif", n_workers=2, compression="zstd", effort=1, overwrite=True
        )
        peaks.append(report.peak_memory)
        rate, size = report.megapixels_per_second, report.bytes / 1e6
        print(
            f"{side} x {side}: {report.seconds:.0f} s, {rate:.0f} Mpx/s, {size:.0f} MB, peak {peaks[-1] / 1e6:.0f} MB"
        )
        campaign.count("converted")
    campaign.close()
    assert peaks[1] < 1.5 * peaks[0] + 32e6
