"""The command as a process: signals at any moment, names that are no text, limits; its exit code and what it leaves."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
from faults.campaign import Campaign, make_slide, session_members, wait_until

import slidewright

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not hasattr(os, "killpg"), reason="signals and process groups as POSIX knows them"),
]


def start(*line: object, limit: object = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "slidewright", *map(os.fspath, map(as_path, line))]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="surrogateescape",
        start_new_session=True, preexec_fn=limit,
    )  # fmt: skip


def as_path(word: object) -> object:
    return word if isinstance(word, (str, bytes, os.PathLike)) else str(word)


def end(process: subprocess.Popen[str], seconds: float = 30) -> tuple[int, str]:
    """Exit code and standard error of a process that ends, with all that it started."""
    try:
        _, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail(f"it did not end within {seconds} s")
    assert wait_until(lambda: not session_members(process.pid), 15), "processes live on"
    return process.returncode, errors


@pytest.fixture
def slide(tmp_path):
    return make_slide(tmp_path / "s.tif", 2000, 2000)


def test_name_that_is_no_text_has_a_report(tmp_path, slide):
    out = os.fsencode(tmp_path) + b"/o\xff.tif"
    report = os.fsencode(tmp_path) + b"/r\xfe.html"
    code, errors = end(start("convert", slide, out, "--report", report, "--workers", "1"))
    assert (code, "Traceback" in errors) == (0, False), errors
    assert os.path.exists(out)
    assert b"\\udcff.tif" in Path(os.fsdecode(report)).read_bytes()


@pytest.mark.parametrize("verb", ["batch", "info", "shard"])
def test_name_that_is_no_text_is_fine_for_every_verb(tmp_path, verb):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    slide = make_slide(folder / os.fsdecode(b"s\xfe.tif"), 100, 100)
    more = {"batch": ["--out", folder / "out"], "shard": [folder / "shards", "--index", "0", "--count", "1"]}.get(
        verb, []
    )
    code, errors = end(start(verb, folder if verb == "batch" else slide, *more))
    assert (code, errors.count("error")) == (0, 0), errors


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("verb", ["convert", "batch", "info"])
def test_standard_streams_that_are_closed_are_not_missed(tmp_path, closed, verb):
    """The next files that are opened would get their descriptors, and libraries print into these."""
    slide = make_slide(tmp_path / "s.tif", 300, 300)
    line = {
        "convert": ["convert", slide, tmp_path / "o.tif", "--workers", "2"],
        "batch": ["batch", slide, "--out", tmp_path / "out", "--workers", "2"],
        "info": ["info", slide],
    }[verb]
    shell = " ".join(f"{fd}>&-" for fd in closed)
    command = ["sh", "-c", f'"$@" {shell}', "sh", sys.executable, "-m", "slidewright", *map(str, line)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "error" in done.stderr) == (0, False), done.stderr
    if verb == "convert":
        slidewright.verify_file(tmp_path / "o.tif")
        assert sorted(os.listdir(tmp_path)) == ["o.tif", "s.tif"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a full device as Linux has it")
def test_standard_output_that_is_full_is_one_line(tmp_path):
    slide = make_slide(tmp_path / "s.tif", 100, 100)
    for line in (["info", slide], ["convert", "--json", "-q", slide, tmp_path / "o.tif"]):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "slidewright", *map(str, line)], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert done.returncode == 1
        assert done.stderr == "slidewright: error: can't write to standard output: No space left on device\n"
    assert (tmp_path / "o.tif").exists()


def test_names_with_newlines_and_escapes_are_one_harmless_line(tmp_path):
    code, errors = end(start("convert", tmp_path / "a\nb\x1b[31mc.tif", tmp_path / "o.tif"))
    assert (code, len(errors.splitlines())) == (2, 1), errors
    assert "a\\nb\\x1b[31mc.tif does not exist" in errors
    folder = tmp_path / "in\n\x1b[2J"
    folder.mkdir()
    make_slide(folder / "s.tif", 100, 100)
    (folder / "bad.tif").write_bytes(b"II*\0")
    done = subprocess.run(
        [sys.executable, "-m", "slidewright", "batch", str(folder), "--out", str(tmp_path / "out")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "\x1b" not in done.stdout + done.stderr
    assert (tmp_path / "out" / "s.tif").exists()


def test_current_folder_that_was_removed_is_told(tmp_path):
    slide = make_slide(tmp_path / "s.tif", 100, 100)
    for out, expected in (("../o.tif", 2), (str(tmp_path / "o.tif"), 0)):
        (tmp_path / "gone").mkdir()
        script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
        line = [sys.executable, "-m", "slidewright", "convert", "-q", str(slide), out]
        path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)  # which Python looks for in the folder
        done = subprocess.run(
            ["sh", "-c", script, "sh", tmp_path / "gone", *line],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert done.returncode == expected, done.stderr
        assert done.stderr == "" or "the current folder was removed" in done.stderr
        assert len(done.stderr.splitlines()) == bool(expected)


@pytest.mark.parametrize("limit", [0, 4096])
@pytest.mark.parametrize("workers", [0, 2])
def test_no_file_may_have_a_byte(tmp_path, slide, limit, workers):
    def no_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    code, errors = end(start("convert", slide, tmp_path / "o.tif", "--workers", workers, "-q", limit=no_bytes))
    assert code in (1, 2), errors
    lines = [line for line in errors.splitlines() if line.startswith("slidewright: error: ")]
    assert len(lines) == 1, errors
    assert "Traceback" not in errors, errors
    assert os.listdir(tmp_path) == ["s.tif"]


@pytest.mark.long
def test_ctrl_c_at_any_moment_of_the_start(tmp_path, slide):
    """The whole group gets it, as from a terminal; from the moment when Python runs our code."""
    campaign = Campaign("Ctrl-C at the start", 12, 300)
    for _ in range(campaign.tries):
        process = start("convert", slide, tmp_path / "o.tif", "--workers", "2", "-q")
        if campaign.random.random() < 0.5:
            time.sleep(campaign.random.uniform(0.08, 0.6))
        else:  # while the fork server imports, however slow the machine
            wait_until(lambda p=process: len(session_members(p.pid)) > 1 or p.poll() is not None, 30)
            time.sleep(campaign.random.uniform(0, 0.2))
        os.killpg(process.pid, signal.SIGINT)
        code, errors = end(process)
        early = "Traceback" in errors and "slidewright/cli" not in errors  # before our first line has run
        assert code in (0, 130, -signal.SIGINT) or early, (code, errors)
        assert "slidewright/system/forkserver" not in errors, errors
        assert early or "Traceback" not in errors, errors
        assert (code == 0) == (tmp_path / "o.tif").exists()
        (tmp_path / "o.tif").unlink(missing_ok=True)
        assert os.listdir(tmp_path) == ["s.tif"]
        campaign.count("interrupted" if code else "finished")
    campaign.close()


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder with a slide that takes seconds."""
    folder = tmp_path_factory.mktemp("large")
    make_slide(folder / "s.tif", 5000, 5000)
    return folder


