"""Files that a library opens by name again and again, held against those that were there at first: a folder above them
may be exchanged and put back in between, and pixels of two slides would be in one.

Apart because of a library that keeps its files open nothing of this is needed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from slidewright.errors import SourceError
from slidewright.system.file_identity import leads_to
from slidewright.system.files import close_quietly, regular
from slidewright.system.limits import open_files

_MAX_HELD = 64  # of the files, which get no other's number while they are; the rest are known by theirs
_SHARE_HELD = 32  # of the files that may be open


class HeldFiles:
    """A file, and those beside it, as they were when this was made.

    Parameters
    ----------
    path
        Of the file.
    seen
        Its bytes and time of change (ns) when the run began, if known.
    beside
        The same of the others, behind their names in the file's folder.

    Raises
    ------
    SourceError
        When one is not there, or not what it was.
    """

    def __init__(self, path: str, seen: tuple[int, int] | None, beside: Iterable[tuple[str, int, int]] = ()) -> None:
        folder, self._name = os.path.split(path)
        self._folder = self._place = folder
        self._held: list[int] = []
        self._found: dict[str, os.stat_result] = {}
        most = min(_MAX_HELD, open_files() // _SHARE_HELD)
        try:
            if hasattr(os, "O_PATH"):  # Linux, where a path may begin at an open folder, whatever its name leads to
                with contextlib.suppress(OSError):
                    self._held.append(os.open(folder or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
                    through = f"/proc/self/fd/{self._held[0]}"
                    self._place = through if leads_to(through, os.fstat(self._held[0])) else folder
            self.path = os.path.join(self._place, self._name)
            """The file, for the library to open."""
            for name, *when in ((self._name, *(seen or ())), *beside):
                self._add(name, when, most)
        except BaseException:
            self.close()
            raise

    def check(self, *, strict: bool = False) -> None:
        """Raise SourceError where a name leads to another file now; or, of the main one only if `strict`, to none: many
        a library keeps that one open.
        """
        for name, status in self._found.items():
            path = os.path.join(self._place, name)
            if not leads_to(path, status) and (strict or name != self._name or os.path.exists(path)):
                raise SourceError(
                    f"{os.path.join(self._folder, name)} was moved, removed or replaced while it was read; run again "
                    "when it is there"
                )

    def named(self, text: str) -> str:
        """What a library says of the files, with their own names."""
        return text.replace(os.path.join(self._place, ""), os.path.join(self._folder, ""))

    def close(self) -> None:
        """Close what is held; may be called twice."""
        while self._held:
            close_quietly(self._held.pop())

    def _add(self, name: str, when: list[int], most: int) -> None:
        path = os.path.join(self._folder, name)
        try:
            fd = regular(os.path.join(self._place, name))
        except OSError as error:
            raise SourceError(f"{path} can't be opened: {error.strerror or error}") from error
        self._held.append(fd)
        self._found[name] = status = os.fstat(fd)
        if when and when != [status.st_size, status.st_mtime_ns]:
            raise SourceError(f"{path} is not the file it was when the run began; start again")
        if len(self._held) > most:
            close_quietly(self._held.pop())
