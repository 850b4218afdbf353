"""Pixels of a written pyramid against its source: the oracle, computed block by block beside the file's own tiles.

Apart from `verify` because it needs a source and the reductions. A block of the source is read once and reduced through
the levels that it holds whole; what is left is kept (in a temporary file when large) as the source of the levels above,
so memory does not grow with the slide.
"""

from __future__ import annotations

import functools
import math
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OutputError, VerifyError
from slidewright.geometry import Region, Size, halvings
from slidewright.inspection.decode import decode_checked, in_parallel
from slidewright.inspection.pyramid_file import PyramidFile
from slidewright.options import Color
from slidewright.pixels import MASKS
from slidewright.pyramid.plan import Block, Pass, make_plan
from slidewright.pyramid.reduce import halve
from slidewright.sources.base import BLANK, Blank, Source, known
from slidewright.tiff.page import TiledImage
from slidewright.tiff.shown import change_of
from slidewright.tiff.slide import TiffSlide

_KEEP_BYTES = 1 << 26  # a larger reduced level goes to a temporary file
Match = tuple[bool, float, float]
Background = Color | int | float | None


def compare_levels(
    slide: PyramidFile, against: Any, resampling: str | None, background: Background, threads: int
) -> dict[int, Match]:
    """Compare every level with the oracle made from `against`.

    Returns
    -------
    dict
        Level number to (exact, PSNR in dB, PSNR of the worst tile); PSNR is infinite for equal pixels.

    Raises
    ------
    VerifyError
        When size, dtype or samples differ, or a pixel of a lossless level does; it names level, tile and pixel.
    """
    first = slide.levels[0]
    images = len(slide.planes[0])
    source, blank = _as_written(against, slide, background)
    info, samples = source.info, first.samples * images
    if (first.size, samples, first.dtype.name) != (info.size, info.all_samples, info.dtype):
        raise VerifyError(
            f"{slide.path}: level 0 is {first.size} with {samples} samples of {first.dtype}, but {info.name} is "
            f"{info.size} with {info.all_samples} samples of {info.dtype}"
        )
    if any(page.orientation != 1 for page in slide.levels):
        raise VerifyError(
            f"{slide.path}: its levels are stored turned (Orientation): convert it first"
        )
    reused = source.reduced()[: slide.kept - 1] if slide.kept > 1 else ()
    if len(reused) < slide.kept - 1:
        raise VerifyError(f"{slide.path} says that levels are {info.name}'s own, which has no such levels")
    masks = first.masks or slide.noted_kind is not None or info.kind in MASKS
    resampling, tallies = resampling or ("nearest" if masks else "mean"), dict[int, _Tally]()
    if resampling == "mode" and first.photometric == "minisblack":
        resampling = "mode-of-each"  # see `PixelFormat.reduction`
    for start, own in enumerate((source, *reused)):  # each that was copied with the source's, the others with the last
        part, found = _Part(slide, start, start + 1 if start < len(reused) else None), dict[int, _Tally]()
        readers = _Readers(own)
        try:
            for number in range(images):
                _Comparison(part, own, blank, readers, resampling, threads, number).run(found)
        finally:
            readers.close()
        tallies |= {start + number: tally for number, tally in found.items()}
    peak = float(np.iinfo(first.dtype).max) if first.dtype.kind in "iu" else 1.0
    return {number: tally.match(peak) for number, tally in tallies.items()}


@dataclass(frozen=True, slots=True)
class _Part:
    """Some levels of a file, of which the lowest has the pixels of a source."""

    slide: PyramidFile
    start: int
    stop: int | None

    @property
    def path(self) -> str:
        return self.slide.path

    @property
    def kept(self) -> bool:
        """Whether tiles may be the source's, byte for byte; chunks of a zarr store are held against its pixels."""
        return self.slide.kept > 0 and isinstance(self.slide, TiffSlide)

    @property
    def planes(self) -> Sequence[Sequence[TiledImage]]:
        return self.slide.planes[self.start : self.stop]

    def segments(self, page: Any) -> Any:
        return self.slide.segments(page)


def _same_bytes(path: str, page: TiledImage, segments: Any, index: int, wanted: bytes | None) -> None:
    found = segments.read(index) or b""
    if wanted is not None and wanted != found:
        raise VerifyError(
            f"{path}: {page.place(index)} is not the source's own tile: {len(found)} bytes there and "
            f"{len(wanted)} in the source"
        )


