"""The stores of reduced levels, read by zarr, and what becomes of those of dead runs."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slidewright.errors import OutputError
from slidewright.geometry import Region, Size
from slidewright.pixels import PixelFormat
from slidewright.pyramid import chunks
from slidewright.pyramid.level_store import Scratch, ScratchFolder
from slidewright.pyramid.plan import make_plan
from slidewright.sources.base import BLANK
from slidewright.system.mounts import Mounts


@pytest.mark.parametrize("single", [False, True])
def test_scratch_is_a_zarr_array(tmp_path, single):
    zarr = pytest.importorskip("zarr")
    for dtype in ("uint8", "uint16"):
        folder = tmp_path / dtype
        plan = make_plan(Size(500, 700), 32, block_tiles=2)
        folder.mkdir()
        scratch = Scratch(str(folder), plan, PixelFormat("rgb", dtype, 3, "mean", (1, 2, 3)), single=single)
        scratch.create()
        size = plan.levels[2].size
        pixels = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(dtype)
        level = scratch.level(2)
        for y in range(0, size.height, 16):
            for x in range(0, size.width, 16):
                region = Region(y, x, 16, 16).clipped(size)
                level.write(region, pixels[y : y + 16, x : x + 16])
        np.testing.assert_array_equal(zarr.open_array(level.path, mode="r")[:], pixels)
        out = np.empty((32, 32, 3), dtype)
        np.testing.assert_array_equal(level.read(96, 160, 29, 15, out), pixels[96:125, 160:175])


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("band", [1, 3])
def test_scratch_of_planes_is_read_by_band(tmp_path, band, single):
    zarr = pytest.importorskip("zarr")
    plan = make_plan(Size(200, 70), 32, block_tiles=1, planes=3, band=band)
    scratch = Scratch(str(tmp_path), plan, PixelFormat("multichannel", "uint16", 3, "mean", (0, 0, 0)), single=single)
    scratch.create()
    level = scratch.level(1)
    pixels = np.random.default_rng(0).integers(0, 65535, (100, 35, 3), dtype=np.uint16)
    for number in range(3 // band):
        for y in range(0, 100, 16):
            for x in range(0, 35, 16):
                region = Region(y, x, 16, 16).clipped(Size(100, 35))
                planes = slice(number * band, (number + 1) * band)
                level.write(region, pixels[y : y + 16, x : x + 16, planes], number)
    np.testing.assert_array_equal(zarr.open_array(level.path, mode="r")[:], pixels)
    out = np.empty((32, 32, band), np.uint16)
    last = 3 - band
    np.testing.assert_array_equal(level.read(32, 0, 32, 32, out, last), pixels[32:64, :32, last:])


@pytest.mark.parametrize("single", [False, True])
def test_missing_chunk_of_a_scratch_is_background_only_where_it_is_sparse(tmp_path, single):
    plan = make_plan(Size(100, 100), 32, block_tiles=1)
    pixels = PixelFormat("rgb", "uint8", 3, "mean", (1, 2, 3))
    out = np.empty((32, 32, 3), np.uint8)
    scratch = Scratch(str(tmp_path), plan, pixels, sparse=True, single=single)
    scratch.create()
    level = scratch.level(1)
    assert level.read(0, 0, 32, 32, out) is BLANK
    level.write(Region(0, 16, 16, 16), np.full((16, 16, 3), 9, np.uint8))
    half = level.read(0, 0, 32, 32, out)
    assert (half[:, :16] == [1, 2, 3]).all()
    assert (half[:16, 16:] == 9).all()
    with pytest.raises(OutputError, match=r"a scratch chunk of .* is missing"):
        Scratch(str(tmp_path), plan, pixels, single=single).level(1).read(0, 0, 32, 32, out)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("single", [False, True])
def test_chunk_of_which_the_disk_has_lost_a_part_is_an_error(tmp_path, single):
    """A full disk behind the temporary one, or one that breaks: nobody is told who does not wait for it."""
    plan = make_plan(Size(100, 100), 32, block_tiles=1)
    level = Scratch(str(tmp_path), plan, PixelFormat("rgb", "uint8", 3, "mean", (1, 2, 3)), single=single).level(1)
    level.create()
    for x in (0, 16):
        level.write(Region(0, x, 16, 16), np.full((16, 16, 3), 9, np.uint8))
    file = Path(level.path, "c", "0", "0" if single else "1", "0")
    data = bytearray(file.read_bytes())
    data[-100:-50] = bytes(50)
    file.write_bytes(data)
    out = np.empty((16, 16, 3), np.uint8)
    assert (level.read(0, 0, 16, 16, out) == 9).all()
    with pytest.raises(OutputError, match="has lost a part"):
        level.read(0, 16, 16, 16, out)


def test_copy_of_a_store_that_takes_its_place_is_not_read(tmp_path: Path) -> None:
    """A folder that is moved to another disk in mid-run: what others write meanwhile is not in the copy."""
    plan, pixels = make_plan(Size(100, 100), 32, block_tiles=1), PixelFormat("rgb", "uint8", 3, "mean", (1, 2, 3))
    (tmp_path / "a").mkdir()
    scratch = Scratch(str(tmp_path / "a"), plan, pixels, sparse=True, single=True)
    scratch.create()
    level = scratch.level(1)
    level.write(Region(0, 0, 16, 16), np.full((16, 16, 3), 9, np.uint8))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    level.write(Region(0, 16, 16, 16), np.full((16, 16, 3), 9, np.uint8))
    out = np.empty((32, 32, 3), np.uint8)
    scratch.level(1).read(0, 0, 32, 32, out)
    assert (out[:16] == 9).all()
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    for look in (lambda: scratch.level(1).read(0, 0, 32, 32, out), lambda: scratch.level(1).has(0, 16)):
        with pytest.raises(OutputError, match="it, or the folder that it is in, has been replaced"):
            look()


def test_files_of_fuse_may_get_other_inodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It forgets them where the system needs memory."""
    mount = Mounts().of(str(tmp_path))
    assert mount is not None
    monkeypatch.setattr(chunks.Mounts, "of", lambda *_: mount._replace(kind="fuse.sshfs"))
    plan, pixels = make_plan(Size(100, 100), 32, block_tiles=1), PixelFormat("rgb", "uint8", 3, "mean", (1, 2, 3))
    scratch = Scratch(str(tmp_path), plan, pixels, single=True)
    scratch.create()
    file = tmp_path / "level-1.zarr" / "c" / "0" / "0" / "0"
    shutil.copy(file, tmp_path / "copy")
    (tmp_path / "copy").replace(file)
    scratch.level(1).write(Region(0, 0, 16, 16), np.full((16, 16, 3), 9, np.uint8))


