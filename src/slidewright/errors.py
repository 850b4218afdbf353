"""The errors of slidewright: one small hierarchy, so that a caller can catch one name.

Each message says what is wrong, where, and what to do. The class decides the exit code of the command line: 2 for
usage and input, 1 for a run that failed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_USER = re.compile(r"(?<=://)(?<!file://)[^/?#\s'\"]*@")
_QUERY = re.compile(r"((?<!file)://(?:(?!(?<!file)://)[^?#\n'\"<>])*)[?#](?=\S)([^\s'\"<>]*)(['\"<>]?)")
_STOPS = ")],;:."  # at the end of a word they are those of the sentence


def without_keys(text: str) -> str:
    """A text, the URLs in it without user, password and query, any of which may open what others must not see."""
    return _QUERY.sub(_without_query, _USER.sub("", text)) if "://" in text else text


def _without_query(found: re.Match[str]) -> str:
    place, query, quote = found.groups()
    return place + (quote or query[len(query.rstrip(_STOPS)) :])


class SlidewrightError(Exception):
    """Base of every error that slidewright raises on purpose; its message is `without_keys`."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_keys(arg) if isinstance(arg, str) else arg for arg in args))


class OptionError(SlidewrightError, ValueError):
    """An option, or a combination of options and pixels, that can't be used."""

    exit_code = 2


class SourceError(SlidewrightError):
    """The source can't be opened or read."""

    exit_code = 2


class CorruptTileError(SourceError):
    """A segment of the source can't be decoded; the message names the file and the tile."""


class DestinationError(SlidewrightError):
    """The destination can't be written: it exists, its folder is missing or it is not writable."""

    exit_code = 2


class OutputError(SlidewrightError):
    """Writing the output or the scratch failed in the middle (disk full, I/O error)."""


class VerifyError(SlidewrightError):
    """A written file is not what it should be."""


class ShardError(SlidewrightError):
    """Shards are missing, damaged, or of another source, other options or another version."""


class RunError(SlidewrightError):
    """A process of the run died or misbehaved and the run could not go on."""


def alone(error: Exception) -> Exception:
    """The first error of a group, as zarr gives those of chunks that are read side by side; any other as it is."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def numbered(count: int) -> str:
    """How many of something there are, and so which numbers: "it has 4: 0 to 3"."""
    return f"it has {count}: 0 to {count - 1}" if count > 1 else "it has only 0"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: "; did you mean 'zstd'?", or nothing where none is like it."""
    from difflib import get_close_matches  # only when something is wrong

    near = get_close_matches(word.lower(), list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