def _as_written(against: Any, slide: PyramidFile, background: Background) -> tuple[Source, tuple[float, ...]]:
    """The source as a conversion writes it, and what its blank parts are: a mask as bytes, RGBA on the background where
    the file is RGB; of a stack all planes and times, where the file has several images.
    """
    from slidewright.options import ConvertOptions
    from slidewright.sources.open import open_all, open_source
    from slidewright.sources.pixel_format import resolve_pixels
    from slidewright.sources.wrappers.adapt import adapted

    if hasattr(against, "info") and hasattr(against, "open"):
        source = against
    else:
        source = open_all(against) if len(slide.planes[0]) > 1 else open_source(against)
    info = source.info
    composed = info.samples == 4 and slide.levels[0].samples == 3
    binary = info.dtype != "uint8" and (slide.levels[0].is_mask or slide.noted_kind == "binary")
    if not (composed or binary or info.dtype == "bool" or info.sparse or background is not None):
        return source, ()
    kind = "binary" if binary else None
    options = ConvertOptions(alpha="compose" if composed else "keep", kind=kind, background=background)
    pixels = resolve_pixels(options, info)
    return adapted(source, pixels, options), pixels.background


class _Tally:
    """Squared errors of one level, summed over its tiles."""

    def __init__(self) -> None:
        self.errors, self.samples, self.worst = 0.0, 0, 0.0

    def add(self, errors: float, samples: int) -> None:
        self.errors += errors
        self.samples += samples
        self.worst = max(self.worst, errors / max(1, samples))

    def match(self, peak: float) -> Match:
        return not self.errors, psnr(self.errors / max(1, self.samples), peak), psnr(self.worst, peak)


