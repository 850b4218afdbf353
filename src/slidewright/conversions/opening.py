"""The door: what was asked for, validated; what was given, opened; the processes that will be needed, started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from slidewright.option_text import FileColormap
from slidewright.options import ConvertOptions
from slidewright.selection import Selection
from slidewright.system.file_identity import without_descriptor
from slidewright.system.remote_file import absolute

if TYPE_CHECKING:
    from slidewright.sources.base import Source
    from slidewright.system.launcher import Launcher


def open_selected(
    source: Any, selection: Selection, shape: tuple[int, ...] | None = None, dtype: Any = None
) -> tuple[Source, str | None]:
    """Open what was given, with the page, series and level that were selected; also its path, where it is one."""
    from slidewright.sources.open import open_source

    path = without_descriptor(os.fsdecode(source)) if isinstance(source, (str, os.PathLike)) else None
    opened = open_source(
        source,
        page=selection.page,
        series=selection.series,
        level=selection.level,
        z=selection.z,
        t=selection.t,
        axes=selection.axes,
        region=selection.region,
        shape=shape,
        dtype=dtype,
    )
    return opened, path


def fixed(path: str | os.PathLike[str], source: Any) -> str:
    """A path of the caller's that means the same wherever the source goes, which may run code of theirs."""
    given = os.fspath(path)
    return given if source is None or isinstance(source, (str, os.PathLike)) else absolute(given)


def option_files(options: ConvertOptions) -> dict[str, str]:
    """The files that options read, by a word for each; nothing may be written over them."""
    label, colormap = options.label, options.colormap
    found = {} if label is None else {"label image": os.fspath(label)}
    return found | ({"colormap": colormap.path} if isinstance(colormap, FileColormap) else {})


@contextlib.contextmanager
def make_launcher(options: ConvertOptions, more: Sequence[str] = ()) -> Iterator[Launcher | None]:
    """A launcher, started first so that its imports, and `more`, run while the source is opened; None for a run in this
    process.
    """
    if options.n_workers == 0:
        yield None
        return
    from slidewright.formats.registry import FORMATS
    from slidewright.system import launcher as processes
    from slidewright.system.early import PRELOAD

    home = [FORMATS[options.format][1]] if options.format in FORMATS else []
    launcher = processes.make_launcher((*PRELOAD, *home, *more))
    try:
        yield launcher
    finally:
        launcher.close()
