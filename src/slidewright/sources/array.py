"""NumPy arrays as sources: in memory, shared with the workers without pickling pixels, and `.npy` files and memory maps
by their file.

Apart from the file formats because the pixels may live in this process alone: then the coordinator asks for a copy that
can be shared.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import SourceError
from slidewright.geometry import Size
from slidewright.sharing import SharedBuffer
from slidewright.sources.base import Pixels, Reader, SourceInfo
from slidewright.sources.rows import PixelFile, RowsReader
from slidewright.sources.strips import UnpackedSource, unpacked

_BAND_BYTES = 16_000_000
_SUPPORTED = (
    "slidewright converts uint8 arrays of shape (height, width), (height, width, 1) or (height, width, "
    "3), and uint16 grey"
)


class ArraySource:
    """An array in the memory of this process; nothing is copied until `prepare`."""

    def __init__(self, array: NDArray[Any], name: str = "NumPy array") -> None:
        self._info = _describe(array.shape, array.dtype, name, "array")
        self._array = array if array.ndim == 3 else array[:, :, np.newaxis]

    @property
    def info(self) -> SourceInfo:
        """What is known of the array."""
        return self._info

    def open(self) -> Reader:
        """Read the array itself, as views where its memory allows."""
        return _ArrayReader(self._array, self._info)

    def prepare(self, folder: str | None = None, *, on_disk: bool = False) -> SharedArraySource | UnpackedSource:
        """Copy the pixels, band by band, into memory that workers can share.

        Parameters
        ----------
        folder
            Where to put an unlinked file if there is too little memory; by default the temporary folder.
        on_disk
            Put the copy there in any case, and read it as a file, so that it is not the run's memory.

        Returns
        -------
        SharedArraySource or UnpackedSource
            To be closed by the caller at the end of the run.
        """
        info = self._info
        row_bytes = info.size.width * info.samples * info.itemsize
        if on_disk:
            return unpacked(info, folder, lambda y, rows: self._array[y : y + rows], max(1, _BAND_BYTES // row_bytes))
        buffer = SharedBuffer.allocate(info.size.height * row_bytes, folder)
        try:
            pixels = np.frombuffer(buffer.view(), info.dtype).reshape(info.shape)
            band = max(1, _BAND_BYTES // row_bytes)
            for y in range(0, info.size.height, band):
                pixels[y : y + band] = self._array[y : y + band]
            del pixels
        except BaseException:
            buffer.close()
            raise
        return SharedArraySource(info, buffer)

    def __reduce__(self) -> Any:
        raise TypeError("an ArraySource does not travel between processes; prepare() gives one that does")


@dataclass(frozen=True, slots=True)
class SharedArraySource:
    """The pixels of an array in shared memory; pickles inside the engine only, where descriptors are passed on."""

    info: SourceInfo
    buffer: SharedBuffer

    def open(self) -> Reader:
        """Read the shared memory as views."""
        pixels = np.frombuffer(self.buffer.view(), self.info.dtype).reshape(self.info.shape)
        pixels.flags.writeable = False
        return _ArrayReader(pixels, self.info)

    def close(self) -> None:
        """Give the memory back."""
        self.buffer.close()


@dataclass(frozen=True, slots=True)
class NpySource:
    """Pixels in a `.npy` file or behind a memory map; each worker opens the file itself."""

    path: str
    offset: int
    dtype: str
    strides: tuple[int, int, int]
    info: SourceInfo

    @classmethod
    def at(cls, path: str) -> NpySource | ArraySource:
        """Describe a `.npy` file (numpy.lib.format); raises SourceError when it is damaged or holds no image."""
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # NumPy's own kinds, and those of the tokenizer that reads the header
            what = " ".join(str(error).split())  # some are paragraphs
            raise SourceError(f"{path} can't be read as a .npy file ({what}); it is cut short or damaged") from error
        return cls.of(array, "npy") or ArraySource(array, path)

    @classmethod
    def of(cls, array: NDArray[Any], format: str = "array") -> NpySource | None:
        """Describe a memory map by its file; None where the file can't be read row by row, or is not what the array
        shows.
        """
        root: Any = array
        start = array.__array_interface__["data"][0]
        while isinstance(root.base, np.memmap):
            root = root.base
        filename = getattr(array, "filename", None)  # None where the memory is not the file's any more
        if filename is None or root.mode == "c" or not isinstance(root.base, mmap.mmap) or array.ndim not in (2, 3):
            return None
        info = _describe(array.shape, array.dtype, str(filename), format)
        strides = array.strides if array.ndim == 3 else (*array.strides, array.itemsize)
        packed = strides[2] == array.itemsize or info.samples == 1
        if not packed or strides[1] != info.samples * info.itemsize or strides[0] <= 0:
            return None
        offset = root.offset + start - root.__array_interface__["data"][0]
        return cls(str(filename), offset, array.dtype.str, (strides[0], strides[1], strides[2]), info)

    def open(self) -> Reader:
        """Open the file in this process."""
        return RowsReader(
            PixelFile(self.path), self.offset, self.info.size, self.info.samples, np.dtype(self.dtype), self.strides[0]
        )


class _ArrayReader:
    """Reads regions of an array: views where rows are packed and bytes in this machine's order, copies otherwise."""

    def __init__(self, array: Pixels, info: SourceInfo) -> None:
        self._array: Pixels | None = array
        self._name = info.name
        packed = array.strides[1:] == (info.samples * info.itemsize, info.itemsize)
        self._views = packed and array.strides[0] > 0 and array.dtype.isnative

    def read(self, y: int, x: int, height: int, width: int, out: Pixels) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        if self._array is None:
            raise SourceError(f"{self._name} was closed")
        pixels = self._array[y : y + height, x : x + width]
        if self._views:
            return pixels
        answer = out[:height, :width]
        answer[...] = pixels
        return answer

    def close(self) -> None:
        """Let go of the array."""
        self._array = None


def _describe(shape: tuple[int, ...], dtype: np.dtype[Any], name: str, format: str) -> SourceInfo:
    """Check shape and dtype of pixels in memory; SourceError says what to do about those that can't be converted."""
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3)):
        hint = (
            ": move the samples to the last axis, array.transpose(1, 2, 0)"
            if len(shape) == 3 and shape[0] in (1, 3)
            else ""
        )
        hint = hint or (": drop the alpha, array[:, :, :3]" if len(shape) == 3 and shape[2] == 4 else "")
        raise SourceError(f"{name} has shape {shape}; {_SUPPORTED}{hint}")
    samples = shape[2] if len(shape) == 3 else 1
    if 0 in shape:
        raise SourceError(f"{name} has shape {shape}, which holds no pixel")
    if dtype.name not in ("uint8", "uint16") or (dtype.name == "uint16" and samples != 1):
        remedy = "array.astype('uint8') * 255" if dtype == np.bool_ else "array.astype('uint8') after scaling to 0..255"
        raise SourceError(f"{name} has {samples} sample(s) of {dtype.name} a pixel; {_SUPPORTED}: use {remedy}")
    return SourceInfo(name=name, format=format, size=Size(shape[0], shape[1]), samples=samples, dtype=dtype.name)
