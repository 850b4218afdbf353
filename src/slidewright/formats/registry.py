"""Which formats there are, and which one a destination asks for. A format's module is imported when it is chosen."""

from __future__ import annotations

import importlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from slidewright.errors import OptionError
from slidewright.options import ConvertOptions

if TYPE_CHECKING:
    from slidewright.formats.base import Format

FORMATS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "tiff": ((".tif", ".tiff", ".svs", ".btf", ".tf8"), "slidewright.formats.tiff", "TiffFormat"),
    "ome-zarr": ((".ome.zarr", ".zarr"), "slidewright.formats.ome_zarr", "OmeZarrFormat"),
    "ome-tiff": ((".ome.tif", ".ome.tiff", ".ome.btf"), "slidewright.formats.ome_tiff", "OmeTiff"),
}
"""By name: the suffixes, the module and the class. A program may add its own before it converts."""

DEFAULT = "tiff"
_OTHERS = (
    *(".png", ".jpg", ".jpeg", ".jp2", ".j2k", ".jpx", ".jxl", ".webp", ".bmp", ".gif", ".pdf", ".svg", ".html"),
    *(".csv", ".npy", ".npz", ".zip", ".h5", ".hdf5", ".nii", ".dcm", ".dzi", ".czi", ".ets", ".vsi", ".ndpi", ".mrxs"),
    *(".vms", ".vmu", ".scn", ".bif", ".svslide", ".qptiff", ".json"),
)
"""Suffixes of what no format writes: a TIFF under such a name would mislead people and programs."""


def format_named(name: str) -> type[Format]:
    """The class of a format.

    Raises
    ------
    OptionError
        When there is none of this name.
    """
    if name not in FORMATS:
        raise OptionError(f"format {name!r} is not known; choose one of {', '.join(FORMATS)}")
    _, module, attribute = FORMATS[name]
    found: type[Format] = getattr(importlib.import_module(module), attribute)
    return found


def settle_format(options: ConvertOptions, destination: str | os.PathLike[str] | None) -> ConvertOptions:
    """The options with a format: the one that was asked for, else the one whose suffix the destination has (the longest
    that fits), else TIFF.

    Raises
    ------
    OptionError
        When the name is one of another kind of file, or "-".
    """
    if destination is not None and os.fspath(destination) == "-":
        raise OptionError("a pyramid can't be written to a pipe, since its tables are written last; name a file")
    if options.format is not None or destination is None:
        return replace(options, format=options.format or DEFAULT)
    return replace(options, format=format_of(destination) or DEFAULT)


def format_of(destination: str | os.PathLike[str]) -> str | None:
    """The format whose suffix a name has; None where it has none of them. Raises OptionError for a name of another kind
    of file.
    """
    name = os.path.basename(os.fspath(destination).rstrip("/")).lower()
    if _is_inside(destination):
        return "ome-zarr"
    fitting = [(len(suffix), form) for form, row in FORMATS.items() for suffix in row[0] if name.endswith(suffix)]
    if not fitting:
        _refuse_misleading(name)
    return max(fitting)[1] if fitting else None


def _refuse_misleading(name: str) -> None:
    suffix = os.path.splitext(name)[1]
    if suffix in _OTHERS:
        raise OptionError(
            f"no format that is written here is named {suffix!r}; end the destination in .tif, .ome.tif or .ome.zarr, "
            "or say what to write (--format tiff)"
        )


def _is_inside(destination: str | os.PathLike[str]) -> bool:
    """Whether it is a name in the labels of an OME-Zarr, or a number in one, where suffixes are not usual."""
    *_, image, group, name = ("", "", *os.path.abspath(os.fspath(destination)).split(os.sep))
    label = group == "labels" and image.lower().endswith(".zarr")
    return label or (name.isdecimal() and group.lower().endswith(".zarr"))


def make_format(options: ConvertOptions) -> Format:
    """The format of settled options."""
    return format_named(options.format or DEFAULT).from_options(options)
