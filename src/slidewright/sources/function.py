"""A function of the caller's as a source: it is asked for a region and gives an array."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slidewright.errors import CorruptTileError, SourceError
from slidewright.geometry import Size
from slidewright.sources.access.shapes import check_dtype, check_shape, masks_left_out
from slidewright.sources.base import Pixels, Reader, Source, SourceInfo, unknown_identity
from slidewright.sources.wrappers.pickled import Portable
from slidewright.system.interrupts import let_through

_PROBE = 16  # the side of the region that tells dtype and samples


@dataclass(frozen=True, slots=True)
class FunctionSource(Source):
    """An image made of what `function(y, x, height, width)` gives."""

    function: Portable
    info: SourceInfo

    @classmethod
    def of(cls, function: Callable[..., Any], shape: tuple[int, ...], dtype: str | None = None) -> FunctionSource:
        """Describe a function by the image's (height, width[, samples]); a small region at the top left tells the rest.

        Raises
        ------
        SourceError
            When shape and dtype can't be those of an image, or the function gives something else.
        """
        name = f"function {getattr(function, '__name__', type(function).__name__)}"
        height, width, samples = check_shape((*shape, 1) if len(shape) == 2 else shape, f"shape for the {name}")
        known = len(shape) == 3
        left_out: tuple[str, ...] = ()
        if not known or dtype is None:
            given = _call(function, name, 0, 0, min(_PROBE, height), min(_PROBE, width))
            left_out, probe = masks_left_out(given, "each region's"), np.asarray(given)
            found = probe.shape[2] if probe.ndim == 3 else 1
            samples, dtype = (samples if known else found), (dtype or probe.dtype.name)
            check_shape((height, width, samples), f"{name}'s image")
            _check(probe, name, 0, 0, (min(_PROBE, height), min(_PROBE, width), samples), dtype)
        info = SourceInfo(
            name=name,
            format="function",
            size=Size(height, width),
            samples=samples,
            dtype=check_dtype(np.dtype(dtype), name),
            left_out=left_out,
        )
        return cls(Portable(function, name), info)

    def open(self) -> FunctionReader:
        """Have the function in this process."""
        return FunctionReader(self.function.get(), self.info)

    def identity(self) -> dict[str, Any]:
        """Nobody can know its pixels again (see `Source`)."""
        raise unknown_identity(self.info.name)

    @contextmanager
    def shared(self, folder: str | None = None, *, on_disk: bool = False) -> Iterator[Source]:
        """The same with the function pickled, so that it fails here if it must, see `Source`."""
        with self.function.packed(folder) as function:
            yield replace(self, function=function)


class FunctionReader(Reader):
    """Calls the function, and checks what it gives."""

    def __init__(self, function: Callable[..., Any], info: SourceInfo) -> None:
        self._function, self._info = function, info
        self._kept: tuple[tuple[int, int, int, int], Pixels] | None = None

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`; channels that are asked for in turn are computed together."""
        place = (y, x, height, width)
        if self._kept is None or self._kept[0] != place:
            self._kept = None
            pixels = _call(self._function, self._info.name, *place)
            shape = (height, width, self._info.samples)
            pixels = _check(pixels, self._info.name, y, x, shape, self._info.dtype)
            if out.shape[2] == self._info.samples:
                out[:height, :width] = pixels
                return out[:height, :width]
            self._kept = (place, pixels.copy())  # the function may use its memory again
        out[:height, :width] = self._kept[1][:, :, plane : plane + out.shape[2]]
        return out[:height, :width]

    def close(self) -> None:
        """Forget the last region."""
        self._kept = None


def _call(function: Callable[..., Any], name: str, y: int, x: int, height: int, width: int) -> Pixels:
    try:
        return np.asanyarray(function(y, x, height, width))
    except MemoryError:
        raise
    except Exception as error:  # the caller's own; what can't be had of an image can be filled
        let_through(error)
        raise CorruptTileError(
            f"{name} failed for {width} x {height} pixels at x={x}, y={y} ({type(error).__name__}: {error}); "
            "it is called as function(y, x, height, width)"
        ) from error


def _check(pixels: Pixels, name: str, y: int, x: int, shape: tuple[int, int, int], dtype: str) -> Pixels:
    """The pixels as (height, width, samples), if they are what was asked for."""
    pixels = np.asarray(pixels)  # a masked array, or a np.matrix, has rules of its own
    if pixels.shape == shape[:2] and shape[2] == 1:
        pixels = pixels.reshape(shape)
    if pixels.shape != shape or pixels.dtype.name != dtype:
        raise SourceError(
            f"{name} gave {pixels.dtype.name} of shape {pixels.shape} for {shape[1]} x {shape[0]} pixels at x={x}, "
            f"y={y}; expected {dtype} of shape {shape if shape[2] > 1 else shape[:2]}"
        )
    return pixels
