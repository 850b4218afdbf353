"""`slidewright assemble`: shards to a pyramidal TIFF."""

from __future__ import annotations

from typing import Any

import click

from slidewright.cli.common import debug_option, expect, hush_libraries, quiet_option, say, warn
from slidewright.cli.convert import summary
from slidewright.cli.options import GroupedCommand, collected, options_of


@click.command(
    cls=GroupedCommand,
    short_help="Put shards together to a pyramidal TIFF.",
    example="slidewright assemble shards out.tif --verify --remove",
)
@click.argument("shards", metavar="SHARDS")
@click.argument("destination", metavar="DST")
@click.option("--source", metavar="SRC", help="The source, if it is not where it was.")
@click.option("--remove", is_flag=True, help="Remove SHARDS when DST is complete.")
@quiet_option
@debug_option
@options_of("assemble")
@click.pass_context
def assemble(context: click.Context, /, shards: str, destination: str, quiet: bool, **given: Any) -> None:
    """Put the shards in the folder SHARDS together to the pyramidal TIFF DST.

    The file is the one that `slidewright convert` makes, byte for byte. Missing and damaged shards are named, with the
    command that makes them.
    """
    hush_libraries(context)
    expect(context, destination)
    import slidewright

    report = slidewright.assemble(shards, destination, progress=not quiet, **collected(given))
    if not quiet:
        say(summary(report))
        for text in report.warnings:
            warn(text)
