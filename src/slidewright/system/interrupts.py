"""Exceptions that say nothing of what was being done: those of the caller's own signal handlers, such as a time limit
by `signal.alarm`, which can come out of any line of the main thread.
"""

from __future__ import annotations

import signal
from types import CodeType, TracebackType


def let_through(error: BaseException) -> None:
    """Raise what a signal handler raised, if that is what an error is, or what it came of. Who takes all exceptions of
    a library for damage, or for no answer, asks first.
    """
    codes = _codes_of_handlers()
    each: BaseException | None = error
    while each is not None and codes:
        trace: TracebackType | None = each.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code in codes:
                raise each
            trace = trace.tb_next
        each = each.__cause__ or each.__context__


def _codes_of_handlers() -> set[CodeType]:
    codes: set[CodeType | None] = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        handler = getattr(handler, "func", handler)  # of a functools.partial
        if callable(handler) and handler is not signal.default_int_handler:
            codes.add(getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None))
    return {code for code in codes if code is not None}
