"""Locks and the removal of what dead runs left, also where several hosts share a disk."""

from __future__ import annotations

import errno
import os
import time

import pytest

from slidewright.pyramid.level_store import ScratchFolder
from slidewright.system import mounts
from slidewright.system.file_lock import FileLock

MOUNTS = "1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:9 / {} rw,relatime shared:1 - {} server:/x {}\n"


@pytest.fixture
def dead(tmp_path, monkeypatch):
    """The scratch of a run on another host, of which nothing is known."""
    folder = tmp_path / "slidewright-scratch-0123456789abcdef"
    folder.mkdir()
    (tmp_path / "slidewright-scratch-0123456789abcdef.lock").write_text("some-other-host")
    monkeypatch.setattr(mounts, "_MOUNTS", str(tmp_path / "mounts"))
    return folder


@pytest.mark.parametrize(
    ("kind", "options", "removed"),
    [
        ("ext4", "rw", True),
        ("nfs4", "rw,vers=4.2,local_lock=none", True),
        ("nfs", "rw,vers=3,local_lock=flock", False),
        ("nfs", "rw,nolock", False),
        ("lustre", "rw,flock", True),
        ("lustre", "rw,localflock", False),
        ("beegfs", "rw", False),
        ("fuse.sshfs", "rw", False),
        ("gpfs", "rw", True),
    ],
)
def test_scratch_of_another_host_is_removed_only_where_its_lock_would_be_seen(tmp_path, dead, kind, options, removed):
    (tmp_path / "mounts").write_text(MOUNTS.format(tmp_path, kind, options))
    ScratchFolder(tmp_path).remove()
    assert dead.exists() != removed


@pytest.mark.parametrize("kind", ["beegfs", "nfs4"])
def test_scratch_of_a_dead_run_of_this_host_is_removed_on_every_disk(tmp_path, dead, kind):
    (tmp_path / "mounts").write_text(MOUNTS.format(tmp_path, kind, "local_lock=all"))
    lock = tmp_path / "slidewright-scratch-0123456789abcdef.lock"
    lock.unlink()
    FileLock(str(lock)).release()
    ScratchFolder(tmp_path).remove()
    assert not dead.exists()


def test_partial_file_of_another_host_is_left_alone_beside_a_destination(tmp_path, dead):
    from slidewright.conversions.destination import sweep_beside

    (tmp_path / "mounts").write_text(MOUNTS.format(tmp_path, "beegfs", "rw"))
    partial, lock = (tmp_path / f".o.tif.{'0' * 16}.{what}" for what in ("partial", "lock"))
    partial.write_text("half")
    lock.write_text("some-other-host")
    sweep_beside(tmp_path / "o.tif")
    assert partial.exists()
    (tmp_path / "mounts").write_text(MOUNTS.format(tmp_path, "xfs", "rw"))
    sweep_beside(tmp_path / "o.tif")
    assert not partial.exists()
    assert not lock.exists()


def test_folder_that_can_not_be_removed_keeps_its_lock_for_the_next_run(tmp_path, monkeypatch):
    """NFS keeps a removed file that is open under the name .nfs..., and with it the folder."""
    folder = ScratchFolder(tmp_path)

    def busy(path):
        raise OSError(errno.ENOTEMPTY, "Directory not empty", path)

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *_, **__: None)
        patched.setattr(os, "rmdir", busy)
        folder.remove()
    assert sorted(os.listdir(tmp_path)) == [os.path.basename(folder.path), os.path.basename(folder.path) + ".lock"]
    ScratchFolder(tmp_path).remove()
    assert os.listdir(tmp_path) == []


def test_lock_whose_release_a_signal_interrupts_is_not_closed_twice(tmp_path, monkeypatch):
    """Its number may be that of another file by then; else Ctrl-C came as an error of a bad descriptor."""
    lock, close = FileLock(str(tmp_path / "lock")), os.close

    def interrupted(fd):
        close(fd)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lock.release()
    monkeypatch.undo()
    lock.release()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_that_lives_on_does_not_keep_a_lock(tmp_path):
    lock, path = FileLock(str(tmp_path / "lock")), str(tmp_path / "lock")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        time.sleep(0.2)
        with pytest.raises(BlockingIOError):
            FileLock(path, wait=False)
        lock.release()
        FileLock(path, wait=False).release()
    finally:
        os.close(write)
        os.waitpid(child, 0)
