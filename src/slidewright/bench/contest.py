"""Programs that make the same pyramid, as whole processes in turns: medians, spread, memory, ratios, fairness.

Turns, because a machine that grows slower in the middle then does so for everybody. Ours is always measured, and its
output is what the others' outputs are compared with.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slidewright.bench.limit import run_limits
from slidewright.bench.measure import Extent, Ran, machine, run_tree, warm
from slidewright.bench.outputs import Output, describe, differences
from slidewright.bench.peers import Peer, Task, find_peers
from slidewright.errors import OptionError, RunError, SourceError
from slidewright.pyramid.level_store import ScratchFolder

OURS = "slidewright"
EFFORTS = {"deflate": 6, "zstd": 3}
"""Efforts, said to everybody: programs have defaults of their own."""
SHARD = 8
"""Chunks a side of a shard, said to everybody."""
_WORKED_OUT = ("median", "spread", "megapixels_per_second", "gigabytes_per_second")
LIMIT = "codec-limit"
"""One process that does nothing but decode, encode and reduce; its time divided by the workers."""
LIMIT_TOGETHER = "codec-limit-together"
"""The same in as many processes as workers, at once: what the cores give when they share caches and memory."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured."""

    source: str
    workers: tuple[int, ...]
    repeat: int = 3
    peers: tuple[str, ...] | None = ()
    """Names of peers; None for all that are installed."""
    compression: str = "jpeg"
    quality: int = 90
    effort: int | None = None
    """Effort of a lossless codec; default as `EFFORTS` has it."""
    tile_size: int = 512
    format: str = "tiff"
    """"tiff" or "ome-zarr"."""
    folder: str | None = None
    """Where the outputs go; default the system's temporary folder."""
    environments: str | None = None
    """The folder with an environment for each peer."""
    timeout: float = 1800.0
    """Seconds after which a run is ended."""

    def __post_init__(self) -> None:
        from slidewright.codecs import codecs_of

        known = codecs_of(self.family)
        if self.compression not in known:
            raise OptionError(f"compression {self.compression!r} is not known; choose one of {', '.join(known)}")
        if self.repeat < 1 or not self.workers or min(self.workers) < 1:
            raise OptionError("repeat and every number of workers must be at least 1")
        if not Path(self.source).exists():
            raise SourceError(f"{self.source} does not exist; check the path")

    @property
    def family(self) -> str:
        """Of the format, as the compression table has it."""
        return "zarr" if self.format == "ome-zarr" else "tiff"

    @property
    def codec(self) -> dict[str, Any]:
        """The options of `convert` that choose the codec, with its effort in words that do not depend on a default."""
        from slidewright.codecs import CODECS

        options: dict[str, Any] = {"compression": self.compression}
        if CODECS[self.compression].predictor and self.format == "tiff":
            options["predictor"] = False  # as the peers are asked to
        if CODECS[self.compression].lossy:
            return options | {"quality": self.quality}
        effort = EFFORTS.get(self.compression) if self.effort is None else self.effort
        return options if effort is None else options | {"effort": effort}


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program that is measured: its name, its number of workers, how to start it, and what it writes."""

    name: str
    workers: int
    command: tuple[str, ...]
    environment: dict[str, str]
    dest: str


@dataclass(frozen=True, slots=True)
class Result:
    """The runs of one contestant."""

    name: str
    workers: int
    seconds: tuple[float, ...]
    """Of each run, from start to end of the process; of the codec limit, the time in codecs over the workers."""
    megapixels: float
    gigabytes: float
    """Of unencoded pixels of level 0."""
    processor: float | None = None
    """Median of the seconds of processor time of all its processes."""
    peak_pss: int | None = None
    """Peak of the summed proportional set sizes of all its processes, in bytes, from a run of its own."""
    output: Output | None = None
    stages: dict[str, float] | None = None
    """Seconds by stage of the median run."""
    mismatches: tuple[str, ...] = ()
    """Where its output is not the same work as ours."""

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest run less fastest, over the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    @property
    def megapixels_per_second(self) -> float:
        """Level-0 megapixels a second."""
        return self.megapixels / self.median

    @property
    def gigabytes_per_second(self) -> float:
        """Gigabytes of unencoded pixels of level 0 a second."""
        return self.gigabytes / self.median


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished benchmark."""

    settings: Settings
    machine: dict[str, Any]
    results: tuple[Result, ...]
    skipped: dict[str, str]
    """Contestants that did not run, or failed, and why."""

    def find(self, name: str, workers: int) -> Result | None:
        """The result of a contestant, if it took part."""
        return next((r for r in self.results if (r.name, r.workers) == (name, workers)), None)

    def ratio(self, name: str, other: str, workers: int) -> float | None:
        """Median seconds of one contestant over those of another."""
        one, two = self.find(name, workers), self.find(other, workers)
        return None if one is None or two is None else one.median / two.median

    def as_json(self) -> dict[str, Any]:
        """Plain values, with medians and ratios worked out."""
        rows = []
        for result in self.results:
            row = asdict(result)
            row |= {name: getattr(result, name) for name in _WORKED_OUT}
            row["ours_over_this"] = self.ratio(OURS, result.name, result.workers)
            rows.append(row)
        return {
            "kind": "comparison",
            "settings": asdict(self.settings),
            "machine": self.machine,
            "results": rows,
            "skipped": self.skipped,
        }


