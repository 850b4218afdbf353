"""Random signals, in sequences, to any process of any way to make a file, with random options, limits and sources.

Afterwards the run has ended within a bound, none of its processes lives, nothing lies in the destination's folder, in
TMPDIR, scratch or /dev/shm, an old output is whole, and the next run makes the bytes of an undisturbed one.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.campaign import Campaign, forked
from faults.signal_trial import Trial, orphans_are_seen
from faults.signal_ways import SIGNAL_WAYS, make_all
from faults.signal_writer import Writer
from faults.test_kill import wait_for
from faults.ways import Way, undisturbed

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="finds the run's processes in /proc"),
    pytest.mark.alone,
    pytest.mark.timeout(7200),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("signals")
    make_all(found)
    (found / "tmp").mkdir()
    return found


@functools.cache
def clean(folder: Path, way: Way) -> dict[str, str]:
    return undisturbed(folder, way)


def signals(campaign: Campaign, folder: Path, ways: list[Way], plan: Callable[[Trial], None]) -> None:
    usual: dict[str, float] = {}
    try:
        with orphans_are_seen():
            for _ in range(campaign.tries):
                seed = campaign.random.randrange(1 << 40)
                chance = random.Random(seed)
                way = chance.choice(ways)
                trial = Trial(way, chance, usual.get(way.name, 1.0))
                plan(trial)
                try:
                    what, took = trial.run(folder, clean(folder, way))
                except Exception as error:
                    raise AssertionError(f"seed {seed}: {trial}") from error
                campaign.count(what)
                if what == "undisturbed, done":
                    usual[way.name] = took
    finally:
        campaign.close()


def test_random_signals(folder):
    signals(Campaign("random signals", short=2, long=1000), folder, SIGNAL_WAYS, lambda _: None)


@pytest.mark.slow
def test_many_random_signals(folder):
    signals(Campaign("many random signals", short=300, long=1000), folder, SIGNAL_WAYS, lambda _: None)


@pytest.mark.long
def test_killed_processes_whose_pipes_a_fork_holds(folder):
    """A worker, the writer or a process of a batch; the forks of the caller's program live longer than a run may."""
    ways = [way for way in SIGNAL_WAYS if not way.name.startswith("command ")]
    signals(Campaign("kills beside forks", short=4, long=300), folder, ways, Trial.kill_beside_forks)


# Interrupted at any moment, a file of Python's own stays open once in some hundred times: not for every test run.
@pytest.mark.parametrize(
    "by_timer", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["fails", "interrupted"]
)
def test_writer_that_ends_while_it_starts_and_is_asked_again(tmp_path, by_timer):
    campaign = Campaign(f"writers asked again {by_timer}", short=2, long=1000)
    for seed, folder in campaign.trials(tmp_path):
        (folder / "scratch").mkdir()
        pid = forked(lambda s=seed, f=folder: Writer(random.Random(s)).run(f, by_timer), tmp_path / "log", OSError)
        code = wait_for(pid, 40)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
        assert code == 0, f"seed {seed}: exit code {code}: {(tmp_path / 'log').read_text()}"
        campaign.count("ended")
    campaign.close()
