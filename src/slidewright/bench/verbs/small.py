"""`slidewright bench small`: one small slide, and a batch of them, next to libvips and to the targets."""

from __future__ import annotations

import statistics
from typing import Any

import click

from slidewright.bench.verbs.shared import grid, headline, keep, measured, notes, show
from slidewright.cli.common import debug_option


@click.command(short_help="Time small slides as they are typed, one and a batch, next to libvips.")
@click.argument("source", metavar="SRC")
@click.option("--copies", type=click.IntRange(min=2), default=60, show_default=True, metavar="N", help="In the batch.")
@click.option("--environments", metavar="DIR", help="Where libvips is installed.  [default: beside slidewright]")
@measured
@debug_option
def small(source: str, copies: int, repeat: int, json_file: str | None, csv_file: str | None, **given: Any) -> None:
    """Time whole commands on the small slide SRC, the number of workers left open, in turns with libvips.

    Processor seconds stand beside the time: they hold on a machine that others use as well.
    """
    from slidewright.bench.small import MANY, ONE, measure_small

    timings, where = measure_small(source, copies, notes(), repeat=repeat, **given)
    libvips = {timing.what: timing for timing in timings if timing.target is None}
    rows = []
    for timing in timings:
        seconds, processor = timing.over(libvips[timing.what])
        rows.append(
            {
                "what": timing.what,
                "name": timing.name,
                "median_s": round(statistics.median(timing.seconds), 4),
                "processor_s": round(statistics.median(timing.processor), 4),
                "over_libvips": round(seconds, 3),
                "processor_over_libvips": round(processor, 3),
                "target": timing.target,
            }
        )
    keep({"kind": "small", "machine": where, "copies": copies, "results": rows}, rows, json_file, csv_file)
    columns = ("", "median s", "processor s", "of libvips", "processor of libvips", "target")
    for what in (ONE, MANY):
        table = [[str(value) for value in list(row.values())[1:]] for row in rows if row["what"] == what]
        title = what if what == ONE else f"{what} of {copies}"
        show([headline(where, f"{repeat} timed runs, in turns"), grid(columns, table, title)])
