"""Damaged and hostile copies of small images: what the campaign of bad inputs feeds."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

ABSURD = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="150" SizeY="120" SizeC="1" SizeZ="1" SizeT="1">'
    '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
)


def make_seeds(folder: Path) -> list[Path]:
    """One small image of each kind that a reader has code for."""
    rng = np.random.default_rng(5)
    grey = (np.add.outer(np.arange(120), np.arange(150)) % 251).astype(np.uint8)
    rgb = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1)
    noise = rng.integers(0, 65535, (120, 150)).astype(np.uint16)
    tiles: dict[str, Any] = {"tile": (64, 64)}
    made = {
        "deflate": (rgb, {**tiles, "compression": "zlib", "predictor": True}),
        "jpeg": (rgb, {**tiles, "compression": "jpeg"}),
        "jpeg2000": (rgb, {**tiles, "compression": "jpeg2000"}),
        "lzw": (grey, {"rowsperstrip": 16, "compression": "lzw"}),
        "zstd": (noise, {**tiles, "compression": "zstd"}),
        "none": (rgb, {}),
        "packbits": (grey, {"rowsperstrip": 30, "compression": "packbits"}),
        "webp": (rgb, {**tiles, "compression": "webp"}),
        "separate": (np.moveaxis(rgb, -1, 0).copy(), {**tiles, "compression": "zlib", "planarconfig": "separate"}),
        "aperio": (rgb, {**tiles, "compression": "jpeg", "description": "Aperio x\n150x120|MPP = 0.25"}),
        "ome": (grey, {**tiles, "description": OME, "metadata": None}),
    }
    seeds = []
    for name, (pixels, options) in made.items():
        for big in (False, True):
            path = folder / f"{name}-{'big' if big else 'classic'}.tif"
            photometric = "rgb" if pixels.ndim == 3 else "minisblack"
            order = ">" if big and name == "none" else "<"
            tifffile.imwrite(path, pixels, photometric=photometric, bigtiff=big, byteorder=order, **options)
            seeds.append(path)
    np.save(folder / "plain.npy", rgb)
    seeds.append(folder / "plain.npy")
    for version in (2, 3):
        path = folder / f"v{version}.zarr"
        array = zarr.create_array(path, shape=rgb.shape, chunks=(64, 64, 3), dtype="uint8", zarr_format=version)
        array[:] = rgb
        seeds.append(path)
    return seeds


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def flip_early(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4))):
        data[rng.randrange(min(400, len(data)))] = rng.randrange(256)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(1, len(data)) :]


def blank(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 16, 256, 4096)))
    data[start:end] = bytes([rng.choice((0, 255))]) * (end - start)


def move(data: bytearray, rng: random.Random) -> None:
    """Copy a piece over another place."""
    size = rng.randrange(1, min(2048, len(data)))
    source, target = (rng.randrange(len(data) - size + 1) for _ in range(2))
    data[target : target + size] = data[source : source + size]


def insert(data: bytearray, rng: random.Random) -> None:
    place = rng.randrange(len(data))
    data[place:place] = rng.randbytes(rng.choice((1, 2, 4, 100)))


class Directories:
    """The directory entries of a TIFF, by their place in the file."""

    def __init__(self, data: bytearray) -> None:
        self.order = ">" if data[:2] == b"MM" else "<"
        self.big = data[2 if self.order == "<" else 3] == 43
        self.offset, self.count, self.entry = ("Q", "Q", 20) if self.big else ("I", "H", 12)
        self.entries: list[int] = []
        self.links = [8 if self.big else 4]
        at = self.unpack(data, self.offset, self.links[0])
        while at and at + 8 < len(data) and len(self.links) < 9:
            count = min(self.unpack(data, self.count, at), 200)
            first = at + struct.calcsize("=" + self.count)
            self.entries += [first + n * self.entry for n in range(count)]
            self.links.append(first + count * self.entry)
            at = self.unpack(data, self.offset, self.links[-1])

    def unpack(self, data: bytearray, code: str, at: int) -> int:
        return struct.unpack_from(self.order + code, data, at)[0]

    def pack(self, data: bytearray, code: str, at: int, value: int) -> None:
        struct.pack_into(self.order + code, data, at, value % (1 << 8 * struct.calcsize("=" + code)))


def absurd_tag(data: bytearray, rng: random.Random) -> None:
    """A tag's value, count or type is something that no image has."""
    tree = Directories(data)
    entry = rng.choice(tree.entries)
    what = rng.choice(("value", "value", "count", "kind", "code"))
    if what in ("kind", "code"):
        tree.pack(data, "H", entry + (2 if what == "kind" else 0), rng.choice((*ABSURD, rng.randrange(340))))
    else:
        at = entry + 4 + (struct.calcsize("=" + tree.offset) if what == "value" else 0)
        tree.pack(data, tree.offset, at, rng.choice((*ABSURD, rng.randrange(len(data)))))


