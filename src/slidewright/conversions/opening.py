"""The door: what was asked for, validated; what was given, opened; the processes that will be needed, started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from slidewright.errors import OptionError
from slidewright.options import ConvertOptions

if TYPE_CHECKING:
    from slidewright.sources.base import Source
    from slidewright.system.launcher import Launcher

PRELOAD = (
    "numpy",
    "imagecodecs",
    "imagecodecs._jpeg8",
    "cv2",
    "tifffile",
    "slidewright.engine.worker",
    "slidewright.engine.writer",
    "slidewright.formats.tiff",
    "slidewright.sources.tiff",
)
"""What workers and writer are forked with."""


def open_chosen(
    source: Any, chosen: dict[str, int | None], shape: tuple[int, ...] | None = None, dtype: Any = None
) -> tuple[Source, str | None]:
    """Open what was given, with the page, series and level that were chosen; also its path, where it is one."""
    from slidewright.sources.open import open_source

    opened = open_source(
        source,
        page=chosen["page"],
        series=chosen["series"],
        level=chosen["level_index"],
        shape=shape,
        dtype=dtype,
    )
    return opened, os.fspath(source) if isinstance(source, (str, os.PathLike)) else None


def make_options(given: dict[str, Any]) -> ConvertOptions:
    """The options as a validated value; an unknown name is an OptionError that lists the known ones."""
    known = ConvertOptions.__dataclass_fields__
    for name in given:
        if name not in known:
            raise OptionError(f"option {name!r} is not known; known are {', '.join(known)}")
    return ConvertOptions(**given)


@contextlib.contextmanager
def make_launcher(options: ConvertOptions) -> Iterator[Launcher | None]:
    """A launcher, started first so that its imports run while the source is opened; None for a run in this process."""
    if options.n_workers == 0:
        yield None
        return
    from slidewright.system import launcher as processes

    launcher = processes.make_launcher(PRELOAD)
    try:
        yield launcher
    finally:
        launcher.close()
