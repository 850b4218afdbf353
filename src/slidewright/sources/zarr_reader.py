"""Reads regions of one zarr array; apart from `zarr.py`, which decides what a store holds.

A zarr 3 read costs 0.3 to 0.5 ms a chunk whatever is in it, so uncompressed chunks of a local store are read from their
files directly (zarr v3 core specification, "bytes" codec; v2 specification, null compressor).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from threading import main_thread
from typing import Any

import numpy as np

from slidewright.errors import CorruptTileError, SlidewrightError, SourceError, alone
from slidewright.sources.access.tile_grid import CellReader
from slidewright.sources.base import Pixels, Reader, SourceInfo
from slidewright.system.files import fill_from
from slidewright.system.interrupts import let_through
from slidewright.system.limits import blame_memory
from slidewright.system.remote_file import is_url

_WASTE = 2  # how many times its own pixels a region may decode before whole chunks are kept instead


class ZarrReader(Reader):
    """Reads regions of one zarr array.

    Parameters
    ----------
    info
        Of the image.
    array
        Open in this process; it is closed with the reader.
    axes, places
        As of `ZarrSource`, whose `planes` are the places.
    store
        The folder, file or URL that the array lies in.
    """

    def __init__(self, info: SourceInfo, array: Any, axes: str, store: str, places: Mapping[str, range]) -> None:
        assert info.tile is not None
        self._name, self._array, self._axes, self._samples = info.name, array, axes, info.samples
        self._size, self._chunk = info.size, info.tile
        self._depth = array.chunks[self._axes.index("c")] if "c" in self._axes else 1
        self._closed = False
        self._places, self._frame = places, 0
        self._planes = self._planes_of(0)
        raw = _raw_chunks(array, axes, store, self._planes)
        self._raw = raw is not None
        self._cells = CellReader(info.size, info.tile, info.samples, info.dtype, raw or self._decode, depth=self._depth)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        frame, plane = divmod(plane, self._samples)
        if frame != self._frame:  # decoded chunks are of one frame
            self._frame = frame
            self._planes.update(self._planes_of(frame))
            self._cells.clear()
        if self._raw or self._wasteful(y, x, height, width, plane, out.shape[2]):
            return self._cells.read(y, x, height, width, out, plane)
        answer = out[:height, :width]
        self._fetch(y, x, plane, answer)
        return answer

    def _planes_of(self, frame: int) -> dict[str, int]:
        """Where a frame lies along z and t."""
        times, depths = (self._places.get(axis, range(1)) for axis in "tz")
        time, depth = divmod(frame, len(depths))
        return {axis: place for axis, place in (("t", times[time]), ("z", depths[depth])) if axis in self._places}

    def close(self) -> None:
        """Drop the cache and close the store (a .zip holds its file open)."""
        self._cells.clear()
        if not self._closed:
            self._closed = True
            self._array.store.close()

    def _wasteful(self, y: int, x: int, height: int, width: int, plane: int, channels: int) -> bool:
        """Whether the chunks that a region touches hold far more pixels than the region."""
        tall, wide = self._chunk
        rows = min(-(-(y + height) // tall) * tall, self._size.height) - y // tall * tall
        columns = min(-(-(x + width) // wide) * wide, self._size.width) - x // wide * wide
        deep = self._depth
        depth = min(-(-(plane + channels) // deep) * deep, self._samples) - plane // deep * deep
        return rows * columns * depth > _WASTE * height * width * channels

    def _decode(self, row: int, column: int, band: int, out: Pixels) -> None:
        y, x, plane = row * self._chunk.height, column * self._chunk.width, band * self._depth
        self._fetch(y, x, plane, out[: self._size.height - y, : self._size.width - x, : self._samples - plane])

    def _fetch(self, y: int, x: int, plane: int, out: Pixels) -> None:
        """One read of zarr's, of all the chunks that `out` at (y, x) touches."""
        channels = slice(plane, plane + out.shape[2])
        spans = {"y": slice(y, y + out.shape[0]), "x": slice(x, x + out.shape[1]), "c": channels}
        try:
            pixels = np.asarray(self._array[tuple(spans.get(axis, self._planes.get(axis, 0)) for axis in self._axes)])
        except Exception as raised:  # a codec's own error, or the store's
            let_through(raised)
            error = alone(raised)
            if isinstance(error, (SlidewrightError, MemoryError)):
                raise error from raised.__cause__
            row, column = y // self._chunk.height, x // self._chunk.width
            what = (
                f"{self._name}: the chunks of {out.shape[1]} x {out.shape[0]} pixels from row {row}, column {column} "
                f"can't be read ({type(error).__name__}: {error})"
            )
            if is_url(self._name):  # which of the two it is, the server does not say
                raise SourceError(f"{what}; try again, or download the store first") from error
            if not main_thread().is_alive():  # zarr's own threads take no work any more
                raise SourceError(
                    f"{what}; the program's main thread has ended: have it wait for this thread (thread.join()), or "
                    "give a number of workers"
                ) from error
            if isinstance(error, OSError) and error.errno:  # of the system's; some codecs have OSErrors of their own
                raise SourceError(f"{what}; try again when its disk is well") from error
            blame_memory(out.nbytes)
            raise CorruptTileError(f"{what}; the store is damaged") from error
        left = [axis for axis in self._axes if axis in spans]
        if "c" in left:
            pixels = pixels.transpose([left.index(axis) for axis in "yxc"])
        elif left == ["x", "y"]:
            pixels = pixels.T
        out[...] = pixels.reshape(out.shape)


