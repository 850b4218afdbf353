"""Shards and assembling: the same bytes as a conversion in one go, and plain words when something is not right."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from fake_sources import SlowSource
from hypothesis import given, settings
from hypothesis import strategies as st
from written import digest

import slidewright
from slidewright.cli.main import main
from slidewright.conversions.array_jobs import read_array
from slidewright.conversions.conversion import Conversion
from slidewright.errors import CorruptTileError, DestinationError, OptionError, OutputError, ShardError, SourceError
from slidewright.formats import ome_zarr
from slidewright.formats.zarr_shard import ShardWriter as ShardFile
from slidewright.geometry import Size
from slidewright.pyramid.level_store import ScratchLevel
from slidewright.shards.file import ShardDamageError, ShardWriter, check_segments, read_index
from slidewright.shards.folder import ShardFolder, share
from slidewright.system.files import regular, same_content

SOURCE = SlowSource(700, 900)
OPTIONS = {"tile_size": 32, "compression": "deflate", "block_tiles": 4, "n_workers": 0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The file that a conversion in one go makes."""
    path = tmp_path_factory.mktemp("whole") / "out.tif"
    slidewright.convert(SOURCE, path, **OPTIONS)
    return path


@pytest.fixture
def npy(tmp_path):
    """A source that the command line can name, of several blocks."""
    path = tmp_path / "in.npy"
    np.save(path, np.ascontiguousarray(np.broadcast_to(SOURCE.pixels(), (700, 900, 1))[:, :, 0]))
    return path


@pytest.mark.timeout(60)
def test_label_is_the_one_that_was_named_wherever_shards_are_put_together(tmp_path, npy, monkeypatch):
    import tifffile
    from PIL import Image

    for folder, colour in ((tmp_path, "red"), (tmp_path / "elsewhere", "blue")):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), colour).save(folder / "label.png")
    monkeypatch.chdir(tmp_path)
    for index, label in enumerate(("label.png", Path("elsewhere", "..", "label.png"))):
        slidewright.shard(npy, tmp_path / "shards", index=index, count=2, label=label, **OPTIONS)
    monkeypatch.chdir(tmp_path / "elsewhere")
    slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", n_workers=0)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tuple(tiff.pages[-1].asarray()[0, 0]) == (255, 0, 0)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("given", [{}, {"format": "ome-zarr", "zarr_shard": 0, "compression": "zstd"}])
def test_task_that_is_late_does_not_bring_back_a_folder_that_was_removed(tmp_path, given, monkeypatch):
    """Such as one that was requeued while it ran elsewhere: what it left would refuse the next job."""
    folder, gone, write = tmp_path / "shards", tmp_path / "gone", ScratchLevel.write
    calls = []

    def assembled_meanwhile(*arguments, **named):
        calls.append(1)
        if len(calls) == 2:
            folder.rename(gone)
        write(*arguments, **named)

    monkeypatch.setattr(ScratchLevel, "write", assembled_meanwhile)
    with pytest.raises(OutputError, match="has been removed"):
        slidewright.shard(SOURCE, folder, index=0, count=2, **{**OPTIONS, **given})
    assert gone.is_dir()
    assert not folder.exists()


@pytest.mark.timeout(60)
def test_shards_that_are_removed_while_they_are_put_together_are_missed_by_name(tmp_path, monkeypatch):
    """As by another `assemble --remove`."""
    folder, require = tmp_path / "shards", ShardFolder.require
    np.save(tmp_path / "in.npy", np.ones((100, 90), np.uint8))
    options = {**OPTIONS, "format": "ome-zarr", "zarr_shard": 0, "compression": "zstd"}
    slidewright.shard(tmp_path / "in.npy", folder, index=0, count=1, **options)

    def removed(*arguments, **named):
        require(*arguments, **named)
        shutil.rmtree(folder)
        monkeypatch.undo()

    monkeypatch.setattr(ShardFolder, "require", removed)
    with pytest.raises(ShardError, match=r"1 of 1 shards .* can't be used .*missing"):
        slidewright.assemble(folder, tmp_path / "out.ome.zarr", n_workers=0)
    assert os.listdir(tmp_path) == ["in.npy"]


