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
    """
    if options.format is not None or destination is None:
        return replace(options, format=options.format or DEFAULT)
    name = os.path.basename(os.fspath(destination).rstrip("/")).lower()
    if _is_inside(destination):
        return replace(options, format="ome-zarr")
    fitting = [(len(suffix), form) for form, row in FORMATS.items() for suffix in row[0] if name.endswith(suffix)]
    return replace(options, format=max(fitting)[1] if fitting else DEFAULT)


def _is_inside(destination: str | os.PathLike[str]) -> bool:
    """Whether it is a name in the labels of an OME-Zarr, or a number in one, where suffixes are not usual."""
    *_, image, group, name = ("", "", *os.path.abspath(os.fspath(destination)).split(os.sep))
    label = group == "labels" and image.lower().endswith(".zarr")
    return label or (name.isdecimal() and group.lower().endswith(".zarr"))


def make_format(options: ConvertOptions) -> Format:
    """The format of settled options."""
    return format_named(options.format or DEFAULT).from_options(options)
