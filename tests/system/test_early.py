"""The fork server that the command begins first of all: when it does, who gets it, and that it goes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from children import named
from faults.campaign import digest, session_members, wait_until

import slidewright
from slidewright.errors import RunError
from slidewright.system import early
from slidewright.system.launcher import ProcessLauncher

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork servers here")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.npy"
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (2400, 2400, 3))
    pixels[:] = np.arange(2400, dtype=np.uint8)[:, None]
    assert path.stat().st_size > early.LARGE_SOURCE
    return path


@pytest.fixture
def begun() -> list[early.ForkServer]:
    yield early._ahead
    early.drop()


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "slidewright", *map(str, words)]


@pytest.mark.parametrize(
    ("line", "needed"),
    [
        ("convert LARGE o.tif", True),
        ("convert --tile-size 256 LARGE o.tif --workers 2", True),
        ("shard LARGE folder --index 0 --count 2", True),
        ("convert LARGE o.tif --workers 0", False),
        ("convert LARGE o.tif --workers=0", False),
        ("convert small o.tif --workers 2", True),
        ("convert --workers=1 small o.tif", True),
        ("convert LARGE o.tif --workers", True),
        ("convert LARGE o.tif --workers -1", False),
        ("convert LARGE o.tif --dry-run", False),
        ("convert --help LARGE", False),
        ("convert small o.tif", False),
        ("convert missing o.tif", False),
        ("convert https://example.org/slide.tif o.tif", False),
        ("convert nul\0l o.tif", False),
        ("convert . o.tif", False),
        ("info LARGE", False),
        ("", False),
    ],
)
def test_it_begins_for_a_large_slide_that_is_converted_by_processes(
    line: str, needed: bool, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[object]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small").write_bytes(b"small")
    monkeypatch.setattr(early, "start", lambda _: (None, None))
    early.begin([str(large) if word == "LARGE" else word for word in line.split(" ") if word])
    assert len(begun) == needed
    begun.clear()


def test_no_process_is_no_error_yet(large: Path, monkeypatch: pytest.MonkeyPatch, begun: list[object]) -> None:
    def refuse(_: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(early, "start", refuse)
    early.begin(["convert", str(large), "o.tif"])
    assert begun == []


def test_conversion_takes_what_was_begun(large: Path, tmp_path: Path, begun: list[early.ForkServer]) -> None:
    slidewright.convert(large, tmp_path / "a.tif", n_workers=2)
    early.begin(["convert", str(large), "o.tif"])
    ((_, process),) = begun
    slidewright.convert(large, tmp_path / "b.tif", n_workers=2)
    assert begun == []
    assert process.returncode == 0  # ended, and waited for
    assert digest(tmp_path / "a.tif") == digest(tmp_path / "b.tif")


@pytest.mark.timeout(60)
def test_death_that_is_told_together_with_the_answer_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(ProcessLauncher()) as launcher:
        messages = launcher._messages

        def late_messages() -> list[dict[str, object]]:
            assert wait_until(lambda: bool(named("nobody")), 20)
            named("nobody")[0].kill()
            time.sleep(0.5)  # as this process does where others have the processors
            return messages()

        monkeypatch.setattr(launcher, "_messages", late_messages)
        child = launcher.spawn("slidewright.no_such_module", "nobody", None)
        monkeypatch.undo()
        assert launcher.reason(child).startswith("it was killed by SIGKILL")


@pytest.mark.timeout(60)
def test_path_is_not_taken_while_another_thread_imports_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "typing.py").write_text("raise ImportError('this is that of OpenCV')")
    monkeypatch.setattr(sys, "OpenCV_LOADER", True, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    threading.Timer(0.3, monkeypatch.undo).start()
    with contextlib.closing(ProcessLauncher()) as launcher:
        child = launcher.spawn("slidewright.no_such_module", "nobody", None)
        assert launcher.reason(child) == "it ended with exit code 1"


def test_what_else_children_need_is_imported_there(large: Path, begun: list[early.ForkServer]) -> None:
    early.begin(["convert", str(large), "o.tif"])
    launcher = ProcessLauncher((*early.PRELOAD, "slidewright.no_such_module", "slidewright.conversions.keeping"))
    child = launcher.spawn("slidewright.no_such_module", "nobody", None)
    assert launcher.reason(child) == "it ended with exit code 1"
    launcher.close()
    assert launcher._forkserver.returncode == 0


def test_what_nobody_took_is_ended(large: Path, begun: list[early.ForkServer]) -> None:
    early.begin(["convert", str(large), "o.tif"])
    ((_, process),) = begun
    early.drop()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("words", [["--no-such-option"], ["--compression", "zst"], ["--workers", "x"]])
def test_bad_usage_leaves_no_process(words: list[str], large: Path, tmp_path: Path) -> None:
    line = command("convert", large, tmp_path / "o.tif", *words)
    process = subprocess.Popen(line, start_new_session=True, stderr=subprocess.PIPE)
    assert process.stderr is not None
    said = process.stderr.read()
    assert process.wait(30) == 2
    assert said.count(b"\n") == 1
    assert session_members(process.pid) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signal_while_both_import_leaves_no_process(number: int, large: Path, tmp_path: Path) -> None:
    """To the group, as a terminal does it, and at once: nobody has a handler yet."""
    process = subprocess.Popen(command("convert", large, tmp_path / "o.tif"), start_new_session=True)
    assert wait_until(lambda: len(session_members(process.pid)) > 1, 20)
    os.killpg(process.pid, number)
    assert process.wait(20) in (-number, 128 + number)
    assert wait_until(lambda: not session_members(process.pid), 15)
    assert wait_until(lambda: not any(".partial" in name for name in os.listdir(tmp_path)), 15)


def test_path_in_sys_path_is_passed_over_as_python_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, tmp_path])
    with contextlib.closing(ProcessLauncher()) as launcher:
        launcher.own(str(tmp_path / "nothing"))
        assert launcher.reason(launcher.spawn("slidewright.no_such_module", "nobody", None)).endswith("exit code 1")


@pytest.mark.timeout(60)
def test_time_limit_of_the_callers_sockets_is_not_that_of_its_answers(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(early, "PRELOAD", ("slidewright_is_still_importing", *early.PRELOAD))
    (tmp_path / "slidewright_is_still_importing.py").write_text("import time; time.sleep(1)")
    monkeypatch.syspath_prepend(tmp_path)
    socket.setdefaulttimeout(0.2)
    try:
        assert slidewright.convert(large, tmp_path / "o.tif", n_workers=2).n_workers == 2
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.parametrize(("name", "value"), [("frozen", True), ("executable", ""), ("executable", None)])
def test_program_that_is_no_python_is_not_started_by_itself(
    name: str, value: object, large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, name, value, raising=False)
    monkeypatch.setattr(early, "start", lambda *_: pytest.fail("it would start itself"))
    early.begin(["convert", str(large), "o.tif"])
    assert slidewright.convert(large, tmp_path / "o.tif", n_workers=2).n_workers == 2


def test_signal_that_is_held_back_while_it_starts_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook, where the traceback, and with it the socket, may be kept for hours."""
    started = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)  # type: ignore[call-overload]
            started.append(self)
            # To this thread: one for the process goes to whichever thread lets it through, some time.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    monkeypatch.setattr(early.subprocess, "Popen", Interrupted)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt) as kept:
        early.start(())
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    assert kept.tb is not None


