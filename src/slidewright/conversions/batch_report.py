"""The report of batches: JSON lines, each of which says what was made of what, and so the memory of a batch.

It also tells what lies among the slides and is a result of them.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from slidewright.conversions.batch_slide import Line, place_of
from slidewright.conversions.destination import folder_beside
from slidewright.conversions.manifest import Entry
from slidewright.errors import OptionError, OutputError
from slidewright.shards.schema import read_as
from slidewright.sources.on_disk import has_status
from slidewright.system.files import regular
from slidewright.system.json_file import parse_json
from slidewright.system.remote_file import is_url

_MAX_LINE = 1 << 23  # a palette of 65,536 colours takes 1.3 MB
_REPORT = "slidewright-batch.jsonl"
_START_BYTES = 4096
_FIRST = b'{"source": '
"""What each line of a report begins with."""


def default_report(path: str, out: str | os.PathLike[str] | None) -> str:
    """Where the report is if nobody says it: among the results, or beside the manifest `path`."""
    if out is not None:
        return os.path.join(out, _REPORT)
    return os.path.splitext(path)[0] + ".report.jsonl"


def refuse_another_file(path: str) -> None:
    """Refuse to append to a file that is no report, under a name that was mistyped or that reports have by default;
    FIFOs and the like are refused when it is opened.
    """
    try:
        with open(path, "rb", opener=regular) as file:
            start = file.read(_START_BYTES)
    except OSError:
        return
    for line in start.split(b"\n"):
        if line.startswith(_FIRST):
            return
        if not _FIRST.startswith(line):  # which is half a line of a batch that was killed
            raise OptionError(
                f"{path!r} is there and no report of a batch, so nothing is appended to it; "
                "move it away, or name another report (--report)"
            )


def siblings(path: str) -> list[str]:
    """The report and those of the tasks of an array."""
    stem, extension = os.path.splitext(path)
    return [path, *sorted(glob.glob(f"{glob.escape(stem)}.task-*{extension}"))]


def read_done(paths: Iterable[str]) -> dict[str, Line]:
    """The newest line about each destination that was made, by its `place_of`; half lines of a kill are left out."""
    newest: dict[str, Line] = {}
    for path in paths:
        last: dict[str, Line] = {}  # of this report, whose lines have an order: a clock may have been set back
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            open(path, encoding="utf-8", errors="replace", opener=regular) as file,
        ):
            while text := file.readline(_MAX_LINE):
                try:
                    line = read_as(Line, parse_json(text), strict=False)
                except ValueError:
                    continue
                if line.status == "done" and line.made is not None:
                    last[line.destination] = line
        for destination, line in last.items():
            old = newest.get(destination)
            if old is None or _is_newer(line, old):
                newest[destination] = line
    return newest


def _is_newer(line: Line, old: Line) -> bool:
    """Which of two reports' lines about a destination counts: the one that says what is there, else the newer one, by
    clocks of several hosts.
    """
    if line.made is None or old.made is None:
        return old.made is None
    newer = line.made[1:2] >= old.made[1:2]
    if line.made == old.made or has_status(line.destination, (line if newer else old).made):
        return newer
    return newer != has_status(line.destination, (old if newer else line).made)


def without_our_own(entries: list[Entry], reports: Iterable[str]) -> list[Entry]:
    """The entries but for reports, and for the parts that a killed run with `resume` left of another of them: a pattern
    such as "slides/*" fits them too, where results go into the folder of the slides.
    """
    own = {place_of(path) for path in reports} | {place_of(folder_beside(entry.destination)) for entry in entries}
    return [entry for entry in entries if place_of(entry.source) not in own]


def without_results(entries: list[Entry], done: Mapping[str, Line], suffix: str) -> list[Entry]:
    """The entries but for what batches have made of others of them, or would convert onto itself: where results go into
    the folder of the slides, they are found there when it is run again, maybe by another path or with another suffix.
    With a suffix of two parts, such as ".ome.tif", that is also what was made of a slide which is gone.

    Of some the report says nothing: a kill came first, or it is lost. What lies where the result of another slide goes
    is compared with that, so it stays, and is told if it is something else.
    """
    places = [(place_of(entry.source), place_of(entry.destination)) for entry in entries]
    sources = {source for source, _ in places}
    due = {
        destination
        for entry, (source, destination) in zip(entries, places, strict=True)
        if destination != source and not entry.options.overwrite
    }

    def is_result(source: str, destination: str) -> bool:
        line = done.get(source)
        if line is None or line.identity is None or not has_status(source, line.made):  # somebody has touched it since
            return source in due
        made_of = str(line.identity.get("path"))
        of_today = os.path.dirname(source) == os.path.dirname(destination) and source.endswith(suffix)
        return source in due or source == destination or (made_of != source and (made_of in sources or of_today))

    return [entry for entry, place in zip(entries, places, strict=True) if not is_result(*place)]


def done_below(entries: Sequence[Entry], paths: Sequence[str]) -> dict[str, Line]:
    """What other batches say that they made in the folders from `paths` to the slides: with a new folder for results
    there each time, all results of before would be slides.
    """
    tops = {path.rstrip(os.sep) for path in paths}
    folders: set[str] = set()
    for entry in entries:
        folder = "" if is_url(entry.source) else os.path.dirname(entry.source)
        while folder not in ("", os.sep, *tops) and folder not in folders:
            folders.add(folder)
            folder = os.path.dirname(folder)
    found: dict[str, Line] = {}
    for folder in sorted(folders):
        with contextlib.suppress(OSError):  # one that can't be read is none of ours
            found |= read_done(siblings(os.path.join(folder, _REPORT)))
    return found


@contextlib.contextmanager
def append(path: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Append lines to a report, each in one piece; a half line that a kill left is ended first."""
    try:
        file = open(path, "ab+", buffering=0, opener=regular)  # noqa: SIM115
    except OSError as error:
        raise OptionError(f"can't write the report {path!r}: {error.strerror}; give another with --report") from error
    try:
        with _telling(path):
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        yield lambda line: _write_line(file, path, line)
    finally:
        with _telling(path):
            file.close()


def _write_line(file: Any, path: str, line: dict[str, Any]) -> None:
    rest = memoryview(json.dumps(line).encode() + b"\n")
    with _telling(path):
        while rest:
            rest = rest[file.write(rest) :]


@contextlib.contextmanager
def _telling(path: str) -> Iterator[None]:
    """Name the report that can't be written; what is done already will be found by its content."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"can't write the report {path!r}: {error.strerror or error}; see to that disk and run it again"
        ) from error
