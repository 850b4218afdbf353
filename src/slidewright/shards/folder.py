"""A folder of shards: what job they belong to, where each lies, which are there and whole.

The folder is all that the processes of an array job, a resumed run or a Dask cluster share. The first of them writes
`job.json`; every other compares itself with that, so shards of different sources or options never meet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np

from slidewright.errors import OptionError, ShardError, SourceError, without_keys
from slidewright.options import OPTIONS, SELECTION
from slidewright.pyramid.block_files import BlockFiles
from slidewright.pyramid.plan import Key, Plan
from slidewright.shards import fingerprint as identity
from slidewright.shards.file import ShardDamageError, ShardIndex, check_segments, read_index, read_segment
from slidewright.shards.schema import Within, read_as
from slidewright.system.files import new_file, regular, remove, token
from slidewright.system.json_file import parse_json
from slidewright.system.remote_file import is_url

JOB_FILE = "job.json"
_SHARED_FILE = "shared.json"
_VERSION = 4
_MAX_JOB_BYTES = 64 << 20  # a palette may be long
MAX_SHARDS = 100_000
_UNFINISHED = r"\.[0-9a-f]{16}\.partial"
_CHUNKS = rf"/zarr\.json|/\.zarr\.json{_UNFINISHED}|/c(/\d+){{0,2}}|/c(/\d+){{3}}({_UNFINISHED})?"
_OWN = re.compile(
    r"job\.json|finished\.json|shared\.json|lock|shard-\d+-of-\d+"
    rf"|files(/\d+(/c)?(/\d+)*)?|level-\d+\.zarr({_CHUNKS})?"
)
_PARTIAL = re.compile(r"\.?(job\.json|finished\.json|shard-\d+-of-\d+(\.files)?)" + _UNFINISHED)
_COMPARED = ("selection", "source", "options", "versions", "count", "block_tiles", "keeping")


def share(n_blocks: int, index: int, count: int) -> range:
    """The numbers of the blocks in shard `index` of `count`: equal shares, but for one block; empty when there are
    more shards than blocks.
    """
    return range(n_blocks * index // count, n_blocks * (index + 1) // count)


def share_of(n_blocks: int, number: int, count: int) -> int:
    """The shard, of `count`, that a block is in: the inverse of `share`."""
    return ((number + 1) * count - 1) // n_blocks


@dataclass(frozen=True, slots=True)
class Job:
    """What all shards of a folder have in common, as JSON holds it."""

    path: str | None
    """The source's path where the folder was made; None for a source without one. Not compared."""
    selection: dict[str, Any]
    """page, series, level: those that were given."""
    source: dict[str, Any]
    """`identity.fingerprint` of the source."""
    options: dict[str, Any]
    versions: dict[str, str]
    count: Annotated[int, Within(1, MAX_SHARDS)]
    """Number of shards."""
    planned_workers: Annotated[int, Within(1, 1 << 32)]
    """What the plan's block size was balanced for."""
    block_tiles: Annotated[int, Within(1, 1 << 32)]
    """The resulting block side of the first pass."""
    block_tiles_given: Annotated[int, Within(1, 1 << 32)] | None
    """The block side that was asked for, if any."""
    keeping: str = ""
    """What becomes of the source's own tiles: another way to read the source may not have them."""
    resumed: bool = False
    """Whether a conversion with `resume` made the folder, for itself. Not compared."""
    changes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """`WatchedFiles.changes` of the source where the folder was made. Not compared."""

    @property
    def id(self) -> str:
        """A name that differs when anything does that matters."""
        return hashlib.sha256(json.dumps(self.compared(), sort_keys=True).encode()).hexdigest()[:16]

    def compared(self) -> dict[str, Any]:
        """What must be the same for all shards of a folder."""
        return {name: getattr(self, name) for name in _COMPARED}

    def require(self, folder: str, here: Mapping[str, Any]) -> None:
        """Hold some of what must be the same against a run of this process; raises OtherJobError."""
        different = identity.differences({name: getattr(self, name) for name in here}, here)
        if different:
            raise OtherJobError(folder, self, different)

    def command(self, folder: str, index: int) -> str:
        """The command that makes one shard."""
        words = ["slidewright", "shard", self.path or "SRC", folder, "--index", str(index), "--count", str(self.count)]
        table = {**SELECTION, **OPTIONS}
        for name, value in {**self.selection, **identity.options_from(self.options)}.items():
            words += table[name].arguments(value)
        return shlex.join(words)


