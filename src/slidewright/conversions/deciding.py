"""What a run will be, decided before anything is written: for a conversion as for shards and `PyramidWriter`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from slidewright.conversions.description import describe_image
from slidewright.conversions.settled import settled
from slidewright.errors import OptionError, SourceError
from slidewright.options import ConvertOptions
from slidewright.system.files import temporary_folder
from slidewright.system.limits import usable_cpus

if TYPE_CHECKING:  # NumPy comes with it, and the fork server must be started first
    from slidewright.codecs import Encoding
    from slidewright.engine.memory_budget import MemoryPlan
    from slidewright.engine.run import Run
    from slidewright.formats.base import Format
    from slidewright.pyramid.plan import Plan
    from slidewright.report import Recorder
    from slidewright.sources.base import Source, SourceInfo

_LARGE_TILE = 16 << 20
_MAX_SIDE = (1 << 32) - 1  # of a TIFF, and more than a cluster can write


def decide(
    source: Source,
    options: ConvertOptions,
    started: float,
    planned_workers: int | None = None,
    recorder: Recorder | None = None,
    threads: int = 1,
    *,
    in_shards: bool = False,
) -> Run:
    """What a run will be: format, encoding, plan, memory, and the source as the engine takes it.

    Blocks are balanced for `planned_workers` where several machines share them: then neither this machine's processors
    nor its memory change their size. By default they are balanced for the workers of this run, or for the `threads` of
    one in this process, and shrink with memory. `in_shards` is for a run that makes shards, or takes them: every such
    run writes the same files, whatever its memory and time limit.
    """
    from slidewright.conversions.keeping import decide_keeping, decide_reuse
    from slidewright.engine.run import Run
    from slidewright.formats.registry import make_format
    from slidewright.pyramid.plan import default_block_tiles, make_plan
    from slidewright.sources.pixel_format import resolve_pixels
    from slidewright.sources.wrappers.adapt import adapted

    info = source.info
    form = make_format(options)
    _refuse_source(info, form)
    keeping = decide_keeping(form, options, info, resolve_pixels(options, info))
    encoding = keeping.encoding
    _refuse_levels(options.levels, info)
    n_levels = options.levels or form.count_levels(info.size)
    levels = make_plan(info.size, encoding.tile, n_levels=n_levels).levels
    keeping, reused = decide_reuse(keeping, options, source, levels)
    source, *filled = _filled((source, *reused), options, hand_out=keeping.kept is not None and keeping.kept.corrupt)
    block = options.block_tiles or default_block_tiles(encoding.tile)
    held = 0 if options.timeout and not in_shards else form.held_bytes(encoding, levels[0], block)
    memory, plan = _plan(
        info, options, encoding, (n_levels, len(reused)), planned_workers, threads, (held, in_shards)
    )
    image = describe_image(source, options, plan, encoding, keeping)
    form.accept(image)
    processes = options.n_workers != 0
    run = Run(
        source=adapted(source, encoding.pixels, options),
        image=image,
        format=form,
        memory=memory,
        n_workers=memory.n_workers if processes else 0,
        threads=1 if processes else memory.n_workers,
        temporary=os.fspath(options.scratch) if options.scratch is not None else temporary_folder(),
        started=started,
        timeout=options.timeout,
        recorder=recorder,
        reused=tuple(filled),
        keeping=keeping.words,
    )
    if recorder is not None:
        recorder.settings = settled(run, options)
    return run


def _refuse_source(info: SourceInfo, form: Format) -> None:
    """What no conversion, or none to this format, can be made of."""
    if max(info.size) > _MAX_SIDE:
        raise SourceError(f"{info.name} says that a side of it has more than {_MAX_SIDE} pixels; it is damaged")
    if info.stack.frames > 1 and not form.holds_stacks:
        raise OptionError(
            f"{info.name} has {info.stack}, and a plain TIFF holds a single plane: write to a name.ome.tif or "
            "name.ome.zarr, or choose one with z and t"
        )


def _refuse_levels(levels: int | None, info: SourceInfo) -> None:
    """More levels than halvings can tell apart: no check of the finished file would pass them."""
    most = max(info.size).bit_length() + 1  # the last but one is the first of a single pixel
    if levels is not None and levels > most:
        raise OptionError(f"levels {levels} are too many for {info.name}: {info.size} pixels have at most {most}")


def _filled(sources: Sequence[Source], options: ConvertOptions, *, hand_out: bool) -> Sequence[Source]:
    """The source and its levels that are reused; what is corrupt is filled where that is asked for, or handed out."""
    if options.on_corrupt != "fill" and not hand_out:
        return sources
    from slidewright.sources.pixel_format import resolve_pixels
    from slidewright.sources.wrappers.fill import fill_corrupt

    background = resolve_pixels(replace(options, alpha="keep"), sources[0].info).background
    return [fill_corrupt(source, background, hand_out=hand_out) for source in sources]


def _plan(
    info: SourceInfo,
    options: ConvertOptions,
    encoding: Encoding,
    levels: tuple[int | None, int],
    planned_workers: int | None,
    threads: int,
    held: tuple[int, bool],
) -> tuple[MemoryPlan, Plan]:
    """How memory is shared out, and the blocks; `levels` are how many there are, and how many of them are reused.
    `held` is `Format.held_bytes`, and whether it can't give way.
    """
    from slidewright.engine.memory_budget import needs_of, plan_memory
    from slidewright.pyramid.plan import make_plan

    processes = options.n_workers if options.n_workers is not None else usable_cpus()
    band = 1 if info.planar else encoding.pixels.frame_planes
    block_tiles = options.block_tiles or _small_block(band * encoding.tile_bytes)
    n_levels, reused = levels

    def planned(block_tiles: int | None, n_workers: int) -> Plan:
        return make_plan(
            info.size,
            encoding.tile,
            n_levels=n_levels,
            block_tiles=block_tiles,
            n_workers=n_workers,
            planes=encoding.pixels.planes,
            band=band,
            reused=reused,
        )

    shared = None if planned_workers is None else planned(block_tiles, planned_workers)
    block_side = block_tiles if shared is None else shared.passes[0].block_tiles
    needs = needs_of(
        info,
        encoding,
        n_workers=processes or threads,
        block_tiles=block_side,
        band=band,
        shared=bool(processes),
        held=held[0],
        must_hold=held[1],
    )
    memory = plan_memory(needs, options.memory_bytes)
    return memory, shared or planned(memory.block_tiles, memory.n_workers)


def _small_block(tile_bytes: int) -> int | None:
    """The block side in tiles for tiles so large (all channels of a multichannel image) that a worker can hold but a
    few, one a level; None for any other, where speed decides.
    """
    return None if tile_bytes <= _LARGE_TILE else 1 if tile_bytes > 4 * _LARGE_TILE else 2
