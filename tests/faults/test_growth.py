"""What grows when something that can be counted is doubled, and doubled again: no processor time faster than it should.

A case is a line of the table: what grows, how often it is there at first, how to make it, and what runs.
"""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from faults.campaign import forked
from faults.test_kill import wait_for

import slidewright

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(1200)]
EXPONENT = 1.4
SECONDS = 0.3  # of less nothing is said
LIMIT = 120  # for a single run

Make = Callable[[Path, int], None]
Act = Callable[[Path, int], object]


@dataclass(frozen=True)
class Growth:
    what: str
    first: int
    make: Make
    runs: dict[str, Act]


def convert(source: str, out: str, **options: Any) -> Act:
    given = {"n_workers": 0, "overwrite": True, "tile_size": 32, **options}
    given = {name: value for name, value in given.items() if value is not None}
    return lambda folder, _: slidewright.convert(folder / source, folder / out, **given)


def info(name: str) -> Act:
    return lambda folder, _: slidewright.info(folder / name)


def verify(name: str, against: str | None = None) -> Act:
    def act(folder: Path, _: int) -> object:
        return slidewright.verify_file(folder / name, against=against and folder / against, n_workers=1)

    return act


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, shape, np.uint8)


def square(count: int, side: int) -> int:
    return math.isqrt(count) * side


def tiles(folder: Path, count: int) -> None:
    pixels = np.broadcast_to(noise(square(count, 16), 1), (square(count, 16),) * 2)
    tifffile.imwrite(folder / "s.tif", pixels, tile=(16, 16), compression="zlib", photometric="minisblack")


def damaged_tiles(folder: Path, count: int) -> None:
    tiles(folder, count)
    with tifffile.TiffFile(folder / "s.tif") as tiff:
        places = tiff.pages.first.dataoffsets
    data = bytearray((folder / "s.tif").read_bytes())
    for at in places:
        data[at : at + 3] = b"\xff\xff\xff"
    (folder / "s.tif").write_bytes(data)


def channels(folder: Path, count: int) -> None:
    np.save(folder / "s.npy", noise(128, 160, count))


def planes(folder: Path, count: int) -> None:
    meta = {"axes": "ZYX"}
    tifffile.imwrite(folder / "s.ome.tif", noise(count, 48, 48), ome=True, metadata=meta, tile=(32, 32))


def pages(folder: Path, count: int) -> None:
    with tifffile.TiffWriter(folder / "s.tif") as tiff:
        for number in range(count):
            page = np.full((32, 32), number % 255, np.uint8)
            tiff.write(page, contiguous=False, photometric="minisblack", metadata=None)


def strips(folder: Path, count: int) -> None:
    pixels = np.zeros((count, 32, 3), np.uint8)
    tifffile.imwrite(folder / "s.tif", pixels, rowsperstrip=1, compression="zlib", photometric="rgb")


def small(folder: Path, **more: Any) -> None:
    tifffile.imwrite(folder / "s.tif", np.zeros((64, 64, 3), np.uint8), tile=(32, 32), photometric="rgb", **more)


