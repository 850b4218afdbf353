"""From what a source gives to what the engine takes: transparency laid on a colour, masks as 0 and 1, and values that
can't be written refused where they are seen.

Apart from the sources because every kind of source needs it, and only the options say which of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from slidewright.errors import SourceError
from slidewright.options import ConvertOptions
from slidewright.pixels import PixelFormat
from slidewright.sources.base import BLANK, Blank, Pixels, Reader, Source, SourceInfo
from slidewright.sources.wrappers.alpha import compose
from slidewright.sources.wrappers.wrapped import WrappedReader, WrappedSource

Check = Callable[[Pixels], tuple[Pixels, str] | None]
"""Takes the pixels of a region; for bad ones it gives where they are, as booleans, and what to say of them."""


def adapted(source: Source, pixels: PixelFormat, options: ConvertOptions) -> Source:
    """The source as the engine takes it, `pixels` being what its pixels become; itself where nothing needs doing.

    Readers of the result raise SourceError, naming value, place and remedy, for labels that are negative or beyond the
    palette, values other than 0 and 1 in a binary mask, and float values that are not finite.
    """
    info = source.info
    composing = options.alpha == "compose" and info.samples == 4
    if not composing and info.dtype == pixels.dtype and _check_for(info, pixels) is None:
        return source
    return AdaptedSource(source, pixels, composing)


@dataclass(frozen=True, slots=True)
class AdaptedSource(WrappedSource):
    """A source whose pixels are checked and changed as they are read."""

    pixels: PixelFormat
    composing: bool = False
    """Whether RGBA is laid on the background."""

    @property
    def info(self) -> SourceInfo:
        """What is known of the pixels as they are given."""
        pixels, info = self.pixels, self.source.info
        changes = self.composing or info.dtype != pixels.dtype
        return replace(
            info,
            samples=pixels.channels,
            dtype=pixels.dtype,
            kind=pixels.kind,
            colormap=pixels.colormap,
            stored=None if changes else info.stored,
            not_stored="its pixels are changed on the way" if changes else info.not_stored,
        )

    def open(self) -> Reader:
        """Open the source in this process."""
        info, pixels = self.source.info, self.pixels
        check, reader = _check_for(info, pixels), self.source.open()
        if self.composing:
            return _Composing(reader, check, info, pixels.background)
        if info.dtype == "bool" and pixels.dtype == "uint8":
            return _Flags(reader, check, info)
        return _Narrowing(reader, check, info) if info.dtype != pixels.dtype else _Checking(reader, check, info)


class _Checking(WrappedReader):
    """Gives a reader's pixels as they are, once they are checked."""

    def __init__(self, reader: Reader, check: Check | None, info: SourceInfo) -> None:
        super().__init__(reader)
        self._check, self._name = check, info.name
        self._samples, self._dtype = info.samples, info.dtype
        self._buffer: Pixels = np.empty((0, 0, 0), info.dtype)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a region, see `Reader.read`."""
        pixels = self._reader.read(y, x, height, width, out, plane)
        return pixels if pixels is BLANK else self._checked(pixels, y, x, plane)

    def _checked(self, pixels: Pixels, y: int, x: int, plane: int) -> Pixels:
        found = self._check(pixels) if self._check is not None else None
        if found is None:
            return pixels
        bad, words = found
        row, column, channel = (int(index) for index in np.argwhere(bad)[0])
        place = f"x={x + column}, y={y + row}"
        if self._samples > 1 or plane:
            place += f", channel {plane + channel}"
        value = pixels[row, column, channel].item()
        raise SourceError(f"{self._name}: the value {value} at {place} {words}")

    def _room(self, out: Pixels, samples: int) -> Pixels:
        """Memory for a region that is as large as `out`, of the source's dtype; the same one every time."""
        shape = (*out.shape[:2], samples)
        if self._buffer.shape != shape:
            self._buffer = np.empty(shape, self._dtype)
        return self._buffer


class _Composing(_Checking):
    """Lays RGBA on a background."""

    def __init__(self, reader: Reader, check: Check | None, info: SourceInfo, background: tuple[float, ...]) -> None:
        super().__init__(reader, check, info)
        self._background = background

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a region, see `Reader.read`."""
        frame = plane // out.shape[2]
        rgba = self._reader.read(y, x, height, width, self._room(out, self._samples), frame * self._samples)
        if rgba is BLANK:  # a transparent background becomes the colour it is laid on
            return BLANK
        compose(rgba, self._background, out[:height, :width])
        return out[:height, :width]


class _Flags(_Checking):
    """Gives booleans as the bytes 0 and 1; in memory a true one may be any other, such as Pillow's 255."""

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a region, see `Reader.read`."""
        flags = self._reader.read(y, x, height, width, out.view(np.bool_), plane)
        if flags is BLANK:
            return BLANK
        found = flags.view(np.uint8)
        if int(found.max()) > 1:
            answer = out[:height, :width]
            np.not_equal(found, 0, out=answer.view(np.bool_))
            found = answer
        return self._checked(found, y, x, plane)


class _Narrowing(_Checking):
    """Puts values into a smaller dtype once they are known to fit."""

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a region, see `Reader.read`."""
        wide = self._reader.read(y, x, height, width, self._room(out, out.shape[2]), plane)
        if wide is BLANK:
            return BLANK
        out[:height, :width] = self._checked(wide, y, x, plane)
        return out[:height, :width]


def _check_for(info: SourceInfo, pixels: PixelFormat) -> Check | None:
    """What must be looked at in each region; None where the dtype allows nothing that is wrong."""
    if pixels.kind == "binary":
        return None if info.dtype == "bool" else _binary
    if pixels.kind == "labels":
        signed = np.dtype(info.dtype).kind == "i"
        colors = len(pixels.colormap) if pixels.colormap is not None else None
        if colors is not None and colors <= int(np.iinfo(info.dtype).max):
            return _Labels(colors)
        return _Labels(None) if signed else None
    return _finite if info.dtype == "float32" else None


def _binary(pixels: Pixels) -> tuple[Pixels, str] | None:
    if int(pixels.min()) >= 0 and int(pixels.max()) <= 1:
        return None
    return (pixels < 0) | (
        pixels > 1
    ), "is neither 0 nor 1, as in a binary mask; make it one, for example with mask > 0"


def _finite(pixels: Pixels) -> tuple[Pixels, str] | None:
    finite = np.isfinite(pixels)
    if finite.all():
        return None
    return ~finite, "has no mean with its neighbours; replace such values, for example with np.nan_to_num"


@dataclass(frozen=True, slots=True)
class _Labels:
    """Checks labels against a palette of `colors`, or only that they are not negative."""

    colors: int | None

    def __call__(self, pixels: Pixels) -> tuple[Pixels, str] | None:
        if pixels.dtype.kind == "i" and int(pixels.min()) < 0:
            return pixels < 0, "is no label, which are 0 and more; give it one, for example with labels.clip(0)"
        if self.colors is None or int(pixels.max()) < self.colors:
            return None
        return (
            pixels >= self.colors,
            f"is a label beyond the palette, which ends at {self.colors - 1}; give colormap a colour for it",
        )
