"""Shards on the workers of a Dask cluster; apart because Dask is an extra.

A task is one call of `slidewright.shard` in the worker's own process. Dask decides where tasks run, and runs those of
lost workers again, which does no harm: a shard is there whole or not at all. What all workers share is a filesystem.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from slidewright.errors import OptionError, RunError, SlidewrightError, SourceError
from slidewright.options import ConvertOptions
from slidewright.report import Progress
from slidewright.selection import Selection
from slidewright.shards import fingerprint as identity
from slidewright.shards.folder import ShardFolder
from slidewright.shards.plan import ShardPlan
from slidewright.system.remote_file import absolute, is_url

_CONNECT_SECONDS = 15
_LOOK_SECONDS = 1.0  # between looks at whether there are workers, while no shard is done
_RESULT_SECONDS = 10.0  # for the few bytes that a task gives, before the same look
_WORKERLESS_SECONDS = 3600.0  # a batch system, or a cloud, may take its time until it starts any
_CLOSED = ("closing", "closed")  # what `distributed.Client.status` says of one that is of no use any more
WAITING = "waiting for Dask workers"
"""The stage of a run on a cluster that has none."""
_LOST = (
    "the Dask client was closed, or lost its scheduler, before the shards were done; those that are done are kept: "
    "run again with a client that is open"
)
_SHARED = "source and destination must lie on a filesystem that every Dask worker sees under the same path"


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Dask cluster that this process is a client of."""

    client: Any

    @property
    def n_threads(self) -> int:
        """Tasks that the workers there are now run at a time; at least 1."""
        return max(1, sum(int(n) for n in self.client.nthreads().values()))

    def make_shards(
        self,
        folder: ShardFolder,
        plan: ShardPlan,
        source: str,
        selection: Selection,
        options: ConvertOptions,
        callback: Callable[[Progress], None] | None,
        started: float,
    ) -> None:
        """Have the cluster make the shards of `plan.to_make`, and wait for them.

        Raises
        ------
        RunError
            When workers don't see source or shards, die over and over on one shard, or none has been there for long;
            when the client is closed.
        SlidewrightError
            What failed in a task.
        """
        source = absolute(source)
        with self._open():
            self._probe(source, folder.path)
            made = identity.made_options(options)
            futures = {
                self.client.submit(
                    _make_shard, source, folder.path, index, plan.count, selection, made,
                    key=f"slidewright-shard-{index}-{secrets.token_hex(4)}", pure=False,
                ): index
                for index in plan.to_make
            }  # fmt: skip
            try:
                self._follow(futures, plan, callback, started)
            finally:
                if self.client.status not in _CLOSED:
                    self.client.cancel(list(futures), force=True)

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        """What a closed client's calls raise, of which each has its own, becomes a RunError."""
        try:
            yield
        except Exception as error:
            if self.client.status not in _CLOSED:
                raise
            raise RunError(_LOST) from error

    def _follow(
        self,
        futures: dict[Any, int],
        plan: ShardPlan,
        callback: Callable[[Progress], None] | None,
        started: float,
    ) -> None:
        from distributed import CancelledError, KilledWorker
        from distributed.comm import CommClosedError

        total, pixels = plan.plan.n_tiles, plan.plan.n_pixels
        tiles, nbytes = plan.n_tiles(plan.found), 0

        def tell(stage: str, workers: int) -> None:
            if callback is not None:
                share, seconds = round(pixels * tiles / total), monotonic() - started
                callback(Progress(tiles, total, share, pixels, nbytes, seconds, workers, 0, stage))

        workers = _Workers(self.client, lambda: tell(WAITING, 0))
        for future in self._completed(futures, workers):
            try:
                done = workers.result(future)
            except KilledWorker as error:
                raise RunError(
                    f"Dask workers died over and over on shard {futures[future]} of {plan.count}: {error}; "
                    "look at their logs, and give them more memory"
                ) from error
            except SlidewrightError:
                raise
            except (CancelledError, CommClosedError) as error:  # before the client's status says so
                raise RunError(_LOST) from error
            except Exception as error:
                raise RunError(
                    f"shard {futures[future]} failed on the cluster: {type(error).__name__}: {error}"
                ) from error
            tiles, nbytes = tiles + done[0], nbytes + done[1]
            tell("encoding", 0 if callback is None else self.n_threads)

    def _completed(self, futures: Iterable[Any], workers: _Workers) -> Iterator[Any]:
        """Futures as they are done; raises RunError as `_Workers.look` does."""
        from distributed import as_completed

        completed = as_completed(futures, loop=self.client.loop)
        while not completed.is_empty():
            if completed.has_ready():
                yield next(completed)
                workers.seen = monotonic()
            elif monotonic() - workers.looked < _LOOK_SECONDS:
                sleep(0.02)
            else:
                workers.look()

    def _probe(self, source: str, folder: str) -> None:
        """Ask the workers there are now whether they see what they need; those that come later find out themselves."""
        probe = os.path.join(folder, f"probe-{secrets.token_hex(4)}")
        size = 0 if is_url(source) else os.path.getsize(source)
        with open(probe, "x", encoding="ascii"):
            pass
        try:
            answers = self.client.run(_look, source, size, probe, on_error="return")
        except OSError as error:
            raise RunError(f"the Dask scheduler does not answer any more ({error}); run again when it does") from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(probe)
        for problem in answers.values():
            if isinstance(problem, ModuleNotFoundError):
                raise RunError(
                    f"the Dask workers lack {problem.name!r}; install slidewright there, of the same version"
                ) from problem
        # From one that has just died comes an OSError; its shards go to others.
        told = {worker: problem for worker, problem in answers.items() if not isinstance(problem, OSError)}
        blind = [f"{worker} {problem}" for worker, problem in told.items() if problem is not None]
        if blind:
            raise RunError(
                f"{len(blind)} of {len(answers)} Dask workers can't take part: {'; '.join(blind[:4])}; {_SHARED}"
            )


