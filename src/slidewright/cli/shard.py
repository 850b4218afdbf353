"""`slidewright shard`: one share of a slide, as a task of an array job runs it."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import click

from slidewright.cli.common import (
    FilePath,
    debug_option,
    human_bytes,
    hush_libraries,
    json_option,
    plural,
    quiet_option,
)
from slidewright.cli.convert import tell
from slidewright.cli.options import GroupedCommand, collected, options_of


@click.command(
    cls=GroupedCommand,
    short_help="Encode one share of a slide, for assemble.",
    example="slidewright shard slide.svs shards --index 0 --count 8",
)
@click.argument("source", type=FilePath(), metavar="SRC")
@click.argument("shards", type=FilePath(), metavar="SHARDS")
@click.option("--index", type=int, metavar="I", help="Which share, from 0.")
@click.option("--count", type=int, metavar="N", help="How many shares there are; may exceed the number of blocks.")
@click.option(
    "--array",
    is_flag=True,
    help="Take both from the scheduler (Slurm, PBS, Grid Engine, LSF); with --count, the task's id is the index.",
)
@json_option
@quiet_option
@debug_option
@options_of("shard")
@click.pass_context
def shard(
    context: click.Context,
    /,
    source: str,
    shards: str,
    index: int | None,
    count: int | None,
    array: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Encode share I of N of the slide SRC into the folder SHARDS, which all tasks see.

    It may run again at any time: what is there is not made again. `slidewright assemble SHARDS DST` puts the shards
    together.
    """
    hush_libraries(context)
    index, count = _which(index, count, array)
    import slidewright

    report = slidewright.shard(source, shards, index=index, count=count, progress=not quiet, **collected(given))
    if as_json or not quiet:
        what = f"{plural(report.tiles, 'tile')}, {human_bytes(report.bytes)}"
        how = "is there already" if report.done_before else f"in {report.seconds:.1f} s"
        text = f"shard {index} of {count}: {plural(report.blocks, 'block')}, {what}, {how}"
        tell(asdict(report) if as_json else text, () if quiet else report.warnings, as_json=as_json)


def _which(index: int | None, count: int | None, array: bool) -> tuple[int, int]:
    if array:
        if index is not None:
            raise click.UsageError("--array takes the index from the scheduler; leave out --index")
        from slidewright.conversions.array_jobs import read_array

        return read_array(os.environ, count)
    if index is None or count is None:
        raise click.UsageError("give --index and --count, or --array in an array job")
    return index, count
