"""What is mounted where, by tables of the system's that are made up, and by real ones where this user may mount."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from faults.test_io import can_mount

import slidewright
from slidewright.system import mounts
from slidewright.system.file_identity import lying_in, same_file
from slidewright.system.mounts import Mounts

TABLE = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
24 27 0:6 / /dev rw - devtmpfs devtmpfs rw
25 24 0:23 / /dev/shm rw - tmpfs tmpfs rw,size=1k
30 25 0:27 / /dev/shm rw - tmpfs second rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 254:0 /data/a\040b\134c /mnt/a\011b rw,ro shared:2 master:1 - ext4 /dev/vda rw
41 27 8:1 / /disk rw - xfs /dev/sda rw
42 41 254:0 /data/part /disk/inner rw - ext4 /dev/vda rw
43 27 8:2 / /disk rw - xfs /dev/sdb rw
44 27 254:0 /data/one.svs /mnt/two.svs rw - ext4 /dev/vda rw
of no use
"""


@pytest.fixture
def table(tmp_path, monkeypatch):
    def write(text: str) -> None:
        (tmp_path / "mountinfo").write_text(text)
        monkeypatch.setattr(mounts, "_MOUNTS", str(tmp_path / "mountinfo"))

    return write


@pytest.mark.parametrize(
    ("path", "home"),
    [
        ("/", ("254:0", "/")),
        ("/home/x.tif", ("254:0", "/home/x.tif")),
        ("/disks/x.tif", ("254:0", "/disks/x.tif")),
        ("/mnt/a\tb", ("254:0", "/data/a b\\c")),
        ("/mnt/a\tb/c/d", ("254:0", "/data/a b\\c/c/d")),
        ("/mnt/two.svs", ("254:0", "/data/one.svs")),
        ("/dev/shm/x", ("0:27", "/x")),  # the upper of two
        ("/disk/y", ("8:2", "/y")),
        ("/disk/inner/y", ("8:2", "/inner/y")),  # what was mounted in a lower one is hidden
    ],
)
def test_path_is_found_in_its_filesystem(table, path, home):
    table(TABLE)
    assert Mounts().home(path) == home


def test_what_is_mounted_inside_a_folder_is_told(table):
    table(TABLE)
    assert set(Mounts().below("/mnt")) == {("254:0", "/data/a b\\c"), ("254:0", "/data/one.svs")}


@pytest.mark.parametrize("text", ["", "1 2 3\n", "1 2 8:1 / /only rw - ext4 x rw\n"])
def test_where_the_system_does_not_tell_nobody_knows(table, text):
    table(text)
    assert Mounts().home("/home/x") is None


def test_mounted_folder_and_file_lie_where_their_own_names_are(tmp_path, table):
    """As the table says it; the files themselves have no part in this."""
    for name in ("d/0", "m", "other"):
        (tmp_path / name).mkdir(parents=True)
    mounted = [("d/0", "m"), ("d/a.svs", "b.svs")]
    lines = [f"{n} 1 8:1 {tmp_path}/{root} {tmp_path}/{at} rw - ext4 x rw\n" for n, (root, at) in enumerate(mounted, 2)]
    table("1 0 8:1 / / rw - ext4 x rw\n" + "".join(lines))
    folders = [str(tmp_path / name) for name in ("d", "other")]
    assert list(lying_in([str(tmp_path / "m" / "new" / "x")], folders)) == [(str(tmp_path / "m/new/x"), folders[0])]
    inside = [str(tmp_path / "m"), str(tmp_path / "b.svs")]
    assert [path for path, _ in lying_in(inside, folders)] == inside
    assert list(lying_in([str(tmp_path / "d2"), str(tmp_path / "mm")], folders)) == []


def test_what_is_mounted_inside_a_folder_lies_in_it(tmp_path, table):
    """Removing the folder would remove it as well."""
    for name in ("d/inner", "data/part"):
        (tmp_path / name).mkdir(parents=True)
    table(f"1 0 8:1 / / rw - ext4 x rw\n2 1 8:1 {tmp_path}/data/part {tmp_path}/d/inner rw - ext4 x rw\n")
    inside = [str(tmp_path / "data" / "part"), str(tmp_path / "data" / "part" / "a.svs")]
    assert [path for path, _ in lying_in([*inside, str(tmp_path / "data")], [str(tmp_path / "d")])] == inside


def in_own_namespace(code: str, *arguments: str) -> None:
    """Run Python code that mounts, which nobody else sees."""
    start = "import subprocess, sys\ndef bind(a, b): subprocess.run(['mount', '--bind', a, b], check=True)\n"
    line = ["unshare", "-m", "--propagation", "private", sys.executable, "-c", start + code, *arguments]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not can_mount(), reason="needs root, to mount a folder elsewhere")
def test_source_that_is_mounted_from_inside_the_destination_is_not_overwritten(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    slidewright.convert(pixels, tmp_path / "d.ome.zarr", n_workers=0)
    (tmp_path / "m").mkdir()
    before = {path: path.stat().st_ino for path in (tmp_path / "d.ome.zarr").rglob("*")}
    code = """
import slidewright
bind(sys.argv[1] + "/d.ome.zarr/0", sys.argv[1] + "/m")
try:
    slidewright.convert(sys.argv[1] + "/m", sys.argv[1] + "/d.ome.zarr", overwrite=True, n_workers=0)
except slidewright.DestinationError as error:
    assert "the source lies in the destination" in str(error), error
else:
    sys.exit("it was overwritten")
"""
    in_own_namespace(code, str(tmp_path))
    assert {path: path.stat().st_ino for path in (tmp_path / "d.ome.zarr").rglob("*")} == before


@pytest.mark.skipif(not can_mount(), reason="needs root, to mount a folder elsewhere")
def test_outputs_in_folders_yet_to_be_made_are_one_through_a_mount(tmp_path):
    (tmp_path / "d" / "0").mkdir(parents=True)
    (tmp_path / "m").mkdir()
    code = """
from slidewright.system.file_identity import lies_in, same_file, shared_places
top = sys.argv[1]
bind(top + "/d/0", top + "/m")
one, other = top + "/d/0/new/deep/x.tif", top + "/m/new/deep/x.tif"
assert same_file(one, other)
assert not same_file(one, top + "/m/new/x.tif") and not same_file(one, top + "/m/new/deep/y.tif")
assert list(shared_places([one, top + "/m/x.tif", other])) == [(0, 2)]
assert lies_in(other, top + "/d") and lies_in(top + "/m", top + "/d") and not lies_in(top + "/d", top + "/m")
"""
    in_own_namespace(code, str(tmp_path))


def test_folders_yet_to_be_made_are_apart_by_their_names(tmp_path):
    assert same_file(tmp_path / "a" / "b" / "x", os.path.join(tmp_path, "a", "c", "..", "b", "x"))
    assert not same_file(tmp_path / "a" / "x", tmp_path / "b" / "x")
