"""Files of an OME-Zarr that workers write by themselves: the same bytes, whoever writes them and however often."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from fake_sources import SlowSource
from faults.campaign import role_of, session_members, wait_until
from written import image

import slidewright
from slidewright.engine.memory_budget import Needs, plan_memory
from slidewright.errors import OutputError, ShardError
from slidewright.formats.ome_zarr import OmeZarrFormat
from slidewright.formats.zarr_shard import PlaneWriter, ShardWriter, Syncer
from slidewright.geometry import Size

SMALL: dict[str, Any] = {"tile_size": 32, "n_workers": 0}
IMAGES: dict[str, Any] = {
    "rgb": image(300, 410),
    "channels": image(300, 410, 5, "uint16"),
    "mostly background": np.pad(image(60, 70), ((0, 240), (340, 0), (0, 0)), constant_values=255),
}


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture
def by_the_writer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that has one conversion written by the writer alone."""

    def convert(pixels: Any, path: Path, **options: Any) -> dict[str, bytes]:
        with monkeypatch.context() as patch:
            patch.setattr(OmeZarrFormat, "by_blocks", lambda self: self)
            report = slidewright.convert(pixels, path, **options)
        assert "files" not in report.stages
        return files(path)

    return convert


@pytest.mark.parametrize("kind", ["rgb", *(pytest.param(kind, marks=pytest.mark.long) for kind in list(IMAGES)[1:])])
@pytest.mark.parametrize(
    ("layout", "block"),
    [
        pytest.param({"zarr_shard": 4}, 4, id="a block is a shard"),
        pytest.param({"zarr_shard": 2}, 8, id="a block has shards of two levels"),
        pytest.param({"zarr_shard": 0}, 4, id="a file a chunk"),
        pytest.param({"ngff": "0.4"}, 4, id="zarr v2"),
        pytest.param({"zarr_shard": 8}, 2, id="only the upper levels have shards of one block"),
    ],
)
def test_workers_write_the_bytes_that_the_writer_would(
    tmp_path: Path, by_the_writer: Any, kind: str, layout: dict[str, Any], block: int
) -> None:
    pixels, options = IMAGES[kind], {"block_tiles": block, "verify": True, **layout}
    if kind == "channels":
        options["kind"] = "multichannel"
    expected = by_the_writer(pixels, tmp_path / "writer.zarr", **SMALL, **options)
    for workers in (0, 2):
        path = tmp_path / f"{workers}.zarr"
        report = slidewright.convert(pixels, path, **{**SMALL, "n_workers": workers}, **options)
        assert files(path) == expected
        assert "files" in report.stages
        assert sum(level.bytes for level in report.levels) < report.bytes
        assert report.bytes == sum(map(len, expected.values()))


