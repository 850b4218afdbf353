"""What tells files on disk from each other without reading them: their size and time of change, or a folder's."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from slidewright.system.file_identity import seen_as
from slidewright.system.files import regular
from slidewright.system.remote_file import RemoteFile, files_below, is_store, is_url

_MAX_FILES = 20_000
_LEAST = 2  # numbers of a status
_MAX_INDEX = 1 << 20
_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup")


def file_identity(path: str, when: tuple[int, int] | None = None) -> dict[str, Any]:
    """A file is known by its size and time of change (behind a URL by what its server says of that; `when` it was first
    looked at, if that is known), a folder by those of the first 20,000 files in it, a store behind a URL by all.
    """
    if is_url(path) and is_store(path) and not path.endswith(_DOCUMENTS):
        return {"files": _word(files_below(path))}
    if is_url(path):
        with contextlib.closing(RemoteFile(path)) as file:
            return {"bytes": file.nbytes, "changed": file.version()}
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return {"files": _folder(path, _files(path))}
    seen: dict[str, Any] = dict(_stat(path) if when is None else zip(("bytes", "changed"), when, strict=True))
    beside = companions(path)
    if beside and os.path.isdir(beside[0]):
        seen["files"] = _folder(beside[0], _files(beside[0]))
    elif beside:
        seen["files"] = _folder(os.path.dirname(path), beside)
    return seen


def folder_identity(path: str, touched: list[int] | None = None) -> dict[str, Any]:
    """The same of a folder, and when a name last came to it, or went, and to the first 20,000 folders in it: of a chunk
    that comes late, in a store of more files than are looked at, this alone tells. To `touched` goes when the system
    last changed anything of each, which nobody can set.
    """
    times: list[int] = []
    files = _files(path, times, touched)
    word = _folder(path, files, touched)
    while len(times) < _MAX_FILES and next(files, None) is not None:
        pass  # the other folders
    return {"files": word, "times": times[:_MAX_FILES]}


def zarr_files(store: str, array: str, form: int) -> tuple[str, ...]:
    """What of a zarr store, of format v2 or v3, is read for one array of it: the array, and the metadata of the groups
    that have it (behind a URL of the outermost, which is there). Not the rest, such as labels, which others may write
    meanwhile. Nothing is known of a .zip file.
    """
    if is_url(store):
        root = store.rstrip("/")
        url, new = f"{root}/{array}".rstrip("/"), form == 3
        outer = (f"{root}/{'zarr.json' if new else '.zgroup'}",) if array else ()
        return (*outer, f"{url}/{'zarr.json' if new else '.zarray'}", url)
    if not os.path.isdir(store):
        return ()
    names = array.split("/") if array else []
    groups = [os.path.join(store, *names[:depth]) for depth in range(len(names))]
    documents = [os.path.join(group, name) for group in groups for name in (".zgroup", ".zattrs", "zarr.json")]
    return (*filter(os.path.isfile, documents), os.path.join(store, *names))


def companions(path: str) -> tuple[str, ...]:
    """Where a slide has its pixels that is not in one file: MIRAX in a folder of its name, Hamamatsu's VMS and VMU in
    files beside it, which its text names.
    """
    stem, suffix = os.path.splitext(path)
    if suffix.lower() == ".mrxs":
        return (stem,) if os.path.isdir(stem) else ()
    if suffix.lower() not in (".vms", ".vmu"):
        return ()
    with open(path, "rb", opener=regular) as file:
        text = file.read(_MAX_INDEX).decode("utf-8", "replace")
    named = {os.path.basename(line.partition("=")[2].strip()) for line in text.splitlines()}
    found = (os.path.join(os.path.dirname(path), name) for name in sorted(named) if name)
    return tuple(each for each in found if os.path.isfile(each))


def seen_beside(path: str) -> tuple[tuple[str, int, int], ...]:
    """Of each file that `companions` names, or that is in such a folder, its name from the folder of the slide on, its
    bytes and its time of change (ns).
    """
    found = companions(path)
    files = _files(found[0]) if found and os.path.isdir(found[0]) else iter(found)
    seen = ((os.path.relpath(file, os.path.dirname(path)), seen_as(file)) for file in islice(files, _MAX_FILES))
    return tuple((name, *when) for name, when in seen if when is not None)


def status_of(path: str) -> tuple[int, ...] | None:
    """Size and time of change of a file; of a folder those of all in it, the newest, and what tells it from one of
    which any part has another name, size or time, be it an older one; or None.
    """
    total, newest = 0, 0

    def inside() -> Iterator[str]:
        nonlocal total, newest
        for where, folders, files in os.walk(path):
            folders.sort()  # which is the order in which they are walked
            below = os.path.relpath(where, path)
            for name in sorted((*folders, *files)):
                each = os.lstat(os.path.join(where, name))
                size = each.st_size if stat.S_ISREG(each.st_mode) else -1
                total, newest = total + max(0, size), max(newest, each.st_mtime_ns)
                yield f"{below}/{name}\0{size}\0{each.st_mtime_ns}"

    try:
        status = os.stat(path)
        if not os.path.isdir(path):
            return status.st_size, status.st_mtime_ns
        newest = status.st_mtime_ns
        told = int(_word(inside()), 16)
    except (OSError, ValueError):  # such as a name with a NUL
        return None
    return total, newest, told


def has_status(path: str, status: Sequence[int] | None) -> bool:
    """Whether a path has a `status_of`, or as much of it as a version before noted: of a store two numbers."""
    there = status_of(path) if status is not None and len(status) >= _LEAST else None
    return status is not None and there is not None and there[: len(status)] == tuple(status)


def _stat(path: str, touched: list[int] | None = None) -> dict[str, int]:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        status = os.lstat(path)  # a link to what is not there
    if touched is not None:
        touched.append(status.st_ctime_ns)
    return {"bytes": status.st_size, "changed": status.st_mtime_ns}


def _folder(path: str, files: Iterable[str], touched: list[int] | None = None) -> str:
    """Names, sizes and times of the files in a folder, in one word."""
    first = islice(files, _MAX_FILES)
    return _word(f"{os.path.relpath(file, path)}\0{sorted(_stat(file, touched).items())}" for file in first)


def _word(files: Iterable[str]) -> str:
    import hashlib

    seen = hashlib.sha256()
    for file in files:
        seen.update(f"{file}\n".encode(errors="surrogateescape"))
    return seen.hexdigest()[:16]


def _files(path: str, times: list[int] | None = None, touched: list[int] | None = None) -> Iterator[str]:
    """The files in a folder; to `times` and `touched` go those of the folders, as they are looked at."""
    for folder, folders, files in os.walk(path):
        folders.sort()
        if times is not None:
            status = os.stat(folder)
            times.append(status.st_mtime_ns)
            if touched is not None:
                touched.append(status.st_ctime_ns)
        for name in sorted(files):
            yield os.path.join(folder, name)
