"""Exceptions that say nothing of what was being done: those of the caller's own signal handlers, such as a time limit
by `signal.alarm`, which can come out of any line of the main thread.
"""

from __future__ import annotations

import signal
import sys
from types import CodeType, FrameType, TracebackType

_LONGEST = 100  # of a chain of exceptions that is looked through
_VARIABLE = 0x04  # of a function with *args (inspect.CO_VARARGS)


def let_through(error: BaseException) -> None:
    """Raise what a signal handler raised in the `try` of the caller, if that is what an error is, or what it came of.
    Who takes all exceptions of a library for damage, or for no answer, asks first.
    """
    codes = _codes_of_handlers()
    here = sys._getframe(1)
    seen: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and codes and not any(each is other for other in seen) and len(seen) < _LONGEST:
        if _was_raised_by(codes, each.__traceback__) and _is_below(here, each.__traceback__):
            raise each
        seen.append(each)
        each = each.__cause__ or each.__context__


def _was_raised_by(codes: set[CodeType], trace: TracebackType | None) -> bool:
    """Whether a traceback has one of these functions, called as a handler is: with a frame."""
    while trace is not None:
        frame = trace.tb_frame
        code = frame.f_code
        if code in codes:
            count = code.co_argcount + bool(code.co_flags & _VARIABLE)
            values = [frame.f_locals.get(name) for name in _arguments(code)[:count]]
            given = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
            if any(isinstance(part, FrameType) for part in given):
                return True
        trace = trace.tb_next
    return False


def _arguments(code: CodeType) -> tuple[str, ...]:
    """Names of the positional arguments, and of *args behind them."""
    first, only = code.co_argcount, code.co_kwonlyargcount
    return (*code.co_varnames[:first], *code.co_varnames[first + only : first + only + 1])


def _is_below(here: FrameType, trace: TracebackType | None) -> bool:
    """Whether it was raised below a frame, and not before: an exception that the program is dealing with while it calls
    us is what each of ours came of, too.
    """
    frame = None if trace is None else trace.tb_frame
    while frame is not None:
        if frame is here:
            return True
        frame = frame.f_back
    return False


def _codes_of_handlers() -> set[CodeType]:
    codes: set[CodeType | None] = set()
    for number in signal.valid_signals():
        handler = signal.getsignal(number)
        handler = getattr(handler, "func", handler)  # of a functools.partial
        if callable(handler) and handler is not signal.default_int_handler:
            codes.add(getattr(handler, "__code__", None) or getattr(type(handler).__call__, "__code__", None))
    return {code for code in codes if code is not None}
