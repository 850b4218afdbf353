"""Workers as threads."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import pytest
from fake_sources import SlowSource
from oracle import pyramid
from written import assert_levels_equal_oracle

import slidewright
from slidewright.system import launcher as processes
from slidewright.system.thread_pool import ThreadPool


def test_workers_as_threads_where_there_is_no_fork(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "make_launcher", lambda preload: processes.ThreadLauncher())
    source = SlowSource(300, 400)
    slidewright.convert(source, tmp_path / "out.tif", n_workers=3, tile_size=32, compression="deflate", block_tiles=2)
    assert len(pyramid(source.pixels(), 32)) == 5
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)


def main(connection, end):
    """Of a worker whose pipe does not end, since a fork of the program has it too."""
    end.wait()


@pytest.mark.timeout(60)
def test_threads_that_do_not_end_are_waited_for_together(monkeypatch):
    monkeypatch.setattr(processes, "_THREAD_PATIENCE", 1.0, raising=False)
    launcher, end = processes.ThreadLauncher(), threading.Event()
    for number in range(4):
        launcher.spawn(__name__, f"w{number}", end)
    begin = time.monotonic()
    launcher.close()
    seconds = time.monotonic() - begin
    end.set()
    assert seconds < 4


LATE = """
import atexit, contextlib, sys, threading, warnings
import numpy as np
import slidewright
from slidewright.system.thread_pool import ThreadPool

def late():
    if sys.argv[1] == "thread":
        threading.main_thread().join()
    pool = ThreadPool(2, "late")
    assert list(pool.map(abs, [-1, -2, -3])) == [1, 2, 3]
    pool.shutdown()
    slidewright.convert(np.zeros((600, 700, 3), "u1"), "out.ome.zarr", n_workers=0)
    try:
        slidewright.convert("out.ome.zarr", "out.tif", n_workers=1)
    except slidewright.SourceError as error:  # CPython 3.12 starts no thread any more; that of zarr is one
        assert sys.version_info[:2] == (3, 12) and "thread.join()" in str(error), error
        slidewright.convert(np.zeros((600, 700, 3), "u1"), "out.tif", n_workers=1)
        for ask in (slidewright.info, slidewright.verify_file):
            with contextlib.suppress(slidewright.SourceError):
                ask("out.ome.zarr")
                print("not refused")
    try:
        slidewright.convert("out.ome.zarr", "late.tif", compression="deflate", n_workers=0)
    except slidewright.SourceError as error:
        assert "thread.join()" in str(error), error
    print("done")

slidewright.convert  # its modules are imported by the main thread
threading.Thread(target=late).start() if sys.argv[1] == "thread" else atexit.register(late)
"""


@pytest.mark.parametrize("where", ["thread", "atexit"])
def test_a_conversion_outlives_the_main_thread(tmp_path, where):
    line = [sys.executable, "-c", LATE, where]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "done\n", done.stderr
    assert slidewright.verify_file(tmp_path / "out.tif").levels


def test_an_import_after_the_main_thread_says_what_to_do():
    late = "(threading.main_thread().join(), slidewright.convert)"
    code = f"import slidewright, threading; threading.Thread(target=lambda: {late}).start()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "RunError: the program's main thread has ended" in done.stderr


def test_threads_that_fail_or_are_cancelled():
    gate = threading.Event()
    pool = ThreadPool(1, "test")
    first, failing, late = pool.submit(gate.wait, 30), pool.submit(int, "x"), pool.submit(int)
    late.cancel()
    gate.set()
    assert first.result(30)
    with pytest.raises(ValueError, match="invalid literal"):
        failing.result(30)
    pool.shutdown(cancel_futures=True)
    assert late.cancelled()
