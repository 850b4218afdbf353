"""Runs blocks of any pass in this process: opens sources and stores of reduced levels when first needed."""

from __future__ import annotations

import contextlib
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
        self._files = run.format.block_files(run.output, run.image)
        self._scratch_seconds = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage since the start."""
        files = {} if self._files is None else {"files": self._files.seconds}
        return {**self._maker.seconds, "scratch": self._scratch_seconds, **files}

    def run(self, block: Block, emit: Emit) -> int:
        """Encode one block, write what it fills of the output and its reduced piece to the next pass's store, and pass
        all other segments to `emit`; the bytes of all its segments.
        """
        count = _Count(self._run.plan.tile**2, self._tell)
        readers = self._readers_for(block.pass_index)
        with contextlib.nullcontext(emit) if self._files is None else self._files.divert(block, emit) as taker:
            handed_on = self._maker.run(readers, block, count.counting(taker))
        if handed_on is not None:
            start = perf_counter()
            level = self._run.plan.passes[block.pass_index].scratch_level
            assert level is not None and self._run.levels is not None
            if level not in self._writers:
                self._writers[level] = self._run.levels.level(level)
            self._writers[level].write(*handed_on, band=block.band)
            self._scratch_seconds += perf_counter() - start
        return count.going.bytes

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


class _Count:
    """How far a block is; `tell` is told from time to time."""

    def __init__(self, square: int, tell: Callable[[Going], None]) -> None:
        self._square, self._tell = square, tell
        self.going, self._told = Going(), perf_counter()

    def counting(self, emit: Emit) -> Emit:
        """`emit`, counting what it is given."""

        def counted(key: Key, segment: bytes) -> None:
            emit(key, segment)
            going = self.going
            pixels = 0 if key[0] or key[1] else self._square
            self.going = Going(going.tiles + 1, going.pixels + pixels, going.bytes + len(segment))
            if perf_counter() - self._told >= _TELL_SECONDS:
                self._told = perf_counter()
                self._tell(self.going)

        return counted
