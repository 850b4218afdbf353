"""Programs that fork in a callback: files, locks and results are the parent's, however the child ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slidewright.system.forks import of_this_process

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PROGRAM = """
import os, sys
from pathlib import Path
import numpy as np, tifffile, zarr
import slidewright

folder, way, end = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
workers = int(sys.argv[4])
parent, children = os.getpid(), []
pixels = np.random.default_rng(5).integers(0, 255, (700, 900), np.uint8)
source = folder / "s.tif"
tifffile.imwrite(source, pixels, tile=(64, 64))

class LeftError(Exception):
    pass

def leave():
    if end == "exit":
        sys.exit(0)
    if end == "raise":
        raise LeftError

def told(progress):
    if progress.tiles_done >= (progress.tiles_total if end == "on, at the last" else 20) and not children:
        children.append(os.fork())
        if not children[0]:
            leave()
        elif not end.startswith("on"):
            os.waitpid(children[0], 0)

settings = {"tile_size": 64, "compression": "none", "n_workers": workers}
options = {**settings, "block_tiles": 2, "progress": told}
out = folder / ("o.ome.zarr" if way == "zarr" else "o.tif")
try:
    if way == "writer":
        with slidewright.PyramidWriter(out, pixels.shape, **settings) as writer:
            for row in range(11):
                for column in range(15):
                    tile = np.zeros((64, 64), np.uint8)
                    part = pixels[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
                    tile[: part.shape[0], : part.shape[1]] = part
                    writer.write_tile(tile, row=row, column=column)
                    if row == 4 and not children:
                        children.append(os.fork())
                        if not children[0]:
                            leave()
                        os.waitpid(children[0], 0)
    elif way == "shards":
        for index in range(2):
            slidewright.shard(source, folder / "f.shards", index=index, count=2, **options)
        slidewright.assemble(folder / "f.shards", out, n_workers=0)
    elif way == "batch":
        (item,) = slidewright.batch([source], folder / "made", **options).items
        assert item.status == "done", item
        out = folder / "made" / "s.tif"
    elif way == "zarr":
        slidewright.convert(source, out, **{**options, "compression": "zstd"})
    else:
        slidewright.convert(source, out, resume=way == "resume", **options)
except (LeftError, slidewright.RunError):
    assert os.getpid() != parent
    os._exit(0)
assert os.getpid() == parent and children
if end.startswith("on"):
    os.waitpid(children[0], 0)
found = zarr.open(str(out), mode="r")["0"][:].squeeze() if way == "zarr" else tifffile.imread(out, series=0, level=0)
assert np.array_equal(found, pixels)
assert not [name for name in os.listdir(folder) if name.startswith(".")]
"""


@pytest.mark.parametrize("end", ["raise", "exit", "on", "on, at the last"])
@pytest.mark.parametrize("way", ["convert", "resume", "zarr", "shards", "batch", "writer"])
def test_fork_that_leaves_a_run_changes_nothing_of_it(way: str, end: str, tmp_path: Path) -> None:
    """Its copy of the file's buffer was written in the middle of its parent's file, which was a success."""
    if way == "writer" and end.startswith("on"):
        pytest.skip("what a child may not write is a test of the writer's")
    line = [sys.executable, "-c", PROGRAM, tmp_path, way, end, "0"]
    done = subprocess.run(line, timeout=100, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fork_that_goes_on_beside_workers_is_refused(tmp_path: Path) -> None:
    line = [sys.executable, "-c", PROGRAM, tmp_path, "convert", "on", "2"]
    done = subprocess.run(line, timeout=100, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_fork_of_a_fork_keeps_its_own_files(tmp_path: Path) -> None:
    """A child that closes all that it has, to go into the background, may get the same numbers again."""
    with of_this_process(open(tmp_path / "a", "wb", buffering=0)) as file:
        child = os.fork()
        if not child:
            own = file.fileno()
            os.dup2(os.open(tmp_path / "b", os.O_WRONLY | os.O_CREAT), own)
            grandchild = os.fork()
            if not grandchild:
                os.write(own, b"mine")
                os._exit(0)
            os.waitpid(grandchild, 0)
            os._exit(0 if (tmp_path / "b").read_bytes() == b"mine" else 1)
        assert os.waitpid(child, 0)[1] == 0
