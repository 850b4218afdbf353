"""What the fuzzer tries: TIFF, NDPI, DICOM, archives, zarr stores, manifests, folders of shards, and the logs of
batches and resumed runs.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from faults.fuzzer import MOMENT, Input, Target, read_files
from faults.mutate import ANY, HOSTILE_VALUES, TIFF, Directories, _places, make_seeds
from faults.test_tampered import CELLS, COLUMNS, VALUES, dumped, tampered

SMALL = {"n_workers": 0, "tile_size": 64}
CONVERSIONS = (
    {"compression": "zstd", "block_tiles": 2, "tile_size": 64},
    {},  # where a TIFF's tiles are kept if they can be
    {"on_corrupt": "fill", "compression": "none", "tile_size": 128},
    {"keep_metadata": "all", "compression": "jpeg", "associated": ("thumbnail", "label", "macro")},
)
TAGS = {
    **{254: (0, 1, 2, 4, 0xFFFFFFFF), 256: (0, 1, 150, 2**31, 2**32 - 1), 257: (0, 1, 120, 2**31, 2**32 - 1)},
    **{258: (0, 1, 2, 4, 7, 8, 12, 16, 24, 32, 64, 65535), 262: (0, 1, 2, 3, 4, 5, 6, 8, 32803, 34892, 65535)},
    259: (0, 1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 33003, 33005, 34712, 34925, 50000, 50001, 50002, 52546, 65535),
    **{266: (0, 1, 2, 3), 274: tuple(range(10)), 277: (0, 1, 2, 3, 4, 5, 100, 65535), 278: (0, 1, 16, 2**32 - 1)},
    **{282: (0,), 283: (0,), 284: (0, 1, 2, 3), 292: (0, 1, 2, 7), 296: (0, 1, 2, 3, 4), 317: (0, 1, 2, 3, 34892)},
    **{322: (0, 1, 16, 64, 100, 2**31), 323: (0, 1, 16, 64, 100, 2**31), 330: (0, 8, 16), 338: (0, 1, 2, 3)},
    **{339: (0, 1, 2, 3, 4, 5, 6), 530: (0, 1, 2, 4, 0x00020002), 532: (0,), 320: (8,), 347: (8,), 34675: (8,)},
    **{270: (8,), 305: (8,), 273: (0, 8), 279: (0, 2**31), 324: (0, 8), 325: (0, 2**31), 700: (8,), 50838: (8,)},
    **{50839: (8,), 65420: (1,), 32997: (0, 1, 2), 33550: (0,), 301: (0,), 529: (0,), 34377: (8,), 65449: (8,)},
}


def sensible_tag(data: bytearray, rng: random.Random) -> None:
    """A tag has a value, or becomes a tag, that some reader has code for."""
    tree = Directories(data)
    entry, code = rng.choice(tree.entries), rng.choice(list(TAGS))
    present = {tree.unpack(data, "H", at): at for at in tree.entries}
    if code in present and rng.random() < 0.7:
        entry = present[code]
    tree.pack(data, "H", entry, code)
    if rng.random() < 0.3:
        tree.pack(data, "H", entry + 2, rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 16, 17, 18)))
    if rng.random() < 0.5:
        tree.pack(data, tree.offset, entry + 4, rng.choice((0, 1, 1, 1, 2, 3, 4, 100)))
    at = entry + 4 + struct.calcsize("=" + tree.offset)
    tree.pack(data, tree.offset, at, rng.choice(TAGS[code]))


def bytes_changed(data: bytes, rng: random.Random, kinds: tuple[Callable[..., None], ...] = ANY) -> bytes:
    """With one to three changes."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        try:
            rng.choice(kinds)(found, rng)
        except (struct.error, IndexError, ValueError, ArithmeticError):  # too damaged by the change before
            continue
    return bytes(found)


