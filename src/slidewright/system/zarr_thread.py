"""The thread in which zarr does all that it is asked for, which it starts when it is first asked."""

from __future__ import annotations

from threading import Thread, main_thread

from slidewright.errors import SourceError


def check_zarr_thread(what: str) -> None:
    """Raise SourceError, about `what` is to be opened, where zarr's thread can't be had any more: CPython 3.12 starts
    none after the end of the main thread, and zarr 3.4.2 waits for it for ever when it is asked once more.
    """
    if main_thread().is_alive():
        return
    from zarr.core.sync import iothread

    if iothread[0] is not None and iothread[0].is_alive():
        return
    try:
        Thread(target=int, daemon=True).start()
    except RuntimeError as error:
        raise SourceError(
            f"{what} can't be opened by zarr ({error}): the program's main thread has ended; have it wait for this "
            "thread (thread.join())"
        ) from error
