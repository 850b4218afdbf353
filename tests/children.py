"""The processes that a run has started, by the role in their name, and a child that Ctrl-C reaches."""

from __future__ import annotations

import signal

import psutil


def role(process):
    try:
        return process.name()
    except psutil.Error:
        return ""


def descendants(pid=None):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def named(start, pid=None):
    return [process for process in descendants(pid) if role(process).startswith(start)]


def heed_ctrl_c():
    """For `preexec_fn` of a child that is to be interrupted.

    Under nohup and in the background of a shell without job control SIGINT is ignored, which children inherit.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
