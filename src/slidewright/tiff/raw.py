"""Every directory of a TIFF as it is: its tags undecoded, its page, and the directories below it.

Apart from `slide.py`, which says what the directories mean; who archives a file must lay them again as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from slidewright.errors import VerifyError
from slidewright.system.pixel_file import PixelFile
from slidewright.tiff.page import Page, read_page

TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_HALVES = (5, 10)  # fractions, which are two numbers
_MAX_DEPTH = 8
RawTags = dict[int, tuple[int, int, bytes]]


@dataclass(frozen=True, eq=False, slots=True)
class RawDirectory:
    """One directory."""

    page: Page
    tags: RawTags
    """(TIFF type, how many, their bytes in little endian) by number."""
    children: tuple[RawDirectory, ...]
    """The directories that SubIFDs name."""

    def walk(self) -> Iterator[RawDirectory]:
        """This one and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def raw_directory(page: Any, file: PixelFile, depth: int = 0) -> RawDirectory:
    """The directory of a `tifffile.TiffPage`."""
    if depth > _MAX_DEPTH:
        raise VerifyError(f"{file.path}: directories lie more than {_MAX_DEPTH} below each other; this is no slide")
    swapped = page.parent.byteorder == ">"
    tags = {int(tag.code): _raw(tag, file, swapped) for tag in page.tags}
    below = page.pages if page.subifds else ()
    children = tuple(raw_directory(child.aspage(), file, depth + 1) for child in below)
    return RawDirectory(read_page(page), tags, children)


def _raw(tag: Any, file: PixelFile, swapped: bool) -> tuple[int, int, bytes]:
    kind, count = int(tag.dtype), int(tag.count)
    value = file.read(int(tag.valueoffset), TYPE_BYTES.get(kind, 1) * count)
    width = TYPE_BYTES.get(kind, 1) // (2 if kind in _HALVES else 1)
    if swapped and width > 1:
        value = np.frombuffer(value, f">u{width}").astype(f"<u{width}").tobytes()
    return kind, count, value
