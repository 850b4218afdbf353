"""convert(): what a caller touches. Puts source, options, destination and engine together, and takes everything down
again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Unpack

from slidewright.conversions.opening import fixed, open_selected, option_files
from slidewright.conversions.signatures import AllOptions, with_options
from slidewright.conversions.workload import Workforce
from slidewright.errors import DestinationError, OptionError
from slidewright.formats.registry import settle_format
from slidewright.options import SELECTION, ConvertOptions, split_options
from slidewright.report import Progress, ProgressOption, Report
from slidewright.selection import Selection
from slidewright.system.file_identity import lies_in, same_file

if TYPE_CHECKING:
    from slidewright.conversions.destination import Compare
    from slidewright.report import Recorder
    from slidewright.sources.base import Source
    from slidewright.system.launcher import Launcher


@with_options("convert")
def convert(
    source: Any,
    dest: str | os.PathLike[str],
    *,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
    progress: ProgressOption = False,
    report: str | os.PathLike[str] | None = None,
    **options: Unpack[AllOptions],
) -> Report:
    """Write an image as a pyramidal, tiled TIFF or as an OME-Zarr, on every core.

    Parameters
    ----------
    source
        A path (TIFF, SVS, zarr, .npy, or what OpenSlide reads), a NumPy array of shape (height, width[, samples]), a
        zarr array or group, a PIL image, a map-style dataset of tiles (indexed in the workers), a function of (y, x,
        height, width) that gives an array (called in the workers), or a `slidewright.sources.base.Source`.
    dest
        The file to write, or for a name that ends in .zarr the folder of an OME-Zarr. It appears under this name only
        when it is complete.
    shape, dtype
        Of a dataset or a function: (height, width[, samples]) of the image and the dtype of its pixels, where it does
        not say so itself.
    progress
        True shows a bar on a terminal and plain lines elsewhere; a callable gets a `Progress` a few times a second.
    report
        An HTML file to write as well: what was made, and where the time went. One page that needs no other file.
    **options
        Which image of the source, and which part (the fields of `Selection`, such as `level=1`), and the fields of
        `ConvertOptions`, such as `compression="deflate"` or `n_workers=4`.

    Returns
    -------
    Report
        Levels, bytes, seconds by stage, retries and peak memory.

    Raises
    ------
    OptionError
        For an unknown option or a value that can't be used; nothing has been written then.
    SourceError, CorruptTileError
        When the source can't be opened, read or decoded (with `on_corrupt="fill"`, tiles that don't decode are painted
        instead, counted in the report and warned of).
    DestinationError
        When the destination exists and `overwrite` is not set, or its folder is missing.
    OutputError, VerifyError, RunError
        When the run failed: a full disk (or one that is too small to begin with), a wrong file, dead processes, too
        little memory. Nothing is left under the final name.
    """
    from slidewright.reporting.progress import make_callback

    started = monotonic()
    selection, checked = split_options(options, "convert")
    checked = settle_format(checked, dest)
    dest, report = fixed(dest, source), None if report is None else fixed(report, source)
    if checked.scratch is not None:
        checked = replace(checked, scratch=fixed(checked.scratch, source))
    recorder = None if report is None else prepare_report(report, source, dest, checked, started)
    with Workforce(checked, source) as workforce, make_callback(progress) as callback:
        opened, path = open_selected(source, selection, shape, dtype)
        launcher, checked, threads = workforce.settle(opened.info)
        finished = convert_opened(
            *(launcher, opened, path, dest, selection, checked, callback, started, recorder), threads=threads
        )
    if report is not None and recorder is not None:
        from slidewright.reporting.html_page import Subject, write_report

        given = {name: value for name, value in options.items() if name not in SELECTION} | selection.given
        subject = Subject(finished, recorder, opened.info.name, path, given)
        write_report(Path(report), subject, overwrite=checked.overwrite)
    return finished


def convert_opened(
    launcher: Launcher | None,
    source: Source,
    source_path: str | None,
    dest: str | os.PathLike[str],
    selection: Selection,
    options: ConvertOptions,
    callback: Callable[[Progress], None] | None,
    started: float,
    recorder: Recorder | None = None,
    compare: Compare = False,
    announce: Callable[[str], None] | None = None,
    threads: int = 1,
) -> Report:
    """Convert with a launcher that is there already, or without in so many threads; `compare` as for `Destination`,
    `announce` as for `Conversion`.
    """
    if options.archive is not None:
        from slidewright.conversions.archive import archive_opened

        return archive_opened(
            launcher, source_path, dest, selection, options, callback, started, recorder, compare, announce
        )
    options = settle_format(options, dest)
    if options.resume or options.engine == "dask":
        from slidewright.conversions.resume import convert_resumably

        return convert_resumably(
            launcher, source, source_path, dest, selection, options, callback, started, recorder, compare
        )
    from slidewright.conversions.conversion import Conversion
    from slidewright.conversions.deciding import decide

    run = decide(source, options, started, recorder=recorder, threads=threads)
    with Conversion(run, dest, options, source_path, compare, announce) as conversion:
        return conversion.run(launcher, callback)


def prepare_report(
    path: str | os.PathLike[str], source: Any, dest: str | os.PathLike[str], options: ConvertOptions, started: float
) -> Recorder:
    """What records the run for its report, once it is known that the report can be written."""
    from slidewright.report import Recorder

    if options.engine == "dask":
        raise OptionError('the report tells what workers of this machine did; leave it out with engine="dask"')
    page = Path(path)
    if not page.parent.is_dir():
        raise DestinationError(
            f"the folder {str(page.parent)!r} of the report does not exist; make it or choose another"
        )
    if not os.access(page.parent, os.W_OK | os.X_OK):
        raise DestinationError(f"the folder {str(page.parent)!r} of the report is not writable; choose another")
    for what, other in {"destination": dest, "source": source, **option_files(options)}.items():
        if isinstance(other, (str, os.PathLike)) and (same_file(page, other) or lies_in(page, other)):
            raise DestinationError(f"the report {str(page)!r} is the {what}, or lies in it; choose another name")
    if page.is_dir() or (os.path.lexists(page) and not options.overwrite):
        raise DestinationError(f"the report {str(page)!r} exists; choose another name, or allow overwriting")
    if page.exists() and not page.is_file():
        raise DestinationError(f"the report {str(page)!r} is a device, a pipe or a socket; choose another name")
    return Recorder(started)
