"""`slidewright restore`: an archive to the file that it was made of."""

from __future__ import annotations

from typing import Any

import click

from slidewright.cli.common import debug_option, expect, human_bytes, hush_libraries, plural, quiet_option, say, warn
from slidewright.cli.options import GroupedCommand, collected, options_of


@click.command(
    cls=GroupedCommand,
    short_help="Give back the file that an archive was made of.",
    example="slidewright restore slide.archive.tif slide.svs",
)
@click.argument("archive", metavar="ARCHIVE")
@click.argument("destination", metavar="DST")
@quiet_option
@debug_option
@options_of("restore")
@click.pass_context
def restore(context: click.Context, /, archive: str, destination: str, quiet: bool, **given: Any) -> None:
    """Write the file that ARCHIVE was made of to DST, byte for byte.

    ARCHIVE is what `slidewright convert --archive jpegxl` wrote. DST appears when its hash is that of the original.
    """
    hush_libraries(context)
    expect(context, destination)
    import slidewright

    report = slidewright.restore(archive, destination, progress=not quiet, **collected(given))
    if not quiet:
        pieces = f"{human_bytes(report.bytes)}, {plural(report.segments, 'JPEG segment')} in {report.seconds:.1f} s"
        say(f"{report.destination}: {pieces}, the file that was archived (SHA-256 {report.sha256[:16]}...)")
        for text in report.warnings:
            warn(text)
