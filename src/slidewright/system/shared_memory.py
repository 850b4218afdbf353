"""Memory shared between processes: anonymous, reserved up front, gone when the last holder is gone.

Not `multiprocessing.shared_memory`: its blocks have names in /dev/shm, which a SIGKILL leaves behind, and are not
reserved, so a full /dev/shm (64 MB in a Docker container) ends in a bus error. Here the memory is a memfd, or an
unlinked temporary file where that can't be had, and `posix_fallocate` makes sure of every page before anybody touches
it.
"""

from __future__ import annotations

import errno
import io
import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from typing import Any

from slidewright.errors import OutputError
from slidewright.system.files import temporary_folder


class SharedBuffer:
    """A fixed number of bytes that several processes can map.

    Another process gets it by file descriptor, see `processes.py`; where there are no such descriptors (Windows) it
    can be shared between threads only.
    """

    def __init__(self, fd: int | None, nbytes: int, in_file: bool = False) -> None:
        self.fd = fd
        self.nbytes = nbytes
        self.in_file = in_file
        """Whether it is a temporary file, which a disk may lose a part of and tell nobody."""
        try:
            self._map = mmap.mmap(-1 if fd is None else fd, max(1, nbytes))
        except BaseException:  # such as beyond `ulimit -v`: nobody has it who could close it, and its memory would stay
            if fd is not None:
                os.close(fd)
            raise

    @classmethod
    def allocate(
        cls, nbytes: int, folder: str | os.PathLike[str] | None = None, *, on_disk: bool = False
    ) -> SharedBuffer:
        """Reserve `nbytes` in memory, or in an unlinked file in `folder` if memory is refused or `on_disk` is set.

        Raises
        ------
        OutputError
            If neither has room, or no more files may be open.
        """
        try:
            return cls._allocated(nbytes, folder, on_disk)
        except OSError as error:
            raise OutputError(
                f"can't get {nbytes / 1e6:.0f} MB of working memory ({error.strerror or error}); use fewer workers, or "
                "raise the limits (ulimit -n)"
            ) from error

    @classmethod
    def _allocated(cls, nbytes: int, folder: str | os.PathLike[str] | None, on_disk: bool) -> SharedBuffer:
        if not hasattr(os, "posix_fallocate"):
            return cls(_unreserved_file(nbytes, folder), nbytes, os.name != "nt")
        if not on_disk and hasattr(os, "memfd_create"):
            try:
                fd = os.memfd_create("slidewright", os.MFD_CLOEXEC)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS):
                    raise
            else:  # a container may forbid it, or not have it: a file does as well
                if _reserve(fd, nbytes):
                    return cls(fd, nbytes)
        fd = _unlinked_file(folder)
        if _reserve(fd, nbytes):
            return cls(fd, nbytes, True)
        where = folder or temporary_folder()
        raise OutputError(
            f"no room for {nbytes / 1e6:.0f} MB of working memory, neither in memory nor in {os.fspath(where)!r}; "
            "use fewer workers, or point TMPDIR or --scratch to a larger disk"
        )

    def view(self) -> memoryview:
        """The whole buffer, writable."""
        return memoryview(self._map)[: self.nbytes]

    def close(self) -> None:
        """Unmap it here; the memory goes when every process has. Views handed out must be gone first, else it goes
        with them.
        """
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        try:
            self._map.close()
        except BufferError:  # an array still looks at it; the mapping goes with that array
            pass


def _reserve(fd: int, nbytes: int) -> bool:
    """Make sure of `nbytes` behind a descriptor; closes it and answers False when there is no room."""
    try:
        os.posix_fallocate(fd, 0, max(1, nbytes))
    except BaseException as error:  # also Ctrl-C: gigabytes take seconds
        os.close(fd)
        if not isinstance(error, OSError):
            raise
        return False
    return True


def _unlinked_file(folder: str | os.PathLike[str] | None) -> int:
    with tempfile.TemporaryFile(prefix="slidewright-", dir=folder) as file:
        return os.dup(file.fileno())


def _unreserved_file(nbytes: int, folder: str | os.PathLike[str] | None) -> int | None:
    """For systems without `posix_fallocate`: a file on macOS, plain anonymous memory (None) on Windows."""
    if os.name == "nt":
        return None
    fd = _unlinked_file(folder)
    os.truncate(fd, max(1, nbytes))
    return fd


def dumps(value: object) -> tuple[bytes, list[SharedBuffer]]:
    """Pickle a value; the shared buffers in it are left out and listed, to be passed by descriptor."""
    buffers: list[SharedBuffer] = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> tuple[int, int, bool] | None:
            if not isinstance(obj, SharedBuffer):
                return None
            if obj not in buffers:
                buffers.append(obj)
            return buffers.index(obj), obj.nbytes, obj.in_file

    stream = io.BytesIO()
    Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    return stream.getvalue(), buffers


def loads(data: bytes, fds: Sequence[int]) -> Any:
    """The other end of `dumps`: `fds` are the buffers' descriptors in the order of its list; this process owns them
    from now on.
    """

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: tuple[int, int, bool]) -> SharedBuffer:
            index, nbytes, in_file = pid
            if index not in opened:
                opened[index] = SharedBuffer(fds[index], nbytes, in_file)
            return opened[index]

    opened: dict[int, SharedBuffer] = {}
    return Unpickler(io.BytesIO(data)).load()
