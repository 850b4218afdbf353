"""Limits of the system on processes, files, sizes and address space, at values so small that a run can't go on; and a
system that lacks what Linux mostly has. One line, an exit code, nothing left.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from faults.campaign import make_slide

from slidewright.errors import RunError
from slidewright.system.launcher import ProcessLauncher

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them"),
]
OTHER = 54322
"""A user that no system has."""


def run(tmp_path: Path, *line: object, limits: dict[int, int] | None = None, before: tuple[str, ...] = ()) -> str:
    """The end of a run under limits: its exit code and standard error; it leaves nothing but what it made."""

    def narrow() -> None:
        for kind, value in (limits or {}).items():
            resource.setrlimit(kind, (value, value))

    command = [*before, sys.executable, "-m", "slidewright", *map(str, line)]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=narrow, timeout=300)
    assert done.returncode in (0, 1, 2), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    errors = [text for text in done.stderr.splitlines() if text.startswith("slidewright: error: ")]
    assert len(errors) == bool(done.returncode), done.stderr
    left = {path.name for path in tmp_path.iterdir()} - {"s.tif"}
    assert left == ({"o.tif"} if not done.returncode else set()), (left, done.stderr)
    return errors[0] if errors else ""


@pytest.fixture
def slide(tmp_path):
    return make_slide(tmp_path / "s.tif", 1500, 1500)


@pytest.mark.long
@pytest.mark.parametrize("count", [5, 8, 12, 20])
def test_few_open_files(tmp_path, slide, count):
    error = run(
        tmp_path, "convert", "-q", slide, tmp_path / "o.tif", "--workers", "2", "--tile-size", "128",
        limits={resource.RLIMIT_NOFILE: count},
    )  # fmt: skip
    assert error == "" or "Too many open files" in error
    assert "OSError" not in error
    assert error == "" or count < 20


@pytest.mark.long
@pytest.mark.parametrize("megabytes", [250, 4000])
def test_little_address_space(tmp_path, slide, megabytes):
    error = run(
        tmp_path, "convert", "-q", slide, tmp_path / "o.tif", "--workers", "2",
        limits={resource.RLIMIT_AS: megabytes << 20},
    )  # fmt: skip
    assert error == "" or megabytes < 4000, error


@pytest.mark.long
@pytest.mark.parametrize("kilobytes", [1, 1000])
@pytest.mark.parametrize("name", ["o.tif", "o.ome.zarr"])
def test_files_that_may_not_grow(tmp_path, slide, kilobytes, name):
    error = run(
        tmp_path, "convert", "-q", slide, tmp_path / name, "--workers", "2", "--compression", "none",
        "--scratch", tmp_path, limits={resource.RLIMIT_FSIZE: kilobytes << 10},
    )  # fmt: skip
    assert "File too large" in error or "no room for" in error


def test_process_that_can_not_be_forked_is_told(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent)])
    launcher = ProcessLauncher(["no_forks"])
    try:
        for _ in range(2):  # it lives on
            with pytest.raises(RunError, match=r"can't start another process \(Resource temporarily unavailable\)"):
                launcher.spawn("slidewright.engine.worker", "w", None)
    finally:
        launcher.close()


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() or not shutil.which("setpriv"), reason="needs root")
@pytest.mark.parametrize("count", [4, 5, 9])
def test_few_processes(slide, count):
    """As another user, since root has no such limit; one that may read what is only root's, such as Python."""
    caps = "-all,+dac_read_search"
    other = ("setpriv", f"--reuid={OTHER}", f"--regid={OTHER}", "--clear-groups", f"--inh-caps={caps}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        error = run(
            folder, "convert", "-q", slide, folder / "o.tif", "--workers", "4", "--tile-size", "128",
            limits={resource.RLIMIT_NPROC: count}, before=(*other, f"--ambient-caps={caps}"),
        )  # fmt: skip
    assert error == "" or "(Resource temporarily unavailable)" in error
    assert error == "" or count < 9, error


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() or not shutil.which("unshare"), reason="needs root")
@pytest.mark.parametrize("without", ["/proc", "/sys", "/dev/shm"])
def test_system_without_what_most_have(tmp_path, slide, without):
    cover = f"umount -l {without}" if without != "/dev/shm" else f"mount -t tmpfs -o ro none {without}"
    before = ("unshare", "--mount", "sh", "-c", f'{cover} && exec "$@"', "sh")
    if subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("namespaces can't be made here")
    assert run(tmp_path, "convert", "-q", slide, tmp_path / "o.tif", "--workers", "2", before=before) == ""
