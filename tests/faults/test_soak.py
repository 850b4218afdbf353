"""Campaign 6: many conversions in one Python process, some of which fail: nothing grows."""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path

import psutil
import pytest
from faults.campaign import OPTIONS, Campaign, clean_digest, digest, make_slide
from faults.test_corrupt import spoil

import slidewright
from slidewright.errors import CorruptTileError

MEGA = 1_000_000


class Stopped(Exception):
    """What a caller's progress callback may raise."""


def stop(_):
    raise Stopped


def private_memory() -> int:
    """What this process has for itself: pages of libraries come and go as others need room."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Private_Dirty:", "Private_Clean:")))


def state() -> dict[str, int]:
    """What may leak."""
    return {
        "memory": private_memory(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "children": len(psutil.Process().children(recursive=True)),
    }


def convert_somehow(number: int, good: Path, bad: Path, out: Path) -> str:
    """One conversion of the soak: most succeed, some fail in the source, some are stopped by the caller."""
    workers = 0 if number % 5 == 0 else 2
    try:
        if number % 7 == 3:
            slidewright.convert(bad, out, n_workers=workers, overwrite=True, **OPTIONS)
        elif number % 11 == 5:
            slidewright.convert(good, out, n_workers=workers, overwrite=True, progress=stop, **OPTIONS)
        else:
            slidewright.convert(good, out, n_workers=workers, overwrite=True, **OPTIONS)
            assert digest(out) == clean_digest(good, out.parent)
            return "converted"
    except CorruptTileError:
        return "failed in the source"
    except Stopped:
        return "stopped by the caller"
    raise AssertionError("nothing happened")


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(7200)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_soak(tmp_path):
    campaign = Campaign("soak", short=24, long=500)
    good, bad = make_slide(tmp_path / "good.tif"), make_slide(tmp_path / "bad.tif")
    spoil(bad, 40)
    clean_digest(good, tmp_path)
    warm = max(12, campaign.tries // 10)
    before: dict[str, int] = {}
    for number in range(campaign.tries):
        if number == warm:
            before = state()
        campaign.count(convert_somehow(number, good, bad, tmp_path / "out.tif"))
    after = state()
    campaign.close()
    print(f"soak: after {warm} conversions {before}; after {campaign.tries} {after}")
    growth = after.pop("memory") - before.pop("memory")
    assert after == before
    assert growth < 4 * MEGA, f"{growth / MEGA:.1f} MB more"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.tif", "good.tif", "out.tif"]
