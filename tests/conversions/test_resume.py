"""A conversion that keeps finished parts: killed as often as you like, it makes the same file and leaves nothing."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import re
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile
from fake_sources import SlowSource
from faults.campaign import wait_until
from PIL import Image
from written import digest

import slidewright
from slidewright.cli.main import main
from slidewright.errors import DestinationError, OptionError, ShardError
from slidewright.formats.ome_zarr import OmeZarrFormat
from slidewright.system.file_lock import FileLock

HERE = Path(__file__).parents[1]  # where the helper modules are
OPTIONS = {"tile_size": 32, "compression": "deflate", "block_tiles": 2}
SIZE = (1000, 1100)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "out.tif"
    slidewright.convert(SlowSource(*SIZE), path, n_workers=0, **OPTIONS)
    return digest(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_uninterrupted_it_makes_the_same_file_and_leaves_nothing(tmp_path, whole, workers):
    seen = []
    report = slidewright.convert(
        SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=workers, progress=seen.append, **OPTIONS
    )
    assert digest(tmp_path / "out.tif") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]
    assert sum(level.bytes for level in report.levels) > 0
    assert seen[-1].tiles_done == seen[-1].tiles_total


def start(folder, seconds):
    """A slow resumable conversion in a process of its own."""
    script = textwrap.dedent(f"""\
        import sys
        sys.path.insert(0, {str(HERE)!r})
        import slidewright
        from fake_sources import SlowSource
        source = SlowSource({SIZE[0]}, {SIZE[1]}, seconds={seconds})
        slidewright.convert(source, {str(folder / "out.tif")!r}, resume=True, n_workers=2, **{OPTIONS!r})
        """)
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def wait_until_gone(processes):
    def alive(process):
        try:
            return process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    assert wait_until(lambda: not any(map(alive, processes)), 15)


def finished_shards(folder):
    if not folder.exists():
        return 0
    return len([name for name in os.listdir(folder) if not name.endswith(".partial") and name.startswith("shard-")])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no worker processes without fork")
@pytest.mark.parametrize("times", [pytest.param(4, marks=pytest.mark.long), pytest.param(30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_in_a_row_it_makes_the_same_file(tmp_path, times):
    seconds = (
        0.02 if times < 10 else 0.1
    )  # the pickle of the source, and so its identity, has it: every try must have the same
    slidewright.convert(SlowSource(*SIZE), tmp_path / "whole.tif", n_workers=0, **OPTIONS)
    moments = random.Random(5)
    shards, kept, kills = tmp_path / "out.tif.shards", 0, 0
    while kills < times:
        process = start(tmp_path, seconds)
        if kills % 2 or times == 1:  # some time after it got on, however slow this machine is; else after its start
            wait_until(lambda: finished_shards(shards) > kept or process.poll() is not None, 30)  # noqa: B023
        time.sleep(moments.uniform(0, 0.4) if kills % 2 else moments.uniform(0.2, 1.3))
        assert process.poll() is None, process.communicate()[1]
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family if kills % 2 else family[:1]:  # all at once, or only who started it
            try:
                member.kill()
            except psutil.NoSuchProcess:
                pass
        process.wait()
        process.stderr.close()
        wait_until_gone(family)
        kills += 1
        assert not (tmp_path / "out.tif").exists()
        assert finished_shards(shards) >= kept
        kept = finished_shards(shards)
    assert kept >= 1
    process = start(tmp_path, seconds)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors
    assert digest(tmp_path / "out.tif") == digest(tmp_path / "whole.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tif", "whole.tif"]


class StopError(Exception):
    pass


def stop_after(n_tiles):
    def callback(snapshot):
        if snapshot.tiles_done >= n_tiles:
            raise StopError

    return callback


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["out.tif", "out.ome.zarr"])
def test_interrupted_it_leaves_none_but_finished_parts(tmp_path, name):
    def interrupt(progress):
        if progress.tiles_done > 50:
            raise KeyboardInterrupt

    options = {**OPTIONS, "compression": "zstd"}
    with pytest.raises(KeyboardInterrupt):
        slidewright.convert(
            SlowSource(*SIZE, seconds=0.01), tmp_path / name, resume=True, n_workers=1, progress=interrupt, **options
        )
    parts = tmp_path / f"{name}.shards"
    assert [path.name for path in tmp_path.iterdir()] == [parts.name]
    assert list(parts.glob("shard-*"))
    assert not list(parts.rglob("*.partial"))


def test_only_missing_parts_are_encoded_again(tmp_path, whole):
    second = []
    with pytest.raises(StopError):
        slidewright.convert(
            SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=0, progress=stop_after(700), **OPTIONS
        )
    first = finished_shards(tmp_path / "out.tif.shards")
    assert first > 20
    slidewright.convert(
        SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=0, progress=second.append, **OPTIONS
    )
    assert second[0].tiles_done > 600  # most of it was there
    assert digest(tmp_path / "out.tif") == whole


def interrupted(tmp_path):
    with pytest.raises(StopError):
        slidewright.convert(
            SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=0, progress=stop_after(900), **OPTIONS
        )
    return tmp_path / "out.tif.shards"


@pytest.mark.parametrize("damage", ["segment", "cut", "chunk", "partial"])
def test_damaged_parts_are_made_again(tmp_path, whole, damage):
    shards = interrupted(tmp_path)
    one = sorted(path for path in shards.iterdir() if path.name.startswith("shard-00003"))[0]
    if damage == "segment":
        data = bytearray(one.read_bytes())
        data[100] ^= 4
        one.write_bytes(data)
    elif damage == "cut":
        one.write_bytes(one.read_bytes()[:1000])
    elif damage == "chunk":
        (shards / "level-2.zarr" / "c" / "0" / "4" / "0").unlink()
    else:
        one.rename(shards / "shard-00003-of-00064.0badc0de0badc0de.partial")
    slidewright.convert(SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=2, **OPTIONS)
    assert digest(tmp_path / "out.tif") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]


@pytest.mark.parametrize("lock", [True, False])
def test_parts_of_another_version_are_thrown_away_with_a_warning(tmp_path, lock):
    shards = interrupted(tmp_path)
    job = json.loads((shards / "job.json").read_text())
    job["versions"]["slidewright"] = "0.0.1"
    (shards / "job.json").write_text(json.dumps(job))
    if not lock:  # a kill before it was made
        (shards / "lock").unlink()
    other = {**OPTIONS, "n_workers": 0}
    report = slidewright.convert(SlowSource(*SIZE), tmp_path / "out.tif", resume=True, **other)
    (warning,) = report.warnings
    assert re.search(r"out\.tif\.shards' was removed.*slidewright is 0\.0\.1 there", warning)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]
    slidewright.convert(SlowSource(*SIZE), tmp_path / "new.tif", **other)
    assert digest(tmp_path / "out.tif") == digest(tmp_path / "new.tif")


@pytest.mark.parametrize("who", ["the same", "shards of the user's", "a task has helped", "another is at work"])
def test_parts_that_others_may_use_are_refused_and_nothing_is_lost(tmp_path, who):
    shards, options, other = tmp_path / "out.tif.shards", {**OPTIONS, "n_workers": 0}, SlowSource(*SIZE)
    with contextlib.ExitStack() as stack:
        if who == "shards of the user's":
            slidewright.shard(SlowSource(*SIZE), shards, index=1, count=64, **options)
        else:
            interrupted(tmp_path)
        if who == "a task has helped":
            slidewright.shard(SlowSource(*SIZE), shards, index=63, count=64, **options)
        elif who == "another is at work":
            stack.callback(FileLock(str(shards / "lock")).release)
        before = listed(shards)
        assert finished_shards(shards)
        with pytest.raises(ShardError, match=r"options\.compression is deflate there and zstd here.*remove the folder"):
            slidewright.convert(other, tmp_path / "out.tif", resume=True, **{**options, "compression": "zstd"})
        assert listed(shards) == before


def test_parts_are_not_thrown_away_for_a_destination_that_is_refused(tmp_path):
    shards = interrupted(tmp_path)
    (tmp_path / "out.tif").write_bytes(b"precious")
    before = listed(shards)
    with pytest.raises(DestinationError, match="exists"):
        slidewright.convert(
            SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=0, **{**OPTIONS, "tile_size": 64}
        )
    assert listed(shards) == before


def listed(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_batch_goes_on_with_a_slide_that_is_complete_by_now(tmp_path, monkeypatch):
    """It was still being copied when the first batch made parts of it, which no run can use any more."""
    from slidewright.conversions.conversion import Conversion

    def die(*_):
        raise StopError

    pixels = np.random.default_rng(0).integers(0, 255, (300, 400), np.uint8)
    np.save(tmp_path / "slide.npy", np.zeros_like(pixels))
    options, found = {**OPTIONS, "out": tmp_path / "out", "resume": True, "n_workers": 0}, []
    with monkeypatch.context() as patched:
        patched.setattr("slidewright.conversions.destination.Destination.commit", die)
        (item,) = slidewright.batch(tmp_path / "slide.npy", **options).items
    assert item.status == "failed"
    with monkeypatch.context() as patched:  # as long as it is the same they are used
        patched.setattr(Conversion, "run", lambda *given: found.extend(given[3].found) or die())
        (item,) = slidewright.batch(tmp_path / "slide.npy", **options).items
    assert (item.status, item.error) == ("failed", "StopError: ")
    assert len(found) == finished_shards(tmp_path / "out" / "slide.tif.shards") > 1
    np.save(tmp_path / "slide.npy", pixels)
    (item,) = slidewright.batch(tmp_path / "slide.npy", **options).items
    assert (item.status, item.error) == ("done", None)
    assert ["slide.tif.shards' was removed" in warning for warning in item.warnings] == [True]
    assert np.array_equal(tifffile.imread(tmp_path / "out" / "slide.tif", key=0), pixels)
    assert sorted(os.listdir(tmp_path / "out")) == ["slide.tif", "slidewright-batch.jsonl"]


def test_other_numbers_of_workers_may_go_on(tmp_path, whole):
    options = {name: value for name, value in OPTIONS.items() if name != "block_tiles"}
    interrupted(tmp_path)
    slidewright.convert(SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=3, **options)
    assert digest(tmp_path / "out.tif") == whole


def test_array_tasks_and_assemble_can_finish_what_convert_began(tmp_path, whole):
    shards = interrupted(tmp_path)
    missing = [index for index in range(64) if not (shards / f"shard-{index:05}-of-00064").exists()]
    assert missing
    for index in missing:
        slidewright.shard(SlowSource(*SIZE), shards, index=index, count=64, n_workers=0, **OPTIONS)
    slidewright.assemble(shards, tmp_path / "out.tif", source=SlowSource(*SIZE), n_workers=0, remove=True)
    assert digest(tmp_path / "out.tif") == whole
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]


def test_killed_between_the_final_name_and_tidying_up_it_is_done(tmp_path, whole, monkeypatch):
    def die(*_):
        raise StopError

    monkeypatch.setattr("slidewright.conversions.resume.remove_folder", die)
    with pytest.raises(StopError):
        slidewright.convert(SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=0, **OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tif", "out.tif.shards"]
    monkeypatch.undo()
    report = slidewright.convert(SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=0, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]
    assert digest(tmp_path / "out.tif") == whole
    assert report.bytes == (tmp_path / "out.tif").stat().st_size
    assert report.levels[0].tiles == 32 * 35


def test_stopped_while_tidying_up_it_leaves_nothing(tmp_path, whole, monkeypatch):
    """Nobody looks for a folder with such a name but another run with resume."""

    def stopped(path):
        monkeypatch.undo()
        raise StopError(path)

    monkeypatch.setattr("slidewright.conversions.shard_job.remove_tree", stopped)
    with pytest.raises(StopError):
        slidewright.convert(SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=0, **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]
    assert digest(tmp_path / "out.tif") == whole


def test_killed_after_the_final_name_it_still_tells_of_tiles_that_were_filled(tmp_path, monkeypatch):
    def die(*_):
        raise StopError

    pixels = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(64, 64), photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "s.tif") as tiff, (tmp_path / "s.tif").open("r+b") as file:
        file.seek(tiff.pages[0].dataoffsets[5])
        file.write(bytes(40))
    options = {"keep_tiles": "never", "on_corrupt": "fill", "resume": True, "n_workers": 0}
    monkeypatch.setattr("slidewright.conversions.resume.remove_folder", die)
    with pytest.raises(StopError):
        slidewright.convert(tmp_path / "s.tif", tmp_path / "out.tif", **options)
    monkeypatch.undo()
    report = slidewright.convert(tmp_path / "s.tif", tmp_path / "out.tif", **options)
    assert report.corrupt_tiles == 1
    assert ["1 tile of the source did not decode" in warning for warning in report.warnings] == [True]


def test_finished_file_with_another_label_image_is_not_taken_for_the_one_that_is_asked_for(tmp_path, monkeypatch):
    def die(*_):
        raise StopError

    options = {**OPTIONS, "label": tmp_path / "label.png", "overwrite": True, "resume": True, "n_workers": 0}
    for side in (20, 30):
        Image.new("RGB", (side, 10)).save(tmp_path / "label.png")
        monkeypatch.setattr("slidewright.conversions.resume.remove_folder", die)
        with contextlib.suppress(StopError):
            slidewright.convert(SlowSource(200, 200), tmp_path / "out.tif", **options)
        monkeypatch.undo()
    (label,) = slidewright.info(tmp_path / "out.tif").associated
    assert label.size.width == 30


def test_another_file_with_the_number_of_the_finished_one_is_not_taken_for_it(tmp_path, monkeypatch):
    """Filesystems give the number of a file that was removed to the next one; folders have a size in common as well."""
    from slidewright.conversions.destination import Destination

    def die(*_):
        raise StopError

    options = {**OPTIONS, "compression": "zstd", "n_workers": 0}
    dest, shards = tmp_path / "out.ome.zarr", tmp_path / "out.ome.zarr.shards"
    monkeypatch.setattr(Destination, "commit", die)
    with pytest.raises(StopError):
        slidewright.convert(SlowSource(200, 200), dest, resume=True, **options)
    monkeypatch.undo()
    slidewright.convert(SlowSource(90, 90), dest, **options)
    noted = json.loads((shards / "finished.json").read_text())
    status = dest.stat()
    noted[:2] = [status.st_ino, status.st_size]
    (shards / "finished.json").write_text(json.dumps(noted))
    with pytest.raises(DestinationError, match="exists"):
        slidewright.convert(SlowSource(200, 200), dest, resume=True, **options)


def test_parts_that_a_failing_disk_kept_go_when_the_slide_is_skipped(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    def keeps_shards(path, **named):
        return fails() if "shard-" in os.fspath(path) else unlink(path, **named)

    unlink, rename = os.unlink, os.rename
    np.save(tmp_path / "s.npy", np.zeros((300, 400), np.uint8))
    options = {**OPTIONS, "out": tmp_path / "out", "resume": True, "n_workers": 0}
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", lambda old, new: fails() if str(new).endswith(".trash") else rename(old, new))
        patched.setattr(os, "unlink", keeps_shards)
        (item,) = slidewright.batch(tmp_path / "s.npy", **options).items
    assert (item.status, item.error) == ("done", None)
    assert finished_shards(tmp_path / "out" / "s.tif.shards") > 1
    (item,) = slidewright.batch(tmp_path / "s.npy", **options).items
    assert item.status == "skipped"
    assert sorted(os.listdir(tmp_path / "out")) == ["s.tif", "slidewright-batch.jsonl"]


def test_results_may_be_in_a_folder_named_like_the_source(tmp_path):
    """Only a slide in MIRAX has its pixels there: shards are not to change what the next run takes for the source."""
    np.save(tmp_path / "slide.npy", np.arange(90_000, dtype=np.uint8).reshape(300, 300))
    for index in range(2):
        slidewright.shard(
            tmp_path / "slide.npy", tmp_path / "slide" / "shards", index=index, count=2, n_workers=0, tile_size=64
        )
    slidewright.assemble(tmp_path / "slide" / "shards", tmp_path / "slide" / "out.tif", n_workers=0)
    assert (tmp_path / "slide" / "out.tif").is_file()


def test_existing_destination_is_refused_without_leaving_a_folder(tmp_path):
    (tmp_path / "out.tif").write_bytes(b"precious")
    with pytest.raises(DestinationError, match="exists"):
        slidewright.convert(SlowSource(*SIZE), tmp_path / "out.tif", resume=True, n_workers=0, **OPTIONS)
    with pytest.raises(OptionError, match="save them to a file"):
        slidewright.convert(np.zeros((99, 99), np.uint8), tmp_path / "new.tif", resume=True, n_workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]


def test_second_process_on_the_same_destination_is_refused(tmp_path):
    process = start(tmp_path, 0.02)
    lock = tmp_path / "out.tif.shards" / "lock"
    deadline = time.monotonic() + 20
    while not lock.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        with pytest.raises(DestinationError, match="another process is at work"):
            slidewright.convert(
                SlowSource(*SIZE, seconds=0.02), tmp_path / "out.tif", resume=True, n_workers=0, **OPTIONS
            )
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def test_command_goes_on_with_resume(tmp_path, monkeypatch, capsys):
    pixels = np.random.default_rng(0).integers(0, 255, (700, 900), np.uint8)
    np.save(tmp_path / "in.npy", pixels)
    arguments = ["convert", str(tmp_path / "in.npy"), str(tmp_path / "out.tif"), "--workers", "0", "--tile-size", "32"]
    assert main([*arguments, "--resume"]) == 0, capsys.readouterr().err
    assert main(["verify", str(tmp_path / "out.tif"), "--workers", "1"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "out.tif"]


@pytest.mark.skipif(sys.platform != "linux", reason="open files are in /proc")
@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_in_the_folder_is_open_when_it_is_removed(tmp_path, monkeypatch, workers):
    """NFS keeps what is open under another name, and the folder with it."""
    from slidewright.conversions import shard_job

    held, remove = [], shard_job.remove_tree

    def look(path: str) -> None:
        here = psutil.Process()
        for process in (here, *here.children(recursive=True)):
            for fd in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # the descriptor of this very look
                    if os.readlink(fd).startswith(path):
                        held.append((process.pid == here.pid, os.readlink(fd)))
        remove(path)

    monkeypatch.setattr(shard_job, "remove_tree", look)
    pixels = np.random.default_rng(0).integers(0, 255, (700, 900), np.uint8)
    slidewright.convert(pixels, tmp_path / "warm.tif", n_workers=0)
    np.save(tmp_path / "in.npy", pixels)
    slidewright.convert(tmp_path / "in.npy", tmp_path / "out.tif", resume=True, n_workers=workers, tile_size=32)
    assert held == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "out.tif", "warm.tif"]


@pytest.mark.timeout(60)
def test_label_image_is_listed_by_the_run_after_a_kill_that_came_before_that(tmp_path, monkeypatch):
    store, named = tmp_path / "out.ome.zarr", OmeZarrFormat.named
    slidewright.convert(np.zeros((90, 120), np.uint8), store, n_workers=0)
    np.save(tmp_path / "cells.npy", np.eye(90, 120, dtype=np.uint8))
    (store / "labels").mkdir()

    def run():
        options = {"kind": "labels", "n_workers": 0, "resume": True}
        slidewright.convert(tmp_path / "cells.npy", store / "labels" / "cells", format="ome-zarr", **options)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(OmeZarrFormat, "named", killed)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(OmeZarrFormat, "named", named)
    run()
    group = json.loads((store / "labels" / "zarr.json").read_text())
    assert group["attributes"]["ome"]["labels"] == ["cells"]
    assert sorted(os.listdir(store / "labels")) == ["cells", "zarr.json"]
