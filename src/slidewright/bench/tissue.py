"""Annotations and a mask for the benchmark, made from the slide: tissue by threshold, its regions as labels.

Noise would not do: what real annotations cost depends on their long runs and their few, smooth outlines. Outlines are
found on a coarse map and filled at full size, as polygons drawn by a person are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.geometry import Region, Size

COARSE = 8
"""A pixel of the map is so many pixels of the slide."""
MAX_LABEL = 255
_LEAST_AREA = 64  # of a region, in pixels of the map


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """What is encoded: a part of the slide, its annotations (0 is none) and its mask (0 or 1)."""

    region: Region
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    mask: NDArray[np.uint8]


def make_samples(source: Any, side: int) -> Samples:
    """Take the part of a slide, `side` pixels a side or the whole of it, that has as much tissue as the slide has.

    Parameters
    ----------
    source
        A described source of uint8 RGB pixels.
    side
        Side of the part; it starts at a multiple of 512.
    """
    reader = source.open()
    try:
        coarse = _coarse(reader, source.info)
        tissue = find_tissue(coarse)
        region = _typical(tissue, source.info.size, side)
        out = np.empty((region.height, region.width, source.info.samples), np.uint8)
        image = np.ascontiguousarray(_read(reader, region, out))
    finally:
        reader.close()
    part = tissue[
        region.y // COARSE : -(-(region.y + region.height) // COARSE),
        region.x // COARSE : -(-(region.x + region.width) // COARSE),
    ]
    labels = draw_labels(part, Size(region.height, region.width))
    return Samples(region, image, labels, (labels > 0).astype(np.uint8))


def _read(reader: Any, region: Region, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A region of a reader, band by band."""
    step = 512
    for y in range(0, region.height, step):
        height = min(step, region.height - y)
        band = np.empty((height, *out.shape[1:]), np.uint8)
        out[y : y + height] = reader.read(region.y + y, region.x, height, region.width, band)
    return out


def _coarse(reader: Any, info: Any) -> NDArray[np.uint8]:
    """The whole slide, reduced, band by band."""
    import cv2

    height, width = info.size
    bands = []
    for y in range(0, height, 512):
        rows = min(512, height - y)
        pixels = reader.read(y, 0, rows, width, np.empty((rows, width, info.samples), np.uint8))
        size = (-(-width // COARSE), -(-rows // COARSE))
        bands.append(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA))
    coarse = np.concatenate(bands)
    return np.asarray(coarse, np.uint8).reshape(*coarse.shape[:2], -1)


def find_tissue(coarse: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """1 where a reduced image has tissue: what is far from its brightest colour (Otsu's threshold), smoothed."""
    import cv2

    glass = np.percentile(coarse.reshape(-1, coarse.shape[2]), 98, axis=0)
    distance = np.abs(coarse.astype(np.float32) - glass.astype(np.float32)).max(axis=2).clip(0, 255).astype(np.uint8)
    smooth = cv2.GaussianBlur(distance, (0, 0), 3)
    _, tissue = cv2.threshold(smooth, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    opened = cv2.morphologyEx(tissue, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return np.asarray(opened, np.uint8)


def _typical(tissue: NDArray[np.uint8], size: Size, side: int) -> Region:
    """The part whose share of tissue is nearest to the slide's."""
    height, width = min(side, size.height), min(side, size.width)
    wanted = float(tissue.mean())
    best, found = 2.0, Region(0, 0, height, width)
    for y in range(0, size.height - height + 1, 512):
        for x in range(0, size.width - width + 1, 512):
            part = tissue[y // COARSE : (y + height) // COARSE, x // COARSE : (x + width) // COARSE]
            apart = abs(float(part.mean()) - wanted)
            if apart < best:
                best, found = apart, Region(y, x, height, width)
    return found


def draw_labels(tissue: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """The connected regions of a map, numbered from 1, as filled outlines at full size."""
    import cv2

    labels = np.zeros(tuple(size), np.uint8)
    outlines, holes = cv2.findContours(tissue, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    number = 0
    for index, outline in enumerate(outlines):
        if holes[0][index][3] >= 0 or cv2.contourArea(outline) < _LEAST_AREA:
            continue
        colour = number % MAX_LABEL + 1
        number += 1
        inner = [_scaled(other) for at, other in enumerate(outlines) if holes[0][at][3] == index]
        cv2.fillPoly(labels, [_scaled(outline), *inner], (colour,))
    return labels


def _scaled(outline: Any) -> Any:
    """An outline of the map at full size, at the centres of its pixels."""
    return outline * COARSE + COARSE // 2
