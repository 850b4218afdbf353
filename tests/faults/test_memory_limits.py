"""Campaign 3: too little memory, of every kind: the run goes through, or says what it needs; never a bus error.

A small `/dev/shm`, an address space or a number of open files that is limited, and a memory cgroup, each for whole
processes, as a container or a scheduler would.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from faults.campaign import Campaign, clean_digest, digest, make_slide
from faults.test_io import can_mount

import slidewright

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them"),
    pytest.mark.alone,
    pytest.mark.timeout(600),
]
MIB = 1 << 20
CGROUPS = Path("/sys/fs/cgroup")


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    return make_slide(folder / "slide.tif", 900, 1200)


def command(slide, out, *options) -> list[str]:
    line = [sys.executable, "-m", "slidewright", "convert", slide, out, "--tile-size", "64", "--block-tiles", "2"]
    return [
        *map(str, line),
        "--compression",
        "deflate",
        "--effort",
        "1",
        "--workers",
        "2",
        "-q",
        "--overwrite",
        *options,
    ]


def judge(done, out, expected) -> str:
    """How a process ended that had too little of something."""
    story = f"exit code {done.returncode}: {done.stderr}"
    assert done.returncode not in (-signal.SIGBUS, 128 + signal.SIGBUS, -signal.SIGSEGV), story
    assert "SIGBUS" not in done.stderr, story
    if done.returncode == 0:
        assert expected == digest(out), story
        out.unlink()
        return "done"
    assert not out.exists(), story
    assert [p.name for p in out.parent.iterdir()] == [], story
    return "refused or failed"


@pytest.mark.skipif(not can_mount(), reason="needs root, to mount a small /dev/shm")
@pytest.mark.parametrize("options", ["size=4k,ro", "size=1m", "size=64m"])
def test_small_dev_shm(slide, tmp_path, options):
    """Docker gives 64 MB; none at all must do as well."""
    line = command(slide, tmp_path / "out.tif")
    script = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *line], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert judge(done, tmp_path / "out.tif", clean_digest(slide, slide.parent)) == "done"


@pytest.mark.skipif(not can_mount(), reason="needs root, to mount small disks")
def test_array_in_a_container_with_little_shared_memory(tmp_path):
    """The pixels of an array are shared with the workers, which other programs do through /dev/shm."""
    code = (
        "import numpy, slidewright; slidewright.convert(numpy.zeros((4000, 6000, 3), 'uint8'), 'out.tif', n_workers=2)"
    )
    script = 'mount -t tmpfs -o size=1m tmpfs /dev/shm && exec "$@"'
    line = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(120)
@pytest.mark.skipif(not can_mount(), reason="needs root, to mount small disks")
@pytest.mark.parametrize("what", ["demo", "verify"])
def test_full_temporary_disk_is_an_error_and_not_a_bus_error(tmp_path, what):
    if what == "demo":
        line = [sys.executable, "-m", "slidewright", "demo", os.fspath(tmp_path / "out.tif"), "--side", "1200"]
    else:
        np.save(tmp_path / "in.npy", np.zeros((8200, 8200), np.uint8))
        slidewright.convert(tmp_path / "in.npy", tmp_path / "made.tif", n_workers=0, compression="zstd")
        code = (
            "import sys; from slidewright.inspection import compare; from slidewright.cli.main import main;"
            "compare._KEEP_BYTES = 0; sys.exit(main(['verify', 'made.tif', '--against', 'in.npy']))"
        )
        line = [sys.executable, "-c", code]
    (tmp_path / "tmp").mkdir()
    mount = 'mount -t tmpfs -o size=100k tmpfs tmp && export TMPDIR=$PWD/tmp && "$@"; code=$?; ls tmp; exit $code'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", *line], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 1, done
    assert "No space left" in done.stderr
    assert "TMPDIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "slidewright-demo" not in done.stdout


def limited(what, value):
    def apply():
        resource.setrlimit(what, (value, value))

    return apply


@pytest.mark.long
def test_address_space_of_every_size(slide, tmp_path):
    """From too little to import NumPy to enough."""
    campaign = Campaign("RLIMIT_AS", short=6, long=60)
    expected, ended = clean_digest(slide, slide.parent), []
    for number in range(campaign.tries):
        size = int(60 * MIB * (64 ** (number / (campaign.tries - 1))))
        done = subprocess.run(
            command(slide, tmp_path / "out.tif"),
            capture_output=True, text=True, timeout=60, preexec_fn=limited(resource.RLIMIT_AS, size),
        )  # fmt: skip
        ended.append(judge(done, tmp_path / "out.tif", expected))
        campaign.count(ended[-1])
    campaign.close()
    assert ended[-1] == "done"


@pytest.mark.parametrize("files", [32, 20, 12])
def test_few_open_files(slide, tmp_path, files):
    done = subprocess.run(
        command(slide, tmp_path / "out.tif"),
        capture_output=True, text=True, timeout=60, preexec_fn=limited(resource.RLIMIT_NOFILE, files),
    )  # fmt: skip
    ended = judge(done, tmp_path / "out.tif", clean_digest(slide, slide.parent))
    assert ended == "done" or "Too many open files" in done.stderr, done.stderr
    assert files < 32 or ended == "done", done.stderr


def make_cgroup(limit: int) -> Path | None:
    """A memory cgroup (version 1 or 2) with a limit, or None where none can be made."""
    for root, file in ((CGROUPS / "memory", "memory.limit_in_bytes"), (CGROUPS, "memory.max")):
        folder = root / f"slidewright-test-{os.getpid()}"
        try:
            folder.mkdir()
            (folder / file).write_text(str(limit))
        except OSError:
            if folder.is_dir():
                folder.rmdir()
            continue
        return folder
    return None


def run_in_cgroup(limit, line):
    folder = make_cgroup(limit)
    if folder is None:
        pytest.skip("no memory cgroup can be made here")
    try:
        enter = f'echo $$ > {folder / "cgroup.procs"} && exec "$@"'
        return subprocess.run(["sh", "-c", enter, "sh", *line], capture_output=True, text=True, timeout=120)
    finally:
        for _ in range(100):
            try:
                folder.rmdir()
                break
            except OSError:
                time.sleep(0.05)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to make a cgroup")
def test_default_budget_is_what_the_cgroup_leaves(slide, tmp_path):
    """With the default options, from hopeless to enough: told so beforehand, never killed."""
    ended = []
    for megabytes in (100, 200, 260, 400):
        done = run_in_cgroup(megabytes * 10**6, command(slide, tmp_path / "out.tif"))
        ended.append(judge(done, tmp_path / "out.tif", clean_digest(slide, slide.parent)))
        assert ended[-1] == "done" or "the cgroup's memory" in done.stderr, done.stderr
    assert ended[0] != "done"
    assert ended[-1] == "done"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root, to make a cgroup")
def test_workers_killed_for_memory_are_told_as_such(tmp_path):
    """A source takes what nobody could count on; the kernel kills its worker, and the error says why."""
    tests = Path(__file__).parents[1]
    code = (
        f"import sys; sys.path.insert(0, {str(tests)!r}); import slidewright\n"
        "from faults.fault_sources import FaultySource\n"
        "source = FaultySource(300, 400, 'greedy', (96, 128))\n"
        f"try: slidewright.convert(source, {str(tmp_path / 'out.tif')!r}, tile_size=32, n_workers=2, memory='64GB')\n"
        "except slidewright.RunError as error: print(error)"
    )
    done = run_in_cgroup(500 * 10**6, [sys.executable, "-c", code])
    assert done.returncode == 0, done.stderr
    assert "ran out of memory and was killed by the kernel" in done.stdout, done
    assert list(tmp_path.iterdir()) == []


FILL = """
import os, subprocess, sys, time
process = subprocess.Popen(sys.argv[1:])
while process.poll() is None and not any(name.endswith(".partial") for name in os.listdir(".")):
    time.sleep(0.01)
with open("/dev/shm/full", "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
sys.exit(process.wait())
"""


@pytest.mark.skipif(not can_mount(), reason="needs root, to mount a small /dev/shm")
@pytest.mark.parametrize("megabytes", [2, 40])
def test_dev_shm_that_fills_up_in_mid_run(slide, tmp_path, megabytes):
    """By another program. What the run needs there it has taken before, or keeps elsewhere."""
    script = f'mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec "$@"'
    line = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", FILL]
    done = subprocess.run(
        [*line, *command(slide, tmp_path / "out.tif")], capture_output=True, text=True, cwd=tmp_path, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert judge(done, tmp_path / "out.tif", clean_digest(slide, slide.parent)) == "done"
