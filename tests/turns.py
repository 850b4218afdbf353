"""Whose turn it is where several processes run tests: one that measures the machine waits until it is alone on it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, alone: bool) -> Iterator[None]:
    """Hold the machine with the others, or alone.

    The gate stands before it. Who wants to be alone keeps it closed while waiting for those inside to leave; without
    it they would be followed by others for ever.
    """
    with (folder / "gate").open("a") as gate, (folder / "machine").open("a") as machine:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
