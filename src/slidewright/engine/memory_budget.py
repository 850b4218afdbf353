"""The memory budget: what a run needs by its workers, and how it is made to fit.

Apart from `resources.py`, which says what there is. The constants are sums of proportional set sizes measured over real
runs (docs/faults.md); a test runs conversions under tight budgets and holds them to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from slidewright.codecs import Encoding
from slidewright.engine.ring import SLOT_BYTES, SLOTS_PER_WORKER
from slidewright.errors import OptionError, RunError
from slidewright.pyramid.plan import default_block_tiles
from slidewright.sources.base import SourceInfo
from slidewright.system.limits import MemoryLimit, available_memory

MIB = 1 << 20
BASE_BYTES = 100 * MIB
"""Calling process, fork server and writer with their libraries."""
WORKER_BYTES = 20 * MIB
"""A worker with its libraries, beyond what it shares with the fork server."""
CACHE_BYTES = 24 * MIB
"""What a reader keeps of decoded cells (sources/cells.py)."""
STORE_BYTES = 32 * MIB
_TILE_BOOKS = 150  # bytes a tile for the tables of the writer and of the store
_GUARD_SLACK = 128 * MIB  # what a library may reserve and never touch
_MIN_STORE, _MIN_SLOTS = 4 * MIB, 2


@dataclass(frozen=True, slots=True)
class Needs:
    """What of a conversion decides its memory."""

    n_workers: int
    tile: int
    tile_bytes: int
    """One unencoded tile, of all the planes that a block holds."""
    n_tiles: int
    """Of level 0."""
    block_tiles: int | None = None
    """Where the caller has chosen it."""
    cell_bytes: int = 0
    """One tile, strip or chunk of the source."""
    worker_bytes: int = 0
    """What reading takes in each worker beyond the cache of decoded cells, see `SourceInfo`."""
    encoder_bytes: int = 0
    """What encoding one tile takes in each worker beyond its pixels, see `Codec`."""
    held_bytes: int = 0
    """What a worker that writes files of the output holds of them."""
    must_hold: bool = False
    """Whether that can't give way."""
    array_bytes: int = 0
    """Pixels in the caller's memory that the workers need a copy of."""
    whole_bytes: int = 0
    """What decoding the source whole takes before there are workers, see `SourceInfo`."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How a run fits in its budget."""

    n_workers: int
    block_tiles: int | None
    """The block side that memory allows, or the caller's choice; None where the default fits."""
    slots_per_worker: int
    store_bytes: int
    guard_bytes: int
    """What a worker may allocate before its allocations fail."""
    array_on_disk: bool
    by_blocks: bool
    """Whether workers write files of the output that a block fills by itself."""
    needed: int
    """The estimate for all of it."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Shape:
    """One way to spend memory, from generous to lean."""

    block_tiles: int
    slots: int
    store: int
    held: int = 0

    def per_worker(self, needs: Needs) -> int:
        """A worker, its slots, and the segment of its that the writer puts together."""
        depth = self.block_tiles.bit_length()
        more = CACHE_BYTES + 2 * needs.cell_bytes + needs.worker_bytes + needs.encoder_bytes
        return WORKER_BYTES + self.slots * SLOT_BYTES + self.held + more + (depth + 5) * needs.tile_bytes

    def base(self, needs: Needs) -> int:
        """Everything that does not grow with the workers."""
        return BASE_BYTES + self.store + 4 * needs.tile_bytes + needs.n_tiles * _TILE_BOOKS * 4 // 3


def needs_of(
    info: SourceInfo,
    encoding: Encoding,
    *,
    n_workers: int,
    block_tiles: int | None,
    band: int = 1,
    shared: bool = True,
    held: int = 0,
    must_hold: bool = False,
) -> Needs:
    """What a conversion of a source into an encoding needs, with `band` of its planes in a block; an array of the
    caller's is copied where it is `shared` with processes; `held` is what a worker keeps of a plane's encoded bytes.
    """
    pixel = info.samples * info.itemsize
    planes = encoding.pixels.planes
    height, width = info.size
    cell = info.tile or (0, 0)
    return Needs(
        n_workers=n_workers,
        tile=encoding.tile,
        tile_bytes=band * encoding.tile_bytes,
        n_tiles=planes * -(-height // encoding.tile) * -(-width // encoding.tile),
        block_tiles=block_tiles,
        cell_bytes=cell[0] * cell[1] * (info.itemsize if info.planar else pixel),
        worker_bytes=info.worker_bytes,
        encoder_bytes=encoding.codec.encoder_bytes(encoding.tile),
        held_bytes=band * held,
        must_hold=must_hold,
        array_bytes=height * width * pixel * info.stack.frames if info.in_memory and shared else 0,
        whole_bytes=info.whole_bytes,
    )


def plan_memory(needs: Needs, budget: int | None) -> MemoryPlan:
    """Fit a run into a budget; `budget` None stands for what is available.

    What gives way, in this order: that workers write files, the segments that wait in memory, ring slots, the size of
    blocks, the number of workers. Pixels of the caller's memory are copied to disk where a copy in memory would not
    fit.

    Raises
    ------
    OptionError, RunError
        When not even one worker with the smallest buffers fits into the budget given, or into what is available.
    """
    limit = MemoryLimit(budget, "the memory budget") if budget is not None else available_memory()
    shapes = _shapes(needs)
    least = shapes[-1].base(needs) + shapes[-1].per_worker(needs)
    if least > limit.bytes:
        raise _hopeless(needs, limit, least, given=budget is not None)
    if BASE_BYTES + needs.whole_bytes > limit.bytes and needs.whole_bytes:
        text = (
            f"{limit.source} of {limit.bytes / 1e6:.0f} MB is too little: this source can't be read in parts, and to "
            f"decode it takes some {(BASE_BYTES + needs.whole_bytes) / 1e6:.0f} MB; give it more, or make a tiled TIFF "
            "of it first"
        )
        raise OptionError(text) if budget is not None else RunError(text)
    on_disk = needs.array_bytes > limit.bytes - least
    room = limit.bytes - (0 if on_disk else needs.array_bytes)
    wanted = max(1, needs.n_workers)
    for shape in shapes:
        fitting = (room - shape.base(needs)) // shape.per_worker(needs)
        if fitting >= wanted:
            break
    n_workers = max(1, min(wanted, fitting))
    guard = max(shape.per_worker(needs) + _GUARD_SLACK, (room - shape.base(needs)) // n_workers)
    smaller = shape.block_tiles < shapes[0].block_tiles
    return MemoryPlan(
        n_workers=n_workers,
        block_tiles=shape.block_tiles if smaller else needs.block_tiles,
        slots_per_worker=shape.slots,
        store_bytes=shape.store,
        guard_bytes=guard,
        array_on_disk=on_disk,
        by_blocks=shape.held > 0,
        needed=limit.bytes - room + shape.base(needs) + n_workers * shape.per_worker(needs),
        warnings=_say(needs, limit, shapes[0], shape, n_workers, on_disk),
    )


def _shapes(needs: Needs) -> list[_Shape]:
    """The ways to spend memory, from generous to lean."""
    block = needs.block_tiles or default_block_tiles(needs.tile)
    held = needs.held_bytes if needs.must_hold else 0
    shapes = [
        _Shape(block, SLOTS_PER_WORKER, STORE_BYTES, needs.held_bytes),
        _Shape(block, SLOTS_PER_WORKER, STORE_BYTES, held),
        _Shape(block, SLOTS_PER_WORKER, 2 * _MIN_STORE, held),
        _Shape(block, _MIN_SLOTS, _MIN_STORE, held),
    ]
    while block > 1 and needs.block_tiles is None:
        block //= 2
        shapes.append(_Shape(block, _MIN_SLOTS, _MIN_STORE, held))
    return shapes


def _hopeless(needs: Needs, limit: MemoryLimit, least: int, *, given: bool) -> OptionError | RunError:
    text = (
        f"{limit.source} of {limit.bytes / 1e6:.0f} MB is too little: this conversion needs at least "
        f"{least / 1e6:.0f} MB, with one worker and the smallest buffers; give it more, or use a smaller tile_size "
        f"than {needs.tile}"
    )
    if needs.cell_bytes > CACHE_BYTES:
        text += f" (a tile, strip or chunk of the source alone is {needs.cell_bytes / 1e6:.0f} MB)"
    return OptionError(text) if given else RunError(text)


def _say(
    needs: Needs, limit: MemoryLimit, first: _Shape, shape: _Shape, n_workers: int, on_disk: bool
) -> tuple[str, ...]:
    """What gave way, in words; nothing when everything fitted."""
    means = []
    if shape.held < first.held:
        means.append("one process that writes all files")
    if shape.store < first.store:
        means.append(f"{shape.store // MIB} MiB of waiting segments in memory")
    if shape.slots < first.slots:
        means.append(f"{shape.slots} ring slots a worker")
    if shape.block_tiles < first.block_tiles:
        means.append(f"blocks of {shape.block_tiles * needs.tile} pixels")
    if n_workers < needs.n_workers:
        means.append(f"{n_workers} of {needs.n_workers} workers ({shape.per_worker(needs) / 1e6:.0f} MB each)")
    if on_disk:
        means.append("a copy of the array on disk")
    if not means:
        return ()
    return (f"{limit.source} of {limit.bytes / 1e6:.0f} MB allows {', '.join(means)}",)
