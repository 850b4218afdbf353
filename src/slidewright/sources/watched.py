"""The files of a source while they are read: what has changed in between may be a mixture of two files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from slidewright.errors import SourceError
from slidewright.sources.on_disk import file_identity, folder_identity
from slidewright.system.file_identity import local_path
from slidewright.system.files import close_quietly, regular
from slidewright.system.limits import open_files
from slidewright.system.remote_file import is_url

_MAX_HELD = 64  # files of a source that are kept open; only DICOM has more than a few
_SHARE_HELD = 32  # of the files that may be open, which other conversions in this process need as well


class WatchedFiles:
    """Files as they were when this was made; picklable.

    Parameters
    ----------
    paths
        Of files, folders and URLs.
    before
        Of some of them, bytes and time of change (ns) before they were looked at.
    stores
        Folders in which they lie, and which may get other files: whether they were moved away and back is told.
    """

    def __init__(
        self,
        paths: Iterable[str],
        before: Mapping[str, tuple[int, int]] = MappingProxyType({}),
        stores: Iterable[str] = (),
    ) -> None:
        self._before: dict[str, dict[str, Any] | None] = {}
        self.changes: dict[str, tuple[int, ...]] = {}
        """Of those on a disk, when the system last changed anything of them, and what may be changed of them without
        their pixels; as JSON can hold it.
        """
        self._of_parts: Mapping[str, tuple[int, ...]] = {}
        self._latest: dict[str, tuple[int, ...] | None] = {}
        for path in paths:
            found, self._before[path] = _look(path)
            if found is not None:
                self.changes[path] = found
        self._stores = {path for path in stores if path not in self._before}
        self.changes |= {path: found for path in self._stores if (found := _change_of_store(path)) is not None}
        for path, seen in self._before.items():
            if seen is not None and path in before:
                seen.update(zip(("bytes", "changed"), before[path], strict=True))
        self._held: dict[str, int] = {}

    def since(self, changes: Mapping[str, tuple[int, ...]]) -> None:
        """Tell doubts of what happened since another run, of which parts are used, had these `changes`."""
        self._of_parts = changes

    def hold(self) -> None:
        """Keep them open, until `close`: one that is written over, or cut short, and then removed, tells so."""
        most = min(_MAX_HELD, open_files() // _SHARE_HELD)
        for path in [path for path, before in self._before.items() if before is not None][:most]:
            if path in self._held:
                continue
            with contextlib.suppress(OSError):
                self._held[path] = regular(local_path(path))

    def close(self) -> None:
        """Close what is held."""
        while self._held:
            close_quietly(self._held.popitem()[1])

    def check(self, *, quick: bool = False) -> None:
        """Raise SourceError where one has changed; `quick` looks at the files on a disk alone, not into folders."""
        for path, before in self._before.items():
            if quick and (before is None or "bytes" not in before or is_url(path)):
                continue
            now = self._seen(path)
            if now is None and (before is None or "bytes" in before):  # a file that was removed is read to its end
                continue
            if now != before and not (before is None and is_url(path)):  # whose server was silent before
                remedy = "run again when it is complete"
                if is_url(path) and before is not None and now is not None and now.get("bytes") == before.get("bytes"):
                    remedy += "; if its server gives each answer another ETag or time of change, download it first"
                raise SourceError(f"{path} has changed while it was read; {remedy}")

    def changed(self, *, quick: bool) -> bool:
        """Whether one is there and not as it was; of one that can't be seen nobody knows. `quick` as for `check`."""
        known = [(path, before) for path, before in self._before.items() if before is not None]
        slow = {path for path, before in known if is_url(path) or "bytes" not in before}
        return any(self._seen(path) not in (None, before) for path, before in known if not (quick and path in slow))

    def doubts(self) -> list[str]:
        """Warnings of files that say they are what they were, and may be changed all the same: a program that writes
        into a file can set its time back. The system tells of that, and of harmless things such as a link, by one time.
        """
        now = {path: change for path in self.changes if (change := self._change(path)) is not None}
        told = [path for path in now if _is_touched(self.changes[path], now[path])]
        before = [path for path in now if path not in told and _is_touched(self._of_parts.get(path), now[path])]
        since = dict.fromkeys(told, "while it was read") | dict.fromkeys(before, "since the first part was made of it")
        return [
            f"{path} was touched {when}, and its size and time are what they were; if it was written over, or "
            "exchanged and put back, this is a mixture, which verify --against tells"
            for path, when in since.items()
        ]

    def _seen(self, path: str) -> dict[str, Any] | None:
        """What tells it from what it was, also of one that is held and was removed."""
        (self._latest[path], now), before = _look(path), self._before[path]
        if now is None and path in self._held and before is not None:
            with contextlib.suppress(OSError):  # of a network disk, which does not keep what was removed
                status = os.fstat(self._held[path])
                return {**before, "bytes": status.st_size, "changed": status.st_mtime_ns}
        return now

    def _change(self, path: str) -> tuple[int, ...] | None:
        """What `changes` would be now, or was when it was last looked at: that may have been a walk."""
        if path in self._stores:
            return _change_of_store(path)
        return self._latest[path] if path in self._latest else _look(path)[0]

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which does not hold them."""
        return {**self.__dict__, "_held": {}}


def _look(path: str) -> tuple[tuple[int, ...] | None, dict[str, Any] | None]:
    """When the system changed a file, or what is in a folder, in any way, and what may be changed of it without its
    pixels; and what tells it from what it was. None where nobody knows (as of the chunks of a store behind HTTP),
    or it has been removed.
    """
    local = local_path(path)
    try:
        if is_url(local):
            return None, file_identity(local)
        if os.path.isdir(local):
            touched = [os.lstat(local).st_ctime_ns]  # of a link itself, if it is one
            identity = folder_identity(local, touched)
            return (max(touched),), identity
        if not os.path.isfile(local):
            return None, None
        status, latest = os.stat(local), max(os.stat(local).st_ctime_ns, os.lstat(local).st_ctime_ns)
        change = (latest, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_ino)
        return change, file_identity(local)
    except (OSError, SourceError, ValueError):
        return None, None


def _change_of_store(path: str) -> tuple[int, ...] | None:
    """When the system changed a folder itself, and what is changed with it where it got another file."""
    try:
        status, latest = os.stat(path), max(os.stat(path).st_ctime_ns, os.lstat(path).st_ctime_ns)
    except (OSError, ValueError):
        return None
    return latest, status.st_mtime_ns, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_ino


def _is_touched(before: tuple[int, ...] | None, now: tuple[int, ...]) -> bool:
    return before is not None and before != () and now[0] != before[0] and now[1:] == before[1:]
