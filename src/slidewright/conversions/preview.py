"""What a conversion would make, without making it: decided as for a run, with a few of its blocks encoded and thrown
away, which tells what all of them would take.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, Unpack

from slidewright.conversions.convert import prepare_report
from slidewright.conversions.opening import fixed, open_selected
from slidewright.conversions.signatures import AllOptions, with_options
from slidewright.conversions.workload import START_SECONDS, settle_workers
from slidewright.errors import OptionError, without_keys
from slidewright.formats.registry import settle_format
from slidewright.options import ConvertOptions, split_options
from slidewright.report import LevelReport

if TYPE_CHECKING:
    from slidewright.sources.base import Source

_BLOCK_TILES, _BLOCKS, _SECONDS = 2, 64, 1.0


@dataclass(frozen=True, slots=True)
class Preview:
    """What a conversion would make."""

    source: str
    destination: str
    format: str
    levels: tuple[LevelReport, ...]
    """Their bytes are estimated."""
    bytes: int
    """Estimated, of all levels."""
    seconds: float
    """Estimated, on this machine while nothing else runs."""
    files: int
    """One, or for a folder at most so many: chunks of nothing but background are left out."""
    n_workers: int
    settings: Mapping[str, Any]
    """The value that each option would have."""
    warnings: tuple[str, ...] = ()


@with_options("convert")
def preview(
    source: Any,
    dest: str | os.PathLike[str],
    *,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
    report: str | os.PathLike[str] | None = None,
    **options: Unpack[AllOptions],
) -> Preview:
    """Say what `slidewright.convert` would make of the same arguments, and about what it would take.

    Nothing is written. A few blocks are read and encoded, for a second at most, so the bytes and seconds are what they
    give for the whole image.

    Parameters
    ----------
    source, dest, shape, dtype, report
        As for `slidewright.convert`.
    **options
        The fields of `Selection` and `ConvertOptions`.

    Raises
    ------
    SlidewrightError
        As `slidewright.convert` would before it begins.
    """
    selection, checked = split_options(options, "convert")
    checked = settle_format(checked, dest)
    dest = fixed(dest, source)
    if report is not None:
        prepare_report(report, source, dest, checked, monotonic())
    opened, path = open_selected(source, selection, shape, dtype)
    settled, _ = settle_workers(checked, source, opened.info)
    return preview_opened(opened, path, dest, settled, checked=True)


def preview_opened(
    source: Source,
    source_path: str | None,
    dest: str | os.PathLike[str],
    options: ConvertOptions,
    *,
    checked: bool = False,
) -> Preview:
    """The same of an open source; unless `checked`, a folder that is not there is one that the caller would make."""
    from slidewright.conversions.conversion import Conversion
    from slidewright.conversions.deciding import decide
    from slidewright.conversions.settled import settled
    from slidewright.conversions.told import warnings_of
    from slidewright.engine.disk_budget import check_space, estimate
    from slidewright.system.limits import usable_cpus

    if options.archive is not None:
        raise OptionError("nothing can be said of an archive before it is made; leave archive out, or the dry run")
    options = settle_format(options, dest)
    run = decide(source, options, monotonic())
    folder = os.path.dirname(os.path.abspath(dest))
    warnings = warnings_of(run, options)
    if checked or os.path.isdir(folder):
        Conversion(run, dest, options, source_path).__exit__()  # which refuses what it can't write
        warnings += check_space(estimate(run), folder, run.temporary)
    tile_bytes, tile_seconds = _try_blocks(source, options)
    plan = run.plan
    levels = tuple(
        LevelReport(level.size, count, int(count * tile_bytes[min(level.index, len(tile_bytes) - 1)]))
        for level in plan.levels
        for count in [plan.planes * level.n_tiles]
    )
    abreast = max(1, min(run.n_workers, usable_cpus()))
    return Preview(
        source=without_keys(source_path or source.info.name),
        destination=os.fspath(dest),
        format=run.format.name,
        levels=levels,
        bytes=sum(level.bytes for level in levels),
        seconds=plan.n_tiles * tile_seconds / abreast + (START_SECONDS if run.n_workers else 0),
        files=run.format.count_files(run.image),
        n_workers=run.n_workers,
        settings=settled(run, options),
        warnings=tuple(warnings),
    )


def _try_blocks(source: Source, options: ConvertOptions) -> tuple[list[float], float]:
    """Bytes of a tile of level 0, and of the levels above it where there are any; and the seconds of a tile."""
    from slidewright.conversions.deciding import decide

    run = decide(source, replace(options, block_tiles=_BLOCK_TILES), monotonic())
    first = run.plan.passes[0]
    numbers = sorted(random.Random(0).sample(range(first.n_blocks), min(_BLOCKS, first.n_blocks)))
    random.Random(1).shuffle(numbers)  # in case time is up before all are done
    sizes: list[list[int]] = [[], []]
    maker = run.maker()
    readers = [each.open() for each in (run.source, *run.reused)]
    begin, untimed = perf_counter(), 0
    try:
        for number in numbers:
            maker.run(readers, first.block(number), lambda key, segment: sizes[min(key[0], 1)].append(len(segment)))
            if not untimed and len(numbers) > 1:  # the first one imports and opens what the others have
                begin, untimed = perf_counter(), sum(map(len, sizes))
            elif perf_counter() - begin > _SECONDS:
                break
    finally:
        seconds = perf_counter() - begin
        for reader in readers:
            reader.close()
    timed = sum(map(len, sizes)) - untimed
    return [sum(level) / len(level) for level in sizes if level], seconds / max(1, timed)