def json_changed(data: bytes, rng: random.Random, values: tuple[object, ...] = tuple(VALUES)) -> bytes:
    """With a value replaced, removed or added; damaged as text where it is no JSON any more."""
    try:
        tree = json.loads(data)
        for _ in range(rng.choice((1, 1, 2))):
            if rng.random() < 0.3 and (places := list(_places(tree))):
                where, key = rng.choice(places)
                where[key] = rng.choice(values)
            else:
                tree = tampered(tree, rng)
        return dumped(tree, rng)
    except (ValueError, IndexError, TypeError, RecursionError):
        return bytes_changed(data, rng)


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def chosen_conversion(data: bytes) -> dict:
    """Options by the content of the input, so that it does the same when it is tried again."""
    return CONVERSIONS[zlib.crc32(data) % len(CONVERSIONS)]


def look_at(name: str) -> list[Callable[[], str]]:
    """The three things that one does with a slide of a stranger."""
    import slidewright

    def info() -> str:
        slidewright.info(name)
        return "shown"

    def convert() -> str:
        path = Path(name)
        data = path.read_bytes() if path.is_file() else b"".join(read_files(path).values())
        options = chosen_conversion(data)
        out = "o.ome.zarr" if zlib.crc32(data) % 16 == 15 and not options else "o.tif"
        slidewright.convert(name, out, n_workers=0, memory="400MB", overwrite=True, **options)
        return "converted"

    def verify() -> str:
        slidewright.verify_file(name, n_workers=1)
        return "verified"

    return [info, convert, verify]


class Tiffs(Target):
    name = "tiff"

    def seeds(self, folder: Path) -> list[Input]:
        import numpy as np
        import tifffile

        import slidewright

        folder.mkdir()
        paths = [path for path in make_seeds(folder) if path.suffix == ".tif"]
        rgb, more = tifffile.imread(folder / "none-classic.tif"), folder / "more"
        more.mkdir()
        made = {
            "flavour-aperio.svs": {"flavour": "aperio", "compression": "jpeg"},
            "o.ome.tif": {"compression": "zstd"},
            "bw.tif": {"kind": "binary", "compression": "ccitt-t6"},
            "labels.tif": {"kind": "labels", "compression": "deflate"},
            "jxl.tif": {"compression": "jpegxl"},
            "plain.tif": {"compression": "jpeg", "mpp": 0.25},
        }
        for name, options in made.items():
            pixels = (rgb[..., 0] > 99).astype(np.uint8) if options.get("kind") else rgb
            slidewright.convert(pixels, more / name, n_workers=0, tile_size=64, **options)
            paths.append(more / name)
        tifffile.imwrite(more / "palette.tif", rgb[..., 0], photometric="palette", colormap=np.zeros((3, 256), "u2"))
        tifffile.imwrite(more / "pages.tif", np.stack([rgb] * 3), photometric="rgb", compression="lzw")
        tifffile.imwrite(more / "stack.tif", np.zeros((2, 3, 60, 70), "u2"), imagej=True)
        paths += [more / name for name in ("palette.tif", "pages.tif", "stack.tif")]
        return [{"s.tif": path.read_bytes()} for path in paths]

    def change(self, files: Input, others: list[Input], rng: random.Random) -> Input:
        kinds = (*ANY, *TIFF, *(6 * [sensible_tag]), functools.partial(spliced, others))
        return {"s.tif": bytes_changed(files["s.tif"], rng, kinds)}

    def acts(self) -> list[Callable[[], str]]:
        return look_at("s.tif")


COUNTS = ((None, None), (1, 1), (3, None), (0, None))


