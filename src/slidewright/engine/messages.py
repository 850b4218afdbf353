"""What coordinator, workers and writer say to each other over their pipes.

Messages are small and of fixed size; what is large travels in the ring. An exception travels as text, so that nothing
needs its class.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from slidewright import errors
from slidewright.errors import RunError, SlidewrightError

if TYPE_CHECKING:  # a run in the caller's process has no pipes
    from multiprocessing.connection import Connection

    from slidewright.pyramid.plan import Block
    from slidewright.report import Going
    from slidewright.sources.base import CorruptPlace

Pipe: TypeAlias = "Connection[Any, Any]"


class DoBlock(NamedTuple):
    """To a worker: encode this block next, or after those that it has."""

    block: Block


class SlotFree(NamedTuple):
    """From the writer, and on to the worker that owns it: a slot of the ring is empty."""

    slot: int


class Ready(NamedTuple):
    """From a worker: it is about to wait for its first block."""


class SlotFull(NamedTuple):
    """From a worker, and on to the writer: a slot has so many entries; `sender` tells one process on a seat from the
    next, and is filled in on the way.
    """

    slot: int
    entries: int
    sender: int = 0


class Filled(NamedTuple):
    """From a worker, and on to the writer: what of a block's pixels did not decode and was filled."""

    block: Block
    places: dict[CorruptPlace, str]


class Working(NamedTuple):
    """From a worker, a few times a second: how far it is with its block."""

    going: Going


class Done(NamedTuple):
    """From a worker: a block is finished, and all its segments are in slots that it has sent."""

    block: Block
    nbytes: int
    seconds: dict[str, float]


class NoMemory(NamedTuple):
    """From a worker, its last word: an allocation failed."""


class NoMore(NamedTuple):
    """To the writer: every block is done, so a segment that is not there now will never come."""


class Written(NamedTuple):
    """From the writer, its last word: everything is on disk."""

    level_bytes: list[int]
    spilled_bytes: int
    seconds: float


class Failed(NamedTuple):
    """From a worker or the writer, its last word: an exception, as text."""

    name: str
    text: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failed:
        """An exception as a message."""
        if isinstance(error, SlidewrightError):
            return cls(type(error).__name__, str(error), traceback.format_exc())
        if isinstance(error, MemoryError):
            text = "out of memory in a worker; use fewer workers or a smaller tile"
            return cls("RunError", text, traceback.format_exc())
        return cls("RunError", f"{type(error).__name__}: {error}", traceback.format_exc())

    def error(self) -> SlidewrightError:
        """The same as an exception in the caller's process, with the child's traceback as a note."""
        kind = vars(errors).get(self.name, RunError)
        error: SlidewrightError = kind(self.text)
        error.add_note(f"In the child process:\n{self.trace}")
        return error