def compare(settings: Settings, tell: Callable[[str], None] = lambda _: None) -> Comparison:
    """Run a benchmark; `tell` gets a line for each run.

    Raises
    ------
    OptionError, SourceError
        For settings that make no sense, or a peer that is asked for by name and not installed.
    RunError
        When our own process fails; the message has the end of what it said. A peer that fails is left out, with the
        reason in `skipped`.
    """
    peers, skipped = find_peers(settings.peers, settings.environments, settings.compression, settings.format)
    extent = warm(settings.source)
    with ScratchFolder(settings.folder) as folder:
        bench = _Bench(settings, _contestants(settings, peers, folder), tell)
        bench.skipped |= skipped
        bench.weigh()
        for turn in range(settings.repeat):
            bench.turn(turn)
    details = machine()
    details["versions"] |= {peer.name: peer.version for peer in peers}
    return Comparison(settings, details, tuple(bench.results(extent)), bench.skipped)


def _contestants(settings: Settings, peers: Sequence[Peer], folder: str) -> list[Contestant]:
    """Ours and each peer, at each number of workers."""
    from slidewright.pyramid.plan import count_levels
    from slidewright.sources.open import open_source

    size = open_source(settings.source).info.size
    entrants = []
    for workers in settings.workers:
        dest = str(Path(folder) / ("out.tif" if settings.format == "tiff" else "out.ome.zarr"))
        options = {"n_workers": workers, "tile_size": settings.tile_size, "keep_tiles": "never", **settings.codec}
        options |= {} if settings.format == "tiff" else {"zarr_shard": SHARD}
        given = json.dumps({"source": settings.source, "dest": dest, "options": options})
        command = (sys.executable, "-m", "slidewright.bench", "convert", given)
        entrants.append(Contestant(OURS, workers, command, {}, dest))
        task = Task(
            source=str(Path(settings.source).resolve()),
            workers=workers,
            tile_size=settings.tile_size,
            levels=count_levels(size, settings.tile_size),
            compression=settings.compression,
            quality=settings.codec.get("quality"),
            effort=settings.codec.get("effort"),
            shard=None if settings.format == "tiff" else SHARD,
        )
        for peer in peers:
            if peer.parallel or workers == min(settings.workers):  # one process is the same for any number
                dest = str(Path(folder) / f"out{peer.kind.suffix}")
                entrants.append(Contestant(peer.name, workers, *peer.start(task, dest), dest))
    return entrants


