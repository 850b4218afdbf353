"""`slidewright bench codecs`: every compressor on the image, on annotations and on a mask, next to dlup's writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from slidewright.bench.verbs.shared import grid, headline, keep, measured, notes, read_names, show
from slidewright.cli.common import FilePath, debug_option, human_bytes

if TYPE_CHECKING:
    from slidewright.bench.codectables import CodecComparison

_TITLES = {
    "lossless": "Image, without loss",
    "lossy": "Image, with loss",
    "annotations": "Annotations (labels)",
    "mask": "Binary mask",
}


@click.command(short_help="Time every compressor on the image, annotations and a mask.")
@click.argument("source", type=FilePath(), metavar="SRC")
@click.option(
    "--tables", callback=read_names, metavar="NAME,...", help="lossless, lossy, annotations, mask.  [default: all]"
)
@click.option("--compressions", callback=read_names, metavar="NAME,...", help="Which compressors.  [default: all]")
@click.option("--side", type=int, default=8192, show_default=True, metavar="N", help="Of the part that is encoded.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, metavar="N")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Of the lossy table.")
@click.option("--tile-size", type=click.IntRange(min=16), default=512, show_default=True, metavar="N")
@click.option("--dlup", metavar="NAME", help="dlup-0.3 or dlup-0.9.  [default: the one that is installed]")
@click.option("--environments", metavar="DIR", help="Where dlup is installed.  [default: SLIDEWRIGHT_PEERS, the cache]")
@measured
@debug_option
def codecs(json_file: str | None, csv_file: str | None, **given: Any) -> None:
    """Time every compressor on a part of the slide SRC (uint8 RGB), and on annotations and a mask made from it.

    The part has as much tissue as the whole slide. Annotations are its connected regions of tissue with a number each.
    Where dlup is installed, its writer gets the same tiles.
    """
    from slidewright.bench.codectables import TABLES, CodecSettings, compare_codecs

    tables = given.pop("tables") or TABLES
    comparison = compare_codecs(CodecSettings(tables=tables, **given), tell=notes())
    answer = comparison.as_json()
    keep(
        answer,
        [entry.as_row() | {"seconds": None, "dlup_seconds": None} for entry in comparison.entries],
        json_file,
        csv_file,
    )
    show(render(comparison))


def render(comparison: CodecComparison) -> list[Any]:
    """The tables and the reasons below them."""
    settings = comparison.settings
    workers = "1 worker" if settings.workers == 1 else f"{settings.workers} workers"
    dlup = comparison.dlup or "dlup not installed"
    head = f"{comparison.region}, tile {settings.tile_size}, {workers}, {settings.repeat} timed runs, in turns; {dlup}"
    lines: list[Any] = [headline(comparison.machine, head)]
    for table in settings.tables:
        entries = [entry for entry in comparison.entries if entry.table == table]
        rows = [
            (
                entry.compression,
                _number(entry.median, ".2f"),
                _number(None if entry.median is None else entry.megapixels / entry.median, ".3g"),
                "" if entry.bytes is None else human_bytes(entry.bytes),
                _number(entry.compression_ratio, ".1f"),
                _number(entry.dlup_median, ".2f"),
                "" if entry.dlup_bytes is None else human_bytes(entry.dlup_bytes),
                _number(entry.time_over_dlup, ".2f"),
            )
            for entry in entries
        ]
        columns = ("", "median s", "Mpx/s", "file", "ratio", "dlup s", "dlup file", "ours / dlup")
        lines.append(grid(columns, rows, _TITLES[table]))
        lines += [f"{entry.compression}: {entry.refused}" for entry in entries if entry.refused]
        lines += [f"{entry.compression}, dlup: {entry.dlup_refused}" for entry in entries if entry.dlup_refused]
    return lines


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
