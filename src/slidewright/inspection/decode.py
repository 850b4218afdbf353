"""Decoding the segments of a written file, a page or a range at a time, in threads: what the checks of verify.py and
the comparison of compare.py have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import VerifyError
from slidewright.inspection.pyramid_file import PyramidFile, SegmentReader
from slidewright.system.thread_pool import ThreadPool
from slidewright.tiff.page import TiledImage

Decode = Literal["all", "sample", "none"]

_TILES_A_TASK = 32
_T = TypeVar("_T")
_R = TypeVar("_R")


class Decoded(NamedTuple):
    """What was decoded of a page."""

    segments: int
    cut: int
    """Of these, tiles at the edge that are stored without what lies beyond the image."""


def decode_page(
    slide: PyramidFile, page: TiledImage, decode: Decode, threads: int, but: Collection[int] = ()
) -> Decoded:
    """Decode the segments of a page, but those at some places in the file, and check their shapes."""
    n = len(page.offsets)
    if decode == "none" or not n:
        return Decoded(0, 0)
    segments = slide.segments(page)
    if decode == "sample":
        tasks = [sorted({0, n // 2, n - 1} if page.cell.height <= 1024 else {n // 2})]
    else:
        chosen = np.flatnonzero(~np.isin(page.offsets, list(but))).tolist()
        tasks = [chosen[start : start + _TILES_A_TASK] for start in range(0, len(chosen), _TILES_A_TASK)]
    done = [*in_parallel(lambda task: _decode_range(segments, task, slide.ours), tasks, threads)]
    return Decoded(sum(each.segments for each in done), sum(each.cut for each in done))


def _decode_range(segments: SegmentReader, indices: Sequence[int], strict: bool) -> Decoded:
    shapes = [pixels.shape[:2] for n in indices if (pixels := decode_checked(segments, n, strict)) is not None]
    return Decoded(len(shapes), sum(shape != segments.page.cell for shape in shapes) if segments.page.tiled else 0)


def decode_checked(segments: SegmentReader, index: int, strict: bool) -> NDArray[Any] | None:
    """A decoded tile, which has the shape that the page declares (a last strip may be short, and where it is not
    `strict` also a tile at the edge, which may end where the image does); None if left out.
    """
    page, pixels = segments.page, segments.decode(index)
    if pixels is None:
        return None
    wanted = (page.cell.height, page.cell.width, page.samples // page.planes)
    inside = page.pixels_of(index)
    least = wanted[:2] if page.tiled and strict else (inside.height, inside.width) if page.tiled else (0, wanted[1])
    fits = all(low <= side <= high for low, side, high in zip(least, pixels.shape, wanted, strict=False))
    if not fits or pixels.shape[2:] != wanted[2:] or pixels.dtype != page.dtype:
        raise VerifyError(
            f"{segments.where(index)} decodes to {pixels.shape} {pixels.dtype}, not {wanted} {page.dtype}"
        )
    return pixels


def in_parallel(function: Callable[[_T], _R], tasks: Sequence[_T], threads: int) -> Iterator[_R]:
    """The answers of `function` in the order of `tasks`; after the first error no further task starts."""
    if threads <= 1 or len(tasks) <= 1:
        yield from map(function, tasks)
        return
    with ThreadPool(threads, "slidewright-decode") as pool:
        futures = [pool.submit(function, task) for task in tasks]
        try:
            for future in futures:
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
