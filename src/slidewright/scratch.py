"""Zarr stores of reduced levels: what a pass hands on, and the source of the next.

A folder of its own under the temporary folder, one uncompressed zarr v3 array a pass; a chunk is half a tile a side,
so each block writes exactly one chunk and no two workers ever touch the same. The folder holds a lock file while its
run lives; a later run removes folders whose lock nobody holds.

A run only ever touches whole chunks of raw bytes, so chunks are written and read as the files they are (zarr core
specification v3, "regular" grid, "default" chunk keys, "bytes" codec) without the zarr library: importing that costs
each process 0.25 to 0.35 s, which was a fifth of the time of a 20,000 x 20,000 conversion (docs/design.md). A test
opens the stores with zarr.
"""

from __future__ import annotations

import json
import os
import secrets
import tempfile
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OutputError
from slidewright.geometry import Region, Size
from slidewright.nursery import remove
from slidewright.output import FileLock, is_abandoned
from slidewright.plan import Block, Plan

_PREFIX = "slidewright-scratch-"
_LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Scratch:
    """Where the reduced levels of a run are; picklable."""

    folder: str
    plan: Plan
    dtype: str
    samples: int

    def create(self) -> None:
        """Make the arrays of every pass that hands something on."""
        for pas in self.plan.passes:
            if pas.scratch_level is not None:
                self.level(pas.scratch_level).create()

    def level(self, level: int) -> ScratchLevel:
        """The array of a scratch level, which need not exist yet."""
        half = self.plan.tile // 2
        path = os.path.join(self.folder, f"level-{level}.zarr")
        return ScratchLevel(path, self.plan.levels[level].size, half, self.dtype, self.samples)

    def chunk_crc(self, block: Block) -> int | None:
        """The CRC-32 of the chunk that a block handed on; None where it hands nothing on, or the chunk is not there."""
        level = self.plan.passes[block.pass_index].scratch_level
        return None if level is None else self.level(level).chunk_crc(block)


class ScratchLevel:
    """One zarr array, (height, width, samples) in square chunks, open in this process; also a `Reader` of it."""

    def __init__(self, path: str, size: Size, chunk: int, dtype: str, samples: int) -> None:
        self.path = path
        self._size = size
        self._side = chunk
        self._suffix = f".{secrets.token_hex(4)}.partial"  # tasks on two machines may redo the same block
        self._chunk: NDArray[Any] = np.zeros((chunk, chunk, samples), np.dtype(dtype).newbyteorder("<"))

    def create(self) -> None:
        """Write the array's metadata."""
        shape = [self._size.height, self._size.width, self._chunk.shape[2]]
        metadata = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": shape,
            "data_type": self._chunk.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self._chunk.shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {},
        }
        try:
            os.makedirs(self.path, exist_ok=True)
            path = os.path.join(self.path, "zarr.json")
            with open(path + self._suffix, "w", encoding="ascii") as file:
                json.dump(metadata, file)
            os.replace(path + self._suffix, path)
        except OSError as error:
            raise _scratch_error(self.path, error) from error

    def write(self, region: Region, pixels: NDArray[Any]) -> None:
        """Write a piece that begins at a chunk's corner and fills the chunk as far as the image goes."""
        self._chunk[: region.height, : region.width] = pixels
        path = self._chunk_path(region.y // self._side, region.x // self._side)
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path + self._suffix, "wb", buffering=0) as file:
                rest = memoryview(self._chunk).cast("B")
                while rest:
                    rest = rest[file.write(rest) :]
            os.replace(path + self._suffix, path)
        except OSError as error:
            raise _scratch_error(self.path, error) from error

    def read(self, y: int, x: int, height: int, width: int, out: NDArray[Any]) -> NDArray[Any]:
        """Pixels of a region that begins at a chunk's corner, into `out`."""
        side = self._side
        target = out[:height, :width]
        for top in range(0, height, side):
            for left in range(0, width, side):
                piece = target[top : top + side, left : left + side]
                self._load(self._chunk_path((y + top) // side, (x + left) // side))
                piece[...] = self._chunk[: piece.shape[0], : piece.shape[1]]
        return target

    def chunk_crc(self, block: Block) -> int | None:
        """The CRC-32 of a block's chunk; None when it is not there."""
        try:
            with open(self._chunk_path(block.row, block.column), "rb") as file:
                return zlib.crc32(file.read())
        except FileNotFoundError:
            return None

    def close(self) -> None:
        """Nothing is held open."""

    def _load(self, path: str) -> None:
        try:
            with open(path, "rb", buffering=0) as file:
                got = file.readinto(memoryview(self._chunk).cast("B"))
        except OSError as error:
            raise _scratch_error(path, error, "read") from error
        if got != self._chunk.nbytes:
            raise OutputError(f"scratch chunk {path!r} was cut short; check the temporary disk")

    def _chunk_path(self, row: int, column: int) -> str:
        return os.path.join(self.path, "c", str(row), str(column), "0")


def _scratch_error(where: str, error: OSError, verb: str = "write") -> OutputError:
    return OutputError(
        f"can't {verb} scratch {where!r}: {error.strerror or error}; point TMPDIR or --scratch to a disk with room"
    )


class ScratchFolder:
    """The folder of one run: made, locked and removed here; also removes what killed runs left behind."""

    def __init__(self, parent: str | os.PathLike[str] | None) -> None:
        root = os.fspath(parent) if parent is not None else tempfile.gettempdir()
        _sweep(root)
        try:
            self.path = tempfile.mkdtemp(prefix=_PREFIX, dir=root)
            self._lock = FileLock(os.path.join(self.path, _LOCK))
        except OSError as error:
            raise _scratch_error(root, error) from error

    def remove(self) -> None:
        """Remove the folder with all in it."""
        self._lock.release()
        remove(self.path)


def _sweep(root: str) -> None:
    """Remove the folders of runs that are dead, and of this user: others' can't be removed and stay."""
    try:
        names = os.listdir(root)
    except OSError:
        return
    for name in names:
        folder = os.path.join(root, name)
        if name.startswith(_PREFIX) and is_abandoned(os.path.join(folder, _LOCK)):
            remove(folder)
