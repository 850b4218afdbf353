"""Locks that end with their process, and removing what killed runs left; apart because hosts that share a disk need not
see each other's locks.
"""

from __future__ import annotations

import contextlib
import os
import socket
import weakref
from collections.abc import Callable, Iterable

from slidewright.system.file_identity import leads_to
from slidewright.system.files import NOTE_AT, close_quietly, read_at, regular
from slidewright.system.mounts import Mounts

try:
    import fcntl
except ImportError:  # Windows, where an open file can't be removed anyway
    fcntl = None  # type: ignore[assignment]

_HOST = socket.gethostname().encode("utf-8", "surrogateescape")[: NOTE_AT - 1]
_OF_ONE_HOST = {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
_LOCKS_FOR_ALL = {"ceph", "gpfs"}


class FileLock:
    """An exclusive lock that ends with its process; the file says on which host that is.

    Raises BlockingIOError if another process has it and this one is not to `wait`.
    """

    def __init__(self, path: str, *, wait: bool = True) -> None:
        self._fd: int | None = None
        _held.add(self)  # first, as another thread may fork at any time
        while True:
            self._fd = fd = regular(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0))
            kept = False
            try:
                if fcntl is not None:
                    try:  # to wait takes no time where another run may only be looking at it
                        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        raise
                    except OSError:
                        pass  # a filesystem without locks
                if leads_to(path, os.fstat(fd)):
                    with contextlib.suppress(OSError):  # a full disk, of which who comes next will tell
                        os.ftruncate(fd, 0)
                        os.write(fd, _HOST)
                    kept = True
                    return
            finally:
                if not kept:  # it has removed the file between its making and its locking; or such as Ctrl-C
                    self.release()

    def note(self, words: Iterable[bytes]) -> None:
        """Write what whoever cleans up has to know into the file, in place of what was noted before; a disk that has no
        room for it is no error.
        """
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, NOTE_AT)
                os.lseek(self._fd, NOTE_AT, os.SEEK_SET)
                os.write(self._fd, b" ".join(words))

    def release(self) -> None:
        """Give it up, once: a signal may come right after, and whoever cleans up then calls this again."""
        fd, self._fd = self._fd, None
        if fd is not None:
            close_quietly(fd)


_held: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _leave_to_parent() -> None:
    """In a fork, which has its parent's locks as well and would keep them for as long as it lives."""
    for lock in list(_held):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


def remove_abandoned(lock: str, remove: Callable[[], None]) -> None:
    """Call `remove` if a lock file is there and nobody holds its lock; it is held meanwhile, so that nobody takes what
    is being removed for their own. Where a lock of another host could not be seen, what is that host's is left alone.
    """
    try:
        fd = regular(lock, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return
    try:
        if fcntl is not None:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if read_at(fd, 0, NOTE_AT).rstrip(b"\0") == _HOST or _seen_by_other_hosts(lock):
            remove()
    except OSError:
        return
    finally:
        close_quietly(fd)


def is_abandoned(lock: str) -> bool:
    """Whether a lock file is there and nobody holds its lock, as far as that can be seen, see `remove_abandoned`."""
    found: list[bool] = []
    remove_abandoned(lock, lambda: found.append(True))
    return bool(found)


def _seen_by_other_hosts(path: str) -> bool:
    """Whether a lock holds for every host that sees the file, as far as the kind of filesystem tells: BeeGFS, Lustre
    with "localflock", NFS with "local_lock" and most of FUSE keep it to the host itself.
    """
    mount = Mounts().of(os.path.realpath(path))
    if mount is None:
        return True
    kind, options = mount.kind, mount.options
    if kind in ("nfs", "nfs4"):
        return not options & {"local_lock=flock", "local_lock=all", "nolock"}
    return kind in {*_OF_ONE_HOST, *_LOCKS_FOR_ALL} or (kind == "lustre" and "flock" in options)