def _raw_chunks(
    array: Any, axes: str, store: str, planes: Mapping[str, int]
) -> Callable[[int, int, int, Pixels], None] | None:
    """A decoder that reads the files of uncompressed chunks, or None where chunks are anything else; `planes` is asked
    each time for the place along z and t.
    """
    from slidewright.sources.access.zarr_store import FolderStore

    files = array.store
    if not isinstance(files, FolderStore) or not _is_cell(array, axes) or not _is_uncompressed(array.metadata):
        return None
    encode_key, name = array.metadata.encode_chunk_key, str(Path(store, array.path))
    fill, prefix = array.fill_value, f"{array.path}/" if array.path else ""
    swapped = not np.dtype(array.dtype).isnative if array.metadata.zarr_format == 2 else False

    def decode(row: int, column: int, band: int, out: Pixels) -> None:
        place = {**planes, "y": row, "x": column, "c": band}
        buffer = memoryview(out).cast("B")
        key = prefix + encode_key(tuple(place.get(axis, 0) for axis in axes))
        try:
            with files.open_file(key) as file:
                got = fill_from(file, buffer)
                whole = got == len(buffer) and not file.read(1)
        except FileNotFoundError:
            files.check_missing(key)
            out[...] = 0 if fill is None else fill
            return
        except OSError as error:
            raise SourceError(
                f"{name}: the chunk at row {row}, column {column} can't be read: {error.strerror or error}"
            ) from error
        if not whole:
            raise CorruptTileError(
                f"{name}: the chunk at row {row}, column {column} has not {len(buffer)} bytes; the store is damaged"
            )
        if swapped:
            out.byteswap(inplace=True)

    return decode


def _is_cell(array: Any, axes: str) -> bool:
    """Whether a chunk's memory is (height, width, channels), a plane of one channel included, and no chunk is larger
    than the image.
    """
    chunks, shape = dict(zip(axes, array.chunks, strict=True)), dict(zip(axes, array.shape, strict=True))
    if any(chunks[axis] > shape[axis] for axis in axes):
        return False
    long = [axis for axis in axes if axis in "yx" or chunks[axis] > 1]
    return long in (["y", "x"], ["y", "x", "c"])


def _is_uncompressed(metadata: Any) -> bool:
    """Whether a chunk's file is the chunk's memory, C order, in this machine's byte order (v2: in the dtype's)."""
    described = metadata.to_dict()
    if metadata.zarr_format == 2:
        return described.get("compressor") is None and not described.get("filters") and described.get("order") == "C"
    codecs = [codec if isinstance(codec, dict) else codec.to_dict() for codec in described.get("codecs", ())]
    if len(codecs) != 1 or codecs[0].get("name") != "bytes" or described.get("storage_transformers"):
        return False
    endian = (codecs[0].get("configuration") or {}).get("endian", "little")
    return bool(np.dtype("<u2" if endian == "little" else ">u2").isnative)
