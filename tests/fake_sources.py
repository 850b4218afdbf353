"""Sources that worker processes can import: a slow one that misbehaves on request, a large one that costs nothing."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from slidewright.errors import CorruptTileError
from slidewright.geometry import Size
from slidewright.sources.base import SourceInfo


@dataclass(frozen=True)
class SlowSource:
    """Pixels that are a function of their place; `fault` happens at the tile whose corner is `at` (y, x).

    Faults: "kill-once" (SIGKILL to the reading process, once, as the file `marker` records), "kill" (always),
    "fork-once" (as "kill-once", but a fork of that process lives on for a minute), "corrupt", "crash" (an unforeseen
    exception).
    """

    height: int
    width: int
    seconds: float = 0.0
    fault: str = ""
    at: tuple[int, int] = (0, 0)
    marker: str = ""

    @property
    def info(self) -> SourceInfo:
        return SourceInfo("slow source", "test", Size(self.height, self.width), 1, "uint8")

    def open(self) -> SlowReader:
        return SlowReader(self)

    def pixels(self) -> Any:
        return pattern(0, 0, self.height, self.width)


def pattern(y: int, x: int, height: int, width: int) -> Any:
    rows, columns = np.mgrid[y : y + height, x : x + width]
    return ((rows * 7 + columns * 13 + (rows * columns) // 50) % 251).astype(np.uint8)[:, :, None]


class SlowReader:
    def __init__(self, source: SlowSource) -> None:
        self._source = source

    def read(self, y: int, x: int, height: int, width: int, out: Any, plane: int = 0) -> Any:
        source = self._source
        time.sleep(source.seconds)
        if (y, x) == source.at:
            once = source.fault in ("kill-once", "fork-once") and not os.path.exists(source.marker)
            if source.fault == "kill" or once:
                if source.marker:
                    with open(source.marker, "w"):
                        pass
                if source.fault == "fork-once" and os.fork() == 0:
                    time.sleep(60)
                    os._exit(0)
                os.kill(os.getpid(), signal.SIGKILL)
            if source.fault == "corrupt":
                raise CorruptTileError(f"slow source: the tile at x={x}, y={y} can't be decoded")
            if source.fault == "crash":
                raise ZeroDivisionError("the reader has a bug")
        return pattern(y, x, height, width)

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class BlankSource:
    """RGB of one colour with a little structure, of any size, at no cost."""

    side: int

    @property
    def info(self) -> SourceInfo:
        return SourceInfo("blank source", "test", Size(self.side, self.side), 3, "uint8")

    def open(self) -> BlankSource:
        return self

    def read(self, y: int, x: int, height: int, width: int, out: Any, plane: int = 0) -> Any:
        target = out[:height, :width]
        target[...] = 230
        target[::16, ::16] = (y // 512 + x // 512) % 200
        return target

    def close(self) -> None:
        pass
