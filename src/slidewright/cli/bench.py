"""`slidewright bench`: how fast this machine converts, next to its peers and to what its codecs could do."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from slidewright.cli.common import debug_option
from slidewright.cli.scaling import scaling

if TYPE_CHECKING:
    from slidewright.bench import Comparison, Result

_COMPRESSIONS = ("jpeg", "deflate", "zstd", "none")
_WIDTH = 130  # of the table where no terminal says otherwise


@click.group()
def bench() -> None:
    """Measure speed and memory on this machine."""


def _read_workers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...]:
    if value is None:
        from slidewright.resources import usable_cpus

        return (usable_cpus(),)
    try:
        numbers = tuple(int(word) for word in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,2")
    return numbers


def _read_peers(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    return () if value in ("", "none") else tuple(value.split(","))


@bench.command()
@click.argument("source", metavar="SRC")
@click.option("--peers", default="vips", show_default=True, callback=_read_peers, help="vips, or none.")
@click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Timed runs.")
@click.option("--workers", callback=_read_workers, metavar="N,...", help="Numbers of workers.  [default: usable CPUs]")
@click.option("--compression", type=click.Choice(_COMPRESSIONS), default="jpeg", show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="JPEG quality.")
@click.option("--tile-size", type=click.IntRange(min=16), default=512, show_default=True, metavar="N")
@click.option("--folder", type=click.Path(exists=True, file_okay=False), help="Where outputs go for the time of a run.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, writable=True), help="Write all numbers there.")
@debug_option
def convert(json_file: str | None, **given: Any) -> None:
    """Time whole processes that make a pyramid of SRC, taking turns: medians, memory, and ratios."""
    from rich.console import Console

    from slidewright.bench import Settings, compare

    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    notes = Console(stderr=True, highlight=False)
    comparison = compare(Settings(**given), tell=notes.print)
    # Before the table: whoever reads that may hang up, and the numbers took minutes.
    if json_file is not None:
        with open(json_file, "w", encoding="utf-8") as file:
            json.dump(comparison.as_json(), file, indent=2)
    for line in _render(comparison):
        console.print(line)


def _render(comparison: Comparison) -> list[Any]:
    from rich.table import Table

    machine, settings = comparison.machine, comparison.settings
    table = Table()
    columns = ("", "workers", "median s", "spread", "Mpx/s", "peak MB", "/ vips", "of limit", "of limit at once")
    for column in columns:
        table.add_column(column, justify="left" if column == "" else "right")
    for result in sorted(comparison.results, key=lambda result: result.workers):
        table.add_row(*_row(comparison, result))
    lines: list[Any] = [
        f"{machine['processor']}, {machine['usable_cpus']} usable CPUs, Python {machine['python']}; "
        f"{settings.compression}, tile {settings.tile_size}, {settings.repeat} timed runs each, interleaved",
        table,
        "/ vips: time over that of libvips. of limit: time of the codecs alone (one process, divided by the workers), "
        "over this time. at once: the same by as many processes as workers.",
    ]
    for result in comparison.results:
        if result.stages:
            stages = ", ".join(f"{name} {seconds:.2f}" for name, seconds in result.stages.items())
            lines.append(f"stages of {result.name} with {result.workers} (s, summed over workers): {stages}")
    for result in comparison.results:
        if result.output is not None:
            lines.append(_fairness(result))
    return lines


def _row(comparison: Comparison, result: Result) -> tuple[str, ...]:
    def ratio(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    name, workers = result.name, result.workers
    return (
        name,
        str(workers),
        f"{result.median:.2f}",
        f"{result.spread:.0%}",
        f"{result.megapixels_per_second:.0f}",
        "" if result.peak_pss is None else f"{result.peak_pss / 1e6:.0f}",
        ratio(comparison.ratio(name, "vips", workers)),
        ratio(comparison.ratio("codec-limit", name, workers)),
        ratio(comparison.ratio("codec-limit-together", name, workers)),
    )


def _fairness(result: Result) -> str:
    """What was written, on one line, to see that both did the same work."""
    output = result.output
    assert output is not None
    sampling = "" if output.subsampling is None else f" {output.subsampling[0]}x{output.subsampling[1]}"
    first, last = output.levels[0], output.levels[-1]
    return (
        f"{result.name} with {result.workers} wrote {len(output.levels)} levels, {first[0]} x {first[1]} to "
        f"{last[0]} x {last[1]}, tile {output.tile[0]} x {output.tile[1]}, {output.compression}, "
        f"{output.photometric}{sampling}, {output.bytes} bytes"
    )


bench.add_command(scaling)