@pytest.mark.parametrize("name", ["SIGQUIT", "SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("whom", ["group", "caller"])
def test_signal_in_mid_run_leaves_nothing(tmp_path, large, name, whom):
    number, slide = getattr(signal, name), large / "s.tif"
    options = ["--workers", "2", "-q", "--compression", "zstd", "--effort", "19", "--scratch", tmp_path]
    process = start("convert", slide, tmp_path / "o.tif", *options)
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(tmp_path)), 30)
    (os.killpg if whom == "group" else os.kill)(process.pid, number)
    code, errors = end(process)
    assert code == 128 + number, errors
    assert os.listdir(tmp_path) == []


def test_signal_is_not_taken_for_too_late_because_of_somebody_elses_file(tmp_path, large):
    out = tmp_path / "o.tif"
    process = start("convert", large / "s.tif", out, "--workers", "2", "-q", "--compression", "zstd", "--effort", "19")
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(tmp_path)), 30)
    out.write_bytes(b"theirs")
    process.send_signal(signal.SIGTERM)
    code, errors = end(process)
    assert code == 143, errors
    assert out.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["o.tif"]


def filled_pipe() -> tuple[int, int]:
    """A pipe that nobody empties."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while os.write(writing, b"x" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(writing, True)
    return reading, writing


def ends_with(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


BUSY = ["--workers", "2", "--compression", "zstd", "--effort", "19"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"])
def test_one_signal_ends_a_run_whose_errors_nobody_reads(tmp_path, large, name):
    number, (reading, writing) = getattr(signal, name), filled_pipe()
    line = [sys.executable, "-m", "slidewright", "convert", large / "s.tif", "o.tif", "-q", *BUSY]
    process = subprocess.Popen(line, cwd=tmp_path, stderr=writing, start_new_session=True)
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(tmp_path)), 30)
    process.send_signal(number)
    begin = time.monotonic()
    assert ends_with(process, 20) == 128 + number
    assert time.monotonic() - begin < 8  # 1.1 s where nothing else runs
    assert wait_until(lambda: not session_members(process.pid), 15), "processes live on"
    assert os.listdir(tmp_path) == []
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("debug", [False, True])
def test_one_signal_ends_what_waits_in_saying_its_error(tmp_path, debug):
    """With the exit code of that error, which was decided before the signal came."""
    reading, writing = filled_pipe()
    line = [sys.executable, "-m", "slidewright", "info", "missing.npy", *(["--debug"] if debug else [])]
    process = subprocess.Popen(line, cwd=tmp_path, stderr=writing, start_new_session=True)
    assert not wait_until(lambda: process.poll() is not None, 4), "it waits, as any program does"
    process.send_signal(signal.SIGTERM)
    assert ends_with(process, 20) == 2
    os.close(reading)
    os.close(writing)


def test_one_signal_ends_what_waits_for_a_reader_of_its_output(tmp_path, slide):
    reading, writing = filled_pipe()
    line = [sys.executable, "-m", "slidewright", "info", slide]
    process = subprocess.Popen(
        line, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert not wait_until(lambda: process.poll() is not None, 4)
    process.send_signal(signal.SIGTERM)
    code, errors = end(process, 20)
    assert (code, errors.count("\n"), "ended by SIGTERM" in errors) == (143, 1, True), errors
    os.close(reading)
    os.close(writing)


def test_line_is_said_to_a_reader_that_comes_within_a_moment(tmp_path, large):
    """Also after several signals."""
    reading, writing = filled_pipe()
    line = [sys.executable, "-m", "slidewright", "convert", large / "s.tif", "o.tif", "-q", *BUSY]
    process = subprocess.Popen(line, cwd=tmp_path, stderr=writing, start_new_session=True)
    os.close(writing)
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(tmp_path)), 30)
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    said = b""
    while part := os.read(reading, 1 << 16):
        said += part
    os.close(reading)
    assert ends_with(process, 20) == 143
    assert b"ended by SIGTERM" in said
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("quiet", [False, True])
def test_one_signal_ends_a_run_whose_terminal_is_stopped(tmp_path, large, quiet):
    """By Ctrl-S; without -q the bar waits for the terminal in mid-run, and in being cleaned away."""
    ours, theirs = os.openpty()
    line = [sys.executable, "-m", "slidewright", "convert", large / "s.tif", "o.tif", *BUSY, *(["-q"] if quiet else [])]
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(line, cwd=tmp_path, stderr=theirs, start_new_session=True, env=environment)
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(tmp_path)), 30)
    termios.tcflow(theirs, termios.TCOOFF)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert ends_with(process, 20) == 143
    assert wait_until(lambda: not session_members(process.pid), 15), "processes live on"
    assert os.listdir(tmp_path) == []
    os.close(theirs)
    os.close(ours)


def test_second_signal_ends_what_is_stuck_in_its_last_line(tmp_path):
    """At once, with the exit code that was decided; the first, and one that comes within a second, change nothing."""
    script = """
