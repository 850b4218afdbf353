"""The pyramid as a TIFF file: pages, tags and the order of segments; the one place that calls tifffile's writer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from slidewright.codecs import Encoding
from slidewright.errors import OutputError
from slidewright.pyramid.plan import Key, Level, Plan

CLASSIC_LIMIT = (1 << 32) - (1 << 24)  # offsets are 32 bits; the rest is for the tables of the pages

_BUFFER = 1 << 13  # only what is smaller is copied once more on its way to the file

TakeSegment = Callable[[Key], bytes]
"""Gives a tile's segment, waiting for it if need be."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What a file says besides its pixels."""

    plan: Plan
    encoding: Encoding
    bigtiff: bool
    mpp: tuple[float, float] | None
    description: str | None
    icc_profile: bytes | None
    software: str


def write_pyramid(path: str, layout: Layout, take: TakeSegment) -> list[int]:
    """Write every level, in raster order of tiles, largest level first; returns the encoded bytes of each level.

    The file is made by this call and must not exist. The order depends on the plan's levels alone, so the bytes are
    the same however the segments came about.

    Raises
    ------
    OutputError
        When the file can't be written or outgrows classic TIFF.
    """
    import tifffile

    sizes: list[int] = []
    try:
        with (
            open(path, "xb", buffering=_BUFFER) as file,
            _Flusher(file.fileno()) as flusher,
            tifffile.TiffWriter(file, bigtiff=layout.bigtiff, byteorder="<", ome=False, shaped=False) as tiff,
        ):
            for level in layout.plan.levels:
                sizes.append(0)
                segments = _segments(layout, level, take, sizes)
                tiff.write(flusher.watch(segments), **_page_arguments(layout, level))
            file.flush()
            _correct_tags(path, layout.encoding.corrections())
            os.fsync(file.fileno())
    except OSError as error:
        raise OutputError(f"can't write {path!r}: {error.strerror or error}") from error
    return sizes


def _correct_tags(path: str, corrections: dict[str, int]) -> None:
    """Overwrite tags of every page with what tifffile's writer would not write; the new values are of the same size."""
    if not corrections:
        return
    import tifffile

    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            for name, value in corrections.items():
                page.aspage().tags[name].overwrite(value)


class _Flusher:
    """Has the disk write along while the file grows, so that the sync at the end is short.

    It is a hint only: its errors are left for that sync to report.
    """

    STEP = 32 << 20  # bytes between one flush and the next

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pool = ThreadPoolExecutor(1, "slidewright-flush")
        self._since = 0
        self._flush: Future[None] | None = None

    def __enter__(self) -> _Flusher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def watch(self, segments: Iterator[bytes]) -> Iterator[bytes]:
        """Pass segments on, starting a flush every now and then unless one is still going on."""
        for segment in segments:
            self._since += len(segment)
            if self._since >= self.STEP and (self._flush is None or self._flush.done()):
                self._since = 0
                self._flush = self._pool.submit(_sync_data, self._fd)
            yield segment


def _sync_data(fd: int) -> None:
    with contextlib.suppress(OSError):
        getattr(os, "fdatasync", os.fsync)(fd)


def _segments(layout: Layout, level: Level, take: TakeSegment, sizes: list[int]) -> Iterator[bytes]:
    for place in np.ndindex(layout.plan.planes, *level.tiles):
        segment = take((level.index, *place))
        sizes[-1] += len(segment)
        if not layout.bigtiff and sum(sizes) > CLASSIC_LIMIT:
            raise OutputError("the output does not fit in a classic TIFF (4 GB); write a BigTIFF, or compress more")
        yield segment


def _page_shape(layout: Layout, level: Level) -> tuple[int, ...]:
    """As tifffile wants it: planes first, samples last, neither where there is one."""
    planes, samples = layout.plan.planes, layout.encoding.samples
    return (*((planes,) if planes > 1 else ()), *level.size, *((samples,) if samples > 1 else ()))


def _page_arguments(layout: Layout, level: Level) -> dict[str, Any]:
    encoding = layout.encoding
    arguments: dict[str, Any] = {
        "shape": _page_shape(layout, level),
        "dtype": encoding.dtype,
        "tile": (encoding.tile, encoding.tile),
        "subfiletype": 1 if level.index else 0,
        "metadata": None,
        "software": layout.software if not level.index else False,
        **encoding.tiff_arguments(),
    }
    if layout.mpp is not None:
        arguments["resolution"] = tuple(1e4 / (mpp * (1 << level.index)) for mpp in layout.mpp)
        arguments["resolutionunit"] = "CENTIMETER"
    if layout.icc_profile is not None:
        arguments["iccprofile"] = layout.icc_profile
    if layout.description is not None and not level.index:
        arguments["description"] = layout.description.encode("utf-8")
    return arguments
