"""`slidewright convert`: options to `slidewright.convert`, its report to one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from slidewright.cli.common import debug_option, expect, human_bytes, hush_libraries, plural, quiet_option, say, warn
from slidewright.cli.options import GroupedCommand, collected, options_of

if TYPE_CHECKING:
    from slidewright.report import Report


@click.command(
    cls=GroupedCommand,
    short_help="Convert a slide to a pyramidal TIFF or an OME-Zarr.",
    example="slidewright convert slide.svs out.tif --quality 85 --mpp 0.25 --workers 4 --memory 8GB",
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@click.option("--report", metavar="HTML", help="Write a page about the run: levels, compression, timeline.")
@quiet_option
@debug_option
@options_of("convert")
@click.pass_context
def convert(context: click.Context, /, source: str, destination: str, quiet: bool, **given: Any) -> None:
    """Convert the slide SRC to DST: a pyramidal TIFF, or an OME-Zarr where the name ends in .zarr.

    SRC is a TIFF or SVS, a zarr array or OME-NGFF group, a .npy file, or any slide that OpenSlide reads.
    """
    hush_libraries(context)
    expect(context, destination)
    import slidewright

    report = slidewright.convert(source, destination, progress=not quiet, **collected(given))
    if not quiet:
        say(summary(report))
        for text in report.warnings:
            warn(text)


def summary(report: Report) -> str:
    """One line about a finished conversion."""
    parts = [
        str(report.levels[0].size),
        plural(len(report.levels), "level"),
        f"{human_bytes(report.bytes)} in {report.seconds:.1f} s",
        f"{report.megapixels_per_second:.0f} Mpx/s",
    ]
    if report.kept_tiles:
        kept = f"levels 0 to {report.reused_levels}" if report.reused_levels else "level 0"
        parts.insert(2, f"{kept} kept as {'they were' if report.reused_levels else 'it was'}")
    if report.retries:
        parts.append(f"{plural(report.retries, 'block')} redone")
    if report.warnings:
        parts.append(plural(len(report.warnings), "warning"))
    return f"{report.destination}: {', '.join(parts)}"
