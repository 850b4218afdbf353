"""One shard of a conversion: a run of the engine over a range of blocks, whose writer logs segments and writes no file.

A conversion that goes on where it was killed is this and `assemble` at once, see resume.py.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING, Any, Unpack

from slidewright.conversions.conversion import execute, share_source, watch
from slidewright.conversions.opening import fixed, make_launcher, open_selected
from slidewright.conversions.shard_job import SHARDS_A_WORKER, open_job, shard_plan
from slidewright.conversions.signatures import ShardOptions, with_options
from slidewright.errors import OptionError, SourceError
from slidewright.formats.registry import settle_format
from slidewright.options import split_options
from slidewright.report import Progress, ProgressOption
from slidewright.shards.folder import MAX_SHARDS, shard_name, sweep_partials
from slidewright.shards.plan import ShardPlan
from slidewright.sources.wrappers.fill import describe_corrupt
from slidewright.system.files import remove as remove_tree

if TYPE_CHECKING:
    from slidewright.engine.run import Run
    from slidewright.sources.watched import WatchedFiles
    from slidewright.system.launcher import Launcher

Callback = Callable[[Progress], None] | None


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What `shard` did."""

    path: str
    index: int
    count: int
    blocks: int
    tiles: int
    bytes: int
    seconds: float
    done_before: bool
    """Whether it was there already."""
    corrupt_tiles: int = 0
    """Tiles, strips or chunks of the source in this share that were filled with the background (`on_corrupt`)."""
    warnings: tuple[str, ...] = ()


@with_options("shard")
def shard(
    source: Any,
    shards: str | os.PathLike[str],
    *,
    index: int,
    count: int,
    progress: ProgressOption = False,
    **options: Unpack[ShardOptions],
) -> ShardReport:
    """Encode one of `count` equal shares of a slide into a shard, for `assemble`.

    Parameters
    ----------
    source, progress
        As for `slidewright.convert`. Pixels in memory are refused: another process could not read them.
    shards
        The folder that all shards of this conversion go to; made if need be.
    index, count
        Which share, from 0, of how many; there may be more than there are blocks to share.
    **options
        Fields of `Selection` and `ConvertOptions`; those that decide what is made must be the same for every shard.

    Returns
    -------
    ShardReport
        At once, with `done_before`, when the shard is there already.

    Raises
    ------
    ShardError
        When the folder belongs to another source or other options; the message says what differs.
    SlidewrightError
        As for `slidewright.convert`.
    """
    from slidewright.reporting.progress import make_callback

    started = monotonic()
    selection, checked = split_options(options, "shard")
    checked = settle_format(checked, None)
    if count > MAX_SHARDS:
        raise OptionError(f"{count} shards are more than {MAX_SHARDS}, the most there can be")
    if count < 1 or not 0 <= index < count:
        raise OptionError(f"shard {index} of {count} does not exist; shards are numbered from 0 to {count - 1}")
    shards = fixed(shards, source)
    opened, path = open_selected(source, selection)
    watched, workers = watch(opened, path), SHARDS_A_WORKER * count
    folder, decided = open_job(shards, opened, path, watched, selection, checked, started, count, workers)
    plan = shard_plan(folder, decided, (), (index,), sync=True)
    decided = replace(decided, format=decided.format.by_blocks(plan.files))
    files = decided.format.block_files(None, decided.image)
    warnings: list[str] = []
    # to the last byte: `assemble` names damaged shards, and the command that is to make them again comes here
    before = folder.problem(index, decided.plan, plan.levels, files, deep=True) is None
    unfinished, pid = (plan.partial(index), plan.files.staging), os.getpid()
    if not before:
        try:
            with make_launcher(checked) as launcher, make_callback(progress) as callback:
                if launcher is not None:
                    launcher.own(*unfinished)
                warnings = _make_shard(launcher, decided, watched, plan, callback)
        finally:  # a writer that was ended could not do it
            for each in unfinished if os.getpid() == pid else ():  # else a fork, as of a callback of the caller's
                remove_tree(each)
    numbers = plan.blocks(index)
    corrupt = replace(plan, found=(index,)).found_corrupt()
    kept = decided.image.kept
    said = [describe_corrupt(corrupt, kept=kept is not None and kept.corrupt)] if corrupt else []
    return ShardReport(
        folder.shard_path(index),
        index,
        count,
        len(numbers),
        plan.n_tiles((index,)),
        folder.nbytes(index, decided.plan, files),
        monotonic() - started,
        before,
        len(corrupt),
        (*warnings, *said),
    )


def _make_shard(
    launcher: Launcher | None,
    decided: Run,
    watched: WatchedFiles,
    plan: ShardPlan,
    callback: Callback,
) -> list[str]:
    """Make the one shard of a plan; warnings."""
    (index,) = plan.to_make
    tiles, first = plan.n_tiles(plan.to_make), decided.plan.passes[0]
    regions = [decided.plan.region(first.block(number)) for number in plan.blocks(index)]
    pixels = sum(region.height * region.width for region in regions)

    def share_of(snapshot: Progress) -> Progress:
        return replace(snapshot, tiles_total=tiles, pixels_total=pixels)

    warnings = [*decided.memory.warnings, *_check_space(decided, plan)]
    run = decided
    with contextlib.ExitStack() as stack:
        stack.callback(watched.close)
        watched.hold()
        if launcher is not None:
            run = share_source(stack, run)
            stack.callback(launcher.close)  # before what its children read is taken away
        run = replace(run, levels=plan.levels, shards=replace(plan, corrupt=dict(run.source.filled), watched=watched))
        told = None if callback is None else lambda snapshot: callback(share_of(snapshot))
        try:
            outcome = execute(run, launcher, told)
            watched.check()
        except BaseException as error:
            if watched.changed(quick=not isinstance(error, SourceError)):
                plan.remove_made()
            raise
        doubts = watched.doubts()
    sweep_partials(plan.folder, shard_name(index, plan.count))
    if callback is not None:
        callback(Progress(tiles, tiles, pixels, pixels, 0, monotonic() - decided.started, 0, 0, "done"))
    return [*warnings, *outcome.warnings, *doubts]


def _check_space(decided: Run, plan: ShardPlan) -> tuple[str, ...]:
    """Hold the room in the folder against this share; the shards of others come on top."""
    from slidewright.engine.disk_budget import check_space, estimate

    need = estimate(decided).with_shards(plan.part_to_make, output=0)
    return check_space(need, plan.folder, decided.temporary)
