"""Runs blocks of any pass in this process: opens sources and stores of reduced levels when first needed."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from slidewright.engine.run import Run
from slidewright.pyramid.block import Emit
from slidewright.pyramid.level_store import ScratchLevel
from slidewright.pyramid.plan import Block, Key
from slidewright.report import Going
from slidewright.sources.base import CorruptPlace, Reader

_TELL_SECONDS = 0.2


class BlockRunner:
    """What a worker does with a block, whatever carries its segments away; `tell` is called a few times a second with
    how far it is, since a block of a slow codec takes seconds.
    """

    def __init__(self, run: Run, tell: Callable[[Going], None]) -> None:
        self._run, self._tell = run, tell
        self._maker = run.maker()
        self._readers: tuple[int, tuple[Reader, ...]] | None = None
        self._writers: dict[int, ScratchLevel] = {}
        self._scratch_seconds = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage since the start."""
        return {**self._maker.seconds, "scratch": self._scratch_seconds}

    def run(self, block: Block, emit: Emit) -> None:
        """Encode one block, passing its segments to `emit`, and write its reduced piece to the next pass's store."""
        handed_on = self._maker.run(self._readers_for(block.pass_index), block, self._telling(emit))
        if handed_on is not None:
            start = perf_counter()
            level = self._run.plan.passes[block.pass_index].scratch_level
            assert level is not None and self._run.levels is not None
            if level not in self._writers:
                self._writers[level] = self._run.levels.level(level)
            self._writers[level].write(*handed_on, band=block.band)
            self._scratch_seconds += perf_counter() - start

    def filled(self) -> dict[CorruptPlace, str]:
        """What was filled since the last call, because it did not decode."""
        found: dict[CorruptPlace, str] = {}
        for reader in self._readers[1] if self._readers is not None else ():
            found |= reader.filled()
        return found

    def close(self) -> None:
        """Close what is open."""
        self._close_readers()
        for level in self._writers.values():
            level.close()
        self._writers.clear()

    def _telling(self, emit: Emit) -> Emit:
        """`emit`, counting what it is given."""
        going, told = Going(), perf_counter()
        square = self._run.plan.tile**2

        def counted(key: Key, segment: bytes) -> None:
            nonlocal going, told
            emit(key, segment)
            pixels = 0 if key[0] or key[1] else square
            going = Going(going.tiles + 1, going.pixels + pixels, going.bytes + len(segment))
            if perf_counter() - told >= _TELL_SECONDS:
                told = perf_counter()
                self._tell(going)

        return counted

    def _close_readers(self) -> None:
        if self._readers is not None:
            for reader in self._readers[1]:
                reader.close()
            self._readers = None

    def _readers_for(self, pass_index: int) -> tuple[Reader, ...]:
        if self._readers is None or self._readers[0] != pass_index:
            self._close_readers()
            self._readers = (pass_index, self._open(pass_index))
        return self._readers[1]

    def _open(self, pass_index: int) -> tuple[Reader, ...]:
        if pass_index == 0:
            return tuple(source.open() for source in (self._run.source, *self._run.reused))
        assert self._run.levels is not None
        return (self._run.levels.level(self._run.plan.passes[pass_index].first),)
