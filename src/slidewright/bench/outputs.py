"""What a program wrote, and whether it is the same work: levels, tiles, codec, size, and pixels against the source.

It reads as a stranger would, whoever wrote the file, and looks at a fixed sample of tiles.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import numpy as np

from slidewright.geometry import Region, Size
from slidewright.inspection.pyramid_file import open_pyramid
from slidewright.sources.base import Pixels, Reader, SourceInfo, known
from slidewright.tiff.page import Page

SAMPLED_TILES = 200
ROUNDED = 45.0
"""Decibels that means have which are cut off, not rounded, and more."""
SIZE_TOLERANCE = 0.10
"""Of the bytes of the whole file."""
PSNR_TOLERANCE = (3.0, 1.0)
"""In dB, of level 0 and of level 1. Level 0 of a JPEG encoded again with its own tables loses nearly nothing, so a
quality that differs by one shows there more than it should; level 1 has pixels that were never encoded.
"""


@dataclass(frozen=True, slots=True)
class Output:
    """What a contestant wrote."""

    bytes: int
    levels: tuple[tuple[int, int], ...]
    """(width, height) of each level."""
    compression: str
    photometric: str
    tile: tuple[int, int]
    subsampling: tuple[int, int] | None
    psnr: tuple[float | None, ...] = ()
    """Of levels 0 and 1 against the source and its 2 x 2 means, in dB over a sample of tiles; None for equal pixels."""

    @property
    def words(self) -> str:
        """One line."""
        sampling = "" if self.subsampling is None else f" {self.subsampling[0]}x{self.subsampling[1]}"
        (width, height), (last_width, last_height) = self.levels[0], self.levels[-1]
        colours = f", {self.photometric}" if self.photometric else ""
        text = (
            f"{len(self.levels)} levels, {width} x {height} to {last_width} x {last_height}, "
            f"tile {self.tile[0]} x {self.tile[1]}, {self.compression}{colours}{sampling}, "
            f"{self.bytes / 1e6:.1f} MB"
        )
        for level, value in enumerate(self.psnr):
            text += f", level {level} " + ("exact" if value is None else f"{value:.1f} dB")
        return text


def describe(path: str | os.PathLike[str], source: str | None = None) -> Output:
    """What a pyramidal TIFF or an OME-Zarr is; with a source, also how near its pixels are to it."""
    with open_pyramid(path) as slide:
        first = slide.levels[0]
        return Output(
            bytes=slide.bytes,
            levels=tuple((page.size.width, page.size.height) for page in slide.levels),
            compression=first.compression,
            photometric=first.photometric if isinstance(first, Page) else "",  # few say it
            tile=(first.cell.width, first.cell.height),
            subsampling=first.subsampling if isinstance(first, Page) else None,
            psnr=() if source is None else tuple(_psnr(path, n, source) for n in range(min(2, len(slide.levels)))),
        )


def _psnr(path: str | os.PathLike[str], level: int, source: str) -> float | None:
    """PSNR of a fixed sample of tiles of level 0 or 1 against the source, reduced by 2 x 2 means for level 1."""
    from slidewright.inspection.compare import psnr
    from slidewright.pyramid.reduce import halve
    from slidewright.sources.open import open_source

    written, given = open_source(path, level=level), open_source(source)
    scale, size, cell = 1 << level, given.info.size, written.info.tile or Size(512, 512)
    grid = Size(*(-(-length // side) for length, side in zip(written.info.size, cell, strict=True)))
    common = Size(*(min(has, wants // scale) for has, wants in zip(written.info.size, size, strict=True)))
    total, count = 0.0, 0
    with contextlib.closing(written.open()) as there, contextlib.closing(given.open()) as here:
        for index in range(0, grid.height * grid.width, max(1, grid.height * grid.width // SAMPLED_TILES)):
            row, column = divmod(index, grid.width)
            place = Region(row * cell.height, column * cell.width, *cell).clipped(common)
            if place.empty:
                continue
            wanted = _read(here, given.info, Region(*(scale * n for n in place)))
            wanted = halve("mean", wanted) if level else wanted
            found = _read(there, written.info, place)
            total += float(np.square(found.astype(np.float32) - wanted).sum(dtype=np.float64))
            count += wanted.size
    peak = float(np.iinfo(given.info.dtype).max)
    return None if total == 0 else psnr(total / max(1, count), peak)


def _read(reader: Reader, info: SourceInfo, place: Region) -> Pixels:
    out = np.empty((place.height, place.width, info.samples), info.dtype)
    return np.ascontiguousarray(known(reader.read(*place, out)))


def differences(found: Output, reference: Output) -> tuple[str, ...]:
    """Where a file is not the same work as the reference; empty when it is."""
    said = []
    if len(found.levels) != len(reference.levels):
        said.append(f"{len(found.levels)} levels instead of {len(reference.levels)}")
    wrong = [
        f"{a[0]} x {a[1]} instead of {b[0]} x {b[1]}"
        for a, b in zip(found.levels, reference.levels, strict=False)
        if a != b
    ]
    if wrong:
        said.append(f"a level is {wrong[0]}")
    for name in ("tile", "compression", "photometric", "subsampling"):
        one, other = getattr(found, name), getattr(reference, name)
        if one != other:
            said.append(f"{name} {one} instead of {other}")
    if abs(found.bytes / reference.bytes - 1) > SIZE_TOLERANCE:
        said.append(f"{found.bytes / reference.bytes:.2f} of the bytes")
    for level, (one, other) in enumerate(zip(found.psnr, reference.psnr, strict=False)):
        if _apart(one, other, level):
            said.append(f"level {level} has {_decibels(one)} instead of {_decibels(other)}")
    return tuple(said)


def _apart(one: float | None, other: float | None, level: int) -> bool:
    if one is None or other is None:  # above level 0, means that are rounded in another way are as good as equal
        return one is not other and (not level or min(one or ROUNDED, other or ROUNDED) < ROUNDED)
    tolerance = PSNR_TOLERANCE[level]
    return abs(one - other) > tolerance


def _decibels(value: float | None) -> str:
    return "equal pixels" if value is None else f"{value:.1f} dB"