class Tags(Tiffs):
    """Each tag of small files, with each type and some counts and values, one after the other."""

    name = "tags"

    def seeds(self, folder: Path) -> list[Input]:
        import numpy as np
        import tifffile

        import slidewright

        folder.mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (60, 70, 3), np.uint8)
        rest = {"photometric": "rgb", "resolution": (99, 99), "software": "x"}
        tifffile.imwrite(folder / "strips.tif", pixels, rowsperstrip=16, compression="lzw", predictor=True, **rest)
        tifffile.imwrite(folder / "tiles.tif", pixels, tile=(32, 32), compression="jpeg", **rest)
        tifffile.imwrite(folder / "big.tif", pixels, tile=(32, 32), compression="zlib", bigtiff=True, **rest)
        other = {"byteorder": ">", "compression": "zlib", **rest}
        tifffile.imwrite(folder / "motorola.tif", pixels, rowsperstrip=16, **other)
        tifffile.imwrite(folder / "big-motorola.tif", pixels, tile=(32, 32), bigtiff=True, **other)
        small = {"n_workers": 0, "tile_size": 32}
        slidewright.convert(pixels, folder / "aperio.svs", flavour="aperio", compression="jpeg", **small)
        slidewright.convert(pixels, folder / "o.ome.tif", compression="deflate", mpp=0.5, **small)
        return [{"s.tif": path.read_bytes()} for path in sorted(folder.iterdir())]

    @staticmethod
    def variants(base: bytes) -> Iterator[bytes]:
        """The file with one entry of its directories changed; a tag that it lacks takes the place of Software."""
        tree = Directories(bytearray(base))
        present = {tree.unpack(bytearray(base), "H", at): at for at in tree.entries}
        for code in sorted({*present, *TAGS}):
            entry = present.get(code, present.get(305))
            if entry is None:
                continue
            at = entry + 4 + struct.calcsize("=" + tree.offset)
            most = 2 ** (8 * struct.calcsize("=" + tree.offset)) - 1
            for kind in range(19):
                for count, value in (*COUNTS, (1, most), (most, None), (10**9, most)):
                    data = bytearray(base)
                    tree.pack(data, "H", entry, code)
                    tree.pack(data, "H", entry + 2, kind)
                    if count is not None:
                        tree.pack(data, tree.offset, entry + 4, count)
                    if value is not None:
                        tree.pack(data, tree.offset, at, value)
                    yield bytes(data)


def spliced(others: list[Input], data: bytearray, rng: random.Random) -> None:
    """A directory entry of another file takes the place of one of these."""
    other = bytearray(rng.choice(others)["s.tif"])
    here, there = Directories(data), Directories(other)
    if (here.order, here.entry) == (there.order, there.entry):
        at, source = rng.choice(here.entries), rng.choice(there.entries)
        data[at : at + here.entry] = other[source : source + here.entry]


class Ndpis(Tiffs):
    """Hamamatsu's: stripes that are joined, and a directory of 64 bits at the end of each."""

    name = "ndpi"

    def seeds(self, folder: Path) -> list[Input]:
        import ndpi_slides
        from PIL import Image

        Image.init()  # its plugins, which need files of their own
        folder.mkdir()
        kinds = {"444": {}, "422": {}, "420": {}, "grey": {"samples": 1}}
        paths = [
            ndpi_slides.slide(folder / f"{name}.ndpi", "444" if name == "grey" else name, **more)
            for name, more in kinds.items()
        ]
        return [{"s.ndpi": path.read_bytes()} for path in paths]

    def change(self, files: Input, others: list[Input], rng: random.Random) -> Input:
        return {"s.ndpi": bytes_changed(files["s.ndpi"], rng, (*ANY, *ANY, *(4 * [wide_tag])))}

    def acts(self) -> list[Callable[[], str]]:
        return look_at("s.ndpi")


