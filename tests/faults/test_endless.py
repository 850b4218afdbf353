"""Nothing waits for ever: FIFOs where files belong, counts that nothing bears out, streams that become gigabytes.

Each run is a process of its own with a time limit, and what it leaves behind is looked at.
"""

from __future__ import annotations

import bz2
import json
import lzma
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from faults.campaign import make_slide, session_members, wait_until

import slidewright
from slidewright.errors import SlidewrightError
from slidewright.shards.file import _END, _TRAILER, MAGIC

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="FIFOs and process groups as POSIX knows them"),
]
LIMIT = 30  # seconds; on an idle machine each takes one or two
MEGA = bytes(1 << 20)


def run(*line: object, seconds: float = LIMIT) -> subprocess.CompletedProcess[str]:
    """Run the command line; a run that does not end fails the test, and is killed with all that it started."""
    command = [sys.executable, "-m", "slidewright", *map(str, line)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        pytest.fail(f"it did not end within {seconds} s")
    assert wait_until(lambda: not session_members(process.pid), 15), "processes live on"
    return subprocess.CompletedProcess(command, process.returncode, out, errors)


def assert_one_error(done: subprocess.CompletedProcess[str], about: str = "") -> None:
    assert done.returncode in (1, 2), (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("slidewright: error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert "--debug" not in done.stderr, done.stderr  # which only errors that nobody foresaw mention
    assert about in done.stderr, done.stderr


def replaced_by_fifo(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def make_store(path: Path, **options) -> Path:
    array = zarr.create_array(path, shape=(128, 128), dtype="u1", chunks=options.pop("chunks", (64, 64)), **options)
    array[...] = np.random.default_rng(0).integers(0, 255, (128, 128), np.uint8)
    return path


# ---- what is no file


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"compressors": None}, "c/0/0"),
        ({}, "c/0/0"),
        ({}, "zarr.json"),
        ({"shards": (128, 128)}, "c/0/0"),
        ({"zarr_format": 2}, ".zarray"),
        ({"zarr_format": 2}, "1.1"),
    ],
)
def test_fifo_in_a_store_is_an_error(tmp_path, options, key, workers):
    store = make_store(tmp_path / "s.zarr", **options)
    replaced_by_fifo(store / key)
    done = run("convert", store, tmp_path / "o.tif", "--workers", workers, "-q")
    assert_one_error(done)
    assert sorted(os.listdir(tmp_path)) == ["s.zarr"]


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("info", "s.tif"),
        ("verify", "s.tif"),
        *(("convert", f"s.{kind}") for kind in ("tif", "npy", "zarr.zip", "mrxs")),
    ],
)
def test_fifo_as_a_slide_is_an_error(tmp_path, name, verb):
    source = replaced_by_fifo(tmp_path / name)
    assert_one_error(run(verb, source, *([tmp_path / "o.tif", "-q"] if verb == "convert" else [])))


@pytest.mark.parametrize("name", ["m.csv", "m.report.jsonl"])
def test_fifo_as_a_manifest_or_report_is_an_error(tmp_path, name):
    make_slide(tmp_path / "s.tif", 100, 100)
    (tmp_path / "m.csv").write_text("source,destination\ns.tif,o.tif\n")
    replaced_by_fifo(tmp_path / name)
    assert_one_error(run("batch", tmp_path / "m.csv", "-q"))


@pytest.fixture
def shards(tmp_path):
    """Two finished shards of a small slide."""
    slide = make_slide(tmp_path / "s.tif", 200, 200)
    for index in range(2):
        slidewright.shard(slide, tmp_path / "shards", index=index, count=2, n_workers=0, tile_size=64, block_tiles=2)
    return tmp_path / "shards"


@pytest.mark.parametrize("name", ["job.json", "shard-00000-of-00002", "shard-00001-of-00002"])
def test_fifo_in_a_folder_of_shards_is_an_error(shards, name):
    replaced_by_fifo(shards / name)
    assert_one_error(run("assemble", shards, shards.parent / "o.tif", "-q"), name if name == "job.json" else "shard")


@pytest.mark.parametrize("name", ["lock", "finished.json", "job.json"])
def test_fifo_in_the_folder_of_a_resumed_run_is_an_error_or_made_again(tmp_path, name):
    slide = make_slide(tmp_path / "s.tif", 200, 200)
    folder = tmp_path / "o.tif.shards"
    folder.mkdir()
    replaced_by_fifo(folder / name)
    done = run("convert", slide, tmp_path / "o.tif", "--resume", "--workers", "0", "-q")
    if done.returncode:
        assert_one_error(done)