@pytest.mark.timeout(60)
def test_file_of_a_late_task_does_not_bring_back_a_folder_that_was_removed(tmp_path):
    folder = tmp_path / "shards"
    (folder / "files").mkdir(parents=True)
    writer = ShardFile(
        os.fspath(folder / "files" / "0" / "0" / "0"), None, Size(1, 1), os.fspath(folder / "1.partial" / "0-0")
    )
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError):
        writer.add(0, 0, b"chunk")
    assert not folder.exists()


@pytest.mark.timeout(60)
@pytest.mark.skipif(os.name == "nt", reason="links as POSIX knows them")
@pytest.mark.parametrize("resume", [False, True])
def test_folder_behind_a_link_is_emptied(tmp_path, npy, resume):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "out.tif.shards").symlink_to(tmp_path / "large disk")
    if resume:
        slidewright.convert(npy, tmp_path / "out.tif", resume=True, **OPTIONS)
    else:
        slidewright.shard(npy, tmp_path / "out.tif.shards", index=0, count=1, **OPTIONS)
        slidewright.assemble(tmp_path / "out.tif.shards", tmp_path / "out.tif", remove=True, n_workers=0)
    assert (tmp_path / "out.tif.shards").is_symlink()
    assert os.listdir(tmp_path / "large disk") == []


def make_shards(folder, count, source=SOURCE, **options):
    return [
        slidewright.shard(source, folder, index=index, count=count, **{**OPTIONS, **options}) for index in range(count)
    ]


