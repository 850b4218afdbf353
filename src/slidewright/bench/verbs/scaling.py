"""`slidewright bench scaling`: the constants of the cost model, and what they predict for machines that aren't here."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import click

from slidewright.bench.verbs.shared import keeping_the_source
from slidewright.cli.common import FilePath, debug_option, hush_libraries, say, table

if TYPE_CHECKING:
    from slidewright.bench.cost_model import Costs, Filesystem

_WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_NODES = (1, 2, 4, 8, 16, 32, 64)
_ARRAYS = (1, 2, 4, 8, 16, 64)


@click.command()
@click.argument("source", type=FilePath(), metavar="[SRC]", required=False)
@click.option(
    "--constants",
    "kept",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Predict from what --json wrote, without measuring.",
)
@click.option("--compression", default="jpeg", show_default=True)
@click.option("--tile-size", type=int, default=512, show_default=True, metavar="N")
@click.option(
    "--side", type=int, default=100_000, show_default=True, metavar="N", help="Of the slide to predict, in pixels."
)
@click.option("--node-workers", type=int, default=32, show_default=True, metavar="N", help="Workers of a node.")
@click.option(
    "--node-bandwidth", type=float, default=1000, show_default=True, metavar="MB/S", help="Of a node's filesystem."
)
@click.option(
    "--total-bandwidth", type=float, default=10_000, show_default=True, metavar="MB/S", help="Of all nodes' together."
)
@click.option("--folder", type=click.Path(exists=True, file_okay=False), help="Where outputs go for the time of a run.")
@click.option("--check", default="", metavar="N,...", help="Numbers of workers to measure next to the prediction.")
@click.option(
    "--repeat", type=click.IntRange(min=1), default=3, show_default=True, metavar="N", help="The fastest counts."
)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, writable=True), help="Write the constants there.")
@debug_option
@click.pass_context
@keeping_the_source
def scaling(
    context: click.Context,
    /,
    source: str | None,
    kept: str | None,
    side: int,
    node_workers: int,
    node_bandwidth: float,
    total_bandwidth: float,
    folder: str | None,
    check: str,
    repeat: int,
    json_file: str | None,
    **options: Any,
) -> None:
    """Measure what each stage costs with the slide SRC, and predict 1 to 256 workers and 1 to 64 nodes.

    Nodes are predicted twice: all on one slide, through shards, and each with slides of its own, as a batch array has
    them; for these also in terabytes of unencoded pixels an hour.
    """
    if (source is None) == (kept is None) or (source is None and check):
        raise click.UsageError("give a slide SRC to measure with, or --constants, and --check only with SRC")
    hush_libraries(context)
    from slidewright.bench.cost_model import Filesystem

    costs = _measured(source, options, folder, repeat) if source is not None else _read(kept or "")
    if json_file is not None:
        with open(json_file, "w", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(costs), file, indent=2)
    say(constants(costs))
    filesystem = Filesystem(node_bandwidth * 1e6, total_bandwidth * 1e6)
    say(predictions(costs, side, node_workers, filesystem))
    say(hours(costs, side, node_workers, filesystem))
    if check and source is not None:
        say(checks(costs, source, options, folder, [int(number) for number in check.split(",")], repeat))


def _measured(source: str, options: dict[str, Any], folder: str | None, repeat: int) -> Costs:
    from slidewright.bench.scaling import measure_costs

    return measure_costs(source, options, folder, repeat=repeat, tell=lambda text: click.echo(text, err=True))


def _read(path: str) -> Costs:
    """Constants that --json wrote."""
    from slidewright.bench.cost_model import Costs
    from slidewright.errors import OptionError

    try:
        with open(path, encoding="utf-8") as file:
            return Costs(**json.load(file))
    except (TypeError, ValueError) as error:
        raise OptionError(f"{path} has not the constants that bench scaling --json writes: {error}") from None


def constants(costs: Costs) -> str:
    """The constants, and how many workers one writer feeds."""
    from slidewright.bench.cost_model import writer_feeds

    milliseconds = ("read", "encode", "reduce", "scratch", "ring", "writer", "message", "assemble")
    rows = [[name, f"{getattr(costs, name) * 1e3:.3f} ms"] for name in milliseconds]
    rows += [["message, a further worker", f"{costs.message_growth * 1e6:.3f} µs"]]
    kilobytes = ("source_bytes", "output_bytes", "scratch_bytes", "pixel_bytes")
    rows += [[name, f"{getattr(costs, name) / 1e3:.1f} kB"] for name in kilobytes]
    return (
        f"a megapixel of level 0 costs\n{table(['', ''], rows)}\n"
        f"a run costs {costs.start:.2f} s besides; one writer feeds {writer_feeds(costs):.0f} workers"
    )


def predictions(costs: Costs, side: int, node_workers: int, filesystem: Filesystem) -> str:
    """Two tables: one machine, and nodes of a cluster."""
    from slidewright.bench.cost_model import many_nodes, one_machine

    megapixels = side * side / 1e6
    rows = []
    for workers in _WORKERS:
        found = one_machine(costs, megapixels, workers)
        rows.append([str(workers), f"{found.seconds:.1f}", f"{megapixels / found.seconds:.0f}", found.limit])
    text = f"{side} x {side} on one machine\n{table(['workers', 's', 'Mpx/s', 'limit'], rows)}\n"
    rows = []
    for nodes in _NODES:
        encoding, last = many_nodes(costs, megapixels, nodes, node_workers, filesystem)
        total = encoding.seconds + last.seconds
        rows.append(
            [str(nodes), f"{encoding.seconds:.1f}", encoding.limit, f"{last.seconds:.1f}", last.limit, f"{total:.1f}"]
        )
    header = ["nodes", "shards, s", "limit", "assemble, s", "limit", "together, s"]
    return f"{text}on nodes of {node_workers} workers\n{table(header, rows)}"


def hours(costs: Costs, side: int, node_workers: int, filesystem: Filesystem) -> str:
    """A table: slides of such a side, and terabytes of their unencoded pixels, in an hour."""
    from slidewright.bench.cost_model import slides_an_hour

    rows = []
    for nodes in _ARRAYS:
        found = slides_an_hour(costs, side * side / 1e6, nodes, node_workers, filesystem)
        gigabytes = found.bytes / 3600 / 1e9
        rows.append([str(nodes), f"{found.slides:.0f}", f"{found.bytes / 1e12:.1f}", f"{gigabytes:.1f}", found.limit])
    header = ["nodes", "slides an hour", "TB of pixels an hour", "GB/s of pixels", "limit"]
    return f"whole slides, each on one node of {node_workers} workers (batch --array)\n{table(header, rows)}"


def checks(
    costs: Costs, source: str, options: dict[str, Any], folder: str | None, numbers: list[int], repeat: int
) -> str:
    """Predictions next to runs with the numbers of workers that could be had."""
    import os

    import slidewright
    from slidewright.bench.cost_model import one_machine
    from slidewright.pyramid.level_store import ScratchFolder

    rows = []
    with ScratchFolder(folder) as place:
        for workers in numbers:
            out = os.path.join(place, "out.tif")
            runs = [
                slidewright.convert(source, out, n_workers=workers, overwrite=True, **options) for _ in range(repeat)
            ]
            size = runs[0].levels[0].size
            expected = one_machine(costs, size.height * size.width / 1e6, workers).seconds
            seconds = min(run.seconds for run in runs)
            rows.append([str(workers), f"{expected:.2f}", f"{seconds:.2f}", f"{seconds / expected:.2f}"])
    return f"this slide, here\n{table(['workers', 'predicted s', 'measured s', 'ratio'], rows)}"