def retype(data: bytearray, rng: random.Random) -> None:
    """A tag keeps its value and is of another type: signed, too narrow, or not even a number."""
    tree = Directories(data)
    tree.pack(data, "H", rng.choice(tree.entries) + 2, rng.randrange(1, 19))


def swap_tags(data: bytearray, rng: random.Random) -> None:
    """Two tags have each other's values."""
    tree = Directories(data)
    first, second = rng.choice(tree.entries) + 2, rng.choice(tree.entries) + 2
    size = tree.entry - 2
    data[first : first + size], data[second : second + size] = data[second : second + size], data[first : first + size]


def cyclic(data: bytearray, rng: random.Random) -> None:
    """The chain of directories leads back, or elsewhere."""
    tree = Directories(data)
    start = tree.unpack(data, tree.offset, tree.links[0])
    tree.pack(data, tree.offset, rng.choice(tree.links[1:]), rng.choice((start, rng.randrange(len(data)))))


ANY: tuple[Callable[[bytearray, random.Random], None], ...] = (flip_bits, flip_early, truncate, blank, move, insert)
TIFF = (absurd_tag, absurd_tag, absurd_tag, retype, retype, swap_tags, cyclic)


def mutate(seed: Path, folder: Path, rng: random.Random) -> tuple[Path, str]:
    """A damaged copy of a seed in a folder, and what was done to it."""
    if seed.is_dir():
        return mutate_zarr(seed, folder, rng)
    data, done = bytearray(seed.read_bytes()), []
    for _ in range(rng.choice((1, 1, 2, 3))):
        kinds = ANY + TIFF if seed.suffix == ".tif" else ANY
        change = rng.choice(kinds)
        try:
            change(data, rng)
            done.append(change.__name__)
        except (struct.error, IndexError, ValueError):  # too damaged by the change before
            continue
    path = folder / f"damaged{seed.suffix}"
    path.write_bytes(data)
    return path, f"{seed.name}: {', '.join(done)}"


HOSTILE_VALUES = (0, -1, 1 << 40, 10**9, 10**18, "x", None, [], {}, 1.5, "../../../etc", "pickle", True)


def mutate_zarr(seed: Path, folder: Path, rng: random.Random) -> tuple[Path, str]:
    """A copy of a zarr array with damaged chunks or with hostile metadata."""
    path = folder / "damaged.zarr"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(seed, path)
    metadata = next(p for p in (path / "zarr.json", path / ".zarray") if p.exists())
    chunks = [p for p in path.rglob("*") if p.is_file() and not p.name.startswith((".z", "zarr"))]
    if rng.random() < 0.05:
        file = rng.choice([metadata, *chunks])
        file.unlink()
        os.mkfifo(file)
        return path, f"{seed.name}: {file.name} is a FIFO"
    if rng.random() < 0.3:
        chunk = rng.choice(chunks)
        data, change = bytearray(chunk.read_bytes()), rng.choice(ANY)
        change(data, rng)
        chunk.write_bytes(data)
        return path, f"{seed.name}: {change.__name__} of {chunk.name}"
    if rng.random() < 0.2:
        data, change = bytearray(metadata.read_bytes()), rng.choice(ANY)
        change(data, rng)
        metadata.write_bytes(data)
        return path, f"{seed.name}: {change.__name__} of {metadata.name}"
    tree = json.loads(metadata.read_text())
    places = list(_places(tree))
    where, key = rng.choice(places)
    value = rng.choice(HOSTILE_VALUES)
    where[key] = value
    metadata.write_text(json.dumps(tree))
    return path, f"{seed.name}: {key} is {value!r}"


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)


def tiff_bytes(**options: Any) -> bytes:
    """A one-page TIFF in memory."""
    stream = io.BytesIO()
    tifffile.imwrite(stream, **options)
    return stream.getvalue()