def psnr(mean_square: float, peak: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite for no error."""
    return 10 * math.log10(peak * peak / mean_square) if mean_square > 0 else math.inf


class _Readers:
    """Open readers of a source for the threads of each image in turn: to open one looks through all pages of a file, so
    that a reader for every image would take quadratic time.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._idle: list[Any] = []
        self._opened: list[Any] = []

    @contextmanager
    def one(self) -> Iterator[Any]:
        try:
            reader = self._idle.pop()
        except IndexError:
            reader = self._source.open()
            self._opened.append(reader)
        yield reader
        self._idle.append(reader)

    def close(self) -> None:
        for reader in self._opened:
            reader.close()


class _Comparison:
    """One sweep after another over the source, as `plan` divides the pyramid.

    `image` is which of the images of a level is compared, where channels or frames are images of their own.
    """

    def __init__(
        self,
        slide: _Part,
        source: Source,
        blank: tuple[float, ...],
        readers: _Readers,
        resampling: str,
        threads: int,
        image: int,
    ) -> None:
        self._slide, self._source, self._resampling, self._threads = slide, source, resampling, threads
        self._blank, self._readers = blank, readers
        self._image, self._several = image, len(slide.planes[0]) > 1
        self._pages: list[TiledImage] = [level[image] for level in slide.planes]
        first, last = self._pages[0], self._pages[-1]
        numbers = {halvings(first.size, page.size) if number else 0: number for number, page in enumerate(self._pages)}
        if last.size == first.size.halved(len(self._pages) - 1):  # tiny levels repeat: 1 x 1 halves to 1 x 1
            numbers = {number: number for number in range(len(self._pages))}
        self._numbers = numbers
        self._plan = make_plan(first.size, max(first.cell), n_levels=max(numbers) + 1)
        for halved, number in numbers.items():
            page = self._pages[number]
            if page.size != self._plan.size_at(halved):
                raise VerifyError(
                    f"{slide.path}: {page.name} is {page.size}; only levels halved and rounded down can be compared"
                )
        self._segments = {number: slide.segments(self._pages[number]) for number in numbers.values()}
        self._changes = {number: change_of(self._pages[number]) for number in numbers.values()}
        self._tallies: dict[int, _Tally] = {}
        self._kept = slide.kept and source.info.stored is not None and source.info.tile == first.cell
        self._lock = threading.Lock()
        self._local = threading.local()
        self._below: NDArray[Any] | None = None
        self._above: NDArray[Any] | None = None

    def run(self, tallies: dict[int, _Tally]) -> None:
        """Compare, adding to the tallies by level."""
        self._tallies = tallies
        for number in self._numbers.values():
            tallies.setdefault(number, _Tally())
        for pas in self._plan.passes:
            self._above = None if pas.scratch_level is None else self._keep(self._plan.size_at(pas.scratch_level))
            blocks = [pas.block(number) for number in range(pas.n_blocks)]
            for _ in in_parallel(functools.partial(self._block, pas), blocks, self._threads):
                pass
            self._below = self._above

    def _keep(self, size: Size) -> NDArray[Any]:
        """An array for a whole reduced level."""
        page = self._pages[0]
        shape = (*size, page.samples)
        nbytes = math.prod(shape) * page.dtype.itemsize
        if nbytes <= _KEEP_BYTES:
            return np.empty(shape, page.dtype)
        try:
            with tempfile.TemporaryFile() as file:
                if hasattr(os, "posix_fallocate"):  # to write into a map whose disk is full ends the process
                    os.posix_fallocate(file.fileno(), 0, nbytes)
                return np.memmap(file, page.dtype, "w+", shape=shape)
        except OSError as error:
            raise OutputError(
                f"can't keep {nbytes >> 20} MB in the temporary folder: {error.strerror or error}; point TMPDIR to a "
                "disk with room"
            ) from error

    def _block(self, pas: Pass, block: Block) -> None:
        if self._below is not None:
            self._compare_block(pas, block)
            return
        with self._readers.one() as self._local.reader:
            self._compare_block(pas, block)

    def _compare_block(self, pas: Pass, block: Block) -> None:
        side = pas.block_tiles * self._plan.tile
        pixels = self._read(self._plan.region(block))
        last = pas.last if pas.scratch_level is None else pas.scratch_level
        for level in range(pas.first, last + 1):
            shift = level - pas.first
            cell = max(1, side >> shift)
            region = Region(block.row * cell, block.column * cell, cell, cell).clipped(self._plan.size_at(level))
            if region.empty:
                return
            if level > pas.first:
                pixels = halve(self._resampling, np.ascontiguousarray(pixels))
            if level == pas.scratch_level:
                assert self._above is not None
                self._above[region.y : region.y + region.height, region.x : region.x + region.width] = pixels
            elif level in self._numbers:
                self._compare(self._numbers[level], region, pixels)

    def _read(self, region: Region) -> NDArray[Any]:
        if self._below is not None:
            return self._below[region.y : region.y + region.height, region.x : region.x + region.width]
        page = self._pages[0]
        shape = (region.height, region.width, page.samples)
        buffer = getattr(self._local, "buffer", None)
        if buffer is None or buffer.size < math.prod(shape):
            buffer = self._local.buffer = np.empty(math.prod(shape), page.dtype)
        out = buffer[: math.prod(shape)].reshape(shape)
        place = (self._image * page.samples,) if self._several else ()
        answer: NDArray[Any] | Blank = self._local.reader.read(*region, out, *place)
        if answer is BLANK and self._source.info.sparse:
            out[...] = self._blank[: page.samples]
            return out
        return known(answer)[: region.height, : region.width]

    def _compare(self, number: int, region: Region, pixels: NDArray[Any]) -> None:
        """Hold the file's tiles of a level against the oracle's pixels of a region."""
        page = self._pages[number]
        if page.planes == 1:
            self._compare_plane(number, 0, region, pixels)
            return
        for plane in range(page.planes):
            self._compare_plane(number, plane, region, pixels[:, :, plane : plane + 1])

    def _compare_plane(self, number: int, plane: int, region: Region, pixels: NDArray[Any]) -> None:
        page = self._pages[number]
        first = plane * page.grid.height * page.grid.width
        for in_plane, part in page.tiles_in(region):
            index = first + in_plane
            own = self._compare_bytes(page, index, in_plane, plane) if not number and self._kept else None
            if own == b"":
                continue
            tile = decode_checked(self._segments[number], index, self._slide.slide.ours)
            change = self._changes[number]
            if change is not None and tile is not None:  # compared is what a viewer shows
                tile = tile.copy()
                change(tile)
            if tile is None:
                raise VerifyError(f"{self._slide.path}: {page.place(index)} is left out, so it can't be compared")
            y, x = part.y % page.cell.height, part.x % page.cell.width
            found = tile[y : y + part.height, x : x + part.width]
            wanted = pixels[
                part.y - region.y : part.y - region.y + part.height, part.x - region.x : part.x - region.x + part.width
            ]
            if np.array_equal(found, wanted):
                errors = 0.0
            elif page.lossless or own is not None or not page.counts[index]:  # what is left out is exact too
                self._differ(page, index, part, found, wanted)
            else:
                errors = squared_error(found, wanted)
            with self._lock:
                self._tallies[number].add(errors, found.size)

    def _compare_bytes(self, page: TiledImage, index: int, in_plane: int, plane: int) -> bytes | None:
        """Hold a kept tile against the source's own, byte by byte, which is the answer; None where it can't be kept."""
        row, column = divmod(in_plane, page.grid.width)
        wanted: bytes | None = self._local.reader.segment(row, column, self._image * page.planes + plane)
        _same_bytes(self._slide.path, page, self._segments[0], index, wanted)
        return wanted

    def _differ(self, page: TiledImage, index: int, part: Region, found: NDArray[Any], wanted: NDArray[Any]) -> None:
        wrong = np.argwhere((found != wanted).any(axis=2))
        y, x = (int(value) for value in wrong[0])
        raise VerifyError(
            f"{self._slide.path}: {page.place(index)} differs from the source at x={part.x + x}, y={part.y + y}: "
            f"{found[y, x].tolist()} instead of {wanted[y, x].tolist()} ({len(wrong)} pixels of this tile differ)"
        )


def squared_error(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """The sum of squared differences."""
    if found.dtype in (np.uint8, np.uint16):
        import cv2

        return float(cv2.norm(np.ascontiguousarray(found), np.ascontiguousarray(wanted), cv2.NORM_L2SQR))
    difference = found.astype(np.float64) - wanted
    return float((difference * difference).sum())