def test_tiles_handed_over_one_by_one_make_the_same_files(tmp_path: Path) -> None:
    pixels = IMAGES["rgb"]
    slidewright.convert(pixels, tmp_path / "a.zarr", zarr_shard=0, **SMALL)
    places = [(y, x) for y in range(0, 300, 32) for x in range(0, 410, 32)]
    random.Random(3).shuffle(places)
    with slidewright.PyramidWriter(
        tmp_path / "b.zarr", pixels.shape, zarr_shard=0, **{**SMALL, "n_workers": 2}
    ) as writer:
        for y, x in places:
            writer.write_tile(pixels[y : y + 32, x : x + 32], y // 32, x // 32)
    assert files(tmp_path / "a.zarr") == files(tmp_path / "b.zarr")


def test_a_worker_that_is_killed_within_its_shard_is_replaced(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    source = SlowSource(300, 400, fault="kill-once", at=(96, 96), marker=str(marker))
    options = {"tile_size": 32, "block_tiles": 4, "zarr_shard": 4}
    report = slidewright.convert(source, tmp_path / "out.zarr", n_workers=2, **options)
    assert report.retries == 1
    slidewright.convert(SlowSource(300, 400), tmp_path / "clean.zarr", n_workers=0, **options)
    assert files(tmp_path / "out.zarr") == files(tmp_path / "clean.zarr")


def test_little_memory_leaves_it_to_the_writer_and_says_so() -> None:
    needs = Needs(n_workers=4, tile=512, tile_bytes=786_432, n_tiles=1600, held_bytes=32 << 20)
    full = plan_memory(needs, 10**10)
    assert full.by_blocks
    assert not full.warnings
    lean = plan_memory(needs, full.needed - 1)
    assert not lean.by_blocks
    assert full.needed - lean.needed == 4 * (32 << 20)
    assert (lean.n_workers, lean.slots_per_worker) == (full.n_workers, full.slots_per_worker)
    assert "one process that writes all files" in lean.warnings[0]


def test_a_folder_that_can_not_be_written_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: ShardWriter, parts: list[bytes]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "_write", full)
    with pytest.raises(OutputError, match=r"can't write .*No space left on device"):
        slidewright.convert(IMAGES["rgb"], tmp_path / "o.zarr", **SMALL)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("chunks", [Size(4, 4), Size(3, 4), Size(4, 1), Size(1, 1)])
@pytest.mark.parametrize("missing", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("shared", [False, True])
def test_shards_are_those_of_the_plane_writer_in_any_order(
    tmp_path: Path, chunks: Size, missing: float, shared: bool
) -> None:
    for side in (4, None) if chunks == Size(1, 1) else (4,):
        rng = random.Random(f"{chunks}{missing}")
        places = [(row, column) for row in range(chunks.height) for column in range(chunks.width)]
        data = {place: None if rng.random() < missing else rng.randbytes(rng.randrange(1, 99)) for place in places}
        one, two = tmp_path / f"one{side}", tmp_path / f"two{side}"
        with Syncer() as syncer:
            writer = PlaneWriter(str(one), chunks, side, syncer, str(tmp_path))
            for place in places:
                writer.add(*place, data[place])
            syncer.wait()
        expected = files(one) if one.exists() else {}
        for ends_early in (False, True, False):  # over what is there, also where a first try ended early
            rng.shuffle(places)
            staging = str(tmp_path / "staging" / f"{side}") if shared else None
            shard = ShardWriter(str(two / "0" / "0"), side, chunks, staging, home=str(tmp_path))
            for place in places[: len(places) // 2 if ends_early else None]:
                assert not shard.complete
                shard.add(*place, data[place])
            found = files(two) if two.exists() else {}
            assert found == expected
            if not ends_early:
                assert shard.complete
                assert shard.nbytes == sum(len(part or b"") for part in data.values())
                assert shard.size == sum(map(len, expected.values()))


def test_shard_that_is_gone_when_it_is_opened_again_is_not_made_of_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more shards than may be open side by side, each is closed and opened again, row by row."""
    monkeypatch.setattr("slidewright.formats.zarr_shard.MAX_OPEN", 1)
    made = []
    for number in range(2):
        with Syncer() as syncer:
            writer = PlaneWriter(str(tmp_path / str(number)), Size(4, 4), 2, syncer, str(tmp_path))
            for row in range(4):
                for column in range(4):
                    writer.add(row, column, bytes([16 * row + column]) * 9)
            syncer.wait()
        made.append(files(tmp_path / str(number)))
        monkeypatch.undo()
    assert made[0] == made[1]
    assert len(made[0]) == 4
    monkeypatch.setattr("slidewright.formats.zarr_shard.MAX_OPEN", 1)
    with Syncer() as syncer:
        writer = PlaneWriter(str(tmp_path / "2"), Size(2, 4), 2, syncer, str(tmp_path))
        for column in range(4):
            writer.add(0, column, b"data")
        (tmp_path / "2" / "0" / "0").unlink()
        with pytest.raises(FileNotFoundError):
            writer.add(1, 0, b"data")
        (tmp_path / "2" / "0" / "0").write_bytes(b"dat")
        with pytest.raises(OutputError, match="another took its place"):
            writer.add(1, 0, b"data")
        writer.close()


def test_shard_whose_start_is_in_another_file_is_not_made_with_a_hole(tmp_path: Path) -> None:
    """As where a copy had the folder's place meanwhile; a longer file is the first try of a worker that died."""
    writer = ShardWriter(str(tmp_path / "0"), 2, Size(2, 2), home=str(tmp_path))
    writer.add(0, 0, b"data")
    writer.add(0, 1, b"more")
    (tmp_path / "0").write_bytes(b"datamoredata")
    writer.add(1, 0, b"data")
    (tmp_path / "0").write_bytes(b"data")
    with pytest.raises(OutputError, match="another took its place"):
        writer.add(1, 1, b"data")


@pytest.mark.parametrize("first", ["the other", "this"])
def test_two_tasks_at_the_same_file_make_it_once(tmp_path: Path, first: str) -> None:
    """As when a task is queued again while it still runs: whoever is done first removes what the other has begun."""
    data = [bytes([number]) * (100 + number) for number in range(4)]
    path, places = tmp_path / "files" / "0" / "0", [tmp_path / "a.partial", tmp_path / "b.partial"]
    tasks = [ShardWriter(str(path), 2, Size(2, 2), str(place / "0")) for place in places]
    for shard in tasks:
        for number in range(3):
            shard.add(*divmod(number, 2), data[number])
    assert not path.exists()
    order = [1, 0] if first == "the other" else [0, 1]
    tasks[order[0]].add(1, 1, data[3])
    shutil.rmtree(places[order[1]])
    tasks[order[1]].add(1, 1, data[3])
    assert list(files(tmp_path)) == ["files/0/0"]
    assert path.read_bytes().startswith(b"".join(data))
    assert {(shard.size, shard.crc) for shard in tasks} == {(path.stat().st_size, tasks[0].crc)}


PARTS: dict[str, Any] = {"tile_size": 32, "block_tiles": 4, "zarr_shard": 4}


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, image(420, 610), tile=(64, 64), photometric="rgb", compression="zlib")
    return path


@pytest.fixture
def parts(tmp_path: Path, slide: Path) -> Path:
    """A folder of three shards."""
    for index in range(3):
        done = slidewright.shard(
            slide, tmp_path / "parts", index=index, count=3, format="ome-zarr", n_workers=1, **PARTS
        )
        assert not done.done_before
        assert done.bytes > 30_000
    return tmp_path / "parts"


def problem_of(parts: Path, dest: Path) -> str:
    with pytest.raises(ShardError) as caught:
        slidewright.assemble(parts, dest, n_workers=0)
    assert not dest.exists()
    return str(caught.value)


@pytest.mark.parametrize("other_disk", [False, True])
def test_array_tasks_write_zarr_shards_that_assembling_only_names(
    tmp_path: Path, slide: Path, parts: Path, monkeypatch: pytest.MonkeyPatch, other_disk: bool
) -> None:
    """Where names can't be linked, as on another disk, they are copied."""
    slidewright.convert(slide, tmp_path / "whole.zarr", n_workers=0, **PARTS)
    shards = sum(path.stat().st_size for path in parts.glob("shard-*"))
    written = files(parts / "files")
    assert len(written) == 4 * 5
    assert shards < 0.5 * sum(map(len, written.values()))
    if other_disk:

        def link(*_: object, **__: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", link)
    report = slidewright.assemble(parts, tmp_path / "out.zarr", n_workers=0)
    assert files(tmp_path / "out.zarr") == files(tmp_path / "whole.zarr")
    assert report.bytes == sum(map(len, files(tmp_path / "whole.zarr").values()))
    names = (tmp_path / "out.zarr" / "0" / "c" / "0" / "0" / "0").stat().st_nlink
    assert names == (1 if other_disk else 2)


def test_a_shard_that_fails_leaves_nothing_half_written(
    tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ShardWriter._write

    def full(self: ShardWriter, parts: list[bytes]) -> None:
        write(self, parts)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "_write", full)
    with pytest.raises(OutputError, match="No space left on device"):
        slidewright.shard(slide, tmp_path / "parts", index=0, count=3, format="ome-zarr", n_workers=0, **PARTS)
    assert list((tmp_path / "parts").rglob("*.partial")) == []


@pytest.mark.skipif(sys.platform != "linux", reason="workers are processes of their own where there is fork")
@pytest.mark.parametrize("who", ["the caller", "a worker"])
def test_a_shard_that_is_killed_leaves_nothing_half_written(tmp_path: Path, slide: Path, who: str) -> None:
    source = SlowSource(420, 610, seconds=0.01)
    parts = tmp_path / "parts"
    code = f"""\
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import slidewright
        from fake_sources import SlowSource
        slidewright.shard({source!r}, {str(parts)!r}, index=0, count=1, format="ome-zarr", n_workers=2, **{PARTS!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], start_new_session=True)
    assert wait_until(lambda: list(parts.glob("*.files.*.partial/*")), 30)
    if who == "the caller":
        process.kill()
        process.wait(10)
        assert wait_until(lambda: not session_members(process.pid), 10)
    else:
        worker = next(pid for pid in session_members(process.pid) if role_of(pid) == "slidewright-w0")
        os.kill(worker, signal.SIGKILL)
        assert process.wait(60) == 0
    assert list(parts.rglob("*.partial")) == []


def test_damage_to_files_of_shards_is_told_by_shard(tmp_path: Path, parts: Path) -> None:
    first, *_, last = sorted(path for path in (parts / "files").rglob("*") if path.is_file())
    good = first.read_bytes()
    first.unlink()
    assert "1 of 3 shards" in problem_of(parts, tmp_path / "o.zarr")
    assert "is missing" in problem_of(parts, tmp_path / "o.zarr")
    first.write_bytes(good[:-1])
    assert "another size" in problem_of(parts, tmp_path / "o.zarr")
    first.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert "does not match its checksum" in problem_of(parts, tmp_path / "o.zarr")
    first.write_bytes(good)
    last.unlink()
    os.mkfifo(last)
    assert "shard 2: can't be read" in problem_of(parts, tmp_path / "o.zarr")


@pytest.mark.timeout(60)
def test_files_of_shards_are_read_whole_where_the_output_is_to_be_verified(tmp_path: Path, parts: Path) -> None:
    first = min(path for path in (parts / "files").rglob("*") if path.is_file())
    data = bytearray(first.read_bytes())
    data[10] ^= 1
    first.write_bytes(data)
    with pytest.raises(ShardError, match=r"1 of 3 shards.*does not match its checksum.*Make them: .*--index 0"):
        slidewright.assemble(parts, tmp_path / "o.zarr", n_workers=0, verify=True)
    assert not (tmp_path / "o.zarr").exists()


def test_a_shard_made_again_makes_its_files_again_and_leaves_a_store_alone(
    tmp_path: Path, slide: Path, parts: Path
) -> None:
    """What a killed task left of it goes with that."""
    stale = parts / "shard-00000-of-00003.files.0123456789abcdef.partial"
    stale.mkdir()
    (stale / "0-0-0-0").write_bytes(b"half of it")
    slidewright.assemble(parts, tmp_path / "a.zarr", n_workers=0)
    before = files(tmp_path / "a.zarr")
    mine = tmp_path / "a.zarr" / "0" / "c" / "0" / "0" / "0"
    mine.write_bytes(b"changed by its owner")  # the file of the shard has changed with it
    assert "shard 0: damaged" in problem_of(parts, tmp_path / "b.zarr")
    again = slidewright.shard(slide, parts, index=0, count=3, format="ome-zarr", n_workers=1, **PARTS)
    assert not again.done_before
    assert mine.read_bytes() == b"changed by its owner"
    assert not stale.exists()
    slidewright.assemble(parts, tmp_path / "b.zarr", n_workers=0)
    assert files(tmp_path / "b.zarr") == before


@pytest.mark.parametrize(
    "damage", ["a file", *(pytest.param(what, marks=pytest.mark.long) for what in ("none", "a shard"))]
)
def test_a_resumed_run_takes_the_files_that_are_whole(tmp_path: Path, slide: Path, damage: str) -> None:
    def stop(progress: slidewright.Progress) -> None:
        if progress.tiles_done > 200:
            raise LookupError

    with pytest.raises(LookupError):
        slidewright.convert(slide, tmp_path / "out.zarr", resume=True, n_workers=0, progress=stop, **PARTS)
    kept = tmp_path / "out.zarr.shards"
    assert len(files(kept / "files")) >= 8
    times = {path: path.stat().st_mtime_ns for path in (kept / "files").rglob("*") if path.is_file()}
    first = min(times)
    if damage == "a file":
        first.write_bytes(first.read_bytes()[:-9] + b"123456789")
    elif damage == "a shard":
        next(iter(sorted(kept.glob("shard-*")))).unlink()
    slidewright.convert(slide, tmp_path / "out.zarr", resume=True, n_workers=1, **PARTS)
    slidewright.convert(slide, tmp_path / "whole.zarr", n_workers=0, **PARTS)
    assert files(tmp_path / "out.zarr") == files(tmp_path / "whole.zarr")
    assert not kept.exists()
    made = tmp_path / "out.zarr" / "0" / "c" / "0" / "0" / "0"
    assert (made.stat().st_mtime_ns == times[first]) == (damage == "none")


def test_shards_larger_than_blocks_take_no_memory_of_workers(tmp_path: Path, slide: Path) -> None:
    options = {"tile_size": 512, "zarr_shard": 256, "memory": "600MB", "n_workers": 2}
    report = slidewright.convert(slide, tmp_path / "out.zarr", **options)
    assert not report.warnings
