"""`slidewright bench peers`: us and every other program that is installed, in turns, on the same slide."""

from __future__ import annotations

from typing import Any

import click

from slidewright.bench.verbs.shared import encoded, keep, measured, notes, read_names, read_workers, show
from slidewright.cli.common import FilePath, debug_option, hush_libraries


@click.command(short_help="Time conversions next to other programs, in turns.")
@click.argument("source", type=FilePath(), metavar="SRC")
@click.option("--peers", callback=read_names, metavar="NAME,...", help="Which.  [default: all that are installed]")
@click.option(
    "--environments", metavar="DIR", help="Where they are installed.  [default: SLIDEWRIGHT_PEERS, the cache]"
)
@click.option("--workers", callback=read_workers, metavar="N,...", help="Numbers of workers.  [default: usable CPUs]")
@encoded
@measured
@debug_option
def peers(json_file: str | None, csv_file: str | None, **given: Any) -> None:
    """Time whole processes that make a pyramid of SRC, taking turns: slidewright, its peers and the codec limit.

    Every output is held against ours: levels, sizes, tiles, codec, bytes, and pixels against the source. A row that is
    not the same work is marked, and what differs is said below the table.
    """
    hush_libraries(click.get_current_context())
    from slidewright.bench.contest import Settings, compare
    from slidewright.bench.verbs.comparison import render, rows
    from slidewright.system.limits import usable_cpus

    workers = given.pop("workers") or (usable_cpus(),)
    comparison = compare(Settings(workers=workers, **given), tell=notes())
    keep(comparison.as_json(), rows(comparison), json_file, csv_file)
    show(render(comparison))
