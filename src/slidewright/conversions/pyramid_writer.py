"""PyramidWriter: a pyramid of pixels that the caller produces, tile by tile, while worker processes encode them.

Two ways in (written_pixels.py): whole tiles go straight to the workers; regions that are no tiles, and overlaps, wait
on a canvas on disk and are converted at the end. Which way is settled by the first call and by `overlap`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Unpack

from slidewright.conversions.signatures import WriterOptions, with_options
from slidewright.conversions.writer_arguments import check_dtype, check_place, check_shape, check_stack, check_weights
from slidewright.errors import OptionError, SourceError
from slidewright.geometry import Size
from slidewright.options import make_options
from slidewright.report import Report

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from slidewright.conversions.written_pixels import Expected, Regions, Tiles
    from slidewright.report import ProgressOption

OVERLAPS = ("refuse", "replace", "blend")


@with_options("PyramidWriter")
class PyramidWriter:
    """Writes an image that the caller produces as a pyramidal TIFF or an OME-Zarr.

    A context manager; or call `open` first and `close` last, and `discard` after an error. Several threads may write:
    one waits for the other.

    Parameters
    ----------
    dest
        The file to write. It appears under this name when the block ends without an exception, or `close` is called,
        complete; an exception in the block, or `discard`, leaves no file.
    shape
        (height, width) or (height, width, samples) of the image in pixels; of a stack, of each of its planes.
    z, t
        Of a stack: how many planes along z it has, and how many times; into an OME-TIFF or an OME-Zarr.
    dtype
        Of the pixels: anything that NumPy takes for "bool", "uint8", "uint16", "uint32", "int8", "int16", "int32" or
        "float32".
    overlap
        What happens to pixels written twice: "refuse" them with an error, "replace" the earlier ones, or "blend": the
        mean of all that was written there, weighted, rounded half up. "replace" and "blend" keep the whole image on
        disk (`scratch`) until the end; so does `write_region`.
    progress
        True shows a bar on a terminal and plain lines elsewhere; a callable gets a `Progress` a few times a second.
    **options
        The fields of `ConvertOptions`. `background` is the colour (or value) of pixels that are never written.

    Raises
    ------
    OptionError
        For options that make no sense for such pixels.
    DestinationError
        When the destination exists and `overwrite` is not set, or its folder is missing: on entering the block or in
        `open`, before anything is computed.

    Examples
    --------
    >>> with PyramidWriter("out.tif", (4096, 6144, 3), overwrite=True) as writer:  # doctest: +SKIP
    ...     writer.write_tile(tile, row=2, column=5)
    >>> writer.report.bytes  # doctest: +SKIP
    """

    report: Report | None
    """What was written, once the block has ended or the writer is closed."""

    def __init__(
        self,
        dest: str | os.PathLike[str],
        shape: tuple[int, ...],
        *,
        z: int = 1,
        t: int = 1,
        dtype: Any = "uint8",
        overlap: str = "refuse",
        progress: ProgressOption = False,
        **options: Unpack[WriterOptions],
    ) -> None:
        if overlap not in OVERLAPS:
            raise OptionError(f"overlap {overlap!r} is not known; choose one of {', '.join(OVERLAPS)}")
        self._dest, self._overlap, self._progress = dest, overlap, progress
        self._options = make_options(options)
        if self._options.resume or self._options.engine != "processes":
            given = "resume" if self._options.resume else f'engine="{self._options.engine}"'
            raise OptionError(
                f"{given} needs pixels that can be read again; a PyramidWriter has them once: leave it out, or save "
                "them to a file and use convert"
            )
        self._shape, self._frames = check_shape(shape), check_stack(z, t)
        self._dtype = check_dtype(dtype)
        self._stack: contextlib.ExitStack | None = None
        self._pid = os.getpid()
        self._open = False
        self._lock = threading.RLock()  # two threads that wait for the same answer would wait for ever
        self._at_work = threading.Lock()
        self._expected: Expected | None = None
        self._way: Tiles | Regions | None = None
        self.report = None

    def __enter__(self) -> PyramidWriter:
        return self.open()

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._finish()
        else:
            self.discard()

    def open(self) -> PyramidWriter:
        """Start, which a with statement does by itself; returns the writer."""
        from slidewright.conversions.opening import make_launcher
        from slidewright.reporting.progress import make_callback

        if self._stack is not None:
            raise OptionError("a PyramidWriter writes one file; make another for another")
        if self._options.scratch is not None:  # wherever the caller goes meanwhile
            self._options = replace(self._options, scratch=os.path.abspath(self._options.scratch))
        with contextlib.ExitStack() as stack:
            started, self._pid = monotonic(), os.getpid()
            launcher = stack.enter_context(make_launcher(self._options))
            callback = stack.enter_context(make_callback(self._progress))
            from slidewright.conversions.written_pixels import Expected  # while the launcher starts

            self._expected = Expected(
                self._shape,
                self._frames,
                self._dtype,
                self._dest,
                self._options,
                self._overlap,
                launcher=launcher,
                callback=callback,
                started=started,
            )
            stack.enter_context(self._expected.conversion)
            self._stack = stack.pop_all()
        self._open = True
        return self

    def close(self) -> None:
        """Finish the file and give it its name, which the end of a with statement does; does nothing a second time, or
        after an error that ended the run.
        """
        self._finish()

    def discard(self) -> None:
        """Give up: nothing is left of the file. An exception in a with statement does so; but in a fork of the process
        that opened the writer it does nothing.
        """
        if not self._forked:
            with self._alone():
                self._give_up()

    def _give_up(self) -> None:
        self._open = False
        if self._stack is not None and not self._forked:
            self._stack.close()

    def write(self, tiles: Iterable[Any]) -> None:
        """Write the whole image from an iterable of its tiles in row-major order; a stack plane by plane along z, time
        by time.

        Parameters
        ----------
        tiles
            Arrays of shape (tile, tile[, samples]), where tile is the option `tile_size`; those of the last row and
            column may be just as large as what is left of the image, or whole tiles, of which the rest is cut off.

        Raises
        ------
        SourceError
            For a tile of the wrong shape or dtype, and when there are fewer or more tiles than the image has. After any
            error nothing is left of the file, as after `discard`.
        """
        try:
            self._write_all(tiles)
        except BaseException:  # what closes the writer all the same must not make a file of a part of the image
            self.discard()
            raise

    def _write_all(self, tiles: Iterable[Any]) -> None:
        tile = self._options.tile_side
        rows, columns = Size(*self._shape[:2]).grid(tile)
        written, due = 0, rows * columns * self._frames.frames
        with contextlib.closing(_closable(tiles)) as items:
            for number, array in enumerate(items):
                if number == due:
                    raise SourceError(
                        f"there are more than the {due} tiles ({rows} rows of {columns}) that an image of "
                        f"{Size(*self._shape[:2])} pixels has; check shape and tile_size ({tile})"
                    )
                frame, place = divmod(number, rows * columns)
                time, depth = divmod(frame, self._frames.z)
                self.write_tile(array, *divmod(place, columns), z=depth, t=time)
                written += 1
        if written < due:
            place = written % (rows * columns)
            raise SourceError(
                f"the tiles ended after {written} of {due} ({rows} rows of {columns}); the next would have been at "
                f"row {place // columns}, column {place % columns}"
            )

    def write_tile(self, array: Any, row: int, column: int, *, z: int = 0, t: int = 0) -> None:
        """Write one tile, in any order.

        Parameters
        ----------
        array
            (tile, tile[, samples]); in the last row and column as large as what is left of the image, or whole.
        row, column
            Its place in the grid of tiles; pixels begin at (row * tile, column * tile).
        z, t
            Of a stack: its plane and its time.

        Raises
        ------
        SourceError
            When shape or dtype are not what is expected there, the place is outside the image, or the tile has been
            written before and overlap is refused. Bad values (NaN, labels beyond the palette) may be noticed one
            of the next calls later.
        """
        tile = self._options.tile_side
        grid = Size(*self._shape[:2]).grid(tile)
        for name, value, count in (("row", row, grid.height), ("column", column, grid.width)):
            if not hasattr(value, "__index__") or not 0 <= value < count:
                raise SourceError(f"there is no tile at {name} {value!r}; the image has {count} {name}s of tiles")
        row, column = int(row), int(column)  # NumPy's own integers wrap around
        left = Size(min(tile, self._shape[0] - row * tile), min(tile, self._shape[1] - column * tile))
        pixels = self._pixels(array, f"the tile at row {row}, column {column}", left, tile)
        frame = self._frame(z, t)
        with self._alone():
            self._begin(tiles=self._overlap == "refuse").put_tile(pixels, row, column, frame)

    def write_region(
        self, array: Any, y: int, x: int, *, weights: NDArray[np.float64] | None = None, z: int = 0, t: int = 0
    ) -> None:
        """Write pixels anywhere, of any size: the whole image then waits on disk until the end.

        Parameters
        ----------
        array
            (height, width[, samples]).
        y, x
            Where its first pixel is. What lies outside the image is cut off.
        weights
            For overlap "blend": how much each pixel counts, (height, width), above 0; 1 by default. A window that
            falls off towards the border hides the seams of a model's output.
        z, t
            Of a stack: the plane and the time.

        Raises
        ------
        SourceError
            As for `write_tile`; and after `write_tile` under overlap "refuse", whose tiles are encoded already.
        """
        from slidewright.conversions.written_pixels import Tiles

        pixels = self._pixels(array, f"the region at x={x}, y={y}", None, 0)
        weights = check_weights(weights, pixels.shape[:2], self._overlap)
        y, x = check_place(y, x)
        top, left = max(0, -y), max(0, -x)
        bottom, right = min(pixels.shape[0], self._shape[0] - y), min(pixels.shape[1], self._shape[1] - x)
        if top >= bottom or left >= right:
            raise SourceError(
                f"the region at x={x}, y={y} lies outside the image of {Size(*self._shape[:2])} pixels; y comes first"
            )
        frame = self._frame(z, t)
        weights = weights if weights is None else weights[top:bottom, left:right]
        with self._alone():
            way = self._begin(tiles=False)
            if isinstance(way, Tiles):
                raise SourceError(
                    "write_region after write_tile: those tiles are encoded already; open the PyramidWriter with "
                    "overlap='replace' or 'blend', or write regions only"
                )
            way.put(pixels[top:bottom, left:right], y + top, x + left, weights, frame)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """While this thread is at work here: a signal handler, or a callback of `progress`, that calls in the middle of
        it would wait for ever, or pull away what is in use; and so would a fork of the process.
        """
        if self._forked:
            raise OptionError(
                "the PyramidWriter is that of another process, of which this one is a fork; write from there, or open "
                "another PyramidWriter here"
            )
        with self._lock:
            if self._at_work.locked():
                raise OptionError(
                    "the PyramidWriter is at work, and this call comes from within, such as from a signal handler or "
                    "from progress; raise an exception there, or note what is wanted and do it afterwards"
                )
            with self._at_work:
                yield

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._pid

    def _finish(self) -> None:
        if self._stack is None:
            raise OptionError("the PyramidWriter was never opened; call open() first, or use it in a with statement")
        with self._alone():
            self._finish_once(self._stack)

    def _finish_once(self, stack: contextlib.ExitStack) -> None:
        if not self._open:
            return
        with stack:
            nothing = self._way is None
            way = self._begin(tiles=self._overlap == "refuse")
            self._open = False
            report = way.finish()
        if nothing:
            text = f"no tile was ever written to {report.destination}, which is all background"
            report = replace(report, warnings=(*report.warnings, text))
            warnings.warn(text, stacklevel=4)
        self.report = report

    def _frame(self, z: int, t: int) -> int:
        """The number of the frame at a plane and a time."""
        for name, value, count in (("z", z, self._frames.z), ("t", t, self._frames.t)):
            if not hasattr(value, "__index__") or not 0 <= value < count:
                raise SourceError(f"there is no {name} {value!r}; the PyramidWriter was made for {name}={count}")
        return int(t) * self._frames.z + int(z)

    def _begin(self, *, tiles: bool) -> Tiles | Regions:
        """The way in that the first call settles."""
        from slidewright.conversions.written_pixels import Regions, Tiles

        if self._stack is None or self._expected is None or not self._open:
            raise OptionError(
                "the PyramidWriter is not open: use it inside its with statement (with PyramidWriter(...) as writer), "
                "or between open() and close()"
            )
        if self._way is None:
            make = Tiles if tiles else Regions
            try:
                self._way = make(self._expected, self._stack, self._give_up)
            except BaseException:  # a second start, or `close`, would wait for the lock of the first for ever
                self._give_up()
                raise
        return self._way

    def _pixels(self, array: Any, what: str, exact: Size | None, tile: int) -> NDArray[Any]:
        """The array as (height, width, samples), checked and cut."""
        import numpy as np

        from slidewright.sources.access.shapes import as_array

        pixels = as_array(array, what)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        samples = self._shape[2]
        fits = pixels.ndim == 3 and pixels.shape[2] == samples
        if fits and exact is not None:
            fits = pixels.shape[:2] in (tuple(exact), (tile, tile))
        if not fits or pixels.dtype.name != self._dtype or 0 in pixels.shape:
            wanted = "x".join(str(number) for number in (*(exact or ("any", "any")), samples))
            got = "x".join(str(number) for number in np.shape(array)) or "a single value"
            raise SourceError(
                f"{what} is {got} of {pixels.dtype.name}; expected {wanted} of {self._dtype} (height x width x samples)"
            )
        return pixels if exact is None else pixels[: exact.height, : exact.width]


def _closable(tiles: Iterable[Any]) -> Any:
    def pull() -> Iterator[Any]:
        yield from tiles

    return pull()
