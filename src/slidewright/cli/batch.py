"""`slidewright batch`: many slides, a summary, and an exit code that says whether all went well."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from slidewright.cli.common import (
    FilePath,
    debug_option,
    dry_run_option,
    human_bytes,
    hush_libraries,
    json_option,
    plural,
    quiet_option,
    say,
    say_json,
    table,
    warn,
)
from slidewright.cli.options import GroupedCommand, collected, options_of

if TYPE_CHECKING:
    from slidewright.conversions.batch import BatchReport
    from slidewright.conversions.batch_slide import BatchItem


@click.command(
    cls=GroupedCommand,
    short_help="Convert many slides; skip what is done, go on after a failure.",
    example="slidewright batch slides/*.svs --out pyramids --quality 85",
)
@click.argument("slides", type=FilePath(), metavar="MANIFEST|SLIDES...", nargs=-1, required=True)
@click.option(
    "--out",
    type=FilePath("dir"),
    metavar="DIR",
    help="Where the files go, if no manifest says it; made if need be.",
)
@click.option("--recursive", is_flag=True, help="Also the slides in the folders below a folder.")
@click.option("--suffix", default=".tif", show_default=True, metavar="TEXT", help="What their names end with.")
@click.option("--array", is_flag=True, help="Do this task's share of the slides in an array job.")
@click.option("--count", type=int, metavar="N", help="With --array: tasks in all; the task's id is then its number.")
@click.option(
    "--report",
    type=FilePath(),
    metavar="FILE",
    help="JSON lines of what was done.  [default: beside MANIFEST, or in DIR]",
)
@dry_run_option
@json_option
@quiet_option
@debug_option
@options_of("batch")
@click.pass_context
def batch(
    context: click.Context,
    /,
    slides: tuple[str, ...],
    array: bool,
    count: int | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> int:
    """Convert the slides of a CSV file, MANIFEST, or SLIDES: paths, folders of slides, and patterns.

    A CSV file has the columns source and destination, and any option: compression, quality, mpp, page, ... A slide that
    the report says is done is skipped if neither it nor its options have changed. The exit code is 1 if any failed.
    """
    hush_libraries(context)
    task = _task(array, count)
    import slidewright

    talks = not quiet and not as_json

    def tell(item: BatchItem) -> None:
        if talks:
            say(line(item))

    bar = not quiet and sys.stderr is not None and sys.stderr.isatty()
    report = slidewright.batch(slides, task=task, tell=tell, progress=bar, **collected(given))
    if as_json:
        say_json(asdict(report))
    if talks:
        say(summary(report))
    for text in () if quiet else report.warnings:
        warn(text)
    for item in report.items:
        for text in () if quiet else item.warnings:
            warn(f"{item.source}: {text}")
    for item in report.failed:
        warn(f"{item.source}: {item.error}")
    return 1 if report.failed else 0


def _task(array: bool, count: int | None) -> tuple[int, int] | None:
    if not array:
        if count is not None:
            raise click.UsageError("--count goes with --array")
        return None
    from slidewright.conversions.array_jobs import read_array

    return read_array(os.environ, count)


def line(item: BatchItem) -> str:
    """One line about one slide."""
    if item.status == "planned":
        estimate = f"about {human_bytes(item.bytes)}, {item.seconds:.2g} s"
        return f"{item.status:>7}  {item.source} -> {item.destination} ({estimate})"
    more = f", {item.megapixels / max(item.seconds, 1e-9):.0f} Mpx/s" if item.status == "done" else ""
    return f"{item.status:>7}  {item.source} ({item.seconds:.1f} s{more})"


def summary(report: BatchReport) -> str:
    """A table of what was done, skipped and failed."""
    rows = []
    dry = any(item.status == "planned" for item in report.items)
    for status in ("planned" if dry else "done", "skipped", "failed"):
        items = [item for item in report.items if item.status == status]
        seconds, nbytes = sum(item.seconds for item in items), sum(item.bytes for item in items)
        rows.append([status, str(len(items)), f"{seconds:.1f}", human_bytes(nbytes) if nbytes else ""])
    head = f"{plural(len(report.items), 'slide')} in {report.seconds:.1f} s; report: {report.report}"
    if dry:
        head = f"{plural(len(report.items), 'slide')}, of which nothing was written; bytes and seconds are estimates"
    return f"{head}\n{table(['', 'slides', 'seconds', 'written'], rows)}"