class _Bench:
    """Collects the runs."""

    def __init__(self, settings: Settings, entrants: list[Contestant], tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._entrants = entrants
        self._tell = tell
        self._seconds: dict[tuple[str, int], list[float]] = {}
        self._stages: dict[tuple[str, int], list[dict[str, float]]] = {}
        self._processor: dict[tuple[str, int], list[float | None]] = {}
        self._memory: dict[tuple[str, int], int | None] = {}
        self._outputs: dict[tuple[str, int], Output] = {}
        self.skipped: dict[str, str] = {}

    def weigh(self) -> None:
        """Run everybody once for the peak of memory and the look of the output; warms caches as well."""
        for entrant in list(self._entrants):
            key = (entrant.name, entrant.workers)
            ran = self._run(entrant, sample=True)
            if ran is None:
                continue
            try:
                self._outputs[key] = describe(entrant.dest, self._settings.source)
            except Exception as error:
                self._drop(entrant, f"its output can't be read: {error}")
                continue
            finally:
                _remove(entrant.dest)
            peak = self._memory[key] = ran.peak
            self._tell(f"{key[0]}, {key[1]} workers: " + ("written" if peak is None else f"{peak / 1e6:.0f} MB"))

    def turn(self, number: int) -> None:
        """Time everybody once, and the codec limit; nobody always comes first."""
        shift = number % len(self._entrants)
        for entrant in self._entrants[shift:] + self._entrants[:shift]:
            ran = self._run(entrant)
            _remove(entrant.dest)
            if ran is not None:
                stages = json.loads(ran.said)["stages"] if entrant.name == OURS else {}
                self._add((entrant.name, entrant.workers), ran.seconds, stages, ran.processor)
        if LIMIT not in self.skipped:
            try:
                self._time_limit()
            except RunError as error:
                self.skipped[LIMIT] = str(error)
                self._tell(str(error))

    def _run(self, entrant: Contestant, *, sample: bool = False) -> Ran | None:
        """Run a program; a peer that fails is out of the contest."""
        try:
            return run_tree(entrant.command, entrant.environment, sample=sample, timeout=self._settings.timeout)
        except RunError as error:
            _remove(entrant.dest)  # the next may not write over what is left
            if entrant.name == OURS:
                raise
            self._drop(entrant, str(error))
            return None

    def _drop(self, entrant: Contestant, reason: str) -> None:
        self._entrants.remove(entrant)
        self.skipped[f"{entrant.name}, {entrant.workers} workers"] = reason
        self._tell(f"{entrant.name}, {entrant.workers} workers: left out: {reason.splitlines()[-1]}")

    def _time_limit(self) -> None:
        """The codec limit: alone, for any number of workers, and with each number of processes at once."""
        given = {"source": self._settings.source, "options": self._settings.codec, "family": self._settings.family}
        ((alone, used),) = run_limits(given, 1)
        for workers in self._settings.workers:
            self._add((LIMIT, workers), sum(alone.values()) / workers, alone, used)
            if workers > 1:
                together = run_limits(given, workers)
                slowest = max((stages for stages, _ in together), key=lambda stages: sum(stages.values()))
                used = sum(each for _, each in together)
                self._add((LIMIT_TOGETHER, workers), sum(slowest.values()), slowest, used)

    def _add(
        self, key: tuple[str, int], seconds: float, stages: dict[str, float], processor: float | None = None
    ) -> None:
        self._processor.setdefault(key, []).append(processor)
        self._seconds.setdefault(key, []).append(seconds)
        self._stages.setdefault(key, []).append(stages)
        self._tell(f"{key[0]}, {key[1]} workers: {seconds:.2f} s")

    def results(self, extent: Extent) -> Iterable[Result]:
        """One result a contestant."""
        for key, seconds in self._seconds.items():
            middle = sorted(range(len(seconds)), key=seconds.__getitem__)[len(seconds) // 2]
            output, ours = self._outputs.get(key), self._outputs[OURS, self._settings.workers[0]]
            yield Result(
                *key,
                seconds=tuple(seconds),
                processor=_median_of(self._processor[key]),
                megapixels=extent.megapixels,
                gigabytes=extent.gigabytes,
                peak_pss=self._memory.get(key),
                output=output,
                stages=self._stages[key][middle] or None,
                mismatches=() if output is None else differences(output, ours),
            )


def _median_of(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _remove(path: str) -> None:
    """Remove an output, which may be a folder, or not be there."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        Path(path).unlink(missing_ok=True)
