"""Segments out of finished shards, in the order of the file."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import ShardError
from slidewright.pyramid.plan import Key
from slidewright.shards.file import ShardDamageError, read_segment
from slidewright.shards.plan import ShardPlan
from slidewright.system.files import regular

_MAX_OPEN = 64  # shard files open at a time; a row of tiles touches few


class ShardStream:
    """Segments of finished shards, in the order of the file, which is the order of keys: a cursor over their merged
    index, a few dozen bytes a segment.
    """

    def __init__(self, shards: ShardPlan) -> None:
        self._shards = shards
        self._next: tuple[Any, ...] | None = None
        self._files: OrderedDict[int, int] = OrderedDict()
        indices = {index: shards.index_of(index) for index in shards.found}
        full = {index: found for index, found in indices.items() if len(found.keys)}
        if not full:
            return
        keys = np.concatenate([found.keys for found in full.values()])
        order = np.lexsort(keys.T[::-1])
        self._keys = keys[order]
        self._places = np.concatenate([found.places for found in full.values()])[order]
        owners = np.concatenate([np.full(len(found.keys), index, np.uint32) for index, found in full.items()])
        self._owners = owners[order]
        self._seek(0)

    def take(self, key: Key) -> bytes | None:
        """The segment of a key, or None when no finished shard has it; raises ShardError when it is damaged."""
        if key != self._next:
            if self._next is None or self._last < key < self._next:
                return None
            self._seek(bisect_left(_Rows(self._keys), key))
            if key != self._next:
                return None
        at = self._cursor
        self._seek(at + 1)
        owner = int(self._owners[at])
        try:
            return read_segment(self._file(owner), *self._places[at].tolist())
        except (OSError, ShardDamageError) as error:
            raise ShardError(f"{self._shards.path(owner)!r}: {error}") from error

    def _seek(self, at: int) -> None:
        """Move the cursor, and remember the keys on both of its sides: most are asked for in order."""
        self._cursor = at
        self._last = tuple(self._keys[at - 1].tolist()) if at else ()
        self._next = tuple(self._keys[at].tolist()) if at < len(self._keys) else (np.inf,)

    def close(self) -> None:
        """Close the files."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()

    def _file(self, index: int) -> int:
        if index in self._files:
            self._files.move_to_end(index)
            return self._files[index]
        if len(self._files) >= _MAX_OPEN:
            os.close(self._files.popitem(last=False)[1])
        self._files[index] = regular(self._shards.path(index))
        return self._files[index]


class _Rows:
    """Rows of an array as a sequence of tuples, for `bisect`."""

    def __init__(self, keys: NDArray[np.uint32]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, at: int) -> tuple[int, ...]:
        return tuple(self._keys[at].tolist())
