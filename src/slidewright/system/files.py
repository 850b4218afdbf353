"""Files with distrust: opening only what is a file, whole reads, hidden names, removing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from slidewright.errors import OutputError

NOTE_AT = 256
"""Where in a lock file it says what whoever cleans up has to know; before that is the name of the host."""
_LONGEST_NAME = 200  # bytes; most filesystems hold 255, and what is hidden beside a file has a longer name than it
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_AT_FDCWD = -100
_WAIT_BEFORE = 1  # of Linux's sync_file_range
_LOSSES = (errno.EIO, errno.ENOSPC, getattr(errno, "EDQUOT", errno.EIO))


def regular(
    path: str | os.PathLike[str], flags: int = os.O_RDONLY, mode: int = 0o666, *, dir_fd: int | None = None
) -> int:
    """Open a regular file, and nothing else: the `opener` of every `open()` of a path that others may have chosen. With
    `dir_fd` the path is one in that open folder.

    A FIFO would be waited for without end, a device may do anything. So it is opened without waiting, then looked at.

    Raises
    ------
    OSError
        As `os.open`, and for what is no regular file.
    """
    more = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
    try:
        fd = os.open(path, flags | more | getattr(os, "O_BINARY", 0), mode, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a FIFO that nobody reads
            raise _not_regular(path) from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _not_regular(path)
    except BaseException:
        close_quietly(fd)
        raise
    return fd


def _not_regular(path: str | os.PathLike[str]) -> OSError:
    return OSError(errno.EINVAL, "it is no regular file", os.fspath(path))


def new_file(path: str | os.PathLike[str], flags: int, mode: int = 0o666) -> int:
    """The `opener` of a file that must not be there yet: not even a link that somebody put there is followed."""
    more = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | more | getattr(os, "O_BINARY", 0), mode)


def close_quietly(fd: int) -> None:
    """Close what nothing of use was written through: a lock, a folder, what was only read. The disk may tell of an
    error, which is nobody's; the descriptor is closed all the same.
    """
    with contextlib.suppress(OSError):
        os.close(fd)


def hold_standard_streams() -> None:
    """Let descriptors 0 to 2 that are closed lead nowhere: else the next file that is opened gets one of them, and what
    a library prints goes into it.
    """
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest that is free


def read_at(fd: int, offset: int, count: int) -> bytes:
    """Bytes at a place; fewer only at the end of the file: one call of the system may give less on a network disk."""
    pieces = []
    while count > 0:
        if hasattr(os, "pread"):
            piece = os.pread(fd, count, offset)
        else:
            os.lseek(fd, offset, os.SEEK_SET)  # Windows
            piece = os.read(fd, count)
        if not piece:
            break
        pieces.append(piece)
        offset, count = offset + len(piece), count - len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def fill_from(file: IO[bytes], buffer: memoryview) -> int:
    """Read an unbuffered file into a buffer until that is full or the file ends, see `read_at`; how much there was."""
    done = 0
    while done < len(buffer):
        got: int = file.readinto(buffer[done:]) or 0  # type: ignore[attr-defined]
        if not got:
            break
        done += got
    return done


def write_whole(path: str, data: bytes, *, sync: bool = False, overwrite: bool = True) -> None:
    """Write a file that is there whole or not at all, in place of one that may be there, unless `overwrite` forbids
    that; raises OSError. `sync` waits for the disk.
    """
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f".{short_name(name)}.{token()}.partial")
    try:
        with open(partial, "wb", opener=new_file) as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if overwrite:
            os.replace(partial, path)
        else:
            rename_new(partial, path)
    except BaseException:
        remove(partial)
        raise


def rename_new(old: str, new: str) -> None:
    """Rename, but never onto an existing file: a hard link fails if the name is taken, and so does Linux's own call;
    `rename` would not.
    """
    try:
        os.link(old, new)
    except FileExistsError:
        raise
    except OSError:  # a filesystem without hard links
        if not os.path.isdir(old) and _renameat2(old, new, _RENAME_NOREPLACE):
            return  # and a folder is renamed onto no other that has something in it
        if os.path.lexists(new):
            raise FileExistsError(new) from None
        os.rename(old, new)
    else:
        with contextlib.suppress(FileNotFoundError):  # the folder was moved at once, with the new name in it
            os.unlink(old)


def make_below(home: str, path: str) -> None:
    """Make a folder, and those between it and one that must be there: if somebody has removed that, it does not come
    back. Raises OSError.
    """
    if os.path.isdir(path):
        return
    for name in os.path.relpath(path, home).split(os.sep):
        home = os.path.join(home, name)
        with contextlib.suppress(FileExistsError):
            os.mkdir(home)


def temporary_folder() -> str:
    """Where the system has temporary files; OutputError where it has no place for them, as a container may not."""
    import tempfile  # seldom needed, and the fork server imports this module

    try:
        return tempfile.gettempdir()
    except FileNotFoundError as error:
        raise OutputError(
            "there is no folder for temporary files that can be written; give one with --scratch (scratch=) or TMPDIR"
        ) from error


def token() -> str:
    """What makes a temporary name one that nobody can guess: 16 hexadecimal digits."""
    return os.urandom(8).hex()


def is_token(text: str) -> bool:
    """Whether `token` may have made a text: who removes what has one in its name must not take a word for it."""
    return len(text) == 16 and set(text) <= set("0123456789abcdef")


def short_name(name: str) -> str:
    """A name that leaves room for what is added to it; one that is too long is cut, and ends with its own hash."""
    if len(os.fsencode(name)) <= _LONGEST_NAME:
        return name
    import hashlib  # seldom needed, and the fork server imports this module

    kept = name
    while len(os.fsencode(kept)) > _LONGEST_NAME - 17:
        kept = kept[:-1]
    return f"{kept}~{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}"


def broken_link(folder: str, path: str) -> str | None:
    """The link to what is not there, if any, that is why nothing is under a path in a folder."""
    for name in os.path.relpath(path, folder).split(os.sep):
        folder = os.path.join(folder, name)
        if not os.path.lexists(folder):
            return None
        if not os.path.exists(folder):
            return folder
    return None


def same_content(one: str, other: str) -> bool:
    """Whether two files hold the same bytes, or two folders the same files."""
    if os.path.isdir(one) != os.path.isdir(other):
        return False
    if not os.path.isdir(one):
        return _same_bytes(one, other)
    names = sorted(_names_in(one))
    return names == sorted(_names_in(other)) and all(
        _same_bytes(os.path.join(one, name), os.path.join(other, name)) for name in names
    )


def _names_in(folder: str) -> Iterator[str]:
    for where, _, names in os.walk(folder):
        yield from (os.path.relpath(os.path.join(where, name), folder) for name in names)


def _same_bytes(one: str, other: str) -> bool:
    with open(one, "rb", opener=regular) as first, open(other, "rb", opener=regular) as second:
        if os.fstat(first.fileno()).st_size != os.fstat(second.fileno()).st_size:
            return False
        while piece := first.read(1 << 20):
            if piece != second.read(1 << 20):
                return False
    return True


def exchange(one: str, other: str) -> bool:
    """Swap two names in one step; False where system or filesystem can't (only Linux is asked, since 3.15)."""
    return _renameat2(one, other, _RENAME_EXCHANGE)


