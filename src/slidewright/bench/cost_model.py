"""What a conversion would take with so many workers or nodes: a model of pure numbers, without any measuring.

Every stage costs so many seconds a megapixel of level 0. Workers share theirs; the writer and the coordinator are one
process each, and a filesystem carries so many bytes a second. Whichever needs longest is the limit; the others hide
behind it. What is left out: that cores share caches and memory bandwidth, waiting in a scheduler's queue, stragglers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured constants; seconds and bytes are for one megapixel of level 0, all levels together."""

    read: float
    """Reading and decoding the source, seconds of a worker."""
    encode: float
    reduce: float
    scratch: float
    """Writing and reading reduced levels (zarr chunks)."""
    ring: float
    """Copying segments into shared memory."""
    writer: float
    """Seconds of the one writer."""
    message: float
    """Seconds of the one coordinator, with one worker."""
    message_growth: float
    """Seconds that each further worker adds to that."""
    assemble: float
    """Seconds of the one writer when it takes segments from shards."""
    start: float
    """Seconds before the first block and after the last, once a run."""
    source_bytes: float
    output_bytes: float
    scratch_bytes: float
    pixel_bytes: float
    """Of level 0, unencoded."""

    @property
    def worker(self) -> float:
        """Seconds of a worker for a megapixel."""
        return self.read + self.encode + self.reduce + self.scratch + self.ring


@dataclass(frozen=True, slots=True)
class Filesystem:
    """Bytes a second of a filesystem: for one node, and for all together."""

    node: float
    total: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds, and what they are spent on."""

    seconds: float
    limit: str
    """ "workers", "writer", "coordinator", "filesystem" or "assembling"."""


def one_machine(costs: Costs, megapixels: float, workers: int, filesystem: Filesystem | None = None) -> Prediction:
    """A `convert` with so many workers, each with a core of its own, and a core for the writer and the coordinator."""
    stages = {
        "workers": costs.worker / workers,
        "writer": costs.writer,
        "coordinator": costs.message + costs.message_growth * (workers - 1),
    }
    if filesystem is not None:
        stages["filesystem"] = (costs.source_bytes + costs.output_bytes) / filesystem.node
    limit = max(stages, key=stages.__getitem__)
    return Prediction(costs.start + megapixels * stages[limit], limit)


def writer_feeds(costs: Costs) -> float:
    """How many workers make as much as one writer takes."""
    return costs.worker / costs.writer


def many_nodes(
    costs: Costs, megapixels: float, nodes: int, workers: int, filesystem: Filesystem
) -> tuple[Prediction, Prediction]:
    """Shards on so many nodes with so many workers each, then assembling on one: the two steps."""
    share = megapixels / nodes
    moved = costs.source_bytes + costs.output_bytes + costs.scratch_bytes
    stages = {
        "workers": share * costs.worker / workers,
        "writer": share * costs.writer,
        "coordinator": share * (costs.message + costs.message_growth * (workers - 1)),
        "filesystem": max(share * moved / filesystem.node, megapixels * moved / filesystem.total),
    }
    limit = max(stages, key=stages.__getitem__)
    encoding = Prediction(costs.start + stages[limit], limit)
    both_ways = 2 * costs.output_bytes + costs.scratch_bytes
    last = {"assembling": megapixels * costs.assemble, "filesystem": megapixels * both_ways / filesystem.node}
    slowest = max(last, key=last.__getitem__)
    return encoding, Prediction(costs.start + last[slowest], slowest)


@dataclass(frozen=True, slots=True)
class Throughput:
    """What so many nodes convert in an hour, and what keeps them from more."""

    slides: float
    bytes: float
    """Of unencoded pixels of level 0."""
    limit: str
    """ "workers", "writer", "coordinator", "a node's filesystem" or "all nodes' filesystem"."""


def slides_an_hour(
    costs: Costs, megapixels: float, nodes: int, workers: int, filesystem: Filesystem | None = None
) -> Throughput:
    """Whole slides of so many megapixels, each on one of the nodes, one after the other there.

    Every slide pays the start of a run. Nodes have nothing in common but the filesystem.
    """
    one = one_machine(costs, megapixels, workers, filesystem)
    slides = nodes * 3600 / one.seconds
    limit = "a node's filesystem" if one.limit == "filesystem" else one.limit
    if filesystem is not None:
        most = 3600 * filesystem.total / (megapixels * (costs.source_bytes + costs.output_bytes))
        if most < slides:
            slides, limit = most, "all nodes' filesystem"
    return Throughput(slides, slides * megapixels * costs.pixel_bytes, limit)