@pytest.mark.skipif(sys.platform != "linux", reason="how Popen starts a process elsewhere is its own matter")
def test_fork_by_another_thread_does_not_keep_its_start_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it would with the pipe that Popen waits for where it forks."""
    monkeypatch.setattr(subprocess, "_fork_exec", lambda *_: pytest.fail("it forked"))
    connection, process = early.start(())
    with connection:
        process.kill()
        process.wait()


def test_death_is_seen_where_a_child_of_the_callers_has_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that another thread starts in the moment in which the socket may be inherited."""
    kept: list[int] = []

    class Beside(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *given: object, **named: object) -> None:
            kept.extend(os.dup(number) for first, end in early._inherited() for number in range(first, end))
            super().__init__(*given, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(early.subprocess, "Popen", Beside)
    launcher = ProcessLauncher(())
    try:
        assert kept
        launcher._forkserver.kill()
        with pytest.raises(RunError, match="the helper process that starts workers is gone"):
            launcher.spawn("slidewright.engine.worker", "worker", None)
    finally:
        launcher.close()
        for number in kept:
            os.close(number)


def test_descriptors_of_the_callers_are_not_kept_open() -> None:
    """Others may wait for the end of a pipe, also of one that children of the caller's inherit."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    connection, process = early.start(())
    with connection:
        os.close(writing)
        os.set_blocking(reading, False)
        assert wait_until(lambda: _is_at_end(reading), 30)
        assert process.poll() is None
        process.kill()
        process.wait()
    os.close(reading)


def _is_at_end(fd: int) -> bool:
    try:
        return os.read(fd, 1) == b""
    except BlockingIOError:
        return False


def test_closed_standard_streams_are_no_ends_of_its_socket(large: Path, tmp_path: Path) -> None:
    words = command("convert", large, tmp_path / "o.tif", "--workers", "2")
    line = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words]
    assert subprocess.run(line, timeout=60, check=False).returncode == 0
    assert os.listdir(tmp_path) == ["o.tif"]
