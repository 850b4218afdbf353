"""Which images of a TIFF are levels, which lie beside them, and of which pages an image is made: decided here alone.

tifffile knows the vendors' layouts; elsewhere NewSubfileType says what is a level, and sizes where nothing says it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slidewright.errors import OptionError, SourceError, VerifyError, numbered
from slidewright.geometry import SINGLE, Stack
from slidewright.pixels import MAX_CHANNELS
from slidewright.selection import Selection
from slidewright.tiff.page import Page, read_page

VENDORS = ("svs", "ome", "ndpi", "scn", "philips", "bif", "qpi")
"""Kinds of file whose levels tifffile knows better than NewSubfileType."""
_OURS = {"ome": "<?xml", "svs": "Aperio Image Library (slidewright"}
"""How the description begins where slidewright itself wrote a vendor's kind of file."""
ASSOCIATED = frozenset(("thumbnail", "label", "macro"))
"""Names by which images beside the levels are known, where no vendor's layout names them."""
_NO_IMAGE = 1 | 4  # NewSubfileType: a reduced copy, a mask of what is transparent
_MAX_PLANES = 1 << 22
_PLACES = ("IFD", "FirstC", "FirstT", "FirstZ")
"""That an OME-XML may speak of in all: tifffile makes a list of those of each image, whatever is in the file."""
_AS_THEY_ARE = (("minisblack", 1), ("miniswhite", 1), ("rgb", 3))
"""(photometric, samples) of images of which many may lie behind one page, and are read without a page for each."""
_WAYS_UP = 8
_MANY = 2048
"""Directories from which on their number tells in tifffile's time, which grows with its square."""
_FILE_NAME = re.compile(r'FileName="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Image:
    """What makes one image or stack: a page a frame and channel, or the places of those that have no pages."""

    pages: tuple[Page, ...]
    channels: int | None = None
    """How many channels are stored as images of their own."""
    offsets: tuple[int, ...] | None = None
    """Byte of the first pixel of each page that is not there, where all lie uncompressed in the file."""
    stack: Stack = SINGLE

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, samples) of a frame."""
        return (*self.pages[0].size, self.channels or self.pages[0].samples)


def is_ours(tiff: Any) -> bool:
    """Whether slidewright says it wrote the file."""
    return str(tiff.pages.first.software or "").startswith("slidewright")


def vendor(tiff: Any) -> str:
    """One of `VENDORS`, or ""; a description that slidewright kept may look like a vendor's."""
    kind = next((kind for kind in VENDORS if getattr(tiff, f"is_{kind}")), "")
    if not is_ours(tiff):
        return kind
    return kind if str(tiff.pages.first.description).startswith(_OURS.get(kind, "\0")) else ""


def prepare(tiff: Any, directories: int) -> None:
    """Have each page parsed once, however often it is asked for, and many of them grouped in linear time: tifffile
    compares each page with all that are alike, and each kind with all others.
    """
    tiff.pages.cache = True
    below = tiff.pages.first.pages if len(tiff.pages) else None
    if below is not None:
        below.cache = True
    if directories > _MANY:
        tiff._series_generic = lambda: _grouped(tiff)


def _grouped(tiff: Any) -> list[Any]:
    """As tifffile groups pages of which nothing says what they are, but for what only sizes tell to be levels."""
    from tifffile import TiffPageSeries

    groups: dict[int, dict[int, Any]] = {}
    for page in main_pages(tiff):
        for each in (page, *(page.pages or ())):
            if each.shape:
                groups.setdefault(each.hash, {}).setdefault(each.offset, each)
    found = []
    for pages in map(list, map(dict.values, groups.values())):
        first = pages[0]
        found.append(TiffPageSeries(pages, (len(pages), *first.shape), first.dtype, "I" + first.axes, kind="generic"))
    return found