class OtherJobError(ShardError):
    """A folder of shards belongs to another `job`; `different` says how."""

    def __init__(self, folder: str, job: Job, different: list[str]) -> None:
        self.job, self.different = job, "; ".join(different)
        super().__init__(
            f"the shards in {folder!r} are of another job: {self.different}. "
            "Give the same source and options, or remove the folder to start again"
        )


class Mark(NamedTuple):
    """What tells a folder of shards from all others, whatever their names."""

    device: int
    number: int
    said: str
    """A hash of its job; "" where there is none, or it can't be read."""


def mark_of(path: str) -> Mark | None:
    """The mark of what has this name now; None where nothing does, or the disk does not tell."""
    try:
        status, said = os.stat(path), ""
        with (
            contextlib.suppress(OSError),
            open(os.path.join(path, JOB_FILE), "rb", opener=regular) as file,
        ):
            said = hashlib.sha256(file.read(_MAX_JOB_BYTES)).hexdigest()
    except OSError:
        return None
    return Mark(status.st_dev, status.st_ino, said)


def has_mark(path: str, mark: Mark | None) -> bool:
    """Whether a folder of shards is the one of a mark, whose job may have been removed since, or not be readable."""
    now = mark_of(path)
    if now is None or mark is None or now[:2] != mark[:2]:
        return False
    return now.said == mark.said or "" in (now.said, mark.said)