def wide_tag(data: bytearray, rng: random.Random) -> None:
    """A field of an entry, in any directory of a TIFF with links of 64 bits and entries of 32, is another."""
    (at,) = struct.unpack_from("<Q", data, 4)
    entries = []
    while at and len(entries) < 999:
        (count,) = struct.unpack_from("<H", data, at)
        entries += range(at + 2, at + 2 + 12 * count, 12)
        link = at + 2 + 12 * count
        (at,) = struct.unpack_from("<Q", data, link)
        if rng.random() < 0.03:
            struct.pack_into("<Q", data, link, rng.choice((0, at, 8, link, 2**63, len(data))))
    entry, how = rng.choice(entries), rng.random()
    code, kind, count, value = struct.unpack_from("<HHII", data, entry)
    if how < 0.4:
        value = rng.choice((0, 1, value + 1, value - 1, 2 * value, len(data), 2**31, 2**32 - 1)) % 2**32
    elif how < 0.6:
        count = rng.choice((0, 1, 2, count + 1, 100, 10**9, 2**32 - 1)) % 2**32
    elif how < 0.75:
        kind = rng.randrange(19)
    else:
        code = rng.choice((*TAGS, 65420, 65421, 65422, 65424, 65426, 65427, 65432, 65439))
        value = rng.choice(TAGS.get(code, (value, 0, 2**32 - 1)))
    struct.pack_into("<HHII", data, entry, code, kind, count, value % 2**32)


class Dicoms(Target):
    """Folders of a slide in DICOM, packed in several ways; lengths, counts and places in them are others."""

    name = "dicom"

    def seeds(self, folder: Path) -> list[Input]:
        import dicom_slides

        folder.mkdir()
        hows = {
            "jpeg 422": {}, "jpeg2000": {"table": "none"}, "none": {}, "jpegls": {"table": "extended"},
            "jpeg grey": {"fragments": 3}, "jpeg 444": {"sparse": (0, 3, 1)}, "inverted": {},
        }  # fmt: skip
        for number, (kind, how) in enumerate(hows.items()):
            more = {"more": {"NumberOfFrames": 3}} if "sparse" in how else {}
            dicom_slides.slide(folder / str(number), kind, **how, **more)
        return [{f"s/{name}": data for name, data in read_files(path).items()} for path in sorted(folder.iterdir())]

    def change(self, files: Input, others: list[Input], rng: random.Random) -> Input:
        name = rng.choice([*sorted(files), *(2 * [key for key in files if "level_0" in key])])
        if rng.random() < 0.05:
            return {**files, name: rng.choice([*rng.choice(others).values()])}
        return {**files, name: bytes_changed(files[name], rng, (*ANY, *(6 * [dicom_element])))}

    def acts(self) -> list[Callable[[], str]]:
        return look_at("s")


def dicom_element(data: bytearray, rng: random.Random) -> None:
    """Something of the header is another: the length of an element, its representation, its value, its tag."""
    end = data.find(b"\xe0\x7f\x10\x00")
    places = [
        at
        for at in range(132, end if end > 0 else len(data) - 12)
        if data[at + 4 : at + 6] in _VRS and data[at] in _GROUPS and data[at + 1] in (0x00, 0x52)
    ]
    at, how = rng.choice([*places, end] if end > 0 else places), rng.random()
    long = bytes(data[at + 4 : at + 6]) in _LONG_VRS
    size = int.from_bytes(data[at + 8 : at + 12] if long else data[at + 6 : at + 8], "little")
    value = at + (12 if long else 8)
    if how < 0.25:
        wrong = rng.choice((0, 1, size + 1, size - 1, 2 * size, 10**9, 2**31, 2**32 - 1, 2**32 - 2))
        struct.pack_into("<I" if long else "<H", data, at + (8 if long else 6), wrong % (2**32 if long else 2**16))
    elif how < 0.4:
        data[at + 4 : at + 6] = rng.choice(_VRS)
    elif how < 0.5:
        struct.pack_into("<HH", data, at, *rng.choice(_ELEMENTS))
    elif bytes(data[at + 4 : at + 6]) in (b"US", b"UL", b"FD", b"SL"):
        small = rng.choice((0, 1, 3, 4, 8, 12, 16, 255, 2**15, 2**16 - 1, 2**31, 2**32 - 1))
        data[value : value + size] = (small % 2 ** (8 * size)).to_bytes(size, "little")
    else:
        size = min(size, 99)
        word = rng.choice((b"0", b"-1", b"1e9", b"999999999999", b"nan", b"RGB", b"MONOCHROME1", b"\\", b"\xff"))
        word *= 1 if rng.random() < 0.7 else size
        data[value : value + size] = word[:size].ljust(size)