def test_sigterm_ends_a_run_whose_worker_waits_for_the_disk(tmp_path):
    """A source that never answers, as a dead network disk would: the processes go all the same."""
    script = tmp_path / "endless.py"
    script.write_text(
        "import os, time\nimport numpy\nimport slidewright\nCALLER = os.getpid()\n"
        "def pixels(y, x, height, width):\n"
        "    time.sleep(0 if os.getpid() == CALLER else 3600)\n"
        "    return numpy.zeros((height, width), 'uint8')\n"
        f"slidewright.convert(pixels, {str(tmp_path / 'o.tif')!r}, shape=(500, 500), dtype='uint8', n_workers=2)\n"
    )
    line = "import runpy, sys; from slidewright.cli import main as m\nwith m._signals(): runpy.run_path(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", line, str(script)], start_new_session=True, stderr=-3)
    assert wait_until(lambda: len(session_members(process.pid)) >= 4, LIMIT)
    time.sleep(0.5)
    process.terminate()
    process.wait(15)
    assert wait_until(lambda: not session_members(process.pid), 15)
    assert os.listdir(tmp_path) == ["endless.py"]


def test_manifest_without_any_end_of_a_line_is_refused_at_once(tmp_path):
    with open(tmp_path / "m.csv", "wb") as file:
        file.truncate(1 << 36)
    assert_one_error(run("batch", tmp_path / "m.csv"), "CSV")


# ---- counts and keys that nothing bears out


def footer_of(path: Path) -> tuple[bytes, bytes, dict]:
    """What is before the index, the index, and the footer of a shard."""
    data = path.read_bytes()
    index_at, footer_at, _, _ = _TRAILER.unpack(data[-_TRAILER.size :])
    return data[:index_at], data[index_at:footer_at], json.loads(data[footer_at : -_TRAILER.size])


def write_shard(path: Path, segments: bytes, index: bytes, footer: object) -> None:
    """A shard whose checksum is right, whatever it says."""
    tail = footer if isinstance(footer, bytes) else json.dumps(footer).encode()
    crc = zlib.crc32(tail, zlib.crc32(index))
    end = _TRAILER.pack(len(segments), len(segments) + len(index), crc, _END)
    path.write_bytes(segments + index + tail + end)
    assert segments.startswith(MAGIC)


@pytest.mark.parametrize("field", ["count", "planned_workers", "block_tiles", "block_tiles_given"])
@pytest.mark.parametrize("value", [10**9, -1, 0, 2**70, 1.5, "2", None, [2]])
def test_counts_of_a_job_are_checked(shards, field, value):
    job = json.loads((shards / "job.json").read_text())
    (shards / "job.json").write_text(json.dumps({**job, field: value}))
    begin = time.monotonic()
    try:
        slidewright.assemble(shards, shards.parent / "o.tif", n_workers=0)
    except SlidewrightError as error:
        assert len(str(error)) < 2000  # noqa: PT017 - what it says is all that is left to check
    assert time.monotonic() - begin < LIMIT


