"""Campaign 2: an error at the k-th write, read, sync, rename or making of a file, for every k of a small conversion.

Each run ends with the right file (a short write is no error, a failed hint neither) or with one clear error, and then
nothing is under the final name and nothing is left beside it. Then real full disks, where that can be had.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults.campaign import OPTIONS, Campaign, clean_digest, digest, make_slide
from faults.injection import SHORT, Injector

import slidewright
from slidewright.errors import OutputError, SlidewrightError

TESTS = Path(__file__).parents[1]
KINDS = {
    "write": ("ENOSPC", "EIO", "EDQUOT", SHORT),
    "read": ("EIO", SHORT),
    "sync": ("EIO", "ENOSPC", "ESTALE", "EDQUOT"),
    "rename": ("EIO", "EACCES", "ESTALE"),
    "make": ("ENOSPC", "EMFILE", "EDQUOT"),
    "close": ("EIO", "ESTALE", "EDQUOT"),
}


@pytest.fixture
def places(tmp_path, monkeypatch):
    for name in ("work", "scratch"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    source = make_slide(tmp_path / "slide.tif", 200, 260)
    clean_digest(source, tmp_path)
    return tmp_path


def convert(folder, **more):
    return slidewright.convert(
        folder / "slide.tif", folder / "work" / "out.tif", scratch=folder / "scratch", **OPTIONS, **more
    )


def left(folder):
    return [str(p.relative_to(folder)) for name in ("work", "scratch") for p in (folder / name).iterdir()]


def judge(folder, story, error) -> str:
    """What must be true after a run with one fault; how it ended."""
    out = folder / "work" / "out.tif"
    if error is None:
        assert digest(out) == clean_digest(folder / "slide.tif", folder), f"wrong file: {story}"
        out.unlink()
        ended = "harmless"
    else:
        assert isinstance(error, SlidewrightError), f"{type(error).__name__}: {error}: {story}"
        assert len(str(error).splitlines()) == 1, f"{error}: {story}"
        ended = "one clear error"
    assert left(folder) == [], f"left behind: {story}"
    return ended


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_failing_once(places, kind, monkeypatch):
    """In one process, so that every k can be tried, in the long form with every error; the segments that wait do so in
    files, which fail too.
    """
    from slidewright.engine import segment_store as segments

    real = segments.SegmentStore

    def small(plan, wave, memory, *more):
        return real(plan, wave, 4096, *more)

    monkeypatch.setattr("slidewright.engine.writer.SegmentStore", small)
    campaign = Campaign(f"input and output: {kind}", short=0, long=0)
    with Injector(places, kind, 0, SHORT) as counter:
        convert(places, n_workers=0)
    (places / "work" / "out.tif").unlink()
    assert counter.calls > 0
    errors = KINDS[kind]
    for k in range(1, counter.calls + 1):
        for name in errors if campaign.long else [errors[k % len(errors)]]:
            error: BaseException | None = None
            with Injector(places, kind, k, name):
                try:
                    convert(places, n_workers=0)
                except BaseException as caught:
                    error = caught.with_traceback(None)  # which would keep the frames, and the files in them
            campaign.count(judge(places, f"{name} at {kind} {k} of {counter.calls}", error))
    campaign.close()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["out.tif", "out.ome.tif", "out.svs"])
@pytest.mark.parametrize("step", [20_000, 200_000])
def test_error_that_the_system_tells_while_the_file_grows_is_not_lost(places, name, step, monkeypatch):
    """Of an error in writing back each open file is told once: then the sync at the end is fine."""
    from slidewright.formats.flush import Flusher

    monkeypatch.setattr(Flusher, "STEP", step)
    real, calls = os.fdatasync, []

    def fail_once(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fail_once)
    options = {"n_workers": 0, "tile_size": 64, "compression": "none"}
    with pytest.raises(OutputError, match="No space left"):
        slidewright.convert(places / "slide.tif", places / "work" / name, **options)
    assert calls
    assert left(places) == []


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_failing_once_leaves_a_run_that_can_go_on(places, kind):
    """The same of a resumable run: what a failed one leaves is good for another, which makes the right file."""
    campaign = Campaign(f"input and output of a resumable run: {kind}", short=0, long=0)
    with Injector(places, kind, 0, SHORT) as counter:
        convert(places, n_workers=0, resume=True)
    (places / "work" / "out.tif").unlink()
    errors = KINDS[kind]
    for k in range(1, counter.calls + 1, 1 if campaign.long else 3):
        for name in errors if campaign.long else [errors[k % len(errors)]]:
            story, error = f"{name} at {kind} {k} of {counter.calls}", None
            with Injector(places, kind, k, name):
                try:
                    convert(places, n_workers=0, resume=True)
                except BaseException as caught:
                    error = caught
            if error is not None:
                assert isinstance(error, SlidewrightError), f"{type(error).__name__}: {error}: {story}"
                assert set(left(places)) <= {"work/out.tif.shards", "work/out.tif"}, story
                if left(places) != ["work/out.tif"]:
                    convert(places, n_workers=0, resume=True)
            judge(places, story, None)
            campaign.count("harmless" if error is None else "one clear error")
    campaign.close()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are threads where there is no fork")
def test_calls_failing_in_the_processes_of_a_run(places, monkeypatch):
    """The same through `sitecustomize`; a process counts its own calls."""
    (places / "site").mkdir()
    text = f"import sys; sys.path.insert(0, {str(TESTS)!r})\nfrom faults.injection import install_from_environment\n"
    (places / "site" / "sitecustomize.py").write_text(text + "install_from_environment()\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(places / "site"), os.environ.get("PYTHONPATH", "")]))
    campaign = Campaign("input and output in processes", short=10, long=400)
    ended = dict.fromkeys(("harmless", "one clear error"), 0)
    for _ in range(campaign.tries):
        kind = campaign.random.choice(list(KINDS))
        name = campaign.random.choice(KINDS[kind])
        k = campaign.random.randint(1, {"write": 25, "read": 60, "make": 20}.get(kind, 2))
        monkeypatch.setenv("FAULT", f"{places}|{kind}|{k}|{name}")
        error: BaseException | None = None
        try:
            convert(places, n_workers=2)
        except BaseException as caught:
            error = caught.with_traceback(None)  # which would keep the frames, and the files in them
        how = judge(places, f"{name} at {kind} {k}", error)
        ended[how] += 1
        campaign.count(how)
    campaign.close()
    assert all(ended.values())


def in_small_disk(folder, kilobytes, script, **environment) -> subprocess.CompletedProcess[str]:
    """Run a shell script with `disk` being a tmpfs of so many kilobytes, in a mount namespace of its own."""
    (folder / "disk").mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs {folder / 'disk'} && {script}"
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", mount],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def can_mount() -> bool:
    if shutil.which("unshare") is None or not hasattr(os, "geteuid") or os.geteuid():
        return False
    return (
        subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0
    )


@pytest.mark.long
@pytest.mark.skipif(not can_mount(), reason="needs root, to mount a small disk")
@pytest.mark.parametrize("full", ["the destination's disk", "the temporary disk"])
def test_really_full_disk_is_one_clear_error(places, full):
    """Sizes from hopeless to enough: refused, failed in the middle, done."""
    disk = places / "disk"
    line = f"{sys.executable} -m slidewright convert {places / 'slide.tif'} --workers 2 --tile-size 64 --block-tiles 1"
    codes = []
    for kilobytes in (16, 128, 300, 700, 4000):
        out, scratch = (disk, places / "scratch") if full.startswith("the dest") else (places / "work", disk)
        command = f"{line} {out / 'out.tif'} --overwrite --compression none --scratch {scratch} -q"
        script = f"{command}; code=$?; ls -A {disk}; exit $code"
        done = in_small_disk(places, kilobytes, script, TMPDIR=str(scratch))
        codes.append(done.returncode)
        assert done.returncode in (0, 1), done
        if done.returncode:
            assert done.stderr.startswith("slidewright: error: "), done.stderr
            assert len(done.stderr.splitlines()) == 1, done.stderr
            assert done.stdout == "", f"left on the full disk: {done.stdout}"
    assert codes[0] == 1
    assert codes[-1] == 0
