"""Changes of a TIFF whose effect is known. Each takes what was made, changes its file, and says whether `verify` alone
must find it; None where there is nothing to change.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import tifffile
from faults.verify_files import Made

MUST, MAY, MUST_NOT = "must fail", "may fail", "must pass"
_FORMATS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_LOOSE = ("none", "packbits", "ccitt-t4", "ccitt-t6")  # which decode nearly anything


class Tiff:
    """Where in a file of slidewright everything is."""

    def __init__(self, path: Path) -> None:
        self.path, self.data = path, bytearray(path.read_bytes())
        with tifffile.TiffFile(path) as tiff:
            self.big = tiff.is_bigtiff
            self.chain = [tiff.pages.get(n) for n in range(len(tiff.pages))]
            first = self.chain[0]
            children = [[child.aspage() for child in page.pages or ()] for page in self.chain]
            self.planes = [[page, *below] for page, below in zip(self.chain, children, strict=True) if below]
            if not self.planes:
                tiled = [page for page in self.chain if page.is_tiled]
                alone = tiff.is_ome  # one level, each directory a plane
                self.planes = [[page] for page in tiled] if alone else [tiled]
            self.children = first.tags.get("SubIFDs")
            self.copies = [page for page in self.chain[1:] if tiff.is_ome and page.is_reduced]
        self.wide = 8 if self.big else 4

    def any_level(self, made: Made) -> tuple[int, Any]:
        """A level, and the page of one of its planes."""
        pages = made.chance.choice(self.planes)
        level = made.chance.randrange(len(pages))
        return level, pages[level]

    def put(self, place: int, value: int, size: int) -> None:
        self.data[place : place + size] = value.to_bytes(size, "little")

    def put_entry(self, page: Any, name: str, index: int, value: int) -> None:
        """Set one number of a table."""
        tag = page.tags[name]
        size = struct.calcsize("<" + _FORMATS[int(tag.dtype)])
        self.put(tag.valueoffset + index * size, value, size)

    def put_count(self, tag: Any, value: int) -> None:
        """Set how many values a tag has."""
        self.put(tag.offset + 4, value, self.wide)

    def link(self, page: Any) -> int:
        """Where a directory says where the next one is."""
        return int(page.offset) + (8 + 20 * len(page.tags) if self.big else 2 + 12 * len(page.tags))

    def put_segment(self, page: Any, index: int, place: int, count: int) -> None:
        self.put_entry(page, "TileOffsets", index, place)
        self.put_entry(page, "TileByteCounts", index, count)

    def without_pixels(self, page: Any) -> str:
        """What `verify` must say where only pixels are others. Short tables lie inside a directory, where a copy of it
        has the old ones.
        """
        copied = any(page.imagewidth == copy.imagewidth for copy in self.copies)
        return MAY if copied and len(page.dataoffsets) <= 2 else MUST_NOT

    def save(self) -> None:
        self.path.write_bytes(self.data)


def any_segment(made: Made) -> tuple[Tiff, int, Any, int]:
    tiff = Tiff(made.path)
    level, page = tiff.any_level(made)
    return tiff, level, page, made.chance.randrange(len(page.dataoffsets))


def exchange_segments(made: Made) -> str | None:
    tiff, _, page, one = any_segment(made)
    other = made.chance.randrange(len(page.dataoffsets))
    places = [(page.dataoffsets[n], page.databytecounts[n]) for n in (other, one)]
    for index, place in zip((one, other), places, strict=True):
        tiff.put_segment(page, index, *place)
    tiff.save()
    return tiff.without_pixels(page)


def same_segment_twice(made: Made) -> str | None:
    tiff, _, page, one = any_segment(made)
    other = made.chance.randrange(len(page.dataoffsets))
    tiff.put_segment(page, one, page.dataoffsets[other], page.databytecounts[other])
    tiff.save()
    return None if one == other else MAY if made.form == "archive" else MUST


def strange_pixels(made: Made) -> str | None:
    """A segment, or all of a level, of another image that is encoded alike."""
    tiff, other = Tiff(made.path), Tiff(made.stranger())
    plane = made.chance.randrange(len(tiff.planes))
    level = made.chance.randrange(len(tiff.planes[plane]))
    page, its = tiff.planes[plane][level], other.planes[plane][level]
    number = len(page.dataoffsets)
    for index in range(number) if made.chance.random() < 0.5 else [made.chance.randrange(number)]:
        start, count = its.dataoffsets[index], its.databytecounts[index]
        tiff.put_segment(page, index, len(tiff.data), count)
        tiff.data += other.data[start : start + count]
    tiff.save()
    return MAY if made.form == "kept" else tiff.without_pixels(page)  # the tiles of one are its source's, byte for byte


def damage(made: Made, how: str) -> str | None:
    tiff, level, page, index = any_segment(made)
    start, count = page.dataoffsets[index], page.databytecounts[index]
    codec = "jpeg" if made.form == "kept" and not level else made.options.get("compression", "jpeg")
    verdict = MUST if codec not in _LOOSE else MAY
    if how == "cut":
        tiff.put_entry(page, "TileByteCounts", index, count // 2)
        verdict = MUST if codec == "none" else verdict
    elif how == "zero":
        tiff.data[start : start + count] = bytes(count)
    else:
        bit = made.chance.randrange(8 * count)
        tiff.data[start + bit // 8] ^= 1 << bit % 8
        verdict = MUST_NOT if codec == "none" else MAY
    tiff.save()
    return MUST if made.form == "archive" and how != "cut" else verdict


def wrong_table(made: Made) -> str | None:
    tiff, _, page, index = any_segment(made)
    start, count, size = page.dataoffsets[index], page.databytecounts[index], len(tiff.data)
    what = made.chance.choice(("no bytes", "outside", "long", "one more"))
    if what == "no bytes":
        tiff.put_entry(page, "TileByteCounts", index, 0)
    elif what == "outside":
        tiff.put_entry(page, "TileOffsets", index, size - count + 1 + made.chance.randrange(1000))
    elif what == "long":
        tiff.put_entry(page, "TileByteCounts", index, min(size - start + 1, (1 << 32) - 1))
    else:
        tiff.put_entry(page, "TileOffsets", index, start + 1)
    if int(page.tags["TileByteCounts"].dtype) == 3 and what == "long":
        return None
    tiff.save()
    return MAY if what == "one more" or made.form == "archive" or (what == "no bytes" and made.form == "kept") else MUST


def drop_level(made: Made) -> str | None:
    """Take levels out of the chain, or out of the list of the first plane's."""
    tiff = Tiff(made.path)
    if len(tiff.planes[0]) < 2 or made.form == "archive":
        return None
    level = made.chance.randrange(1, len(tiff.planes[0]))
    if tiff.children is None:
        before, page = tiff.planes[0][level - 1], tiff.planes[0][level]
        link, following = tiff.link(before), tiff.data[tiff.link(page) :][: tiff.wide]
        if made.form == "aperio" and level == 1:
            link = tiff.link(tiff.chain[1])  # its thumbnail comes between
        tiff.data[link : link + tiff.wide] = following if made.chance.random() < 0.5 else bytes(tiff.wide)
    else:
        tops = [plane[0] for plane in tiff.planes]
        for page in made.chance.sample(tops, made.chance.randrange(1, len(tops) + 1)):
            tag = page.tags.get("SubIFDs")
            if tag is not None:
                places = [place for number, place in enumerate(tag.value, 1) if number != level]
                tiff.put_count(tag, len(places))
                into = tag.valueoffset if len(places) != 1 else tag.offset + 4 + tiff.wide
                for number, place in enumerate(places):
                    tiff.put(into + number * tiff.wide, place, tiff.wide)
                if not places:
                    return None
    tiff.save()
    return MUST