def description(folder: Path, count: int) -> None:
    small(folder, description="a <&> b; c|d = e\n" * (count // 16), metadata=None)


def aperio_keys(folder: Path, count: int) -> None:
    keys = "|".join(f"Key {number} = value {number}" for number in range(count))
    small(folder, description=f"Aperio Image Library v1\r\n64x64 (32x32) Q=30|MPP = 0.5|{keys}", metadata=None)


def ome_elements(before: str, element: str, around: tuple[str, str] = ("", "")) -> Make:
    """OME-XML with many of an element, with a number for N in it."""

    def make(folder: Path, count: int) -> None:
        path = folder / "s.ome.tif"
        tifffile.imwrite(path, noise(3, 64, 64), ome=True, metadata={"axes": "CYX"}, tile=(32, 32))
        with tifffile.TiffFile(path) as tiff:
            text = tiff.ome_metadata or ""
        many = around[0] + "".join(element.replace("{N}", str(number)) for number in range(count)) + around[1]
        text = text.replace(before, many + before, 1)
        pixels = noise(3, 64, 64)
        tifffile.imwrite(
            path, pixels, tile=(32, 32), description=text.encode(), metadata=None, photometric="minisblack"
        )

    return make


def manifest(folder: Path, count: int) -> None:
    small(folder)
    (folder / "o").mkdir()
    rows = "".join(f"s.tif,o/{number}.tif,32\n" for number in range(count))
    (folder / "m.csv").write_text("source,destination,tile_size\n" + rows)


def folders(folder: Path, count: int) -> None:
    small(folder)
    for number in range(count):
        (folder / "in" / str(number)).mkdir(parents=True)
        os.link(folder / "s.tif", folder / "in" / str(number) / "x.tif")


def store(folder: Path, count: int) -> None:
    import zarr

    side = square(count, 16)
    array = zarr.create_array(str(folder / "s.zarr"), shape=(side, side), chunks=(16, 16), dtype="uint8")
    array[:] = noise(side, side)


def shards(folder: Path, count: int) -> None:
    side = square(count, 32)
    tifffile.imwrite(folder / "s.tif", noise(side, side), tile=(32, 32))
    for number in range(count // 4):
        given = {"index": number, "count": count // 4, "tile_size": 32, "block_tiles": 1, "n_workers": 0}
        slidewright.shard(folder / "s.tif", folder / "shards", **given)


def colours(folder: Path, count: int) -> None:
    labels = np.random.default_rng(1).integers(0, count, (64, 64)).astype(np.uint16)
    np.save(folder / "s.npy", labels)
    table = {str(number): f"#{number * 7 % 0xFFFFFF:06x}" for number in range(count)}
    (folder / "c.json").write_text(json.dumps(table))


def regions(overlap: str) -> Act:
    def act(folder: Path, count: int) -> None:
        side, piece = math.isqrt(count), np.zeros((8, 8), np.uint8)
        given = {"tile_size": 256, "overlap": overlap, "n_workers": 0, "overwrite": True}
        with slidewright.PyramidWriter(folder / "o.tif", (side * 8, side * 8), **given) as writer:
            for number in range(side * side):
                writer.write_region(piece, number // side * 8, number % side * 8)

    return act


def tiles_in_no_order(workers: int) -> Act:
    def act(folder: Path, count: int) -> None:
        side, piece = math.isqrt(count), np.zeros((16, 16), np.uint8)
        given = {"tile_size": 16, "n_workers": workers, "overwrite": True}
        with slidewright.PyramidWriter(folder / "o.tif", (side * 16, side * 16), **given) as writer:
            for number in np.random.default_rng(3).permutation(side * side):
                writer.write_tile(piece, int(number) // side, int(number) % side)

    return act


def nothing(folder: Path, count: int) -> None:
    pass


def batch(source: str, *more: str, **options: Any) -> Act:
    def act(folder: Path, _: int) -> object:
        return slidewright.batch(folder / source, *(folder / name for name in more), n_workers=0, **options)

    return act


def colormap(out: str) -> Act:
    return lambda folder, n: convert("s.npy", out, kind="labels", colormap=str(folder / "c.json"))(folder, n)


def elements(*about: Any) -> tuple[Make, dict[str, Act]]:
    runs = {"info": info("s.ome.tif"), "verify": verify("o.ome.tif")}
    made = {out: convert("s.ome.tif", out, keep_metadata="all") for out in ("o.ome.tif", "o.zarr", "o.tif")}
    return ome_elements(*about), made | runs


SMALL = {"tile_size": 16, "compression": "none"}
MANY = {"kind": "multichannel"}
FILL = {"on_corrupt": "fill"}
ALL = {"keep_metadata": "all"}
TEXTS = {out: convert("s.tif", out, **ALL) for out in ("o.tif", "o.ome.tif", "o.zarr")} | {"info": info("s.tif")}
NOTE = '<MapAnnotation ID="Annotation:{N}"><Value><M K="k{N}">v{N}</M></Value></MapAnnotation>'
SHAPE = '<ROI ID="ROI:{N}"><Union><Rectangle ID="Shape:{N}" X="1" Y="1" Width="5" Height="5"/></Union></ROI>'
CASES = [
    Growth(
        "tiles",
        4096,
        tiles,
        {
            **{out: convert("s.tif", out, **SMALL) for out in ("o.tif", "o.ome.tif", "o.zarr")},
            "kept": convert("s.tif", "k.tif", tile_size=None, keep_tiles="always"),
            "resumed": convert("s.tif", "r.tif", resume=True, **SMALL),
            **{f"verify {name}": verify(name) for name in ("o.tif", "k.tif", "o.zarr")},
            "info": info("o.tif"),
            "against": verify("o.tif", "s.tif"),
        },
    ),
    Growth(
        "damaged tiles",
        1024,
        damaged_tiles,
        {
            "fill": convert("s.tif", "o.tif", **SMALL, **FILL),
            "kept": convert("s.tif", "k.tif", tile_size=None, keep_tiles="always", **FILL),
            "resumed": convert("s.tif", "r.tif", resume=True, **SMALL, **FILL),
        },
    ),
    Growth(
        "channels",
        25,
        channels,
        {
            **{out: convert("s.npy", out, **MANY) for out in ("o.tif", "o.ome.tif", "o.zarr")},
            "verify": verify("o.ome.tif"),
            "verify a store": verify("o.zarr"),
            "against": verify("o.ome.tif", "s.npy"),
            "back": convert("o.ome.tif", "b.zarr"),
            "back again": convert("o.zarr", "b.ome.tif"),
        },
    ),
    Growth(
        "planes",
        128,
        planes,
        {
            "info": info("s.ome.tif"),
            **{out: convert("s.ome.tif", out, z="all") for out in ("o.ome.tif", "o.zarr")},
            "verify": verify("o.ome.tif"),
            "against": verify("o.ome.tif", "s.ome.tif"),
            "back": convert("o.zarr", "b.ome.tif", z="all"),
            "one": convert("s.ome.tif", "one.tif", z=3),
        },
    ),
    Growth("pages", 1000, pages, {"info": info("s.tif"), "one": convert("s.tif", "o.tif", page=3)}),
    Growth("strips", 8000, strips, {"info": info("s.tif"), "convert": convert("s.tif", "o.tif")}),
    Growth("letters of a description", 1 << 19, description, TEXTS),
    Growth("fields of Aperio's", 4000, aperio_keys, TEXTS),
    Growth("annotations", 1000, *elements("</OME>", NOTE, ("<StructuredAnnotations>", "</StructuredAnnotations>"))),
    Growth("regions of interest", 1000, *elements("</OME>", SHAPE)),
    Growth("planes that the XML tells of", 1000, *elements("</Pixels>", '<Plane TheZ="0" TheT="0" TheC="0"/>')),
    Growth(
        "rows of a manifest",
        250,
        manifest,
        {"dry": batch("m.csv", dry_run=True), "first": batch("m.csv"), "skip": batch("m.csv")},
    ),
    Growth("folders of slides", 250, folders, {"batch": batch("in", "out", recursive=True)}),
    Growth(
        "files of a store",
        1024,
        store,
        {
            "info": info("s.zarr"),
            "convert": convert("s.zarr", "o.tif"),
            "to a store": convert("s.zarr", "o.zarr", tile_size=16, zarr_shard=0),
            "verify": verify("o.zarr"),
        },
    ),
    Growth(
        "shards",
        64,
        shards,
        {"assemble": lambda folder, _: slidewright.assemble(folder / "shards", folder / "o.tif", n_workers=0)},
    ),
    Growth("colours", 8000, colours, {out: colormap(out) for out in ("o.tif", "o.ome.tif", "o.zarr")}),
    Growth("regions", 4096, nothing, {overlap: regions(overlap) for overlap in ("blend", "refuse", "replace")}),
    Growth("tiles in no order", 1024, nothing, {f"{count} workers": tiles_in_no_order(count) for count in (0, 2)}),
]


def processor_time(folder: Path, act: Act, count: int) -> float:
    """Of a process that does it, and of those that it starts."""

    def used() -> float:
        each = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in each)

    def work() -> None:
        before = used()
        act(folder, count)
        (folder / "seconds").write_text(str(used() - before))

    log = folder / "log"
    code = wait_for(pid := forked(work, log, ZeroDivisionError), LIMIT)
    if code is None:
        os.killpg(pid, 9)
    assert code == 0, f"exit code {code}: {log.read_text()}"
    return float((folder / "seconds").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_time_grows_as_what_is_counted(tmp_path, case):
    counts = (case.first, 2 * case.first, 4 * case.first)
    places = [tmp_path / str(count) for count in counts]
    for place, count in zip(places, counts, strict=True):
        place.mkdir()
        case.make(place, count)
    found = []
    for name, act in case.runs.items():
        seconds = [processor_time(place, act, count) for place, count in zip(places, counts, strict=True)]
        grown = math.log2(seconds[2] / max(seconds[1], 0.01))
        print(f"{case.what}, {name}: {', '.join(f'{each:.2f}' for each in seconds)} s, exponent {grown:.2f}")
        if seconds[2] > SECONDS and grown > EXPONENT:
            found.append(f"{name} with {counts} of {case.what}: {seconds} s of the processor, exponent {grown:.2f}")
    for place in places:
        shutil.rmtree(place)
    assert found == []
