"""A source whose corrupt tiles are painted over, around any other source: for `on_corrupt="fill"`, and for the levels
above tiles that are kept as they are.

Apart from the formats so that none of them has to know: a region that does not decode is read again cell by cell of the
source's own grid, and only the cells that fail are filled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from slidewright.errors import CorruptTileError
from slidewright.geometry import Region, Size
from slidewright.sources.access.unpack import WideStripsSource
from slidewright.sources.base import BLANK, Blank, CorruptPlace, Pixels, Source
from slidewright.sources.wrappers.view import ViewSource
from slidewright.sources.wrappers.wrapped import WrappedReader, WrappedSource


@dataclass(frozen=True, slots=True)
class FillingSource(WrappedSource):
    """Another source, with a colour for what does not decode; its readers say what they have filled."""

    colour: tuple[float, ...]
    hand_out: bool = False
    """Whether readers hand out encoded tiles that do not decode; else those must be made of the filled pixels."""

    def open(self) -> FillingReader:
        """Open it in this process."""
        return FillingReader(self)


class FillingReader(WrappedReader):
    """Reads regions; those parts that are corrupt come out in one colour."""

    def __init__(self, source: FillingSource) -> None:
        super().__init__(source.source.open())
        self._found: dict[CorruptPlace, str] = {}
        self._corners: set[tuple[int, int]] = set()  # of what was found: a block may have thousands
        info = source.info
        self._colour = np.array(source.colour * info.stack.frames, info.dtype)
        self._cell = info.tile or Size(256, 256)
        self._planar = info.planar
        self._hand_out = source.hand_out
        self._piece: Pixels = np.empty((0, 0, info.samples), info.dtype)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a region, see `Reader.read`; never raises CorruptTileError."""
        try:
            return self._reader.read(y, x, height, width, out, plane)
        except CorruptTileError:
            answer = out[:height, :width]
            depth = 1 if self._planar else answer.shape[2]
            for cell, part in self._parts(Region(y, x, height, width)):
                for first in range(0, answer.shape[2], depth):  # of separate channels, only the corrupt one is lost
                    target = answer[part.y - y :, part.x - x :, first : first + depth]
                    self._mend((*cell, plane + first), part, target, plane + first)
            return answer

    def segment(self, row: int, column: int, plane: int = 0) -> bytes | None:
        """See `Reader`; None for a tile that was filled since `filled` was called, unless such are handed out."""
        corner = (row * self._cell.height, column * self._cell.width)
        if not self._hand_out and corner in self._corners:
            return None
        return self._reader.segment(row, column, plane)

    def halved(self, row: int, column: int, out: Pixels) -> bool:
        """See `Reader`; never raises CorruptTileError."""
        try:
            return self._reader.halved(row, column, out)
        except CorruptTileError as error:
            self._note((row * self._cell.height, column * self._cell.width, 0), error)
            out[...] = self._colour
            return True

    def filled(self) -> dict[CorruptPlace, str]:
        """See `Reader`."""
        found, self._found, self._corners = self._found, {}, set()
        return found

    def _note(self, place: CorruptPlace, error: CorruptTileError) -> None:
        self._found[place] = str(error)
        self._corners.add(place[:2])

    def _mend(self, place: CorruptPlace, part: Region, target: Pixels, plane: int) -> None:
        """Read one part by itself, or fill it."""
        target = target[: part.height, : part.width]
        shape = (part.height, part.width, target.shape[2])
        if self._piece.shape[2] != shape[2] or self._piece.shape[0] < shape[0] or self._piece.shape[1] < shape[1]:
            self._piece = np.empty(shape, target.dtype)
        try:
            pixels = self._reader.read(*part, self._piece, plane)
            target[...] = self._colour[plane : plane + shape[2]] if pixels is BLANK else pixels
        except CorruptTileError as error:
            self._note(place, error)
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


def fill_corrupt(source: Source, colour: tuple[float, ...], *, hand_out: bool = False) -> Source:
    """A source that fills what is corrupt with a colour, a value for each of its channels."""
    if isinstance(source, WideStripsSource):  # its strips are unpacked, and so found to be corrupt, before the run
        return replace(source, source=FillingSource(source.source, colour))
    if isinstance(source, ViewSource):  # inside of it, along the grid that the file has
        return replace(source, source=fill_corrupt(source.source, colour, hand_out=hand_out))
    return FillingSource(source, colour, hand_out)


def describe_corrupt(found: dict[CorruptPlace, str], *, kept: bool = False) -> str:
    """One line about what was filled; `kept` says that level 0 has the tiles themselves."""
    first = found[min(found)]
    count = f"{len(found)} tiles" if len(found) > 1 else "1 tile"
    fate = "got the background's colour"
    if kept:
        fate = "are kept as they are" if len(found) > 1 else "is kept as it is"
        fate += ", with the background's colour in the levels above"
    return f"{count} of the source did not decode and {fate}; the first: {first}"
