"""Starting the fork server: on demand, or ahead, as the first thing that the command does.

It takes a third of a second to import what workers need. Begun ahead, it does so while the command line imports what it
needs itself. This module imports little, for what comes before the start is not saved.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

PRELOAD = (
    "numpy",
    "imagecodecs",
    "imagecodecs._jpeg8",
    "cv2",
    "tifffile",
    "multiprocessing.connection",
    "slidewright.engine.memory_budget",
    "slidewright.engine.worker",
    "slidewright.engine.writer",
    "slidewright.formats.tiff",
    "slidewright.sources.tiff",
    "slidewright.sources.wrappers.fill",
)
"""What workers and writer are forked with."""

IGNORED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)
"""Signals about which the coordinator decides: a terminal's Ctrl-C and Ctrl-\\ reach the whole group."""

# One thread a worker, or N workers would start N x cores threads. And glibc gives an array of a tile's size back to
# the system each time it is freed, which costs as much in page faults as the JPEG decoding itself; a high threshold
# keeps it in the process.
ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS"), "1"),
    **dict.fromkeys(("ZARR_THREADING__MAX_WORKERS", "ZARR_ASYNC__CONCURRENCY"), "1"),
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
    "MALLOC_ARENA_MAX": "2",
}

LARGE_SOURCE = 16 << 20
"""A source of more bytes than this is worth processes whatever is in it: they start before it is opened."""

_IMPORT_SECONDS = 3.0
_VERBS = ("convert", "shard")
_WITHOUT = ("-h", "--help", "--dry-run")

ForkServer = tuple[socket.socket, subprocess.Popen[bytes]]
"""The end of its socket that is ours, and its process."""

_ahead: list[ForkServer] = []
_starting = threading.RLock()
"""Held while a descriptor may be inherited, which two that start at once would have of each other."""


def start(preload: Sequence[str]) -> ForkServer:
    """Start a fork server, which imports the modules of `preload`; raises OSError where that can't be done."""
    path = _settled_path()
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(None)  # whatever the caller has made the default of all its sockets
    process: subprocess.Popen[bytes] | None = None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with _starting, theirs:
            serve = f"main({theirs.fileno()}, {list(preload)!r}, {os.getpid()}, {_inherited()!r})"
            code = f"import sys; sys.path[:] = {path!r}; from slidewright.system.forkserver import main; {serve}"
            try:
                # Ctrl-C reaches it as well: it waits until the fork server has said that it ignores it, imports or not.
                # To block a signal may raise what one before it asks for, and to give way to those held back will.
                signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
                # With close_fds, Popen would wait for the end of a pipe that a fork by another thread may have as well
                # and keep; without, posix_spawn says when the process has begun.
                theirs.set_inheritable(True)
                process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    stdin=subprocess.DEVNULL,
                    close_fds=False,
                    env={**os.environ, **ENVIRONMENT},
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    except BaseException:
        ours.close()
        if process is not None:
            process.kill()
            process.wait()
        raise
    return ours, process


def _start_anew() -> None:
    """In a fork, by another thread, that has the lock as it was."""
    global _starting
    _starting = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def _inherited() -> list[tuple[int, int]]:
    """The descriptors that a child would have as well, but for the standard streams: first, and end, of each range."""
    found: list[tuple[int, int]] = []
    with contextlib.suppress(OSError):
        for number in sorted(map(int, os.listdir("/dev/fd"))):
            with contextlib.suppress(OSError):  # the folder's own
                if number > 2 and os.get_inheritable(number):
                    first = found.pop()[0] if found and found[-1][1] == number else number
                    found.append((first, number + 1))
    return found


def _settled_path() -> list[str]:
    """`sys.path`, but not as it is for a moment while another thread imports OpenCV: whose folder then comes before the
    standard library, and has a `typing` of its own.
    """
    deadline = time.monotonic() + _IMPORT_SECONDS
    while True:
        importing = hasattr(sys, "OpenCV_LOADER")
        path = [each for each in sys.path if isinstance(each, str)]  # others, such as a Path, count for nothing
        if not (importing or hasattr(sys, "OpenCV_LOADER")) or time.monotonic() > deadline:  # it stays if that failed
            return path
        time.sleep(0.01)


def can_start() -> bool:
    """Whether there can be a fork server: a program that is frozen would start itself, and that itself, without end."""
    is_python = bool(sys.executable) and not getattr(sys, "frozen", False)
    return is_python and hasattr(os, "fork") and hasattr(socket, "send_fds")


def begin(arguments: Sequence[str]) -> None:
    """Start the fork server of a command line, given without the program's name, if it is certain to need one: nothing
    is lost where the guess is wrong but the start, and no error is told here.
    """
    if _needs_processes(arguments):
        with contextlib.suppress(OSError):  # whoever needs it tries again and says why not
            _ahead.append(start(PRELOAD))


def take() -> ForkServer | None:
    """The fork server that was begun ahead, once; it has imported `PRELOAD`."""
    return _ahead.pop() if _ahead else None


def drop() -> None:
    """End the fork server that was begun ahead, if nobody took it."""
    while _ahead:
        connection, process = _ahead.pop()
        process.kill()  # it has no child and owns no file
        process.wait()
        connection.close()


def _needs_processes(arguments: Sequence[str]) -> bool:
    if not can_start() or not arguments or arguments[0] not in _VERBS:
        return False
    if any(word in _WITHOUT for word in arguments):
        return False
    try:
        for fd in range(3):
            os.fstat(fd)  # one that is closed would become one end of the socket
    except OSError:
        return False
    workers = _workers(arguments)
    return workers > 0 if workers is not None else any(_is_large(word) for word in arguments[1:])


def _workers(arguments: Sequence[str]) -> int | None:
    """The number that `--workers` gives, if it gives one."""
    for word, after in zip(arguments, (*arguments[1:], ""), strict=True):
        option, _, number = word.partition("=")
        if option == "--workers":
            with contextlib.suppress(ValueError):
                return int(number or after)
    return None


def _is_large(word: str) -> bool:
    """Whether a word of the command line is the name of a large file."""
    try:
        return not word.startswith("-") and os.path.getsize(word) > LARGE_SOURCE and os.path.isfile(word)
    except (OSError, ValueError):
        return False
