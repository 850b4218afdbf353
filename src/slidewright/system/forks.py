"""What a fork of the caller's leaves to its parent: the run, and the files that are being written."""

from __future__ import annotations

import os
import weakref
from typing import IO, TypeVar

from slidewright.errors import RunError

_File = TypeVar("_File", bound=IO[bytes])
_written: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def of_this_process(file: _File) -> _File:
    """Note a file that is being written, and give it back: what a fork writes to it goes nowhere.

    A fork has its buffer as well, and the place in it in common. One that ends while its parent is in the middle, by an
    exception or `sys.exit`, would write what is in the buffer, and whatever comes at the end of such a file.
    """
    _written.add(file)
    return file


def refuse_fork(pid: int) -> None:
    """Raise RunError where this is not the process `pid`, which a run is of."""
    if os.getpid() != pid:
        raise RunError(f"this is a fork of the process {pid}, which converts; only that one can go on")


def _leave_to_parent() -> None:
    files = [file for file in _written if not file.closed]
    if files:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for file in files:
            os.dup2(nowhere, file.fileno(), inheritable=False)
        os.close(nowhere)
        _written.clear()  # its number may be that of another file later on


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)