import pathlib, sys, time
from slidewright.cli import main
from slidewright.errors import RunError

def run(**_):
    raise RunError("it failed")

def complain(text):
    pathlib.Path("there").touch()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        time.sleep(0.1)

main.cli.main, main.complain = run, complain
sys.exit(main.main([], last=True))
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, start_new_session=True)
    assert wait_until(lambda: (tmp_path / "there").exists(), 30)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    assert process.poll() is None
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    assert ends_with(process, 5) == 1


SCRIPT = """
import sys
import numpy as np
import slidewright
def pixels(y, x, height, width):
    return np.random.default_rng(y + x).integers(0, 255, (height, width), np.uint8)
slidewright.convert(pixels, sys.argv[1], shape=(20000, 20000), dtype="uint8", n_workers=2, compression="none")
"""


def test_sigquit_to_the_group_of_a_script_leaves_nothing(tmp_path):
    """A library changes no signals: the caller dies of it, and the fork server cleans up."""
    (tmp_path / "script.py").write_text(SCRIPT)
    line = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "o.tif")]
    process = subprocess.Popen(
        line, start_new_session=True, stderr=subprocess.DEVNULL, cwd=tmp_path, preexec_fn=no_core
    )
    assert wait_until(lambda: any(name.endswith(".partial") for name in os.listdir(tmp_path)), 30)
    os.killpg(process.pid, signal.SIGQUIT)
    assert process.wait(10) == -signal.SIGQUIT
    assert wait_until(lambda: not session_members(process.pid), 15)
    assert os.listdir(tmp_path) == ["script.py"]