@given(n_blocks=st.integers(0, 500), count=st.integers(1, 700))
@settings(max_examples=200)
def test_shares_are_equal_but_for_one_block_and_cover_all_in_order(n_blocks, count):
    shares = [share(n_blocks, index, count) for index in range(count)]
    assert [number for part in shares for number in part] == list(range(n_blocks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("count", [1, 3, 5, 100])
def test_assembled_file_equals_a_conversion_in_one_go(tmp_path, whole, count):
    reports = make_shards(tmp_path / "shards", count)
    assert sum(report.blocks for report in reports) == 48
    assert not any(report.done_before for report in reports)
    report = slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", source=SOURCE, n_workers=count % 3)
    assert digest(tmp_path / "out.tif") == digest(whole)
    assert report.bytes == whole.stat().st_size


def test_shards_of_worker_processes_made_in_any_order_fit_together(tmp_path, whole):
    def task(index):
        slidewright.shard(SOURCE, tmp_path / "shards", index=index, count=4, **{**OPTIONS, "n_workers": 2})

    with ThreadPoolExecutor(2) as pool:  # two tasks at once, and each twice
        list(pool.map(task, [3, 1, 2, 0, 0, 3]))
    slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", source=SOURCE, n_workers=2, remove=True)
    assert digest(tmp_path / "out.tif") == digest(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.tif"]


def test_shard_that_is_there_is_not_made_again(tmp_path):
    (first,) = make_shards(tmp_path / "shards", 1)
    before = os.stat(first.path)
    (again,) = make_shards(tmp_path / "shards", 1)
    after = os.stat(first.path)
    assert again.done_before
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_scratch_levels_in_the_folder_are_zarr_arrays(tmp_path):
    make_shards(tmp_path / "shards", 2)
    level = zarr.open_array(tmp_path / "shards" / "level-3.zarr", mode="r")
    assert level.shape == (700 >> 3, 900 >> 3, 1)


@pytest.mark.parametrize(
    ("options", "source", "message"),
    [
        ({"compression": "zstd"}, SOURCE, "options.compression is deflate there and zstd here"),
        ({"mpp": 0.5}, SOURCE, "options.mpp is not set there and 0.5 here"),
        ({"block_tiles": 8}, SOURCE, "block_tiles is 4 there and 8 here"),
        ({}, SlowSource(700, 901), "source.size is 900 x 700 there and 901 x 700 here"),
    ],
)
def test_shard_of_another_job_is_refused_with_what_differs(tmp_path, options, source, message):
    make_shards(tmp_path / "shards", 1)
    with pytest.raises(ShardError, match=message):
        make_shards(tmp_path / "shards", 1, source, **options)


def test_another_count_is_refused(tmp_path):
    make_shards(tmp_path / "shards", 2)
    with pytest.raises(ShardError, match="count is 2 there and 3 here"):
        slidewright.shard(SOURCE, tmp_path / "shards", index=0, count=3, **OPTIONS)


def test_changed_source_file_is_refused_by_shard_and_assemble(tmp_path, npy):
    slidewright.shard(npy, tmp_path / "shards", index=0, count=2, **OPTIONS)
    slidewright.shard(npy, tmp_path / "shards", index=1, count=2, **OPTIONS)
    with npy.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x07")
    os.utime(npy, ns=(1, 1))
    with pytest.raises(ShardError, match=r"source\.changed"):
        slidewright.shard(npy, tmp_path / "shards", index=1, count=2, **OPTIONS)
    with pytest.raises(ShardError, match=r"source\.changed"):
        slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", n_workers=0)
    assert not (tmp_path / "out.tif").exists()


def test_source_that_moved_can_be_named(tmp_path, npy, whole):
    for index in range(2):
        slidewright.shard(npy, tmp_path / "shards", index=index, count=2, **OPTIONS)
    shutil.move(npy, tmp_path / "moved.npy")
    slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", source=tmp_path / "moved.npy", n_workers=0)
    assert digest(tmp_path / "out.tif") == digest(whole)


def test_missing_and_damaged_shards_are_named_with_the_command_that_makes_them(tmp_path, npy, whole, capsys):
    shards, out = tmp_path / "my shards", tmp_path / "out.tif"
    for index in range(8):
        slidewright.shard(npy, shards, index=index, count=8, **OPTIONS)
    for index in (2, 3, 4):
        (shards / f"shard-{index:05}-of-00008").unlink()
    cut = shards / "shard-00006-of-00008"
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(ShardError, match=r"4 of 8 shards .*missing: 2-4; shard 6: damaged.* tasks 2-4,6$") as caught:
        slidewright.assemble(shards, out, n_workers=0)
    command = f"slidewright shard {npy} '{shards}' --index 2 --count 8 --tile-size 32 --compression deflate"
    assert command in str(caught.value)
    for index in (2, 3, 4, 6):  # the very command, as a shell would split it
        arguments = command.replace("--index 2", f"--index {index}").replace("'", "").split()
        at = arguments.index(str(shards).split()[0])
        arguments[at : at + 2] = [str(shards)]
        assert main([*arguments[1:], "--workers", "0", "--quiet"]) == 0, capsys.readouterr().err
    assert main(["assemble", str(shards), str(out), "--workers", "0", "--quiet", "--remove"]) == 0
    assert digest(out) == digest(whole)
    assert not shards.exists()


def test_flipped_bit_in_a_segment_is_found_and_named(tmp_path):
    make_shards(tmp_path / "shards", 3)
    for index in (0, 2):
        path = tmp_path / "shards" / f"shard-{index:05}-of-00003"
        data = bytearray(path.read_bytes())
        data[1000] ^= 1
        path.write_bytes(data)
    for workers in (0, 2):
        with pytest.raises(ShardError, match=r"2 of 3 shards.*shard 0: damaged.*shard 2: damaged"):
            slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", source=SOURCE, n_workers=workers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards"]


@pytest.mark.parametrize("damage", ["remove", "flip"])
def test_damaged_chunk_of_a_reduced_level_names_its_shard(tmp_path, damage):
    make_shards(tmp_path / "shards", 4)
    chunk = tmp_path / "shards" / "level-3.zarr" / "c" / "0" / "0" / "0"
    if damage == "remove":
        chunk.unlink()
    else:
        chunk.write_bytes(bytes(chunk.stat().st_size))
    with pytest.raises(ShardError, match=r"1 of 4 shards.*shard 0: a chunk of its reduced level is missing or damaged"):
        slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", source=SOURCE, n_workers=0)


def test_shard_with_a_damaged_chunk_is_made_again(tmp_path, whole):
    make_shards(tmp_path / "shards", 4)
    shutil.rmtree(tmp_path / "shards" / "level-3.zarr" / "c" / "0")
    again = [report.done_before for report in make_shards(tmp_path / "shards", 4)]
    assert not again[0]
    assert again[3]
    slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", source=SOURCE, n_workers=0)
    assert digest(tmp_path / "out.tif") == digest(whole)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_shard_with_a_flipped_bit_is_made_again_by_the_command_that_assemble_names(tmp_path, npy, name):
    shards, out = tmp_path / "shards", tmp_path / name
    store = {"format": "ome-zarr", "zarr_shard": 2, "compression": "zstd"}
    options = store if name == "out.zarr" else {"format": "tiff"}
    slidewright.convert(npy, tmp_path / f"whole{out.suffix}", **{**OPTIONS, **options})
    make_shards(shards, 3, npy, **options)
    damaged = shards / ("files/0/c/0/0" if name == "out.zarr" else "shard-00001-of-00003")
    data = bytearray(damaged.read_bytes())
    data[1000] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(ShardError, match="1 of 3 shards"):
        slidewright.assemble(shards, out, n_workers=0, verify=True)
    assert sum(not report.done_before for report in make_shards(shards, 3, npy, **options)) == 1
    slidewright.assemble(shards, out, n_workers=0, verify=True)
    assert same_content(out, tmp_path / f"whole{out.suffix}")


def test_failed_task_leaves_no_part_of_a_shard(tmp_path):
    bad = SlowSource(700, 900, fault="corrupt", at=(96, 128))
    for workers in (0, 2):
        with pytest.raises(CorruptTileError):
            slidewright.shard(bad, tmp_path / "shards", index=0, count=1, **{**OPTIONS, "n_workers": workers})
    assert [path.name for path in (tmp_path / "shards").iterdir() if "shard-" in path.name] == []


def test_assemble_refuses_what_shards_decide_and_what_is_no_folder_of_shards(tmp_path):
    with pytest.raises(SourceError, match="is not a folder of shards"):
        slidewright.assemble(tmp_path, tmp_path / "out.tif")
    make_shards(tmp_path / "shards", 1)
    with pytest.raises(OptionError, match="'quality' is not for assemble"):
        slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", source=SOURCE, quality=50)
    with pytest.raises(OptionError, match="without a path"):
        slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif")
    (tmp_path / "out.tif").write_bytes(b"precious")
    with pytest.raises(DestinationError, match="exists"):
        slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", source=SOURCE)
    (tmp_path / "shards" / "job.json").write_text(json.dumps({"version": 4}))
    with pytest.raises(ShardError, match=r"job\.json' can't be read"):
        slidewright.assemble(tmp_path / "shards", tmp_path / "new.tif", source=SOURCE)


@pytest.mark.timeout(60)
def test_shards_on_another_disk_are_a_folder_of_shards_until_the_last_of_them_is_removed(tmp_path, npy, monkeypatch):
    """A kill meanwhile would leave what `shard` refuses to use and `assemble` does not know."""
    folder, rename, unlink, scandir, order = tmp_path / "shards", os.rename, os.unlink, os.scandir, []

    def no_other_disk(old, new, **named):
        if os.fspath(new).endswith(".trash"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(old, new, **named)

    def noted(path, **named):
        order.append(os.path.basename(os.fspath(path)))
        unlink(path, **named)

    @contextlib.contextmanager
    def by_name(path):
        with scandir(path) as found:
            yield iter(sorted(found, key=lambda entry: entry.name))

    for index in range(2):
        slidewright.shard(npy, folder, index=index, count=2, **OPTIONS)
    for name, call in (("rename", no_other_disk), ("unlink", noted), ("scandir", by_name)):
        monkeypatch.setattr(os, name, call)
    slidewright.assemble(folder, tmp_path / "out.tif", remove=True, n_workers=0)
    assert not folder.exists()
    assert order.index("job.json") > max(order.index(f"shard-{index:05}-of-00002") for index in range(2))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("again", ["assemble", "convert", "resume"])
def test_what_a_kill_left_of_shards_that_were_being_removed_goes_with_the_next_run(tmp_path, npy, again, monkeypatch):
    out, real = tmp_path / "out.tif", os.rename

    def killed(old, new):
        real(old, new)
        os._exit(9)

    child = os.fork()
    if not child:
        slidewright.shard(npy, tmp_path / "shards", index=0, count=1, **OPTIONS)
        monkeypatch.setattr(os, "rename", killed)
        slidewright.assemble(tmp_path / "shards", out, remove=True, n_workers=0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(list(tmp_path.glob(".out.tif.*.trash"))) == 1
    if again == "assemble":
        with pytest.raises(SourceError):
            slidewright.assemble(tmp_path / "shards", out, n_workers=0)
    else:
        with pytest.raises(DestinationError):
            slidewright.convert(npy, out, resume=again == "resume", **OPTIONS)
    assert sorted(os.listdir(tmp_path)) == ["in.npy", "out.tif"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["out.tif", "out.zarr"])
def test_shards_that_may_not_be_changed_are_put_together_and_stay_where_they_are(tmp_path, npy, name, monkeypatch):
    folder, real = tmp_path / "shards", os.access
    more = {} if name == "out.tif" else {"compression": "zstd", "format": "ome-zarr", "zarr_shard": 2}
    options = {**OPTIONS, **more}
    slidewright.shard(npy, folder, index=0, count=1, **options)

    def to_read(path, flags=os.O_RDONLY, mode=0o666):
        if flags & os.O_RDWR:
            raise PermissionError(13, "Permission denied", path)
        return regular(path, flags, mode)

    monkeypatch.setattr(ome_zarr, "regular", to_read)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and real(path, mode))
    slidewright.assemble(folder, tmp_path / name, remove=True, n_workers=0)
    assert sorted(os.listdir(tmp_path)) == ["in.npy", name, "shards"]
    slidewright.convert(npy, tmp_path / f"whole-{name}", **options)
    assert same_content(str(tmp_path / name), str(tmp_path / f"whole-{name}"))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("inside", ["", "shards", "../link"])
def test_folder_of_shards_that_is_the_source_or_lies_in_it_is_refused(tmp_path, inside):
    store = tmp_path / "in.zarr"
    slidewright.convert(np.zeros((90, 90), np.uint8), store, tile_size=32, n_workers=0)
    (tmp_path / "link").symlink_to(store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    with pytest.raises(OptionError, match="is the source, or lies in it"):
        slidewright.shard(store, store / inside, index=0, count=2, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_array_in_memory_is_refused(tmp_path):
    with pytest.raises(OptionError, match="save them to a file"):
        slidewright.shard(np.zeros((100, 100), np.uint8), tmp_path / "shards", index=0, count=1)
    with pytest.raises(OptionError, match="shard 2 of 2 does not exist"):
        slidewright.shard(SOURCE, tmp_path / "shards", index=2, count=2)
    assert list(tmp_path.iterdir()) == []


def test_shard_file_round_trips_and_tells_every_kind_of_damage(tmp_path):
    path = tmp_path / "shard"
    writer = ShardWriter(str(path), str(path) + ".partial")
    segments = {(0, 0, row, 5): bytes([row]) * (row * 100) for row in range(7)}
    for key, segment in segments.items():
        writer.put(key, segment)
    assert not path.exists()
    writer.finish({"job": "x", "index": 0, "count": 1, "chunks": [[3, 4]]}, sync=True)
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]
    index = read_index(str(path))
    assert [tuple(key) for key in index.keys.tolist()] == list(segments)
    assert index.chunks == {3: 4}
    check_segments(str(path), index)
    whole = path.read_bytes()
    for at in range(20, len(whole), 13):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with pytest.raises(ShardDamageError):
            check_segments(str(path), read_index(str(path)))
    for length in (0, 10, 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ShardDamageError):
            read_index(str(path))


@pytest.mark.parametrize(
    ("environment", "count", "expected"),
    [
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "9",
          "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "5"}, None, (3, 5)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "2"}, 16, (7, 16)),
        ({"PBS_ARRAY_INDEX": "2"}, 4, (2, 4)),
        ({"PBS_ARRAYID": "0"}, 4, (0, 4)),
        ({"SGE_TASK_ID": "3", "SGE_TASK_FIRST": "1", "SGE_TASK_LAST": "8", "SGE_TASK_STEPSIZE": "1"}, None, (2, 8)),
        ({"SGE_TASK_ID": "3"}, 8, (2, 8)),
        ({"LSB_JOBINDEX": "4", "LSB_JOBINDEX_END": "10", "LSB_JOBINDEX_STEP": "1"}, None, (3, 10)),
    ],
)  # fmt: skip
def test_schedulers_tell_index_and_count(environment, count, expected):
    assert read_array(environment, count) == expected


@pytest.mark.parametrize(
    ("environment", "count", "message"),
    [
        ({}, None, "no task of an array job"),
        ({"SGE_TASK_ID": "undefined", "LSB_JOBINDEX": "0"}, None, "no task of an array job"),
        ({"PBS_ARRAY_INDEX": "2"}, None, "PBS does not tell.*--count"),
        ({"SLURM_ARRAY_TASK_ID": "16"}, 16, "beyond 16 shares; number the array from 0 to 15"),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "9",
          "SLURM_ARRAY_TASK_STEP": "1", "SLURM_ARRAY_TASK_COUNT": "3"}, None, "not evenly spaced.*--count"),
    ],
)  # fmt: skip
def test_what_the_scheduler_leaves_open_is_asked_for(environment, count, message):
    with pytest.raises(OptionError, match=message):
        read_array(environment, count)


def test_array_flag_takes_index_and_count_from_the_scheduler(tmp_path, npy, monkeypatch, capsys):
    for task in range(3, 6):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(task))
        monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "3")
        monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
        arguments = ["shard", str(npy), str(tmp_path / "shards"), "--array", "--workers", "0"]
        assert main(arguments) == 0
    assert "shard 2 of 3: 1 block" in capsys.readouterr().out
    assert len(list(Path(tmp_path / "shards").glob("shard-*"))) == 3
    assert main([*arguments, "--index", "1"]) == 2
    assert main([*arguments[:3], "--workers", "0"]) == 2


