"""Stores of zarr's, opened and read with distrust: every file of a folder is a regular one, metadata are not endless,
no member of a .zip inflates without bound, and what is missing is so in the store that was opened.

Imported only where zarr is needed, since it imports the zarr library.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import struct
import warnings
import weakref
import zipfile
from collections import OrderedDict
from functools import partial
from typing import Any

from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import FsspecStore, LocalStore, ZipStore

from slidewright.errors import CorruptTileError, SourceError, alone
from slidewright.sources.access.inflated import InflatedMember
from slidewright.sources.access.zarr_codecs import know_images, open_node
from slidewright.system.file_identity import leads_to
from slidewright.system.files import broken_link, close_quietly, read_at, regular
from slidewright.system.interrupts import let_through
from slidewright.system.remote_file import http_options, is_url
from slidewright.system.zarr_thread import check_zarr_thread

_MAX_METADATA_BYTES = 64 << 20
_MAX_INFLATED_BYTES = 256 << 20  # of a compressed member of a .zip; zarr itself stores them as they are
_MEMBERS_KEPT = 4
_LOCAL = struct.Struct("<4s2xH18xHH")
"""Before each member of a .zip: its sign, flags, and how long its name and what is said more of it are."""
_MEMBER, _UTF8, _LONGEST_NAME = b"PK\3\4", 0x800, 1024
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


class FolderStore(LocalStore):
    """zarr's store of a folder, which would wait for ever for a FIFO, in a folder that has gone find no chunk, and read
    from whatever folder has the name at the moment.
    """

    def __init__(self, root: Any, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._opened = os.stat(root)
        self._documents: set[str] = set()
        """Metadata that were there."""
        self._folder: int | None = None
        if os.open in os.supports_dir_fd:
            self._folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._opened = os.fstat(self._folder)
            self._release = weakref.finalize(self, close_quietly, self._folder)

    def close(self) -> None:
        """Nothing more will be read."""
        super().close()
        if self._folder is not None:
            self._folder = None
            self._release()

    def open_file(self, key: str) -> io.FileIO:
        """The file under a key, without a buffer."""
        try:
            if self._folder is None:
                return open(os.path.join(self.root, key), "rb", buffering=0, opener=regular)
            return open(key, "rb", buffering=0, opener=partial(regular, dir_fd=self._folder))
        except OSError as error:
            error.filename = os.path.join(self.root, key)
            raise

    def check_missing(self, key: str) -> None:
        """Raise SourceError where nothing is under a key because the store, its array or what a link leads to is not
        there: it is no background then.
        """
        path = os.path.join(self.root, key)
        documents = [known for known in self._documents if key.startswith(os.path.dirname(known))]
        if not leads_to(self.root, self._opened) or not all(
            os.path.exists(os.path.join(self.root, known)) for known in documents
        ):
            raise gone(str(self.root))
        link = broken_link(str(self.root), path)
        if link is not None:  # such as a file of git-annex that is not fetched
            raise SourceError(f"{link} is a link to what is not there; fetch it, or mount its disk, and run again")

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
            data = self._read(key, byte_range)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            self.check_missing(key)
            if not isinstance(error, FileNotFoundError) and os.path.basename(key) not in _METADATA:
                raise CorruptTileError(
                    f"{os.path.join(self.root, key)} can't be a chunk: {error.strerror or error}; the store is damaged"
                ) from None
            return None
        if os.path.basename(key) in _METADATA:
            self._documents.add(key)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> list[Any]:
        """See `get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    def _read(self, key: str, byte_range: Any) -> bytes:
        path = os.path.join(self.root, key)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        with self.open_file(key) as file:
            size = os.fstat(file.fileno()).st_size
            if byte_range is None:
                _check_metadata(path, size)
            start, end = _span(byte_range, size)
            _check_inside(path, end, size)
            return read_at(file.fileno(), start, max(0, end - start))


class ArchiveStore(ZipStore):
    """zarr's store of a .zip file, which would inflate a member to whatever it says, or to more than that, and take for
    left out what its directory has lost.
    """

    def _sync_open(self) -> None:
        super()._sync_open()
        self._inflated: OrderedDict[str, InflatedMember] = OrderedDict()
        try:
            with open(self.path, "rb", opener=regular) as file:
                _check_directory(str(self.path), file.fileno(), self._zf)
        except BaseException:
            self.close()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_inflated"}

    def members(self) -> list[str]:
        """The names of all."""
        return list(self._zf.namelist()) if self._is_open else []

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """What lies under a key; None where there is nothing."""
        await self._ensure_open()
        with self._lock:
            try:
                member = self._zf.getinfo(key)
            except KeyError:
                return None
            self._check(member, byte_range)
            start, end = _span(byte_range, member.file_size)
            _check_inside(os.path.join(self.path, key), end, member.file_size)
            if byte_range is not None and member.compress_type == zipfile.ZIP_DEFLATED:
                data = self._inflating(member).read(start, end)
            else:
                with self._zf.open(member) as file:
                    file.seek(start)
                    data = file.read(max(0, end - start))  # without a number it inflates all
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> list[Any]:
        """See `get`."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    def _inflating(self, member: zipfile.ZipInfo) -> InflatedMember:
        """A compressed member of which parts are read, as of a shard; the last few are kept."""
        kept = self._inflated.pop(member.filename, None)
        if kept is None:
            self._zf.open(member).close()  # which refuses what is encrypted
            assert self._zf.fp is not None
            kept = InflatedMember(self._zf.fp, member)
        self._inflated[member.filename] = kept
        if len(self._inflated) > _MEMBERS_KEPT:
            self._inflated.popitem(last=False)
        return kept

    def _check(self, member: zipfile.ZipInfo, byte_range: Any) -> None:
        """Refuse a member that would take more memory than it should, before any of it is read."""
        name, size = os.path.join(self.path, member.filename), member.file_size
        if byte_range is None:
            _check_metadata(name, size)
        if member.compress_size > os.path.getsize(self.path):
            raise OSError(f"{name} has {member.compress_size} bytes, more than the .zip file itself")
        if member.compress_type == zipfile.ZIP_STORED:
            return
        remedy = "make the .zip again with its members stored, not compressed (zip -0), or unpack it to a folder"
        if member.compress_type != zipfile.ZIP_DEFLATED:  # the zipfile library can't stop the others half way
            raise SourceError(f"{name} is compressed by the .zip file with method {member.compress_type}; {remedy}")
        if size > _MAX_INFLATED_BYTES:
            raise SourceError(
                f"{name} would be inflated to {size} bytes, and up to {_MAX_INFLATED_BYTES} are read; {remedy}"
            )


def _check_directory(path: str, descriptor: int, archive: zipfile.ZipFile) -> None:
    """Refuse a .zip file whose directory names its members otherwise than they do themselves, or not all of them: each
    begins with a header that has its name (PKWARE's APPNOTE, 4.3.7).
    """
    end, lacks = 0, "its directory lacks the member at byte {}; the file is damaged, copy it again"
    for member in sorted(archive.infolist(), key=lambda each: each.header_offset):
        begin = member.header_offset
        if begin - end >= _LOCAL.size and read_at(descriptor, end, 4) == _MEMBER:
            raise SourceError(f"{path}: {lacks.format(end)}")
        head = read_at(descriptor, begin, _LOCAL.size + _LONGEST_NAME)
        kind, flags, name_length, extra = _LOCAL.unpack_from(head.ljust(_LOCAL.size, b"\0"))
        name = head[_LOCAL.size : _LOCAL.size + name_length]
        if kind != _MEMBER or name != member.orig_filename.encode("utf-8" if flags & _UTF8 else "cp437", "replace"):
            raise SourceError(
                f"{path}: the member that its directory calls {member.filename!r} has another name; the file is "
                "damaged, copy it again"
            )
        if member.compress_type == zipfile.ZIP_STORED and member.file_size != member.compress_size:
            raise SourceError(f"{path}: {member.filename!r} has two sizes in its directory; the file is damaged")
        end = begin + _LOCAL.size + name_length + extra + member.compress_size
    if archive.start_dir - end >= _LOCAL.size and read_at(descriptor, end, 4) == _MEMBER:
        raise SourceError(f"{path}: {lacks.format(end)}")


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
        elif found is not None and isinstance(byte_range, RangeByteRequest):
            _check_inside(f"{self.path}/{key}", byte_range.end, byte_range.start + len(found))
        return found


def gone(folder: str) -> SourceError:
    """The error about a folder that is not there any more, in which every chunk would be missing."""
    return SourceError(f"{folder} was moved or removed while it was read; run again when it is there")


def _check_metadata(path: str, size: int) -> None:
    """Refuse a file of metadata that nobody has."""
    if os.path.basename(path) in _METADATA and size > _MAX_METADATA_BYTES:
        raise OSError(f"{path} has {size} bytes of metadata")


def _check_inside(path: str, end: int, size: int) -> None:
    """Refuse a chunk that lies beyond the end of its shard, which zarr would take for one that was left out."""
    if end > size:
        raise CorruptTileError(
            f"{path} is cut short: a chunk of it ends at byte {end}, and it has {size}; copy it again"
        )


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
            target = ArchiveStore(store, mode="r") if is_zip else FolderStore(store, read_only=True)
        with warnings.catch_warnings():  # about codecs beyond the specification, which are read all the same
            warnings.simplefilter("ignore", UserWarning)
            return open_node(target, inner)
    except Exception as raised:
        let_through(raised)
        error = alone(raised)
        where = os.path.join(store, inner) if inner else store
        remedy = "check that the store is whole"
        if type(error).__name__ == "UnknownCodecError":  # zarr and numcodecs each have one
            remedy = "save it again with another; the codecs of imagecodecs for zarr v3 came with its release 2026.5.10"
        raise SourceError(f"{where} can't be opened by zarr ({type(error).__name__}: {error}); {remedy}") from error
