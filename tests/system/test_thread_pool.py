"""Threads of our own: their answers, errors, and end."""

from __future__ import annotations

import threading
import time

import pytest

from slidewright.system.thread_pool import ThreadPool


def named(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(name)]


def test_answers_come_in_order_and_errors_to_whoever_asks() -> None:
    with ThreadPool(3, "in-order") as pool:
        assert list(pool.map(lambda value: value * 2, range(20))) == list(range(0, 40, 2))
        wrong = pool.submit(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            wrong.result(10)
    assert named("in-order") == []


def test_work_that_waits_is_cancelled() -> None:
    go = threading.Event()
    pool = ThreadPool(1, "cancelled")
    first, second = pool.submit(go.wait), pool.submit(int)
    while not first.running():
        time.sleep(0.001)
    pool.shutdown(wait=False, cancel_futures=True)
    go.set()
    assert second.cancelled()
    assert first.result(10)


def test_threads_of_a_pool_that_nobody_closed_end_with_it() -> None:
    pool = ThreadPool(4, "dropped")
    assert [future.result(10) for future in [pool.submit(int) for _ in range(8)]] == [0] * 8
    del pool
    end = time.monotonic() + 10
    while named("dropped") and time.monotonic() < end:
        time.sleep(0.01)
    assert named("dropped") == []
