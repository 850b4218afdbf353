"""What lies on a disk between two runs, tampered with at random: job.json, shard footers, reports, manifests. Whatever
it says, the answer is a file like the undisturbed one, or one error of ours.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr
from faults.campaign import Campaign, digest, make_slide
from faults.mutate import flip_bits, insert, truncate
from faults.test_endless import footer_of, write_shard

import slidewright
from slidewright.errors import SlidewrightError

pytestmark = pytest.mark.timeout(3600)


def deep(levels: int = 100_000) -> str:
    return "[" * levels + "]" * levels


VALUES = [
    *(
        None,
        True,
        0,
        -1,
        1,
        10**9,
        2**63,
        2**70,
        10**400,
        -(10**400),
        1.5,
        1e308,
        "",
        "x",
        "a\0b",
        "\ud800",
        "../../etc",
    ),
    *([], {}, [[]], {"mapping": 3}, {"mapping": [[[], 1]]}, {"mapping": [[{}, {}]]}, {"": None}, ["jpeg"], [1, 2, 3]),
]


def places_in(tree: object, path: tuple = ()) -> list[tuple]:
    """Where each value of a tree of JSON is."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, item in items for place in places_in(item, (*path, key)))]


def tampered(tree: object, random) -> object:
    """The tree with a value replaced, removed or added somewhere."""
    tree = copy.deepcopy(tree)
    path = random.choice(places_in(tree)[1:])
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    how = random.randrange(8)
    if how == 0:
        del holder[path[-1]]
    elif how == 1 and isinstance(holder, dict):
        holder["surprise"] = random.choice(VALUES)
    else:
        holder[path[-1]] = random.choice(VALUES)
    return tree


