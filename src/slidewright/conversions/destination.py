"""The destination: a hidden partial file beside it, renamed into place at the very end.

The partial file carries a lock as long as its run lives, so that the next run to the same destination can tell what a
killed run left from what another run is writing at the moment.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from slidewright.errors import DestinationError, OutputError
from slidewright.sources.on_disk import status_of
from slidewright.system.file_identity import leads_to, lies_in, local_path, same_file
from slidewright.system.file_lock import FileLock, remove_abandoned
from slidewright.system.files import (
    close_quietly,
    exchange,
    is_token,
    mark,
    remove,
    remove_guarded,
    rename_new,
    same_content,
    settle,
    short_name,
    sync_folder,
    token,
    total_bytes,
)
from slidewright.system.remote_file import is_url

_ZARR_METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
"""Without which a store is lost; a source that is an array of one does not know of the groups that it lies in."""
Compare = bool | Callable[[str], bool]
"""Whether what has the name may be the very file that is to be made; or what tells whether it may be replaced."""
_last_named: deque[tuple[os.stat_result, tuple[int, ...] | None]] = deque(maxlen=1024)
"""What it was, and its `status_of`, before it had its name; of many threads, each in a batch of its own."""


def has_named(path: str) -> bool:
    """Whether a path leads to what this process gave a name lately, or found under that name as it was to be."""
    return _named_at(path) is not None


def made_status(path: str) -> tuple[int, ...] | None:
    """The `status_of` what is at a path, as this process has made it: somebody may have changed a store since it got
    its name. None for what another has made.
    """
    found = _named_at(path)
    return found and found[1]


def _named_at(path: str) -> tuple[os.stat_result, tuple[int, ...] | None] | None:
    try:
        now = os.stat(path)
    except OSError:
        return None
    for then, status in reversed(_last_named):  # an inode may be another's by now, or a file be written over
        unchanged = (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
        if os.path.samestat(now, then) and (stat.S_ISDIR(now.st_mode) or unchanged):
            return then, status
    return None


def note_named(path: str | os.PathLike[str]) -> None:
    """Remember what is at a path as what this process has given its name, which a run before had done."""
    with contextlib.suppress(OSError):
        _last_named.append((os.stat(path), status_of(os.fspath(path))))


class Destination:
    """The place of one output file; made before anything else is started, so that a bad one costs nothing.

    Neither `sources` nor `option_files`, by a word for each, are ever replaced, also if they get its name in mid-run.

    With `compare`, what has the name already may be the very file that is to be made, of a run that was killed before
    it could say so, or of the same run a second time: where `recognises(path)` holds, `commit` compares, and keeps it
    if it is. With `overwrite` as well, nothing is replaced but what is there now, and that only if `compare`, where it
    is a function, says of the path that it may be. A folder is only ever replaced where `recognises(path)` holds. A
    link is followed: what it leads to is replaced, and the link stays.

    Raises
    ------
    DestinationError
        If it exists and `overwrite` is not set, is a folder or a device, is the source itself, or its folder is missing
        or not writable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        overwrite: bool,
        sources: Sequence[str] = (),
        option_files: Mapping[str, str] | None = None,
        is_folder: bool = False,
        recognises: Callable[[str], bool] = os.path.isfile,
        compare: Compare = False,
    ) -> None:
        self._given = os.fspath(path)
        self.path = Path(os.path.realpath(path) if os.path.islink(Path(path)) else path)  # whose name may end with /
        self._overwrite, self._is_folder = overwrite, is_folder
        self._recognises, self._compare = recognises, bool(compare)
        self._may_replace: Callable[[str], bool] = compare if callable(compare) else lambda _: True
        self._only_seen = self._compare and overwrite
        folder = self.path.parent
        try:
            is_there = folder.is_dir()
        except OSError as error:  # of a network disk
            raise DestinationError(f"the folder {str(folder)!r} can't be used: {error.strerror}") from error
        if is_url(self._given):
            raise DestinationError(f"the destination {self._given} is a URL; only files of this machine are written")
        if not is_there:
            raise DestinationError(f"the folder {str(folder)!r} of the destination does not exist; make it first")
        self.place = os.path.join(os.path.realpath(self.path.parent), self.path.name)
        """Where it is, wherever this process goes meanwhile, and whatever links to its folder lead."""
        sweep_beside(self.path)
        self._read: list[tuple[os.stat_result, DestinationError]] = []
        self._replaced = self._refuse_what_is_no_file(self.place)
        for source in sources:
            self._refuse_source(source)
            self._note_read(source, self._is_source())
        for what, file in (option_files or {}).items():
            has_it = DestinationError(f"the destination {self._given!r} has the {what}; choose another name")
            if same_file(self.place, file) or lies_in(file, self.place):
                raise has_it
            self._note_read(file, has_it)
        if self.path.name in _ZARR_METADATA:
            raise DestinationError(f"{self._given!r} is a name that zarr keeps metadata under; choose another")
        if os.path.lexists(path) and not overwrite and not (compare and recognises(str(self.path))):
            raise self._exists()
        if self._replaced is not None and overwrite and callable(compare) and not compare(self.place):
            raise self._exists()
        if not os.access(folder, os.W_OK):
            raise DestinationError(f"the folder {str(folder)!r} is not writable")
        self.stem = os.path.join(os.path.dirname(self.place), f".{short_name(self.path.name)}.{token()}")
        """What the paths of all hidden files of this run begin with."""
        self.partial = f"{self.stem}.partial"
        self._lock_path = f"{self.stem}.lock"
        self._lock: FileLock | None = None
        self._folder: int | None = None
        self._claimed: os.stat_result | None = None

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
        with contextlib.suppress(OSError):
            if hasattr(os, "O_PATH"):  # Linux: it is found again should somebody rename it
                self._folder = os.open(os.path.dirname(self.place), os.O_PATH | os.O_CLOEXEC)
            self._claimed = os.stat(os.path.dirname(self.place))
        try:
            self._lock = FileLock(self._lock_path)
        except OSError as error:
            raise DestinationError(f"can't write into {str(self.path.parent)!r}: {error.strerror}") from error

    def make_folder(self) -> None:
        """Make the partial folder, for several to write into; raises DestinationError."""
        try:
            os.mkdir(self.partial)
        except OSError as error:
            raise DestinationError(f"can't write into {str(self.path.parent)!r}: {error.strerror}") from error

    def commit(self) -> int:
        """Give the partial file its final name, in one step, and make sure that the name is on the disk. Returns its
        bytes, or those of all files in it: whoever waits for the name may move it away at once.

        Raises
        ------
        DestinationError
            If another file has taken the name meanwhile and `overwrite` is not set, or what can't be replaced has, or
            its folder is another.
        """
        try:
            if self._claimed and not os.path.samestat(self._claimed, os.stat(os.path.dirname(self.place))):
                raise DestinationError(
                    f"the folder {str(self.path.parent)!r} of the destination was replaced by another while the file "
                    "was made, of which a part may lie in the one before; run again"
                )
            status = status_of(self.partial)
            nbytes = total_bytes(self.partial) if status is None else status[0]
            mine = os.stat(self.partial)
            _last_named.append((mine, status))
            try:
                self._rename(mine)
            except OSError:  # of a network disk whose answer was lost, and which was asked again
                if not leads_to(self.place, mine):
                    raise
            with contextlib.suppress(OSError):  # of a folder that may be written into and not read, or was moved at
                sync_folder(os.path.dirname(self.place))  # once; or no more files may be open: the file has its name
        except FileExistsError:
            if not self._is_there_already():
                raise self._exists() from None
        except OSError as error:
            raise OutputError(f"can't rename the finished file to {self.place!r}: {error.strerror}") from error
        return nbytes

    def _is_there_already(self) -> bool:
        """Whether what has the name is the same, where that may be."""
        try:
            found = os.stat(self.place), status_of(self.place)
            if not (self._compare and self._recognises(self.place) and same_content(self.partial, self.place)):
                return False
        except OSError:  # it can't be read, or is gone again
            return False
        _last_named.append(found)
        return True

    def close(self) -> None:
        """Remove what is left beside the destination, also in a folder that has another name by now."""
        try:
            self._remove_left()
        except BaseException:  # Ctrl-C, after which a process may live on
            self._remove_left()
            raise
        finally:
            if self._lock is not None:
                self._lock.release()
            folder, self._folder = self._folder, None
            if folder is not None:
                close_quietly(folder)

    def _remove_left(self) -> None:
        settle(self.stem, self.place)
        remove_guarded(*self.temporary)
        if self._folder is not None:
            partial, lock = (f"/proc/self/fd/{self._folder}/{os.path.basename(path)}" for path in self.temporary)
            remove_guarded(partial, lock)

    def _rename(self, mine: os.stat_result) -> None:
        now = None
        if self._overwrite:
            now = self._look_again(self.place, self._replaced)
            changed = now is not None and (self._replaced is None or now[1] != self._replaced[1])  # FUSE numbers anew
            if self._only_seen and (changed or (now is not None and not self._may_replace(self.place))):
                raise FileExistsError(self.place)  # somebody has put another there, or has changed it, or a file in it
        if self._is_folder:
            self._rename_folder(mine, now)
        elif now is None:
            try:
                rename_new(self.partial, self.place)
            except FileExistsError:
                if not self._overwrite or self._only_seen:
                    raise
                self._replace_file(mine, self._look_again(self.place, None))
        else:
            self._replace_file(mine, now)

    def _replace_file(self, mine: os.stat_result, now: tuple[int, int] | None) -> None:
        if not self._exchange(mine, now):
            if self._only_seen:
                self._move_aside(now)
            else:
                os.replace(self.partial, self.place)

    def _rename_folder(self, mine: os.stat_result, now: tuple[int, int] | None) -> None:
        """Rename a finished folder. The names of it and of one that it replaces are exchanged in one step where the
        system can.
        """
        if not os.path.lexists(self.place):
            os.rename(self.partial, self.place)
            return
        if not self._overwrite:
            raise FileExistsError(self.place)
        if not self._exchange(mine, now):
            self._move_aside(now)

    def _move_aside(self, now: tuple[int, int] | None) -> None:
        """Rename what is finished once what it replaces is out of the way; after a kill somebody puts that back."""
        aside = f"{self.stem}.old"
        try:
            os.rename(self.place, aside)
            self._accept(aside, now)
        except FileNotFoundError:
            pass  # somebody has moved it away in this moment
        except (DestinationError, OSError):
            if not os.path.lexists(self.place):
                os.rename(aside, self.place)
            raise
        if self._is_folder:
            os.rename(self.partial, self.place)
        else:
            rename_new(self.partial, self.place)
        with contextlib.suppress(FileNotFoundError):
            os.rename(aside, self.partial)  # which `close` removes, and never comes back

    def _exchange(self, mine: os.stat_result, now: tuple[int, int] | None) -> bool:
        """Exchange the names of what is finished and of what it replaces, which `close` removes under the name of the
        partial one; False where the system can't. What came since the look at what is there `now` goes back; a kill
        that comes first leaves it to whoever cleans up, and who knows by the lock's note that it is a stranger.
        """
        assert self._lock is not None
        self._lock.note([mark(mine), *([mark(now)] if now else [])])
        done = exchange(self.partial, self.place)
        if not done:
            with contextlib.suppress(FileNotFoundError):
                done = os.path.samestat(mine, os.stat(self.place))  # and was told as failed
        if not done:
            self._lock.note([])
            return False
        try:
            self._accept(self.partial, now)
        except (DestinationError, OSError) as error:
            back = exchange(self.partial, self.place)
            if back and leads_to(self.partial, mine):  # and no third has come
                self._lock.note([])
            if isinstance(error, FileExistsError) and not back:  # `settle` tries it again
                raise self._exists() from None
            if isinstance(error, OSError) and not isinstance(error, FileExistsError):
                raise OutputError(f"can't look at what was at {self.place!r}: {error.strerror}; run again") from error
            raise
        self._lock.note([])  # from here on what has the name of the partial one is to be removed
        return True

    def _accept(self, path: str, before: tuple[int, int] | None) -> None:
        """Refuse what has just been moved out of the way, to `path`, and is not what was seen `before`."""
        found = self._look_again(path, before)
        if not self._only_seen or found is None:
            return
        if before is None or found[1] != before[1] or not self._may_replace(path):
            raise FileExistsError(self.place)

    def _look_again(self, path: str, before: tuple[int, int] | None) -> tuple[int, int] | None:
        """Refuse what must not be replaced, where what is there is not what was seen `before`."""
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path)
            if (status.st_ino, status.st_mtime_ns) == before:
                return before
            if stat.S_ISLNK(status.st_mode):  # it was none when links were followed
                raise FileExistsError(path)
        return self._refuse_what_is_no_file(path)

    def _exists(self) -> DestinationError:
        if self._overwrite:
            return DestinationError(
                f"the destination {self._given!r} exists: it was put there, or changed, while its file was made, and "
                "is not replaced; look at it, then run again"
            )
        return DestinationError(
            f"the destination {self._given!r} exists; choose another name or overwrite it (--overwrite, overwrite=True)"
        )

    def _refuse_what_is_no_file(self, path: str) -> tuple[int, int] | None:
        """Refuse to replace what is neither a file nor a link to one, nor a folder of an image where one is made, or is
        the source; what tells the file or folder that is there from others.
        """
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DestinationError(f"the destination {str(self.path)!r} can't be used: {error.strerror}") from error
        for read, told in self._read:
            if os.path.samestat(status, read):  # it was renamed meanwhile
                raise told
        mode, seen = status.st_mode, (status.st_ino, status.st_mtime_ns)
        if stat.S_ISDIR(mode) and not self._is_folder:
            raise DestinationError(f"the destination {str(self.path)!r} is a folder; name a file")
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise DestinationError(
                f"the destination {str(self.path)!r} is a device, a pipe or a socket, and only a file can be replaced; "
                "choose another name"
            )
        try:
            if not stat.S_ISDIR(mode) or not self._overwrite or not os.listdir(path):
                return seen
            known = self._recognises(path)
            self._refuse_what_holds_the_read(path)
        except OSError as error:
            raise DestinationError(f"the destination {str(self.path)!r} can't be read: {error.strerror}") from error
        if not known:
            raise DestinationError(
                f"the destination {str(self.path)!r} is a folder of other things than an image, which is not replaced; "
                "choose another name, or remove it yourself"
            )
        return seen

    def _refuse_what_holds_the_read(self, path: str) -> None:
        """Refuse to replace a folder in which a file or folder lies that the run reads: it was renamed meanwhile."""
        told = {(read.st_dev, read.st_ino): error for read, error in self._read}
        for where, folders, files in os.walk(path) if told else ():
            for name in (*folders, *files):
                status = os.lstat(os.path.join(where, name))
                if (status.st_dev, status.st_ino) in told:
                    raise told[status.st_dev, status.st_ino]

    def _is_source(self) -> DestinationError:
        return DestinationError(
            f"the destination {str(self.path)!r} is the source itself, or a file of it; choose another name"
        )

    def _note_read(self, path: str, error: DestinationError) -> None:
        """Remember a file that the run reads, and what to say should it get the destination's name."""
        with contextlib.suppress(OSError):
            self._read.append((os.stat(local_path(path)), error))

    def _refuse_source(self, source: str) -> None:
        if same_file(self.path, source):
            raise self._is_source()
        if lies_in(self.path, source):
            raise DestinationError(f"the destination {str(self.path)!r} lies in the source; choose another name")
        if lies_in(source, self.path):
            raise DestinationError(f"the source lies in the destination {str(self.path)!r}; choose another name")