def exchange_levels(made: Made) -> str | None:
    tiff = Tiff(made.path)
    if len(tiff.planes[0]) < 2 or made.form == "archive":
        return None
    one, other = made.chance.sample(tiff.planes[0], 2)
    for name in ("ImageWidth", "ImageLength"):
        for page, its in ((one, other), (other, one)):
            tiff.put_entry(page, name, 0, its.tags[name].value)
    tiff.save()
    return MUST


def wrong_size(made: Made) -> str | None:
    """The size that a level's directory says."""
    tiff = Tiff(made.path)
    level, page = tiff.any_level(made)
    name = made.chance.choice(("ImageWidth", "ImageLength"))
    size = page.tags[name].value
    tiff.put_entry(page, name, 0, made.chance.choice((size + 1, size - 1, size * 2, 0, size + 64)))
    tiff.save()
    halves = size >> 1 if level == 0 else None
    return MAY if halves is not None or made.form == "archive" else MUST


def cut_chain_of_copies(made: Made) -> str | None:
    """The copies of the levels: one is left out, or another number in one of its tags."""
    tiff = Tiff(made.path)
    if not tiff.copies or made.form == "archive":
        return None
    page = made.chance.choice(tiff.copies)
    if made.chance.random() < 0.3:
        before = tiff.chain[tiff.chain.index(page) - 1]
        tiff.put(tiff.link(before), 0, tiff.wide)
        tiff.save()
        return MAY if page is tiff.copies[0] else MUST  # without any it is as with strict
    tag = made.chance.choice([tag for tag in page.tags if tag.code not in (330,)])
    place = tag.offset + 4 + tiff.wide
    tiff.data[place] ^= 1 << made.chance.randrange(8)
    tiff.save()
    return MUST