_GROUPS = (0x00, 0x02, 0x08, 0x20, 0x28, 0x40, 0x48)
_LONG_VRS = (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"OV", b"UC", b"UR")
_VRS = (*_LONG_VRS, b"US", b"UL", b"IS", b"DS", b"UI", b"CS", b"LO", b"FD", b"SL", b"DA", b"AT", b"PN", b"SH", b"FL")
_ELEMENTS = (
    *((0x0028, low) for low in (0x0002, 0x0004, 0x0006, 0x0008, 0x0010, 0x0011, 0x0100, 0x0101, 0x0103, 0x0030)),
    *((0x0048, low) for low in (0x0006, 0x0007, 0x0105, 0x0302, 0x0303, 0x021A)),
    *((0x0020, low) for low in (0x000E, 0x9161, 0x9228, 0x9311)),
    *((0x0002, 0x0010), (0x0008, 0x0005), (0x0008, 0x0008), (0x0008, 0x0016), (0x5200, 0x9229), (0x5200, 0x9230)),
    *((0x7FE0, 0x0001), (0x7FE0, 0x0002), (0x7FE0, 0x0010)),
)


class Archives(Target):
    """An archive, whose recipe is another now and then, and restored: the original, or an error."""

    name = "archive"

    def seeds(self, folder: Path) -> list[Input]:
        import numpy as np
        import tifffile

        import slidewright

        folder.mkdir()
        y, x = np.mgrid[:150, :170]
        pixels = np.stack([y, x, y + x], -1).astype(np.uint8)
        found = []
        for number, options in enumerate(({}, {"bigtiff": True}, {"byteorder": ">"})):
            source = folder / f"{number}.tif"
            with tifffile.TiffWriter(source, **options) as tiff:
                tiff.write(pixels, tile=(64, 64), compression="jpeg", photometric="rgb", subifds=1, metadata=None)
                tiff.write(pixels[::2, ::2], tile=(64, 64), compression="jpeg", photometric="rgb", metadata=None)
                tiff.write(pixels[:50, :70], compression="lzw", photometric="rgb", metadata=None)
            slidewright.convert(source, folder / "a.tif", archive="jpegxl", n_workers=0, overwrite=True)
            archive = (folder / "a.tif").read_bytes()
            found.append({"s.tif": archive, "clean": digest(str(source)).encode()})
            found.append({"s.tif": source.read_bytes(), "clean": b""})
        return found

    def change(self, files: Input, others: list[Input], rng: random.Random) -> Input:
        data = files["s.tif"]
        changed = recipe_changed(data, rng) if files["clean"] and rng.random() < 0.6 else None
        return {**files, "s.tif": changed or bytes_changed(data, rng, (*ANY, *TIFF, *(3 * [sensible_tag])))}

    def leaves(self, files: Input) -> set[str]:
        return {"o.tif", "a.tif", "r.tif"}

    def acts(self) -> list[Callable[[], str]]:
        import slidewright

        def restore() -> str:
            slidewright.restore("s.tif", "o.tif", n_workers=0, memory="400MB")
            assert_clean("o.tif")
            return "restored"

        def archive() -> str:
            slidewright.convert("s.tif", "a.tif", archive="jpegxl", n_workers=0, memory="400MB")
            slidewright.restore("a.tif", "r.tif", n_workers=0, memory="400MB")
            assert digest("r.tif") == digest("s.tif"), "another file came back"
            return "there and back"

        return [restore, archive] if Path("clean").read_bytes() else [archive]


