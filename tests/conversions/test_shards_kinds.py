"""Shards and resuming of every kind of image: planes, palettes, masks, corrupt tiles; and what is refused."""

from __future__ import annotations

import json
import shlex
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import zarr
from written import digest

import slidewright
from slidewright.cli.main import main
from slidewright.conversions.deciding import decide
from slidewright.conversions.manifest import read_entries
from slidewright.errors import OptionError
from slidewright.geometry import Size
from slidewright.options import ConvertOptions
from slidewright.shards.file import read_index
from slidewright.shards.folder import ShardFolder, share, share_of
from slidewright.sources.base import Source, SourceInfo
from slidewright.sources.open import open_source

HEIGHT, WIDTH = 300, 420
RUN = {"tile_size": 32, "block_tiles": 2}
KINDS = {
    "planar": {"compression": "zstd"},
    "interleaved": {"compression": "deflate", "kind": "multichannel"},
    "labels": {"compression": "deflate", "colormap": {2: (0, 128, 255), 0: "white", 1: "#ff0000"}, "kind": "labels"},
    "mask": {"compression": "ccitt_t6", "kind": "binary", "bits": 1, "resampling": "mode"},
    "floats": {"compression": "zstd", "background": 0.5, "resampling": "median"},
}


class StopError(Exception):
    pass


def stop(snapshot):
    if snapshot.tiles_done > 0.4 * snapshot.tiles_total:
        raise StopError


