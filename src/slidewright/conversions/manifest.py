"""What a batch is to do: rows of a CSV file, or slides by their paths, folders and patterns, as checked entries.

Everything that can be judged without opening a slide is judged here, for all of them, before the first conversion.
"""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slidewright.conversions.opening import option_files
from slidewright.errors import DestinationError, OptionError, SourceError, did_you_mean
from slidewright.formats.registry import settle_format
from slidewright.options import OPTIONS, SELECTION, ConvertOptions, split_options
from slidewright.selection import Selection
from slidewright.sources.dicom_files import first_dicom
from slidewright.system.file_identity import lying_in, same_file, shared_places
from slidewright.system.files import regular
from slidewright.system.remote_file import is_url

COLUMNS = {name: option for name, option in {**SELECTION, **OPTIONS}.items() if option.column}
"""What a row may say besides its source and destination."""
SUFFIXES = (
    *(".tif", ".tiff", ".svs", ".npy", ".zarr", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide"),
    *(".qptiff", ".zip"),
)

_MAX_LINE = 1 << 20
"""Characters; a file without any end of a line would fill the memory."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One conversion of a batch."""

    source: str
    destination: str
    options: ConvertOptions
    selection: Selection


def read_entries(
    paths: Sequence[str],
    out: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
    suffix: str = ".tif",
    *,
    recursive: bool = False,
    links: list[str] | None = None,
) -> list[Entry]:
    """The entries of a CSV file, or of slides, folders and patterns whose results go to the folder `out`; folders
    behind links, which are not searched, are added to `links`.

    Raises
    ------
    OptionError
        Naming the row and the column, when something can't be used.
    SourceError
        When there is no such file, or no slide in a folder.
    DestinationError
        When the folder is a URL.
    """
    if out is not None and is_url(os.fspath(out)):
        raise DestinationError(f"the folder {out!r} for results is a URL; only files of this machine are written")
    if len(paths) == 1 and is_manifest(paths[0], out):
        if out is not None and os.path.exists(paths[0]):
            raise OptionError(f"the manifest {paths[0]!r} names its destinations itself; leave out --out")
        return _from_csv(paths[0], options)
    for path in paths:
        if path.lower().endswith(".csv"):
            raise OptionError(f"the manifest {path!r} must be given alone, since it names its destinations itself")
    if not paths:
        raise OptionError("there is nothing to convert; give slides, a folder, a pattern or a CSV file")
    links = [] if links is None else links
    found = dict(pair for path in paths for pair in _slides(path, out, recursive, links))
    if out is None:
        raise OptionError(f"the results of {paths[0]!r} need a folder: give --out, such as --out pyramids")
    selection, checked = split_options(options, "batch")
    return [
        _settled(source, os.path.join(out, os.path.splitext(relative)[0] + suffix), checked, selection)
        for source, relative in found.items()
    ]


def is_manifest(path: str, out: str | os.PathLike[str] | None = None) -> bool:
    """Whether a path is a CSV file: one that is named so, or any file but a slide where no folder for results is
    given.
    """
    if path.lower().endswith(".csv"):
        return not glob.has_magic(path) or os.path.isfile(path)
    return out is None and os.path.isfile(path) and not path.lower().endswith(SUFFIXES)


def _settled(source: str, destination: str, options: ConvertOptions, selection: Selection) -> Entry:
    settle_format(options, destination)  # a name that no format has is refused before the first slide
    return Entry(source, destination, options, selection)


def check_places(entries: Sequence[Entry], out: str | os.PathLike[str] | None) -> None:
    """Refuse a batch with sources that are not there, or with folders for results that are not or can't be written.

    Raises
    ------
    SourceError, DestinationError
        Naming them.
    """
    missing = [entry.source for entry in entries if not (is_url(entry.source) or os.path.exists(entry.source))]
    if missing:
        do = "does" if len(missing) == 1 else "do"
        raise SourceError(f"{_listed(missing)} {do} not exist; nothing was converted")
    for folder in dict.fromkeys(os.path.dirname(entry.destination) or "." for entry in entries):
        while out is not None and not os.path.lexists(folder):  # it will be made
            folder = os.path.dirname(folder) or "."
        if not os.path.isdir(folder):
            what = "is no folder; choose another" if os.path.lexists(folder) else "does not exist; make it first"
            raise DestinationError(f"the folder {folder!r} for results {what}")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise DestinationError(f"the folder {folder!r} for results is not writable; choose another")


def _listed(paths: Sequence[str]) -> str:
    """Some of many paths."""
    return ", ".join(map(repr, paths[:5])) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")


def check_apart(entries: Sequence[Entry], manifests: Sequence[str], reports: Sequence[str]) -> None:
    """Refuse a batch that would write one file twice, or write where it reads: through links, hard links, linked
    folders and names that the filesystem takes for one as well.

    Raises
    ------
    OptionError
        Naming both.
    """
    outputs = [entry.destination for entry in entries]
    read = [path for entry in entries for path in option_files(entry.options).values()]
    inputs = [*dict.fromkeys([*(entry.source for entry in entries), *read]), *manifests]
    paths = [*outputs, *reports, *inputs]
    for one, other in shared_places(paths):
        if other < len(outputs):
            first, second = entries[one].source, entries[other].source
            raise OptionError(f"{first!r} and {second!r} would both become {paths[other]!r}; rename or leave out one")
        if one < len(outputs) + len(reports):
            raise OptionError(f"{paths[one]!r} would be written, and is the same file as {paths[other]!r}; rename one")
    for path, folder in lying_in(reports, inputs):
        raise OptionError(f"the report {path!r} would lie in the source {folder!r}; choose another name")
    for path, folder in lying_in(paths, outputs):
        raise OptionError(f"{path!r} lies in {folder!r}, which would be replaced; choose another destination")


def told_of_links(links: Sequence[str]) -> tuple[str, ...]:
    """A warning about folders behind links, which may lead anywhere, or back."""
    what = "is a link to a folder and was" if len(links) == 1 else "are links to folders and were"
    return (f"{_listed(links)} {what} not searched for slides; give such a folder itself",) if links else ()


def _slides(
    path: str, out: str | os.PathLike[str] | None, recursive: bool, links: list[str]
) -> list[tuple[str, str]]:
    """The slides that a path means, each with its path below the folder of the results."""
    if os.path.isdir(path) and not path.lower().rstrip("/").endswith(".zarr") and not _holds_dicom(path):
        found = list(_in_folder(path, out, recursive, links))
        if not found:
            message = f"no slide is in the folder {path!r}{_remedy(path, out, recursive)}"
            raise SourceError("; ".join((message, *told_of_links(links))))
        return found
    if is_url(path) or os.path.lexists(path):
        return [(path, os.path.basename(path.rstrip("/")))]
    if not glob.has_magic(path):
        raise SourceError(f"{path!r} does not exist; give a CSV file, slides, a folder of them, or a pattern in quotes")
    names = sorted(glob.glob(path, recursive=True))
    if not names:
        raise SourceError(f"no file fits the pattern {path!r}")
    return [(name, os.path.basename(name.rstrip("/"))) for name in names]


def _in_folder(
    path: str, out: str | os.PathLike[str] | None, recursive: bool, links: list[str]
) -> Iterator[tuple[str, str]]:
    """The slides in a folder by their names, a zarr or a folder of DICOM being one, and in those below it, but not in
    that of the results, nor the zarrs of a folder of shards, which are no image yet, nor what is hidden: a Mac leaves
    a "._slide.svs" beside each slide that it copies. Folders behind links are not searched, and added to `links`.
    """
    for folder, folders, files in os.walk(path, onerror=_refuse_unreadable):
        if "job.json" in files:
            from slidewright.shards.folder import is_own  # NumPy comes with it

            folders[:] = [name for name in folders if not (name.endswith(".zarr") and is_own(name))]
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [*folders, *(name for name in files if not name.startswith("."))]
        names = [name for name in shown if name.lower().endswith(SUFFIXES)]
        names += [name for name in folders if name not in names and _holds_dicom(os.path.join(folder, name))]
        for name in sorted(names):
            source = os.path.join(folder, name)
            yield source, os.path.relpath(source, path)
        folders[:] = sorted(
            name
            for name in folders
            if recursive
            and name not in names
            and not (out is not None and same_file(os.path.join(folder, name), out))
        )
        links += filter(os.path.islink, (os.path.join(folder, name) for name in folders))


def _refuse_unreadable(error: OSError) -> None:
    raise SourceError(f"the folder {error.filename!r} can't be read: {error.strerror}") from error


def _remedy(path: str, out: str | os.PathLike[str] | None, recursive: bool) -> str:
    if not recursive and next(_in_folder(path, out, True, []), None):
        return ", but in folders below it; give --recursive for them"
    return f"; slides are known there by their names ({', '.join(SUFFIXES)}), others need a pattern such as '*'"


def _holds_dicom(path: str) -> bool:
    return os.path.isdir(path) and first_dicom(path) is not None


def _from_csv(path: str, options: Mapping[str, Any]) -> list[Entry]:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with open(path, newline="", encoding="utf-8-sig", opener=regular) as file:
            lines = iter(lambda: file.readline(_MAX_LINE), "")
            reader = csv.DictReader(lines, skipinitialspace=True)
            _check_columns(path, reader.fieldnames or ())
            rows = list(reader)
    except FileNotFoundError:
        raise OptionError(f"the manifest {path!r} does not exist") from None
    except OSError as error:
        raise OptionError(f"the manifest {path!r} can't be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise OptionError(
            f"{path!r} is not a CSV file ({error}); the results of a slide need a folder: give --out"
        ) from error
    if not rows:
        raise OptionError(f"{path!r} has no row below its header")
    entries = []
    for number, row in enumerate(rows, 2):
        try:
            entries.append(_entry(row, folder, options))
        except OptionError as error:
            raise OptionError(f"{path!r}, row {number}: {error}") from error
    return entries


def _check_columns(path: str, names: Any) -> None:
    for needed in ("source", "destination"):
        if needed not in names:
            raise OptionError(f"{path!r} has no column {needed!r}; its first line must name the columns")
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"{path!r} has the column {name!r} twice; leave one out")
        option = OPTIONS.get(name)
        if option is not None and not option.column:
            flag = (option.flags or OPTIONS["dask"].flags)[0]
            raise OptionError(f"{path!r}: {name!r} is for the whole batch; give it as {flag}")
        if name not in ("source", "destination", *COLUMNS):
            near = did_you_mean(name, ("source", "destination", *COLUMNS))
            raise OptionError(f"{path!r}: column {name!r} is not known; known are {', '.join(COLUMNS)}{near}")


