"""A source that has every ability there is; in a module that worker processes can import."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import CorruptTileError
from slidewright.geometry import Size
from slidewright.sources.base import BLANK, Blank, Reader, Source, SourceInfo

SIDE, TILE = 160, 32
PIXELS = np.random.default_rng(5).integers(1, 255, (SIDE, SIDE, 1), dtype=np.uint8)
PIXELS[64:128, :96] = 0
INFO = SourceInfo(
    "able", "test", Size(SIDE, SIDE), 1, "uint8", tile=Size(TILE, TILE), worker_bytes=7, associated=("label",)
)


class AbleReader(Reader):
    def __init__(self, source: AbleSource) -> None:
        self._source = source

    def read(self, y: int, x: int, height: int, width: int, out: Any, plane: int = 0) -> NDArray[Any] | Blank:
        pixels = PIXELS[y : y + height, x : x + width]
        if self._source.corrupt and y <= 32 < y + height and x <= 96 < x + width:
            raise CorruptTileError("able: the tile at x=96, y=32 is corrupt")
        return pixels if pixels.any() or not self._source.info.sparse else BLANK

    def segment(self, row: int, column: int, plane: int = 0) -> bytes | None:
        return b"%d %d" % (row, column)


class AbleSource(Source):
    """Has every ability there is."""

    def __init__(self, corrupt: bool = False, **known: Any) -> None:
        self.info, self.corrupt = replace(INFO, **known), corrupt  # type: ignore[misc]

    def open(self) -> Reader:
        return AbleReader(self)

    @property
    def beside(self) -> tuple[str, ...]:
        return ("able.dat",)

    def identity(self) -> dict[str, Any]:
        return {"able": self.corrupt}

    def associated_image(self, name: str) -> NDArray[Any]:
        return np.full((3, 4, 3), len(name), np.uint8)
