"""`slidewright restore`: an archive to the file that it was made of."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from slidewright.cli.common import (
    FilePath,
    debug_option,
    expect,
    human_bytes,
    hush_libraries,
    json_option,
    plural,
    quiet_option,
)
from slidewright.cli.convert import tell
from slidewright.cli.options import GroupedCommand, collected, options_of


@click.command(
    cls=GroupedCommand,
    short_help="Give back the file that an archive was made of.",
    example="slidewright restore slide.archive.tif slide.svs",
)
@click.argument("archive", type=FilePath(), metavar="ARCHIVE")
@click.argument("destination", type=FilePath(), metavar="DST")
@json_option
@quiet_option
@debug_option
@options_of("restore")
@click.pass_context
def restore(
    context: click.Context, /, archive: str, destination: str, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Write the file that ARCHIVE was made of to DST, byte for byte.

    ARCHIVE is what `slidewright convert --archive jpegxl` wrote. DST appears when its hash is that of the original.
    """
    hush_libraries(context)
    expect(context, destination)
    import slidewright

    report = slidewright.restore(archive, destination, progress=not quiet, **collected(given))
    pieces = f"{human_bytes(report.bytes)}, {plural(report.segments, 'JPEG segment')} in {report.seconds:.1f} s"
    said = f"{report.destination}: {pieces}, the file that was archived (SHA-256 {report.sha256[:16]}...)"
    if as_json or not quiet:
        tell(asdict(report) if as_json else said, () if quiet else report.warnings, as_json=as_json)