class ShardFolder:
    """A folder that belongs to one job."""

    def __init__(self, path: str, job: Job, mark: Mark | None = None) -> None:
        self.path, self.job = path, job
        self.mark = mark
        """What tells it from others that may come under its name."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> ShardFolder:
        """An existing folder; raises SourceError when it is none, ShardError when it is damaged."""
        path = os.path.abspath(os.fspath(path))
        mark = mark_of(path)
        try:
            with open(os.path.join(path, JOB_FILE), encoding="utf-8", opener=regular) as file:
                data = parse_json(file.read(_MAX_JOB_BYTES))
            if not isinstance(data, dict):
                raise ValueError("it is no object")
            if data.pop("version", None) != _VERSION:
                raise ShardError(f"{path!r} was made by another version of slidewright; make the shards again")
            return cls(path, read_as(Job, data), mark)
        except FileNotFoundError:
            raise SourceError(f"{path!r} is not a folder of shards (it has no {JOB_FILE}); check the path") from None
        except (OSError, ValueError) as error:
            raise ShardError(
                f"{os.path.join(path, JOB_FILE)!r} can't be read ({error}); make the shards again"
            ) from error

    @classmethod
    def claim(cls, path: str | os.PathLike[str], job: Job) -> ShardFolder:
        """The folder for a job: made if it is not there, compared if it is.

        Raises
        ------
        OtherJobError
            When it belongs to another job; the message says what differs.
        OptionError
            When it can't be made, or has things of others under the names that shards would get.
        """
        if is_url(path):
            raise OptionError(f"the folder of shards {path!r} is a URL; shards are files that all machines see")
        path = os.path.abspath(os.fspath(path))
        file = os.path.join(path, JOB_FILE)
        try:
            os.makedirs(path, exist_ok=True)
            if not os.path.exists(file):
                _refuse_others(path)
                text = json.dumps({"version": _VERSION, **dataclasses.asdict(job)}, indent=1)
                secret = job.path is not None and without_keys(job.path) != job.path
                _write_once(file, text, 0o600 if secret else 0o666)
        except OSError as error:
            raise OptionError(f"can't make the folder of shards {path!r}: {error.strerror or error}") from error
        there = cls.open(path)
        there.job.require(path, job.compared())
        return there

    def share(self) -> None:
        """Note that other commands than the conversion that made the folder for itself use it as well."""
        with contextlib.suppress(OSError), open(self._shared, "xb", opener=new_file):
            pass

    @property
    def is_private(self) -> bool:
        """Whether none but conversions with `resume` have used it."""
        return self.job.resumed and not os.path.lexists(self._shared)

    @property
    def _shared(self) -> str:
        return os.path.join(self.path, _SHARED_FILE)

    def shard_path(self, index: int) -> str:
        """Where a shard lies."""
        return os.path.join(self.path, shard_name(index, self.job.count))

    def index_of(self, index: int, plan: Plan) -> ShardIndex:
        """The index of a shard, after checks that it is this job's and complete; raises ShardDamageError or
        FileNotFoundError.
        """
        found = read_index(self.shard_path(index))
        footer = found.footer
        if (footer.job, footer.index, footer.count) != (self.job.id, index, self.job.count):
            raise ShardDamageError("it is of another job")
        first = plan.passes[0]
        numbers = share(first.n_blocks, index, self.job.count)
        due = np.array(sorted(key for number in numbers for key in plan.tiles_of(first.block(number))), "<u4")
        if len(found.keys) != len(due):
            raise ShardDamageError("segments are missing in it")
        if len(due) and not np.array_equal(found.keys[np.lexsort(found.keys.T[::-1])], due):
            raise ShardDamageError("its segments are not those that belong in it")
        if not all(number in numbers for number in found.chunks) or (found.chunks and len(plan.passes) == 1):
            raise ShardDamageError("its chunks are not those that belong to it")
        return found

    def problem(
        self, index: int, plan: Plan, scratch: Any, files: BlockFiles | None = None, *, deep: bool
    ) -> str | None:
        """What is wrong with a shard, its scratch chunks and its `files`, or None; `deep` reads every segment."""
        try:
            found = self.index_of(index, plan)
            if files is not None:
                for key, receipt in self._receipts(index, found, files):
                    if problem := files.problem(key, receipt, deep=deep):
                        return f"damaged: {problem}"
            if not _has_chunks(scratch, plan, found):
                return "a chunk of its reduced level is missing or damaged"
            if deep:
                check_segments(self.shard_path(index), found)
        except FileNotFoundError:
            return "missing"
        except (ShardDamageError, ShardError) as error:
            return f"damaged: {error}"
        except OSError as error:
            return f"can't be read: {error.strerror or error}"
        return None

    def nbytes(self, index: int, plan: Plan, files: BlockFiles | None) -> int:
        """Bytes of a shard, with the segments in its files."""
        try:
            nbytes = os.path.getsize(self.shard_path(index))
            if files is not None:
                found = self.index_of(index, plan)
                nbytes += sum(files.nbytes(receipt) for _, receipt in self._receipts(index, found, files))
        except OSError as error:
            raise ShardError(
                f"{self.shard_path(index)} is done and can't be read again ({error}); see to its disk"
            ) from error
        return nbytes

    def _receipts(self, index: int, found: ShardIndex, files: BlockFiles) -> Iterator[tuple[Key, bytes]]:
        """Key and receipt of each file that belongs to a shard."""
        with open(self.shard_path(index), "rb", opener=regular) as file:
            for row, place in zip(found.keys.tolist(), found.places.tolist(), strict=True):
                key: Key = tuple(row)
                if files.has_receipt(key):
                    yield key, read_segment(file.fileno(), *place)

    def require(self, plan: Plan, scratch: Any, files: BlockFiles | None = None, *, deep: bool = False) -> None:
        """Raise a ShardError that names every shard that is not there and whole, and the command that makes it."""
        problems = {}
        for index in range(self.job.count):
            problem = self.problem(index, plan, scratch, files, deep=deep)
            if problem is not None:
                problems[index] = problem
        if problems:
            raise self.incomplete(problems)

    def incomplete(self, problems: dict[int, str]) -> ShardError:
        """The error about missing or damaged shards."""
        missing = [index for index, problem in problems.items() if problem == "missing"]
        parts = [f"missing: {_ranges(missing)}"] if missing else []
        parts += [f"shard {index}: {problem}" for index, problem in problems.items() if problem != "missing"][:8]
        first, *others = problems
        more = f" and so on for --index {_ranges(others)}" if others else ""
        return ShardError(
            f"{len(problems)} of {self.job.count} shards in {self.path!r} can't be used ({'; '.join(parts)}). "
            f"Make them: {self.job.command(self.path, first)}{more}; "
            f"in an array job with --array --count {self.job.count}: the tasks {_ranges(sorted(problems))}"
        )


def _has_chunks(scratch: Any, plan: Plan, found: ShardIndex) -> bool:
    """Whether the chunks of a shard are there and whole."""
    try:
        return all(scratch.chunk_crc(plan.passes[0].block(number)) == crc for number, crc in found.chunks.items())
    except OSError as error:
        if error.errno != errno.EIO:  # which one that does not match its own checksum has as well
            raise
        return False


def shard_name(index: int, count: int) -> str:
    """The file name of a shard."""
    return f"shard-{index:05}-of-{count:05}"


def sweep_partials(folder: str, name: str = "") -> None:
    """Remove what killed tasks left of shards whose name begins with `name`."""
    with contextlib.suppress(OSError):
        for found in os.listdir(folder):
            if found.startswith(name) and _PARTIAL.fullmatch(found):
                remove(os.path.join(folder, found))


def is_own(name: str) -> bool:
    """Whether a name in a folder of shards, or one in the folders there ("files/0/2/3"), is one that they have."""
    return bool(_OWN.fullmatch(name) or _PARTIAL.fullmatch(name))


def own_names(folder: str) -> tuple[list[str], bool]:
    """What in a folder of shards belongs to them, what the others depend on last; and whether that is all of it."""
    names = os.listdir(folder)
    own = [name for name in names if is_own(name)]
    alone = len(own) == len(names) and all(_all_own(folder, name) for name in own)
    return sorted(own, key=lambda name: (name == JOB_FILE, name.endswith(".json"))), alone


def remove_own(folder: str, names: Sequence[str]) -> None:
    """Remove what has `own_names` in a folder of shards; what others have put into a folder of them stays, with that.
    Where a disk fails what tells that they are shards stays as well.
    """
    said = [name for name in names if name.endswith(".json")]
    others = [name for name in names if name not in said]
    for name in others:
        _remove_own(folder, name)
    if not any(_any_own(folder, name) for name in others):
        for name in said:
            _remove_own(folder, name)


def _remove_own(folder: str, name: str) -> None:
    if not is_own(name):
        return
    inside = _inside(folder, name)
    if inside is None:
        remove(os.path.join(folder, name))
        return
    for each in inside:
        _remove_own(folder, each)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(folder, name))


def _all_own(folder: str, name: str) -> bool:
    """Whether what has a name in a folder of shards, and all in it, belongs to them."""
    return is_own(name) and all(_all_own(folder, each) for each in _inside(folder, name) or ())


def _any_own(folder: str, name: str) -> bool:
    """Whether what has a name in a folder of shards is there and no folder, or something in it belongs to them."""
    inside = _inside(folder, name)
    if inside is None:
        return is_own(name) and os.path.lexists(os.path.join(folder, name))
    return any(_any_own(folder, each) for each in inside)


def _inside(folder: str, name: str) -> list[str] | None:
    """The names of what is in a folder of a folder of shards; None of a file, a link, and what is one task's alone."""
    path = os.path.join(folder, name)
    if _PARTIAL.fullmatch(name) or os.path.islink(path) or not os.path.isdir(path):
        return None
    try:
        return [f"{name}/{each}" for each in os.listdir(path)]
    except OSError:  # what can't be read can't be removed either
        return []


def _refuse_others(path: str) -> None:
    """Refuse a folder that has no job, and things under the names that its shards would get."""
    taken = [name for name in os.listdir(path) if _OWN.fullmatch(name)]
    if taken and not os.path.exists(os.path.join(path, JOB_FILE)):  # or another task has begun the job meanwhile
        raise OptionError(
            f"{path!r} is no folder of shards (it has no {JOB_FILE}), and what is {taken[0]!r} in it would be lost; "
            "choose another"
        )


def _write_once(path: str, text: str, mode: int) -> None:
    """Write a file that appears whole, unless another process was first; `mode` is as the user's mask leaves it."""
    own = f"{path}.{token()}.partial"
    try:
        with open(own, "w", encoding="utf-8", opener=partial(new_file, mode=mode)) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not take the one file that all shards depend on
        try:
            os.link(own, path)
        except FileExistsError:
            pass
        except OSError:  # a filesystem without hard links: the last of several equal ones wins
            os.replace(own, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(own)


def _ranges(numbers: Sequence[int] | Iterable[int]) -> str:
    """Numbers as array jobs take them: "3,7-9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
