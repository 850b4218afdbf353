"""Has the disk write along while a file grows, so that the sync at the end is short."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import Future

from slidewright.system.thread_pool import ThreadPool


class Flusher:
    """Flushes from a thread of its own; a hint only: its errors are left for the sync at the end to report."""

    STEP = 32 << 20  # bytes between one flush and the next

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pool = ThreadPool(1, "slidewright-flush")
        self._since = 0
        self._flush: Future[None] | None = None

    def __enter__(self) -> Flusher:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def watch(self, segments: Iterator[bytes]) -> Iterator[bytes]:
        """Pass segments on, counting them."""
        for segment in segments:
            self.count(len(segment))
            yield segment

    def count(self, nbytes: int) -> None:
        """So much more has been written; starts a flush every now and then unless one is still going on."""
        self._since += nbytes
        if self._since >= self.STEP and (self._flush is None or self._flush.done()):
            self._since = 0
            self._flush = self._pool.submit(_sync_data, self._fd)


def _sync_data(fd: int) -> None:
    with contextlib.suppress(OSError):
        getattr(os, "fdatasync", os.fsync)(fd)
