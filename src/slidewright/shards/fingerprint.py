"""What makes two runs the same: source, options and library versions as plain values that can be compared.

Shards that several processes make at several times fit together only if these agree; batch uses the same to tell what
is done. What changes speed and not a byte of output (workers, memory, block size) is left out.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from slidewright._version import __version__
from slidewright.options import OPTIONS, ConvertOptions
from slidewright.pixels import hex_color, parse_colormap
from slidewright.shards.schema import read_as
from slidewright.sources.base import Source
from slidewright.sources.on_disk import file_identity
from slidewright.system.remote_file import absolute

RUNNING = frozenset(name for name, option in OPTIONS.items() if not option.changes_output)
"""Options that change how a run goes and not what it makes."""
_LIBRARIES = ("imagecodecs", "opencv-python-headless", "tifffile")


def fingerprint(source: Source, path: str | None) -> dict[str, Any]:
    """What tells one source from another without reading its pixels: its own `Source.identity`, or that of the file
    whose path was given.

    Raises
    ------
    OptionError
        For pixels in the memory of this process, and for datasets and functions, whose pixels nobody can know again.
    """
    info = source.info
    seen: dict[str, Any] = {"size": str(info.size), "samples": info.samples, "dtype": info.dtype}
    if path is None:
        return {**seen, **source.identity()}
    if source.read_from:
        return {**seen, "files": [file_identity(file) for file in source.read_from]}
    beside = [file_identity(other) for other in source.beside if os.path.isfile(other)]
    when = info.seen if absolute(info.name) == absolute(path) else None
    return {**seen, **file_identity(path, when), **({"beside": beside} if beside else {})}


def made_options(options: ConvertOptions) -> dict[str, Any]:
    """The options that decide what is made, as JSON can hold them; those at their default are left out."""
    chosen = {}
    for field in dataclasses.fields(options):
        value = _plain(_settled(field.name, getattr(options, field.name)))
        if field.name not in RUNNING and value != field.default:
            chosen[field.name] = value
    return chosen


def _settled(name: str, value: Any) -> Any:
    """A palette as a mapping in the order of its labels, and colours as "#rrggbb", however they were written; the path
    of the label image as one that means the same in any folder.
    """
    if name == "colormap" and value is not None:
        parse_colormap(value)  # an index may be no number
        items = dict(value) if isinstance(value, Mapping) else dict(enumerate(value))
        return {index: hex_color(items[index], f"colormap[{index}]") for index in sorted(items)}
    if name == "background" and isinstance(value, (str, Sequence)):
        return hex_color(value, "background")
    if name == "label" and value is not None:
        return os.path.abspath(os.fspath(value))
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Pairs:
    """A mapping whose keys need not be text, as JSON holds it."""

    mapping: tuple[tuple[str | int | float, Any], ...]


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {_restored(key): _restored(item) for key, item in read_as(_Pairs, value).mapping}
    if isinstance(value, list):
        return tuple(_restored(item) for item in value)
    return value


def versions() -> dict[str, str]:
    """The versions that the bytes of an output may depend on."""
    return {"slidewright": __version__, **{name: _version(name) for name in _LIBRARIES}}


@functools.cache  # a batch asks for each slide, and each time takes as long as the rest of a slide that is skipped
def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # 0.02 s, which a run without shards need not take

    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


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
