"""What is mounted where, as Linux tells: of what kind a disk is, and by which other name a folder may be had.

Apart because both locks and the rules of what may be overwritten need it. On other systems nothing is known.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

_MOUNTS = "/proc/self/mountinfo"
_ESCAPED = re.compile(r"\\([0-7]{3})")  # of a blank, a tab, the end of a line and the backslash


class Mount(NamedTuple):
    """A filesystem, or a folder or file of one, that has a name among the files of this machine."""

    number: str
    parent: str
    """The number of the mount that it is in."""
    device: str
    """What tells its filesystem from others."""
    root: str
    """Where in its filesystem lies what is mounted; "/" is all of it."""
    at: str
    """The path that it has here."""
    kind: str
    options: frozenset[str]


class Mounts:
    """All mounts that this process sees, as they are now; none where the system does not tell."""

    def __init__(self) -> None:
        try:
            with open(_MOUNTS, encoding="utf-8", errors="surrogateescape", newline="\n") as file:
                self._all = list(_parsed(file.read()))
        except OSError:
            self._all = []
        self._over = {(mount.parent, mount.at): mount for mount in self._all}
        numbers = {mount.number for mount in self._all}
        self._outermost = [mount for mount in self._all if mount.parent not in numbers or mount.parent == mount.number]

    def of(self, real: str) -> Mount | None:
        """The mount that a path, which need not exist and is without links, lies in."""
        outermost = (mount for mount in self._outermost if _is_below(real, mount.at))
        found = max(outermost, key=lambda mount: len(mount.at), default=None)
        if found is None:
            return None
        ends = [index for index, letter in enumerate(real) if letter == "/" and index] + [len(real)]
        for path in ("/", *(real[:end] for end in ends)):
            while (path == found.at or _is_below(path, found.at)) and (over := self._over.get((found.number, path))):
                if over is found:
                    break
                found = over
        return found

    def home(self, real: str) -> tuple[str, str] | None:
        """The filesystem that a path, as for `of`, lies in, and where it does there, under whatever name it is mounted;
        None where nobody knows.
        """
        mount = self.of(real)
        return None if mount is None else (mount.device, _joined(mount.root, real[len(mount.at.rstrip("/")) :]))

    def below(self, real: str) -> Iterator[tuple[str, str]]:
        """The `home` of all that is mounted inside a folder."""
        return ((mount.device, mount.root) for mount in self._all if mount.at != real and _is_below(mount.at, real))


def _parsed(text: str) -> Iterator[Mount]:
    """The lines of the system's table; proc(5) has its fields."""
    for line in text.split("\n"):
        words = line.split(" ")
        if len(words) < 7 or "-" not in words[6:-1]:
            continue
        number, parent, device, root, at = words[:5]
        dash = words.index("-", 6)
        options = frozenset((*words[5].split(","), *words[-1].split(",")))
        yield Mount(number, parent, device, _plain(root), _plain(at), words[dash + 1], options)


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


def _is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder's or that of something in it, by its letters alone."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _joined(root: str, rest: str) -> str:
    return os.path.normpath(root.rstrip("/") + "/" + rest.strip("/"))
