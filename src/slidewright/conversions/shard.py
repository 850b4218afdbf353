"""Conversions in parts: one shard, and assembling shards.

There is no encoder, reducer or writer here: a shard is a run of the engine over a range of blocks whose writer logs
segments and writes no TIFF; assembling is a run that finds its first pass in shards. So the file is the same, byte for
byte. A conversion that goes on where it was killed is both at once, see resume.py.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from slidewright.conversions.conversion import (
    Conversion,
    Decided,
    decide,
    execute,
    fillable,
    make_run,
    shared_source,
    temporary_folder,
)
from slidewright.conversions.convert import ProgressOption, make_launcher, make_options, open_chosen
from slidewright.errors import OptionError, ShardError
from slidewright.options import ConvertOptions
from slidewright.pyramid.level_store import Scratch
from slidewright.report import Progress, Report
from slidewright.shards import fingerprint as identity
from slidewright.shards.folder import JOB_FILE, Job, ShardFolder, shard_name, sweep_partials
from slidewright.shards.shelf import ShardPlan
from slidewright.sources.wrappers.fill import describe_corrupt
from slidewright.system.forkserver import remove as remove_tree

LOCAL_SHARDS = 64  # at least, of a resumed conversion: what a kill costs is at most about a part in so many
_PLANNED = 4  # workers a shard that blocks are balanced for, and shards a worker
ASSEMBLING = ("overwrite", "verify", "n_workers", "memory", "scratch", "timeout")

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


def shard(
    source: Any,
    shards: str | os.PathLike[str],
    *,
    index: int,
    count: int,
    page: int | None = None,
    series: int | None = None,
    level_index: int | None = None,
    progress: ProgressOption = False,
    **options: Any,
) -> ShardReport:
    """Encode one of `count` equal shares of a slide into a shard, for `assemble`.

    Parameters
    ----------
    source, page, series, level_index, progress
        As for `slidewright.convert`. Pixels in memory are refused: another process could not read them.
    shards
        The folder that all shards of this conversion go to; made if need be.
    index, count
        Which share, from 0, of how many; there may be more than there are blocks to share.
    **options
        The fields of `ConvertOptions`; those that decide what is made must be the same for every shard.

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
    checked = make_options(options)
    if count < 1 or not 0 <= index < count:
        raise OptionError(f"shard {index} of {count} does not exist; shards are numbered from 0 to {count - 1}")
    chosen = {"page": page, "series": series, "level_index": level_index}
    opened, path = open_chosen(source, chosen)
    folder, decided = open_job(shards, opened, path, chosen, checked, count, _PLANNED * count)
    plan = shard_plan(folder, opened, decided, (), (index,), tiff=False, sync=True)
    warnings: list[str] = []
    before = folder.problem(index, decided.plan, plan.scratch, deep=False) is None
    if not before:
        try:
            with make_launcher(checked) as launcher, make_callback(progress) as callback:
                if launcher is not None:
                    launcher.own(plan.partial(index))
                warnings = _make_shard(launcher, opened, checked, decided, plan, started, callback)
        finally:  # a writer that was ended could not do it
            remove_tree(plan.partial(index))
    numbers = plan.blocks(index)
    corrupt = replace(plan, found=(index,)).found_corrupt()
    return ShardReport(
        folder.shard_path(index),
        index,
        count,
        len(numbers),
        plan.n_tiles((index,)),
        os.path.getsize(folder.shard_path(index)),
        monotonic() - started,
        before,
        len(corrupt),
        (*warnings, *([describe_corrupt(corrupt)] if corrupt else ())),
    )


def _make_shard(
    launcher: Any,
    source: Any,
    options: ConvertOptions,
    decided: Decided,
    plan: ShardPlan,
    started: float,
    callback: Callback,
) -> list[str]:
    """Make the one shard of a plan; warnings."""
    (index,) = plan.to_make
    tiles, first = plan.n_tiles(plan.to_make), decided.plan.passes[0]
    regions = [decided.plan.region(first.block(number)) for number in plan.blocks(index)]
    pixels = sum(region.height * region.width for region in regions)

    def share_of(snapshot: Progress) -> Progress:
        return replace(snapshot, tiles_total=tiles, pixels_total=pixels)

    warnings = [*decided.memory.warnings, *_check_space(options, decided, plan)]
    source, filled = fillable(source, options)
    with contextlib.ExitStack() as stack:
        shared = shared_source(stack, source, options, decided, travels=launcher is not None)
        if launcher is not None:
            stack.callback(launcher.close)  # before what its children read is taken away
        run = make_run(
            shared,
            options,
            decided,
            partial="",
            scratch=plan.scratch,
            processes=launcher is not None,
            started=started,
            shards=replace(plan, corrupt=dict(filled)),
        )
        outcome = execute(run, launcher, None if callback is None else lambda snapshot: callback(share_of(snapshot)))
    sweep_partials(plan.folder, shard_name(index, plan.count))
    if callback is not None:
        callback(Progress(tiles, tiles, pixels, pixels, 0, monotonic() - started, 0, 0, "done"))
    return warnings + outcome.warnings


