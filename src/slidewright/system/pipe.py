"""Pipes whose ends close their descriptor once, whoever comes first.

`multiprocessing`'s own `Connection.__del__` closes the descriptor and keeps its number. The cycle collector may call it
before it ends a generator that closes the connection in its `finally`: that would close the same number again, which by
then can be a file of another thread's.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from multiprocessing import connection
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    _Connection = connection.Connection[Any, Any]
    _reduced: Callable[[Any], tuple[Any, ...]]
elif sys.platform == "win32":
    _Connection, _reduced = connection.PipeConnection, connection.reduce_pipe_connection
else:
    _Connection, _reduced = connection.Connection, connection.reduce_connection


class PipeEnd(_Connection):
    """One end of a pipe, which is closed once; `multiprocessing` can send it to another process as any connection."""

    def __del__(self) -> None:
        self.close()  # which forgets the number


def make_pipe() -> tuple[PipeEnd, PipeEnd]:
    """The two ends of a duplex pipe; raises OSError where the system can't."""
    ours, theirs = connection.Pipe(duplex=True)
    for end in (ours, theirs):
        with contextlib.suppress(OSError, AttributeError):  # gevent, where it has replaced sockets, opens all otherwise
            os.set_blocking(end.fileno(), True)
    return _closed_once(ours), _closed_once(theirs)


def _closed_once(end: Any) -> PipeEnd:
    """The same object, as one that closes once: so the descriptor has an owner at any moment, and never two."""
    end.__class__ = PipeEnd
    assert isinstance(end, PipeEnd)
    return end


def _reduce(end: PipeEnd) -> tuple[Any, ...]:
    return _rebuild, _reduced(end)


def _rebuild(rebuild: Callable[..., Any], parts: tuple[Any, ...]) -> PipeEnd:
    return _closed_once(rebuild(*parts))


ForkingPickler.register(PipeEnd, _reduce)
