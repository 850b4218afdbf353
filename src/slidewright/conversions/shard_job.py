"""The job that shards belong to: made or joined, what a run finds and makes of it, and removed when it has done its
duty.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slidewright.conversions.deciding import decide
from slidewright.errors import OptionError, SlidewrightError
from slidewright.options import ConvertOptions
from slidewright.pyramid.level_store import Scratch
from slidewright.report import Progress
from slidewright.selection import Selection
from slidewright.shards import fingerprint as identity
from slidewright.shards.folder import JOB_FILE, Job, Mark, ShardFolder, has_mark, own_names, remove_own
from slidewright.shards.plan import ShardPlan
from slidewright.system.file_identity import lies_in, same_file
from slidewright.system.files import remove as remove_tree
from slidewright.system.files import rename_new, short_name, token
from slidewright.system.remote_file import absolute

if TYPE_CHECKING:
    from slidewright.engine.run import Run
    from slidewright.report import Recorder
    from slidewright.sources.base import Source
    from slidewright.sources.watched import WatchedFiles
    from slidewright.system.launcher import Launcher

Callback = Callable[[Progress], None] | None

LOCAL_SHARDS = 64  # at least, of a resumed conversion: what a kill costs is at most about a part in so many
SHARDS_A_WORKER = 4  # workers a shard that blocks are balanced for, and shards a worker


def open_job(
    path: str | os.PathLike[str],
    source: Source,
    source_path: str | None,
    watched: WatchedFiles,
    selection: Selection,
    options: ConvertOptions,
    started: float,
    count: int | None = None,
    planned_workers: int | None = None,
    recorder: Recorder | None = None,
    *,
    resume: bool = False,
) -> tuple[ShardFolder, Run]:
    """Make or join the folder of this job. What only decides how work is cut (block size, number of shards) is taken
    from the folder where the caller leaves it open. `watched` are the source's files since it was opened. With `resume`
    the folder is one beside the destination, that the conversion makes for itself. Raises OtherJobError.
    """
    if source_path is not None and (same_file(path, source_path) or lies_in(path, source_path)):
        raise OptionError(f"the folder of shards {os.fspath(path)!r} is the source, or lies in it; choose another")
    there = ShardFolder.open(path).job if os.path.exists(os.path.join(path, JOB_FILE)) else None
    known: dict[str, Any] = {
        "selection": selection.given,
        "source": identity.fingerprint(source, source_path),
        "options": identity.made_options(options),
        "versions": identity.versions(),
    }
    if there is not None:
        there.require(os.path.abspath(os.fspath(path)), known)  # before its block size decides anything
        planned_workers = there.planned_workers
        count = count or there.count
        if options.block_tiles is None:
            options = replace(options, block_tiles=there.block_tiles_given)
    decided = decide(source, options, started, planned_workers, recorder, in_shards=True)
    first, planned = decided.plan.passes[0], planned_workers or decided.memory.n_workers
    given = decided.memory.block_tiles if planned_workers is None else options.block_tiles
    job = Job(
        path=None if source_path is None else absolute(source_path),
        **known,
        keeping=decided.keeping,
        count=count or min(first.n_blocks, max(LOCAL_SHARDS, SHARDS_A_WORKER * planned)),
        planned_workers=planned,
        block_tiles=first.block_tiles,
        block_tiles_given=given,  # also when it was this machine's memory that made it smaller
        resumed=resume,
        changes=watched.changes,
    )
    folder = ShardFolder.claim(path, job)
    if folder.job.resumed and not resume:
        folder.share()
    return folder, decided


def shard_plan(
    folder: ShardFolder,
    decided: Run,
    found: tuple[int, ...],
    to_make: tuple[int, ...],
    *,
    sync: bool = False,
) -> ShardPlan:
    """What a run finds and makes in this folder."""
    plan, levels = decided.plan, None
    if len(plan.passes) > 1:
        sparse = decided.source.info.sparse
        levels = Scratch(folder.path, plan, decided.encoding.pixels, sparse=sparse)
    job = folder.job
    return ShardPlan(folder.path, job.id, job.count, plan, levels, found, to_make, sync, changes=job.changes)


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


def remove_folder(
    path: str,
    mark: Mark | None,
    dest: str | os.PathLike[str],
    launcher: Launcher | None,
    release: Callable[[], None] | None = None,
) -> tuple[str, ...]:
    """Remove a folder of shards that has done its duty, in one step as far as other runs can see; the launcher's fork
    server does, if this process is killed meanwhile. `release` gives up the lock that lies in it, once others can't
    find it any more: NFS keeps what is open, and with it the folder. What others have put there stays, and so does a
    link to a folder elsewhere, with that folder, and a folder from which nothing may be removed. Another folder than
    that of the `mark` stays as well, and the answer is a warning.
    """
    try:
        if not os.path.exists(path):
            return ()
        if not has_mark(path, mark):
            return (_left_alone(path),)
        own, alone = own_names(path)
    except OSError:  # it is gone, or can't be read: nothing more can be done
        return ()
    if not alone or os.path.islink(path) or not os.access(path, os.W_OK):
        remove_own(path, own)
        return ()
    trash = trash_name(dest, token())
    if launcher is not None:
        with contextlib.suppress(SlidewrightError):  # the fork server has gone, and the file is complete
            launcher.own(trash)
    try:
        if _moved(path, trash):
            if not has_mark(trash, mark):  # it has come since the look at it
                return (_left_alone(path if _moved(trash, path) else trash),)
            path = trash
            if release is not None:
                release()
            with contextlib.suppress(OSError):
                remove_tree(trash)
        elif has_mark(path, mark):
            remove_own(path, own)  # the name is kept: a kill must leave what is a folder of shards
            with contextlib.suppress(OSError):
                os.rmdir(path)
    except BaseException:  # Ctrl-C: the file is complete, and nobody looks for what has this name
        if has_mark(trash, mark):
            remove_tree(trash)
        raise
    return ()


def _moved(path: str, to: str) -> bool:
    """Rename a folder, where nothing has the other name."""
    with contextlib.suppress(OSError):
        rename_new(path, to)
        return True
    return False


def _left_alone(path: str) -> str:
    return (
        f"the folder of shards {path!r} is left alone: it is another than this run used, which was renamed or replaced "
        "meanwhile; remove that one yourself if it is still there"
    )


def trash_name(dest: str | os.PathLike[str], unique: str) -> str:
    """The name of a folder of shards beside its destination, while it is being removed."""
    folder, name = os.path.split(os.path.abspath(os.fspath(dest)))
    return os.path.join(folder, f".{short_name(name)}.{unique}.trash")