@pytest.mark.timeout(30)
def test_chunk_whose_entry_the_disk_has_lost_is_no_background(tmp_path, monkeypatch):
    """The entry of before says that it is missing; `test_files.py` has a disk that really loses some."""
    plan = make_plan(Size(100, 100), 32, block_tiles=1)
    pixels = PixelFormat("rgb", "uint8", 3, "mean", (1, 2, 3))
    level = Scratch(str(tmp_path), plan, pixels, sparse=True, single=True).level(1)
    level.create()
    level.write(Region(0, 0, 16, 16), np.full((16, 16, 3), 9, np.uint8))

    def lost(fd):
        raise OSError(errno.EIO, "the disk has lost a part")

    monkeypatch.setattr(chunks, "tell_of_loss", lost)
    out = np.empty((16, 16, 3), np.uint8)
    assert (level.read(0, 0, 16, 16, out) == 9).all()
    for look in (lambda: level.read(0, 16, 16, 16, out), lambda: level.has(0, 16)):
        with pytest.raises(OutputError, match="has lost a part"):
            look()


def test_chunk_of_shards_that_the_disk_has_lost_is_an_error(tmp_path, monkeypatch):
    plan = make_plan(Size(100, 100), 32, block_tiles=1)
    level = Scratch(str(tmp_path), plan, PixelFormat("rgb", "uint8", 3, "mean", (1, 2, 3))).level(1)
    level.create()
    level.write(Region(0, 0, 16, 16), np.full((16, 16, 3), 9, np.uint8))
    out = np.empty((16, 16, 3), np.uint8)
    assert (level.read(0, 0, 16, 16, out) == 9).all()

    def lost(fd):
        raise OSError(errno.EIO, "the disk has lost a part")

    monkeypatch.setattr(chunks, "tell_of_loss", lost)
    with pytest.raises(OutputError, match="has lost a part"):
        level.read(0, 0, 16, 16, out)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_what_could_not_be_written_into_a_folder_of_shards_is_gone(tmp_path, monkeypatch, failure):
    plan = make_plan(Size(200, 70), 32, block_tiles=1)
    scratch = Scratch(str(tmp_path), plan, PixelFormat("rgb", "uint8", 3, "mean", (0, 0, 0)))

    def fail(*_: Any) -> None:
        raise failure

    def left() -> list[str]:
        return [path.name for path in tmp_path.rglob("*") if path.is_file()]

    with monkeypatch.context() as patch:
        patch.setattr("slidewright.system.files.os.replace", fail)
        with pytest.raises((OutputError, KeyboardInterrupt)):
            scratch.level(1).create()
    assert left() == []
    scratch.level(1).create()
    monkeypatch.setattr(chunks, "crc32c", fail)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        scratch.level(1).write(Region(0, 0, 16, 16), np.zeros((16, 16, 3), np.uint8))
    assert left() == ["zarr.json"]


def test_scratch_of_a_dead_run_is_swept_and_of_a_living_one_kept(tmp_path):
    living = ScratchFolder(tmp_path)
    dead = tmp_path / "slidewright-scratch-0123456789abcdef"
    dead.mkdir()
    (tmp_path / "slidewright-scratch-0123456789abcdef.lock").touch()
    third = ScratchFolder(tmp_path)
    assert not list(tmp_path.glob("*dead*"))
    assert Path(living.path).exists()
    living.remove()
    third.remove()
    assert list(tmp_path.iterdir()) == []


def test_scratch_is_removed_whole_where_ctrl_c_comes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.rmtree

    def interrupted(path: str, **how: Any) -> None:
        monkeypatch.setattr(shutil, "rmtree", real)
        raise KeyboardInterrupt

    folder = ScratchFolder(tmp_path)
    (Path(folder.path) / "chunk").write_bytes(b"pixels")
    monkeypatch.setattr(shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        folder.remove()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="its limit on open files")
def test_scratch_folder_goes_also_where_no_more_files_can_be_open(tmp_path: Path) -> None:
    """Its own lock's descriptor is enough to look through it."""
    import resource

    folder = ScratchFolder(tmp_path)
    inside = Path(folder.path, "1", "c")
    inside.mkdir(parents=True)
    (inside / "chunk").touch()
    Path(folder.path, "2").symlink_to(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 4, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(OSError, match="Too many open files"):
            os.listdir(folder.path)
        folder.remove()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    assert os.listdir(tmp_path) == []
