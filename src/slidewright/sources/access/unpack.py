"""Wide compressed strips, unpacked once before the workers begin.

A strip spans the whole width, so a tile needs every strip beside it: where those do not fit in a worker's cache, each
would be decoded again for every column of tiles (measured at 20,000 pixels: 70 ms a tile instead of 0.4). So the strips
are decoded in order, once, into an unlinked file, and read from there with `pread`, which keeps them out of the
workers' memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from slidewright.errors import OutputError, SourceError
from slidewright.sources.access.raw_rows import RowsReader
from slidewright.sources.access.tile_grid import CACHE_BYTES
from slidewright.sources.base import CorruptPlace, Pixels, Reader, Source, SourceInfo, known
from slidewright.sources.tiff import TiffSource
from slidewright.system.files import tell_of_loss
from slidewright.system.pixel_file import PixelFile
from slidewright.system.shared_memory import SharedBuffer

_TILE_ROWS = 1024  # the rows that the caller walks to and fro in, of two common tiles


def unpacked_first(source: TiffSource, *, compressed_strips: bool) -> TiffSource | WideStripsSource:
    """The source itself, or one that unpacks its strips where a worker's cache is too small for them."""
    info = source.info
    rows = max(_TILE_ROWS, info.tile.height if info.tile else 0)
    working_set = min(rows, info.size.height) * info.size.width * info.samples * info.itemsize
    return WideStripsSource(source) if compressed_strips and working_set > CACHE_BYTES else source


@dataclass(frozen=True, slots=True)
class WideStripsSource(Source):
    """A TIFF whose strips are to be unpacked before the run; readable as it is, slowly."""

    source: Source

    @property
    def info(self) -> SourceInfo:
        """What is known of the TIFF."""
        return self.source.info

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return self.source.identity()

    def open(self) -> Reader:
        """Read the strips where they are."""
        return self.source.open()

    @contextmanager
    def shared(self, folder: str | None = None, *, on_disk: bool = False) -> Iterator[Source]:
        """Unpack the strips into an unlinked file in `folder`, see `Source`; CorruptTileError for one that can't be."""
        copy = self._unpacked(folder)
        try:
            yield copy
        finally:
            copy.close()

    def _unpacked(self, folder: str | None) -> UnpackedSource:
        info = self.info
        assert info.tile is not None
        reader, width = self.source.open(), info.size.width
        depth = 1 if info.planar else info.samples
        strip = np.empty((info.tile.height, width, depth), info.dtype)
        try:
            step = info.tile.height
            copy = unpacked(
                info, folder, lambda y, rows, plane: known(reader.read(y, 0, rows, width, strip, plane * depth)), step
            )
            return replace(copy, filled=reader.filled())
        finally:
            reader.close()


def unpacked(
    info: SourceInfo, folder: str | None, rows_at: Callable[[int, int, int], Pixels], step: int
) -> UnpackedSource:
    """Pixels, got `step` rows at a time by `rows_at(y, rows, plane)`, in an unlinked file in `folder`."""
    row_bytes = info.size.width * (1 if info.planar else info.samples) * info.itemsize
    buffer = SharedBuffer.allocate(int(np.prod(info.shape)) * info.stack.frames * info.itemsize, folder, on_disk=True)
    try:
        for plane, offset in enumerate(_offsets(info)):
            for y in range(0, info.size.height, step):
                rows = np.ascontiguousarray(rows_at(y, min(step, info.size.height - y), plane), info.dtype)
                _write(buffer, offset + y * row_bytes, memoryview(rows).cast("B"))
    except BaseException:
        buffer.close()
        raise
    return UnpackedSource(info, buffer)


@dataclass(frozen=True, slots=True)
class UnpackedSource(Source):
    """Unpacked strips in an unlinked file; pickles inside the engine only, where descriptors are passed on."""

    info: SourceInfo
    buffer: SharedBuffer
    filled: Mapping[CorruptPlace, str] = field(default_factory=dict)

    def open(self) -> Reader:
        """Read the unpacked rows, by a descriptor of the reader's own."""
        if self.buffer.fd is None:
            raise SourceError(f"{self.info.name}: its unpacked strips were given back already")
        file = _TemporaryFile(self.info.name, os.dup(self.buffer.fd))
        samples = 1 if self.info.planar else self.info.samples
        return RowsReader(file, _offsets(self.info), self.info.size, samples, np.dtype(self.info.dtype))

    def close(self) -> None:
        """Give the disk space back."""
        self.buffer.close()


class _TemporaryFile(PixelFile):
    """The unlinked file, of which a temporary disk may have lost some, so that there are zeros."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """See `PixelFile`."""
        got = super().read_into(offset, buffer)
        self._check()
        return got

    def read_rows(self, offset: int, pitch: int, count: int, rows: int, buffer: memoryview, stride: int) -> int:
        """See `PixelFile`."""
        got = super().read_rows(offset, pitch, count, rows, buffer, stride)
        self._check()
        return got

    def _check(self) -> None:
        try:
            tell_of_loss(-1 if self._fd is None else self._fd)
        except OSError as error:
            raise OutputError(f"unpacked pixels of {self.path}: {error.strerror}; check the temporary disk") from error


def _offsets(info: SourceInfo) -> list[int]:
    """Where each plane begins in the unpacked file: of one channel, or of whole pixels of a frame."""
    depth = 1 if info.planar else info.samples
    plane_bytes = info.size.height * info.size.width * info.itemsize * depth
    return [plane * plane_bytes for plane in range(info.all_samples // depth)]


def _write(buffer: SharedBuffer, offset: int, data: memoryview) -> None:
    """Put bytes into the buffer's file, not through its mapping, whose pages would count as memory of the run."""
    if buffer.fd is None or not hasattr(os, "pwrite"):
        buffer.view()[offset : offset + len(data)] = data
        return
    try:
        while data:
            done = os.pwrite(buffer.fd, data, offset)
            data, offset = data[done:], offset + done
    except OSError as error:
        raise OutputError(f"unpacking strips to the temporary folder failed: {error.strerror or error}") from error
