"""The parts of the engine one by one: ring, segment store, shared memory, scratch, codecs, options, resources,
destination.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import slidewright
from slidewright.codecs import CODECS, resolve
from slidewright.conversions.destination import Destination
from slidewright.engine.ring import SLOT_BYTES, SlotWriter, read_slot
from slidewright.engine.segment_store import SegmentStore
from slidewright.errors import DestinationError, OptionError, OutputError
from slidewright.geometry import Region, Size
from slidewright.kinds import PixelFormat, resolve_pixels
from slidewright.options import ConvertOptions, parse_bytes
from slidewright.pyramid.level_store import Scratch, ScratchFolder
from slidewright.pyramid.plan import make_plan
from slidewright.sources.base import SourceInfo
from slidewright.system import limits as resources
from slidewright.system.shared_memory import SharedBuffer, dumps, loads


@given(st.lists(st.one_of(st.integers(0, 3000), st.integers(SLOT_BYTES - 9000, 3 * SLOT_BYTES)), max_size=12))
def test_segments_of_any_size_come_through_the_ring_whole(sizes):
    memory = SharedBuffer.allocate(2 * SLOT_BYTES)
    view = memory.view()
    plan = make_plan(Size(16, 16 * max(1, len(sizes))), 16, n_levels=1)
    store = SegmentStore(plan, 1 << 30)
    slots = iter(range(1000))

    def send(slot, entries):
        store.add_parts(1, read_slot(view, slot % 2, entries))

    writer = SlotWriter(memory, lambda: next(slots) % 2, send)
    rng = np.random.default_rng(0)
    segments = [rng.bytes(size) for size in sizes]
    for column, segment in enumerate(segments):
        writer.put((0, 0, 0, column), segment)
    writer.flush()
    for column, segment in enumerate(segments):
        assert store.take((0, 0, 0, column)) == segment
    memory.close()


def test_redone_block_replaces_half_a_segment_and_repeats_are_ignored():
    memory = SharedBuffer.allocate(SLOT_BYTES * 8)
    view = memory.view()
    store = SegmentStore(make_plan(Size(16, 32), 16, n_levels=1), 1 << 30)
    big = os.urandom(3 * SLOT_BYTES)
    for sender, parts in ((1, 2), (2, 99)):  # the first sender dies after two slots
        sent = []
        slots = iter(range(8))
        writer = SlotWriter(memory, lambda slots=slots: next(slots), lambda *slot, sent=sent: sent.append(slot))
        writer.put((0, 0, 0, 0), b"small")
        writer.put((0, 0, 0, 1), big)
        writer.flush()
        for slot, entries in sent[:parts]:
            store.add_parts(sender, read_slot(view, slot, entries))
    assert store.take((0, 0, 0, 1)) == big
    assert store.take((0, 0, 0, 0)) == b"small"
    assert store.take((0, 0, 0, 0)) is None


@pytest.mark.parametrize(("planes", "band"), [(1, 1), (3, 1), (3, 3)])
def test_store_spills_beyond_its_memory_and_gives_the_same_back(tmp_path, planes, band):
    plan = make_plan(Size(320, 320), 16, block_tiles=2, planes=planes, band=band)
    store = SegmentStore(plan, 2000, str(tmp_path))
    keys = [(level.index, *place) for level in plan.levels for place in np.ndindex(planes, *level.tiles)]
    for key in reversed(keys):
        store.add(key, repr(key).encode() * 20)
    assert store.held_bytes <= 2000 < store.spilled_bytes
    assert list(tmp_path.iterdir()) == []  # files without a name
    for key in keys:
        assert store.take(key) == repr(key).encode() * 20
    store.close()


def test_shared_buffer_is_anonymous_reserved_and_travels_by_descriptor(tmp_path):
    for on_disk in (False, True):
        buffer = SharedBuffer.allocate(10_000, tmp_path, on_disk=on_disk)
        assert list(tmp_path.iterdir()) == []
        assert os.fstat(buffer.fd).st_blocks * 512 >= 10_000
        buffer.view()[:4] = b"tile"
        data, buffers = dumps({"ring": buffer, "again": buffer})
        assert buffers == [buffer]
        other = loads(data, [os.dup(buffer.fd)])
        assert bytes(other["ring"].view()[:4]) == b"tile"
        assert other["ring"] is other["again"]
        other["ring"].close()
        buffer.close()


@pytest.mark.parametrize("single", [False, True])
def test_scratch_is_a_zarr_array(tmp_path, single):
    zarr = pytest.importorskip("zarr")
    for dtype in ("uint8", "uint16"):
        folder = tmp_path / dtype
        plan = make_plan(Size(500, 700), 32, block_tiles=2)
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
    assert level.read(0, 0, 32, 32, out) is level.blank
    assert (level.blank == [1, 2, 3]).all()
    level.write(Region(0, 16, 16, 16), np.full((16, 16, 3), 9, np.uint8))
    half = level.read(0, 0, 32, 32, out)
    assert (half[:, :16] == [1, 2, 3]).all()
    assert (half[:16, 16:] == 9).all()
    with pytest.raises(OutputError, match=r"a scratch chunk of .* is missing"):
        Scratch(str(tmp_path), plan, pixels, single=single).level(1).read(0, 0, 32, 32, out)


def test_scratch_of_a_dead_run_is_swept_and_of_a_living_one_kept(tmp_path):
    living = ScratchFolder(tmp_path)
    dead = tmp_path / "slidewright-scratch-dead"
    dead.mkdir()
    (tmp_path / "slidewright-scratch-dead.lock").touch()
    third = ScratchFolder(tmp_path)
    assert not list(tmp_path.glob("*dead*"))
    assert Path(living.path).exists()
    living.remove()
    third.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    ("dtype", "samples"), [("uint8", 1), ("uint8", 3), ("uint16", 1), ("float32", 1), ("uint8", 4)]
)
def test_codec_table_encodes_what_it_accepts_and_refuses_the_rest(name, dtype, samples):
    options = ConvertOptions(compression=name, tile_size=32)
    pixels = resolve_pixels(options, SourceInfo("test", "test", Size(40, 50), samples, dtype))
    if CODECS[name].refusal(pixels) is not None:
        with pytest.raises(OptionError, match="choose one of"):
            resolve(options, pixels)
        return
    encoding = pickle.loads(pickle.dumps(resolve(options, pixels)))
    segment = encoding.encoder()(np.zeros((32, 32, samples), dtype))
    assert isinstance(segment, bytes)
    assert segment


@pytest.mark.parametrize(
    ("text", "value"), [("4GB", 4e9), ("512MiB", 512 << 20), ("1.5 g", 1.5e9), ("100", 100), (7, 7)]
)
def test_memory_sizes_are_understood(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "4 parsecs", "-1GB", "0"])
def test_senseless_memory_sizes_are_refused(text):
    with pytest.raises(OptionError, match="memory"):
        parse_bytes(text)


def test_usable_cpus_follows_affinity_and_slurm(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    most = resources.usable_cpus()
    assert 1 <= most <= 6
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert resources.usable_cpus() == 1


def test_destination_taken_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "out.tif"
    destination = Destination(path, overwrite=False)
    Path(destination.partial).write_bytes(b"ours")
    path.write_bytes(b"theirs")
    with pytest.raises(DestinationError, match="exists"):
        destination.commit()
    destination.close()
    assert path.read_bytes() == b"theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["out.tif"]


def test_source_is_never_its_own_destination(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((40, 40), np.uint8))
    with pytest.raises(DestinationError, match="source itself"):
        slidewright.convert(path, path, overwrite=True, n_workers=0)


def test_import_is_light():
    heavy = ("numpy", "zarr", "cv2", "imagecodecs", "tifffile", "rich")
    code = f"import slidewright, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "[]"


def test_workers_as_threads_where_there_is_no_fork(tmp_path, monkeypatch):
    from fake_sources import SlowSource
    from oracle import pyramid
    from test_engine import assert_levels_equal_oracle

    from slidewright.system import launcher as processes

    monkeypatch.setattr(processes, "make_launcher", processes.ThreadLauncher)
    source = SlowSource(300, 400)
    slidewright.convert(source, tmp_path / "out.tif", n_workers=3, tile_size=32, compression="deflate", block_tiles=2)
    assert len(pyramid(source.pixels(), 32)) == 5
    assert_levels_equal_oracle(tmp_path / "out.tif", source.pixels(), 32)