def recipe_changed(data: bytes, rng: random.Random) -> bytes | None:
    """With another recipe, packed as it should be; None where there is none."""
    import io

    import tifffile

    from slidewright.tiff.archive import RECIPE

    try:
        tag = tifffile.TiffFile(io.BytesIO(data)).pages.first.tags[RECIPE]
        line, _, tables = zlib.decompress(tag.value).partition(b"\n")
    except Exception:  # damaged before
        return None
    if rng.random() < 0.5:
        line = json_changed(line, rng, (*VALUES, -1, 0, 1, 10**9, 2**62, 2**64, [], ["AAAA"], [""]))
    else:
        damaged = bytearray(tables)
        for _ in range(rng.choice((1, 1, 2))):
            at, width = rng.randrange(0, max(1, len(damaged) - 8), 4), rng.choice((4, 4, 8))
            wrong = rng.choice((0, 1, 2**16, 2**31, 2 ** (8 * width) - 1, rng.randrange(2**16)))
            damaged[at : at + width] = (wrong % 2 ** (8 * width)).to_bytes(width, "little")
        tables = bytes(damaged)
    packed = zlib.compress(line.replace(b"\n", b" ") + b"\n" + tables)
    out = bytearray(data + packed)
    struct.pack_into("<QQ", out, tag.offset + 4, len(packed), len(data))
    return bytes(out)


class Zarrs(Target):
    name = "zarr"

    def seeds(self, folder: Path) -> list[Input]:
        import numpy as np
        import zarr

        import slidewright

        folder.mkdir()
        grey = (np.add.outer(np.arange(90), np.arange(110)) % 251).astype(np.uint8)
        rgb = np.stack([grey, grey[::-1], grey[:, ::-1]], axis=-1)
        for name, options in {
            "2": {"zarr_format": 2},
            "3": {},
            "shards": {"shards": (128, 128, 3)},
            "raw": {"compressors": None},
            "gzip": {"compressors": zarr.codecs.GzipCodec()},
            "blosc": {"compressors": zarr.codecs.BloscCodec()},
        }.items():
            array = zarr.create_array(folder / name, shape=rgb.shape, chunks=(64, 64, 3), dtype="u1", **options)
            array[:] = rgb
        for number, options in enumerate(({}, {"ngff": "0.4", "compression": "blosc"}, {"compression": "none"})):
            slidewright.convert(rgb, folder / f"o{number}.ome.zarr", n_workers=0, tile_size=64, **options)
        return [
            {f"s.zarr/{name}": data for name, data in read_files(path).items()} for path in sorted(folder.iterdir())
        ]

    def change(self, files: Input, others: list[Input], rng: random.Random) -> Input:
        name = rng.choice(sorted(files))
        words = [key for key in files if key.rpartition("/")[2].startswith((".z", "zarr.json"))]
        if words and rng.random() < 0.7:
            name = rng.choice(words)
        how = rng.random()
        if how < 0.03:
            return {key: data for key, data in files.items() if key != name}
        if how < 0.08:
            other = rng.choice(others)
            return {**files, name: other[rng.choice(sorted(other))]}
        change = json_changed if name in words and how < 0.9 else bytes_changed
        more = {"values": (*VALUES, *HOSTILE_VALUES, "|O", "<f8", "bytes", "gzip", "sharding_indexed", "C", "/", "..")}
        return {**files, name: change(files[name], rng, **(more if change is json_changed else {}))}

    def acts(self) -> list[Callable[[], str]]:
        return look_at("s.zarr")


