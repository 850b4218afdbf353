"""`slidewright assemble`: shards to a pyramidal TIFF."""

from __future__ import annotations

from typing import Any

import click

from slidewright.cli.common import hush_libraries, say, warn
from slidewright.cli.convert import collected, running_options, summary


@click.command(short_help="Put shards together to a pyramidal TIFF.")
@click.argument("shards", metavar="SHARDS")
@click.argument("destination", metavar="DST")
@click.option("--source", metavar="SRC", help="The source, if it is not where it was.")
@click.option("--remove", is_flag=True, help="Remove SHARDS when DST is complete.")
@running_options("n_workers", "memory", "scratch", "timeout", "overwrite", "verify", "quiet")
@click.pass_context
def assemble(context: click.Context, /, shards: str, destination: str, quiet: bool, **given: Any) -> None:
    """Put the shards in the folder SHARDS together to the pyramidal TIFF DST.

    The file is the one that `slidewright convert` makes, byte for byte. Missing and damaged shards are named, with the
    command that makes them.
    """
    hush_libraries(context)
    import slidewright

    report = slidewright.assemble(shards, destination, progress=not quiet, **collected(given))
    if not quiet:
        say(summary(report))
        for text in report.warnings:
            warn(text)
