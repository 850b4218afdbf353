"""The constants of the cost model, measured on this machine: each stage alone, and the one writer alone.

Apart from the benchmarks of whole runs because parts are measured by the processor time they take, which holds on a
busy machine too, and tells of more workers than this machine has cores for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Pipe, wait
from time import perf_counter, process_time
from typing import Any

from slidewright.bench.cost_model import Costs
from slidewright.conversions.deciding import decide
from slidewright.engine import writer
from slidewright.engine.inbox import Undecided
from slidewright.engine.messages import Failed, SlotFree, SlotFull
from slidewright.engine.ring import SLOT_BYTES, SlotWriter
from slidewright.engine.writer import WriterJob
from slidewright.geometry import Size
from slidewright.options import ConvertOptions
from slidewright.pyramid.level_store import ScratchFolder
from slidewright.pyramid.plan import Key, Plan
from slidewright.report import Report
from slidewright.sources.base import SourceInfo
from slidewright.system.shared_memory import SharedBuffer

_SLOTS = 64
_MESSAGES = 4  # that the coordinator receives or sends for a slot: to the writer, and back


@dataclass(frozen=True, slots=True)
class WriterSpeed:
    """What the one writer does when segments never run out, by the processor time it takes."""

    segments: int
    segment_bytes: int
    seconds: float
    put_seconds: float
    """What workers took to copy the same segments into the ring."""

    @property
    def per_second(self) -> float:
        """Segments a second."""
        return self.segments / self.seconds

    @property
    def bytes_per_second(self) -> float:
        """Bytes a second."""
        return self.per_second * self.segment_bytes


def measure_writer(
    side: int, segment_bytes: int, folder: str | None = None, *, tile: int = 512, repeat: int = 3
) -> WriterSpeed:
    """Time the writer alone: the segments of a whole pyramid, in the order in which blocks come.

    Parameters
    ----------
    side
        Of the image whose pyramid is written, in pixels.
    segment_bytes
        Of each segment.
    folder
        Where the file goes; by default the temporary folder. It is removed.
    tile
        Tile side in pixels.
    repeat
        How often; the fastest counts, since others slow a run down and nobody speeds it up.
    """
    return min(
        (_time_writer(side, segment_bytes, folder, tile) for _ in range(repeat)), key=lambda speed: speed.seconds
    )


def _time_writer(side: int, segment_bytes: int, folder: str | None, tile: int) -> WriterSpeed:
    options = ConvertOptions(tile_size=tile, compression="jpeg", n_workers=1)
    info = SourceInfo("nothing", "array", Size(side, side), samples=3, dtype="uint8", worker_bytes=0)
    run = decide(Undecided(info), options, perf_counter())
    plan = run.plan
    with ScratchFolder(folder) as place:
        ring = SharedBuffer.allocate(_SLOTS * SLOT_BYTES, place)
        try:
            feeder = _Feeder(ring, plan, os.urandom(segment_bytes))
            pipe: Any = feeder
            begin = process_time()
            writer.main(pipe, WriterJob(replace(run, output=os.path.join(place, "out.tif"), temporary=place), ring))
            seconds = process_time() - begin - feeder.seconds
        finally:
            ring.close()
    return WriterSpeed(plan.n_tiles, segment_bytes, seconds, feeder.seconds)


class _Feeder:
    """The writer's pipe, with workers behind it that are always ready."""

    def __init__(self, ring: SharedBuffer, plan: Plan, segment: bytes) -> None:
        self._free = list(range(_SLOTS))
        self._full: list[SlotFull] = []
        self._slots = SlotWriter(ring, self._free.pop, self._send)
        self._keys = _in_block_order(plan)
        self._segment = segment
        self.seconds = 0.0

    def _send(self, slot: int, entries: int) -> None:
        self._full.append(SlotFull(slot, entries, 1))

    def recv(self) -> SlotFull:
        begin = process_time()
        while not self._full:
            key = next(self._keys, None)
            if key is None:
                self._slots.flush()
            else:
                self._slots.put(key, self._segment)
        self.seconds += process_time() - begin
        return self._full.pop(0)

    def send(self, message: object) -> None:
        if isinstance(message, SlotFree):
            self._free.append(message.slot)
        elif isinstance(message, Failed):
            raise message.error()


def _in_block_order(plan: Plan) -> Iterator[Key]:
    for pas in plan.passes:
        for number in range(pas.n_blocks):
            yield from plan.tiles_of(pas.block(number))


