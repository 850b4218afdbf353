"""The processes that a run has started, by the role in their name."""

from __future__ import annotations

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
