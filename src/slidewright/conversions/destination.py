"""The destination: a hidden partial file beside it, renamed into place at the very end.

The partial file carries a lock as long as its run lives, so that the next run to the same destination can tell what a
killed run left from what another run is writing at the moment.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import secrets
from pathlib import Path

from slidewright.errors import DestinationError, OutputError
from slidewright.system.files import FileLock, remove, remove_abandoned


class Destination:
    """The place of one output file; made before anything else is started, so that a bad one costs nothing.

    Raises
    ------
    DestinationError
        If it exists and `overwrite` is not set, is a folder, is the source itself, or its folder is missing or not
        writable.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool, source: str | None = None, is_folder: bool = False
    ) -> None:
        self.path = Path(path)
        self._overwrite, self._is_folder = overwrite, is_folder
        folder = self.path.parent
        if not folder.is_dir():
            raise DestinationError(f"the folder {str(folder)!r} of the destination does not exist; make it first")
        if self.path.is_dir() and not is_folder:
            raise DestinationError(f"the destination {str(self.path)!r} is a folder; name a file")
        if source is not None and self.path.exists() and os.path.exists(source) and os.path.samefile(self.path, source):
            raise DestinationError(f"the destination {str(self.path)!r} is the source itself; choose another name")
        if self.path.exists() and not overwrite:
            raise self._exists()
        if not os.access(folder, os.W_OK):
            raise DestinationError(f"the folder {str(folder)!r} is not writable")
        self._sweep()
        stem = str(folder / f".{self.path.name}.{secrets.token_hex(4)}")
        self.partial = f"{stem}.partial"
        self._lock_path = f"{stem}.lock"
        self._lock: FileLock | None = None

    @property
    def temporary(self) -> tuple[str, str]:
        """The files beside the destination that must be gone after the run."""
        return (self.partial, self._lock_path)

    def claim(self) -> None:
        """Make the lock; by now somebody should have been told of the `temporary` names, to remove them.

        Raises
        ------
        DestinationError
            If no file can be made there.
        """
        try:
            self._lock = FileLock(self._lock_path)
        except OSError as error:
            raise DestinationError(f"can't write into {str(self.path.parent)!r}: {error.strerror}") from error

    def commit(self) -> None:
        """Give the partial file its final name, in one step, and make sure that the name is on the disk.

        Raises
        ------
        DestinationError
            If another file has taken the name meanwhile and `overwrite` is not set.
        """
        try:
            if self._is_folder:
                self._rename_folder()
            elif self._overwrite:
                os.replace(self.partial, self.path)
            else:
                self._rename_new()
            _sync_folder(self.path.parent)
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise OutputError(f"can't rename the finished file to {str(self.path)!r}: {error.strerror}") from error

    def close(self) -> None:
        """Remove what is left beside the destination."""
        for path in self.temporary:
            remove(path)
        if self._lock is not None:
            self._lock.release()

    def nbytes(self) -> int:
        """Bytes of the finished file, or of all files in the finished folder."""
        if not self._is_folder:
            return self.path.stat().st_size
        return sum(item.stat().st_size for item in self.path.rglob("*") if item.is_file())

    def _rename_folder(self) -> None:
        """Rename a finished folder; one that is replaced is moved aside first and removed last."""
        if not self.path.exists():
            os.rename(self.partial, self.path)
            return
        if not self._overwrite:
            raise FileExistsError(str(self.path))
        aside = f"{self.partial}.old"
        os.rename(self.path, aside)
        os.rename(self.partial, self.path)
        remove(aside)

    def _rename_new(self) -> None:
        """Rename, but never onto an existing file: a hard link fails if the name is taken, `rename` would not."""
        try:
            os.link(self.partial, self.path)
        except FileExistsError:
            raise
        except OSError:  # a filesystem without hard links
            if self.path.exists():
                raise FileExistsError(str(self.path)) from None
            os.rename(self.partial, self.path)
        else:
            os.unlink(self.partial)

    def _exists(self) -> DestinationError:
        return DestinationError(
            f"the destination {str(self.path)!r} exists; choose another name or overwrite it (--overwrite)"
        )

    def _sweep(self) -> None:
        """Remove what killed runs to this destination left."""
        pattern = f".{glob.escape(self.path.name)}.????????.lock"
        for name in glob.glob(pattern, root_dir=self.path.parent, include_hidden=True):
            lock = str(self.path.parent / name)
            remove_abandoned(lock, functools.partial(_remove_all, lock.removesuffix(".lock") + ".partial", lock))


def _remove_all(*paths: str) -> None:
    for path in paths:
        remove(path)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network filesystems refuse
            os.fsync(fd)
    finally:
        os.close(fd)
