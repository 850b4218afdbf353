"""Pixels that a caller writes: the conversion that waits for them, and the two ways in.

Whole tiles go straight to the workers; regions wait on a canvas on disk and are converted at the end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from slidewright.conversions.canvas import Canvas, CanvasSource
from slidewright.conversions.conversion import Callback, Conversion
from slidewright.conversions.deciding import decide
from slidewright.engine.feeding import SLOTS_PER_WORKER, Feeder
from slidewright.engine.inbox import Inbox, PushedSource, Undecided
from slidewright.errors import OptionError, SourceError
from slidewright.formats.registry import settle_format
from slidewright.geometry import Size, Stack
from slidewright.pyramid.level_store import ScratchFolder
from slidewright.pyramid.plan import Block
from slidewright.sources.base import Source, SourceInfo
from slidewright.sources.pixel_format import resolve_pixels
from slidewright.sources.wrappers.adapt import adapted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.options import ConvertOptions
    from slidewright.pixels import PixelFormat
    from slidewright.report import Report
    from slidewright.system.launcher import Launcher


class Expected:
    """A conversion of pixels that are still to come: everything is decided as for tiles, which may become regions."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        stack: Stack,
        dtype: str,
        dest: str | os.PathLike[str],
        options: ConvertOptions,
        overlap: str,
        *,
        launcher: Launcher | None,
        callback: Callback,
        started: float,
    ) -> None:
        height, width, samples = shape
        self.options, self.overlap, self.launcher, self.callback = options, overlap, launcher, callback
        self._started = started
        self.settled = settle_format(replace(options, block_tiles=1), dest)
        self._info = SourceInfo(
            name="PyramidWriter",
            format="array",
            size=Size(height, width),
            samples=samples,
            dtype=dtype,
            stack=stack,
            sparse=True,
            worker_bytes=SLOTS_PER_WORKER * self.settled.tile_side**2 * samples * np.dtype(dtype).itemsize,
        )
        decided = decide(Undecided(self._info), self.settled, started)
        kind = decided.encoding.pixels.kind
        if overlap == "blend" and kind in ("labels", "binary"):
            raise OptionError(f"overlap 'blend' would mix {kind}; choose 'replace' or 'refuse'")
        self.conversion = Conversion(decided, dest, self.settled)

    def given(self) -> tuple[SourceInfo, PixelFormat]:
        """The pixels as the caller gives them: alpha is not composed yet."""
        pixels = resolve_pixels(replace(self.settled, alpha="keep"), self._info)
        return replace(self._info, dtype=pixels.dtype, kind=pixels.kind), pixels

    def read_tiles(self, source: Source) -> None:
        """Have the conversion read the tiles as they are pushed."""
        decided = self.conversion.decided
        self.conversion.decided = replace(decided, source=adapted(source, decided.encoding.pixels, self.settled))

    def read_canvas(self, source: Source) -> None:
        """Have the conversion read a canvas, in blocks of any size."""
        options = replace(self.settled, block_tiles=self.options.block_tiles)
        self.conversion.decided = decide(source, options, self._started)


class Tiles:
    """Whole tiles, straight to the workers.

    Parameters
    ----------
    discard
        Ends everything, after an error that ended the run.
    """

    def __init__(self, expected: Expected, stack: contextlib.ExitStack, discard: Callable[[], None]) -> None:
        self._conversion, self._callback, self._discard = expected.conversion, expected.callback, discard
        decided = self._conversion.decided
        self._plan = decided.plan
        slots = SLOTS_PER_WORKER * decided.memory.n_workers + 1
        info, _ = expected.given()
        source = PushedSource.allocate(info, self._plan.tile, slots, expected.options.scratch)
        stack.callback(source.close)
        expected.read_tiles(source)
        self._run = self._conversion.prepare(expected.launcher)
        self._inbox = Inbox(source)
        stack.callback(self._inbox.close)
        self._feeder = Feeder(self._run, expected.launcher, self._callback, self._inbox)
        stack.callback(self._feeder.close)
        self._seen = np.zeros((info.stack.frames, *self._plan.levels[0].tiles), dtype=bool)

    def put_tile(self, pixels: NDArray[Any], row: int, column: int, frame: int) -> None:
        """Encode a tile, which nobody has put before."""
        if self._seen[frame, row, column]:
            raise SourceError(
                f"the tile at row {row}, column {column} was written before; write each tile once, "
                "or choose overlap 'replace' or 'blend'"
            )
        try:
            self._seen[frame, row, column] = True
            self._feeder.make_room()
            self._inbox.put(row * self._plan.tile, column * self._plan.tile, pixels, frame)
            self._feeder.feed(Block(0, row, column, frame))
        except BaseException:  # the run is over, whatever the caller does about it
            self._discard()
            raise

    def finish(self) -> Report:
        """Write what is missing as background, and give the file its name."""
        self._inbox.rest_is_background()
        missing = (Block(0, int(row), int(column), int(frame)) for frame, row, column in np.argwhere(~self._seen))
        outcome = self._feeder.finish(missing)
        return self._conversion.finish(outcome, self._run, self._callback)


class Regions:
    """Regions on a canvas, converted at the end; `discard` as for `Tiles`."""

    def __init__(self, expected: Expected, stack: contextlib.ExitStack, discard: Callable[[], None]) -> None:
        self._expected, self._discard = expected, discard
        announce = {} if expected.launcher is None else {"announce": expected.launcher.own}
        folder = ScratchFolder(expected.options.scratch, **announce)
        stack.callback(folder.remove)
        info, pixels = expected.given()
        info = replace(info, worker_bytes=0)
        source = CanvasSource(info, pixels, expected.options.tile_side, expected.overlap, folder.path)
        self._canvas = Canvas(source)
        expected.read_canvas(source)

    def put_tile(self, pixels: NDArray[Any], row: int, column: int, frame: int) -> None:
        """Put a tile on the canvas."""
        tile = self._expected.options.tile_side
        self.put(pixels, row * tile, column * tile, None, frame)

    def put(self, pixels: NDArray[Any], y: int, x: int, weights: NDArray[np.float64] | None, frame: int) -> None:
        """Put pixels anywhere on the canvas."""
        try:
            self._canvas.put(pixels, y, x, weights, frame)
        except SourceError:  # refused, before anything of it was put
            raise
        except BaseException:  # a part of it was put, or what was put before is lost: to try again would not help
            self._discard()
            raise

    def finish(self) -> Report:
        """Convert the canvas, and give the file its name."""
        self._canvas.flush()
        return self._expected.conversion.run(self._expected.launcher, self._expected.callback)
