"""Which paths are one file, and which lie in a folder: however they are written, through links of every kind, and by
the rule of the filesystem for names.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from slidewright.system.files import close_quietly, token
from slidewright.system.mounts import Mounts

_DESCRIPTOR = re.compile(r"/dev/(stdin|fd/\d+)|/proc/(self|thread-self|\d+)/fd/\d+")


def local_path(path: str | os.PathLike[str]) -> str:
    """The path that a URL of this machine is of, as fsspec reads it; any other path as it is."""
    text = os.fspath(path)
    return text.partition("://")[2] if text.startswith(("file://", "local://")) else text


def seen_as(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Bytes and time of change (ns) of a file of this machine; None where there is none, or the path is another URL."""
    try:
        status = os.stat(local_path(path))
    except (OSError, ValueError):  # such as a name with a NUL
        return None
    return status.st_size, status.st_mtime_ns


def chained_path(url: str) -> tuple[str, ...]:
    """The file of this machine that a URL of several links, such as "zip://a.svs::file:///data/a.zip", begins at, as
    fsspec reads it; none for any other.
    """
    *links, base = url.split("::")
    if not links or not base.startswith(("file://", "local://")):
        return ()
    path = local_path(base)
    for link in reversed(links):
        kind, _, inner = link.partition("://")
        if kind == "dir":
            path = os.path.join(path, inner)
        elif inner:  # of an archive, whose own file it is
            break
    return (path,)


def without_descriptor(path: str) -> str:
    """The file that "/dev/stdin", "/dev/fd/7" or "/proc/self/fd/7" leads to, by its own name, which other processes
    know too; any other path, and that of a file without a name, as it is.
    """
    if not _DESCRIPTOR.fullmatch(path):
        return path
    real = os.path.realpath(path)
    with contextlib.suppress(OSError):
        return real if os.path.samefile(real, path) else path
    return path


def is_descriptor(path: str) -> bool:
    """Whether a path means a file that one process alone has open."""
    return _DESCRIPTOR.fullmatch(path) is not None


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two paths are one file, or would be if it were made: through links, hard links, linked folders, URLs of
    this machine, and names that the filesystem takes for one.
    """
    one, other = local_path(one), local_path(other)
    with contextlib.suppress(OSError):
        return os.path.samefile(one, other)
    (folder, name), (other_folder, other_name) = (os.path.split(os.path.realpath(path)) for path in (one, other))
    if folder != other_folder and _folder(folder) != _folder(other_folder):
        return False
    if name == other_name:
        return True
    if _rough_name(name) != _rough_name(other_name):
        return False
    if os.path.lexists(os.path.join(folder, name)) != os.path.lexists(os.path.join(other_folder, other_name)):
        return False  # names that are taken for one are both there
    case = _composed(name) != _composed(other_name)  # which of the two makes them differ, or both
    form = name.casefold() != other_name.casefold()
    return (not case or _ignores_case(folder)) and (not form or _ignores_form(folder))


def leads_to(path: str | os.PathLike[str], status: os.stat_result) -> bool:
    """Whether a path leads to the file or folder whose status that is."""
    try:
        return os.path.samestat(status, os.stat(path))
    except OSError:
        return False


def lies_in(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Whether a path, which need not exist, lies in a folder, however both are written."""
    return any(lying_in([path], [folder]))


def lying_in(
    paths: Iterable[str | os.PathLike[str]], folders: Iterable[str | os.PathLike[str]]
) -> Iterator[tuple[str, str]]:
    """Pairs of a path, which need not exist, and one of the folders, that it lies in; quick for many of both. What of
    `folders` is none is passed over. A folder, or a file, that is mounted elsewhere lies where its own name is as well.
    """
    known = {_number(local_path(folder)): os.fspath(folder) for folder in folders if os.path.isdir(local_path(folder))}
    known.pop(None, None)  # of one that has just been removed
    if not known:
        return
    mounts = Mounts()
    homes, mounted = _homes(known.values(), mounts)
    numbers: dict[str, tuple[int, int] | None] = {}
    for path in paths:
        real = os.path.realpath(local_path(path))
        holders = list(_by_number(real, known, numbers))
        if (home := mounts.home(real)) is not None:
            device, place = home
            if home in mounted:
                holders.append(mounted[home])
            above = ((device, parent) for parent in _parents(place))
            holders += [each[parent] for parent in above for each in (homes, mounted) if parent in each]
        yield from ((os.fspath(path), holder) for holder in dict.fromkeys(holders))


