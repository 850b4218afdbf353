"""A conversion that a kill at any moment can't undo: it keeps shards beside its destination until that is complete.

One run of the engine: its writer logs segments into shards while it writes the file, and takes them from shards that an
earlier try left. With a Dask cluster the shards are made there first.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from slidewright.conversions.conversion import Conversion, make_destination, watch
from slidewright.conversions.destination import Compare, folder_beside, note_named, sweep_beside
from slidewright.conversions.shard_job import counting_from, open_job, remove_folder, shard_plan
from slidewright.errors import DestinationError, OptionError, OutputError, ShardError
from slidewright.formats.registry import make_format
from slidewright.options import ConvertOptions
from slidewright.report import Progress, Report
from slidewright.selection import Selection
from slidewright.shards.fingerprint import fingerprint, versions
from slidewright.shards.folder import JOB_FILE, OtherJobError, ShardFolder, has_mark, mark_of, sweep_partials
from slidewright.shards.plan import ShardPlan
from slidewright.sources.on_disk import file_identity, status_of
from slidewright.sources.wrappers.fill import describe_corrupt
from slidewright.system.file_identity import same_file
from slidewright.system.file_lock import FileLock, is_abandoned
from slidewright.system.files import regular, total_bytes, write_whole
from slidewright.system.json_file import parse_json
from slidewright.system.limits import usable_cpus
from slidewright.system.thread_pool import ThreadPool

_LOCK, _FINISHED = "lock", "finished.json"

if TYPE_CHECKING:
    from slidewright.engine.run import Run
    from slidewright.report import Recorder
    from slidewright.sources.base import CorruptPlace, Source
    from slidewright.system.launcher import Launcher

Callback = Callable[[Progress], None] | None


def convert_resumably(
    launcher: Launcher | None,
    source: Source,
    source_path: str | None,
    dest: str | os.PathLike[str],
    selection: Selection,
    options: ConvertOptions,
    callback: Callback,
    started: float,
    recorder: Recorder | None = None,
    compare: Compare = False,
) -> Report:
    """Convert, keeping finished shards beside the destination until it is complete; with engine="dask" the cluster's
    workers make them.
    """
    path, watched = folder_beside(dest), watch(source, source_path)
    sweep_beside(dest)
    with contextlib.ExitStack() as stack:
        fresh, said = not os.path.exists(os.path.join(path, JOB_FILE)), tuple[str, ...]()
        refuse = functools.partial(_refuse, dest, options, source, source_path, compare)
        if fresh:  # a destination that is refused must not leave a folder
            refuse()
        cluster = _connect(stack, options, source_path)
        planned = None if cluster is None else cluster.n_threads
        join = functools.partial(
            open_job,
            *(path, source, source_path, watched, selection, options, started),
            planned_workers=planned,
            recorder=recorder,
            resume=True,
        )
        try:
            folder, decided = join()
        except OtherJobError as error:
            refuse()  # nor lose one
            said = (_start_again(path, dest, source, source_path, launcher, error),)
            folder, decided = join()
            fresh = True
        lock = _lock(path)
        stack.callback(lock.release)
        if ShardFolder.open(path).job != folder.job:  # another run has started again
            raise _at_work(path)
        finished = None if fresh else _finished_before(folder, dest, options, decided)
        if finished is None:
            sweep_partials(path)
            with Conversion(decided, dest, options, source_path, compare, watched=watched) as conversion:
                plan = _survey(folder, decided, fresh=fresh)
                if cluster is not None and source_path is not None and plan.to_make:
                    cluster.make_shards(folder, plan, source_path, selection, options, callback, started)
                    plan = _survey(folder, decided, fresh=False)
                finished = conversion.run(
                    launcher,
                    counting_from(plan, callback),
                    plan,
                    lambda partial: _note_finished(folder, partial, options),
                )
        left = remove_folder(path, folder.mark, dest, launcher, lock.release)
    return replace(finished, warnings=(*said, *finished.warnings, *left))


def _refuse(
    dest: str | os.PathLike[str], options: ConvertOptions, source: Source, source_path: str | None, compare: Compare
) -> None:
    """Raise what there is to say against a destination."""
    make_destination(dest, options, make_format(options), source, source_path, compare).close()


def _start_again(
    path: str,
    dest: str | os.PathLike[str],
    source: Source,
    source_path: str | None,
    launcher: Launcher | None,
    error: OtherJobError,
) -> str:
    """Remove the shards of another job, which would stand in the way for ever, and say so: an earlier try at the same
    destination made them for itself, of the same source as that was then, or with another version. Raises the error
    where they are another source's, or the options alone are others, which may be a slip; where other commands have
    used them, or a process may be at work on them.
    """
    there, held = error.job, os.path.join(path, _LOCK)
    if there.versions == versions() and there.source == fingerprint(source, source_path):
        raise error
    if there.path is None or source_path is None:  # an object, of which nobody knows what it was then
        same = there.path == source_path and there.source == fingerprint(source, source_path)
    else:
        same = same_file(there.path, source_path)
    if not (same and ShardFolder(path, there).is_private and (is_abandoned(held) or not os.path.lexists(held))):
        raise error
    lock = _lock(path)
    try:
        now = ShardFolder.open(path)
        if now.job != there or not now.is_private:
            raise _at_work(path)
        remove_folder(path, now.mark, dest, launcher, lock.release)
    finally:
        lock.release()
    return f"what an earlier try left in {path!r} was removed, as it is of no use to this one: {error.different}"


def _connect(stack: contextlib.ExitStack, options: ConvertOptions, source_path: str | None) -> Any:
    """The Dask cluster that was asked for, or None."""
    if options.engine != "dask":
        return None
    if source_path is None:
        raise OptionError(
            "a Dask cluster reads files, not objects of this process; save them to a file all workers see"
        )
    from slidewright.conversions.dask import connect

    return stack.enter_context(connect(options.dask))


def _survey(folder: ShardFolder, decided: Run, *, fresh: bool) -> ShardPlan:
    """Which shards are there and whole, to the last byte, and which are to be made."""
    indices = range(folder.job.count)
    plan = shard_plan(folder, decided, (), tuple(indices))
    if fresh:
        return plan
    files = decided.format.by_blocks(plan.files).block_files(None, decided.image)
    with ThreadPool(min(8, usable_cpus()), "slidewright-check") as pool:
        check = pool.map(lambda index: folder.problem(index, decided.plan, plan.levels, files, deep=True), indices)
        whole = [problem is None for problem in check]
    found = tuple(index for index in indices if whole[index])
    return replace(plan, found=found, to_make=tuple(index for index in indices if not whole[index]))


def _lock(path: str) -> FileLock:
    """The lock of a resumable conversion; raises DestinationError when another process has it."""
    try:
        return FileLock(os.path.join(path, _LOCK), wait=False)
    except BlockingIOError:
        raise _at_work(path) from None
    except OSError as error:
        raise DestinationError(
            f"can't lock {os.path.join(path, _LOCK)!r}: {error.strerror}; remove that folder"
        ) from error


def _at_work(path: str) -> DestinationError:
    return DestinationError(f"another process is at work in {path!r}; wait for it, or end it")


def _note_finished(folder: ShardFolder, partial: str, options: ConvertOptions) -> None:
    """Record which file is about to get the final name, for a run that is killed right after; but not among shards of
    another job, which would be removed then.
    """
    path = folder.path
    if not has_mark(path, folder.mark):
        return
    try:
        write_whole(os.path.join(path, _FINISHED), json.dumps(_seen(partial, options)).encode(), sync=True)
    except OSError as error:
        raise OutputError(f"can't write into {path!r}: {error.strerror or error}; check that disk") from error


def _seen(path: str | os.PathLike[str], options: ConvertOptions) -> list[Any]:
    """What tells a file, or a store with all in it, from others, under whatever name: its number alone may be that of
    one which was removed. With what tells the label image in it, which is no part of the shards.
    """
    seen = status_of(os.fspath(path)) or ()
    label = [] if options.label is None else [file_identity(os.fspath(options.label))]
    return [os.stat(path).st_ino, *seen, *label]


def _made(path: str, dest: str | os.PathLike[str], options: ConvertOptions) -> bool:
    """Whether the file is the one that the shards in a folder were for, see `_note_finished`."""
    try:
        with open(os.path.join(path, _FINISHED), encoding="ascii", opener=regular) as file:
            return bool(parse_json(file.read(4096)) == _seen(dest, options))
    except (OSError, ValueError):
        return False


def remove_finished(dest: str | os.PathLike[str], options: ConvertOptions) -> None:
    """Remove the shards that a run could not remove, or was killed before it did, though its file is complete."""
    path = folder_beside(dest)
    mark = mark_of(path)
    if not (os.path.exists(os.path.join(path, JOB_FILE)) and _made(path, dest, options)):
        return
    with contextlib.suppress(DestinationError):  # another process is at it
        lock = _lock(path)
        try:
            remove_folder(path, mark, dest, None, lock.release)
        finally:
            lock.release()


def _finished_before(
    folder: ShardFolder, dest: str | os.PathLike[str], options: ConvertOptions, decided: Run
) -> Report | None:
    """The report of a file that was complete when its run was killed; None when it was not."""
    if not _made(folder.path, dest, options):
        return None
    note_named(dest)
    decided.format.named(os.path.realpath(dest))  # before which the run may have been killed
    levels = decided.format.levels(os.fspath(dest))
    corrupt: dict[CorruptPlace, str] = {}
    with contextlib.suppress(ShardError):  # killed while the shards were removed
        corrupt = shard_plan(folder, decided, tuple(range(folder.job.count)), ()).found_corrupt()
    kept = decided.image.kept
    said = (describe_corrupt(corrupt, kept=kept is not None and kept.corrupt),) if corrupt else ()
    report = Report(str(Path(dest)), levels, total_bytes(dest), monotonic() - decided.started, 0, 0, 0, None)
    return replace(report, warnings=said, corrupt_tiles=len(corrupt))
