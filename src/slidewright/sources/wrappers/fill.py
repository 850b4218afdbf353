"""A source whose corrupt tiles are painted over (`on_corrupt="fill"`), around any other source.

Apart from the formats so that none of them has to know: a region that does not decode is read again cell by cell of the
source's own grid, and only the cells that fail are filled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from slidewright.errors import CorruptTileError
from slidewright.geometry import Region, Size
from slidewright.sources.access.unpack import WideStripsSource
from slidewright.sources.base import Pixels, Reader, Source, SourceInfo

CorruptPlace = tuple[int, int, int]
"""The corner (y, x) of a cell, and its first plane."""


@dataclass(frozen=True, slots=True)
class FillingSource:
    """Another source, with a colour for what does not decode.

    `found` is this process's record of what was filled: place to message. It is shared by the readers opened from
    this very object, and a copy in another process has its own.
    """

    source: Source
    colour: tuple[float, ...]
    found: dict[CorruptPlace, str] = field(default_factory=dict, compare=False)

    @property
    def info(self) -> SourceInfo:
        """What is known of the other source."""
        return self.source.info

    def open(self) -> FillingReader:
        """Open it in this process."""
        return FillingReader(self)


class FillingReader:
    """Reads regions; those parts that are corrupt come out in one colour."""

    def __init__(self, source: FillingSource) -> None:
        self._reader: Reader = source.source.open()
        self._found = source.found
        info = source.info
        self._colour = np.array(source.colour, info.dtype)
        self._cell = info.grid or Size(256, 256)
        self._piece: Pixels = np.empty((0, 0, info.samples), info.dtype)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`; never raises CorruptTileError."""
        try:
            return self._reader.read(y, x, height, width, out, plane)
        except CorruptTileError:
            answer = out[:height, :width]
            for cell, part in self._parts(Region(y, x, height, width)):
                self._mend((*cell, plane), part, answer[part.y - y :, part.x - x :], plane)
            return answer

    def close(self) -> None:
        """Close the other source's reader."""
        self._reader.close()

    def _mend(self, place: CorruptPlace, part: Region, target: Pixels, plane: int) -> None:
        """Read one part by itself, or fill it."""
        target = target[: part.height, : part.width]
        shape = (part.height, part.width, target.shape[2])
        if self._piece.shape[2] != shape[2] or self._piece.shape[0] < shape[0] or self._piece.shape[1] < shape[1]:
            self._piece = np.empty(shape, target.dtype)
        try:
            target[...] = self._reader.read(*part, self._piece, plane)
        except CorruptTileError as error:
            self._found[place] = str(error)
            target[...] = self._colour[plane : plane + shape[2]]

    def _parts(self, region: Region) -> Iterator[tuple[tuple[int, int], Region]]:
        """The region cut along the grid, with the corner of each part's cell."""
        tall, wide = self._cell
        bottom, right = region.y + region.height, region.x + region.width
        for top in range(region.y // tall * tall, bottom, tall):
            y0, y1 = max(top, region.y), min(top + tall, bottom)
            for left in range(region.x // wide * wide, right, wide):
                x0, x1 = max(left, region.x), min(left + wide, right)
                yield (top, left), Region(y0, x0, y1 - y0, x1 - x0)


def fill_corrupt(source: Any, colour: tuple[float, ...]) -> tuple[Any, dict[CorruptPlace, str]]:
    """A source that fills what is corrupt with a colour, a value for each of its channels, and the record of what was
    filled in this process.
    """
    if isinstance(source, WideStripsSource):  # its strips are unpacked, and so found to be corrupt, before the run
        filling = FillingSource(source.source, colour)
        return replace(source, source=filling), filling.found
    if hasattr(source, "prepare"):  # pixels in this process's memory
        return source, {}
    filling = FillingSource(source, colour)
    return filling, filling.found


def drain(found: dict[CorruptPlace, str]) -> dict[CorruptPlace, str]:
    """Take everything out of a record, which threads may share."""
    taken = {}
    with contextlib.suppress(KeyError):
        while found:
            place, text = found.popitem()
            taken[place] = text
    return taken


def describe_corrupt(found: dict[CorruptPlace, str]) -> str:
    """One line about what was filled."""
    first = found[min(found)]
    count = f"{len(found)} tiles" if len(found) > 1 else "1 tile"
    return f"{count} of the source did not decode and got the background's colour; the first: {first}"