def _by_number(
    real: str, known: Mapping[tuple[int, int] | None, str], numbers: dict[str, tuple[int, int] | None]
) -> Iterator[str]:
    """Those of the `known` folders that a path lies in, by the name that it has; `numbers` are of folders seen before,
    and get more.
    """
    for parent in _parents(real):
        if parent not in numbers:
            numbers[parent] = _number(parent)
        if numbers[parent] in known:
            yield known[numbers[parent]]


def _homes(
    folders: Iterable[str], mounts: Mounts
) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]:
    """Folders by where they lie in their filesystems; and by where what is mounted inside them does."""
    homes, mounted = {}, {}
    for folder in folders:
        real = os.path.realpath(local_path(folder))
        if (home := mounts.home(real)) is not None:
            homes[home] = folder
        mounted.update(dict.fromkeys(mounts.below(real), folder))
    return homes, mounted


def _parents(path: str) -> Iterator[str]:
    """The folders that a path lies in, the innermost first."""
    while path != (path := os.path.dirname(path)):
        yield path


def _number(path: str) -> tuple[int, int] | None:
    """What tells a file or a folder from all others; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def shared_places(paths: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of numbers of paths that are one file, see `same_file`, the first of which is the first that is; quick for
    many paths.
    """
    places = [_place(local_path(path)) for path in paths]
    alike: dict[tuple[Hashable, str], set[str]] = {}
    for place in places:
        if isinstance(place, _Unmade):
            alike.setdefault((place.folder, _rough_name(place.name)), set()).add(place.name)
    rules: dict[Hashable, Callable[[str], str]] = {}
    seen: dict[Hashable, int] = {}
    for number, place in enumerate(places):
        if isinstance(place, _Unmade) and len(alike[place.folder, _rough_name(place.name)]) > 1:
            if place.folder not in rules:
                rules[place.folder] = _rule_for_names(os.path.dirname(os.path.realpath(local_path(paths[number]))))
            place = place._replace(name=rules[place.folder](place.name))
        first = seen.setdefault(place, number)
        if first != number:
            yield first, number


class _Unmade(NamedTuple):
    """Where a file will be: what tells its folder from others, and its name."""

    folder: Hashable
    name: str


def _place(path: str) -> tuple[int, int] | _Unmade:
    """What tells a file from all others."""
    number = _number(path)
    if number is not None:
        return number
    folder, name = os.path.split(os.path.realpath(path))
    return _Unmade(_folder(folder), name)


def _folder(path: str) -> Hashable:
    """What tells a folder, which need not exist, from others: where it is mounted twice it has two names."""
    inner: list[str] = []
    for parent in (path, *_parents(path)):
        if (number := _number(parent)) is not None:
            return number, *inner
        inner.append(os.path.basename(parent))
    return path


def _rule_for_names(folder: str) -> Callable[[str], str]:
    """A function that makes names the same that are one file in a folder, and no others."""
    if _ignores_case(folder):
        return _rough_name if _ignores_form(folder) else str.casefold
    return _composed if _ignores_form(folder) else str


def _rough_name(name: str) -> str:
    """The same for all names that a filesystem may take for one."""
    return _composed(_composed(name).casefold())


def _composed(name: str) -> str:
    """A name with its accents in the letters, of which Unicode has two spellings."""
    if name.isascii():
        return name
    import unicodedata  # seldom needed, and the fork server imports this module

    return unicodedata.normalize("NFC", name)


def _ignores_case(folder: str) -> bool:
    """Whether "A" and "a" are one file in a folder."""
    return _takes_for_one(folder, "a", "A")


def _ignores_form(folder: str) -> bool:
    """Whether an accent in a letter and one behind it are one name in a folder."""
    return _takes_for_one(folder, "\u00e9", "e\u0301")


def _takes_for_one(folder: str, one: str, other: str) -> bool:
    """Whether two names are one file in a folder; found out by making one, as each folder may have its own rule."""
    start = os.path.join(folder, f".slidewright-{token()}-")
    try:
        fd = os.open(start + one, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return True  # nothing can be written there, and to be careful costs nothing
    try:
        close_quietly(fd)
        return os.path.exists(start + other)
    finally:
        with contextlib.suppress(OSError):  # of a folder that has another name since
            os.unlink(start + one)