def _entry(row: Mapping[str, Any], folder: str, options: Mapping[str, Any]) -> Entry:
    if None in row or None in row.values():
        raise OptionError("it has not as many cells as the header")
    given = dict(options)
    for name, text in row.items():
        if name not in ("source", "destination") and text.strip():
            given[name] = parse_cell(name, _from_folder(folder, name, text.strip()))
    for needed in ("source", "destination"):
        if not row[needed].strip() or "\0" in row[needed]:
            raise OptionError(f"its {needed} is empty or has a zero byte")
    selection, checked = split_options(given, "batch")
    source, destination = (row[name].strip() for name in ("source", "destination"))
    source, destination = source if is_url(source) else os.path.join(folder, source), os.path.join(folder, destination)
    return _settled(source, destination, checked, selection)


def _from_folder(folder: str, name: str, text: str) -> str:
    """A cell whose relative path, if it has one, begins at the manifest's folder."""
    path = name in ("label", "scratch") or (name == "colormap" and "=" not in text)
    return os.path.join(folder, text) if path else text


def parse_cell(name: str, text: str) -> Any:
    """A cell of an option's column as the option's value; raises OptionError, naming the option."""
    try:
        return COLUMNS[name].parse(text)
    except OptionError as error:
        raise OptionError(f"{name} {error}") from error
