"""Files are opened with distrust: what is read is a regular file, what is made was not there before."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import slidewright
from slidewright.system import files

HOME = Path(slidewright.__file__).parent
SYSTEM = ("/proc/", "_MOUNTS", "os.devnull")  # what the kernel itself writes


def calls_of_open(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text())
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    ]


def is_careful(call: ast.Call) -> bool:
    """With an opener of ours, for a new file, or of the kernel's."""
    text = ast.unparse(call)
    new = len(call.args) > 1 and isinstance(call.args[1], ast.Constant) and "x" in str(call.args[1].value)
    return "opener=" in text or new or any(name in text for name in SYSTEM)


def test_every_open_says_what_it_expects():
    """A path may lead to a FIFO, which is waited for without end, or to a link that somebody planted."""
    careless = [
        f"{path.relative_to(HOME)}:{call.lineno}"
        for path in HOME.rglob("*.py")
        if "bench" not in path.parts
        for call in calls_of_open(path)
        if not is_careful(call)
    ]
    assert careless == []


WATCHED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
folder = Path(sys.argv[1])
events = []
def caller():
    return sys._getframe(2).f_code.co_filename  # of the hook: the tests copy files too
def hook(event, arguments):
    if event == "open" and str(arguments[0]).startswith(str(folder)) and "shutil" not in caller():
        path, mode, flags = arguments
        if mode is None and events and events[-1][0] == path and events[-1][1] is not None:
            events.pop()  # the call with an opener, which opens it now
        events.append((path, mode, flags))
from faults import ways
ways.make_places(folder, 200, 300)
sys.addaudithook(hook)
for way in ways.WAYS.values():
    way.prepare(folder)
    (way.finish or way.run)(folder, 0)
    ways.clear(folder)
for path, mode, flags in events:
    if flags & os.O_CREAT and not flags & os.O_EXCL:
        print(os.path.relpath(path, folder), "not followed" if flags & os.O_NOFOLLOW else "followed")
print(sum(bool(flags & os.O_EXCL) for _, _, flags in events), "new")
"""


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="flags as POSIX knows them")
def test_what_is_made_was_not_there_before(tmp_path):
    """Of each way to make a file: with O_EXCL, but for locks, which are not followed, and what the caller named."""
    code = WATCHED.format(tests=str(Path(__file__).parents[1]))
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    *others, last = done.stdout.splitlines()
    assert int(last.split()[0]) > 100
    careless = {line for line in others if not line.endswith("lock not followed")}
    assert careless <= {"m.csv followed", "work/log.jsonl followed"}, careless


def test_short_reads_are_put_together(tmp_path, monkeypatch):
    """A network disk may give less than it was asked for."""
    path = tmp_path / "f"
    path.write_bytes(bytes(range(200)))
    real, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, count, offset: real(fd, min(count, 7), offset))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [buffers[0][:7]], offset))
    from slidewright.system.pixel_file import PixelFile

    file = PixelFile(str(path))
    assert file.read(10, 50) == bytes(range(10, 60))
    assert file.read(190, 50) == bytes(range(190, 200))
    out = bytearray(40)
    assert file.read_rows(0, 20, 10, 4, memoryview(out), 10) == 4
    assert out == bytes([*range(10), *range(20, 30), *range(40, 50), *range(60, 70)])
    assert file.read_rows(160, 20, 15, 4, memoryview(bytearray(60)), 15) == 2
    file.close()
    with open(path, "rb", buffering=0) as raw:
        assert files.fill_from(raw, memoryview(out)) == 40


LOSING = """
import os, sys
from slidewright.system.files import tell_of_loss
fds = [os.open("lossy/file", os.O_RDWR | os.O_CREAT), os.open("lossy/file", os.O_RDONLY)]
os.posix_fallocate(fds[0], 0, 20 << 20)
os.pwrite(fds[0], bytes(1 << 20), 0)
os.sync()
tell_of_loss(fds[0])
os.pwrite(fds[0], b"x" * (20 << 20), 0)
os.sync()
for fd in fds:
    try:
        tell_of_loss(fd)
    except OSError as error:
        print(error.strerror)
    tell_of_loss(fd)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="needs root, to mount a disk")
@pytest.mark.timeout(60)
def test_a_disk_with_less_behind_it_than_it_says_tells_of_what_it_has_lost(tmp_path):
    """Once to each open file. The image of the disk lies on a disk that is too small for it."""
    script = """mkdir small lossy && mount -t tmpfs -o size=8m tmpfs small && truncate -s 64m small/image &&
        mkfs.ext4 -q -O ^has_journal small/image && mount -o loop small/image lossy || exit 77; exec "$0" -c "$1" """
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable, LOSING], capture_output=True, text=True, cwd=tmp_path
    )
    if done.returncode in (1, 77, 127) and "Traceback" not in done.stderr:
        pytest.skip(f"no such disk can be had: {done.stderr}")
    assert (done.returncode, done.stdout) == (0, "the disk has lost a part of what was written\n" * 2), done.stderr


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["partial", "lock"])
def test_signal_while_what_a_lock_is_for_is_removed_leaves_neither(tmp_path, monkeypatch, name):
    paths, real = [tmp_path / each for each in ("partial", "lock")], files.remove
    came = []

    def interrupted(path):
        if path == str(tmp_path / name) and not came:
            came.append(path)
            raise KeyboardInterrupt
        real(path)

    for path in paths:
        path.touch()
    monkeypatch.setattr(files, "remove", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.remove_guarded(*map(str, paths))
    assert os.listdir(tmp_path) == []


def test_error_of_closing_a_folder_does_not_keep_it_from_being_removed(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    real, failed = os.close, []

    def told_late(fd):
        real(fd)
        if not failed:
            failed.append(fd)
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "close", told_late)
    files.remove(str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []


def test_system_without_a_temporary_folder_is_told_what_to_give(tmp_path, monkeypatch):
    """As a container whose disks are read-only, but for the one that is written to."""

    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    given = {"tile_size": 64, "n_workers": 0}
    with pytest.raises(slidewright.OutputError, match=r"no folder for temporary files .* --scratch .* or TMPDIR"):
        slidewright.convert(np.zeros((300, 200), np.uint8), tmp_path / "o.tif", **given)
    assert os.listdir(tmp_path) == []
    slidewright.convert(np.zeros((300, 200), np.uint8), tmp_path / "o.tif", scratch=tmp_path, **given)
    assert os.listdir(tmp_path) == ["o.tif"]
