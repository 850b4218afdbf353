"""Files of an output that one block fills by itself, so that whoever encodes the block may write them; declared here,
since shards have to know of them, and made by a format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from typing import NamedTuple

from slidewright.pyramid.block import Emit
from slidewright.pyramid.plan import Block, Key


class SharedFolder(NamedTuple):
    """Where such files are written when they belong to shards, which outlive the run."""

    path: str
    """A folder in which all have numbers for names, below folders of such names and "c", as the chunks of zarr have: by
    them who removes shards knows what is of these.
    """
    staging: str
    """Where each is until it is whole: a folder of this run alone, which whoever ends or follows the run removes."""
    sync: bool
    """Whether to wait for the disk when one is whole."""


class BlockFiles(ABC):
    """Writes those files, and looks at them.

    A block may be done again while the files of a first try are complete, or half written by a process that died: each
    file is written over from its start with the bytes that it has already, and is never shorter for it. In a
    `SharedFolder` it appears when it is whole.
    """

    seconds: float = 0.0
    """Spent in writing since the start."""

    @property
    @abstractmethod
    def levels(self) -> frozenset[int]:
        """The levels that have such files, and no others."""

    @abstractmethod
    def divert(self, block: Block, emit: Emit) -> AbstractContextManager[Emit]:
        """What takes the segments of a block: those of its own files are written, and `emit` gets a receipt for each
        file, under the key of its first segment, and all other segments. Where the files belong to shards it gets
        something for every key, which is empty for the others of a file. Raises OutputError.
        """

    @abstractmethod
    def has_receipt(self, key: Key) -> bool:
        """Whether what is emitted under a key is a receipt."""

    @abstractmethod
    def nbytes(self, receipt: bytes) -> int:
        """The bytes of the segments in a receipt's file."""

    @abstractmethod
    def problem(self, key: Key, receipt: bytes, *, deep: bool) -> str | None:
        """What is wrong with the file that a receipt is of, as a clause; None if nothing is. `deep` reads all of it.
        Raises OSError.
        """