def no_core() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@pytest.mark.long
def test_signal_about_the_end_is_one_or_the_other(tmp_path):
    """A complete file and success, or no file and the signal's exit code."""
    campaign = Campaign("SIGTERM about the end", 10, 300)
    slide = tmp_path / "s.tif"
    tifffile.imwrite(slide, np.zeros((300, 300), np.uint8), tile=(64, 64))
    out = tmp_path / "o.tif"
    for _ in range(campaign.tries):
        number = campaign.random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        process = start("convert", slide, out, "--workers", "1", "-q")
        assert wait_until(lambda p=process: out.exists() or p.poll() is not None, 30)
        time.sleep(campaign.random.choice([0, campaign.random.uniform(0, 0.2)]))
        process.send_signal(number)
        code, errors = end(process)
        assert (code, out.exists()) == (0, True), (code, errors)
        assert "Traceback" not in errors, errors
        out.unlink()
        campaign.count(number.name)
    campaign.close()


@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signal_in_a_callback_of_the_interpreter_is_not_lost(number, code, slow):
    """What a weak reference's callback raises is printed and dropped; Python's import locks have such callbacks.

    So is what the hook raises that is told of it: on a busy machine the signal that is sent again can come there.
    """
    script = f"""
import _thread, signal, sys, time, weakref
from slidewright.cli import main

start = _thread.start_new_thread

def started(*what):
    _thread.start_new_thread = start
    start(*what)
    time.sleep(0.2)

def run(**_):
    if {slow}:
        _thread.start_new_thread = started
    class Thing: ...
    thing = Thing()
    reference = weakref.ref(thing, lambda _: signal.raise_signal({int(number)}))
    del thing
    time.sleep(20)

main.cli.main = run
sys.exit(main.main([], last=True))
"""
    begin = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("verb", ["demo", "bench"])
def test_the_folder_of_what_was_killed_goes_with_the_next_run(tmp_path, slide, verb, monkeypatch):
    home = tmp_path / "tmp"
    home.mkdir()
    monkeypatch.setenv("TMPDIR", str(home))
    line = ["demo", tmp_path / "d.tif"] if verb == "demo" else ["bench", "convert", slide, "--workers", "1"]
    process = start(*line)
    left = wait_until(lambda: [path for path in home.iterdir() if path.is_dir()], 60)
    process.kill()
    process.communicate(timeout=30)
    assert left
    code, errors = end(start("demo", tmp_path / "next.tif", "--side", "1024"))
    assert (code, [path.name for path in home.iterdir() if path.name.startswith("slidewright")]) == (0, []), errors
