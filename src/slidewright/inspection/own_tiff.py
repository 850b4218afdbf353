"""What a TIFF of slidewright must be beyond what any TIFF must: no level is lost to whose directory no other leads any
more, copies of levels are copies, and an OME-XML says the sizes that the directories say.
"""

from __future__ import annotations

import itertools
import math
from xml.etree import ElementTree

import numpy as np

from slidewright.errors import VerifyError
from slidewright.geometry import Size
from slidewright.tiff.archive import is_archive
from slidewright.tiff.series import ASSOCIATED
from slidewright.tiff.slide import TiffSlide

_WIDTH, _HEIGHT, _LONG = 256, 257, 4
_STEP = 1 << 20


def check_own(slide: TiffSlide) -> None:
    """Raise a VerifyError for a file of slidewright that it would not have written so.

    Nothing in a plain TIFF says how many levels it has. But where the chain of its directories is cut, the directory of
    the next level is still there: it is looked for in the bytes that are no segment's.
    """
    for page in slide.others:
        if page.name not in ASSOCIATED:
            raise VerifyError(
                f"{slide.path}: {page.name} is neither a level nor a copy of one, nor an image beside them; the file "
                "is damaged, write it again"
            )
    copies, levels = slide.copies
    if copies and copies != levels:
        raise VerifyError(
            f"{slide.path}: the copies of the levels at its end, which OpenSlide reads, differ from the levels; the "
            "file is damaged, write it again"
        )
    if is_archive(slide):  # of which each image may be JPEG XL, or as it was, and which has the directories twice
        return
    made = [page for level in slide.planes[slide.kept :] for page in level]
    for page in made:
        if page.encoding != made[0].encoding:
            raise VerifyError(
                f"{slide.path}: by its tags {page.name} is encoded otherwise than {made[0].name}; the file is damaged, "
                "write it again"
            )
    last = slide.levels[-1].size
    lost = last.halved(1)
    alike = sum(page.size == lost for page in slide.others)  # such as a thumbnail
    if lost != last and _directories_of(slide, lost) > alike:
        raise VerifyError(
            f"{slide.path}: a level of {lost} is in the file, but the directories of its {len(slide.levels)} levels do "
            "not lead to it; the file is damaged, write it again"
        )


def check_xml(slide: TiffSlide) -> None:
    """Hold the first image of an OME-XML against the directories: most readers go by what it says."""
    if slide.vendor != "ome":
        return
    first, kinds = slide.levels[0], {"float32": "float"}
    try:
        pixels = ElementTree.fromstring(slide.description).find("{*}Image/{*}Pixels")
    except ElementTree.ParseError as error:
        raise VerifyError(f"{slide.path}: its OME-XML is no XML ({error}); copy the file again") from error
    said = {} if pixels is None else pixels.attrib
    kind = "bit" if first.bits == 1 else kinds.get(first.dtype.name, first.dtype.name)
    found = {"SizeX": first.size.width, "SizeY": first.size.height, "Type": kind}
    wrong = [f"{name} is {said.get(name)}, not {true}" for name, true in found.items() if said.get(name) != str(true)]
    planes, held = [said.get(f"Size{axis}", "none") for axis in "CZT"], len(slide.planes[0]) * first.samples
    if not all(map(str.isdecimal, planes)) or math.prod(map(int, planes)) != held:
        wrong.append(f"SizeC, SizeZ and SizeT are {', '.join(planes)}, and there are {held} channels and planes in all")
    if wrong:
        raise VerifyError(f"{slide.path}: its OME-XML is wrong: {wrong[0]}; the file is damaged, write it again")


def _directories_of(slide: TiffSlide, size: Size) -> int:
    """How many directories of images of a size are anywhere in the file, by their first two tags after the kind."""
    wide = 8 if slide.bigtiff else 4
    sides = ((_WIDTH, size.width), (_HEIGHT, size.height))
    fields = [((tag, 2), (_LONG, 2), (1, wide), (side, wide)) for tag, side in sides]
    wanted = b"".join(value.to_bytes(length, "little") for entry in fields for value, length in entry)
    starts = np.concatenate([page.offsets for page in slide.pages])
    ends = np.concatenate([page.offsets + page.counts for page in slide.pages])
    order = np.argsort(starts)
    starts = np.append(starts[order], slide.bytes)
    ends = np.concatenate(([0], np.maximum.accumulate(ends[order])))
    found = 0
    for gap in np.flatnonzero(starts - ends >= len(wanted)):
        for place in itertools.count(int(ends[gap]), _STEP):
            left = int(starts[gap]) - place
            if left <= 0:
                break
            found += slide.file.read(place, min(left, _STEP + len(wanted) - 1)).count(wanted)
    return found