def folder_beside(dest: str | os.PathLike[str]) -> str:
    """The folder of shards of a resumed conversion, beside its destination."""
    folder, name = os.path.split(os.path.abspath(os.fspath(dest)))
    return os.path.join(folder, f"{short_name(name)}.shards")


def sweep_beside(*paths: str | os.PathLike[str]) -> None:
    """Remove what killed runs to destinations left, and put back what they had moved aside. A folder of many of them is
    looked through once.
    """
    folders: dict[str, dict[str, str]] = {}
    for path in paths:
        folder, name = os.path.split(os.path.abspath(os.fspath(path)))
        folders.setdefault(folder, {})[short_name(name)] = name
    for folder, names in folders.items():
        try:
            found = [each for each in os.listdir(folder) if each.startswith(".")]
        except OSError:
            continue
        for each in found:
            stem, ending = os.path.splitext(each)
            short, _, unique = stem[1:].rpartition(".")
            if short not in names or not is_token(unique):
                continue
            whole, place = os.path.join(folder, stem), os.path.join(folder, names[short])
            if ending == ".lock":
                remove_abandoned(f"{whole}.lock", functools.partial(_clean, whole, place))
            elif ending == ".trash":  # shards that have done their duty, and nobody's any more
                remove(f"{whole}.trash")


def _clean(stem: str, path: str) -> None:
    settle(stem, path)
    remove_guarded(f"{stem}.partial", f"{stem}.lock")
