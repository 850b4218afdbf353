"""Decoding the segments of a written file, a page or a range at a time, in threads: what the checks of verify.py and
the comparison of compare.py have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar

from numpy.typing import NDArray

from slidewright.errors import VerifyError
from slidewright.inspection.pyramid_file import PyramidFile, SegmentReader
from slidewright.system.thread_pool import ThreadPool
from slidewright.tiff.page import TiledImage

Decode = Literal["all", "sample", "none"]

_TILES_A_TASK = 32
_T = TypeVar("_T")
_R = TypeVar("_R")


def decode_page(slide: PyramidFile, page: TiledImage, decode: Decode, threads: int) -> int:
    """Decode the segments of a page and check their shapes; the answer is how many."""
    n = len(page.offsets)
    if decode == "none" or not n:
        return 0
    segments = slide.segments(page)
    if decode == "sample":
        return _decode_range(segments, sorted({0, n // 2, n - 1} if page.cell.height <= 1024 else {n // 2}))
    tasks = [range(start, min(n, start + _TILES_A_TASK)) for start in range(0, n, _TILES_A_TASK)]
    return sum(in_parallel(lambda task: _decode_range(segments, task), tasks, threads))


def _decode_range(segments: SegmentReader, indices: Sequence[int]) -> int:
    return sum(decode_checked(segments, index) is not None for index in indices)


def decode_checked(segments: SegmentReader, index: int) -> NDArray[Any] | None:
    """A decoded tile, which has the shape that the page declares (a last strip may be short); None if left out."""
    page, pixels = segments.page, segments.decode(index)
    if pixels is None:
        return None
    wanted = (page.cell.height, page.cell.width, page.samples // page.planes)
    fits = pixels.shape == wanted if page.tiled else pixels.shape[1:] == wanted[1:] and pixels.shape[0] <= wanted[0]
    if not fits or pixels.dtype != page.dtype:
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
