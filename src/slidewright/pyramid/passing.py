"""Blocks whose segments are only handed on: no pixel is decoded, reduced or encoded here."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

from slidewright.errors import RunError
from slidewright.geometry import Region
from slidewright.pyramid.block import BlockMaker, Emit, Pixels
from slidewright.pyramid.plan import Block, Plan
from slidewright.sources.base import Reader


class SegmentPasser(BlockMaker):
    """Emits what the reader has for each place of a block."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.seconds = {"encode": 0.0}

    def run(self, readers: Sequence[Reader], block: Block, emit: Emit) -> tuple[Region, Pixels] | None:
        """See `BlockMaker`; nothing is handed on."""
        for key in self._plan.tiles_of(block):
            start = perf_counter()
            segment = readers[0].segment(key[2], key[3], key[1])
            self.seconds["encode"] += perf_counter() - start
            if segment is None:
                raise RunError(f"the segment {key} is not to be had; this is an error of slidewright")
            emit(key, segment)
        return None
