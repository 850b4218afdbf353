"""Threads that are handed work. Those of `concurrent.futures` take none once the main thread has ended, although other
threads of the program, and what `atexit` calls, may still convert.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Work = tuple[Future[Any], Callable[[], Any]]


class ThreadPool(Executor):
    """Up to `count` threads, which end with the pool; where Python starts none any more, whoever hands work in does it.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count, self._name = count, name
        self._threads: list[Thread] = []
        self._work: SimpleQueue[_Work | None] = SimpleQueue()

    def submit(self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """See `Executor`."""
        if len(self._threads) < self._count:
            self._add_thread()
        future: Future[_T] = Future()
        work = (future, partial(function, *args, **kwargs))
        if self._threads:
            self._work.put(work)
        else:
            _do(*work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """See `Executor`."""
        with suppress(Empty):
            while cancel_futures:
                if work := self._work.get_nowait():
                    work[0].cancel()
        for _ in self._threads:
            self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def __del__(self) -> None:
        self.shutdown(wait=False)

    def _add_thread(self) -> None:
        name = f"{self._name}-{len(self._threads)}"
        # One that is left must not hold up the end of the program.
        thread = Thread(target=_take_turns, args=(self._work,), name=name, daemon=True)
        with suppress(RuntimeError):  # the interpreter is ending, or the system has no more: those that are there do it
            thread.start()
            self._threads.append(thread)


def _take_turns(queue: SimpleQueue[_Work | None]) -> None:
    while (work := queue.get()) is not None:
        _do(*work)
        del work  # and with it the answer, which may be large


def _do(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
