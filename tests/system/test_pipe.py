"""Pipes whose ends close their descriptor once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
from multiprocessing.connection import Connection, wait

import pytest

from slidewright.system.pipe import PipeEnd, make_pipe

pytestmark = pytest.mark.timeout(120)


def test_what_is_sent_arrives_and_can_be_waited_for():
    ours, theirs = make_pipe()
    assert isinstance(ours, Connection) or sys.platform == "win32"
    assert wait([ours], 0) == []
    theirs.send({"a": 1})
    assert wait([ours], 5) == [ours]
    assert ours.recv() == {"a": 1}
    theirs.close()
    assert wait([ours], 5) == [ours]
    with pytest.raises(EOFError):
        ours.recv()
    ours.close()


@pytest.mark.skipif(os.name == "nt", reason="numbers of descriptors")
def test_finalised_end_closes_no_number_again():
    """As the cycle collector does it: `__del__` comes first, then who used the connection closes it."""
    ours, theirs = make_pipe()
    number = ours.fileno()
    ours.__del__()
    mine = os.open(os.devnull, os.O_RDONLY)
    assert mine == number
    ours.close()
    ours.__del__()
    del ours
    gc.collect()
    os.fstat(mine)
    os.close(mine)
    theirs.close()


def answer(end):
    end.send((type(end).__name__, end.recv() + 1))


@pytest.mark.parametrize("way", multiprocessing.get_all_start_methods())
def test_end_can_be_given_to_another_process(way):
    context = multiprocessing.get_context(way)
    ours, theirs = make_pipe()
    process = context.Process(target=answer, args=(theirs,))
    process.start()
    theirs.close()
    ours.send(4)
    assert ours.poll(60)
    assert ours.recv() == (PipeEnd.__name__, 5)
    process.join(30)
    ours.close()


WRITER = """
import gc, os, sys, threading, time
import numpy as np
import slidewright
from slidewright.system import launcher

if {threads}:
    launcher.make_launcher = lambda preload: launcher.ThreadLauncher()
class Holder: ...
holder = Holder()
holder.writer = slidewright.PyramidWriter("o.tif", (2000, 2000, 3), tile_size=128, n_workers=2).open()
holder.writer.write_tile(np.zeros((128, 128, 3), np.uint8), 0, 0)
gc.collect()
holder.me = holder
stop, bad = False, []
def work(number):
    while not stop:
        try:
            fd = os.open(f"user-{{number}}", os.O_WRONLY | os.O_CREAT)
            for _ in range(20):
                os.write(fd, b"line")
                time.sleep(0.002)
            os.close(fd)
        except OSError as error:
            bad.append(str(error))
threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
for thread in threads:
    thread.start()
time.sleep(0.3)
del holder
gc.collect()
time.sleep(0.5)
stop = True
for thread in threads:
    thread.join()
print(bad)
"""


def run(script, folder):
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.parametrize("threads", [False, True])
def test_writer_that_dies_in_a_cycle_closes_no_file_of_another_thread(tmp_path, threads):
    done = run(WRITER.format(threads=threads), tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert threads or not [name for name in os.listdir(tmp_path) if not name.startswith("user-")]


@pytest.mark.parametrize("workers", [1, 2])
def test_writer_that_is_open_when_the_program_ends_says_nothing(tmp_path, workers):
    script = (
        "import sys, numpy as np, slidewright\n"
        f"w = slidewright.PyramidWriter('o.tif', (2000, 2000, 3), tile_size=128, n_workers={workers}).open()\n"
        "w.write_tile(np.zeros((128, 128, 3), np.uint8), 0, 0)\n"
        "sys.exit(3)\n"
    )
    done = run(script, tmp_path)
    assert (done.returncode, done.stderr) == (3, "")
