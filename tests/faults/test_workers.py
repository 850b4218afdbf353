"""Workers that hang, run out of memory or are orphaned: dealt with, told as such, and the run goes on if it can."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from children import heed_ctrl_c
from faults.campaign import session_members, wait_until
from faults.fault_sources import FaultySource
from oracle import pyramid
from written import assert_levels_equal_oracle

import slidewright
from slidewright.errors import OptionError, RunError

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are threads where there is no fork"),
]
TESTS = Path(__file__).parents[1]
OPTIONS = {"tile_size": 32, "compression": "deflate", "block_tiles": 2, "n_workers": 2}


@pytest.mark.long
def test_worker_that_hangs_is_killed_and_its_block_redone(tmp_path):
    source = FaultySource(300, 400, "hang", (96, 128), str(tmp_path / "marker"))
    report = slidewright.convert(source, tmp_path / "out.tif", timeout=5.0, **OPTIONS)  # a busy machine is no fault
    assert report.retries == 1
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)


def test_block_that_always_hangs_ends_the_run_and_is_named(tmp_path):
    source = FaultySource(300, 400, "hang", (96, 128))
    with pytest.raises(RunError, match=r"row 1, column 2 .*not done with it after 0\.3 s, the limit \(timeout\)"):
        slidewright.convert(source, tmp_path / "out.tif", timeout=0.3, **OPTIONS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [0, -1, "5", float("nan")])
def test_senseless_timeout_is_refused(value):
    with pytest.raises(OptionError, match="timeout"):
        slidewright.ConvertOptions(timeout=value)


def test_memory_error_in_a_worker_is_retried_with_fewer_workers(tmp_path):
    source = FaultySource(300, 400, "no memory", (96, 128), str(tmp_path / "marker"))
    report = slidewright.convert(source, tmp_path / "out.tif", **OPTIONS)
    assert report.warnings == ("memory ran out; the run went on with 1 of 2 workers",)
    assert report.retries == 1
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)


def test_block_that_never_has_enough_memory_is_named_with_the_reason(tmp_path):
    source = FaultySource(300, 400, "no memory", (96, 128))
    with pytest.raises(
        RunError, match=r"row 1, column 2 .*ran out of memory; use fewer workers or a smaller tile_size"
    ):
        slidewright.convert(source, tmp_path / "out.tif", **OPTIONS)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds for all private memory on Linux only")
def test_worker_that_asks_for_far_more_than_its_share_is_refused_it(tmp_path):
    source = FaultySource(300, 400, "greedy", (96, 128))
    with pytest.raises(RunError, match="ran out of memory"):
        slidewright.convert(source, tmp_path / "out.tif", memory="600MB", **OPTIONS)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's out-of-memory killer")
def test_kernel_short_of_memory_would_take_a_worker_first(tmp_path):
    import psutil

    scores = {}

    def look(_):
        for process in psutil.Process().children(recursive=True):
            try:
                scores[process.name()] = int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())
            except (psutil.Error, OSError):
                continue

    own = int(Path("/proc/self/oom_score_adj").read_text())
    source = FaultySource(900, 900, "", (0, 0))
    slidewright.convert(source, tmp_path / "out.tif", progress=look, **OPTIONS)
    assert scores.get("slidewright-w0", 400) >= 400
    assert scores.get("slidewright-wri", own) == own


def test_nursery_notices_the_death_of_a_caller_whose_fork_lives_on(tmp_path):
    """A program that forks has two copies of each socket: the death of the one is no end of file."""
    code = f"""\
        import os, sys, threading, time
        sys.path.insert(0, {str(TESTS)!r})
        os.setsid()
        import slidewright
        from faults.fault_sources import FaultySource
        source = FaultySource(300, 400, "hang", (96, 128))
        options = {OPTIONS!r}
        run = lambda: slidewright.convert(source, {str(tmp_path / "out.tif")!r}, scratch={str(tmp_path)!r}, **options)
        threading.Thread(target=run, daemon=True).start()
        time.sleep(2)
        if os.fork() == 0:
            os.setsid()
            os.write(1, b"ready\\n")
            time.sleep(30)
            os._exit(0)
        time.sleep(30)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    (fork,) = [pid for pid in os.listdir("/proc") if pid.isdigit() and _is_fork_of(int(pid), process.pid)]
    try:
        assert wait_until(lambda: len(session_members(process.pid)) >= 4, 20)
        process.kill()
        process.wait()
        assert wait_until(lambda: not session_members(process.pid), 15)
        assert wait_until(lambda: not list(tmp_path.iterdir()), 15)
    finally:
        os.kill(int(fork), signal.SIGKILL)
        process.stdout.close()


def _is_fork_of(pid: int, parent: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[1]) == parent and int(fields[3]) == pid


def slow_command(tmp_path):
    """A conversion from the command line that takes many seconds."""
    import numpy as np

    np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.uint8, (20_000, 20_000, 3))  # a hole: no disk, no memory
    line = [sys.executable, "-m", "slidewright", "convert", tmp_path / "in.npy", tmp_path / "out.tif"]
    return [
        *map(str, line),
        "--compression",
        "deflate",
        "--effort",
        "12",
        "--workers",
        "2",
        "--timeout",
        "600",
        "--scratch",
        str(tmp_path),
    ]


@pytest.mark.long
@pytest.mark.parametrize(
    ("first", "second", "after", "code"),
    [
        (signal.SIGINT, None, 0.0, 130),
        (signal.SIGTERM, None, 0.0, 143),
        (signal.SIGINT, signal.SIGINT, 0.0, 130),
        (signal.SIGINT, signal.SIGINT, 0.1, 130),
        (signal.SIGTERM, signal.SIGTERM, 0.02, 143),
        (signal.SIGINT, signal.SIGTERM, 0.05, 130),
    ],
)
@pytest.mark.alone
def test_signals_end_a_run_soon_clean_and_with_the_right_code(tmp_path, first, second, after, code):
    process = subprocess.Popen(
        slow_command(tmp_path), stderr=subprocess.PIPE, start_new_session=True, text=True, preexec_fn=heed_ctrl_c
    )
    assert wait_until(lambda: any(p.suffix == ".partial" for p in tmp_path.iterdir()), 20)
    time.sleep(0.5)
    begin = time.monotonic()
    os.killpg(process.pid, first)  # as a terminal does: to everybody of the run
    if second is not None:
        time.sleep(after)
        try:
            os.killpg(process.pid, second)
        except ProcessLookupError:
            pass
    _, errors = process.communicate(timeout=10)
    assert process.returncode == code, errors
    assert time.monotonic() - begin < 9  # the blocks under way would take longer, and the run many minutes
    assert "Traceback" not in errors
    assert wait_until(lambda: not session_members(process.pid), 15)
    assert [p.name for p in tmp_path.iterdir()] == ["in.npy"]


def test_levels_of_the_faulty_source_are_what_the_oracle_says(tmp_path):
    """The tests above prove something only if the source is a real one when nothing is wrong."""
    source = FaultySource(100, 130, "", (0, 0))
    slidewright.convert(source, tmp_path / "out.tif", **OPTIONS)
    assert len(pyramid(source.pixels(), 32)) == 3
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)