class _Workers:
    """Whether the cluster has any; `waiting` is called now and then while it has none at all."""

    def __init__(self, client: Any, waiting: Callable[[], None]) -> None:
        import dask

        given = dask.config.get("distributed.scheduler.no-workers-timeout", None)
        self._patience = _WORKERLESS_SECONDS if given is None else dask.utils.parse_timedelta(given)
        self._client, self._waiting = client, waiting
        self.seen = self.looked = monotonic()

    def look(self) -> None:
        """Look now.

        Raises
        ------
        RunError
            When it has had none for as long as Dask's `distributed.scheduler.no-workers-timeout` says, or an hour.
        """
        self.looked = monotonic()
        with contextlib.suppress(OSError):  # the scheduler is gone, which the futures will tell
            self.seen = self.looked if self._client.nthreads() else self.seen
        if self.seen < self.looked:
            self._waiting()
        if self.looked - self.seen > self._patience:
            raise RunError(
                f"the Dask cluster at {self._client.scheduler.address} has had no worker for {self._patience:g} s; "
                "start some and run again, or have it wait longer: set "
                "distributed.scheduler.no-workers-timeout in Dask's configuration"
            )

    def result(self, future: Any) -> Any:
        """What a task has given, or raised: its worker may be gone with it, and then another does it again."""
        while True:
            try:
                return future.result(timeout=_RESULT_SECONDS)
            except TimeoutError:
                if future.status == "error":
                    raise
                self.look()


@contextlib.contextmanager
def connect(where: object) -> Iterator[Cluster]:
    """A cluster, by its scheduler's address, a `distributed.Client` or Dask's configuration.

    Raises
    ------
    OptionError
        When Dask is not installed, nothing says where the scheduler is, or the client is asynchronous or closed.
    RunError
        When the scheduler does not answer.
    """
    try:
        import dask
        import distributed
    except ImportError as error:
        raise OptionError('engine="dask" needs Dask; install it with: pip install "slidewright[dask]"') from error
    if isinstance(where, distributed.Client):
        if where.asynchronous:
            raise OptionError(
                "the Dask client is asynchronous, and a conversion waits for its answers: give the scheduler's address "
                "(client.scheduler.address), or call this in another thread (await asyncio.to_thread(...))"
            )
        if where.status in _CLOSED:
            raise OptionError(
                "the Dask client is closed; give one that is open, or the scheduler's address (tcp://HOST:8786)"
            )
        yield Cluster(where)
        return
    address = where or dask.config.get("scheduler-address", None)
    if not isinstance(address, str):
        raise OptionError(
            'engine="dask" needs the address of a scheduler: dask="tcp://HOST:8786" (--dask), or a Client'
        )
    try:
        client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise RunError(f"no Dask scheduler answers at {address!r} ({error}); check the address") from error
    with client:
        yield Cluster(client)


def _look(source: str, size: int, probe: str) -> str | None:
    """In a worker: what it does not see, or None. Behind a URL it will find out when it opens it."""
    if not is_url(source):
        if not os.path.exists(source):
            return f"does not see the source {source}"
        if os.path.getsize(source) != size and not os.path.isdir(source):
            return f"sees another file as the source {source}"
    if not os.path.exists(probe):
        return f"does not see the folder {os.path.dirname(probe)}"
    if not os.access(os.path.dirname(probe), os.W_OK):
        return f"may not write into {os.path.dirname(probe)}"
    return None


def _make_shard(
    source: str, folder: str, index: int, count: int, selection: Selection, made: dict[str, Any]
) -> tuple[int, int]:
    """In a worker: one shard, in this very process; its tiles and bytes."""
    import cv2

    from slidewright.conversions.shard import shard

    cv2.setNumThreads(1)
    for path in (source, folder):
        if not is_url(path) and not os.path.exists(path):
            raise SourceError(f"the Dask worker on {socket.gethostname()} does not see {path}; {_SHARED}")
    given: dict[str, Any] = {**selection.given, **identity.options_from(made), "n_workers": 0}
    report = shard(source, folder, index=index, count=count, **given)
    return report.tiles, report.bytes
