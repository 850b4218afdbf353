"""How much work a conversion is, and so whether worker processes pay for their start.

Starting them takes about 0.1 s, most of it imports; a small slide is done in less in the caller's own process. So where
the caller does not say how many workers there should be, the work decides.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slidewright.conversions.opening import make_launcher
from slidewright.options import ConvertOptions
from slidewright.system.limits import usable_cpus

if TYPE_CHECKING:
    from slidewright.sources.base import SourceInfo
    from slidewright.system.launcher import Launcher

START_SECONDS = 0.12
"""What processes take to start, beyond what the caller's process needs anyway (2 cores)."""
CERTAIN_BYTES = 16 << 20
"""A source of more bytes than this is worth processes whatever is in it: they start before it is opened."""

_ENCODE = {"none": 900, "packbits": 250, "jpeg": 400, "zstd": 100, "lzw": 34, "deflate": 40, "png": 25, "webp": 25}
_ENCODE |= {"ccitt-t4": 60, "ccitt-t6": 60}
_SLOW = 8  # Mpx/s of any other codec
_READ = {"tiff": 250, "svs": 250, "npy": 1000, "array": 1000, "zarr": 150}
_READ_UNKNOWN = 20  # what OpenSlide, a dataset or a function may give in a second


def work_seconds(info: SourceInfo, options: ConvertOptions) -> float:
    """Roughly the seconds of one core that a conversion takes: RGB megapixels by the speed of source and codec."""
    from slidewright.codecs import DEFAULT, DEFAULT_IMAGE, canonical

    default = DEFAULT_IMAGE if info.dtype == "uint8" else DEFAULT
    codec = canonical(options.compression or default) or ""
    megapixels = info.size.height * info.size.width * info.samples * info.itemsize / 3e6
    read = _READ.get(info.format, _READ_UNKNOWN)
    return megapixels * (1 / read + 4 / 3 / _ENCODE.get(codec, _SLOW))


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

    def settle(self, info: SourceInfo) -> tuple[Launcher | None, ConvertOptions]:
        """The launcher, None for a run in this process, and the options with the number of workers that this means."""
        if self._launcher is not None:
            return self._launcher, self._options
        options = settle_workers(self._options, self._source, info)
        if options.n_workers is None:
            self._launcher = self._stack.enter_context(make_launcher(options))
        return self._launcher, options


def settle_workers(options: ConvertOptions, source: Any, info: SourceInfo) -> ConvertOptions:
    """The options, without processes where the caller does not say how many and the work is too little for any."""
    if options.n_workers is not None or options.timeout is not None or _is_large(source):
        return options
    gained = work_seconds(info, options) * (1 - 1 / usable_cpus())
    return replace(options, n_workers=0) if gained < START_SECONDS else options


def _is_large(source: Any) -> bool:
    """Whether a source is worth processes for certain; a path says so by its size, what is no path may be anything."""
    if not isinstance(source, (str, os.PathLike)):
        return int(getattr(source, "nbytes", 0)) > 4 * CERTAIN_BYTES  # an array of the caller's
    try:
        return os.path.isdir(source) or os.path.getsize(source) > CERTAIN_BYTES
    except OSError:
        return False