def check_planes(tiff: Any, path: str) -> None:
    """Refuse an OME-XML of more planes than anybody has, also by what tifffile makes of the other numbers in it: it
    would count them for hours, or fill the memory. And one whose places are below 0, which tifffile would count from
    the end.
    """
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(str(tiff.ome_metadata or ""))
    except ElementTree.ParseError:
        return
    planes = 0.0
    for element in root.iter():
        kind = element.tag.rpartition("}")[2]
        if kind == "Pixels":
            planes += max(0, math.prod(int(element.get(f"Size{axis}", 1)) for axis in "CZT"))
            planes += _pages_due(tiff, element)
        elif kind.startswith("ModuloAlong") and "Start" in element.attrib:
            first, last, step = (float(element.get(name, 1)) for name in ("Start", "End", "Step"))
            planes += abs((last - first) / step)
        elif kind == "TiffData":
            alone = 1 if "IFD" in element.attrib else len(tiff.pages)  # which tifffile looks through then
            planes += max(0, int(element.get("PlaneCount", element.get("NumPlanes", 0)))) or alone
            below = [name for name in _PLACES if int(element.get(name, 0)) < 0]
            if below:
                raise VerifyError(f"{path}: its OME-XML has a plane whose {below[0]} is below 0; the file is damaged")
    if not planes <= _MAX_PLANES:
        raise VerifyError(f"{path}: its OME-XML speaks of {planes:.3g} planes; the file is damaged")


