"""A slide out of nothing for the first minute with slidewright: procedural haematoxylin and eosin, converted.

The pixels follow absorbance, as stain does: two stain densities are painted, and Beer-Lambert turns them into colour.
Everything is a function of the seed, made band by band into a file: neither memory nor a download is needed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import DestinationError, OutputError
from slidewright.pyramid.level_store import ScratchFolder
from slidewright.system.files import new_file

if TYPE_CHECKING:
    from slidewright.report import Report

MPP = 0.5
_BAND = 512
_COARSE = 16  # a pixel of the maps is 16 pixels of the slide
_FINE = 2  # textures are made at half size; nuclei and sensor noise at full size
_GRAIN = 1024  # side of the repeating textures
_DENSITY = 60.0  # stain densities are stored as uint8, 60 a unit
_GLASS = 243.0
# absorbance of one unit of stain in red, green, blue, near the values Ruifrok and Johnston measured (2001)
_HAEMATOXYLIN = np.array([0.86, 0.95, 0.45])
_EOSIN = np.array([0.10, 0.80, 0.40])


@dataclass(frozen=True, eq=False, slots=True)
class _Maps:
    """The slide at 1/16: where tissue is, how glands and fibres run, how strongly it took the stain."""

    tissue: NDArray[np.float32]
    """0 on glass, 1 in tissue, soft at the outline."""
    gland: NDArray[np.float32]
    """Signed field of the glands: above 1 is lumen, around 0.6 epithelium, below 0.2 stroma."""
    stain: NDArray[np.float32]
    cells: NDArray[np.float32]
    """Share of the places for a nucleus that are taken."""
    flow_x: NDArray[np.float32]
    """Displacement of the fibre texture along x, in pixels of the texture."""
    flow_y: NDArray[np.float32]
    """The same along y."""


def run_demo(
    destination: str | os.PathLike[str] = "slidewright-demo.tif",
    *,
    side: int = 8192,
    seed: int = 7,
    n_workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """Make a tissue-like slide and convert it with JPEG.

    Parameters
    ----------
    destination
        The TIFF to write.
    side
        Width and height in pixels.
    seed
        Another number makes another tissue.
    n_workers, overwrite, progress
        As for `slidewright.convert`.
    tell
        Called with lines about what is being done.

    Raises
    ------
    DestinationError
        When the destination exists and `overwrite` is false, or its folder is missing; before any work is done.
    OutputError
        When the temporary folder is full.
    """
    import slidewright

    target = Path(destination)
    if target.exists() and not overwrite:
        raise DestinationError(f"{target} exists; give --overwrite (overwrite=True) or another name")
    if not target.parent.is_dir():
        raise DestinationError(f"the folder {target.parent} does not exist; make it or choose another")
    tell = tell or (lambda _: None)
    with ScratchFolder() as folder:
        started = time.perf_counter()
        tissue = Path(folder) / "tissue.npy"
        tell(f"Making a slide of {side} x {side} pixels that looks like stained tissue ...")
        write_tissue(tissue, side, seed)
        tell(
            f"made in {time.perf_counter() - started:.1f} s; converting it to {target} (JPEG, quality 90, tiles of 512)"
        )
        report: Report = slidewright.convert(
            str(tissue),
            str(target),
            mpp=MPP,
            description=f"slidewright demo: procedural H&E, seed {seed}",
            n_workers=n_workers,
            overwrite=overwrite,
            progress=progress,
        )
    return report


def write_tissue(path: str | os.PathLike[str], side: int, seed: int) -> None:
    """Write the slide as a new `.npy` file of (side, side, 3) uint8, band by band."""
    try:
        with open(path, "xb", opener=new_file) as file:  # no memory map: on a full disk that ends the process
            header = {"descr": "|u1", "fortran_order": False, "shape": (side, side, 3)}
            np.lib.format.write_array_header_1_0(file, header)
            for _, band in tissue_bands(side, seed):
                file.write(np.ascontiguousarray(band).data)
    except OSError as error:
        raise OutputError(
            f"can't write {os.fspath(path)!r}: {error.strerror or error}; point TMPDIR to a disk with room"
        ) from error


def tissue_bands(side: int, seed: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(first row, pixels) of each band of the slide, top to bottom."""
    import cv2

    random = np.random.default_rng(seed)
    maps = _make_maps(-(-side // _COARSE) + 1, random)
    grain, fibres = _textures(random)
    noise = random.normal(0, 1.3, (_BAND, side + 257, 3)).round().astype(np.int8)
    nuclei = _place_nuclei(side, maps, random)
    h_colour, e_colour = _colours(_HAEMATOXYLIN, _GLASS), _colours(_EOSIN, 255.0)
    for y in range(0, side, _BAND):
        height = min(_BAND, side - y)
        haematoxylin, eosin = _densities(y, height, side, maps, grain, fibres)
        _draw_nuclei(haematoxylin, y, nuclei)
        blurred = np.asarray(cv2.GaussianBlur(haematoxylin, (0, 0), 0.8), np.uint8)[_MARGIN : _MARGIN + height]
        stained = cv2.multiply(_coloured(blurred, h_colour), _coloured(eosin, e_colour), scale=1 / 255)
        shift = int(random.integers(256))
        yield y, np.clip(stained.astype(np.int16) + noise[:height, shift : shift + side], 0, 255).astype(np.uint8)


_MARGIN = 32  # rows above and below a band, so that nuclei and blur don't end at its border


def _smooth(side: int, scale: float, random: np.random.Generator) -> NDArray[np.float32]:
    """Noise of mean 0 and deviation 1, smooth over `scale` pixels."""
    import cv2

    step = max(1.0, scale / 3)
    small = random.normal(size=(int(side / step) + 8,) * 2).astype(np.float32)
    blurred = cv2.GaussianBlur(small, (0, 0), scale / step)
    field = np.asarray(cv2.resize(blurred, (side, side), interpolation=cv2.INTER_CUBIC))
    smooth: NDArray[np.float32] = ((field - field.mean()) / (field.std() + 1e-6)).astype(np.float32)
    return smooth


def _make_maps(side: int, random: np.random.Generator) -> _Maps:
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    unit = side / 512
    bumps = (
        0.10 * _smooth(side, 70 * unit, random)
        + 0.035 * _smooth(side, 22 * unit, random)
        + 0.01 * _smooth(side, 4, random)
    )
    outline = 0.38 - np.hypot(x * 1.05, y * 1.15) + bumps * 0.6
    tissue = np.clip(outline * 60, 0, 1)
    glands = _smooth(side, 5.5, random) * 0.75 + 0.35 * _smooth(side, 11, random)
    region = np.clip(0.55 + 0.9 * _smooth(side, 45 * unit, random), 0, 1)
    gland = glands * region - (1 - region) * 0.6
    tears = np.clip((_smooth(side, 3.0, random) + 0.8 * _smooth(side, 30 * unit, random) - 2.1) * 3, 0, 1)
    tissue = tissue * (1 - tears)
    stain = 1 + 0.10 * _smooth(side, 50 * unit, random)
    cells = np.clip(0.35 + 0.30 * _smooth(side, 14, random), 0.08, 1)
    flow_x, flow_y = (_smooth(side, 12, random) * np.float32(35) for _ in range(2))
    return _Maps(tissue.astype(np.float32), gland, stain, cells.astype(np.float32), flow_x, flow_y)


def _textures(random: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two textures that repeat without a seam: fine grain, and fibres that run left to right."""
    import cv2

    def blurred(x: float, y: float) -> NDArray[np.float32]:
        pad = 128
        field = np.pad(random.normal(size=(_GRAIN, _GRAIN)).astype(np.float32), pad, mode="wrap")
        field = np.asarray(cv2.GaussianBlur(field, (0, 0), sigmaX=x, sigmaY=y), np.float32)[pad:-pad, pad:-pad]
        return np.ascontiguousarray(field / field.std())

    return blurred(0.7, 0.7) * 0.6 + blurred(2, 2) * 0.4, blurred(14, 1.1) * 0.65 + blurred(6, 0.6) * 0.35


def _sample(field: NDArray[np.float32], y: int, height: int, width: int) -> NDArray[np.float32]:
    """Rows of a map at half the slide's size; `y` too counts rows at that size."""
    import cv2

    scale = _FINE / _COARSE
    matrix = np.array([[scale, 0, 0], [0, scale, y * scale]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(field, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE))


def _densities(
    y: int, height: int, width: int, maps: _Maps, grain: NDArray[np.float32], fibres: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Haematoxylin (with `_MARGIN` rows more above and below, no nuclei yet) and eosin of a band."""
    import cv2

    rows = height + 2 * _MARGIN
    box = ((y - _MARGIN) // _FINE, -(-rows // _FINE), -(-width // _FINE))
    across, down = np.arange(box[2], dtype=np.float32), np.arange(box[0], box[0] + box[1], dtype=np.float32)
    tissue, gland = _sample(maps.tissue, *box), _sample(maps.gland, *box)
    flow_x = np.remainder(_sample(maps.flow_x, *box) + across, _GRAIN - 1)
    flow_y = np.remainder(_sample(maps.flow_y, *box) + down[:, None], _GRAIN - 1)
    fibre = cv2.remap(fibres, flow_x, flow_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    fine = grain[np.ix_(down.astype(int) % _GRAIN, across.astype(int) % _GRAIN)]
    lumen = np.clip((gland - 1.05) * 9, 0, 1)
    epithelium = np.clip((gland - 0.35) * 5, 0, 1)
    gaps = np.clip((fibre - 1.15) * 2.2, 0, 0.85) * (1 - epithelium)
    body = tissue * (1 - lumen) * (1 - gaps) * _sample(maps.stain, *box)
    stroma = 0.42 + 0.10 * fibre + 0.04 * fine
    cytoplasm = 0.34 + 0.05 * fine
    eosin = _as_density(body * (stroma + (cytoplasm - stroma) * epithelium))
    haematoxylin = _as_density(body * (0.05 + 0.13 * epithelium + 0.015 * fine))
    return haematoxylin[:rows, :width], eosin[_MARGIN : _MARGIN + height, :width]


def _as_density(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    import cv2

    small = cv2.convertScaleAbs(np.maximum(values, 0), alpha=_DENSITY)
    return np.asarray(cv2.resize(small, None, fx=_FINE, fy=_FINE, interpolation=cv2.INTER_LINEAR), np.uint8)


def _place_nuclei(side: int, maps: _Maps, random: np.random.Generator) -> NDArray[np.float64]:
    """One row a nucleus, sorted by y: x, y, half axes, angle, density; round in epithelium, thin in stroma."""
    pitch = 15
    steps = np.arange(0, side, pitch, dtype=np.float64)
    places = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    places += random.uniform(-0.45, 0.45, places.shape) * pitch
    column, row = np.clip(places / _COARSE, 0, len(maps.tissue) - 1).astype(int).T
    gland, tissue = maps.gland[row, column], maps.tissue[row, column]
    lining = np.exp(-(((gland - 0.62) / 0.22) ** 2))
    stroma = maps.cells[row, column] * (gland < 0.45) * 0.55
    taken = random.random(len(places)) < np.clip(lining * 0.95 + stroma, 0, 1) * (tissue > 0.6) * (gland < 0.98)
    places, lining = places[taken], lining[taken]
    count = len(places)
    round_ = random.random(count) < lining + 0.25
    long = np.where(round_, random.normal(6.4, 0.9, count), random.normal(8.5, 1.5, count)).clip(4, 12)
    short = np.where(round_, long * random.uniform(0.68, 0.95, count), long * random.uniform(0.24, 0.42, count)).clip(
        2, 10
    )
    flow = maps.flow_y[row[taken], column[taken]]
    angle = np.where(round_, random.uniform(0, 180, count), flow * 1.6 + random.normal(0, 14, count))
    density = np.clip(random.normal(0.78, 0.16, count) + ~round_ * 0.14, 0.35, 1.35)
    nuclei = np.column_stack([places, long, short, angle, density])
    return np.asarray(nuclei[np.argsort(nuclei[:, 1], kind="stable")], np.float64)


def _draw_nuclei(haematoxylin: NDArray[np.uint8], y: int, nuclei: NDArray[np.float64]) -> None:
    """Paint the nuclei of a band: a dark rim, a body, a nucleolus off the centre."""
    import cv2

    first, last = np.searchsorted(nuclei[:, 1], [y - _MARGIN - 13, y - _MARGIN + len(haematoxylin) + 13])
    for x, row, long, short, angle, density in nuclei[first:last].tolist():
        centre = (round(x * 16), round((row - y + _MARGIN) * 16))
        value = density * _DENSITY
        axes = (round(long * 16), round(short * 16))
        cv2.ellipse(haematoxylin, centre, axes, angle, 0, 360, value * 1.12, -1, cv2.LINE_AA, 4)
        inner = (round((long - 1.3) * 16), round((short - 1.1) * 16))
        cv2.ellipse(haematoxylin, centre, inner, angle, 0, 360, value * 0.86, -1, cv2.LINE_AA, 4)
        if short > 4:
            spot = (centre[0] + round(angle % 7 - 3) * 12, centre[1] + round(angle % 5 - 2) * 12)
            cv2.circle(haematoxylin, spot, 22, value * 1.2, -1, cv2.LINE_AA, 4)


def _colours(stain: NDArray[np.float64], light: float) -> NDArray[np.uint8]:
    """Colour of each stored density, (256, 3), by Beer-Lambert."""
    units = np.arange(256)[:, None] / _DENSITY
    return np.asarray((light * np.exp(-units * stain)).round(), np.uint8)


def _coloured(density: NDArray[np.uint8], colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    import cv2

    return np.asarray(cv2.LUT(cv2.merge([density] * 3), colours.reshape(1, 256, 3)), np.uint8)
