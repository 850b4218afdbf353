"""`slidewright assemble`: shards to a pyramidal TIFF."""

from __future__ import annotations

from typing import Any

import click

from slidewright.cli.common import FilePath, debug_option, expect, hush_libraries, json_option, quiet_option
from slidewright.cli.convert import finish
from slidewright.cli.options import GroupedCommand, collected, options_of


@click.command(
    cls=GroupedCommand,
    short_help="Put shards together to a pyramidal TIFF.",
    example="slidewright assemble shards out.tif --verify --remove",
)
@click.argument("shards", type=FilePath(), metavar="SHARDS")
@click.argument("destination", type=FilePath(), metavar="DST")
@click.option("--source", type=FilePath(), metavar="SRC", help="The source, if it is not where it was.")
@click.option("--remove", is_flag=True, help="Remove SHARDS when DST is complete.")
@json_option
@quiet_option
@debug_option
@options_of("assemble")
@click.pass_context
def assemble(
    context: click.Context, /, shards: str, destination: str, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Put the shards in the folder SHARDS together to the pyramidal TIFF DST.

    The file is the one that `slidewright convert` makes, byte for byte. Missing and damaged shards are named, with the
    command that makes them.
    """
    hush_libraries(context)
    expect(context, destination)
    import slidewright

    report = slidewright.assemble(shards, destination, progress=not quiet, **collected(given))
    finish(report, quiet=quiet, as_json=as_json)
