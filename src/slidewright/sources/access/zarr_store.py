"""Stores of zarr's, opened and read with distrust: every file of a folder is a regular one, metadata are not endless,
and what is missing is so in the store that was opened.

Imported only where zarr is needed, since it imports the zarr library.
"""

from __future__ import annotations

import asyncio
import os
import warnings
from typing import Any

import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore

from slidewright.errors import SourceError, alone
from slidewright.sources.access.zarr_codecs import know_images, open_node
from slidewright.system.files import broken_link, leads_to, regular
from slidewright.system.remote_file import http_options, is_url
from slidewright.system.zarr_thread import check_zarr_thread

_MAX_METADATA_BYTES = 64 << 20
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


class FolderStore(LocalStore):
    """zarr's store of a folder, which would wait for ever for a FIFO, and in a folder that has gone find no chunk."""

    def __init__(self, root: Any, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._opened = os.stat(root)

    async def _ensure_open(self) -> None:
        """It is there, as `os.stat` has said; zarr would ask a thread, which the end of the main thread takes away."""
        self._is_open = True

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """What lies under a key; None where there is nothing."""
        try:  # several at a time, which a slow file system needs
            return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)
        except RuntimeError:  # the program's main thread has ended, and with it the threads that would do it
            return self.get_sync(key, prototype=prototype, byte_range=byte_range)

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """See `get`."""
        try:
            data = _read(os.path.join(self.root, key), byte_range)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            if not leads_to(self.root, self._opened):
                raise gone(str(self.root)) from None
            link = broken_link(str(self.root), os.path.join(self.root, key))
            if link is not None:  # such as a file of git-annex that is not fetched
                remedy = "fetch it, or mount its disk, and run again"
                raise SourceError(f"{link} is a link to what is not there; {remedy}") from None
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> list[Any]:
        """See `get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]


class RemoteStore(FsspecStore):
    """zarr's store of a URL, which would take a server that has lost all of it for background."""

    _known: str | None = None
    """Metadata that were there."""

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """What lies under a key; None where there is nothing, and the rest of the store still is."""
        found = await super().get(key, prototype or default_buffer_prototype(), byte_range)
        if os.path.basename(key) in _METADATA:
            self._known = key if found is not None else self._known
        elif found is None and self._known is not None and not await self.exists(self._known):
            raise gone(self.path)
        return found


def gone(folder: str) -> SourceError:
    """The error about a folder that is not there any more, in which every chunk would be missing."""
    return SourceError(f"{folder} was moved or removed while it was read; run again when it is there")


def _read(path: str, byte_range: Any) -> bytes:
    if os.path.isdir(path):
        raise IsADirectoryError(path)
    with open(path, "rb", opener=regular) as file:
        size = os.fstat(file.fileno()).st_size
        if byte_range is None and os.path.basename(path) in _METADATA and size > _MAX_METADATA_BYTES:
            raise OSError(f"{path} has {size} bytes of metadata")
        start, end = _span(byte_range, size)
        file.seek(start)
        return file.read(max(0, min(end, size) - start))


def _span(byte_range: Any, size: int) -> tuple[int, int]:
    """(first, end) of the bytes that are asked for."""
    match byte_range:
        case None:
            return 0, size
        case RangeByteRequest():
            return byte_range.start, byte_range.end
        case OffsetByteRequest():
            return byte_range.offset, size
        case SuffixByteRequest():
            return max(0, size - byte_range.suffix), size
    raise TypeError(f"a range of bytes of kind {type(byte_range).__name__}")


def open_store(store: str, inner: str) -> Any:
    """The array or group in a folder, a .zip file or behind a URL; raises SourceError."""
    know_images()
    check_zarr_thread(store)
    try:
        is_zip = store.lower().endswith(".zip")
        if is_url(store):
            target: Any = RemoteStore.from_url(store, http_options(store), read_only=True)
        else:
            target = zarr.storage.ZipStore(store, mode="r") if is_zip else FolderStore(store, read_only=True)
        with warnings.catch_warnings():  # about codecs beyond the specification, which are read all the same
            warnings.simplefilter("ignore", UserWarning)
            return open_node(target, inner)
    except Exception as raised:
        error = alone(raised)
        where = os.path.join(store, inner) if inner else store
        remedy = "check that the store is whole"
        if type(error).__name__ == "UnknownCodecError":  # zarr and numcodecs each have one
            remedy = "save it again with another; the codecs of imagecodecs for zarr v3 came with its release 2026.5.10"
        raise SourceError(f"{where} can't be opened by zarr ({type(error).__name__}: {error}); {remedy}") from error
