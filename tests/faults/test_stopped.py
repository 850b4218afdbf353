"""Processes that are stopped for a while and go on, a shell that is killed above a run, clocks that jump."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from fake_sources import SlowSource
from faults.campaign import OPTIONS, clean_digest, digest, make_slide, role_of, session_members, wait_until

import slidewright
from slidewright.engine import crew
from slidewright.system.launcher import ProcessLauncher

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return make_slide(tmp_path_factory.mktemp("slide") / "s.tif", 3000, 3000)


def command(slide: Path, out: Path, *more: str) -> list[str]:
    words = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    line = [sys.executable, "-m", "slidewright", "convert", str(slide), str(out), "--workers", "2", "-q"]
    return [*line, "--scratch", str(out.parent), *words, *more]


def start(slide: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command(slide, out, *more), start_new_session=True)
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(out.parent)), 30)
    return process


def assert_whole(process: subprocess.Popen[bytes], slide: Path, out: Path) -> None:
    assert process.wait(60) == 0
    assert digest(out) == clean_digest(slide, out.parent)
    assert os.listdir(out.parent) == [out.name]


@pytest.mark.parametrize(
    "role",
    [
        *(
            pytest.param(role, marks=pytest.mark.long)
            for role in ("caller", "slidewright-for", "slidewright-wri", "slidewright-w0")
        ),
        "all",
    ],
)
def test_process_that_is_stopped_goes_on_where_it_was(tmp_path, slide, role):
    process = start(slide, tmp_path / "o.tif")

    def playing() -> list[int]:
        members = session_members(process.pid)
        caller = [process.pid] if role == "caller" else []
        return caller or [pid for pid in members if role == "all" or role in role_of(pid)]

    assert wait_until(lambda: bool(playing()), 10), "a process that was just forked has its name a moment later"
    chosen = playing()
    for pid in chosen if role == "all" else chosen[:1]:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(1.5)
    if role != "slidewright-for":  # which nobody waits for once it has forked, so that the run may be over
        assert process.poll() is None
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert_whole(process, slide, tmp_path / "o.tif")


@pytest.mark.long
def test_run_that_is_suspended_for_longer_than_its_timeout_goes_on(tmp_path, slide):
    process = start(slide, tmp_path / "o.tif", "--timeout", "1")
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGCONT)
    assert_whole(process, slide, tmp_path / "o.tif")


def test_run_that_is_suspended_over_and_over_blames_nobody(tmp_path):
    """As a batch system does that lets jobs run by turns: three times over the limit would be three deaths."""
    source = SlowSource(64, 64, seconds=3.0)
    code = f"""\
        import os, sys
        os.setsid()
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import slidewright
        from fake_sources import SlowSource
        out = {str(tmp_path / "o.tif")!r}
        report = slidewright.convert({source!r}, out, n_workers=1, timeout=5, tile_size=64, compression="deflate")
        print(report.retries)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    try:
        assert wait_until(lambda: any("slidewright-w0" in role_of(pid) for pid in session_members(process.pid)), 30)
        time.sleep(0.5)
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(7)
        os.killpg(process.pid, signal.SIGCONT)
        assert process.communicate(timeout=60)[0] == "0\n"
    finally:
        process.kill()


@pytest.mark.long
def test_stopped_worker_is_replaced_when_its_time_is_over(tmp_path, slide):
    process = start(slide, tmp_path / "o.tif", "--timeout", "2")
    (partial,) = tmp_path.glob(".*.partial")
    assert wait_until(lambda: partial.stat().st_size > 100_000, 30)  # so the workers are at work
    worker = next(pid for pid in session_members(process.pid) if role_of(pid) == "slidewright-w0")
    os.kill(worker, signal.SIGSTOP)
    assert_whole(process, slide, tmp_path / "o.tif")


@pytest.mark.long
def test_worker_that_never_gets_ready_is_replaced_too(tmp_path, slide, monkeypatch):
    monkeypatch.setattr(crew, "_START_SECONDS", 1.0)
    stopped = []

    spawn = ProcessLauncher.spawn

    def stopped_spawn(self: ProcessLauncher, module: str, name: str, job: object, **more: object) -> object:
        child = spawn(self, module, name, job, **more)
        if name == "slidewright-w0" and not stopped:
            os.kill(child.pid, signal.SIGSTOP)
            stopped.append(child.pid)
        return child

    monkeypatch.setattr(ProcessLauncher, "spawn", stopped_spawn)
    report = slidewright.convert(slide, tmp_path / "o.tif", n_workers=2, timeout=1, **OPTIONS)
    assert (len(stopped), report.retries) == (1, 1)
    assert digest(tmp_path / "o.tif") == clean_digest(slide, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_run_outlives_the_shell_that_began_it(tmp_path, slide, number):
    shell = subprocess.Popen(
        ["sh", "-c", '"$@"; exit $?', "sh", *command(slide, tmp_path / "o.tif")], start_new_session=True
    )
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(tmp_path)), 30)
    shell.send_signal(number)
    shell.wait(10)
    assert wait_until(lambda: not session_members(shell.pid), 60)
    assert digest(tmp_path / "o.tif") == clean_digest(slide, tmp_path)
    assert os.listdir(tmp_path) == ["o.tif"]


def test_nothing_goes_by_a_clock_that_can_jump():
    """Durations are taken from the monotonic clock; what a file's times are compared with are other files' times."""
    home = Path(slidewright.__file__).parent
    users = [path for path in home.rglob("*.py") if "time.time()" in path.read_text() and "bench" not in path.parts]
    assert users == []


@pytest.mark.parametrize("workers", [0, 2])
def test_terminal_that_is_closed_ends_the_run_and_leaves_nothing(tmp_path, slide, workers):
    """The window goes: SIGHUP to the group in the foreground, and every further line of progress is an I/O error."""
    # A high effort, so that the run is not over before its terminal is, however late this process gets its turn.
    line = [word for word in command(slide, tmp_path / "o.tif", "--effort=12") if word != "-q"]
    line[line.index("--workers") + 1] = str(workers)
    pid, terminal = os.forkpty()
    if not pid:
        os.execv(line[0], line)
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(tmp_path)), 30)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert wait_until(lambda: not session_members(pid), 15)
    assert os.listdir(tmp_path) == []


def test_run_that_ignores_hang_ups_goes_on_without_its_terminal(tmp_path, slide):
    """As under nohup, but with the progress going to the terminal that is no more."""
    line = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *command(slide, tmp_path / "o.tif")]
    line.remove("-q")
    pid, terminal = os.forkpty()
    if not pid:
        os.execvp("sh", line)
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(tmp_path)), 30)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 141  # nobody reads the last line
    assert wait_until(lambda: not session_members(pid), 15)
    assert digest(tmp_path / "o.tif") == clean_digest(slide, tmp_path)
