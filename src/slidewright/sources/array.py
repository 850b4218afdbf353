"""NumPy arrays as sources: in memory, shared with the workers without pickling pixels, and `.npy` files and memory maps
by their file.

Apart from the file formats because the pixels may live in this process alone: then the coordinator asks for a copy that
can be shared.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import SourceError
from slidewright.geometry import Size, Stack
from slidewright.selection import Selection
from slidewright.sources.access.raw_rows import RowsReader
from slidewright.sources.access.shapes import check_dtype, frames_of
from slidewright.sources.access.unpack import UnpackedSource, unpacked
from slidewright.sources.base import Pixels, Reader, Source, SourceInfo, known, pickled_identity
from slidewright.sources.on_disk import file_identity
from slidewright.system.file_identity import seen_as
from slidewright.system.pixel_file import PixelFile
from slidewright.system.shared_memory import SharedBuffer

_BAND_BYTES = 16_000_000
_COMPARED_ROWS = 32


class ArraySource(Source):
    """An array in the memory of this process; nothing is copied until it is shared."""

    def __init__(
        self,
        array: NDArray[Any],
        name: str = "NumPy array",
        selection: Selection = Selection(),  # noqa: B008 - frozen
        **known: Any,
    ) -> None:
        """Take an array; `known` are more fields of its `SourceInfo`, such as its kind and colormap."""
        self._array = frames_of(array, selection, name)
        self._info = _describe(self._array, name, "array", in_memory=True, **known)

    @property
    def info(self) -> SourceInfo:
        """What is known of the array."""
        return self._info

    def open(self) -> Reader:
        """Read the array itself, as views where its memory allows."""
        return _ArrayReader(self._array, self._info)

    @contextmanager
    def shared(self, folder: str | None = None, *, on_disk: bool = False) -> Iterator[Source]:
        """Copy the pixels, band by band, into memory that workers can share, or into a file, see `Source`."""
        copy = self._copy(folder, on_disk)
        try:
            yield copy
        finally:
            copy.close()

    def _copy(self, folder: str | None, on_disk: bool) -> SharedArraySource | UnpackedSource:
        info = self._info
        row_bytes = info.size.width * info.samples * info.itemsize
        band = max(1, _BAND_BYTES // row_bytes)
        if on_disk:
            return unpacked(info, folder, self._rows, band)
        buffer = SharedBuffer.allocate(info.stack.frames * info.size.height * row_bytes, folder)
        try:
            pixels = _laid_out(buffer, info)
            for frame in np.ndindex(*info.stack):
                for y in range(0, info.size.height, band):
                    pixels[frame][y : y + band] = self._array[frame][y : y + band]
            del pixels
        except BaseException:
            buffer.close()
            raise
        return SharedArraySource(info, buffer)

    def _rows(self, y: int, rows: int, plane: int) -> Pixels:
        """Rows of a plane: a channel, or whole pixels of a frame."""
        depth = 1 if self._info.planar else self._info.samples
        frame, channel = divmod(plane * depth, self._info.samples)
        image: Pixels = self._array[divmod(frame, self._info.stack.z)]
        return image[y : y + rows, :, channel : channel + depth]

    def __reduce__(self) -> Any:
        raise TypeError("an ArraySource does not travel between processes; shared() gives one that does")


@dataclass(frozen=True, slots=True)
class SharedArraySource(Source):
    """The pixels of an array in shared memory; pickles inside the engine only, where descriptors are passed on."""

    info: SourceInfo
    buffer: SharedBuffer

    def open(self) -> Reader:
        """Read the shared memory as views."""
        pixels = _laid_out(self.buffer, self.info)
        pixels.flags.writeable = False
        return _ArrayReader(pixels, self.info)

    def close(self) -> None:
        """Give the memory back."""
        self.buffer.close()


@dataclass(frozen=True, slots=True)
class NpySource(Source):
    """Pixels in a `.npy` file or behind a memory map; each worker opens the file itself.

    `strides` are those of the array of frames. Its rows are of whole pixels, or of one channel each where channels come
    first in the file.
    """

    path: str
    offset: int
    dtype: str
    strides: tuple[int, ...]
    info: SourceInfo
    header: tuple[Any, ...] = ()
    """What a `.npy` file says of its array: a file that took its name since may say something else."""

    @classmethod
    def at(cls, path: str, selection: Selection = Selection()) -> NpySource | ArraySource:  # noqa: B008 - frozen
        """Describe a `.npy` file (numpy.lib.format); raises SourceError when it is damaged or holds no image."""
        seen = seen_as(path)
        array = _mapped(path)
        source = cls.of(array, "npy", selection)
        if source is None:
            return ArraySource(array, path, selection)
        return replace(source, header=_header(array), info=replace(source.info, seen=seen))

    @classmethod
    def of(
        cls, array: NDArray[Any], format: str = "array", selection: Selection = Selection()  # noqa: B008 - frozen
    ) -> NpySource | None:
        """Describe a memory map by its file; None where the file can't be read row by row, or is not what the array
        shows.
        """
        root: Any = array
        while isinstance(root.base, np.memmap):
            root = root.base
        filename = getattr(array, "filename", None)  # None where the memory is not the file's any more
        if filename is None or root.mode == "c" or not isinstance(root.base, mmap.mmap):
            return None
        frames = frames_of(array, selection, str(filename))
        info = _describe(frames, str(filename), format)
        *apart, row, column, channel = frames.strides
        interleaved = column == info.samples * info.itemsize and (channel == info.itemsize or info.samples == 1)
        planes = info.planar and column == info.itemsize and channel > 0
        if not (interleaved or planes) or row <= 0 or min(apart) < 0:
            return None
        offset = root.offset + frames.__array_interface__["data"][0] - root.__array_interface__["data"][0]
        source = cls(str(filename), offset, array.dtype.str, frames.strides, info)
        return source if format == "npy" or source._shows(frames) else None

    def _shows(self, frames: NDArray[Any]) -> bool:
        """Whether a few rows of the file are those of the array: another file may have taken its name."""
        info = self.info
        row: Pixels = np.empty((1, info.size.width, 1 if info.planar else info.samples), info.dtype)
        try:
            reader = self.open()
        except SourceError:
            return False
        try:
            for y in {info.size.height * n // _COMPARED_ROWS for n in range(_COMPARED_ROWS)}:
                there = reader.read(y, 0, 1, info.size.width, row)
                wanted = frames[0, 0, y : y + 1, :, : row.shape[2]].astype(info.dtype)
                if known(there).tobytes() != wanted.tobytes():
                    return False
        except SourceError:  # it was cut short, and to look at the rest of the array would end the process
            return True
        finally:
            reader.close()
        return True

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {**pickled_identity(self), **file_identity(self.path, self.info.seen)}

    def open(self) -> Reader:
        """Open the file in this process."""
        if self.header and _header(_mapped(self.path)) != self.header:
            raise SourceError(f"{self.path} is not the file it was when the run began; start again")
        file = PixelFile(self.path)
        file.require(self.info.seen)
        info, (time, depth, row, _, channel) = self.info, self.strides
        samples = 1 if info.planar else info.samples
        offsets = [
            self.offset + t * time + z * depth + c * channel
            for t, z, c in np.ndindex(*info.stack, info.samples // samples)
        ]
        return RowsReader(file, offsets, info.size, samples, np.dtype(self.dtype), row)


class _ArrayReader(Reader):
    """Reads regions of an array: views where rows are packed and bytes in this machine's order, copies otherwise."""

    def __init__(self, array: Pixels, info: SourceInfo) -> None:
        self._array: Pixels | None = array
        self._name, self._samples, self._depth = info.name, info.samples, info.stack.z
        *_, row, column, channel = array.strides
        native = array.dtype.isnative and row > 0
        self._views = native and (column, channel) == (info.samples * info.itemsize, info.itemsize)
        self._plane_views = native and column == info.itemsize

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        if self._array is None:
            raise SourceError(f"{self._name} was closed")
        frame, plane = divmod(plane, self._samples)
        array: Pixels = self._array[divmod(frame, self._depth)]
        if out.shape[2] == 1 and self._plane_views:
            return array[y : y + height, x : x + width, plane].reshape(height, width, 1)
        pixels = array[y : y + height, x : x + width, plane : plane + out.shape[2]]
        if out.shape[2] == self._samples and self._views:
            return pixels
        answer = out[:height, :width]
        answer[...] = pixels
        return answer

    def close(self) -> None:
        """Let go of the array."""
        self._array = None


