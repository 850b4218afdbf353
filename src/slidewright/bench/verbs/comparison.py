"""How a finished comparison looks as tables and lines; shared by `bench convert` and `bench peers`."""

from __future__ import annotations

from typing import Any

from slidewright.bench.contest import LIMIT, LIMIT_TOGETHER, OURS, Comparison, Result
from slidewright.bench.verbs.shared import grid, headline


def render(comparison: Comparison) -> list[Any]:
    """The tables and the lines below them."""
    settings = comparison.settings
    codec = ", ".join(f"{name} {value}" for name, value in settings.codec.items())
    lines: list[Any] = [
        headline(comparison.machine, f"{codec}, tile {settings.tile_size}, {settings.repeat} timed runs, in turns"),
        _times(comparison),
        "GB/s: of unencoded pixels of level 0. ours / this: our time over this program's. of limit: the time of the "
        "codecs alone (one process, divided by the workers) over this time; at once: the same by as many processes as "
        "workers. * not the same work, see below.",
        _stages(comparison),
    ]
    for result in comparison.results:
        if result.output is not None:
            lines.append(f"{_name(result)} with {result.workers} wrote {result.output.words}")
            lines += [f"  * {difference}" for difference in result.mismatches]
    for name, reason in comparison.skipped.items():
        lines.append(f"{name} was left out: {reason}")
    return lines


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """The results as flat rows, for CSV."""
    return [
        {
            "name": result.name,
            "workers": result.workers,
            "median_s": round(result.median, 4),
            "fastest_s": round(min(result.seconds), 4),
            "slowest_s": round(max(result.seconds), 4),
            "megapixels_per_second": round(result.megapixels_per_second, 2),
            "gigabytes_per_second": round(result.gigabytes_per_second, 6),
            "processor_s": result.processor,
            "peak_pss_bytes": result.peak_pss,
            "output_bytes": None if result.output is None else result.output.bytes,
            "ours_over_this": comparison.ratio(OURS, result.name, result.workers),
            "of_limit": comparison.ratio(LIMIT, result.name, result.workers),
            "of_limit_at_once": comparison.ratio(LIMIT_TOGETHER, result.name, result.workers),
            **{f"{name}_s": round(seconds, 4) for name, seconds in (result.stages or {}).items()},
            "mismatches": "; ".join(result.mismatches),
        }
        for result in _sorted(comparison)
    ]


def _sorted(comparison: Comparison) -> list[Result]:
    return sorted(comparison.results, key=lambda result: (result.workers, result.median))


def _name(result: Result) -> str:
    return result.name + (" *" if result.mismatches else "")


def _times(comparison: Comparison) -> Any:
    def ratio(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    table = []
    for result in _sorted(comparison):
        name, workers = result.name, result.workers
        table.append(
            (
                _name(result),
                str(workers),
                f"{result.median:.2f}",
                f"{result.spread:.0%}",
                "" if result.processor is None else f"{result.processor:.2f}",
                f"{result.megapixels_per_second:.0f}",
                f"{result.gigabytes_per_second:.2f}",
                "" if result.peak_pss is None else f"{result.peak_pss / 1e6:.0f}",
                "" if result.output is None else f"{result.output.bytes / 1e6:.1f}",
                ratio(comparison.ratio(OURS, name, workers)),
                ratio(comparison.ratio(LIMIT, name, workers)),
                ratio(comparison.ratio(LIMIT_TOGETHER, name, workers)),
            )
        )
    columns = ("", "workers", "median s", "spread", "cpu s", "Mpx/s", "GB/s", "peak MB", "file MB", "ours / this")
    return grid((*columns, "of limit", "at once"), table)


def _stages(comparison: Comparison) -> Any:
    """Seconds by stage, summed over workers, of everything that tells them."""
    told = [result for result in _sorted(comparison) if result.stages]
    names = list(dict.fromkeys(name for result in told for name in result.stages or {}))
    table = [
        (
            result.name,
            str(result.workers),
            *("" if name not in (stages := result.stages or {}) else f"{stages[name]:.2f}" for name in names),
        )
        for result in told
    ]
    return grid(("stages, s over all workers", "workers", *names), table)