def _renameat2(old: str, new: str, flag: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flag)
    return done == 0


def mark(status: os.stat_result | tuple[int, int]) -> bytes:
    """What tells a file or folder from others, in the words of a lock file: its number, which another may have got once
    it is removed, and its time of change; of a status, or of the two (number and ns).
    """
    number, changed = (status.st_ino, status.st_mtime_ns) if isinstance(status, os.stat_result) else status
    return b"%d:%d" % (number, changed)


def _marks_in(lock: str) -> list[bytes]:
    """What a lock file says of the two whose names are exchanged; opened only where it says something."""
    try:
        if os.stat(lock).st_size <= NOTE_AT:
            return []
        with open(lock, "rb", opener=regular) as file:
            file.seek(NOTE_AT)
            return file.read(256).split()
    except OSError:
        return []


def is_stranger(path: str, lock: str) -> bool:
    """Whether what has the name of a temporary file has got it by an exchange of names, and is neither what the run
    made nor what it was to replace: it came in between, and is not to be removed.
    """
    known = _marks_in(lock)
    try:
        return bool(known) and mark(os.lstat(path)) not in known
    except OSError:
        return False


def remove_known(path: str, lock: str) -> None:
    """Remove a temporary file or folder, but for a stranger. The lock's note goes first: a folder of which a kill has
    left a part would not be known by it, and so be taken for one.
    """
    if is_stranger(path, lock):
        return
    with contextlib.suppress(FileNotFoundError):
        if os.stat(lock).st_size > NOTE_AT:
            os.truncate(lock, NOTE_AT)
    remove(path)