@pytest.mark.parametrize("field", ["segments", "key_length", "index", "count"])
@pytest.mark.parametrize("value", [10**9, -1, 0, 2**70, 1.5, "2", None, [2]])
def test_counts_of_a_shard_are_checked(shards, field, value):
    path = shards / "shard-00001-of-00002"
    segments, index, footer = footer_of(path)
    write_shard(path, segments, index, {**footer, field: value})
    with pytest.raises(slidewright.ShardError):
        slidewright.assemble(shards, shards.parent / "o.tif", n_workers=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_keys_of_a_shard_are_those_that_are_due(shards, workers):
    path = shards / "shard-00000-of-00002"
    segments, index, footer = footer_of(path)
    write_shard(path, segments, b"\xff\xff\xff\xff" + index[4:], footer)
    done = run("assemble", shards, shards.parent / "o.tif", "--workers", workers, "-q")
    assert_one_error(done, "not those that belong")


@pytest.mark.long
@pytest.mark.parametrize("place", ["offset", "length"])
@pytest.mark.parametrize("value", [2**40, 2**63, 2**64 - 1])
def test_places_of_a_shard_lie_in_it(shards, place, value):
    path = shards / "shard-00000-of-00002"
    segments, index, footer = footer_of(path)
    at = footer["segments"] * 4 * footer["key_length"] + (8 if place == "length" else 0)
    write_shard(path, segments, index[:at] + struct.pack("<Q", value) + index[at + 8 :], footer)
    done = run("assemble", shards, shards.parent / "o.tif", "--workers", "1", "-q")
    assert_one_error(done, "lies outside it")


def test_writer_that_misses_a_segment_ends_with_an_error(tmp_path, monkeypatch):
    """The last line of defence: nothing is under way any more, and a segment is missing."""
    from slidewright.engine.segment_store import SegmentStore

    monkeypatch.setattr(SegmentStore, "take", lambda self, key: None)
    pixels = np.zeros((200, 200), np.uint8)
    for workers in (0, 1):  # in this process, and in a writer that runs the original: it must not fail
        if workers:
            monkeypatch.undo()
            slidewright.convert(pixels, tmp_path / "o.tif", n_workers=1, tile_size=64)
        else:
            with pytest.raises(slidewright.RunError, match="missing"):
                slidewright.convert(pixels, tmp_path / "o.tif", n_workers=0, tile_size=64)


# ---- streams that become gigabytes


def raw_deflate(gigabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    start = packer.compress(MEGA) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(MEGA) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + (1024 * gigabytes) * block


def gzip_bomb(gigabytes: int) -> bytes:
    """A gzip header before deflate's own; its end never comes."""
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + raw_deflate(gigabytes)[2:]


def zstd_bomb(gigabytes: int, *, tells: bool) -> bytes:
    """One frame of blocks that are a byte each (RFC 8878: a block of type RLE), 128 KiB decoded."""
    size = gigabytes << 30
    header = bytes([0b11000000 if tells else 0, 7 << 3]) + (struct.pack("<Q", size) if tells else b"")
    count = size >> 17
    blocks = b"".join(
        ((1 << 17) << 3 | 1 << 1 | (number == count - 1)).to_bytes(3, "little") + b"\0" for number in range(count)
    )
    return b"\x28\xb5\x2f\xfd" + header + blocks


def blosc_bomb(gigabytes: int) -> bytes:
    size = min(gigabytes << 30, 2**31 - 1)
    return struct.pack("<BBBBIII", 2, 1, 0x33, 1, size, 1 << 20, 4096) + bytes(4080)


BOMBS = {
    "gzip": lambda: gzip_bomb(8),
    "gzip in many members": lambda: zlib.compress(MEGA, 9, 31) * 8192,
    "zlib": lambda: raw_deflate(8),
    "bz2": lambda: bz2.compress(MEGA * 64) * 128,
    "lzma": lambda: lzma.compress(MEGA * 64) * 128,
    "zstd that tells": lambda: zstd_bomb(8, tells=True),
    "zstd that does not": lambda: zstd_bomb(8, tells=False),
    "blosc": lambda: blosc_bomb(2),
    "lz4": lambda: struct.pack("<i", 2**31 - 1) + bytes(4096),
}


SHORT = {("gzip", "v3"), ("gzip in many members", "v3"), ("zstd that does not", "shards"), ("blosc", "v2")}


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        pytest.param(kind, how, marks=() if (kind, how) in SHORT else pytest.mark.slow)
        for kind in BOMBS
        for how in ("v2", "v3", "shards")
    ],
)
def test_chunk_that_would_become_gigabytes_is_refused_at_once(tmp_path, kind, how):
    codec, path = kind.split()[0], tmp_path / "s.zarr"
    make_store(path, compressors=None, zarr_format=2 if how == "v2" else 3)
    bomb = BOMBS[kind]()
    if how == "v2":
        metadata = json.loads((path / ".zarray").read_text())
        (path / ".zarray").write_text(json.dumps({**metadata, "compressor": {"id": codec}}))
        (path / "0.0").write_bytes(bomb)
    else:
        metadata = json.loads((path / "zarr.json").read_text())
        name = codec if codec in ("gzip", "zstd", "blosc") else f"numcodecs.{codec}"
        settings = {"gzip": {"level": 5}, "zstd": {"level": 0, "checksum": False}, "blosc": BLOSC}.get(codec, {})
        metadata["codecs"].append({"name": name, "configuration": settings})
        data = bomb
        if how == "shards":
            metadata["codecs"] = [{"name": "sharding_indexed", "configuration": {
                "chunk_shape": [32, 32], "codecs": metadata["codecs"],
                "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}], "index_location": "start",
            }}]  # fmt: skip
            empty = [2**64 - 1, 2**64 - 1]
            data = struct.pack("<8Q", 64, len(bomb), *(3 * empty)) + bomb
        (path / "zarr.json").write_text(json.dumps(metadata))
        (path / "c" / "0" / "0").write_bytes(data)
    begin = time.monotonic()
    done = run("convert", path, tmp_path / "o.tif", "--workers", "1", "-q")
    assert_one_error(done, "chunk")
    assert time.monotonic() - begin < 15, "it decoded much of it"


