"""Tiles that the caller hands over one at a time, as a source: they wait in slots of shared memory until a worker reads
them.

Apart from the arrays because it is alive: the caller's end fills slots and gets them back, while workers read others.
A slot is named by its place in the image, so that a block carries no more than it does for any other source and can be
read again by the successor of a killed worker.
"""

from __future__ import annotations

import os
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import RunError
from slidewright.sources.base import BLANK, Blank, Pixels, Reader, Source, SourceInfo
from slidewright.system.shared_memory import SharedBuffer

_EMPTY = -1
_PLACE_BYTES = 24


@dataclass(frozen=True, slots=True)
class PushedSource(Source):
    """The slots, as workers open them; pickles inside the engine only, where descriptors are passed on.

    The buffer begins with (y, x, frame) of the tile in each slot and, last, whether tiles that are in no slot are
    background.
    """

    info: SourceInfo
    tile: int
    n_slots: int
    buffer: SharedBuffer

    @classmethod
    def allocate(
        cls, info: SourceInfo, tile: int, n_slots: int, folder: str | os.PathLike[str] | None
    ) -> PushedSource:
        """Reserve the slots; raises OutputError where there is no room."""
        nbytes = (n_slots + 1) * _PLACE_BYTES + n_slots * tile * tile * info.samples * info.itemsize
        return cls(info, tile, n_slots, SharedBuffer.allocate(nbytes, folder))

    def open(self) -> PushedReader:
        """Read the slots in this process."""
        return PushedReader(self)

    def close(self) -> None:
        """Give the memory back."""
        self.buffer.close()

    def places(self) -> NDArray[np.int64]:
        """(y, x, frame) by slot, and one row more."""
        return np.frombuffer(self.buffer.view(), np.int64, 3 * (self.n_slots + 1)).reshape(-1, 3)

    def tiles(self) -> Pixels:
        """The pixels of all slots."""
        data = np.frombuffer(self.buffer.view(), self.info.dtype, offset=(self.n_slots + 1) * _PLACE_BYTES)
        return data.reshape(self.n_slots, self.tile, self.tile, self.info.samples)


@dataclass(frozen=True, slots=True)
class Undecided(Source):
    """Stands for the source until the caller's first call says whether it hands over tiles or regions."""

    info: SourceInfo

    def open(self) -> Reader:
        """Nobody reads it."""
        raise RunError("pixels were asked for before any were handed over; this is an error of slidewright")


class PushedReader(Reader):
    """Reads whole tiles: from the slot that holds one, or as background once the caller has no more."""

    def __init__(self, source: PushedSource) -> None:
        self._source = source
        self._places, self._tiles = source.places(), source.tiles()

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a tile, see `Reader.read`."""
        frame, plane = divmod(plane, self._source.info.samples)
        found = np.flatnonzero((self._places[:-1] == (y, x, frame)).all(axis=1))
        if found.size:
            return self._tiles[found[0], :height, :width, plane : plane + out.shape[2]]
        if self._places[-1, 0] == _EMPTY:
            raise RunError(f"the tile at x={x}, y={y} was taken out of its slot before it was encoded")
        return BLANK

    def close(self) -> None:
        """Let go of the slots."""
        self._tiles = self._tiles[:0]


class Inbox:
    """The caller's end of the slots."""

    def __init__(self, source: PushedSource) -> None:
        self._places, self._tiles = source.places(), source.tiles()
        self._places[...] = _EMPTY
        self._free = deque(range(source.n_slots))
        self._held: dict[tuple[int, int, int], int] = {}

    @property
    def full(self) -> bool:
        """Whether every slot waits for a worker."""
        return not self._free

    def put(self, y: int, x: int, pixels: Pixels, frame: int = 0) -> None:
        """Fill a free slot with the tile at (y, x) of a frame."""
        slot = self._free.popleft()
        self._tiles[slot, : pixels.shape[0], : pixels.shape[1]] = pixels
        self._places[slot] = (y, x, frame)
        self._held[y, x, frame] = slot

    def release(self, y: int, x: int, frame: int = 0) -> None:
        """The tile at (y, x) of a frame is encoded; one that never had a slot is background."""
        slot = self._held.pop((y, x, frame), None)
        if slot is not None:
            self._places[slot] = _EMPTY
            self._free.append(slot)

    def rest_is_background(self) -> None:
        """No tile comes any more."""
        self._places[-1] = 0

    def close(self) -> None:
        """Let go of the slots, whose memory can't be given back before."""
        del self._places, self._tiles