@pytest.fixture
def others(tmp_path, npy):
    """A folder of shards of another job, that nobody has put together yet; and how it comes under a name."""
    folder = tmp_path / "others"
    for index in range(2):
        slidewright.shard(npy, folder, index=index, count=2, **{**OPTIONS, "tile_size": 128})
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}

    def comes_under(name):
        (tmp_path / name).rename(tmp_path / "mine")
        folder.rename(tmp_path / name)

    def is_whole(name):
        return {path.name: path.stat().st_ino for path in (tmp_path / name).iterdir()} == before

    return comes_under, is_whole


def when_done(act):
    def told(snapshot):
        if snapshot.stage == "done":
            act()

    return told


@pytest.mark.timeout(60)
@pytest.mark.parametrize("how", ["assemble", "resume"])
@pytest.mark.parametrize("when", ["checked", "done"])
def test_other_shards_that_came_under_the_name_are_not_removed(tmp_path, npy, others, how, when, monkeypatch):
    """They were in place of the run's own, for which nobody has a use any more."""
    comes_under, is_whole = others
    name = "shards" if how == "assemble" else "out.tif.shards"
    options = {"n_workers": 0, "progress": when_done(lambda: when == "done" and comes_under(name))}
    check = Conversion._check
    if when == "checked":
        monkeypatch.setattr(Conversion, "_check", lambda self, run: (comes_under(name), check(self, run)))
    if how == "assemble":
        for index in range(2):
            slidewright.shard(npy, tmp_path / name, index=index, count=2, **OPTIONS)
        report = slidewright.assemble(tmp_path / name, tmp_path / "out.tif", remove=True, **options)
    else:
        report = slidewright.convert(npy, tmp_path / "out.tif", resume=True, **{**OPTIONS, **options})
    assert is_whole(name)
    assert (tmp_path / "mine" / "job.json").exists()
    (said,) = report.warnings
    assert f"{str(tmp_path / name)!r} is left alone" in said