class Manifests(Target):
    name = "manifest"

    def seeds(self, folder: Path) -> list[Input]:
        from faults.campaign import make_slide

        folder.mkdir()
        slide = make_slide(folder / "s.tif", 70, 70).read_bytes()
        texts = (
            "source,destination\ns.tif,o.tif\n",
            "source,destination,mpp,quality,compression\ns.tif,o.tif,0.5,80,jpeg\n",
            "source,destination,page,level,region,background\ns.tif,o.tif,0,0,\"1,2,30,40\",white\ns.tif,o.tif,,,,\n",
            "source,destination,levels,verify,memory,tile_size\ns.tif,o.ome.zarr,2,true,400MB,32\n",
        )
        return [{"s.tif": slide, "m.csv": text.encode()} for text in texts]

    def change(self, files: Input, others: list[Input], rng: random.Random) -> Input:
        lines = [line.split(b",") for line in files["m.csv"].split(b"\n")]
        for _ in range(rng.choice((1, 1, 2, 3))):
            row = rng.choice(lines)
            if row is lines[0] and rng.random() < 0.7:
                from slidewright.conversions.manifest import COLUMNS as KNOWN

                row.append(rng.choice([*COLUMNS, *KNOWN]).encode())
            else:
                row[rng.randrange(len(row))] = rng.choice(CELLS).encode("utf-8", "surrogatepass")
        data = b"\n".join(b",".join(row) for row in lines)
        return {**files, "m.csv": bytes_changed(data, rng) if rng.random() < 0.3 else data}

    def leaves(self, files: Input) -> set[str]:
        """What rows may name, hidden names too, but not what a run hides beside its destination."""
        hidden = (".partial", ".old", ".lock")
        return {name for name in os.listdir() if not (name.startswith(".") and name.endswith(hidden))}

    def acts(self) -> list[Callable[[], str]]:
        import slidewright
        from slidewright.errors import SlidewrightError

        def batch() -> str:
            before = digest("s.tif")
            try:
                report = slidewright.batch("m.csv", **SMALL)
            finally:
                assert digest("s.tif") == before, "the source is another one"
            known = tuple(kind.__name__ for kind in SlidewrightError.__subclasses__())
            for item in report.items:
                assert item.status != "failed" or item.error.startswith((*known, "CorruptTileError")), item.error
            return "done"

        return [batch]


def clean_shards(folder: Path) -> tuple[Input, str]:
    """A small slide, its shards, and the digest of what they make."""
    from faults.campaign import make_slide

    import slidewright

    folder.mkdir()
    slide = make_slide(folder / "s.tif", 200, 230)
    os.utime(slide, ns=(MOMENT, MOMENT))
    for index in range(2):
        slidewright.shard(
            slide, folder / "shards", index=index, count=2, n_workers=0, tile_size=64, block_tiles=2, compression="zstd"
        )
    slidewright.assemble(folder / "shards", folder / "o.tif", n_workers=0)
    clean = digest(str(folder / "o.tif"))
    (folder / "o.tif").unlink()
    return read_files(folder), clean


class Shards(Target):
    """`job.json` and the shards, whose checksums are made right again now and then."""

    name = "shards"

    def seeds(self, folder: Path) -> list[Input]:
        files, clean = clean_shards(folder)
        return [{**files, "clean": clean.encode()}]

    def change(self, files: Input, others: list[Input], rng: random.Random) -> Input:
        name = rng.choice([key for key in files if key.startswith("shards/")])
        if name.endswith("job.json"):
            return {**files, name: json_changed(files[name], rng)}
        changed = shard_changed(files[name], rng) if rng.random() < 0.7 else None
        return with_shard(files, name, bytes_changed(files[name], rng) if changed is None else changed, changed)

    def acts(self) -> list[Callable[[], str]]:
        import slidewright

        def assemble() -> str:
            slidewright.assemble("shards", "o.tif", n_workers=0)
            assert_clean("o.tif")
            return "made"

        return [assemble]


def with_shard(files: Input, name: str, data: bytes, forged: bytes | None) -> Input:
    """With another file; who makes its checksum right may put other pixels into it, so that is not compared."""
    return {**files, name: data, **({} if forged is None else {"clean": b""})}


def assert_clean(path: str) -> None:
    clean = Path("clean").read_text()
    assert clean in ("", digest(path)), "another file was made"


def shard_changed(data: bytes, rng: random.Random) -> bytes | None:
    """A shard with another index or footer and a right checksum over them; None where there is nothing of the kind."""
    from slidewright.shards.file import _END, _TRAILER

    try:
        index_at, footer_at, _, _ = _TRAILER.unpack(data[-_TRAILER.size :])
        index, footer = data[index_at:footer_at], data[footer_at : -_TRAILER.size]
        if not index or not footer:
            return None
    except struct.error:
        return None
    if rng.random() < 0.5:
        index = bytes_changed(index, rng)
    else:
        footer = json_changed(footer, rng)
    crc = zlib.crc32(footer, zlib.crc32(index))
    return data[:index_at] + index + footer + _TRAILER.pack(index_at, index_at + len(index), crc, _END)


