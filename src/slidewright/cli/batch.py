"""`slidewright batch`: many slides, a summary, and an exit code that says whether all went well."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from slidewright.cli.common import debug_option, human_bytes, hush_libraries, plural, quiet_option, say, table, warn
from slidewright.cli.options import GroupedCommand, collected, options_of

if TYPE_CHECKING:
    from slidewright.conversions.batch import BatchReport
    from slidewright.conversions.batch_slide import BatchItem


@click.command(
    cls=GroupedCommand,
    short_help="Convert many slides; skip what is done, go on after a failure.",
    example="slidewright batch 'slides/*.svs' --out pyramids --quality 85",
)
@click.argument("manifest", metavar="MANIFEST")
@click.option("--out", metavar="DIR", help="Where the files go, for a folder or pattern.")
@click.option("--suffix", default=".tif", show_default=True, metavar="TEXT", help="What their names end with.")
@click.option("--array", is_flag=True, help="Do this task's share of the slides in an array job.")
@click.option("--count", type=int, metavar="N", help="With --array: tasks in all; the task's id is then its number.")
@click.option(
    "--report", metavar="FILE", help="JSON lines of what was done.  [default: beside MANIFEST, or in the folder]"
)
@quiet_option
@debug_option
@options_of("batch")
@click.pass_context
def batch(context: click.Context, /, manifest: str, array: bool, count: int | None, quiet: bool, **given: Any) -> int:
    """Convert the slides of MANIFEST: a CSV file, a folder, or a pattern in quotes.

    A CSV file has the columns source and destination, and any option: compression, quality, mpp, page, ... A slide that
    the report says is done is skipped if neither it nor its options have changed. The exit code is 1 if any failed.
    """
    hush_libraries(context)
    task = _task(array, count)
    import slidewright

    def tell(item: BatchItem) -> None:
        if not quiet:
            say(line(item))

    bar = not quiet and sys.stderr.isatty()
    report = slidewright.batch(manifest, task=task, tell=tell, progress=bar, **collected(given))
    if not quiet:
        say(summary(report))
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
    more = f", {item.megapixels / max(item.seconds, 1e-9):.0f} Mpx/s" if item.status == "done" else ""
    return f"{item.status:>7}  {item.source} ({item.seconds:.1f} s{more})"


def summary(report: BatchReport) -> str:
    """A table of what was done, skipped and failed."""
    rows = []
    for status in ("done", "skipped", "failed"):
        items = [item for item in report.items if item.status == status]
        seconds, nbytes = sum(item.seconds for item in items), sum(item.bytes for item in items)
        rows.append([status, str(len(items)), f"{seconds:.1f}", human_bytes(nbytes) if nbytes else ""])
    head = f"{plural(len(report.items), 'slide')} in {report.seconds:.1f} s; report: {report.report}"
    return f"{head}\n{table(['', 'slides', 'seconds', 'written'], rows)}"
