"""The second campaign of kills and disk faults: every way to make a file, processes killed or files failing at random,
and races of several runs for one destination, some of which are killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from faults.campaign import CLEARLY, Campaign, forked, session_members, wait_until, who_lives
from faults.injection import Injector
from faults.test_io import KINDS
from faults.test_kill import VICTIMS, choose, wait_for
from faults.ways import WAYS, Way, assert_goes_on, assert_whole, clear, digest, left, make_places

import slidewright
from slidewright.errors import SlidewrightError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds the run's processes in /proc"),
    pytest.mark.timeout(7200),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ways")
    return folder, make_places(folder)


def start(folder: Path, run, log: Path) -> int:
    """A process that does it with two workers."""
    return forked(lambda: run(folder, 2), log, SlidewrightError)


def try_kill(campaign: Campaign, folder: Path, way: Way, clean: dict[str, str], seconds: float) -> str:
    log = folder / "log"
    victim = campaign.random.choice(VICTIMS)
    wait = campaign.random.uniform(0, 1.1 * seconds)
    way.prepare(folder)
    driver = start(folder, way.run, log)
    time.sleep(wait)
    killed = choose(victim, driver, campaign.random)
    if not killed:  # there is no such process at the moment
        victim, killed = "coordinator", [driver]
    if driver not in session_members(driver):
        killed = []
    for pid in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    code = wait_for(driver, 60)
    story = f"{way.name}: {victim} {killed} after {wait:.3f} s, exit code {code}: {log.read_text()}"
    assert code is not None, f"hangs: {story}"
    assert wait_until(lambda: not session_members(driver), 15), f"processes live on ({who_lives(driver)}): {story}"
    assert_whole(folder, way, clean, story)
    if victim == "worker" or not killed:
        assert code == 0, f"should have succeeded: {story}"
    elif victim in ("writer", "fork server"):
        assert code in (0, CLEARLY), story
    if victim != "everybody":
        assert left(folder, (*way.makes, *way.keeps, *way.stays)) == [], f"left behind: {story}"
    assert_goes_on(folder, way, clean, story)
    clear(folder)
    return f"{victim if killed else 'nobody'}"


def seconds_of(folder: Path, way: Way) -> float:
    """How long it takes undisturbed."""
    way.prepare(folder)
    begin = time.monotonic()
    assert wait_for(start(folder, way.run, folder / "log"), 120) == 0, (folder / "log").read_text()
    clear(folder)
    return time.monotonic() - begin


@pytest.mark.long
@pytest.mark.alone
def test_kills_of_every_way(places):
    folder, clean = places
    campaign = Campaign("kills of every way", short=len(WAYS), long=1000)
    seconds = {name: seconds_of(folder, way) for name, way in WAYS.items()}
    try:
        for number in range(campaign.tries):
            way = list(WAYS.values())[number % len(WAYS)]
            campaign.count(try_kill(campaign, folder, way, clean[way.name], seconds[way.name]))
    finally:
        campaign.close()


@pytest.mark.long
def test_disk_faults_of_every_way(places):
    """In this process, without workers."""
    folder, clean = places
    campaign = Campaign("disk faults of every way", short=3 * len(WAYS), long=3000)
    calls: dict[tuple[str, str], int] = {}
    try:
        for number in range(campaign.tries):
            way, kind = list(WAYS.values())[number % len(WAYS)], campaign.random.choice(list(KINDS))
            if (way.name, kind) not in calls:
                way.prepare(folder)
                with Injector(folder, kind, 0, "EIO") as counter:
                    way.run(folder, 0)
                clear(folder)
                calls[way.name, kind] = counter.calls
            if not calls[way.name, kind]:
                continue
            k, name = campaign.random.randint(1, calls[way.name, kind]), campaign.random.choice(KINDS[kind])
            story, error = f"{way.name}: {name} at {kind} {k} of {calls[way.name, kind]}", None
            way.prepare(folder)
            with Injector(folder, kind, k, name):
                try:
                    way.run(folder, 0)
                except BaseException as caught:
                    error = caught.with_traceback(None)
            assert error is None or isinstance(error, SlidewrightError), f"{type(error).__name__}: {error}: {story}"
            assert error is None or len(str(error).splitlines()) == 1, f"{error}: {story}"
            assert_whole(folder, way, clean[way.name], story)
            assert left(folder, (*way.makes, *way.keeps, *way.stays)) == [], f"left behind: {story}"
            assert_goes_on(folder, way, clean[way.name], story)
            clear(folder)
            campaign.count("harmless" if error is None else "one clear error")
    finally:
        campaign.close()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["make", "close"])
def test_every_file_of_a_shard_failing_once(places, kind):
    """Also when it is read back: the scratch for its checksum, the shard for what was filled."""
    folder, _ = places
    way = WAYS["shard"]
    with Injector(folder, kind, 0, "EIO") as counter:
        way.run(folder, 0)
    clear(folder)
    for k in range(1, counter.calls + 1):
        with Injector(folder, kind, k, "EIO"), contextlib.suppress(SlidewrightError):
            way.run(folder, 0)
        assert left(folder, way.keeps) == []
        clear(folder)


@pytest.mark.long
@pytest.mark.alone
def test_races_for_one_destination(places):
    """Three runs at once, of two slides; one of the runs may be killed. One file has the name, whole, and nothing else
    is there.
    """
    folder, _ = places
    campaign = Campaign("races", short=4, long=200)
    out = folder / "work" / "out.tif"
    sources = ("slide.tif", "kept.tif")
    expected = set()
    for source in sources:
        slidewright.convert(folder / source, out, n_workers=0, tile_size=64, overwrite=True)
        expected.add(digest(out))
    clear(folder)

    for _ in range(campaign.tries):
        overwrite, resume = campaign.random.random() < 0.5, campaign.random.random() < 0.3

        def run(folder: Path, workers: int, source: str, overwrite=overwrite, resume=resume) -> None:
            slidewright.convert(
                folder / source, out, n_workers=workers, tile_size=64, overwrite=overwrite, resume=resume,
                scratch=folder / "scratch",
            )  # fmt: skip

        drivers = []
        for number in range(3):
            source = sources[0 if resume else number % 2]
            drivers.append(start(folder, lambda f, w, s=source: run(f, w, s), folder / f"log{number}"))
            time.sleep(campaign.random.choice((0, 0, 0.1, 0.3)))
        killed = campaign.random.choice(drivers) if campaign.random.random() < 0.4 else None
        if killed is not None:
            time.sleep(campaign.random.uniform(0, 0.6))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(killed, signal.SIGKILL)
        codes = [wait_for(driver, 90) for driver in drivers]
        logs = [(folder / f"log{number}").read_text() for number in range(3)]
        story = f"overwrite {overwrite}, resume {resume}, killed {killed}: {codes} {logs}"
        assert None not in codes, f"hangs: {story}"
        assert wait_until(lambda d=drivers: not any(map(session_members, d)), 15), story
        for driver, code in zip(drivers, codes, strict=True):
            assert driver == killed or code in (0, CLEARLY), story
        assert codes.count(0) >= 1 or killed is not None, story
        if out.exists():
            assert digest(out) in expected, f"a wrong file: {story}"
        else:
            assert 0 not in codes, story
        slidewright.convert(
            folder / "slide.tif", out, n_workers=0, tile_size=64, overwrite=True, resume=resume,
            scratch=folder / "scratch",
        )  # fmt: skip
        assert digest(out) in expected, story
        assert left(folder, ("out.tif",)) == [], f"left behind: {story}"
        clear(folder)
        campaign.count(f"{codes.count(0)} of 3 done{'' if killed is None else ', one killed'}")
    campaign.close()
