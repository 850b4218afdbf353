"""What makes two runs the same: source, options and library versions as plain values that can be compared.

Shards that several processes make at several times fit together only if these agree; batch uses the same to tell what
is done. What changes speed and not a byte of output (workers, memory, block size) is left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from slidewright._version import __version__
from slidewright.errors import OptionError
from slidewright.options import OPTIONS, ConvertOptions
from slidewright.pixels import hex_color, parse_colormap

RUNNING = frozenset(name for name, option in OPTIONS.items() if not option.changes_output)
"""Options that change how a run goes and not what it makes."""
_MAX_FILES = 20_000
_LIBRARIES = ("imagecodecs", "opencv-python-headless", "tifffile")


def fingerprint(source: Any, path: str | None) -> dict[str, Any]:
    """What tells one source from another without reading its pixels.

    A file is known by its size and time of change, a folder by those of the files in it (the first 20,000), an
    object that describes one by its pickle as well, any other by its pickle alone.

    Raises
    ------
    OptionError
        For pixels in the memory of this process, and for datasets and functions, whose pixels nobody can know again.
    """
    info = source.info
    seen: dict[str, Any] = {"size": str(info.size), "samples": info.samples, "dtype": info.dtype}
    return {**seen, **(_object(source) if path is None else _on_disk(path))}


def _object(source: Any) -> dict[str, Any]:
    """Of a source that is given as an object: its pickle, and the file that it describes, where it does."""
    described = getattr(source, "source", source)  # of one that unpacks strips first, the TIFF
    path = getattr(described, "path", None) or getattr(described, "store", None)
    known = isinstance(path, str) and os.path.exists(path)
    if hasattr(source, "prepare") and not known:  # an array, an image, a dataset, a function, a class of this script
        raise _unknown(source.info.name)
    try:
        seen = {"pickle": hashlib.sha256(pickle.dumps(described, 4)).hexdigest()[:16]}
    except Exception as error:
        raise _unknown(source.info.name) from error
    return {**seen, **_on_disk(path)} if isinstance(path, str) and known else seen


def _on_disk(path: str) -> dict[str, Any]:
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return {"files": _folder(path)}
    seen: dict[str, Any] = dict(_stat(path))
    companion = os.path.splitext(path)[0]
    if companion != path and os.path.isdir(companion):  # MIRAX keeps its pixels there
        seen["files"] = _folder(companion)
    return seen


def _unknown(name: str) -> OptionError:
    return OptionError(
        f"{name}: pixels that are no file have no identity that outlives this process; save them to a file first"
    )


def _stat(path: str) -> dict[str, int]:
    status = os.stat(path)
    return {"bytes": status.st_size, "changed": status.st_mtime_ns}


def _folder(path: str) -> str:
    """Names, sizes and times of the files in a folder, in one word."""
    seen = hashlib.sha256()
    for number, file in enumerate(_files(path)):
        if number == _MAX_FILES:
            break
        seen.update(f"{os.path.relpath(file, path)}\0{sorted(_stat(file).items())}\n".encode(errors="surrogateescape"))
    return seen.hexdigest()[:16]


def _files(path: str) -> Iterator[str]:
    for folder, folders, files in os.walk(path):
        folders.sort()
        for name in sorted(files):
            yield os.path.join(folder, name)


def made_options(options: ConvertOptions) -> dict[str, Any]:
    """The options that decide what is made, as JSON can hold them; those at their default are left out."""
    chosen = {}
    for field in dataclasses.fields(options):
        value = _plain(_settled(field.name, getattr(options, field.name)))
        if field.name not in RUNNING and value != field.default:
            chosen[field.name] = value
    return chosen


def _settled(name: str, value: Any) -> Any:
    """A palette as a mapping in the order of its labels, and colours as "#rrggbb", however they were written."""
    if name == "colormap" and value is not None:
        parse_colormap(value)  # an index may be no number
        items = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
        return {index: hex_color(items[index], f"colormap[{index}]") for index in sorted(items)}
    if name == "background" and isinstance(value, (str, Sequence)):
        return hex_color(value, "background")
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {"mapping": [[_plain(key), _plain(item)] for key, item in value.items()]}
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # a NumPy scalar or array
        return value.tolist()
    return repr(value)


def options_from(made: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments that `made_options` came from."""
    return {name: _restored(value) for name, value in made.items()}


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_restored(key): _restored(item) for key, item in value["mapping"]}
    if isinstance(value, list):
        return tuple(_restored(item) for item in value)
    return value


def versions() -> dict[str, str]:
    """The versions that the bytes of an output may depend on."""
    found = {"slidewright": __version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "?"
    return found


def differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two identities, one phrase each: "options.quality is 85 there and 90 here"."""
    found = []
    for name in sorted({*there, *here}):
        old, new = there.get(name), here.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping) and "mapping" not in {*old, *new}:
            found += differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} is {_shown(old)} there and {_shown(new)} here")
    return found


def _shown(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value)
