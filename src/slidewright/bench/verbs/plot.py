"""`slidewright bench plot`: a picture of results that were kept as JSON."""

from __future__ import annotations

import click

from slidewright.bench.verbs.shared import replacing_nothing
from slidewright.cli.common import debug_option, say


@click.command(short_help="Draw results that were kept as JSON.")
@click.argument("results", metavar="JSON", type=click.Path(exists=True, dir_okay=False))
@click.argument("picture", metavar="PICTURE", type=click.Path(dir_okay=False, writable=True))
@replacing_nothing("picture")
@debug_option
def plot(results: str, picture: str) -> None:
    """Draw what a benchmark wrote with --json as PICTURE, a .png, .svg or .pdf."""
    from slidewright.bench.plots import plot as draw

    draw(results, picture)
    say(f"{picture} written")
