"""`slidewright convert`: options to `slidewright.convert`, its report to one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from slidewright.cli.common import debug_option, human_bytes, hush_libraries, plural, say, warn
from slidewright.cli.kinds import kind_options
from slidewright.codecs import CODECS, DEFAULT, DEFAULT_IMAGE
from slidewright.options import ON_CORRUPT, RESAMPLINGS, SUBSAMPLINGS, ConvertOptions

if TYPE_CHECKING:
    from slidewright.report import Report

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(ConvertOptions)}


def _read_mpp(_: click.Context, __: click.Parameter, value: str | None) -> float | tuple[float, float] | None:
    """ "0.25", or "0.25,0.26" for x and y."""
    if value is None:
        return None
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        return numbers[0]
    if len(numbers) == 2:
        return (numbers[0], numbers[1])
    raise click.BadParameter(f"{value!r} is not a number of micrometres; write 0.25, or 0.25,0.26 for x and y")


def _read_subsampling(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """ "420", or as written elsewhere "4:2:0"."""
    plain = None if value is None else value.replace(":", "")
    if plain is not None and plain not in SUBSAMPLINGS:
        raise click.BadParameter(f"{value!r} is not one of {', '.join(SUBSAMPLINGS)}")
    return plain


def _effort_help(name: str, intro: str) -> str:
    """Range and default of quality or level, by compression; those that agree are named together."""
    ranges: dict[str, list[str]] = {}
    for codec in CODECS.values():
        if codec.effort is not None and codec.effort.name == name:
            words = f"{codec.effort.low} to {codec.effort.high}, default {codec.effort.default}"
            ranges.setdefault(words, []).append(codec.name)
    return f"{intro}: {'; '.join(', '.join(names) + ' ' + words for words, names in ranges.items())}."


def pixel_options(function: Any) -> Any:
    """The options about pixels and compression."""
    for option in reversed(
        (
            click.option(
                "--tile-size",
                type=int,
                metavar="N",
                help=f"Tile side, a multiple of 16.  [default: {_DEFAULTS['tile_size']}]",
            ),
            click.option(
                "--compression",
                metavar="NAME",
                help=f"{', '.join(CODECS)}.  [default: {DEFAULT_IMAGE} for RGB and grey of 8 bits, else {DEFAULT}]",
            ),
            click.option("--quality", type=int, metavar="Q", help=_effort_help("quality", "Of a lossy compression")),
            click.option(
                "--level", type=int, metavar="N", help=_effort_help("level", "Effort of a lossless compression")
            ),
            click.option(
                "--subsampling",
                metavar="420|422|444",
                callback=_read_subsampling,
                help="JPEG chroma subsampling.  [default: 420]",
            ),
            click.option(
                "--predictor/--no-predictor",
                default=None,
                help=f"Differencing before {', '.join(name for name, codec in CODECS.items() if codec.predictor)}.  "
                "[default: of images of integers]",
            ),
            click.option(
                "--levels", type=int, metavar="N", help="Number of levels.  [default: until one tile holds it]"
            ),
            click.option(
                "--resampling",
                type=click.Choice(RESAMPLINGS),
                help="How levels are made.  [default: mean; of labels and masks nearest]",
            ),
            click.option(
                "--mpp",
                metavar="UM",
                callback=_read_mpp,
                help="Micrometres a pixel, X or X,Y.  [default: the source's]",
            ),
            click.option("--description", metavar="TEXT", help="ImageDescription.  [default: the source's]"),
            click.option(
                "--classic", is_flag=True, help="Classic TIFF instead of BigTIFF; fails if it does not fit in 4 GB."
            ),
        )
    ):
        function = option(function)
    return function


def source_options(function: Any) -> Any:
    """The options about which image of the source to read."""
    for option in reversed(
        (
            click.option("--page", type=int, metavar="N", help="Page of a TIFF source."),
            click.option("--series", type=int, metavar="N", help="Series of a TIFF or zarr source."),
            click.option(
                "--source-level",
                "level_index",
                type=int,
                metavar="N",
                help="Level of the source to read.  [default: 0]",
            ),
        )
    ):
        function = option(function)
    return function


def _running(function: Any) -> Any:
    """The options about the run."""
    for option in reversed(
        (
            click.option(
                "--workers",
                "n_workers",
                type=int,
                metavar="N",
                help="Worker processes; 0: none.  [default: usable CPUs]",
            ),
            click.option(
                "--memory", metavar="SIZE", help="Budget for all processes, such as 4GB.  [default: what is free]"
            ),
            click.option(
                "--block-tiles",
                type=int,
                metavar="N",
                help="Block side in tiles, a power of two.  [default: by memory]",
            ),
            click.option("--scratch", metavar="DIR", help="Folder for temporary levels.  [default: TMPDIR]"),
            click.option(
                "--on-corrupt",
                type=click.Choice(ON_CORRUPT),
                help=f"Paint tiles of SRC that don't decode, or give up.  [default: {_DEFAULTS['on_corrupt']}]",
            ),
            click.option(
                "--timeout",
                type=float,
                metavar="SECONDS",
                help="Kill a worker that takes longer for one block, and do the block again.  [default: none]",
            ),
            click.option("--overwrite", is_flag=True, help="Replace DST if it exists, at the very end."),
            click.option("--report", metavar="HTML", help="Write a page about the run: levels, compression, timeline."),
            click.option("--verify", is_flag=True, help="Decode every tile before DST gets its name."),
            click.option(
                "--resume", is_flag=True, help="Keep finished parts in DST.shards; run again to go on after a kill."
            ),
            click.option(
                "--dask", metavar="ADDRESS", help="Encode on the workers of the Dask cluster with this scheduler."
            ),
            click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors."),
        )
    ):
        function = option(function)
    return debug_option(function)


def running_options(*names: str) -> Callable[[Any], Any]:
    """Those of the options about the run that have these names."""

    def decorate(function: Any) -> Any:
        before = len(getattr(function, "__click_params__", []))
        function = _running(function)
        options = function.__click_params__
        function.__click_params__ = options[:before] + [
            option for option in options[before:] if option.name in ("debug", *names)
        ]
        return function

    return decorate


@click.command(short_help="Convert a slide to a pyramidal TIFF.")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@pixel_options
@kind_options
@source_options
@_running
@click.pass_context
def convert(context: click.Context, /, source: str, destination: str, quiet: bool, **given: Any) -> None:
    """Convert the slide SRC to the pyramidal TIFF DST.

    SRC is a TIFF or SVS, a zarr array or OME-NGFF group, a .npy file, or any slide that OpenSlide reads.
    """
    hush_libraries(context)
    import slidewright

    report = slidewright.convert(source, destination, progress=not quiet, **collected(given))
    if not quiet:
        say(summary(report))
        for text in report.warnings:
            warn(text)


def collected(given: dict[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as keyword arguments of the library."""
    options = {name: value for name, value in given.items() if value is not None and value is not False}
    if given.get("predictor") is False:
        options["predictor"] = False
    if options.pop("classic", False):
        options["bigtiff"] = False
    if "dask" in options:
        options["engine"] = "dask"
    return options


def summary(report: Report) -> str:
    """One line about a finished conversion."""
    parts = [
        str(report.levels[0].size),
        plural(len(report.levels), "level"),
        f"{human_bytes(report.bytes)} in {report.seconds:.1f} s",
        f"{report.megapixels_per_second:.0f} Mpx/s",
    ]
    if report.retries:
        parts.append(f"{plural(report.retries, 'block')} redone")
    if report.warnings:
        parts.append(plural(len(report.warnings), "warning"))
    return f"{report.destination}: {', '.join(parts)}"