def make_source(folder, name):
    """A file of a kind, and how it is to be converted."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(3).integers(0, 60_000, (5, HEIGHT, WIDTH), np.uint16)
    if name == "planar":
        path = folder / "in.zarr"
        zarr.create_array(path, data=noise, chunks=(1, 64, 64), dimension_names=("c", "y", "x"))
    elif name == "interleaved":
        path = folder / "in.npy"
        np.save(path, np.ascontiguousarray(np.moveaxis(noise, 0, 2)))
    elif name == "floats":
        path = folder / "in.npy"
        np.save(path, (noise[0] / 7).astype(np.float32))
    else:
        path = folder / "in.npy"
        np.save(path, ((y // 40 + x // 50) % (3 if name == "labels" else 2)).astype(np.uint8))
    return path, {**RUN, **KINDS[name]}


@pytest.mark.long
@pytest.mark.parametrize("name", KINDS)
def test_shards_and_resume_make_the_same_file_of_every_kind(tmp_path, name):
    source, options = make_source(tmp_path, name)
    slidewright.convert(source, tmp_path / "whole.tif", n_workers=0, **options)

    def task(index):
        slidewright.shard(source, tmp_path / "shards", index=index, count=3, n_workers=index % 2, **options)

    with ThreadPoolExecutor(2) as pool:  # one of them twice
        list(pool.map(task, [2, 0, 1, 2]))
    slidewright.assemble(tmp_path / "shards", tmp_path / "assembled.tif", n_workers=1, remove=True)
    with pytest.raises(StopError):
        slidewright.convert(source, tmp_path / "resumed.tif", resume=True, n_workers=0, progress=stop, **options)
    kept = len(list((tmp_path / "resumed.tif.shards").glob("shard-?????-of-?????")))
    seen = []
    slidewright.convert(source, tmp_path / "resumed.tif", resume=True, n_workers=2, progress=seen.append, **options)

    whole = digest(tmp_path / "whole.tif")
    assert digest(tmp_path / "assembled.tif") == whole
    assert digest(tmp_path / "resumed.tif") == whole
    assert kept > 3
    assert seen[-1].tiles_done == seen[-1].tiles_total
    assert not (tmp_path / "resumed.tif.shards").exists()


@pytest.mark.parametrize(("name", "planes", "band"), [("planar", 5, 1), ("interleaved", 5, 5)])
def test_shared_reduced_level_holds_every_plane(tmp_path, name, planes, band):
    source, options = make_source(tmp_path, name)
    options["compression"] = "png"  # whose channels are planes
    plan = decide(open_source(source), ConvertOptions(**options), 0.0).plan
    assert (plan.planes, plan.band) == (planes, band)
    for index in range(2):
        slidewright.shard(source, tmp_path / "shards", index=index, count=2, n_workers=0, **options)
    slidewright.convert(source, tmp_path / "whole.tif", n_workers=0, **options)

    level = zarr.open_array(tmp_path / "shards" / "level-2.zarr", mode="r")
    expected = tifffile.imread(tmp_path / "whole.tif", level=2, series=0, is_shaped=False)
    chunks = [crc for i in range(2) for crc in ShardFolder.open(tmp_path / "shards").index_of(i, plan).chunks]

    assert np.array_equal(np.moveaxis(level[...], 2, 0), expected.reshape(level.shape[2], *level.shape[:2]))
    assert len(chunks) == plan.passes[0].n_blocks  # a chunk of every block is checked, also of the last


def test_damaged_chunk_of_another_plane_is_found(tmp_path):
    source, options = make_source(tmp_path, "planar")
    options["compression"] = "png"
    for index in range(2):
        slidewright.shard(source, tmp_path / "shards", index=index, count=2, n_workers=0, **options)
    chunk = tmp_path / "shards" / "level-2.zarr" / "c" / "1" / "2" / "4"
    chunk.write_bytes(bytes(chunk.stat().st_size))
    with pytest.raises(slidewright.ShardError, match=r"shard 1: a chunk of its reduced level is missing or damaged"):
        slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("name", KINDS)
def test_printed_command_makes_the_missing_shard(tmp_path, name, capsys):
    source, options = make_source(tmp_path, name)
    slidewright.shard(source, tmp_path / "shards", index=0, count=2, n_workers=0, **options)
    with pytest.raises(slidewright.ShardError) as caught:
        slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", n_workers=0)
    command = str(caught.value).partition("Make them: ")[2].partition(";")[0]
    assert main([*shlex.split(command)[1:], "--workers", "0"]) == 0, capsys.readouterr().err
    slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", n_workers=0)
    slidewright.convert(source, tmp_path / "whole.tif", n_workers=0, **options)
    assert digest(tmp_path / "out.tif") == digest(tmp_path / "whole.tif")


def test_palette_written_otherwise_is_the_same_and_another_colour_is_not(tmp_path):
    source, options = make_source(tmp_path, "labels")
    slidewright.shard(source, tmp_path / "shards", index=0, count=2, n_workers=0, **options)
    turned = {**options, "colormap": ["#ffffff", "red", "#0080ff"]}
    slidewright.shard(source, tmp_path / "shards", index=1, count=2, n_workers=0, **turned)
    with pytest.raises(slidewright.ShardError, match=r"options\.colormap is"):
        slidewright.shard(
            source, tmp_path / "shards", index=1, count=2, n_workers=0, **{**options, "colormap": ["red"] * 3}
        )


class Described(Source):
    """A source of which only the description is asked for."""

    info = SourceInfo("described", "tiff", Size(8192, 8192), 1, "float32", worker_bytes=0)

    def open(self):
        raise NotImplementedError


def test_blocks_of_shards_do_not_depend_on_the_memory_of_a_machine():
    def blocks(megabytes, planned_workers=None):
        options = ConvertOptions(tile_size=1024, compression="zstd", n_workers=1, memory=f"{megabytes}MB")
        return [pas.block_tiles for pas in decide(Described(), options, 0.0, planned_workers).plan.passes]

    def feasible(megabytes):
        try:
            return bool(blocks(megabytes))
        except OptionError:
            return False

    least = next(megabytes for megabytes in range(100, 500) if feasible(megabytes))
    assert blocks(least) != blocks(8000)
    assert blocks(least + 20, 8) == blocks(8000, 8)


def damaged_tiff(folder, **how):
    """A TIFF of 64-pixel tiles, three of which are no deflate streams."""
    path = folder / "bad.tif"
    pixels = np.random.default_rng(5).integers(0, 255, (HEIGHT, WIDTH), np.uint8)
    tifffile.imwrite(path, pixels, **{"tile": (64, 64), "compression": "zlib", **how})
    with tifffile.TiffFile(path) as tiff:
        places = [tiff.pages[0].dataoffsets[number] for number in (1, 9, 20)]
    with path.open("r+b") as file:
        for place in places:
            file.seek(place)
            file.write(b"\xff" * 20)
    return path


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_filled_tiles_are_reported_by_assemble_and_resume(tmp_path, workers):
    source = damaged_tiff(tmp_path)
    options = {**RUN, "on_corrupt": "fill", "compression": "deflate", "n_workers": workers}
    whole = slidewright.convert(source, tmp_path / "whole.tif", **options)
    shards = [slidewright.shard(source, tmp_path / "shards", index=index, count=5, **options) for index in range(5)]
    assert sum(shard.corrupt_tiles for shard in shards) >= 3  # one that two shards touch is one of each
    assert all(
        bool(shard.corrupt_tiles) == any("did not decode" in text for text in shard.warnings) for shard in shards
    )
    assembled = slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", n_workers=workers)
    with pytest.raises(StopError):
        slidewright.convert(source, tmp_path / "resumed.tif", resume=True, progress=stop, **{**options, "n_workers": 0})
    resumed = slidewright.convert(source, tmp_path / "resumed.tif", resume=True, **options)

    assert whole.corrupt_tiles == 3
    for report, name in ((assembled, "out.tif"), (resumed, "resumed.tif")):
        assert report.corrupt_tiles == 3
        assert report.warnings == whole.warnings
        assert digest(tmp_path / name) == digest(tmp_path / "whole.tif")


@pytest.mark.parametrize("workers", [0, 1])
def test_filled_strips_that_are_unpacked_first_are_reported(tmp_path, monkeypatch, workers):
    monkeypatch.setattr("slidewright.sources.access.unpack.CACHE_BYTES", 1000)
    source = damaged_tiff(tmp_path, tile=None, rowsperstrip=10)
    options = {**RUN, "on_corrupt": "fill", "compression": "deflate", "n_workers": workers}
    whole = slidewright.convert(source, tmp_path / "whole.tif", **options)
    for index in range(2):
        slidewright.shard(source, tmp_path / "shards", index=index, count=2, **options)
    report = slidewright.assemble(tmp_path / "shards", tmp_path / "out.tif", n_workers=workers)
    assert report.corrupt_tiles == whole.corrupt_tiles == 3
    assert digest(tmp_path / "out.tif") == digest(tmp_path / "whole.tif")


def test_shard_without_corrupt_tiles_says_so(tmp_path):
    source, options = make_source(tmp_path, "mask")
    slidewright.shard(source, tmp_path / "shards", index=0, count=1, n_workers=0, **options)
    assert read_index(str(tmp_path / "shards" / "shard-00000-of-00001")).corrupt == {}


def test_share_of_a_block_is_the_inverse_of_share():
    for n_blocks, count in ((1, 5), (7, 3), (48, 5), (64, 64), (100, 101)):
        shares = {number: index for index in range(count) for number in share(n_blocks, index, count)}
        assert [shares[number] for number in range(n_blocks)] == [
            share_of(n_blocks, number, count) for number in range(n_blocks)
        ]


def flat(y, x, height, width):
    return np.zeros((height, width), np.uint8)


@pytest.mark.parametrize("kind", ["array", "image", "function", "dataset"])
def test_pixels_that_are_no_file_are_refused_for_resume_and_shards(tmp_path, kind):
    from PIL import Image

    pixels = np.zeros((64, 64), np.uint8)
    source = {
        "array": pixels,
        "image": Image.fromarray(pixels),
        "function": flat,
        "dataset": [pixels[:32, :32]] * 4,
    }[kind]
    shape = {"shape": (64, 64)} if kind in ("function", "dataset") else {}
    with pytest.raises(OptionError, match="save them to a file"):
        slidewright.convert(source, tmp_path / "out.tif", resume=True, n_workers=0, tile_size=32, **shape)
    if not shape:
        with pytest.raises(OptionError, match="save them to a file"):
            slidewright.shard(source, tmp_path / "shards", index=0, count=1, n_workers=0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["array", "source"])
def test_object_that_describes_a_file_is_known_by_the_file(tmp_path, kind):
    source, options = make_source(tmp_path, "planar")

    def opened():
        return zarr.open_array(source, mode="r+") if kind == "array" else open_source(source)

    slidewright.shard(opened(), tmp_path / "shards", index=0, count=2, n_workers=0, **options)
    slidewright.shard(opened(), tmp_path / "shards", index=1, count=2, n_workers=0, **options)
    zarr.open_array(source, mode="r+")[0, 5, 5] = 12_345
    with pytest.raises(slidewright.ShardError, match=r"source\.files"):
        slidewright.shard(opened(), tmp_path / "shards", index=1, count=2, n_workers=0, **options)


def test_pyramid_writer_refuses_to_resume_and_a_cluster(tmp_path):
    for options in ({"resume": True}, {"engine": "dask"}):
        with pytest.raises(OptionError, match="needs pixels that can be read again"):
            slidewright.PyramidWriter(tmp_path / "out.tif", (64, 64), **options)


def test_page_about_a_run_that_went_on(tmp_path):
    source, options = make_source(tmp_path, "floats")
    with pytest.raises(StopError):
        slidewright.convert(source, tmp_path / "out.tif", resume=True, n_workers=0, progress=stop, **options)
    slidewright.convert(source, tmp_path / "out.tif", resume=True, n_workers=1, report=tmp_path / "out.html", **options)
    assert "What each worker did" in (tmp_path / "out.html").read_text(encoding="utf-8")
    with pytest.raises(OptionError, match="report tells what workers of this machine did"):
        slidewright.convert(source, tmp_path / "new.tif", engine="dask", report=tmp_path / "new.html", **options)


def test_page_about_a_run_that_was_complete_before(tmp_path, monkeypatch):
    source, options = make_source(tmp_path, "floats")

    def die(*_):
        raise StopError

    monkeypatch.setattr("slidewright.conversions.resume.remove_folder", die)
    with pytest.raises(StopError):
        slidewright.convert(source, tmp_path / "out.tif", resume=True, n_workers=0, **options)
    monkeypatch.undo()
    report = slidewright.convert(
        source, tmp_path / "out.tif", resume=True, n_workers=0, report=tmp_path / "out.html", **options
    )
    assert report.levels[0].size == (HEIGHT, WIDTH)
    assert (tmp_path / "out.html").exists()


def test_batch_makes_labels_by_columns_of_the_manifest(tmp_path):
    source, options = make_source(tmp_path, "labels")
    (tmp_path / "manifest.csv").write_text(
        f'source,destination,kind,colormap,background\n{source.name},a.tif,labels,"0=white,1=#ff0000,2=#0080ff",0\n'
    )
    (entry,) = read_entries([str(tmp_path / "manifest.csv")], None, {})
    assert entry.options.colormap == {0: "white", 1: "#ff0000", 2: "#0080ff"}
    plain = {name: value for name, value in options.items() if name not in ("kind", "colormap")}
    report = slidewright.batch(tmp_path / "manifest.csv", n_workers=1, **plain)
    slidewright.convert(source, tmp_path / "whole.tif", n_workers=0, **options)
    assert not report.failed
    assert digest(tmp_path / "a.tif") == digest(tmp_path / "whole.tif")
    (line,) = [json.loads(text) for text in (tmp_path / "manifest.report.jsonl").read_text().splitlines()]
    assert line["status"] == "done"
    again = slidewright.batch(tmp_path / "manifest.csv", n_workers=1, **plain)
    assert [item.status for item in again.items] == ["skipped"]
