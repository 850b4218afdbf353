"""Small slides of a batch go whole to a process each: the same files for any number, whoever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Pipe

import numpy as np
import pytest
import tifffile
from children import descendants, heed_ctrl_c, named
from written import digest

import slidewright
from slidewright.conversions import batch_pool, batch_slide
from slidewright.conversions.batch_pool import Slide, SlidePool, count_processes, is_small
from slidewright.conversions.batch_slide import Announced, Answer, BatchItem, Outcome, TooLargeError, convert_slide
from slidewright.conversions.manifest import Entry
from slidewright.options import make_options
from slidewright.selection import Selection
from slidewright.system import launcher as processes
from slidewright.system.launcher import Child

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="threads of this process stand in for processes")
OPTIONS = {"tile_size": 64, "compression": "zstd"}


def make_slides(folder, count, side=200):
    folder.mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 255, (side + number, side), np.uint8)
        tifffile.imwrite(folder / f"slide{number}.tif", pixels, tile=(64, 64))
    return folder


def entry(source, destination="out.tif", **options):
    return Entry(str(source), str(destination), make_options(options, "batch"), Selection())


@needs_fork
def test_result_is_the_same_for_any_number_of_processes(tmp_path):
    slides = make_slides(tmp_path / "slides", 5)
    (slides / "slide3.tif").write_bytes(b"II*\0 no slide")
    found = {}
    for workers in (0, 1, 3):
        out = tmp_path / f"out{workers}"
        report = slidewright.batch(slides, out, n_workers=workers, **OPTIONS)
        outputs = {path.name: digest(path) for path in out.glob("*.tif")}
        found[workers] = [(item.source, item.status, item.bytes, item.error) for item in report.items], outputs
        again = slidewright.batch(slides, out, n_workers=workers, **OPTIONS)
        assert [item.status for item in again.items] == ["skipped"] * 3 + ["failed", "skipped"]
    assert [item[1] for item in found[0][0]] == ["done"] * 3 + ["failed", "done"]
    assert found[0] == found[1] == found[3]


@needs_fork
def test_slides_of_killed_processes_are_converted_all_the_same(tmp_path):
    slides, killed = make_slides(tmp_path / "slides", 6), []

    def kill(item):
        for process in [] if killed else named("slidewright-s"):
            killed.append(process.pid)
            process.kill()

    report = slidewright.batch(slides, tmp_path / "out", n_workers=2, tell=kill, **OPTIONS)
    assert len(killed) == 2
    assert [item.status for item in report.items] == ["done"] * 6
    assert sum(item.retries for item in report.items) <= 2
    assert not list((tmp_path / "out").glob(".*"))
    assert descendants() == []


@needs_fork
@pytest.mark.timeout(60)
def test_killed_process_whose_pipe_a_fork_of_the_program_has_is_missed(tmp_path, monkeypatch):
    pipe, held, killed = processes.make_pipe, [], []

    def copied_pipe():
        ends = pipe()
        held.append(os.dup(ends[1].fileno()))  # as a fork has it that is made before this process closes it
        return ends

    def kill(item):
        for process in [] if killed else named("slidewright-s"):
            killed.append(process.pid)
            process.kill()

    monkeypatch.setattr(processes, "make_pipe", copied_pipe)
    slides = make_slides(tmp_path / "slides", 6)
    report = slidewright.batch(slides, tmp_path / "out", n_workers=2, tell=kill, **OPTIONS)
    for fd in held:
        os.close(fd)
    assert len(killed) == 2
    assert [item.status for item in report.items] == ["done"] * 6


@needs_fork
def test_killed_fork_server_ends_the_pool_and_not_the_batch(tmp_path):
    slides, killed = make_slides(tmp_path / "slides", 4), []

    def kill(item):
        for process in [] if killed else named("slidewright-for"):
            killed.append(process.pid)
            process.kill()

    report = slidewright.batch(slides, tmp_path / "out", n_workers=2, tell=kill, **OPTIONS)
    assert [item.status for item in report.items] == ["done"] * 4
    assert len(killed) == 1
    assert not list((tmp_path / "out").glob(".*"))


@needs_fork
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_interrupted_batch_leaves_nothing_half_done(tmp_path, number, code):
    slides = make_slides(tmp_path / "slides", 8, 1200)
    command = [sys.executable, "-m", "slidewright", "batch", slides, "--out", tmp_path / "out", "--workers", "2"]
    slow = ["--compression", "zstd", "--effort", "19", "--tile-size", "256", "--scratch", tmp_path / "scratch"]
    (tmp_path / "scratch").mkdir()
    process = subprocess.Popen([*command, *slow, "-q"], start_new_session=True, preexec_fn=heed_ctrl_c)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob(".*.partial")) and time.monotonic() < deadline:
        time.sleep(0.01)
    family = descendants(process.pid)
    process.send_signal(number)
    assert process.wait(20) == code
    while any(one.is_running() for one in family) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not list((tmp_path / "out").glob(".*"))
    assert os.listdir(tmp_path / "scratch") == []


class FakeLauncher:
    """Processes that are threads: `deadly` slides end them, `large` ones they give back."""

    waitable = ended = ()

    def __init__(self):
        self.owned = []

    def spawn(self, module, name, job, **_):
        ours, theirs = Pipe()

        def main():
            with contextlib.suppress(EOFError, OSError):
                while "deadly" not in (task := theirs.recv()).entry.source:
                    theirs.send(Announced("partial"))
                    theirs.recv()
                    item = BatchItem(task.entry.source, "", "done", 0.0)
                    large = "large" in task.entry.source
                    theirs.send(Answer(None if large else Outcome(item, {"retries": 0}), None))
            theirs.close()

        threading.Thread(target=main, daemon=True).start()
        return Child(name, ours)

    def own(self, *paths):
        self.owned += paths

    def reason(self, child):
        return "it was killed"


@pytest.fixture
def launcher(monkeypatch):
    fake = FakeLauncher()
    monkeypatch.setattr(batch_pool, "make_launcher", lambda options, more: contextlib.nullcontext(fake))
    return fake


def test_slide_that_processes_die_on_fails_and_the_others_do_not(tmp_path, launcher):
    slides = [Slide(entry(name, tmp_path / name), None) for name in ("a", "deadly", "b", "c")]
    with SlidePool(make_options({"n_workers": 2}, "batch"), 2) as pool:
        found = {slide.entry.source: outcome for slide, outcome, _ in pool.run(slides)}
    assert {name: outcome.item.status for name, outcome in found.items()} == {
        **dict.fromkeys("abc", "done"),
        "deadly": "failed",
    }
    assert found["deadly"].item.error.startswith("RunError: 3 processes died on this slide; the last: it was killed")
    assert found["deadly"].line["identity"] is None
    assert launcher.owned == ["partial"] * 3


def test_slide_that_turns_out_to_be_large_is_given_back(tmp_path, launcher):
    slides = [Slide(entry(name, tmp_path / name), None) for name in ("a", "large", "b")]
    with SlidePool(make_options({"n_workers": 2}, "batch"), 2) as pool:
        assert [slide.entry.source for slide, outcome, _ in pool.run(slides) if outcome is None] == ["large"]


def test_much_work_is_not_for_one_process(tmp_path, monkeypatch):
    source = make_slides(tmp_path / "slides", 1) / "slide0.tif"
    monkeypatch.setattr(batch_slide, "LARGE_SECONDS", 0.0)
    with pytest.raises(TooLargeError):
        convert_slide(entry(source, tmp_path / "out.tif"), None, lambda: None, None, announce=lambda path: None)
    assert not (tmp_path / "out.tif").exists()


def test_which_slides_are_small(tmp_path):
    small, large = tmp_path / "small.tif", tmp_path / "large.tif"
    small.write_bytes(b"II*\0")
    with open(large, "wb") as file:
        file.truncate((16 << 20) + 1)
    assert is_small(entry(small))
    assert not is_small(entry(large))
    assert not is_small(entry(tmp_path))
    assert not is_small(entry(tmp_path / "missing.tif"))
    assert not is_small(entry(small, resume=True))
    assert not is_small(entry(small, timeout=9.0))


def test_processes_are_as_many_as_slides_workers_and_memory_allow(monkeypatch):
    monkeypatch.setattr(batch_pool, "usable_cpus", lambda: 8)
    for options, slides, expected in (
        ({}, 60, 8),
        ({}, 3, 3),
        ({}, 1, 0),
        ({"n_workers": 1}, 60, 1),
        ({"n_workers": 0}, 60, 0),
        ({"memory": "2GiB"}, 60, 4),
        ({"memory": "500MB"}, 60, 0),
    ):
        assert count_processes(make_options(options, "batch"), slides) == expected, options