def measure_messages(pipes: int, repeat: int = 300) -> float:
    """Seconds of the coordinator for one slot when it listens to so many pipes: waiting twice, four messages."""
    pairs = [Pipe() for _ in range(pipes)]
    ours, theirs = pairs[0]
    listening = [pair[0] for pair in pairs]
    theirs.send(SlotFull(17, 20))
    begin = process_time()
    for _ in range(repeat):
        for _ in range(_MESSAGES // 2):
            wait(listening, 1)
            message = ours.recv()
            theirs.send(message)  # stands for the coordinator's own
    seconds = (process_time() - begin) / repeat
    for pair in pairs:
        for end in pair:
            end.close()
    return seconds


def measure_costs(
    source: str,
    options: dict[str, Any],
    folder: str | None = None,
    *,
    repeat: int = 3,
    tell: Callable[[str], None] | None = None,
) -> Costs:
    """Measure every constant with a slide: convert it without processes, put it through a shard, time the writer.

    Parameters
    ----------
    source
        The slide; tens of megapixels will do.
    options
        The fields of `ConvertOptions`.
    folder
        Where outputs go, and are removed; by default the temporary folder.
    repeat
        How often; the fastest counts.
    tell
        Called with a line before each part.
    """
    import slidewright

    tell = tell or (lambda _: None)
    options = {"keep_tiles": "never", **options}  # the model is of encoding
    given = {**options, "n_workers": 0, "overwrite": True}
    with ScratchFolder(folder) as place:
        out = os.path.join(place, "out.tif")
        tell("stages: converting without processes")
        report, stages = _best(lambda: slidewright.convert(source, out, **given), repeat)
        tell("assembling: one shard, put together")
        shards = os.path.join(place, "shards")
        slidewright.shard(source, shards, index=0, count=1, **{**options, "n_workers": 0})
        _, assembling = _best(lambda: slidewright.assemble(shards, out, n_workers=0, overwrite=True), repeat)
        start = min(_start_seconds(place, options) for _ in range(repeat))
    info = slidewright.open_source(source).info
    size, segments = report.levels[0].size, sum(level.tiles for level in report.levels)
    megapixels, nbytes = size.height * size.width / 1e6, sum(level.bytes for level in report.levels)
    tell("writer alone")
    speed = measure_writer(
        max(size), max(1, nbytes // segments), folder, tile=options.get("tile_size", 512), repeat=repeat
    )
    tell("coordinator: messages")
    few, many = (min(measure_messages(pipes) for _ in range(repeat)) for pipes in (2, 66))
    slots = nbytes / megapixels / SLOT_BYTES
    return Costs(
        **{name: stages[name] / megapixels for name in ("read", "encode", "reduce", "scratch")},
        ring=speed.put_seconds / speed.segments * segments / megapixels,
        writer=segments / megapixels / speed.per_second,
        message=slots * few,
        message_growth=slots * (many - few) / 64,
        assemble=assembling["write"] / megapixels,
        start=start,
        source_bytes=_bytes_of(source) / megapixels,
        output_bytes=nbytes / megapixels,
        scratch_bytes=3e6 / 256,
        pixel_bytes=1e6 * info.all_samples * info.itemsize,
    )


def _best(run: Callable[[], Report], repeat: int) -> tuple[Report, dict[str, float]]:
    """The fastest of several runs in this process, and its stages in processor time: on a busy machine a stage takes
    longer by the clock, and this takes that out again.
    """
    found = []
    for _ in range(repeat):
        clock, processor = perf_counter(), process_time()
        report = run()
        share = (process_time() - processor) / (perf_counter() - clock)
        found.append((process_time() - processor, report, {name: s * share for name, s in report.stages.items()}))
    _, report, stages = min(found, key=lambda one: one[0])
    return report, stages


def _start_seconds(place: str, options: dict[str, Any]) -> float:
    """What a run of worker processes takes when there is next to nothing to do."""
    import numpy as np

    import slidewright

    nothing = np.zeros((64, 64, 3), np.uint8)
    begin = perf_counter()
    slidewright.convert(nothing, os.path.join(place, "nothing.tif"), **{**options, "n_workers": 1, "overwrite": True})
    return perf_counter() - begin


def _bytes_of(path: str) -> int:
    if not os.path.isdir(path):
        return os.path.getsize(path)
    return sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(path) for name in names)