def _check_space(options: ConvertOptions, decided: Decided, plan: ShardPlan) -> tuple[str, ...]:
    """Hold the room in the folder against this share; the shards of others come on top."""
    from slidewright.engine.disk_budget import check_space, estimate

    need = estimate(decided.plan, decided.encoding, decided.memory.store_bytes)
    return check_space(need.with_shards(plan.part_to_make, output=False), plan.folder, temporary_folder(options))


def assemble(
    shards: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    *,
    source: Any = None,
    remove: bool = False,
    progress: ProgressOption = False,
    **options: Any,
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
        overwrite, verify, n_workers, memory or scratch: what changes how a run goes. The shards know the others.

    Raises
    ------
    ShardError
        When shards are missing or damaged; the message names them, and the command that makes them.
    SlidewrightError
        As for `slidewright.convert`.
    """
    from slidewright.reporting.progress import make_callback

    started = monotonic()
    folder = ShardFolder.open(shards)
    job = folder.job
    for name in options:
        if name not in ASSEMBLING:
            raise OptionError(f"option {name!r} is not one of {', '.join(ASSEMBLING)}; the shards decide the others")
    checked = make_options({**identity.options_from(job.options), **options})
    chosen = {"page": None, "series": None, "level_index": None, **job.selection}
    if source is None and job.path is None:
        raise OptionError(f"the shards in {folder.path!r} were made from a source without a path; give it as `source`")
    with make_launcher(checked) as launcher, make_callback(progress) as callback:
        opened, path = open_chosen(source if source is not None else job.path, chosen)
        folder, decided = open_job(folder.path, opened, path, chosen, checked)
        with Conversion(opened, dest, checked, path, started, decided) as conversion:
            plan = shard_plan(folder, opened, decided, tuple(range(job.count)), ())
            folder.require(decided.plan, plan.scratch)
            with _naming_damaged_shards(folder, decided, plan):
                report = conversion.run(launcher, counting_from(plan, callback), shards=plan)
    if remove:
        remove_folder(folder.path, dest)
    return report


@contextlib.contextmanager
def _naming_damaged_shards(folder: ShardFolder, decided: Decided, plan: ShardPlan) -> Iterator[None]:
    """When a segment turns out damaged on the way, read every shard and name all that are."""
    try:
        yield
    except ShardError:
        folder.require(decided.plan, plan.scratch, deep=True)
        raise


def open_job(
    path: str | os.PathLike[str],
    source: Any,
    source_path: str | None,
    chosen: dict[str, int | None],
    options: ConvertOptions,
    count: int | None = None,
    planned_workers: int | None = None,
) -> tuple[ShardFolder, Decided]:
    """Make or join the folder of this job. What only decides how work is cut (block size, number of shards) is taken
    from the folder where the caller leaves it open.
    """
    there = ShardFolder.open(path).job if os.path.exists(os.path.join(path, JOB_FILE)) else None
    if there is not None:
        planned_workers = there.planned_workers
        count = count or there.count
        if options.block_tiles is None:
            options = replace(options, block_tiles=there.block_tiles_given)
    decided = decide(source, options, planned_workers)
    first, planned = decided.plan.passes[0], planned_workers or decided.memory.n_workers
    given = decided.memory.block_tiles if planned_workers is None else options.block_tiles
    job = Job(
        path=None if source_path is None else os.path.abspath(source_path),
        selection={name: value for name, value in chosen.items() if value is not None},
        source=identity.fingerprint(source, source_path),
        options=identity.made_options(options),
        versions=identity.versions(),
        count=count or min(first.n_blocks, max(LOCAL_SHARDS, _PLANNED * planned)),
        planned_workers=planned,
        block_tiles=first.block_tiles,
        block_tiles_given=given,  # also when it was this machine's memory that made it smaller
    )
    return ShardFolder.claim(path, job), decided


def shard_plan(
    folder: ShardFolder,
    source: Any,
    decided: Decided,
    found: tuple[int, ...],
    to_make: tuple[int, ...],
    *,
    tiff: bool = True,
    sync: bool = False,
) -> ShardPlan:
    """What a run finds and makes in this folder."""
    plan, scratch = decided.plan, None
    if len(plan.passes) > 1:
        scratch = Scratch(folder.path, plan, decided.encoding.pixels, sparse=getattr(source, "sparse", False))
    return ShardPlan(folder.path, folder.job.id, folder.job.count, plan, scratch, found, to_make, tiff, sync)


def counting_from(plan: ShardPlan, callback: Callback) -> Callback:
    """A callback whose tiles include those that were there before."""
    if callback is None:
        return None
    before = plan.n_tiles(plan.found)

    def shifted(snapshot: Progress) -> None:
        if snapshot.stage != "done":
            snapshot = replace(snapshot, tiles_done=snapshot.tiles_done + before)
        callback(snapshot)

    return shifted


def remove_folder(path: str, dest: str | os.PathLike[str]) -> None:
    """Remove a folder of shards that has done its duty, in one step as far as other runs can see."""
    trash = trash_name(dest, secrets.token_hex(4))
    with contextlib.suppress(OSError):
        os.rename(path, trash)
        path = trash
    remove_tree(path)


def trash_name(dest: str | os.PathLike[str], token: str) -> str:
    """The name of a folder of shards beside its destination, while it is being removed."""
    folder, name = os.path.split(os.path.abspath(os.fspath(dest)))
    return os.path.join(folder, f".{name}.{token}.trash")