def _pages_due(tiff: Any, pixels: Any) -> int:
    """How many pages tifffile expects of an image: its samples, by those of its page."""
    due = math.prod(max(0, int(pixels.get(f"Size{axis}", 1))) for axis in "XYCZT")
    if due // max(1, tiff.pages.first.size) <= _MAX_PLANES:
        return 0
    place = next((int(one.get("IFD", 0)) for one in pixels if one.tag.endswith("TiffData")), 0)
    return int(due // max(1, tiff.pages[place].size)) if place < len(tiff.pages) else 0


def levels_of(tiff: Any, series: int) -> list[Any]:
    """The levels of a series, largest first: each a `tifffile.TiffPageSeries`, or the one `TiffPage` of it."""
    first = tiff.pages.first
    found = list(tiff.series[series].levels) if len(tiff.series) > series else [first]
    if vendor(tiff) or series:
        return found
    reduced = [page for page in all_pages(tiff)[1:] if _is_reduced(page, first)]
    if is_ours(tiff):
        return [first, *reduced]
    return [found[0], *reduced] if reduced and _is_single(found[0]) else found


def channels_of(level: Any) -> list[Any]:
    """The pages of a level beyond its first: those of other channels, or planes of a stack."""
    from tifffile import TiffPage

    if isinstance(level, TiffPage):
        return []
    return [_whole(page) for page in list(level.pages)[1:] if page is not None]


def default_series(tiff: Any) -> int:
    """The series whose image is the largest, the first of those that are; of a file of ours the first."""
    if is_ours(tiff):
        return 0
    areas = [one.keyframe.imagelength * one.keyframe.imagewidth for one in tiff.series]
    return areas.index(max(areas)) if areas else 0


def other_images(tiff: Any) -> list[int]:
    """The series that are images as the default one is: no level or copy of it, no mask, nothing named as what lies
    beside a slide.
    """
    if vendor(tiff) not in ("", "ome", "scn") or len(tiff.series) < 2:
        return []
    default = default_series(tiff)
    levels = [level.keyframe for level in levels_of(tiff, default)]
    taken = {page.offset for page in levels} | {tuple(page.dataoffsets[:1]) for page in levels}
    found = []
    for number, page in enumerate(one.keyframe for one in tiff.series):
        copy = {page.offset, tuple(page.dataoffsets[:1])} & taken or page.subfiletype & _NO_IMAGE
        name = _other_name(page, number, {page.offset: str(tiff.series[number].name)} if vendor(tiff) else {})
        if number != default and not copy and name not in ASSOCIATED:
            found.append(number)
    return found


def owner_of(tiff: Any, page: Any) -> tuple[int, Any]:
    """The series that a page is of, and the first page of its largest level, which says of all levels what they are;
    -1 and the page itself where it is of none. A directory may be there twice, as those of our OME-TIFF's levels.
    """
    pixels = tuple(page.dataoffsets[:1])
    for number, series in enumerate(tiff.series):
        pages = [each for level in series.levels for each in level.pages if each is not None]
        if any(each.offset == page.offset for each in pages):
            return number, series.keyframe
        if any(pixels) and is_ours(tiff) and any(tuple(each.dataoffsets[:1]) == pixels for each in pages):
            return number, series.keyframe
    return -1, page


def described_in(tiff: Any, series: int) -> int:
    """The number of the Image in an OME-XML that describes a series; -1 where that is not to be told. tifffile leaves
    out Images that have no pixels in the file.
    """
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(str(tiff.ome_metadata or ""))
    except ElementTree.ParseError:
        return series
    images = [one for one in root if one.tag.rpartition("}")[2] == "Image"]
    if len(images) == len(tiff.series):
        return series
    pixels = [next((each for each in one if each.tag.endswith("Pixels")), one) for one in images]
    known = [(one.get("Name", ""), px.get("SizeY"), px.get("SizeX")) for one, px in zip(images, pixels, strict=True)]
    shown = [(str(s.name or ""), str(s.keyframe.imagelength), str(s.keyframe.imagewidth)) for s in tiff.series]
    if not 0 <= series < len(shown) or known.count(shown[series]) != shown.count(shown[series]):
        return -1
    places = [number for number, one in enumerate(known) if one == shown[series]]
    return places[shown[:series].count(shown[series])]


def image_of(tiff: Any, path: str, selection: Selection) -> Image:
    """The pages of a level; raises OptionError when there is none, SourceError when they are no single image."""
    from tifffile import TiffPage

    series, level = selection.series or 0, selection.level or 0
    pick(tiff.series, series, "series", path)
    xml = tiff.ome_metadata or "" if tiff.is_ome else ""  # of which <BinaryOnly> says that another file has it
    if len(set(_FILE_NAME.findall(xml))) > 1 or _names_others(xml) or "<BinaryOnly" in xml:
        raise SourceError(
            f"{path} is one of several files of an OME-TIFF; choose an image of this file with page, or write all to "
            "one first, such as tifffile.imwrite(new, tifffile.imread(path), ome=True, metadata={'axes': 'CYX'})"
        )
    chosen = pick(levels_of(tiff, series), level, "level", path)
    which = f"level {level} of series {series}"
    if isinstance(chosen, TiffPage):
        _places(path, which, {}, selection)
        return Image((read_page(chosen),))
    first = next((item for item in chosen.pages if item is not None), None)
    if first is None:
        raise SourceError(f"{path}: {which} has no image")
    first = first.aspage()
    if _is_single(chosen):
        images = int((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1
        held = len(tiff.pages) * int(first.samplesperpixel)  # Bio-Formats counts the channels of one page
        if images > 1 and images > held:  # tifffile only logs that, and shows the first
            raise SourceError(f"{path}: ImageJ put {images} images into it, and it has not all; copy the file again")
        _places(path, which, {}, selection)
        return Image((read_page(first),))
    depth = len(chosen.axes) - first.ndim
    lengths = _implied(tiff, series, chosen)
    axes, depth = "".join(lengths), len(lengths) or depth
    if not lengths:
        axes = _named(str(chosen.axes[:depth]))
        lengths = dict(zip(axes, map(int, chosen.shape[:depth]), strict=True))
    if math.prod(lengths.values()) > _MAX_PLANES:
        raise SourceError(f"{path}: {which} claims a shape of {chosen.shape}; the file is damaged, copy it again")
    places = _places(path, which, lengths, selection)
    left = [axis for axis, length in lengths.items() if length > 1 and axis not in places]
    if left not in ([], ["C"]):
        choices = [f"{axis.lower()}, 0 to {lengths[axis] - 1}" for axis in left if axis in "ZT"]
        known = bool(choices) and {*left} <= {*"ZTC"}
        remedy = f"{' and with '.join(choices)}, or keep all" if known else f"page, 0 to {len(tiff.pages) - 1}"
        raise SourceError(
            f"{path}: {which} is a stack of images (axes {chosen.axes}, shape {chosen.shape}); choose one with {remedy}"
        )
    numbers = np.arange(math.prod(lengths.values())).reshape(tuple(lengths.values()))
    kept = numbers[np.ix_(*(places.get(axis, range(length)) for axis, length in lengths.items()))]
    order = [axes.index(axis) for axis in "TZC" if axis in axes]
    rest = [number for number in range(depth) if number not in order]  # of one
    kept = kept.transpose([*rest, *order])
    stack = Stack(*(len(places[axis]) if axis in places else 1 for axis in "TZ"))
    return _pages_of(tiff, path, which, chosen, first, kept.ravel().tolist(), stack, bool(left))


def _names_others(xml: str) -> bool:
    """Whether some of the planes that an OME-XML speaks of are in this file and some in another, by their UUIDs."""
    if "UUID>" not in xml:
        return False
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return False
    planes = [element for element in root.iter() if element.tag.endswith("TiffData")]
    inside = [next((one.text for one in element if one.tag.endswith("UUID")), None) for element in planes]
    return len({str(uuid or root.get("UUID")).strip() for uuid in inside}) > 1


def _implied(tiff: Any, series: int, level: Any) -> dict[str, int]:
    """The axes of a stack in an OME-TIFF whose XML does not say of any plane where it is, and how long they are: pages
    are in DimensionOrder then, as libvips writes them. Nothing where the XML has been told of other pages.
    """
    from xml.etree import ElementTree

    first = tiff.series[series].keyframe
    if not tiff.is_ome or level.kind != "generic":  # tifffile makes something of the others
        return {}
    try:
        root = ElementTree.fromstring(str(tiff.ome_metadata))
        (said,) = (one for one in root.iter() if one.tag.rpartition("}")[2] == "Pixels")
        sizes = {axis: int(said.get(f"Size{axis}", 0)) for axis in "XYZCT"}
    except (ElementTree.ParseError, ValueError):
        return {}
    sizes["C"] //= int(first.samplesperpixel)
    order, kind = said.get("DimensionOrder", ""), said.get("Type", "")
    told = any(one.tag.rpartition("}")[2] in ("TiffData", "BinData", "MetadataOnly") for one in said)
    if told or sorted(order) != sorted(sizes) or {"float": "float32"}.get(kind, kind) != str(first.dtype):
        return {}
    lengths = {axis: sizes[axis] for axis in reversed(order.removeprefix("XY"))}
    pages = math.prod(level.shape[: len(level.axes) - first.ndim])
    fits = (sizes["X"], sizes["Y"], math.prod(lengths.values())) == (first.imagewidth, first.imagelength, pages)
    return lengths if fits and len(lengths) == 3 else {}


def _named(axes: str) -> str:
    """Axes of a stack; pages of which nothing says what they are count as planes along z."""
    unnamed = [axis for axis in axes if axis in "IQ"]
    return axes.replace(unnamed[0], "Z") if len(unnamed) == 1 and "Z" not in axes else axes


def _places(path: str, which: str, lengths: Mapping[str, int], selection: Selection) -> dict[str, range]:
    """The planes and times that were chosen; raises OptionError for one that there is not."""
    found = {axis: selection.places(axis.lower(), lengths.get(axis, 1), f"{path}: {which}") for axis in "ZT"}
    return {axis: places for axis, places in found.items() if places is not None and axis in lengths}


def _pages_of(
    tiff: Any, path: str, which: str, chosen: Any, first: Any, numbers: list[int], stack: Stack, channels: bool
) -> Image:
    """One image of a stack or several, or one for each channel: the pages of these numbers."""
    count = len(numbers) // stack.frames
    if count > MAX_CHANNELS:
        raise SourceError(f"{path}: {which} has {count} channels, and {MAX_CHANNELS} at most can be converted")
    pages, page = list(chosen.pages), read_page(first)
    whole_bytes = page.compression == "none" and page.predictor == 1 and page.bits == 8 * page.dtype.itemsize
    if len(pages) == 1 and chosen.dataoffset is not None and whole_bytes and page.contiguous:  # ImageJ's large files
        image_bytes = page.size.height * page.size.width * page.samples * page.dtype.itemsize
        offsets = tuple(int(chosen.dataoffset) + number * image_bytes for number in numbers)
        if max(offsets) + image_bytes > tiff.filehandle.size:
            raise SourceError(f"{path}: {len(numbers)} images do not fit in the file; it is cut short, copy it again")
        if page.planes == 1 and page.raw_order is not None and (page.photometric, page.samples) in _AS_THEY_ARE:
            return Image((page,), count if channels else None, offsets, stack)
        pages = [
            replace(page, name=f"image {number}", offsets=page.offsets + number * image_bytes) for number in numbers
        ]
        return Image(tuple(pages), count if channels else None, None, stack)
    if max(numbers) >= len(pages) or any(pages[number] is None for number in numbers):
        raise SourceError(f"{path}: {which} has {len(numbers)} images, but not a page for each; the file is damaged")
    if len(numbers) == 1:
        return Image((read_page(pages[numbers[0]].aspage()),))
    alone = channels and stack.frames == 1
    names = (f"channel {place}" if alone else _numbered(pages[number], place) for place, number in enumerate(numbers))
    whole = tuple(read_page(_whole(pages[number]), name) for number, name in zip(numbers, names, strict=True))
    if any((p.size, p.cell, p.tiled, p.dtype) != (page.size, page.cell, page.tiled, page.dtype) for p in whole):
        raise SourceError(f"{path}: the images of {which} differ in size, tiles or dtype; choose one with page")
    if any(_shown_as(each, count > 1) != _shown_as(page, count > 1) for each in whole):
        raise SourceError(
            f"{path}: the images of {which} differ in what their numbers mean (colours, palette, alpha, planes) or in "
            "which way is up; choose one with page"
        )
    return Image(whole, count if channels else None, None, stack)


def _shown_as(page: Page, is_channel: bool) -> tuple[Any, ...]:
    """What turns decoded samples into what is shown, which is taken from the first of several pages; the palette of a
    channel is not.
    """
    same = {("palette", is_channel): "minisblack", ("ycbcr", page.is_jpeg): "rgb"}  # as they are read
    colours = same.get((page.photometric, True), page.photometric)
    bits = page.bits if page.bits < 8 or colours == "miniswhite" else 0
    palette = page.colormap if colours == "palette" else None
    more = (page.luma, page.reference) if colours == "ycbcr" else palette
    way = page.orientation if 1 < page.orientation <= _WAYS_UP else 1
    return colours, bits, page.samples, page.planes, page.premultiplied, page.has_alpha, way, more


def _numbered(page: Any, place: int) -> str:
    """What to call a page of a stack: by the number that chooses it alone, which one of a SubIFD has not."""
    return f"page {page.index}" if len(page.treeindex) == 1 else f"image {place}"


def pick(items: Any, index: int, what: str, path: str) -> Any:
    """One of several, by its number; an OptionError says how many there are."""
    count = len(items)
    if not 0 <= index < count:
        raise OptionError(f"{path} has no {what} {index}; {numbered(count)}" if count else f"{path} has no {what}")
    return items[index]


def other_pages(tiff: Any) -> tuple[list[Page], frozenset[str]]:
    """The images beside the levels of the largest series, and the names that the vendor's layout gives some of them."""
    levels = levels_of(tiff, default_series(tiff))
    taken = {level.keyframe.offset for level in levels}
    named: dict[int, str] = {}
    if vendor(tiff) and tiff.series:
        taken |= {page.offset for level in levels for page in level.pages if page is not None}
        named = {one.keyframe.offset: str(one.name) for one in tiff.series}
    segments = {tuple(level.keyframe.dataoffsets[:1]) for level in levels}  # a directory may be there twice
    others = [
        (number, page)
        for number, page in enumerate(all_pages(tiff))
        if page.offset not in taken and tuple(page.dataoffsets[:1]) not in segments
    ]
    pages = [read_page(page, _other_name(page, number, named)) for number, page in others]
    names = {page.name for page in pages if named.get(page.page.offset)}
    return pages, frozenset(name for name in names if not name.startswith("page "))


def main_pages(tiff: Any) -> list[Any]:
    """Every page of the main chain, whole: of some series tifffile has but the places of their pixels."""
    return [tiff.pages.get(number) for number in range(len(tiff.pages))]


def all_pages(tiff: Any) -> list[Any]:
    """Every page of the main chain, and the SubIFDs of the first after it."""
    pages = main_pages(tiff)
    children = tiff.pages.first.pages
    return pages[:1] + ([children[n].aspage() for n in range(len(children))] if children else []) + pages[1:]


def _whole(page: Any) -> Any:
    """The page of a frame, which knows only where its pixels are; of one below another page its index may be any."""
    pages, index = page.parent.pages, page.index
    found = pages.get(index) if isinstance(index, int) and index < len(pages) else None
    return found if found is not None and found.offset == page.offset else page.aspage()


def _is_single(level: Any) -> bool:
    """Whether a level of a series is one page, not a stack of them."""
    return int(np.prod(level.shape, dtype=object)) == int(np.prod(level.keyframe.shape, dtype=object))


def _is_reduced(page: Any, first: Any) -> bool:
    """Whether a page is a smaller version of the first: TIFF 6.0's NewSubfileType bit 0 says it, or that it is a SubIFD
    of it, and its pixels are of the same kind.
    """
    return bool(
        (page.subfiletype & 1 or page.is_subifd)
        and page.is_tiled
        and page.dtype == first.dtype
        and page.samplesperpixel == first.samplesperpixel
        and not page.subfiletype & 4
        and page.imagelength <= first.imagelength
        and page.imagewidth <= first.imagewidth
    )


def _other_name(page: Any, number: int, names: dict[int, str]) -> str:
    name = names.get(page.offset, "")
    if not name:
        name = str(page.description or "").splitlines()[0][:40] if page.description else ""
    name = name.removesuffix(" image")  # as Bio-Formats names them
    return name.lower() if name.isascii() and name.replace(" ", "").isalnum() else f"page {number}"
