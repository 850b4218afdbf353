"""Small slides: whole commands as somebody types them, the number of workers left to us, in turns with libvips; one
slide, and a batch of copies of it beside as many processes of libvips.

Apart from `contest.py`, which gives everybody a number of workers: here the choice of it, and the start, are measured.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

from slidewright.bench.measure import machine, run_tree, warm
from slidewright.bench.peers import Peer, Task, find_peers
from slidewright.pyramid.level_store import ScratchFolder
from slidewright.system.limits import usable_cpus

Command = tuple[tuple[str, ...], dict[str, str]]
"""A command and the environment variables that it gets."""
_ENCODED = ("--keep-tiles", "never", "--tile-size", "512", "--quality", "90")
ONE, MANY = "one slide", "batch"
_SMALL = 8.0  # megapixels


@dataclass(frozen=True, slots=True)
class Timing:
    """A program on one slide or on many."""

    what: str
    name: str
    target: float | None
    """The most that its time may be of libvips'."""
    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    """Processor seconds, of all its processes."""

    def over(self, other: Timing) -> tuple[float, float]:
        """Its median seconds, and processor seconds, over another's."""
        pairs = ((self.seconds, other.seconds), (self.processor, other.processor))
        first, second = (statistics.median(mine) / statistics.median(theirs) for mine, theirs in pairs)
        return first, second


def measure_small(
    source: str,
    copies: int,
    tell: Callable[[str], None],
    *,
    repeat: int = 3,
    environments: str | None = None,
    folder: str | None = None,
    timeout: float | None = None,
) -> tuple[list[Timing], dict[str, Any]]:
    """Time everything in turns; the timings and the machine. Raises OptionError where libvips is not installed."""
    (vips,), _ = find_peers(("libvips",), environments, "jpeg")
    target = 1.8 if warm(source).megapixels < _SMALL else 1.2
    with ScratchFolder(folder) as name:
        place = Path(name)
        slides = [str(shutil.copy(source, place / f"{number}{Path(source).suffix}")) for number in range(copies)]
        contest = [
            (Timing(ONE, "libvips", None), [_libvips(vips, source, place, usable_cpus())]),
            (Timing(ONE, "slidewright", target), [_convert(source, place)]),
            (Timing(ONE, "slidewright, encoding", target), [_convert(source, place, *_ENCODED)]),
            (Timing(MANY, "libvips", None), [_libvips(vips, slide, place, 1) for slide in slides]),
            (Timing(MANY, "slidewright", 0.55), [_batch(place, Path(source).suffix)]),
            (Timing(MANY, "slidewright, encoding", 0.55), [_batch(place, Path(source).suffix, *_ENCODED)]),
        ]
        for turn in range(repeat + 1):
            for timing, commands in contest:
                seconds, processor = _run(commands, timeout)
                if turn:  # the first fills caches
                    timing.seconds.append(seconds)
                    timing.processor.append(processor)
                tell(f"{timing.what}, {timing.name}: {seconds:.2f} s, {processor:.2f} s of processors")
    return [timing for timing, _ in contest], machine()


def _convert(source: str, folder: Path, *options: str) -> Command:
    command = (sys.executable, "-m", "slidewright", "convert", source, str(folder / "one.tif"))
    return (*command, "-q", "--overwrite", *options), {}


def _batch(folder: Path, suffix: str, *options: str) -> Command:
    slides, report, out = str(folder / f"*{suffix}"), str(folder / "report.jsonl"), str(folder / "out")
    command = (sys.executable, "-m", "slidewright", "batch", slides, "--out", out, "--report", report)
    return (*command, "-q", "--overwrite", *options), {}


def _libvips(peer: Peer, source: str, folder: Path, threads: int) -> Command:
    task = Task(str(Path(source).resolve()), threads, 512, 0, "jpeg", 90, effort=None, shard=None)
    return peer.start(task, str(folder / f"vips-{Path(source).stem}.out"))


def _run(commands: Sequence[Command], timeout: float | None) -> tuple[float, float]:
    """Run commands, as many at once as there are processors, as `xargs -P` does; seconds, and processor seconds."""
    begin, before = perf_counter(), _children()
    with ThreadPoolExecutor(usable_cpus()) as pool:
        for _ in pool.map(lambda one: run_tree(*one, timeout=timeout), commands):
            pass
    return perf_counter() - begin, _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
