"""What the benchmarks' verbs share: options, and results as a table, as JSON and as CSV."""

from __future__ import annotations

import csv
import functools
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from slidewright.errors import DestinationError
from slidewright.system.file_identity import same_file

_WIDTH = 150  # of a table where no terminal says otherwise


def read_workers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """ "1,2,4" as numbers."""
    if value is None:
        return None
    try:
        numbers = tuple(int(word) for word in value.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise click.BadParameter(f"{value!r} is not a list of numbers such as 1,2")
    return numbers


def read_names(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """ "libvips,wsic" as names."""
    return None if value is None else tuple(name for name in value.split(",") if name)


def doublings(most: int) -> tuple[int, ...]:
    """1, 2, 4 ... and `most` itself."""
    numbers = [1]
    while numbers[-1] * 2 < most:
        numbers.append(numbers[-1] * 2)
    return (*numbers, most) if most > 1 else (1,)


def measured(function: Any) -> Any:
    """The options of everything that runs whole processes."""
    file = click.Path(dir_okay=False, writable=True)
    folder = click.Path(exists=True, file_okay=False)
    for option in (
        click.option("--csv", "csv_file", type=file, metavar="FILE", help="Write the table there as CSV."),
        click.option("--json", "json_file", type=file, metavar="FILE", help="Write all numbers there."),
        click.option("--folder", type=folder, metavar="DIR", help="Where outputs go for the time of a run."),
        click.option("--timeout", type=float, default=1800, show_default=True, metavar="S", help="Of one run."),
        click.option("--repeat", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="Runs."),
    ):
        function = option(function)
    return replacing_nothing("json_file", "csv_file")(function)


def replacing_nothing(*names: str) -> Callable[[Any], Any]:
    """The option --overwrite: without it, results of these names that are there already are refused, and always those
    that would be written over what is measured; before anything is.
    """

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def careful(*arguments: Any, overwrite: bool, **given: Any) -> Any:
            for file in filter(None, map(given.get, names)):
                if given.get("source") is not None and same_file(file, given["source"]):
                    raise click.UsageError(f"{file!r} is the source itself; name another file")
                if os.path.isfile(file) and not overwrite:
                    raise DestinationError(f"{file!r} exists; choose another name or overwrite it (--overwrite)")
            return function(*arguments, **given)

        return click.option("--overwrite", is_flag=True, help="Replace results that exist.")(careful)

    return decorate


def encoded(function: Any) -> Any:
    """The options that say what is written."""
    for option in (
        click.option("--tile-size", type=click.IntRange(min=16), default=512, show_default=True, metavar="N"),
        click.option("--effort", type=int, metavar="N", help="Effort of a lossless codec.  [default: the codec's]"),
        click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="If lossy."),
        click.option("--compression", default="jpeg", show_default=True, metavar="NAME"),
        click.option("--format", type=click.Choice(("tiff", "ome-zarr")), default="tiff", show_default=True),
    ):
        function = option(function)
    return function


def notes() -> Callable[[str], None]:
    """Prints a line to standard error."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False)
    return lambda text: console.print(text)


def keep(answer: dict[str, Any], rows: Sequence[dict[str, Any]], json_file: str | None, csv_file: str | None) -> None:
    """Write the files that were asked for. Before any table: whoever reads that may hang up."""
    if json_file is not None:
        with open(json_file, "w", encoding="utf-8") as file:
            json.dump(answer, file, indent=2)
    if csv_file is not None:
        with open(csv_file, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)


def show(lines: Sequence[Any]) -> None:
    """Print text and tables to standard output."""
    from rich.console import Console

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else _WIDTH)
    for line in lines:
        console.print(line)


def grid(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Any:
    """A table: the first column on the left, the others on the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def headline(machine: dict[str, Any], rest: str) -> str:
    """One line about where it was measured."""
    return f"{machine['processor']}, {machine['usable_cpus']} usable CPUs, Python {machine['python']}; {rest}"