def dumped(tree: object, random) -> bytes:
    """The tree as JSON; now and then damaged as text too."""
    data = bytearray(json.dumps(tree).encode("utf-8", "surrogatepass"))
    how = random.randrange(12)
    if how == 0:
        random.choice([flip_bits, truncate, insert])(data, random)
    elif how == 1:
        return deep().encode()
    elif how == 2:
        return json.dumps(tree).encode("utf-16")
    return bytes(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Shards of a slide, with a palette of options, and the digest of what they make."""
    folder = tmp_path_factory.mktemp("made")
    slide = make_slide(folder / "s.tif", 260, 300)
    for index in range(3):
        slidewright.shard(
            slide, folder / "shards", index=index, count=3, n_workers=0, tile_size=64, block_tiles=2, compression="zstd"
        )
    slidewright.assemble(folder / "shards", folder / "clean.tif", n_workers=0)
    return folder


def one_try(campaign: Campaign, made: Path, shards: Path) -> None:
    out = made / "out.tif"
    try:
        slidewright.assemble(shards, out, n_workers=0)
    except SlidewrightError as error:
        text = str(error)
        assert len(text.splitlines()) == 1, text
        campaign.count("refused")
    else:
        assert digest(out) == digest(made / "clean.tif")
        campaign.count("made")
    out.unlink(missing_ok=True)


def test_job_files(made):
    campaign = Campaign("job.json", 150, 5000)
    whole = json.loads((made / "shards" / "job.json").read_text())
    for _ in range(campaign.tries):
        (made / "shards" / "job.json").write_bytes(dumped(tampered(whole, campaign.random), campaign.random))
        one_try(campaign, made, made / "shards")
    (made / "shards" / "job.json").write_text(json.dumps(whole))
    campaign.close()


def test_job_whose_source_has_no_time(made):
    whole = json.loads((made / "shards" / "job.json").read_text())
    empty = {**whole, "changes": {path: [] for path in whole["changes"]}}
    assert empty != whole
    (made / "shards" / "job.json").write_text(json.dumps(empty))
    one_try(Campaign("job.json", 1, 1), made, made / "shards")
    (made / "shards" / "job.json").write_text(json.dumps(whole))


def test_footers_with_a_right_checksum(made):
    campaign = Campaign("footers", 150, 5000)
    path = made / "shards" / "shard-00001-of-00003"
    whole = path.read_bytes()
    segments, index, footer = footer_of(path)
    for _ in range(campaign.tries):
        other = bytearray(index)
        if campaign.random.randrange(2):
            flip_bits(other, campaign.random)
            write_shard(path, segments, bytes(other), footer)
        else:
            write_shard(path, segments, index, dumped(tampered(footer, campaign.random), campaign.random))
        one_try(campaign, made, made / "shards")
    path.write_bytes(whole)
    campaign.close()


@pytest.fixture
def zarr_parts(tmp_path):
    """Shards of an OME-Zarr, two of three of whose files are written by the worker itself."""
    slide = make_slide(tmp_path / "s.tif", 260, 300)
    options = {"n_workers": 0, "tile_size": 64, "block_tiles": 2, "zarr_shard": 2, "format": "ome-zarr"}
    for index in range(3):
        slidewright.shard(slide, tmp_path / "shards", index=index, count=3, **options)
    slidewright.assemble(tmp_path / "shards", tmp_path / "clean.zarr", n_workers=0)
    return tmp_path


def test_receipts_of_zarr_shards_with_right_checksums(zarr_parts):
    campaign = Campaign("receipts", 100, 3000)
    path = zarr_parts / "shards" / "shard-00001-of-00003"
    segments, index, footer = footer_of(path)
    count = len(index) // 40
    places = np.frombuffer(index, "<u8", count * 3, count * 16).reshape(count, 3)
    receipts = [number for number in range(count) if places[number, 1] == 20]
    assert receipts
    for _ in range(campaign.tries):
        number = campaign.random.choice(receipts)
        offset, length = map(int, places[number, :2])
        changed, others = bytearray(segments), places.copy()
        receipt = bytearray(segments[offset : offset + length])
        if campaign.random.randrange(3):
            flip_bits(receipt, campaign.random)
        else:
            receipt[:] = campaign.random.randbytes(length)
        changed[offset : offset + length] = receipt
        others[number, 2] = zlib.crc32(receipt)
        write_shard(path, bytes(changed), index[: count * 16] + others.tobytes(), footer)
        one_zarr_try(campaign, zarr_parts)
    campaign.close()


def test_files_of_zarr_shards(zarr_parts):
    campaign = Campaign("files of zarr shards", 100, 3000)
    found = sorted(path for path in (zarr_parts / "shards" / "files").rglob("*") if path.is_file())
    for _ in range(campaign.tries):
        path, other = campaign.random.sample(found, 2)
        whole = path.read_bytes()
        how = campaign.random.choice(["cut", "insert", "flip", "folder", "fifo", "link", "other", "none"])
        path.unlink()
        if how == "folder":
            path.mkdir()
        elif how == "fifo":
            os.mkfifo(path)
        elif how == "link":
            path.symlink_to("/dev/zero")
        elif how == "other":
            path.write_bytes(other.read_bytes())
        elif how != "none":
            data = bytearray(whole)
            {"cut": truncate, "insert": insert, "flip": flip_bits}[how](data, campaign.random)
            path.write_bytes(data)
        flipped = how == "flip"  # in a chunk, which assembling does not read, a resumed run does
        one_zarr_try(campaign, zarr_parts, same=not flipped)
        path.rmdir() if how == "folder" else path.unlink(missing_ok=True)
        path.write_bytes(whole)
    campaign.close()


def one_zarr_try(campaign: Campaign, folder: Path, *, same: bool = True) -> None:
    out = folder / "out.zarr"
    try:
        slidewright.assemble(folder / "shards", out, n_workers=0)
    except SlidewrightError as error:
        text = str(error)
        assert len(text.splitlines()) == 1, text
        campaign.count("refused")
    else:
        if same:
            assert tree(out) == tree(folder / "clean.zarr")
        campaign.count("made")
        shutil.rmtree(out)
    assert not out.exists()


def tree(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_reports_of_a_batch(tmp_path):
    campaign = Campaign("batch reports", 60, 3000)
    make_slide(tmp_path / "s.tif", 100, 120)
    (tmp_path / "m.csv").write_text("source,destination\ns.tif,o.tif\n")
    slidewright.batch(tmp_path / "m.csv", n_workers=0, tile_size=64)
    report, expected = tmp_path / "m.report.jsonl", digest(tmp_path / "o.tif")
    whole = json.loads(report.read_text())
    for _ in range(campaign.tries):
        line = dumped(tampered(whole, campaign.random), campaign.random)
        start = b'{"source": "half a li\n'  # by which it is a report, whatever the line begins with
        report.write_bytes(start + line.replace(b"\n", b" ") + b"\n")
        (item,) = slidewright.batch(tmp_path / "m.csv", n_workers=0, tile_size=64).items
        assert item.status in ("done", "skipped"), item.error
        assert digest(tmp_path / "o.tif") == expected
        campaign.count(item.status)
    campaign.close()


COLUMNS = [
    *("source", "destination", "compression", "quality", "mpp", "page", "levels", "verify", "background", "colormap"),
    *("memory", "tile_size", ""),
]
CELLS = [
    *(
        "",
        "s.tif",
        "o.tif",
        "-1",
        "9" * 5000,
        "nan",
        "1e999",
        "\0",
        "a\0b",
        "é",
        "=1+1",
        '"',
        "0.5,0.5",
        "zstd",
        "1",
        "../x",
    ),
    *("x" * 4000, " ", "\r", "0=white", "٣", "1_0", "0x10", "True", "None", "[1]", "/dev/null", "."),
]


def test_manifests(tmp_path):
    campaign = Campaign("manifests", 200, 10000)
    make_slide(tmp_path / "s.tif", 70, 70)
    path, before = tmp_path / "m.csv", digest(tmp_path / "s.tif")
    for _ in range(campaign.tries):
        random = campaign.random
        columns = ["source", "destination", *random.sample(COLUMNS, random.randrange(4))]
        rows = [["s.tif", "o.tif", *(random.choice(CELLS) for _ in columns[2:])] for _ in range(random.randrange(3))]
        for row in rows:
            if random.randrange(3) == 0:
                row[random.randrange(len(row))] = random.choice(CELLS)
        data = bytearray("\n".join(",".join(row) for row in [columns, *rows]).encode())
        if random.randrange(4) == 0:
            random.choice([flip_bits, truncate, insert])(data, random)
        path.write_bytes(data)
        try:
            report = slidewright.batch(path, n_workers=0, tile_size=64)
        except SlidewrightError:
            campaign.count("refused")
        else:
            for item in report.items:
                campaign.count(item.status)
                known = tuple(kind.__name__ for kind in SlidewrightError.__subclasses__())
                assert item.status != "failed" or item.error.startswith((*known, "CorruptTileError")), item.error
        assert digest(tmp_path / "s.tif") == before
        for name in tmp_path.iterdir():
            if name.name not in ("s.tif", "m.csv"):
                shutil.rmtree(name) if name.is_dir() else name.unlink()
    campaign.close()


# ---- code in data


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path):
    """A file that exists once a pickle has been loaded."""
    return tmp_path / "loaded"


def test_pickle_really_would_make_the_marker(marker):
    pickle.loads(pickle.dumps(Bomb(marker))).close()
    assert marker.exists()


@pytest.mark.parametrize("place", ["job.json", "shard-00000-of-00001", "segments", "footer", "finished.json", "level"])
def test_pickle_in_a_folder_of_shards_is_not_loaded(tmp_path, marker, place):
    slide, data = make_slide(tmp_path / "s.tif", 200, 200), pickle.dumps(Bomb(marker))
    folder = tmp_path / "o.tif.shards"
    slidewright.shard(slide, folder, index=0, count=1, n_workers=0, tile_size=64)
    shard = folder / "shard-00000-of-00001"
    segments, index, footer = footer_of(shard)
    if place == "segments":
        write_shard(shard, segments[:20] + data + segments[20 + len(data) :], index, footer)
    elif place == "footer":
        write_shard(shard, segments, index, data)
    elif place == "level":
        for path in folder.rglob("*"):
            if path.is_file() and path.parent != folder:
                path.write_bytes(data)
    else:
        (folder / place).write_bytes(data)
    for call in (
        lambda: slidewright.assemble(folder, tmp_path / "o.tif", n_workers=0),
        lambda: slidewright.convert(slide, tmp_path / "o.tif", resume=True, n_workers=0, tile_size=64, overwrite=True),
    ):
        try:
            call()
        except SlidewrightError:
            pass
    assert not marker.exists()


@pytest.mark.parametrize("name", ["m.csv", "m.report.jsonl", "s.tif"])
def test_pickle_as_a_manifest_report_or_slide_is_not_loaded(tmp_path, marker, name):
    make_slide(tmp_path / "s.tif", 100, 100)
    (tmp_path / "m.csv").write_text("source,destination\ns.tif,o.tif\n")
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(marker)))
    try:
        slidewright.batch(tmp_path / "m.csv", n_workers=0)
    except SlidewrightError:
        pass
    assert not marker.exists()


@pytest.mark.parametrize("place", ["chunk", "attributes", "object array"])
def test_pickle_in_a_zarr_store_is_not_loaded(tmp_path, marker, place):
    data, store = pickle.dumps(Bomb(marker)), tmp_path / "s.zarr"
    array = zarr.create_array(store, shape=(64, 64), dtype="u1", chunks=(64, 64), zarr_format=2)
    array[...] = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    if place == "chunk":
        (store / "0.0").write_bytes(data)
    elif place == "attributes":
        (store / ".zattrs").write_bytes(data)
    else:
        metadata = json.loads((store / ".zarray").read_text())
        metadata.update(dtype="|O", filters=[{"id": "pickle"}], compressor=None, fill_value=None)
        (store / ".zarray").write_text(json.dumps(metadata))
        (store / "0.0").write_bytes(data)
    with pytest.raises(SlidewrightError):
        slidewright.convert(store, tmp_path / "o.tif", n_workers=0)
    assert not marker.exists()


def test_pickle_travels_over_pipes_only(tmp_path):
    """No module but those that speak to our own processes loads pickles."""
    home = Path(slidewright.__file__).parent
    users = {
        str(path.relative_to(home))
        for path in home.rglob("*.py")
        if any(
            word in path.read_text() for word in ("pickle.load", "Unpickler", "cloudpickle.load", "allow_pickle=True")
        )
    }
    assert users <= {"system/shared_memory.py", "sources/wrappers/pickled.py"}, users
