"""Real processes killed: the run goes on or ends with one clear error, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import pytest
from children import descendants, heed_ctrl_c, named
from fake_sources import SlowSource
from oracle import pyramid
from written import assert_levels_equal_oracle, digest

import slidewright
from slidewright.engine import coordinator
from slidewright.errors import CorruptTileError, DestinationError, OptionError, RunError
from slidewright.system import launcher

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are threads where there is no fork"),
]
HERE = Path(__file__).parents[1]  # where the helper modules are
OPTIONS = {"tile_size": 32, "compression": "deflate", "block_tiles": 2}


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def assert_nothing_left(tmp_path, scratch, before, finished=()):
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and {p.pid for p in descendants()} - before:
        time.sleep(0.02)
    assert {p.pid for p in descendants()} <= before
    assert sorted(p.name for p in scratch.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["scratch", *finished])


def kill_during(start, count=1):
    """In the background: SIGKILL `count` processes of a role, one after the other, once the run is under way."""

    def hunt():
        killed = set()
        deadline = time.monotonic() + 20
        while len(killed) < count and time.monotonic() < deadline:
            time.sleep(0.15)
            for process in named(start)[:1]:
                if process.pid not in killed and len(named("slidewright-w")) >= 3:
                    time.sleep(0.3)
                    process.kill()
                    killed.add(process.pid)

    thread = threading.Thread(target=hunt)
    thread.start()
    return thread


def test_killed_worker_block_is_retried(tmp_path, scratch):
    before = {p.pid for p in descendants()}
    marker = tmp_path / "marker"
    source = SlowSource(300, 400, fault="kill-once", at=(96, 128), marker=str(marker))
    report = slidewright.convert(source, tmp_path / "out.tif", n_workers=2, scratch=scratch, **OPTIONS)
    marker.unlink()
    assert report.retries == 1
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)
    assert_nothing_left(tmp_path, scratch, before, ["out.tif"])
    clean = SlowSource(300, 400)
    slidewright.convert(clean, tmp_path / "clean.tif", n_workers=0, **OPTIONS)
    assert digest(tmp_path / "clean.tif") == digest(tmp_path / "out.tif")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("timeout", "held_back"), [(None, ""), (20.0, ""), (None, "signal.SIGCHLD")])
def test_worker_whose_fork_holds_its_pipe_open_is_replaced(tmp_path, scratch, timeout, held_back):
    """Also where the caller, or what started it, holds back the signal of a child's death."""
    source = SlowSource(300, 400, fault="fork-once", at=(96, 128), marker=str(tmp_path / "marker"))
    code = f"""\
        import os, signal, sys
        sys.path.insert(0, {str(HERE)!r})
        os.setsid()
        import slidewright
        from fake_sources import SlowSource
        signal.pthread_sigmask(signal.SIG_BLOCK, {{{held_back}}})
        options = {OPTIONS | {"n_workers": 2, "timeout": timeout}!r}
        report = slidewright.convert({source!r}, {str(tmp_path / "out.tif")!r}, **options)
        print(report.retries)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        start = time.monotonic()
        assert process.stdout.readline() == b"1\n"
        assert time.monotonic() - start < 40  # the fork lives for a minute
        assert process.wait(10) == 0
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # the fork of the worker
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)


def test_more_slots_than_pipes_hold_messages(tmp_path, scratch, monkeypatch):
    """140 workers and more have so many slots that writer and coordinator could fill both pipes between them."""
    pipe, spawn, writer = launcher.make_pipe, launcher.ProcessLauncher.spawn, []

    def narrow_pipe():
        ends = pipe()
        for end in ends if writer else ():
            with socket.socket(fileno=os.dup(end.fileno())) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least there is: a few messages
        return ends

    def spawn_noting(self, module, name, job, **more):
        writer[:] = ["writer"] if "wri" in name else []
        return spawn(self, module, name, job, **more)

    monkeypatch.setattr(launcher, "make_pipe", narrow_pipe)
    monkeypatch.setattr(launcher.ProcessLauncher, "spawn", spawn_noting)
    monkeypatch.setattr(coordinator, "_AT_WRITER", 2)
    source = SlowSource(600, 600)
    slidewright.convert(source, tmp_path / "out.tif", n_workers=12, scratch=scratch, **{**OPTIONS, "block_tiles": 1})
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)


def test_workers_killed_from_outside_are_replaced(tmp_path, scratch):
    before = {p.pid for p in descendants()}
    source = SlowSource(400, 400, seconds=0.02)
    hunter = kill_during("slidewright-w0", count=3)
    slidewright.convert(source, tmp_path / "out.tif", n_workers=2, scratch=scratch, **OPTIONS)
    hunter.join()
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)
    assert_nothing_left(tmp_path, scratch, before, ["out.tif"])


def test_block_that_kills_three_workers_ends_the_run_and_is_named(tmp_path, scratch):
    before = {p.pid for p in descendants()}
    source = SlowSource(300, 400, fault="kill", at=(96, 128))
    with pytest.raises(RunError, match=r"3 workers died on the same block \(row 1, column 2 .*SIGKILL"):
        slidewright.convert(source, tmp_path / "out.tif", n_workers=2, scratch=scratch, **OPTIONS)
    assert_nothing_left(tmp_path, scratch, before)


def test_limit_on_processor_time_is_named(tmp_path):
    caller = os.getpid()

    def read(y, x, height, width):
        if os.getpid() != caller:
            os.kill(os.getpid(), signal.SIGXCPU)
        return np.zeros((height, width), np.uint8)

    with pytest.raises(RunError, match=r"killed by SIGXCPU, as a limit on processor time does \(ulimit -t\)"):
        slidewright.convert(read, tmp_path / "out.tif", shape=(300, 400), dtype="uint8", n_workers=2, **OPTIONS)


@pytest.mark.parametrize(
    ("start", "message"), [("slidewright-wri", "writer process died"), ("slidewright-for", "died|gone")]
)
def test_killed_writer_or_nursery_is_one_error_at_once(tmp_path, scratch, start, message):
    before = {p.pid for p in descendants()}
    source = SlowSource(1000, 1000, seconds=0.05)
    hunter = kill_during(start)
    with pytest.raises(RunError, match=message):
        slidewright.convert(source, tmp_path / "out.tif", n_workers=2, scratch=scratch, **OPTIONS)
    hunter.join()
    assert_nothing_left(tmp_path, scratch, before)


def test_writer_that_is_killed_while_a_fork_of_the_program_has_its_pipe_is_missed(tmp_path, scratch, monkeypatch):
    pipe, held = launcher.make_pipe, []

    def copied_pipe():
        ends = pipe()
        held.append(os.dup(ends[1].fileno()))  # as a fork has it that is made before this process closes it
        return ends

    monkeypatch.setattr(launcher, "make_pipe", copied_pipe)
    before = {p.pid for p in descendants()}
    hunter = kill_during("slidewright-wri")
    source = SlowSource(1000, 1000, seconds=0.05)
    with pytest.raises(RunError, match="writer process died"):
        slidewright.convert(source, tmp_path / "out.tif", n_workers=2, scratch=scratch, **OPTIONS)
    hunter.join()
    for fd in held:
        os.close(fd)
    assert_nothing_left(tmp_path, scratch, before)


def refuse_to_send(monkeypatch, kind):
    """One message of a kind is not sent, for the system has no memory for it."""
    refused = []

    def refusing(real):
        def send(self, message):
            if type(message).__name__ == kind and not refused:
                refused.append(message)
                raise OSError(errno.ENOBUFS, "No buffer space available")
            real(self, message)

        return send

    for name in ("send", "send_bytes"):
        monkeypatch.setattr(Connection, name, refusing(getattr(Connection, name)))
    return refused


@pytest.mark.parametrize("kind", ["bytes", "DoBlock", "SlotFree", "SlotFull"])
def test_message_that_can_not_be_sent_is_one_error_and_nobody_waits_for_it(tmp_path, scratch, monkeypatch, kind):
    before = {p.pid for p in descendants()}
    refused = refuse_to_send(monkeypatch, kind)
    source = SlowSource(300, 300, seconds=0)
    with pytest.raises(RunError, match=r"No buffer space|writer process died"):
        slidewright.convert(source, tmp_path / "out.tif", n_workers=1, scratch=scratch, **OPTIONS)
    assert len(refused) == 1
    assert_nothing_left(tmp_path, scratch, before)


@pytest.mark.parametrize("kind", ["bytes", "Task", "Noted"])
def test_slide_of_a_batch_of_which_a_process_can_not_be_told_is_converted_all_the_same(tmp_path, monkeypatch, kind):
    before = {p.pid for p in descendants()}
    refused = refuse_to_send(monkeypatch, kind)
    (tmp_path / "in").mkdir()
    for name in "ab":
        np.save(tmp_path / "in" / f"{name}.npy", np.zeros((200, 300), np.uint8))
    report = slidewright.batch(tmp_path / "in", tmp_path / "out", n_workers=2, **OPTIONS)
    assert [item.status for item in report.items] == ["done", "done"]
    assert len(refused) == 1
    assert {p.pid for p in descendants()} <= before
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tif")) == ["a.tif", "b.tif"]


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [("corrupt", CorruptTileError, "x=128, y=96"), ("crash", RunError, "ZeroDivisionError: the reader has a bug")],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_failing_read_is_the_callers_error(tmp_path, scratch, fault, error, message, workers):
    if fault == "crash" and workers == 0:
        error, message = ZeroDivisionError, "the reader has a bug"
    before = {p.pid for p in descendants()}
    source = SlowSource(300, 400, fault=fault, at=(96, 128))
    with pytest.raises(error, match=message):
        slidewright.convert(source, tmp_path / "out.tif", n_workers=workers, scratch=scratch, **OPTIONS)
    assert_nothing_left(tmp_path, scratch, before)


def script(tmp_path, scratch, body):
    path = tmp_path / "scratch.py"
    path.write_text(
        textwrap.dedent(f"""\
        import sys
        sys.path.insert(0, {str(HERE)!r})
        import slidewright
        from fake_sources import SlowSource
        options = dict({OPTIONS!r}, scratch={str(scratch)!r}, n_workers=2)
        """)
        + textwrap.dedent(body)
    )
    return [sys.executable, str(path)]


def start_slow_run(tmp_path, scratch):
    body = f"slidewright.convert(SlowSource(2000, 2000, seconds=0.05), {str(tmp_path / 'out.tif')!r}, **options)"
    line = script(tmp_path, scratch, body)
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, preexec_fn=heed_ctrl_c)
    deadline = time.monotonic() + 20
    while len(named("slidewright-w", process.pid)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    return process, named("slidewright-", process.pid)


def test_killed_coordinator_leaves_nothing(tmp_path, scratch):
    process, family = start_slow_run(tmp_path, scratch)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    assert list(scratch.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scratch", "scratch.py"]


def test_everything_killed_is_cleaned_up_by_the_next_run(tmp_path, scratch):
    process, family = start_slow_run(tmp_path, scratch)
    for member in [psutil.Process(process.pid), *family]:
        member.suspend()
    for member in [psutil.Process(process.pid), *family]:
        member.kill()
    process.wait()
    psutil.wait_procs(family, timeout=15)
    assert list(scratch.iterdir()) != []
    source = SlowSource(100, 300)
    slidewright.convert(source, tmp_path / "out.tif", n_workers=2, scratch=scratch, **OPTIONS)
    assert list(scratch.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.tif", "scratch", "scratch.py"]


@pytest.mark.alone
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("where", ["coordinator.Schedule.pulled", "crew.count_memory_kills"])
def test_ctrl_c_before_the_processes_start_gives_shared_memory_back(tmp_path, scratch, monkeypatch, where):
    def interrupt(*_):
        raise KeyboardInterrupt

    def shared():
        paths = [path for path in Path("/proc/self/fd").iterdir() if "memfd:slidewright" in os.path.realpath(path)]
        return {os.stat(path).st_ino for path in paths}

    before, processes = shared(), {p.pid for p in descendants()}
    monkeypatch.setattr(f"slidewright.engine.{where}", interrupt)
    with pytest.raises(KeyboardInterrupt):
        slidewright.convert(SlowSource(100, 200), tmp_path / "out.tif", n_workers=1, scratch=scratch, **OPTIONS)
    assert shared() <= before
    assert_nothing_left(tmp_path, scratch, processes)


def test_ctrl_c_ends_a_run_soon(tmp_path, scratch):
    process, family = start_slow_run(tmp_path, scratch)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert time.monotonic() - begin < 9  # the run would take two minutes
    assert "KeyboardInterrupt" in errors
    _, alive = psutil.wait_procs(family, timeout=15)
    assert alive == []
    assert list(scratch.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scratch", "scratch.py"]


def test_script_without_a_main_guard_runs_once(tmp_path, scratch):
    body = f"""
    print("start of the script")
    slidewright.convert(SlowSource(200, 200), {str(tmp_path / "out.tif")!r}, **options)
    print("end of the script")
    """
    done = subprocess.run(script(tmp_path, scratch, body), capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split("\n") == ["start of the script", "end of the script", ""]
    assert_levels_equal_oracle(tmp_path / "out.tif", SlowSource(200, 200).pixels(), 32)


def test_convert_works_in_a_thread_and_in_several_at_once(tmp_path, scratch):
    source = SlowSource(300, 400)
    results = {}

    def work(name):
        results[name] = slidewright.convert(source, tmp_path / name, n_workers=2, scratch=scratch, **OPTIONS)

    threads = [threading.Thread(target=work, args=(f"{n}.tif",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    assert len({digest(tmp_path / name) for name in results}) == 1
    assert len(pyramid(source.pixels(), 32)) == len(results["0.tif"].levels)


def test_caller_may_have_thousands_of_open_files(tmp_path, scratch):
    """Descriptors beyond 1023 are none for `select`."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2500:
        pytest.skip("so many files can't be opened here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2500), hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1200)]
    try:
        source = SlowSource(300, 400, fault="kill-once", at=(96, 128), marker=str(tmp_path / "marker"))
        report = slidewright.convert(source, tmp_path / "out.tif", n_workers=2, scratch=scratch, **OPTIONS)
    finally:
        for fd in held:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert report.retries == 1
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)


