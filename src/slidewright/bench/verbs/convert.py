"""`slidewright bench convert`: our own time at several numbers of workers, by stage, next to the codec limit."""

from __future__ import annotations

from typing import Any

import click

from slidewright.bench.verbs.shared import doublings, encoded, keep, measured, notes, read_workers, show
from slidewright.cli.common import FilePath, debug_option, hush_libraries


@click.command(short_help="Time conversions at several numbers of workers, by stage.")
@click.argument("source", type=FilePath(), metavar="SRC")
@click.option(
    "--workers", callback=read_workers, metavar="N,...", help="Numbers of workers.  [default: 1, 2, 4 ... CPUs]"
)
@encoded
@measured
@debug_option
def convert(json_file: str | None, csv_file: str | None, **given: Any) -> None:
    """Time whole processes that make a pyramid of SRC at several numbers of workers: medians, memory, stages.

    The codec limit beside them is what decoding, encoding and reducing cost with nothing around.
    """
    hush_libraries(click.get_current_context())
    from slidewright.bench.contest import Settings, compare
    from slidewright.bench.verbs.comparison import render, rows
    from slidewright.system.limits import usable_cpus

    workers = given.pop("workers") or doublings(usable_cpus())
    comparison = compare(Settings(workers=workers, **given), tell=notes())
    keep(comparison.as_json(), rows(comparison), json_file, csv_file)
    show(render(comparison))
