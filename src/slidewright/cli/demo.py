"""`slidewright demo`: a slide made here, converted, and where to look next."""

from __future__ import annotations

import click

from slidewright.cli.common import FilePath, debug_option, human_bytes, json_option, quiet_option, say, table
from slidewright.cli.convert import finish, summary


@click.command(short_help="Make a tissue-like slide and convert it.")
@click.argument("destination", type=FilePath(), metavar="[DST]", default="slidewright-demo.tif")
@click.option(
    "--side",
    type=click.IntRange(min=1024),
    default=8192,
    show_default=True,
    metavar="N",
    help="Width and height in pixels.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=7,
    show_default=True,
    metavar="N",
    help="Another number, another tissue.",
)
@click.option("--workers", "n_workers", type=int, metavar="N", help="Worker processes.  [default: usable CPUs]")
@click.option("--overwrite", is_flag=True, help="Replace DST if it exists.")
@json_option
@quiet_option
@debug_option
def demo(
    destination: str, side: int, seed: int, n_workers: int | None, overwrite: bool, as_json: bool, quiet: bool
) -> None:
    """Make a slide that looks like stained tissue, and convert it to the pyramidal TIFF DST (slidewright-demo.tif)."""
    from slidewright.cli.demo_slide import run_demo

    tell = (lambda _: None) if quiet or as_json else say
    report = run_demo(
        destination, side=side, seed=seed, n_workers=n_workers, overwrite=overwrite, progress=not quiet, tell=tell
    )
    if as_json:
        finish(report, quiet=quiet, as_json=True)
        return
    rows = [
        (str(n), str(level.size), str(level.tiles), human_bytes(level.bytes)) for n, level in enumerate(report.levels)
    ]
    tell(summary(report))
    tell(table(("level", "size", "tiles", "bytes"), rows))
    tell(
        "\nWhat next:\n"
        f"  open {report.destination} in QuPath, or in Python: openslide.OpenSlide({report.destination!r})\n"
        f"  slidewright info {report.destination}\n"
        f"  slidewright verify {report.destination}\n"
        "  slidewright convert your.svs out.tif"
    )