def wrong_resolution(made: Made) -> str | None:
    tiff = Tiff(made.path)
    _, page = tiff.any_level(made)
    tag = page.tags.get("XResolution")
    if tag is None:
        return None
    tiff.put(tag.valueoffset, 12345, 4)
    tiff.save()
    return MAY if tiff.copies else MUST_NOT


def wrong_encoding(made: Made) -> str | None:
    """A tag of one level that says how it is encoded."""
    tiff = Tiff(made.path)
    level, page = tiff.any_level(made)
    names = ("Compression", "PhotometricInterpretation", "Predictor", "BitsPerSample", "SamplesPerPixel")
    tag = page.tags.get(made.chance.choice(names))
    if tag is None or tag.count != 1:
        return None
    tiff.put(tag.valueoffset, made.chance.choice([n for n in (1, 2, 3, 5, 6, 8, 32773) if n != tag.value]), 2)
    tiff.save()
    alone = len(tiff.planes) * len(tiff.planes[0]) == 1 or made.form == "archive"
    return MAY if alone or (made.form == "kept" and not level) or len(tiff.planes[0]) == 2 else MUST


def damage_beside(made: Made) -> str | None:
    """The one strip of a thumbnail ends in the middle."""
    tiff = Tiff(made.path)
    beside = [page for page in tiff.chain if not page.is_tiled]
    if not beside or made.form == "archive":
        return None
    start, count = beside[0].dataoffsets[0], beside[0].databytecounts[0]
    tiff.data[start + count // 2 : start + count] = bytes(count - count // 2)
    tiff.save()
    return MUST


def cut_chain(made: Made) -> str | None:
    """All that comes after a directory is lost."""
    tiff = Tiff(made.path)
    if len(tiff.chain) < 2 or made.form == "archive":
        return None
    number = made.chance.randrange(len(tiff.chain) - 1)
    tiff.put(tiff.link(tiff.chain[number]), 0, tiff.wide)
    tiff.save()
    lost = tiff.chain[number + 1 :]
    return MAY if all(not page.is_tiled for page in lost) or lost == tiff.copies else MUST


def cut_profile(made: Made) -> str | None:
    tiff = Tiff(made.path)
    tag = tiff.planes[0][0].tags.get("InterColorProfile")
    if tag is None:
        return None
    tiff.put_count(tag, tag.count // 2)
    tiff.save()
    return MUST_NOT


def flip_in_directories(made: Made) -> str | None:
    """One bit of anything that is no segment."""
    tiff = Tiff(made.path)
    pages = [page for level in tiff.planes for page in level] + [page for page in tiff.chain if not page.is_tiled]
    inside = bytearray(len(tiff.data))
    for page in pages:
        for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            inside[start : start + count] = b"\1" * count
    free = [n for n, taken in enumerate(inside) if not taken]
    tiff.data[made.chance.choice(free)] ^= 1 << made.chance.randrange(8)
    tiff.save()
    return MAY


def wrong_xml(made: Made) -> str | None:
    """Another size or number of planes in the OME-XML."""
    data = made.path.read_bytes()
    name = made.chance.choice((b"SizeX", b"SizeY", b"SizeC", b"SizeZ", b"Type"))
    place = data.find(b" " + name + b'="') + len(name) + 3
    if not made.form.startswith("ome") or place < len(name) + 3:
        return None
    other = b"%d" % made.chance.choice([n for n in range(1, 10) if data[place : place + 1] != b"%d" % n])
    made.path.write_bytes(data[:place] + other + data[place + 1 :])
    return MUST


def cut_file(made: Made) -> str | None:
    size = made.path.stat().st_size
    with made.path.open("r+b") as file:
        file.truncate(made.chance.choice((size - 16 - made.chance.randrange(100), made.chance.randrange(size - 16))))
    return MUST


def more_bytes(made: Made) -> str | None:
    with made.path.open("ab") as file:
        file.write(bytes(made.chance.randrange(1, 1000)))
    return MUST_NOT


TIFF_CHANGES = {
    "exchange segments": exchange_segments,
    "same segment twice": same_segment_twice,
    "strange pixels": strange_pixels,
    "cut segment": lambda made: damage(made, "cut"),
    "zero segment": lambda made: damage(made, "zero"),
    "flip a bit of a segment": lambda made: damage(made, "flip"),
    "wrong table": wrong_table,
    "drop level": drop_level,
    "drop level again": drop_level,
    "exchange levels": exchange_levels,
    "wrong size": wrong_size,
    "copies": cut_chain_of_copies,
    "wrong resolution": wrong_resolution,
    "wrong encoding": wrong_encoding,
    "damage beside": damage_beside,
    "cut chain": cut_chain,
    "cut profile": cut_profile,
    "flip in directories": flip_in_directories,
    "wrong xml": wrong_xml,
    "cut file": cut_file,
    "more bytes": more_bytes,
}
