"""The files of a source while they are read: what has changed in between may be a mixture of two files."""

from __future__ import annotations

import contextlib
import os
import stat
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
    """

    def __init__(self, paths: Iterable[str], before: Mapping[str, tuple[int, int]] = MappingProxyType({})) -> None:
        self._before = {path: seen(path) for path in paths}
        self._changes = {path: _change(path) for path in self._before}
        for path, found in self._before.items():
            if found is not None and path in before:
                found.update(zip(("bytes", "changed"), before[path], strict=True))
        self._held: dict[str, int] = {}

    def hold(self) -> None:
        """Keep them open, until `close`: one that is written over, or cut short, and then removed, tells so."""
        most = min(_MAX_HELD, open_files() // _SHARE_HELD)
        for path in [path for path, before in self._before.items() if before is not None][:most]:
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

    @property
    def changed(self) -> bool:
        """Whether one on a disk is there and not as it was; of one that can't be seen nobody knows."""
        known = [(path, before) for path, before in self._before.items() if before is not None and not is_url(path)]
        return any(self._seen(path) not in (None, before) for path, before in known)

    def doubts(self) -> list[str]:
        """Warnings of files that say they are what they were, and may be changed all the same: a program that writes
        into a file can set its time back. The system tells of that, and of harmless things such as a link, by one time.
        """
        changes = ((path, before, _change(path)) for path, before in self._changes.items())
        return [
            f"{path} was touched while it was read, and its size and time are what they were; if it was written over, "
            "this is a mixture, which verify --against tells"
            for path, before, now in changes
            if before is not None and now is not None and now[0] != before[0] and now[1:] == before[1:]
        ]

    def _seen(self, path: str) -> dict[str, Any] | None:
        """As `seen`, also of one that is held and was removed."""
        now, before = seen(path), self._before[path]
        if now is None and path in self._held and before is not None:
            with contextlib.suppress(OSError):  # of a network disk, which does not keep what was removed
                status = os.fstat(self._held[path])
                return {**before, "bytes": status.st_size, "changed": status.st_mtime_ns}
        return now

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which does not hold them."""
        return {**self.__dict__, "_held": {}}


def _change(path: str) -> tuple[int, ...] | None:
    """When a file was changed in any way, and what may be changed of it without its pixels; None for a folder."""
    try:
        status = os.stat(local_path(path))
    except (OSError, ValueError):
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_ctime_ns, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_ino


def seen(path: str) -> dict[str, Any] | None:
    """What tells a file from what it was before; None where nobody knows (as of the chunks of a store behind HTTP), or
    it has been removed.
    """
    local = local_path(path)
    known = is_url(local) or os.path.isfile(local) or os.path.isdir(local)
    try:
        return None if not known else folder_identity(local) if os.path.isdir(local) else file_identity(local)
    except (OSError, SourceError):
        return None