def settle(stem: str, path: str) -> None:
    """What a run to `path` that has ended leaves, and is not its own: what was moved aside to make room goes back where
    nothing has taken its place, else it gets the name of the partial file, to be removed: a part of it that a kill
    leaves must not come back. What was exchanged unseen goes back.
    """
    partial, lock = f"{stem}.partial", f"{stem}.lock"
    _settle_aside(f"{stem}.old", path, partial, lock)
    if is_stranger(partial, lock):
        with contextlib.suppress(OSError):
            if not os.path.lexists(path):
                os.rename(partial, path)
            elif mark(os.lstat(path)) in _marks_in(lock):
                exchange(partial, path)


def _settle_aside(aside: str, path: str, partial: str, lock: str) -> None:
    if not os.path.lexists(aside):
        return
    with contextlib.suppress(OSError):
        if os.path.lexists(path):
            remove_known(partial, lock)
            os.rename(aside, partial)
        else:
            os.rename(aside, path)


def total_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes of a file, or of all files in a folder."""
    root = Path(path)
    if root.is_dir():
        return sum(item.stat().st_size for item in root.rglob("*") if item.is_file())
    return root.stat().st_size


def remove(path: str) -> None:
    """Remove a file or a folder with all in it; nothing to remove is fine."""
    if os.path.isdir(path) and not os.path.islink(path):
        for _ in range(2):  # the error of closing a folder is not ignored, and ends it half-way
            with contextlib.suppress(OSError):
                shutil.rmtree(path, ignore_errors=True)
                break
        if os.path.lexists(path):  # folders that may not be changed, as of a store that was made read-only
            for folder, _, _ in os.walk(path):
                with contextlib.suppress(OSError):
                    os.chmod(folder, stat.S_IRWXU)
            with contextlib.suppress(OSError):
                shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Have the names in a folder on the disk."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network filesystems refuse
            os.fsync(fd)
    finally:
        close_quietly(fd)


@functools.cache
def _sync_file_range() -> Callable[..., int] | None:
    """Linux's, where the C library has it."""
    if sys.platform != "linux":
        return None
    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast("Callable[..., int]", call)


def tell_of_loss(fd: int) -> None:
    """Raise the OSError of a disk that has lost something of an open file since it was opened, without having it write
    anything: the system tells of that once, and only who waits for a part of the file.
    """
    call = _sync_file_range()
    if call is not None and call(fd, 0, 1, _WAIT_BEFORE) and ctypes.get_errno() in _LOSSES:
        raise OSError(ctypes.get_errno(), "the disk has lost a part of what was written")


def remove_guarded(path: str, lock: str) -> None:
    """Remove what a lock is for, but for a stranger, and then the lock; it stays, so that the next run tries again, if
    something does (NFS keeps what a process holds open, under another name).
    """
    try:
        _remove_with_lock(path, lock)
    except BaseException:  # Ctrl-C, after which a process may live on
        _remove_with_lock(path, lock)
        raise


def _remove_with_lock(path: str, lock: str) -> None:
    with contextlib.suppress(OSError):  # of a disk that fails; the next run tries again
        remove_known(path, lock)
    if not os.path.lexists(path):
        remove(lock)