@pytest.mark.timeout(60)
def test_other_shards_that_come_under_the_name_in_the_last_moment_are_put_back(tmp_path, npy, others, monkeypatch):
    comes_under, is_whole = others
    for index in range(2):
        slidewright.shard(npy, tmp_path / "shards", index=index, count=2, **OPTIONS)
    rename = os.rename

    def late(old, new, **named):
        if os.fspath(new).endswith(".trash"):
            monkeypatch.setattr(os, "rename", rename)
            comes_under("shards")
        rename(old, new, **named)

    monkeypatch.setattr(os, "rename", late)
    report = slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", remove=True, n_workers=0)
    assert is_whole("shards")
    assert "is left alone" in report.warnings[0]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.timeout(60)
def test_shards_of_a_job_that_was_begun_again_in_the_same_folder_are_not_removed(tmp_path, npy):
    for index in range(2):
        slidewright.shard(npy, tmp_path / "shards", index=index, count=2, **OPTIONS)
    job = tmp_path / "shards" / "job.json"

    def begun_again():
        job.write_text(job.read_text().replace('"planned_workers"', ' "planned_workers"'))

    told = when_done(begun_again)
    slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", remove=True, n_workers=0, progress=told)
    assert len(list((tmp_path / "shards").glob("shard-*"))) == 2
    slidewright.assemble(tmp_path / "shards", tmp_path / "new.tif", remove=True, n_workers=0)
    assert not (tmp_path / "shards").exists()
