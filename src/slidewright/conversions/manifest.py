"""What a batch is to do: rows of a CSV file, or the slides in a folder or behind a pattern, as checked entries.

Everything that can be judged without opening a slide is judged here, for all rows, before the first conversion.
"""

from __future__ import annotations

import csv
import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slidewright.errors import OptionError, did_you_mean
from slidewright.options import OPTIONS, SELECTION, ConvertOptions, Selection, make_options
from slidewright.system.files import lies_in, regular, shared_places
from slidewright.system.remote_file import is_url

COLUMNS = {name: option for name, option in {**SELECTION, **OPTIONS}.items() if option.column}
"""What a row may say besides its source and destination."""
SUFFIXES = (
    *(".tif", ".tiff", ".svs", ".npy", ".zarr", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide"),
    *(".qptiff", ".zip"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One conversion of a batch."""

    source: str
    destination: str
    options: ConvertOptions
    selection: Selection


def read_entries(
    manifest: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    options: Mapping[str, Any],
    suffix: str = ".tif",
) -> list[Entry]:
    """The entries of a CSV file, or of a folder or pattern whose results go to the folder `out`.

    Raises
    ------
    OptionError
        Naming the row and the column, when something can't be used.
    """
    path = os.fspath(manifest)
    if os.path.isfile(path):
        if out is not None:
            raise OptionError(f"{path!r} names its destinations itself; leave out the output folder")
        entries = _from_csv(path, options)
    else:
        entries = _from_files(path, out, options, suffix)
    return entries


def check_apart(entries: Sequence[Entry], manifest: str, reports: Sequence[str]) -> None:
    """Refuse a batch that would write one file twice, or write where it reads: through links, hard links, linked
    folders and names that the filesystem takes for one as well.

    Raises
    ------
    OptionError
        Naming both.
    """
    outputs = [entry.destination for entry in entries]
    inputs = [*dict.fromkeys(entry.source for entry in entries), *([manifest] if os.path.isfile(manifest) else ())]
    paths = [*outputs, *reports, *inputs]
    for one, other in shared_places(paths):
        if other < len(outputs):
            first, second = entries[one].source, entries[other].source
            raise OptionError(f"{first!r} and {second!r} would both become {paths[other]!r}; rename one")
        if one < len(outputs) + len(reports):
            raise OptionError(f"{paths[one]!r} would be written, and is the same file as {paths[other]!r}; rename one")
    for folder in filter(os.path.isdir, outputs):
        for path in paths:
            if path != folder and lies_in(path, folder):
                raise OptionError(f"{path!r} lies in {folder!r}, which would be replaced; choose another destination")


def _from_files(path: str, out: str | os.PathLike[str] | None, options: Mapping[str, Any], suffix: str) -> list[Entry]:
    if out is None:
        raise OptionError(f"results of {path!r} need a folder: give --out")
    if os.path.isdir(path):
        found = [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.lower().endswith(SUFFIXES)]
    else:
        found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise OptionError(f"{path!r} is no file, and no slide is in it; quote a pattern, so that the shell leaves it")
    selection, checked = split_options(options)
    return [
        Entry(source, os.path.join(out, os.path.splitext(os.path.basename(source))[0] + suffix), checked, selection)
        for source in found
    ]


def _from_csv(path: str, options: Mapping[str, Any]) -> list[Entry]:
    folder = os.path.dirname(os.path.abspath(path))
    try:
        with open(path, newline="", encoding="utf-8-sig", opener=regular) as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            _check_columns(path, reader.fieldnames or ())
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{path!r} is not a CSV file: {error}") from error
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
            given[name] = parse_cell(name, text.strip())
    for needed in ("source", "destination"):
        if not row[needed].strip() or "\0" in row[needed]:
            raise OptionError(f"its {needed} is empty or has a zero byte")
    selection, checked = split_options(given)
    source, destination = (row[name].strip() for name in ("source", "destination"))
    source, destination = source if is_url(source) else os.path.join(folder, source), os.path.join(folder, destination)
    return Entry(source, destination, checked, selection)


def split_options(given: Mapping[str, Any]) -> tuple[Selection, ConvertOptions]:
    """Which image of the source, and the validated options."""
    selection = Selection(**{name: given[name] for name in SELECTION if name in given})
    return selection, make_options({name: value for name, value in given.items() if name not in SELECTION}, "batch")


def parse_cell(name: str, text: str) -> Any:
    """A cell of an option's column as the option's value; raises OptionError, naming the option."""
    try:
        return COLUMNS[name].parse(text)
    except OptionError as error:
        raise OptionError(f"{name} {error}") from error
