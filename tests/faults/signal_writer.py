"""A `PyramidWriter` that fails or is interrupted at a random moment, is asked again, and then closed or discarded."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil

import slidewright
from slidewright.engine.coordinator import Coordinator
from slidewright.engine.crew import Crew
from slidewright.errors import OutputError, SlidewrightError
from slidewright.pyramid.level_store import Scratch
from slidewright.system.launcher import ProcessLauncher
from slidewright.system.shared_memory import SharedBuffer

PLACES = (  # what a start consists of: memory for the tiles, memory for segments, scratch, workers, the writer
    *((SharedBuffer, "allocate"), (Coordinator, "start"), (Crew, "hire"), (Scratch, "create")),
    (ProcessLauncher, "spawn"),
)
SIDE, TILE = 300, 64


class Writer:
    """One writer, all of it from one seed."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._workers, self._overlap = chance.choice((0, 2, 2)), chance.choice(("refuse", "refuse", "blend"))
        self._error = chance.choice((KeyboardInterrupt, OutputError))
        self._again, self._end = chance.choice((0, 1, 30)), chance.choice(("close", "discard"))
        self._said: list[str] = []

    def __str__(self) -> str:
        return f"{self._workers} workers, overlap {self._overlap}, {'; '.join(self._said)}, {self._end}"

    def run(self, folder: Path, by_timer: bool) -> None:
        """AssertionError where something is left in this process or in the folder."""
        before = self._held()
        out = folder / "out.tif"
        options = {"tile_size": TILE, "n_workers": self._workers, "scratch": folder / "scratch", "overwrite": True}
        writer = slidewright.PyramidWriter(out, (SIDE, SIDE), overlap=self._overlap, **options)
        opened = False
        with contextlib.suppress(KeyboardInterrupt, OutputError), self._interrupted() if by_timer else self._failing():
            writer.open()
            opened = True
            self._write(writer, 30)
        if opened:
            with contextlib.suppress(SlidewrightError):
                self._write(writer, self._again)
            with contextlib.suppress(SlidewrightError):
                getattr(writer, self._end)()
        del writer
        gc.collect()
        left = [name for name in os.listdir(folder) if name not in ("out.tif", "scratch")]
        left += os.listdir(folder / "scratch") + [name for name in self._held() if name not in before]
        assert left == [], f"{left} left: {self}"
        if out.exists():
            slidewright.verify_file(out, n_workers=1)
            out.unlink()

    def _write(self, writer: Any, count: int) -> None:
        across = -(-SIDE // TILE)
        for number in range(min(count, across * across)):
            y, x = number // across * TILE, number % across * TILE
            tile = np.full((min(TILE, SIDE - y), min(TILE, SIDE - x)), 99, np.uint8)
            if self._overlap == "refuse":
                writer.write_tile(tile, y // TILE, x // TILE)
            else:
                writer.write_region(tile, y, x)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """A call of what a start consists of ends in an error, before it does anything or when it is done."""
        home, name = self._chance.choice(PLACES)
        number, after = self._chance.choice((1, 1, 2, 3)), name == "create" and self._chance.random() < 0.5
        self._said.append(f"{self._error.__name__} {'after' if after else 'in'} call {number} of {name}")
        real, calls = getattr(home, name), [0]

        def act(*given: Any, **more: Any) -> Any:
            calls[0] += 1
            if calls[0] == number and not after:
                raise self._error("while it starts")
            found = real(*given, **more)
            if calls[0] == number:
                raise self._error("while it starts")
            return found

        with mock.patch.object(home, name, act):
            yield

    @contextlib.contextmanager
    def _interrupted(self) -> Iterator[None]:
        """A real signal at any moment."""

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        seconds = self._chance.uniform(0.001, 0.4)
        self._said.append(f"interrupted after {seconds:.3f} s")
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, seconds)
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _held(self) -> list[str]:
        """Memory and removed files that this process has open, and processes that it has started."""
        found = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/self/fd/{fd}")
                found += [f"{fd}: {target}"] if "memfd:" in target or target.endswith(" (deleted)") else []
        children = psutil.Process().children(recursive=True)
        return found + [f"{child.pid} {child.name()}" for child in children if child.name().startswith("slidewright-w")]
