"""Changes of an OME-Zarr whose effect is known, like those of a TIFF in `verify_tiff`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from faults.verify_files import IMAGES, Made, read_zarr

MUST, MAY, MUST_NOT = "must fail", "may fail", "must pass"
_ENTRY, _CHECKSUM, _MISSING = 16, 4, b"\xff" * 16
_META = ("zarr.json", ".zattrs", ".zarray", ".zgroup")


class Store:
    """What is in a store of slidewright."""

    def __init__(self, made: Made, path: Path | None = None) -> None:
        self.path, self.made = path or made.path, made
        self.v3 = (self.path / "zarr.json").exists()
        self.group = self.path / ("zarr.json" if self.v3 else ".zattrs")
        self.levels = sorted(int(each.name) for each in self.path.iterdir() if each.name.isdecimal())

    def files(self, level: int) -> list[Path]:
        """The files of a level's chunks or shards."""
        folder = self.path / str(level)
        return sorted(each for each in folder.rglob("*") if each.is_file() and each.name not in _META)

    def array(self, level: int) -> Path:
        return self.path / str(level) / ("zarr.json" if self.v3 else ".zarray")

    def chunks_a_shard(self, level: int) -> int:
        """0 where each chunk is a file."""
        said = json.loads(self.array(level).read_text()) if self.v3 else {"codecs": [{"name": ""}]}
        if said["codecs"][0]["name"] != "sharding_indexed":
            return 0
        outer, inner = said["chunk_grid"]["configuration"], said["codecs"][0]["configuration"]
        return int(outer["chunk_shape"][-1] // inner["chunk_shape"][-1]) ** 2

    def multiscale(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """All that the group says, and of that the one image."""
        said = json.loads(self.group.read_text())
        return said, (said["attributes"]["ome"] if self.v3 else said)["multiscales"][0]


def any_file(made: Made) -> tuple[Store, int, Path] | None:
    store = Store(made)
    level = made.chance.choice(store.levels)
    files = store.files(level)
    return (store, level, made.chance.choice(files)) if files else None


def any_place(made: Made, number: int, file: Path) -> tuple[int, int]:
    """Where in a file of so many chunks one is, and its bytes."""
    data = file.read_bytes()
    if not number:
        return 0, len(data)
    index = data[len(data) - _CHECKSUM - _ENTRY * number : -_CHECKSUM]
    entries = [index[n : n + _ENTRY] for n in range(0, len(index), _ENTRY)]
    start, count = np.frombuffer(made.chance.choice([e for e in entries if e != _MISSING]), "<u8")
    return int(start), int(count)


def exchange_files(made: Made) -> str | None:
    """Two chunks, or shards, of a level, which have all the same size."""
    found = any_file(made)
    if found is None:
        return None
    store, level, one = found
    other = made.chance.choice(store.files(level))
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return MAY  # a shard at the edge has chunks of its own


def strange_pixels(made: Made) -> str | None:
    """Chunks of another image that is encoded alike."""
    found = any_file(made)
    if found is None:
        return None
    store, level, file = found
    stranger = Store(made, made.stranger())
    files = store.files(level) if made.chance.random() < 0.5 else [file]
    for each in files:
        other = stranger.path / each.relative_to(store.path)
        if other.exists():
            each.write_bytes(other.read_bytes())
    return MAY  # a chunk may be left out there that is not here


def remove_file(made: Made) -> str | None:
    """It is background then; where the level above shows more it was lost."""
    found = any_file(made)
    if found is None:
        return None
    store, level, file = found
    lossless = made.lossless and made.options["compression"] not in IMAGES
    before = read_zarr(made.path) if lossless else []
    file.unlink()
    if not lossless or level == store.levels[-1]:
        return MAY
    gone = read_zarr(made.path)[level]
    upper = before[level + 1]
    height, width = (2 * side for side in upper.shape[:2])
    lost = (before[level][:height, :width] != gone[:height, :width]).any(2)
    lost = lost[: lost.shape[0] // 2 * 2, : lost.shape[1] // 2 * 2]
    shown = lost.reshape(lost.shape[0] // 2, 2, lost.shape[1] // 2, 2).all((1, 3))
    seen = (upper[: shown.shape[0], : shown.shape[1]] != 0).any(2) & shown
    return MUST if seen.any() else MAY


def damage(made: Made, how: str) -> str | None:
    found = any_file(made)
    if found is None:
        return None
    store, level, file = found
    number = store.chunks_a_shard(level)
    start, count = any_place(made, number, file)
    data, compression = bytearray(file.read_bytes()), made.options["compression"]
    verdict = MAY if compression == "none" else MUST
    if how == "cut":
        del data[start + count // 2 : start + count]
        verdict = MUST
    elif how == "zero":
        data[start : start + count] = bytes(count)
    elif how == "flip":
        bit = made.chance.randrange(8 * count)
        data[start + bit // 8] ^= 1 << bit % 8
        verdict = MUST_NOT if compression == "none" else MAY
    elif how == "index":
        if not number:
            return None
        bit = made.chance.randrange(8 * (_CHECKSUM + _ENTRY * number))
        data[len(data) - 1 - bit // 8] ^= 1 << bit % 8
        verdict = MUST
    elif how == "empty":
        data, verdict = bytearray(), MUST
    file.write_bytes(data)
    return verdict


def drop_level(made: Made) -> str | None:
    """Out of the list, off the disk, or both."""
    store = Store(made)
    said, image = store.multiscale()
    if len(store.levels) < 2:
        return None
    level = made.chance.choice(store.levels)
    listed, there = made.chance.choice(((False, True), (True, False), (False, False)))
    if not there:
        shutil.rmtree(store.path / str(level))
    if not listed:
        del image["datasets"][level]
        store.group.write_text(json.dumps(said))
    if listed or there:
        return MUST
    return MUST if 0 < level < store.levels[-1] else MAY


def exchange_levels(made: Made) -> str | None:
    store = Store(made)
    said, image = store.multiscale()
    if len(store.levels) < 2:
        return None
    one, other = made.chance.sample(store.levels, 2)
    sets = image["datasets"]
    sets[one]["path"], sets[other]["path"] = sets[other]["path"], sets[one]["path"]
    store.group.write_text(json.dumps(said))
    return MUST


def wrong_scale(made: Made) -> str | None:
    store = Store(made)
    said, image = store.multiscale()
    made.chance.choice(image["datasets"])["coordinateTransformations"][0]["scale"][-1] *= 3
    store.group.write_text(json.dumps(said))
    return MUST_NOT


def wrong_key(made: Made) -> str | None:
    """Any key of any JSON is removed, or has another value."""
    store, chance = Store(made), made.chance
    file = chance.choice([store.group, *map(store.array, store.levels)])
    said = json.loads(file.read_text())
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            places.append((value, key))
            walk(value[key])

    walk(said)
    where, key = chance.choice(places)
    others: tuple[Any, ...] = (None, 0, 1, 17, -1, "x", "", [], {}, True, [1], "../..", 1e30, 1 << 70)
    if chance.random() < 0.3:
        del where[key]
    else:
        old = where[key]
        where[key] = chance.choice((*others, old + 1, old * 2) if isinstance(old, int) else others)
    file.write_text(json.dumps(said))
    return MAY


def remove_json(made: Made) -> str | None:
    file = made.chance.choice(sorted(each for each in made.path.rglob("*") if each.name in _META))
    file.unlink()
    return MUST


def wrong_fill(made: Made) -> str | None:
    """Another value of what is left out in one level."""
    store = Store(made)
    file = store.array(made.chance.choice(store.levels))
    said = json.loads(file.read_text())
    said["fill_value"] = said["fill_value"] + 1
    file.write_text(json.dumps(said))
    return MUST if len(store.levels) > 1 else MAY


def wrong_shape(made: Made) -> str | None:
    """A level of another size."""
    store = Store(made)
    level = made.chance.choice(store.levels)
    said = json.loads(store.array(level).read_text())
    said["shape"][-1 - made.chance.randrange(2)] += made.chance.choice((1, -1, 30))
    store.array(level).write_text(json.dumps(said))
    return MUST if level else MAY


def more_files(made: Made) -> str | None:
    (made.path / "notes.txt").write_text("mine")
    return MUST_NOT


ZARR_CHANGES = {
    "exchange chunks": exchange_files,
    "strange pixels": strange_pixels,
    "remove a chunk": remove_file,
    "remove a chunk again": remove_file,
    "cut a chunk": lambda made: damage(made, "cut"),
    "zero a chunk": lambda made: damage(made, "zero"),
    "empty a file": lambda made: damage(made, "empty"),
    "flip a bit of a chunk": lambda made: damage(made, "flip"),
    "flip a bit of an index": lambda made: damage(made, "index"),
    "drop level": drop_level,
    "exchange levels": exchange_levels,
    "wrong scale": wrong_scale,
    "wrong key": wrong_key,
    "wrong key again": wrong_key,
    "wrong fill": wrong_fill,
    "remove json": remove_json,
    "wrong shape": wrong_shape,
    "more files": more_files,
}
