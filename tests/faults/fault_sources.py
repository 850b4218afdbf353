"""Sources that worker processes can import, which misbehave in one place, once or always."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from slidewright.geometry import Size
from slidewright.sources.base import SourceInfo


@dataclass(frozen=True)
class FaultySource:
    """Pixels that are a function of their place; at the tile whose corner is `at` (y, x), something happens.

    Faults: "hang", "no memory" (an allocation fails), "greedy" (64 GB are asked for, and written to). With a `marker`
    it happens once, as that file records.
    """

    height: int
    width: int
    fault: str
    at: tuple[int, int]
    marker: str = ""

    @property
    def info(self) -> SourceInfo:
        return SourceInfo("faulty source", "array", Size(self.height, self.width), 1, "uint8")

    def open(self) -> FaultySource:
        return self

    def close(self) -> None:
        pass

    def pixels(self) -> Any:
        return pattern(0, 0, self.height, self.width)

    def read(self, y: int, x: int, height: int, width: int, out: Any, *_: int) -> Any:
        if (y, x) == self.at and not (self.marker and os.path.exists(self.marker)):
            if self.marker:
                Path(self.marker).touch()
            self._misbehave()
        return pattern(y, x, height, width)

    def _misbehave(self) -> None:
        if self.fault == "hang":
            time.sleep(3600)
        elif self.fault == "no memory":
            raise MemoryError
        elif self.fault == "greedy":
            kept = [np.ones(1 << 26, np.uint8) for _ in range(1000)]
            raise AssertionError(f"{len(kept)} arrays of 64 MiB were there to be had")


def pattern(y: int, x: int, height: int, width: int) -> Any:
    rows, columns = np.mgrid[y : y + height, x : x + width]
    return ((rows * 7 + columns * 13 + (rows * columns) // 50) % 251).astype(np.uint8)[:, :, None]
