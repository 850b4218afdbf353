"""Imported by a fork server, it lets no more processes be made, as a limit on them does."""

import errno
import os


def _refuse() -> int:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


os.fork = _refuse