def _loaded(path: str) -> NDArray[Any]:
    """What NumPy maps, whose parser of headers can fail by itself where another thread parses at the same moment, in
    CPython before 3.11.8 and 3.12.2 (gh-106905).
    """
    load = partial(np.load, path, mmap_mode="r", allow_pickle=False)
    try:
        return np.asanyarray(load())
    except SystemError:
        return np.asanyarray(load())


def _mapped(path: str) -> NDArray[Any]:
    """The array of a `.npy` file, none of whose pixels is read."""
    try:
        array = _loaded(path)
    except Exception as error:  # NumPy's own kinds, and those of the tokenizer that reads the header
        what = " ".join(str(error).split())  # some are paragraphs
        raise SourceError(f"{path} can't be read as a .npy file ({what}); it is cut short or damaged") from error
    return array


def _header(array: Any) -> tuple[Any, ...]:
    return array.dtype.str, array.shape, array.strides, getattr(array, "offset", 0)


def _laid_out(buffer: SharedBuffer, info: SourceInfo) -> Pixels:
    """The memory of an array's copy as (t, z, height, width, samples), in the order that `info.planar` says."""
    pixels = np.frombuffer(buffer.view(), info.dtype)
    if info.planar:
        return pixels.reshape(*info.stack, info.samples, *info.size).transpose(0, 1, 3, 4, 2)
    return pixels.reshape(*info.stack, *info.shape)


def _describe(frames: NDArray[Any], name: str, format: str, **known: Any) -> SourceInfo:
    """What is known of frames in memory, (t, z, height, width, samples); SourceError for a dtype that can't be."""
    height, width, samples = frames.shape[2:]
    *_, row, column, channel = map(abs, frames.strides)
    planar = samples > 1 and channel > max(row, column)
    return SourceInfo(
        name=name,
        format=format,
        size=Size(height, width),
        samples=samples,
        stack=Stack(*frames.shape[:2]),
        dtype=check_dtype(frames.dtype, name),
        planar=planar,
        worker_bytes=0,
        **known,
    )
