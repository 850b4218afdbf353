"""Assembling shards: a run that finds its first pass in them, so the file is the one that `convert` makes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Unpack

from slidewright.conversions.conversion import Conversion, watch
from slidewright.conversions.destination import sweep_beside
from slidewright.conversions.opening import fixed, make_launcher, open_selected
from slidewright.conversions.shard_job import counting_from, open_job, remove_folder, shard_plan
from slidewright.conversions.signatures import AssembleOptions, with_options
from slidewright.errors import DestinationError, OptionError, ShardError
from slidewright.formats.registry import format_of
from slidewright.options import make_options
from slidewright.report import ProgressOption, Report
from slidewright.selection import Selection
from slidewright.shards import fingerprint as identity
from slidewright.shards.folder import JOB_FILE, ShardFolder, is_own
from slidewright.shards.plan import ShardPlan

if TYPE_CHECKING:
    from slidewright.engine.run import Run
    from slidewright.pyramid.block_files import BlockFiles


@with_options("assemble")
def assemble(
    shards: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    source: Any = None,
    remove: bool = False,
    progress: ProgressOption = False,
    **options: Unpack[AssembleOptions],
) -> Report:
    """Put shards together; the file is the one that `slidewright.convert` makes, byte for byte.

    Parameters
    ----------
    shards
        The folder of the shards.
    dest
        The file to write. It appears under this name only when it is complete.
    source
        The source, if it is not where it was when the shards were made; its metadata are needed.
    remove
        Whether to remove the folder of shards when the file is complete.
    progress
        As for `slidewright.convert`.
    **options
        Fields of `ConvertOptions` that change how a run goes. The shards know the others.

    Raises
    ------
    ShardError
        When shards are missing or damaged; the message names them, and the command that makes them.
    SourceError
        When there is no folder of shards.
    SlidewrightError
        As for `slidewright.convert`.
    """
    from slidewright.reporting.progress import make_callback

    started = monotonic()
    sweep_beside(dest)  # also where the shards are gone: a run that was killed while it removed them left the rest
    folder = ShardFolder.open(shards)
    job = folder.job
    make_options(options, "assemble")
    dest = fixed(dest, source)
    _refuse_own(folder, dest)
    try:
        checked = make_options({**identity.options_from(job.options), **options})
        selection = Selection(**job.selection)
    except (ValueError, TypeError, RecursionError) as error:  # options of a folder that somebody has changed
        raise ShardError(f"{folder.path!r}: its {JOB_FILE} makes no sense ({error}); make the shards again") from error
    named = format_of(dest)
    if named not in (None, checked.format):
        raise OptionError(
            f"the shards in {folder.path!r} are of format {checked.format!r}, and {os.fspath(dest)!r} is a name of "
            f"format {named!r}; choose another name, or make them again with format"
        )
    if source is None and job.path is None:
        raise OptionError(f"the shards in {folder.path!r} were made from a source without a path; give it as `source`")
    with make_launcher(checked) as launcher, make_callback(progress) as callback:
        opened, path = open_selected(source if source is not None else job.path, selection)
        watched = watch(opened, path)
        folder, decided = open_job(folder.path, opened, path, watched, selection, checked, started)
        with Conversion(decided, dest, checked, path, watched=watched) as conversion:
            plan = shard_plan(folder, decided, tuple(range(job.count)), ())
            files = _files(decided, plan)  # which nobody reads: they get another name
            folder.require(decided.plan, plan.levels, files, deep=files is not None and checked.verify)
            with _naming_damaged_shards(folder, decided, plan):
                report = conversion.run(launcher, counting_from(plan, callback), shards=plan)
        if remove:
            said = remove_folder(folder.path, folder.mark, dest, launcher)
            report = replace(report, warnings=(*report.warnings, *said))
    return report


def _refuse_own(folder: ShardFolder, dest: str | os.PathLike[str]) -> None:
    """Refuse a destination under the name of something that shards consist of."""
    inside = os.path.relpath(os.path.realpath(dest), os.path.realpath(folder.path)).split(os.sep)[0]
    if is_own(inside):
        raise DestinationError(f"the destination {os.fspath(dest)!r} is a part of the shards; choose another name")


def _files(decided: Run, plan: ShardPlan) -> BlockFiles | None:
    """The files of the output that belong to shards."""
    return decided.format.by_blocks(plan.files).block_files(None, decided.image)


@contextlib.contextmanager
def _naming_damaged_shards(folder: ShardFolder, decided: Run, plan: ShardPlan) -> Iterator[None]:
    """When a segment turns out damaged on the way, read every shard and name all that are."""
    try:
        yield
    except ShardError:
        folder.require(decided.plan, plan.levels, _files(decided, plan), deep=True)
        raise
