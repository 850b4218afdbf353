"""Has the disk write along while a file grows, so that the sync at the end is short."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import Future

from slidewright.system.thread_pool import ThreadPool


class Flusher:
    """Flushes from a thread of its own. Its errors are those of the file: the system tells of each once, and then the
    sync at the end would be fine.
    """

    STEP = 32 << 20  # bytes between one flush and the next

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pool = ThreadPool(1, "slidewright-flush")
        self._since = 0
        self._flush: Future[None] | None = None

    def __enter__(self) -> Flusher:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None and self._flush is not None:
            self._flush.result()

    def watch(self, segments: Iterator[bytes]) -> Iterator[bytes]:
        """Pass segments on, counting them."""
        for segment in segments:
            self.count(len(segment))
            yield segment

    def count(self, nbytes: int) -> None:
        """So much more has been written; starts a flush every now and then unless one is still going on. Raises OSError
        where the last one failed.
        """
        self._since += nbytes
        if self._since >= self.STEP and (self._flush is None or self._flush.done()):
            if self._flush is not None:
                self._flush.result()
            self._since = 0
            self._flush = self._pool.submit(_sync_data, self._fd)


def _sync_data(fd: int) -> None:
    try:
        getattr(os, "fdatasync", os.fsync)(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # it is not one that can be flushed, such as /dev/null
            raise
