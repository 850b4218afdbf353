"""How much work a conversion is, and so whether worker processes pay for their start.

Starting them takes 0.1 to 0.3 s, most of it imports; a small slide is done in less in the caller's own process, and one
that is not so small in a few threads of it, since codecs let go of the interpreter's lock. So where the caller does not
say how many workers there should be, the work decides.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slidewright.conversions.opening import make_launcher
from slidewright.options import ConvertOptions
from slidewright.system.early import LARGE_SOURCE
from slidewright.system.limits import usable_cpus

if TYPE_CHECKING:
    from slidewright.sources.base import SourceInfo
    from slidewright.system.launcher import Launcher

START_SECONDS = 0.12
"""What processes take to start, beyond what the caller's process needs anyway (2 cores)."""

MAX_THREADS = 4
"""Beyond which threads wait for the interpreter's lock more than they help."""
THREADS_FROM, THREADS_TO = 0.06, 1.5
"""Seconds of work on one core: less is not worth the smaller blocks, more is worth processes, which can be replaced."""

_ENCODE = {"none": 900, "packbits": 250, "jpeg": 400, "zstd": 100, "lzw": 34, "deflate": 40, "png": 25, "webp": 25}
_ENCODE |= {"ccitt-t4": 60, "ccitt-t6": 60}
_SLOW = 8  # Mpx/s of any other codec
_READ = {"tiff": 250, "svs": 250, "npy": 1000, "array": 1000, "zarr": 150}
_THREADED = ("tiff", "svs", "npy", "array")  # read by code of ours, which several threads may run
_READ_UNKNOWN = 20  # what OpenSlide, a dataset or a function may give in a second


def work_seconds(info: SourceInfo, options: ConvertOptions) -> float:
    """Roughly the seconds of one core that a conversion takes: RGB megapixels by the speed of source and codec."""
    from slidewright.codecs import DEFAULT, DEFAULT_IMAGE, canonical

    default = DEFAULT_IMAGE if info.dtype == "uint8" else DEFAULT
    codec = canonical(options.compression or default) or ""
    megapixels = info.size.height * info.size.width * info.samples * info.stack.frames * info.itemsize / 3e6
    read = _READ.get(info.format, _READ_UNKNOWN)
    return megapixels * (1 / read + 4 / 3 / _ENCODE.get(codec, _SLOW))


def count_threads(info: SourceInfo, work: float, cores: int) -> int:
    """How many threads of one process are worth while for so many seconds of work."""
    stripped = info.tile is not None and info.tile.width >= info.size.width  # which each thread would decode again
    if info.format not in _THREADED or stripped or not THREADS_FROM <= work <= THREADS_TO:
        return 1
    return min(cores, MAX_THREADS)


class Workforce:
    """The processes of a conversion: at once where the source is large for certain, else once it is known how much
    work it is, else none. A context manager, which ends them.
    """

    def __init__(self, options: ConvertOptions, source: Any) -> None:
        self._options, self._source = options, source
        self._stack = contextlib.ExitStack()
        self._launcher: Launcher | None = None

    def __enter__(self) -> Workforce:
        if self._options.n_workers is not None or _is_large(self._source):
            self._launcher = self._stack.enter_context(make_launcher(self._options))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def settle(self, info: SourceInfo) -> tuple[Launcher | None, ConvertOptions, int]:
        """The launcher, None for a run in this process, the options with the number of workers that this means, and
        the number of threads of a run in this process.
        """
        if self._launcher is not None:
            return self._launcher, self._options, 1
        options, threads = settle_workers(self._options, self._source, info)
        if options.n_workers is None:
            self._launcher = self._stack.enter_context(make_launcher(options))
        return self._launcher, options, threads


def settle_workers(options: ConvertOptions, source: Any, info: SourceInfo) -> tuple[ConvertOptions, int]:
    """The options, without processes where the caller does not say how many and the work is too little for any; and the
    number of threads of a run in this process.
    """
    if options.n_workers is not None or options.timeout is not None or _is_large(source):
        return options, 1
    cores, work = usable_cpus(), work_seconds(info, options)
    threads = count_threads(info, work, cores)
    if work / threads < work / cores + START_SECONDS:
        return replace(options, n_workers=0), threads
    return options, 1


def _is_large(source: Any) -> bool:
    """Whether a source is worth processes for certain; a path says so by its size, what is no path may be anything."""
    if not isinstance(source, (str, os.PathLike)):
        return int(getattr(source, "nbytes", 0)) > 4 * LARGE_SOURCE  # an array of the caller's
    try:
        return os.path.isdir(source) or os.path.getsize(source) > LARGE_SOURCE
    except OSError:
        return False
