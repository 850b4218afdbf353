"""Pictures of results that were kept as JSON, with matplotlib: nothing is measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from slidewright.errors import OptionError, SourceError

_OURS = "#0072b2"  # of the palette by Okabe and Ito, which colour-blind readers can tell apart
_OTHER = "#b0b0b0"
_STAGES = ("read", "encode", "reduce", "scratch", "files", "wait", "write", "start", "finish")
_COLOURS = ("#56b4e9", "#0072b2", "#009e73", "#f0e442", "#e69f00", "#d0d0d0", "#d55e00", "#cc79a7", "#000000")
_LIMITS = ("codec-limit", "codec-limit-together")


def plot(results: str, picture: str) -> None:
    """Draw a picture (.png, .svg or .pdf) of a JSON file that `slidewright bench` wrote.

    Raises
    ------
    OptionError
        Without matplotlib, or for a picture of a kind that it does not write.
    SourceError
        When the file is not such JSON.
    """
    answer = _load(results)
    try:
        import matplotlib
    except ImportError:
        raise OptionError("plots need matplotlib; install slidewright[bench]") from None
    if Path(picture).suffix not in (".png", ".svg", ".pdf"):
        raise OptionError(f"{picture!r} is not a .png, .svg or .pdf")
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "slidewright"  # the same numbers give the same file
    matplotlib.rcParams["axes.spines.right"] = matplotlib.rcParams["axes.spines.top"] = False
    figure = _codecs(answer) if answer["kind"] == "codecs" else _comparison(answer)
    figure.savefig(picture, dpi=120, metadata={"Date": None} if picture.endswith(".svg") else None)


def _load(path: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if answer["kind"] not in ("comparison", "codecs") or not answer["results"]:
            raise KeyError("kind")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path} is no result of slidewright bench ({error}); write one with --json") from None
    return answer


def _where(answer: dict[str, Any]) -> str:
    machine, versions = answer["machine"], answer["machine"]["versions"]
    return f"{machine['processor']}, {machine['usable_cpus']} CPUs · slidewright {versions.get('slidewright', '')}"


def _comparison(answer: dict[str, Any]) -> Any:
    """Seconds of everybody, where ours went, and the speed over the number of workers where there are several."""
    from matplotlib.figure import Figure

    results = answer["results"]
    numbers = sorted({row["workers"] for row in results})
    panels = 3 if len(numbers) > 1 else 2
    figure = Figure(figsize=(4.6 * panels, 1.6 + 0.32 * max(6, len(results) // len(numbers))), layout="constrained")
    axes = figure.subplots(1, panels)
    _bars(axes[0], [row for row in results if row["workers"] == numbers[-1]], numbers[-1])
    _shares(axes[1], [row for row in results if row["stages"] and row["name"] == "slidewright"])
    if panels == 3:
        _curve(axes[2], results)
    settings = answer["settings"]
    figure.suptitle(f"{Path(settings['source']).name}, {settings['compression']}\n{_where(answer)}", fontsize=9)
    return figure


def _bars(axes: Any, rows: list[dict[str, Any]], workers: int) -> None:
    rows = sorted(rows, key=lambda row: -float(row["median"]))
    names = [row["name"] + (" *" if row["mismatches"] else "") for row in rows]
    low = [row["median"] - min(row["seconds"]) for row in rows]
    high = [max(row["seconds"]) - row["median"] for row in rows]
    colours = [_OURS if row["name"] == "slidewright" else _OTHER for row in rows]
    bars = axes.barh(names, [row["median"] for row in rows], xerr=[low, high], color=colours, capsize=2)
    axes.bar_label(bars, labels=[f"{row['median']:.2f}" for row in rows], padding=4, fontsize=8)
    axes.margins(x=0.15)
    axes.set_xlabel(f"seconds, whole process, {workers} workers")
    if any(row["mismatches"] for row in rows):
        axes.set_title("* not the same work", fontsize=8)


def _shares(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Where the time of ours went, summed over the workers."""
    names = [str(row["workers"]) for row in rows]
    bottom = [0.0] * len(rows)
    for stage, colour in zip(_STAGES, _COLOURS, strict=True):
        values = [row["stages"].get(stage, 0.0) for row in rows]
        axes.bar(names, values, bottom=bottom, label=stage, color=colour, width=0.6)
        bottom = [a + b for a, b in zip(bottom, values, strict=True)]
    axes.set_xlabel("workers")
    axes.set_ylabel("seconds, summed over the processes")
    axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _curve(axes: Any, results: list[dict[str, Any]]) -> None:
    for name in dict.fromkeys(row["name"] for row in results):
        points = sorted((row["workers"], row["megapixels_per_second"]) for row in results if row["name"] == name)
        style = "--" if name in _LIMITS else "-"
        emphasis = {"color": _OURS, "linewidth": 2.5} if name == "slidewright" else {}
        axes.plot(*zip(*points, strict=True), style, marker="o", markersize=4, label=name, **emphasis)
    axes.set_xticks(sorted({row["workers"] for row in results}))
    axes.set_xlabel("workers")
    axes.set_ylabel("Mpx/s of level 0")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=7, frameon=False)


def _codecs(answer: dict[str, Any]) -> Any:
    """Seconds and bytes of every compressor, a row of two panels a table."""
    from matplotlib.figure import Figure

    rows = [row for row in answer["results"] if row["median"] is not None]
    tables = list(dict.fromkeys(row["table"] for row in rows))
    most = max((sum(row["table"] == table for row in rows) for table in tables), default=1)
    figure = Figure(figsize=(10, max(1, len(tables)) * (1.2 + 0.3 * most)), layout="constrained")
    axes = figure.subplots(max(1, len(tables)), 2, squeeze=False)
    for number, table in enumerate(tables):
        entries = sorted((row for row in rows if row["table"] == table), key=lambda row: -float(row["median"]))
        _pair(axes[number][0], entries, "median", "dlup_median", 1, "seconds")
        _pair(axes[number][1], entries, "bytes", "dlup_bytes", 1e6, "MB")
        axes[number][0].set_title(table, fontsize=9, loc="left")
    figure.suptitle(f"{Path(answer['settings']['source']).name}: {answer['region']}\n{_where(answer)}", fontsize=9)
    return figure


def _pair(axes: Any, rows: list[dict[str, Any]], ours: str, theirs: str, unit: float, label: str) -> None:
    places = list(range(len(rows)))
    bars = axes.barh([place + 0.2 for place in places], [row[ours] / unit for row in rows], 0.4, color=_OURS)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7)
    known = [(place, row) for place, row in zip(places, rows, strict=True) if row[theirs] is not None]
    if known:
        values = [row[theirs] / unit for _, row in known]
        bars = axes.barh([place - 0.2 for place, _ in known], values, 0.4, color=_OTHER, label="dlup")
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7)
        axes.legend(fontsize=7, frameon=False)
    axes.set_yticks(places, [row["compression"] for row in rows])
    axes.margins(x=0.15)
    axes.set_xlabel(label)
