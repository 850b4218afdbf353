"""A source of computed pixels: grey rings around the middle of an image of any size.

It is in a module of its own because the workers import its class by the module's name.
"""

from dataclasses import dataclass

import numpy as np

from slidewright.geometry import Size
from slidewright.sources.base import SourceInfo


@dataclass(frozen=True)
class Rings:
    """The description: small, and the same in every process."""

    side: int

    @property
    def info(self) -> SourceInfo:
        return SourceInfo("rings", "computed", Size(self.side, self.side), samples=1, dtype="uint8", mpp=(0.5, 0.5))

    def open(self) -> "RingsReader":
        return RingsReader(self.side)


class RingsReader:
    """What a worker reads from, block by block."""

    def __init__(self, side: int) -> None:
        self.middle = side / 2

    def read(self, y: int, x: int, height: int, width: int, out: np.ndarray) -> np.ndarray:
        rows = np.arange(y, y + height)[:, None] - self.middle
        columns = np.arange(x, x + width)[None, :] - self.middle
        out[:height, :width, 0] = np.hypot(rows, columns).astype(np.int64) % 256
        return out[:height, :width]

    def close(self) -> None:
        pass
