"""Charts for the report of a run, as SVG and PNG in text: no library, no script, nothing to load."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.report import BlockRecord, DeathRecord

STAGES = ("wait", "read", "encode", "reduce", "scratch", "files")
WIDTH = 960
_LEFT, _RIGHT = 64, 16
_ROW, _GAP = 18, 4
_MOST_BARS = 2000  # blocks that are drawn one by one; of more, neighbours are drawn as one


def picture(pixels: NDArray[Any], label: str, css: str = "") -> str:
    """An image element with an array of uint8, grey or RGB, in it."""
    import imagecodecs

    data = base64.b64encode(bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))).decode()
    return f'<img alt="{escape(label)}" class="{css}" src="data:image/png;base64,{data}">'


def timeline(blocks: Sequence[BlockRecord], deaths: Sequence[DeathRecord], total: float) -> str:
    """A row a worker, a bar a block, in it the stages by their share of it."""
    workers = sorted({record.worker for record in blocks} | {death.worker for death in deaths})
    height = len(workers) * (_ROW + _GAP) + 24
    scale = (WIDTH - _LEFT - _RIGHT) / max(total, 1e-9)
    parts = []
    most = max(1, _MOST_BARS // max(1, len(workers)))
    for number, worker in enumerate(workers):
        top = number * (_ROW + _GAP)
        parts.append(f'<text x="{_LEFT - 8}" y="{top + 13}" class="axis end">worker {worker}</text>')
        for record, count in _merged([record for record in blocks if record.worker == worker], most):
            parts.append(_bar(record, count, top, scale))
        for death in deaths:
            if death.worker == worker:
                x = _LEFT + death.at * scale
                parts.append(
                    f'<path class="death" d="M{x:.1f} {top}v{_ROW}"><title>{escape(death.reason)}</title></path>'
                )
    parts.append(_seconds_axis(total, height - 20, scale))
    return _svg(height, "what each worker did when", parts)


def _merged(records: Sequence[BlockRecord], most: int) -> list[tuple[BlockRecord, int]]:
    """At most `most` records, neighbours added up, each with how many it stands for."""
    step = -(-len(records) // most) if records else 1
    merged = []
    for start in range(0, len(records), step):
        group = records[start : start + step]
        seconds = {stage: sum(record.seconds.get(stage, 0.0) for record in group) for stage in STAGES}
        nbytes, pixels = sum(record.bytes for record in group), sum(record.pixels for record in group)
        last = group[-1]
        merged.append((BlockRecord(last.worker, last.place, last.ended, seconds, nbytes, pixels), len(group)))
    return merged


def _bar(record: BlockRecord, count: int, top: int, scale: float) -> str:
    what = "pass {}, row {}, column {}".format(*record.place)
    if count > 1:
        what = f"{count} blocks, the last: {what}"
    text = f"{what}: {record.bytes / 1e6:.2f} MB; " + ", ".join(
        f"{stage} {record.seconds.get(stage, 0.0):.3f} s" for stage in STAGES
    )
    x, pieces = _LEFT + record.began * scale, []
    for stage in STAGES:
        width = record.seconds.get(stage, 0.0) * scale
        if width >= 0.05:
            pieces.append(f'<rect class="{stage}" x="{x:.2f}" y="{top}" width="{width:.2f}" height="{_ROW}"/>')
        x += width
    return f"<g><title>{escape(text)}</title>{''.join(pieces)}</g>"


def throughput(blocks: Sequence[BlockRecord], total: float, bins: int = 96) -> str:
    """Megapixels of level 0 a second, and encoded megabytes a second, over the run."""
    pixels, nbytes = np.zeros(bins), np.zeros(bins)
    width = max(total, 1e-9) / bins
    for record in blocks:  # a block's work is spread evenly over its time
        first, last = record.began / width, min(record.ended / width, bins)
        for number in range(int(first), min(bins, int(np.ceil(last)))):
            share = (min(last, number + 1) - max(first, number)) / max(last - first, 1e-9)
            pixels[number] += share * record.pixels
            nbytes[number] += share * record.bytes
    height = 150
    parts = [_seconds_axis(total, height - 20, (WIDTH - _LEFT - _RIGHT) / max(total, 1e-9))]
    for css, values, unit in (("read", pixels / width / 1e6, "Mpx/s"), ("encode", nbytes / width / 1e6, "MB/s")):
        peak = max(float(values.max()), 1e-9)
        points = " ".join(
            f"{_LEFT + (number + 0.5) / bins * (WIDTH - _LEFT - _RIGHT):.1f},{118 - 104 * value / peak:.1f}"
            for number, value in enumerate(values)
        )
        parts.append(f'<polyline class="line {css}" points="{points}"/>')
        y = 16 if css == "read" else 32
        parts.append(f'<text x="{_LEFT - 8}" y="{y}" class="axis end {css}-text">{peak:.0f} {unit}</text>')
    return _svg(height, "throughput over time", parts)


def _seconds_axis(total: float, y: float, scale: float) -> str:
    """A line with round seconds on it."""
    step = 10.0 ** np.floor(np.log10(max(total, 1e-3)))
    step = step / 5 if total / step < 2 else step / 2 if total / step < 5 else step
    marks = [f'<path class="rule" d="M{_LEFT} {y}h{WIDTH - _LEFT - _RIGHT}"/>']
    for number in range(int(total / step) + 1):
        x = _LEFT + number * step * scale
        marks.append(f'<path class="rule" d="M{x:.1f} {y}v4"/>')
        marks.append(f'<text x="{x:.1f}" y="{y + 17}" class="axis middle">{number * step:g} s</text>')
    return "".join(marks)


def _svg(height: int, label: str, parts: Sequence[str]) -> str:
    drawn = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f'<div class="chart">{drawn}</div>'


def heat(ratios: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Compression ratios as colours, on a logarithmic scale from the least (dark) to the greatest (bright)."""
    import cv2

    logarithms = np.log(np.maximum(ratios, 1e-6))
    low, high = float(logarithms.min()), float(logarithms.max())
    scaled = ((logarithms - low) / max(high - low, 1e-9) * 255).round().astype(np.uint8)
    return np.asarray(cv2.applyColorMap(scaled, cv2.COLORMAP_VIRIDIS)[:, :, ::-1], np.uint8)
