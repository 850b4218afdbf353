"""Files and folders that outlive nobody: locks that end with their process, and removing what killed runs left."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows, where an open file can't be removed anyway
    fcntl = None  # type: ignore[assignment]


class FileLock:
    """An exclusive lock that ends with its process.

    Raises BlockingIOError if another process has it and this one is not to `wait`.
    """

    def __init__(self, path: str, *, wait: bool = True) -> None:
        self._fd: int | None = None
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
            if fcntl is not None:
                try:  # to wait takes no time where another run may only be looking at it
                    fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(fd)
                    raise
                except OSError:  # a filesystem without locks
                    pass
            if _is_same(path, fd):
                self._fd = fd
                return
            os.close(fd)  # it has removed the file between its making and its locking

    def release(self) -> None:
        """Give it up."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _is_same(path: str, fd: int) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except OSError:
        return False


def remove_abandoned(lock: str, remove: Callable[[], None]) -> None:
    """Call `remove` if a lock file is there and nobody holds its lock; it is held meanwhile, so that nobody takes what
    is being removed for their own.
    """
    try:
        fd = os.open(lock, os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove()
    except OSError:
        return
    finally:
        os.close(fd)


def total_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes of a file, or of all files in a folder."""
    root = Path(path)
    if root.is_dir():
        return sum(item.stat().st_size for item in root.rglob("*") if item.is_file())
    return root.stat().st_size


def remove(path: str) -> None:
    """Remove a file or a folder with all in it; nothing to remove is fine."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)
