"""`slidewright verify`: is a written pyramid what it should be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click

from slidewright.cli.common import (
    FilePath,
    debug_option,
    human_bytes,
    hush_libraries,
    plural,
    say,
    say_json,
    table,
    warn,
)
from slidewright.cli.options import GroupedCommand, collected, options_of
from slidewright.errors import OptionError
from slidewright.options import SELECTION

if TYPE_CHECKING:
    from slidewright.inspection.verify import VerifyReport


@click.command(
    cls=GroupedCommand,
    short_help="Check a pyramidal TIFF or OME-Zarr, and its pixels against a source.",
    example="slidewright verify out.ome.tif --against stack.tif --z all --min-psnr 30",
)
@click.argument("file", type=FilePath(), metavar="FILE")
@click.option(
    "--against",
    type=FilePath(),
    metavar="SRC",
    help="Compare every level with this source: exactly when lossless, PSNR when lossy.",
)
@click.option("--min-psnr", type=float, metavar="DB", help="Fail when a level's PSNR against SRC is lower.")
@click.option("--workers", type=click.IntRange(min=0), metavar="N", help="Threads.  [default: usable CPUs]")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@debug_option
@options_of("verify")
@click.pass_context
def verify(
    context: click.Context,
    /,
    file: str,
    against: str | None,
    min_psnr: float | None,
    workers: int | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Check the pyramidal TIFF or OME-Zarr FILE: its tables, that every tile decodes, its level sizes; with --against,
    its pixels.

    Options that say how FILE was made of SRC are those of convert. The exit code is 0 when all is well and 1 when
    something is wrong, which is then named.
    """
    hush_libraries(context)
    from slidewright.inspection.verify import verify_file

    options = collected(given)
    selection = {name: options.pop(name) for name in SELECTION if name in options}
    source: Any = against
    if selection:
        from slidewright.sources.open import open_source

        if against is None:
            raise OptionError(f"{next(iter(selection))} chooses an image of a source to compare with; give --against")
        source = open_source(against, **selection)
    report = verify_file(file, against=source, n_workers=workers, min_psnr=min_psnr, **options)
    if as_json:
        say_json(as_dict(report))
        return
    say(as_text(report))
    for text in report.warnings:
        warn(text)


def as_text(report: VerifyReport) -> str:
    """The report for people."""
    images = plural(len(report.levels), "level") + (
        f" and {plural(report.others, 'other image')}" if report.others else ""
    )
    against = f", compared with {report.against}" if report.against else ""
    head = (
        f"{report.path}: good; {images}, {plural(report.decoded, 'segment')} decoded{against}, {report.seconds:.1f} s"
    )
    header = ["level", "size", "tiles", "compression", "bytes"] + (["PSNR", "worst tile"] if report.against else [])
    rows = []
    for number, level in enumerate(report.levels):
        row = [str(number), str(level.size), str(level.tiles), level.compression, human_bytes(level.bytes)]
        if report.against:
            row += [decibels(level.psnr), decibels(level.worst_psnr)]
        rows.append(row)
    return f"{head}\n{table(header, rows)}"


def decibels(value: float | None) -> str:
    """A PSNR in words."""
    if value is None:
        return "-"
    return "exact" if math.isinf(value) else f"{value:.2f} dB"


def as_dict(report: VerifyReport) -> dict[str, object]:
    """The report for programs; the PSNR of an exact level is null."""
    return {
        "path": report.path,
        "bytes": report.bytes,
        "against": report.against,
        "levels": [
            {
                "width": level.size.width,
                "height": level.size.height,
                "tile": {"width": level.tile.width, "height": level.tile.height},
                "tiles": level.tiles,
                "decoded": level.decoded,
                "compression": level.compression,
                "bytes": level.bytes,
                "exact": level.exact,
                "psnr": level.psnr,
                "worst_psnr": level.worst_psnr,
            }
            for level in report.levels
        ],
        "others": report.others,
        "decoded": report.decoded,
        "seconds": report.seconds,
        "warnings": list(report.warnings),
    }
