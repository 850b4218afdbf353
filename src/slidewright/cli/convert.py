"""`slidewright convert`: options to `slidewright.convert`, its report to one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from slidewright.cli.common import (
    FilePath,
    debug_option,
    dry_run_option,
    expect,
    human_bytes,
    hush_libraries,
    json_option,
    plural,
    quiet_option,
    say,
    say_json,
    size_dict,
    table,
    warn,
)
from slidewright.cli.options import GroupedCommand, collected, options_of
from slidewright.report import UNUSED

if TYPE_CHECKING:
    from slidewright.conversions.preview import Preview
    from slidewright.report import LevelReport, Report


@click.command(
    cls=GroupedCommand,
    short_help="Convert a slide to a pyramidal TIFF or an OME-Zarr.",
    example="slidewright convert slide.svs out.tif --quality 85 --mpp 0.25 --workers 4 --memory 8GB",
)
@click.argument("source", type=FilePath(), metavar="SRC")
@click.argument("destination", type=FilePath(), metavar="DST")
@click.option(
    "--report", type=FilePath(), metavar="HTML", help="Write a page about the run: levels, compression, timeline."
)
@dry_run_option
@json_option
@quiet_option
@debug_option
@options_of("convert")
@click.pass_context
def convert(
    context: click.Context,
    /,
    source: str,
    destination: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Convert the slide SRC to DST: a pyramidal TIFF, an OME-TIFF where the name ends in .ome.tif, or an OME-Zarr where
    it ends in .zarr.

    SRC is a TIFF or SVS, a zarr array or OME-NGFF group, a .npy file, an image such as a PNG, the URL of one of these,
    or any slide that OpenSlide reads.
    """
    hush_libraries(context)
    import slidewright

    if dry_run:
        shown = slidewright.preview(source, destination, **collected(given))
        tell(preview_dict(shown) if as_json else preview_text(shown), shown.warnings, as_json=as_json)
        return
    expect(context, destination)
    report = slidewright.convert(source, destination, progress=not quiet, **collected(given))
    finish(report, quiet=quiet, as_json=as_json)


def finish(report: Report, *, quiet: bool, as_json: bool) -> None:
    """Say what became of a conversion."""
    if as_json or not quiet:
        tell(report_dict(report) if as_json else summary(report), () if quiet else report.warnings, as_json=as_json)


def tell(what: Any, warnings: Sequence[str], *, as_json: bool) -> None:
    """Write a text, or a value as JSON, and warnings beside it."""
    if as_json:
        say_json(what)
    else:
        say(what)
    for text in warnings:
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


def report_dict(report: Report) -> dict[str, Any]:
    """The report for programs; sizes are {"width", "height"}."""
    speed = {"megapixels_per_second": report.megapixels_per_second}
    return {**asdict(report), "levels": _level_dicts(report.levels), **speed}


def preview_dict(preview: Preview) -> dict[str, Any]:
    """A preview for programs; its bytes and seconds are estimates."""
    settings = {
        name: None if value == UNUSED else value if isinstance(value, (int, float)) else str(value)
        for name, value in preview.settings.items()
    }
    return {**asdict(preview), "levels": _level_dicts(preview.levels), "settings": settings}


def _level_dicts(levels: Sequence[LevelReport]) -> list[dict[str, Any]]:
    return [{**size_dict(level.size), "tiles": level.tiles, "bytes": level.bytes} for level in levels]


def preview_text(preview: Preview) -> str:
    """A preview for people."""
    used = preview.settings
    details = [used["compression"]]
    for name, words in (("quality", "quality {}"), ("effort", "effort {}"), ("subsampling", "subsampling {}")):
        if used[name] != UNUSED:
            details.append(words.format(used[name]))
    mpp = used["mpp"] if used["mpp"] == "unknown" else f"{used['mpp']} um a pixel"
    files = "1 file" if preview.files == 1 else f"a folder of at most {preview.files} files"
    who = f"with {plural(preview.n_workers, 'worker')}" if preview.n_workers else "in this process"
    lines = [
        f"{preview.destination} would be written; nothing was",
        f"  source       {preview.source}",
        f"  format       {preview.format}, {files}",
        f"  compression  {', '.join(details)}",
        f"  resampling   {used['resampling']}",
        f"  resolution   {mpp}",
        f"  tiles        {used['keep_tiles']}",
        f"  bytes        about {human_bytes(preview.bytes)}",
        f"  time         about {preview.seconds:.2g} s, {who}, on an idle machine",
    ]
    rows = [
        (str(number), str(level.size), str(level.tiles), f"about {human_bytes(level.bytes)}")
        for number, level in enumerate(preview.levels)
    ]
    return "\n".join([*lines, table(("level", "size", "tiles", "bytes"), rows)])
