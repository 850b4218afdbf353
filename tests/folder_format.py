"""A second format, as small as one can be: a folder with a file a segment and an index. It shows that nothing outside
`slidewright.formats` knows what is written.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OutputError, VerifyError
from slidewright.formats.base import Format
from slidewright.formats.registry import FORMATS
from slidewright.geometry import Size
from slidewright.report import LevelReport

FORMATS.setdefault("folder", ((".segments",), "folder_format", "FolderFormat"))


@dataclass(frozen=True, slots=True)
class FolderFormat(Format):
    """Segments by themselves, in quarters of the first level: an order that no other format has."""

    name: ClassVar[str] = "folder"
    suffixes: ClassVar[tuple[str, ...]] = (".segments",)
    is_folder: ClassVar[bool] = True

    @classmethod
    def from_options(cls, options: Any) -> FolderFormat:
        return cls()

    def order(self, plan: Any) -> Any:
        keys = ((level.index, *place) for level in plan.levels for place in np.ndindex(plan.planes, *level.tiles))
        return sorted(keys, key=lambda key: (self._quarter(key), key))

    def wave(self, plan: Any, key: Any) -> int | None:
        level, plane, row, column = key
        return None if level or plane else 1000 * (row // 2) + column // 2

    def write(self, path: str, image: Any, take: Any) -> list[int]:
        sizes = [0] * len(image.plan.levels)
        try:
            os.mkdir(path)
            for key in self.order(image.plan):
                segment = take(key)
                sizes[key[0]] += len(segment)
                Path(path, "-".join(map(str, key))).write_bytes(segment)
            levels = [[*level.size, *level.tiles] for level in image.plan.levels]
            index = {"levels": levels, "tile": image.plan.tile, "planes": image.plan.planes, "mpp": image.mpp}
            Path(path, "index.json").write_text(json.dumps(index))
        except OSError as error:
            raise OutputError(f"can't write {path!r}: {error.strerror}") from error
        return sizes

    def check(self, path: str, image: Any) -> None:
        if len(os.listdir(path)) != image.plan.n_tiles + 1:
            raise VerifyError(f"{path}: segments are missing")

    def verify(self, path: str, n_workers: int | None) -> None:
        read_level(Path(path), 0, (1, "uint8"))

    def levels(self, path: str) -> tuple[LevelReport, ...]:
        index = json.loads(Path(path, "index.json").read_text())
        return tuple(
            LevelReport(
                Size(height, width),
                rows * columns * index["planes"],
                sum(file.stat().st_size for file in Path(path).glob(f"{number}-*")),
            )
            for number, (height, width, rows, columns) in enumerate(index["levels"])
        )

    @staticmethod
    def _quarter(key: Any) -> tuple[int, ...]:
        level, plane, row, column = key
        return (level, plane, row // 2, column // 2)


def read_level(path: Path, level: int, kind: tuple[int, str]) -> NDArray[Any]:
    """A level of uncompressed segments, (height, width, samples)."""
    samples, dtype = kind
    index = json.loads((path / "index.json").read_text())
    height, width, rows, columns = index["levels"][level]
    tile, planes = index["tile"], index["planes"]
    out = np.empty((rows * tile, columns * tile, samples), dtype)
    for plane, row, column in np.ndindex(planes, rows, columns):
        data = (path / f"{level}-{plane}-{row}-{column}").read_bytes()
        pixels = np.frombuffer(data, dtype).reshape(tile, tile, samples // planes)
        spot = np.s_[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]
        out[spot][..., plane : plane + 1 if planes > 1 else samples] = pixels
    return out[:height, :width]
