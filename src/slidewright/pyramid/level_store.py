"""Zarr stores of reduced levels: what a pass hands on, and the source of the next.

A folder of its own under the temporary folder, one uncompressed zarr v3 array a pass; a chunk is half a tile a side,
so each block writes exactly one chunk and no two workers ever touch the same. A lock file lies beside the
folder while its run lives; a later run removes folders whose lock nobody holds.

A run only ever touches whole chunks of raw bytes, so they are written and read (chunkstore.py) without the zarr
library: importing that costs each process 0.25 to 0.35 s, which was a fifth of the time of a 20,000 x 20,000 conversion
(docs/design.md). A test opens the stores with zarr.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OutputError
from slidewright.geometry import Region, Size
from slidewright.pixels import PixelFormat
from slidewright.pyramid.chunks import ChunkFiles, ChunkShard, ChunkStore
from slidewright.pyramid.plan import Block, Plan
from slidewright.sources.base import BLANK, Blank, Reader
from slidewright.system.file_lock import FileLock, remove_abandoned
from slidewright.system.files import is_token, make_below, remove_guarded, temporary_folder, token, write_whole

_PREFIX = "slidewright-scratch-"
_LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Scratch:
    """Where the reduced levels of a run are; picklable."""

    folder: str
    plan: Plan
    pixels: PixelFormat
    sparse: bool = False
    """Whether a chunk that was never written stands for background; otherwise it is an error."""
    single: bool = False
    """Whether an array is one file, for the processes of one machine; otherwise each chunk is one."""

    def create(self) -> None:
        """Make the arrays of every pass that hands something on."""
        for pas in self.plan.passes:
            if pas.scratch_level is not None:
                self.level(pas.scratch_level).create()

    def level(self, level: int) -> ScratchLevel:
        """The array of a scratch level, which need not exist yet."""
        half = self.plan.tile // 2
        path = os.path.join(self.folder, f"level-{level}.zarr")
        fill = self.pixels.background * self.pixels.stack.frames if self.sparse else None
        channels = self.plan.band * self.pixels.samples
        return ScratchLevel(
            path, self.plan.levels[level].size, half, self.pixels, channels, fill=fill, single=self.single
        )

    def chunk_crc(self, block: Block) -> int | None:
        """The CRC-32 of the chunk that a block handed on; None where it hands nothing on, or the chunk is not there."""
        level, place = self.plan.passes[block.pass_index].scratch_level, self.plan.chunk_of(block)
        return None if level is None or place is None else self.level(level).chunk_crc(*place, block.band)


class ScratchLevel(Reader):
    """One zarr array, (height, width, channels) in chunks of a square of some channels, open in this process; also a
    `Reader` of it.
    """

    def __init__(
        self,
        path: str,
        size: Size,
        chunk: int,
        pixels: PixelFormat,
        channels: int,
        *,
        fill: tuple[float, ...] | None,
        single: bool,
    ) -> None:
        self.path = path
        self._shape = (*size, pixels.all_channels)
        self._side = chunk
        self._fill = fill
        self._chunk: NDArray[Any] = np.zeros((chunk, chunk, channels), np.dtype(pixels.dtype).newbyteorder("<"))
        grid = (*size.grid(chunk), pixels.all_channels // channels)
        self._store: ChunkStore = ChunkShard(path, grid, self._chunk.nbytes) if single else ChunkFiles(path)

    def create(self) -> None:
        """Write the array's metadata."""
        metadata = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(self._shape),
            "data_type": self._chunk.dtype.name,
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "attributes": {},
            **self._store.metadata(self._chunk.shape),
        }
        try:
            make_below(os.path.dirname(self.path), self.path)
            path = os.path.join(self.path, "zarr.json")
            write_whole(path, json.dumps(metadata).encode("ascii"))
            self._store.create()
        except OSError as error:
            raise _scratch_error(self.path, error) from error

    def write(self, region: Region, pixels: NDArray[Any], band: int = 0) -> None:
        """Write a piece that begins at a chunk's corner and fills the chunk as far as the image goes."""
        self._chunk[: region.height, : region.width] = pixels
        self._chunk[region.height :] = 0  # not what came before: a block that is done again gives the same bytes
        self._chunk[:, region.width :] = 0
        try:
            self._store.write((region.y // self._side, region.x // self._side, band), memoryview(self._chunk).cast("B"))
        except OSError as error:
            raise _scratch_error(self.path, error) from error

    def read(self, y: int, x: int, height: int, width: int, out: NDArray[Any], plane: int = 0) -> NDArray[Any] | Blank:
        """Pixels of a region that begins at a chunk's corner, into `out`, see `Reader.read`; BLANK for a whole tile of
        which nothing has been written, where that stands for background.
        """
        side, band = self._side, plane // self._chunk.shape[2]
        if self._fill is not None and height == width == 2 * side and not self._any(y, x, band):
            return BLANK
        target = out[:height, :width]
        for top in range(0, height, side):
            for left in range(0, width, side):
                piece = target[top : top + side, left : left + side]
                self._load((y + top) // side, (x + left) // side, band)
                piece[...] = self._chunk[: piece.shape[0], : piece.shape[1]]
        return target

    def chunk_crc(self, row: int, column: int, band: int) -> int | None:
        """The CRC-32 of a chunk; None when it is not there. Raises OSError."""
        chunk = memoryview(self._chunk).cast("B")
        got = self._store.read((row, column, band), chunk)
        return None if got is None else zlib.crc32(chunk[:got])

    def _any(self, y: int, x: int, band: int) -> bool:
        """Whether any chunk of the tile at (y, x) has been written."""
        return any(self.has(y + down, x + right, band) for down in (0, self._side) for right in (0, self._side))

    def has(self, y: int, x: int, band: int = 0) -> bool:
        """Whether the chunk that holds (y, x) has been written."""
        try:
            return self._store.has((y // self._side, x // self._side, band))
        except OSError as error:
            raise _scratch_error(self.path, error, "read") from error

    def close(self) -> None:
        """Close the file, of which a network disk may say only now that it was not written."""
        try:
            self._store.close()
        except OSError as error:
            raise _scratch_error(self.path, error) from error

    def _load(self, row: int, column: int, band: int) -> None:
        try:
            got = self._store.read((row, column, band), memoryview(self._chunk).cast("B"))
        except OSError as error:
            raise _scratch_error(self.path, error, "read") from error
        if got is None and self._fill is not None:
            channels = self._chunk.shape[2]
            self._chunk[...] = self._fill[band * channels : (band + 1) * channels]
        elif got != self._chunk.nbytes:
            lack = "is missing" if got is None else "was cut short"
            raise OutputError(f"a scratch chunk of {self.path!r} {lack}; check the temporary disk")


def _scratch_error(where: str, error: OSError, verb: str = "write") -> OutputError:
    if isinstance(error, FileNotFoundError):
        return OutputError(f"can't {verb} scratch {where!r}: the folder that it is in has been removed")
    if error.errno == errno.ESTALE:
        return OutputError(f"can't {verb} scratch {where!r}: it, or the folder that it is in, has been replaced")
    return OutputError(
        f"can't {verb} scratch {where!r}: {error.strerror or error}; point TMPDIR or --scratch to a disk with room"
    )


class ScratchFolder:
    """The folder of one run: made, locked and removed here; also removes what killed runs left behind. As a context
    manager it gives its path.

    Its lock lies beside it, is made first and removed last, so that whenever a run is killed, the next can tell.
    `announce` is told each path before it is made, so that somebody can remove it if this process is killed.
    """

    def __init__(
        self, parent: str | os.PathLike[str] | None = None, announce: Callable[[str], None] = lambda _: None
    ) -> None:
        root = sweep_scratch(parent)
        self.path = os.path.join(root, _PREFIX + token())
        announce(self.path)
        announce(self.path + _LOCK)
        self._lock: FileLock | None = None
        try:
            self._lock = FileLock(self.path + _LOCK)
            os.mkdir(self.path, 0o700)
        except BaseException as error:  # also Ctrl-C: nobody has it yet who could remove it
            self.remove()
            if isinstance(error, OSError):
                raise _scratch_error(root, error) from error
            raise

    def __enter__(self) -> str:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove the folder with all in it."""
        try:
            remove_guarded(self.path, self.path + _LOCK)
        finally:
            if self._lock is not None:
                self._lock.release()
        if os.path.lexists(self.path):  # no more files could be open, and now one can
            _remove_frugally(self.path)
            remove_guarded(self.path, self.path + _LOCK)


def _remove_frugally(path: str) -> None:
    """Empty a folder that nobody else may write into, with one file open at a time; `rmtree` has two for each folder
    on the way.
    """
    with contextlib.suppress(OSError):
        for name in os.listdir(path):
            inner = os.path.join(path, name)
            if os.path.isdir(inner) and not os.path.islink(inner):
                _remove_frugally(inner)
            else:
                os.unlink(inner)
        os.rmdir(path)


def _is_own(path: str) -> bool:
    """Whether a file or folder, and not a link to one, is this user's."""
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return not stat.S_ISLNK(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())


def sweep_scratch(parent: str | os.PathLike[str] | None = None) -> str:
    """Remove the folders of this user's runs that are dead; where they were, or would have been."""
    root = os.path.abspath(os.fspath(parent) if parent is not None else temporary_folder())
    try:
        names = os.listdir(root)
    except OSError:
        return root
    for name in names:
        lock = os.path.join(root, name)
        ours = name.startswith(_PREFIX) and name.endswith(_LOCK) and is_token(name[len(_PREFIX) : -len(_LOCK)])
        if ours and _is_own(lock):
            remove_abandoned(lock, functools.partial(remove_guarded, lock.removesuffix(_LOCK), lock))
    return root
