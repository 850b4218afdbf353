"""The report of a conversion as one HTML page that needs nothing else: what was written, and where the time went.

It is made after the run, from the recorder, the report and the finished file, whose tables know every tile's bytes.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OutputError, without_keys
from slidewright.inspection.pyramid_file import open_pyramid
from slidewright.report import UNUSED, Recorder, Report
from slidewright.reporting import html_charts as htmlcharts
from slidewright.reporting.again import changed, how_to_make_again
from slidewright.system.files import write_whole
from slidewright.tiff.page import TiledImage

_PACKAGES = ("slidewright", "numpy", "tifffile", "imagecodecs", "opencv-python-headless", "zarr", "openslide-bin")
_THUMBNAIL = 560
_RUN_STAGES = {
    "open": "opening the source, deciding",
    "start": "starting processes",
    "encoding": "until every block was encoded",
    "writing": "until the last byte was written",
    "finish": "checking, naming",
}
_STYLE = Path(__file__).with_suffix(".css")


@dataclass(frozen=True, slots=True)
class Subject:
    """What a page is about."""

    report: Report
    recorder: Recorder
    source: str
    """What it was made of, in words."""
    source_path: str | None
    """Its path, where it has one."""
    given: Mapping[str, Any]
    """The options that the caller gave."""


def write_report(path: Path, subject: Subject, *, overwrite: bool) -> None:
    """Write the page; raises OutputError when it can't be written, which leaves the slide as it is. What has come under
    its name during the run is not replaced, unless `overwrite` is set.
    """
    text = make_page(subject)
    try:
        write_whole(os.path.realpath(path), text.encode("utf-8", "backslashreplace"), overwrite=overwrite)
    except OSError as error:
        done, why = f"{subject.report.destination} is complete", error.strerror or error
        raise OutputError(f"{done}, but its report {str(path)!r} can't be written: {why}") from error


def make_page(subject: Subject) -> str:
    """The whole page."""
    report, recorder = subject.report, subject.recorder
    name = escape(Path(report.destination).name)
    look = _look(report.destination)
    total = report.seconds
    sections = [
        f"<header><h1>{name}</h1><p>{_summary(subject)}</p></header>",
        f'<div class="pair"><section><h2>Slide</h2>{htmlcharts.picture(look.thumbnail, "thumbnail", "slide")}</section>'
        f"<section><h2>Compression over the slide</h2>{_heat(look.ratios)}</section></div>",
        f"<section><h2>Levels</h2>{_levels(report, look)}</section>",
        f"<section><h2>What each worker did</h2>{_legend()}"
        f"{htmlcharts.timeline(recorder.blocks, recorder.deaths, total)}</section>",
        f"<section><h2>Throughput</h2>{htmlcharts.throughput(recorder.blocks, total)}"
        "<p class='note'>Blue: pixels of level 0 read. Orange: bytes encoded. Each on its own scale.</p></section>",
        f"<section><h2>Where the time went</h2>{_stages(report)}</section>",
        f"<section><h2>The same again</h2><pre>{_again(subject)}</pre></section>",
        f'<div class="pair"><section><h2>Settings</h2>{_settings(subject)}</section>'
        f"<section><h2>Made with</h2>{_made_with()}</section></div>",
    ]
    if report.warnings or recorder.deaths:
        said = [*report.warnings, *(f"worker {death.worker} died: {death.reason}" for death in recorder.deaths)]
        sections.insert(
            1, f"<section><h2>Warnings</h2><ul>{''.join(f'<li>{escape(text)}' for text in said)}</ul></section>"
        )
    body = "\n".join(sections)
    if subject.source_path is not None:  # a page is passed on, and a URL may be signed
        body = body.replace(escape(subject.source_path), escape(without_keys(subject.source_path)))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}: how it was made</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _summary(subject: Subject) -> str:
    report = subject.report
    workers = "no worker process" if report.n_workers == 0 else f"{report.n_workers} workers"
    parts = [
        f"from {subject.source}",
        f"{report.levels[0].size} pixels in {len(report.levels)} levels",
        f"{_megabytes(report.bytes)} in {report.seconds:.2f} s",
        f"{report.megapixels_per_second:.0f} Mpx/s with {workers}",
    ]
    if report.keeping:
        parts.insert(2, f"the tiles of level 0 {report.keeping}")
    if report.peak_memory is not None:
        parts.append(f"at most {_megabytes(report.peak_memory)} of memory")
    if report.retries:
        parts.append(f"{report.retries} blocks done again")
    return escape(", ".join(parts))


@dataclass(frozen=True, eq=False, slots=True)
class _Look:
    """What the finished file shows: the writer alone knows the bytes of every tile, and has written them down."""

    thumbnail: NDArray[np.uint8]
    ratios: NDArray[np.float64]
    """Of every tile of level 0."""
    unencoded: tuple[int, ...]
    """Bytes of all tiles of each level before they were encoded."""


def _look(path: str) -> _Look:
    with open_pyramid(path) as slide:
        first = slide.levels[0]
        tile = first.cell.height * first.cell.width * first.samples * first.bits // 8
        counts = first.counts.astype(np.float64).reshape(-1, *first.grid).sum(axis=0)  # over planes
        small = next((page for page in slide.levels if max(page.size) <= 2 * _THUMBNAIL), slide.levels[-1])
        return _Look(
            _thumbnail(small, slide.segments(small).whole()),
            tile / np.maximum(counts, 1),
            tuple(page.grid.height * page.grid.width * tile for page in slide.levels),
        )


def _thumbnail(page: TiledImage, pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """A page's pixels as a small uint8 picture, grey or RGB."""
    import cv2

    pixels = pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0]
    if page.colormap is not None:
        pixels = (np.asarray(page.colormap)[pixels] >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8 or page.bits == 1:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels.astype(np.float64) - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    scale = min(1.0, _THUMBNAIL / max(pixels.shape[:2]))
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def _heat(ratios: NDArray[np.float64]) -> str:
    low, middle, high = float(ratios.min()), float(np.median(ratios)), float(ratios.max())
    image = htmlcharts.picture(htmlcharts.heat(ratios), "compression ratio of every tile of level 0", "slide heat")
    scale = f'<p class="note"><span>{low:.1f} : 1</span><span class="viridis"></span><span>{high:.1f} : 1</span></p>'
    return f"{image}{scale}<p class='note'>Unencoded over encoded bytes, a dot a tile; the median is {middle:.1f}.</p>"


def _levels(report: Report, look: _Look) -> str:
    rows = [
        (
            str(number),
            str(level.size),
            f"{level.tiles:,}",
            _megabytes(level.bytes),
            f"{unencoded / max(1, level.bytes):.1f} : 1",
        )
        for number, (level, unencoded) in enumerate(zip(report.levels, look.unencoded, strict=True))
    ]
    return _table(("level", "pixels", "tiles", "encoded", "compression"), rows)


def _stages(report: Report) -> str:
    """Seconds by stage with a bar each: the run's, which add up to all of it, then those of workers and writer."""
    stages = report.stages
    longest = max(*stages.values(), report.seconds, 1e-9)

    def row(name: str, words: str, seconds: float) -> str:
        bar = f'<span class="bar" style="width:{100 * seconds / longest:.1f}%"></span>'
        return f"<tr><th>{escape(name)}<td>{escape(words)}<td class='number'>{seconds:.2f} s<td class='wide'>{bar}"

    run = [row(name, words, stages[name]) for name, words in _RUN_STAGES.items() if name in stages]
    beside = [
        row(name, "writer" if name == "write" else "workers", seconds)
        for name, seconds in stages.items()
        if name not in _RUN_STAGES
    ]
    return (
        f"<table>{''.join(run)}{row('total', 'the whole run', report.seconds)}</table>"
        "<p class='note'>One after the other. Meanwhile, summed over the workers:</p>"
        f"<table>{''.join(beside)}</table>"
    )


def _again(subject: Subject) -> str:
    path = None if subject.source_path is None else without_keys(subject.source_path)
    return escape(how_to_make_again(path, subject.report.destination, subject.given))


def _settings(subject: Subject) -> str:
    """Every option as it was used; what the caller chose is bold."""
    chosen = changed(subject.given)
    rows = []
    for name, value in subject.recorder.settings.items():
        css = ' class="changed"' if name in chosen else ' class="unused"' if value == UNUSED else ""
        words = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        rows.append(f"<tr{css}><th>{escape(name)}<td>{escape(words)}")
    note = "<p class='note'>As they were used; what was asked for is bold.</p>"
    return f"{note}<table>{''.join(rows)}</table>"


def _made_with() -> str:
    rows = [
        ("date", datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")),
        ("host", platform.node()),
        ("system", platform.platform()),
        ("Python", platform.python_version()),
    ]
    for name in _PACKAGES:
        try:
            rows.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return _table((), rows)


def _legend() -> str:
    return (
        "<p class='note'>"
        + " ".join(f'<span class="key {stage}"></span>{stage}' for stage in htmlcharts.STAGES)
        + "</p>"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = f"<tr>{''.join(f'<th>{escape(cell)}' for cell in header)}" if header else ""
    lines = [f"<tr><th>{escape(row[0])}" + "".join(f"<td>{escape(cell)}" for cell in row[1:]) for row in rows]
    return f"<table>{head}{''.join(lines)}</table>"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"