def test_existing_destination_is_kept_and_replaced_only_when_asked(tmp_path):
    path = tmp_path / "out.tif"
    path.write_bytes(b"precious")
    with pytest.raises(DestinationError, match="exists"):
        slidewright.convert(SlowSource(100, 100), path, n_workers=2)
    assert path.read_bytes() == b"precious"
    with pytest.raises(CorruptTileError):
        slidewright.convert(SlowSource(100, 100, fault="corrupt"), path, n_workers=2, overwrite=True)
    assert path.read_bytes() == b"precious"
    slidewright.convert(SlowSource(100, 100), path, n_workers=2, overwrite=True)
    assert path.read_bytes()[:2] == b"II"


@pytest.mark.parametrize(
    ("dest", "options", "error", "message"),
    [
        ("missing/out.tif", {}, DestinationError, "missing"),
        ("", {}, DestinationError, "folder"),
        ("out.tif", {"compression": "floppy"}, OptionError, "floppy.*choose one of none, jpeg"),
        ("out.tif", {"quality": 101}, OptionError, "quality 101"),
        ("out.tif", {"compression": "zstd", "quality": 90}, OptionError, "quality does not apply.*effort"),
        ("out.tif", {"tile_size": 100}, OptionError, "multiple of 16"),
        ("out.tif", {"subsampling": "411"}, OptionError, "420, 422, 444"),
        ("out.tif", {"nworkers": 2}, OptionError, "nworkers.*n_workers"),
    ],
)
def test_bad_options_are_refused_before_anything_starts(tmp_path, monkeypatch, dest, options, error, message):
    def forbidden(*_, **__):
        raise AssertionError("the source is being read")

    source = SlowSource(100, 100)
    monkeypatch.setattr(SlowSource, "open", forbidden)
    with pytest.raises(error, match=message):
        slidewright.convert(source, tmp_path / dest, n_workers=2, **options)
    assert list(tmp_path.iterdir()) == []