class Logs(Target):
    """The lines that a batch wrote, and the folder that a resumed run goes on from."""

    name = "log"

    def seeds(self, folder: Path) -> list[Input]:
        import slidewright

        files, _ = clean_shards(folder)
        slide = {"s.tif": files["s.tif"]}
        os.chdir(folder)
        Path("m.csv").write_text("source,destination\ns.tif,o.tif\n")
        slidewright.batch("m.csv", **SMALL)
        lines = Path("m.report.jsonl").read_text().replace(str(os.stat("o.tif").st_mtime_ns), str(MOMENT))
        log = {**slide, "m.csv": Path("m.csv").read_bytes(), "m.report.jsonl": lines.encode()}
        log |= {"o.tif": Path("o.tif").read_bytes(), "clean": digest("o.tif").encode()}
        slidewright.convert("s.tif", "r.tif", **SMALL, block_tiles=1)
        clean = digest("r.tif").encode()
        kept = stopped_half_way()
        return [log, {**slide, **kept, "clean": clean}]

    def change(self, files: Input, others: list[Input], rng: random.Random) -> Input:
        if "m.report.jsonl" in files:
            lines = files["m.report.jsonl"].splitlines() or [b"{}"]
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
            place = rng.randrange(len(lines))
            lines[place] = json_changed(lines[place], rng) if rng.random() < 0.8 else bytes_changed(lines[place], rng)
            return {**files, "m.report.jsonl": b"\n".join(lines[-6:]) + rng.choice((b"\n", b""))}
        name = rng.choice([key for key in files if key.startswith("r.tif.shards/")])
        how = rng.random()
        if how < 0.05:
            return {key: data for key, data in files.items() if key != name}
        if how < 0.1:
            return {**files, name: rng.choice([data for key, data in files.items() if key.startswith("r.tif.")])}
        if name.endswith(".json"):
            return {**files, name: json_changed(files[name], rng)}
        changed = shard_changed(files[name], rng) if how < 0.7 and "/shard-" in name else None
        damaged = bytes_changed(files[name] or b"\0", rng)
        return with_shard(files, name, damaged if changed is None else changed, changed)

    def leaves(self, files: Input) -> set[str]:
        return {"o.tif", "r.tif", "r.tif.shards", "m.report.jsonl"}

    def acts(self) -> list[Callable[[], str]]:
        import slidewright

        def batch() -> str:
            (item,) = slidewright.batch("m.csv", **SMALL).items
            assert item.status in ("done", "skipped"), item.error
            assert_clean("o.tif")
            return item.status

        def resume() -> str:
            slidewright.convert("s.tif", "r.tif", resume=True, block_tiles=1, **SMALL)
            assert_clean("r.tif")
            assert not os.path.exists("r.tif.shards"), "the folder stays"
            return "resumed"

        return [batch if os.path.exists("m.csv") else resume]


def stopped_half_way() -> Input:
    """What a resumable run leaves that fails in the middle."""
    import slidewright

    class Stopped(Exception):
        pass

    def stop(progress: object) -> None:
        if progress.tiles_done * 2 > progress.tiles_total:  # type: ignore[attr-defined]
            raise Stopped

    try:
        slidewright.convert("s.tif", "r2.tif", resume=True, block_tiles=1, progress=stop, **SMALL)
    except Stopped:
        pass
    found = read_files(Path("r2.tif.shards"))
    assert any(name.startswith("shard-") for name in found), sorted(found)
    return {f"r.tif.shards/{name}": data for name, data in found.items()}


TARGETS: dict[str, Callable[[], Target]] = {
    kind.name: kind for kind in (Tiffs, Tags, Ndpis, Dicoms, Archives, Zarrs, Manifests, Shards, Logs)
}