BLOSC = {"typesize": 1, "cname": "lz4", "clevel": 5, "shuffle": "noshuffle", "blocksize": 0}


@pytest.mark.parametrize("codec", ["gzip", "zlib", "bz2", "lzma", "zstd", "blosc", "lz4"])
@pytest.mark.parametrize("how", ["v2", "v3", "shards"])
def test_honest_chunks_of_every_bounded_codec_are_read(tmp_path, codec, how):
    import numcodecs
    import zarr.codecs.numcodecs as wrapped

    pixels = np.random.default_rng(0).integers(0, 9, (200, 150), np.uint16)
    spelled = {
        "gzip": "GZip",
        "zlib": "Zlib",
        "bz2": "BZ2",
        "lzma": "LZMA",
        "zstd": "Zstd",
        "blosc": "Blosc",
        "lz4": "LZ4",
    }
    chosen = getattr(numcodecs if how == "v2" else wrapped, spelled[codec])()
    more = {"shards": (128, 128)} if how == "shards" else {"zarr_format": 2 if how == "v2" else 3}
    array = zarr.create_array(
        tmp_path / "s.zarr", shape=pixels.shape, dtype="u2", chunks=(64, 64), compressors=chosen, **more
    )
    array[...] = pixels
    slidewright.convert(tmp_path / "s.zarr", tmp_path / "o.tif", n_workers=0, tile_size=64, compression="none")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif", key=0), pixels)


@pytest.mark.parametrize("place", ["grid", "inner", "v2"])
def test_chunks_of_no_pixel_are_an_error(tmp_path, place):
    path = make_store(tmp_path / "s.zarr", **({"shards": (128, 128)} if place == "inner" else {}),
                      zarr_format=2 if place == "v2" else 3)  # fmt: skip
    name = ".zarray" if place == "v2" else "zarr.json"
    metadata = json.loads((path / name).read_text())
    if place == "v2":
        metadata["chunks"] = [0, 64]
    elif place == "grid":
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = [0, 0]
    else:
        metadata["codecs"][0]["configuration"]["chunk_shape"] = [0, 64]
    (path / name).write_text(json.dumps(metadata))
    assert_one_error(run("convert", path, tmp_path / "o.tif", "-q"))


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_million_channels_are_refused_at_once(tmp_path, order):
    shape = (10**6, 64, 64) if order == "first" else (64, 64, 10**6)
    chunks = (10**6, 1, 1) if order == "first" else (1, 1, 10**6)
    zarr.create_array(
        tmp_path / "s.zarr",
        shape=shape,
        dtype="u1",
        chunks=chunks,
        dimension_names=list("cyx" if order == "first" else "yxc"),
    )
    assert_one_error(run("convert", tmp_path / "s.zarr", tmp_path / "o.tif", "-q", seconds=10), "channels")


def patched_type(path: Path, code: int, kind: int) -> Path:
    """Give a tag of the first directory another type, and leave the rest as it is."""
    data = bytearray(path.read_bytes())
    (at,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, at)
    for entry in range(at + 2, at + 2 + 12 * entries, 12):
        if struct.unpack_from("<H", data, entry)[0] == code:
            struct.pack_into("<H", data, entry + 2, kind)
    path.write_bytes(data)
    return path


@pytest.mark.long
@pytest.mark.parametrize(("code", "kind"), [(256, 6), (257, 6), (256, 11), (283, 11), (282, 6), (322, 6), (277, 11)])
@pytest.mark.parametrize("options", [{}, {"tile": (64, 64)}])
def test_tags_of_an_odd_type_end(tmp_path, code, kind, options):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, np.zeros((300, 400, 3), np.uint8), photometric="rgb", resolution=(99, 99), **options)
    done = run("convert", patched_type(path, code, kind), tmp_path / "o.tif", "--workers", "1", "-q")
    if done.returncode:
        assert_one_error(done)
