"""Campaign 1: SIGKILL of a random process of a real conversion at a random moment.

Afterwards no process of the run is alive, nothing incomplete has the final name, whoever survived has removed what the
run left, and the next run to the same destination succeeds with the same bytes. Killed workers are not even noticed.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from faults.campaign import (
    CLEARLY,
    OPTIONS,
    Campaign,
    clean_digest,
    digest,
    forked,
    make_slide,
    role_of,
    session_members,
    wait_until,
    who_lives,
)

import slidewright
from slidewright.errors import RunError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the run's processes in /proc")
VICTIMS = ("worker", "worker", "writer", "coordinator", "fork server", "everybody")


def start_driver(source, destination, scratch, log) -> int:
    """A conversion; a RunError is what a killed writer or fork server is."""
    return forked(
        lambda: slidewright.convert(source, destination, n_workers=2, scratch=scratch, **OPTIONS), log, RunError
    )


def choose(victim: str, driver: int, random) -> list[int]:
    """The processes to kill; none when there is no such process at the moment."""
    members = [pid for pid in session_members(driver) if pid != driver]
    if victim == "coordinator":
        return [driver]
    if victim == "everybody":
        return [driver, *members]
    start = {"worker": "slidewright-w", "writer": "slidewright-wri", "fork server": "slidewright-for"}[victim]
    found = [pid for pid in members if role_of(pid).startswith(start)]
    if victim == "worker":
        found = [pid for pid in found if role_of(pid) != "slidewright-wri"]
    return [random.choice(found)] if found else []


def wait_for(pid: int, seconds: float) -> int | None:
    """The exit code of a child, or None if it does not end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return None


def one_try(campaign, folder, source, seconds) -> str:
    """Kill once and look; the answer says what was killed and how the run ended."""
    out, work, scratch, log = folder / "work" / "out.tif", folder / "work", folder / "scratch", folder / "log"
    victim = campaign.random.choice(VICTIMS)
    driver = start_driver(source, out, scratch, log)
    if victim in ("worker", "writer"):  # which are there for the last part of a run only
        wait_until(lambda: choose(victim, driver, campaign.random) or not session_members(driver), 20)
        seconds /= 4
    wait = campaign.random.uniform(0, 1.1 * seconds)
    time.sleep(wait)
    killed = choose(victim, driver, campaign.random) if driver in session_members(driver) else []
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    code = wait_for(driver, 30)
    story = f"{victim} {killed} after {wait:.3f} s, exit code {code}: {log.read_text() if log.exists() else ''}"
    assert code is not None, f"hangs: {story}"
    assert wait_until(lambda: not session_members(driver), 15), f"processes live on ({who_lives(driver)}): {story}"
    if out.exists():
        assert digest(out) == clean_digest(source, folder), f"wrong file: {story}"
    if victim == "worker" or not killed:
        assert code == 0, f"should have succeeded: {story}"
        assert out.exists(), story
    elif victim in ("writer", "fork server"):
        assert code in (0, CLEARLY), story
    if victim != "everybody":
        left = [p.name for p in (*work.iterdir(), *scratch.iterdir()) if p != out]
        assert left == [], f"{left} left behind: {story}"
    slidewright.convert(source, out, n_workers=0, scratch=scratch, overwrite=True, **OPTIONS)
    assert digest(out) == clean_digest(source, folder)
    left = [p.name for p in (*work.iterdir(), *scratch.iterdir()) if p != out]
    assert left == [], f"{left} left behind by the next run: {story}"
    out.unlink()
    ended = {0: "finished", CLEARLY: "failed cleanly"}.get(code, "killed")
    return f"{victim if killed else 'nobody'} killed, run {ended}"


@pytest.mark.long
@pytest.mark.alone
@pytest.mark.timeout(7200)
def test_kill_campaign(tmp_path):
    campaign = Campaign("kill", short=40, long=1000)
    source = make_slide(tmp_path / "slide.tif", 900, 1200)
    for name in ("work", "scratch"):
        (tmp_path / name).mkdir()
    clean_digest(source, tmp_path)
    shm = {name for name in os.listdir("/dev/shm") if "slidewright" in name}
    begin = time.monotonic()
    for _ in range(2):
        assert (
            wait_for(start_driver(source, tmp_path / "work" / "out.tif", tmp_path / "scratch", tmp_path / "log"), 60)
            == 0
        )
        (tmp_path / "work" / "out.tif").unlink()
    seconds = (time.monotonic() - begin) / 2
    try:
        killed = 0
        while killed < campaign.tries:  # a moment after the end of a run does not count
            outcome = one_try(campaign, tmp_path, source, seconds)
            killed += not outcome.startswith("nobody")
            campaign.count(outcome)
    finally:
        campaign.close()
    assert {name for name in os.listdir("/dev/shm") if "slidewright" in name} == shm
