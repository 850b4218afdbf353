"""What is kept of which source, in which kind of file, and which readers then have its pixels: measured cell by cell.

`tests/conversions/test_kept_matrix.py` holds the cells against `WRONG`; run as a script, this file measures them all,
with Bio-Formats where that is here, and writes the table of docs/keeping-tiles.md.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dicom_slides
import imagecodecs
import ndpi_slides
import numpy as np
import openslide
import pyvips
import tifffile
from by_bioformats import AVAILABLE, by_bioformats
from kept_sources import ASKED, SOURCES, TILE, aperio_jpeg2000, level_0, ome, philips, picture, tiles_of
from numpy.typing import NDArray

import slidewright
from slidewright.sources.base import Source

PAGE = Path(__file__).parent.parent / "docs" / "keeping-tiles.md"
DESTINATIONS = {"plain": ("out.tif", None), "Aperio": ("out.svs", "aperio"), "OME-TIFF": ("out.ome.tif", None)}
READERS = ("tifffile", "OpenSlide", "libvips", "Bio-Formats")
APERIO = "Aperio Image Library v12.0\n410x300 ({tile}x{tile}) JPEG|AppMag = 20|MPP = 0.5"


@dataclass(frozen=True)
class Kind:
    """A kind of source."""

    make: Callable[[Path], Path]
    """Makes one in a folder."""
    shown: Callable[[Path], NDArray[Any]]
    """Its pixels by a reader that nobody here wrote."""
    asked: str | None = None
    """The compression that must be named for its tiles to be kept."""


def _tiff(make: Callable[[Path], Any], name: str = "in.tif", asked: str | None = None) -> Kind:
    return Kind(lambda folder: (make(folder / name), folder / name)[1], level_0, asked)


def _as_aperio(kind: str) -> Callable[[Path], None]:
    """A tiled TIFF under the description that makes it an Aperio slide."""

    def make(path: Path) -> None:
        SOURCES[kind](path)
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            tile, data = page.tilelength, list(_segments(tiff, page))
            arguments: dict[str, Any] = {"photometric": "rgb", "jpegtables": page.jpegtables, "compression": "packbits"}
            shape, subsampling, rgb = page.shape, page.tags.get("YCbCrSubSampling"), page.photometric == 2
        if not rgb:
            arguments |= {"compression": "jpeg", "subsampling": subsampling.value}
        with tifffile.TiffWriter(path) as tiff:
            description = APERIO.format(tile=tile)
            more = {"description": description, "tile": (tile, tile), "metadata": None}
            tiff.write(iter(data), shape=shape, dtype="uint8", **arguments, **more)
        if rgb:
            with tifffile.TiffFile(path, mode="r+") as tiff:
                tiff.pages.first.tags["Compression"].overwrite(7)

    return make


def _segments(tiff: tifffile.TiffFile, page: Any) -> Iterator[bytes]:
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        tiff.filehandle.seek(offset)
        yield tiff.filehandle.read(count)


def _aperio_ycbcr_jpeg2000(path: Path) -> None:
    """Compression 33003: YCbCr in JPEG 2000 that does not say so."""
    pixels = picture()
    ycbcr = np.empty_like(pixels)
    weights = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    ycbcr[...] = (pixels @ weights.T + [0, 128, 128]).round().clip(0, 255)
    data = [imagecodecs.jpeg2k_encode(tile, codecformat="j2k", mct=False) for tile in tiles_of(ycbcr, TILE)]
    arguments: dict[str, Any] = {"tile": (TILE, TILE), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        description = APERIO.format(tile=TILE)
        tiff.write(
            iter(data), shape=pixels.shape, dtype="uint8", compression="packbits", description=description, **arguments
        )
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(33003)


def _by_wsidicom(folder: Path) -> NDArray[Any]:
    import wsidicom

    with wsidicom.WsiDicom.open(folder) as slide:
        size = slide.size
        found = np.asarray(slide.read_region((0, 0), 0, (size.width, size.height), as_array=True))
        return found.reshape(size.height, size.width, -1)


def _by_openslide(path: Path) -> NDArray[Any]:
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[:, :, :3]


def _dicom(kind: str, **how: Any) -> Kind:
    asked = dicom_slides.ASKED.get(kind)
    return Kind(lambda folder: dicom_slides.slide(folder / "in", kind, **how), _by_wsidicom, asked)


def _sparse_dicom(folder: Path) -> Path:
    frames, there = dicom_slides.frames_of("jpeg 422"), [0, 3, 8, 17, 34]
    (folder / "in").mkdir()
    frames = [frames[n] for n in there]
    dicom_slides.write(folder / "in" / "one.dcm", "jpeg 422", picture(), frames, sparse=there)
    return folder / "in"


KINDS: dict[str, Kind] = {
    "TIFF, JPEG YCbCr 4:2:0": _tiff(SOURCES["jpeg 420"]),
    "TIFF, JPEG YCbCr 4:2:2": _tiff(SOURCES["jpeg 422"]),
    "TIFF, JPEG YCbCr 4:4:4": _tiff(SOURCES["jpeg 444"]),
    "TIFF, JPEG RGB": _tiff(SOURCES["jpeg rgb whole"]),
    "TIFF, deflate": _tiff(SOURCES["deflate"]),
    "TIFF, LZW": _tiff(SOURCES["lzw"]),
    "TIFF, WebP": _tiff(ASKED["webp"], asked="webp"),
    "TIFF, JPEG 2000": _tiff(ASKED["jpeg2000"], asked="jpeg2000"),
    "Aperio, JPEG RGB": _tiff(_as_aperio("jpeg rgb"), "in.svs"),
    "Aperio, JPEG YCbCr 4:2:2": _tiff(_as_aperio("jpeg 422"), "in.svs"),
    "Aperio, JPEG 2000 RGB (33005)": _tiff(aperio_jpeg2000, "in.svs", "jpeg2000"),
    "Aperio, JPEG 2000 YCbCr (33003)": Kind(_tiff(_aperio_ycbcr_jpeg2000, "in.svs").make, lambda path: picture()),
    "OME-TIFF, deflate, a page a channel": _tiff(ome, "in.ome.tif"),
    "Philips, sparse JPEG": _tiff(philips),
    "DICOM, JPEG YBR_FULL_422": _dicom("jpeg 422"),
    "DICOM, JPEG 4:2:0 as YBR_FULL_422": _dicom("jpeg 420"),
    "DICOM, JPEG YBR_FULL": _dicom("jpeg 444"),
    "DICOM, JPEG RGB": _dicom("jpeg rgb"),
    "DICOM, JPEG MONOCHROME2": _dicom("jpeg grey"),
    "DICOM, JPEG, TILED_SPARSE": Kind(_sparse_dicom, _by_wsidicom),
    "DICOM, JPEG 2000": _dicom("jpeg2000"),
    "DICOM, JPEG 2000 lossy": _dicom("jpeg2000-lossy"),
    "DICOM, HTJ2K": _dicom("htj2k"),
    "NDPI, 4:2:2": Kind(lambda folder: ndpi_slides.slide(folder / "in.ndpi"), _by_openslide),
    "NDPI, 4:4:4": Kind(lambda folder: ndpi_slides.slide(folder / "in.ndpi", "444"), _by_openslide, "jpeg"),
}
NOT_KEPT = {("Aperio, JPEG 2000 YCbCr (33003)", name) for name in DESTINATIONS}
"""What is encoded anew."""
REFUSED = {("OME-TIFF, deflate, a page a channel", "Aperio")}
"""What can't be written: Aperio's flavour has no channels."""
_JPEG2000 = {(kind, name): {"OpenSlide", "libvips"} for kind in KINDS if "2000" in kind for name in DESTINATIONS}
_444 = ("TIFF, JPEG YCbCr 4:4:4", "DICOM, JPEG YBR_FULL", "NDPI, 4:4:4")
_SPARSE = ("Philips, sparse JPEG", "DICOM, JPEG, TILED_SPARSE")
WRONG: dict[tuple[str, str], set[str]] = {
    **{(kind, name): {"libvips"} for kind in _SPARSE for name in DESTINATIONS},
    **{("DICOM, HTJ2K", name): {"OpenSlide", "libvips", "Bio-Formats"} for name in DESTINATIONS},
    ("OME-TIFF, deflate, a page a channel", "plain"): {"OpenSlide", "libvips"},
    ("OME-TIFF, deflate, a page a channel", "OME-TIFF"): {"OpenSlide"},
    **{(kind, name): {"Bio-Formats"} for kind in _444 for name in DESTINATIONS},
    **{("TIFF, WebP", name): {"Bio-Formats", "OpenSlide"} for name in DESTINATIONS},
    **{cell: wrong for cell, wrong in _JPEG2000.items() if cell not in NOT_KEPT},
}
"""Readers that refuse a file, or have other pixels, by kind and destination."""


def convert(kind: str, destination: str, folder: Path) -> tuple[Source, Path, int]:
    """(source, output, tiles kept) of a cell."""
    name, flavour = DESTINATIONS[destination]
    path, out = KINDS[kind].make(folder), folder / name
    options: dict[str, Any] = {"flavour": flavour, "mpp": 0.25} if flavour else {}  # it has one number for both sides
    asked = KINDS[kind].asked
    report = slidewright.convert(path, out, n_workers=0, compression=asked, **options)
    return slidewright.open_source(path), out, report.kept_tiles


def same_bytes(source: Source, out: Path) -> bool:
    """Whether every tile of level 0, as tifffile finds it, is the source's own."""
    reader, info = source.open(), source.info
    assert info.tile is not None
    rows, columns = (-(-side // tile) for side, tile in zip(info.size, info.tile, strict=True))
    with tifffile.TiffFile(out) as tiff:
        level = tiff.series[0].levels[0] if tiff.is_ome else None
        pages = level.pages if level is not None else [tiff.pages.first]
        found = [data for page in pages for data in _segments(tiff, page.aspage())]
    each = rows * columns
    wanted = [reader.segment(*divmod(n % each, columns), n // each) for n in range(len(found))]
    reader.close()
    return found == wanted


def readers_wrong(kind: str, source: Source, folder: Path, out: Path, readers: tuple[str, ...]) -> set[str]:
    """The readers, of those asked, that do not have the source's pixels where the source has any."""
    path = next(folder.glob("in*"))
    expected = KINDS[kind].shown(path).astype(int)
    there = _there(source, expected.shape)
    anew = KINDS[kind].asked is None and source.info.stored is None
    return {name for name in readers if not _right(name, out, expected, there, 40 if anew else 4)}


def _there(source: Source, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Where a sparse source has tiles."""
    answer, reader, tile = np.zeros(shape[:2], bool), source.open(), source.info.tile
    assert tile is not None
    for y in range(0, shape[0], tile.height):
        for x in range(0, shape[1], tile.width):
            empty = source.info.stored is not None and reader.segment(y // tile.height, x // tile.width) == b""
            answer[y : y + tile.height, x : x + tile.width] = not empty
    reader.close()
    return answer


def _right(name: str, out: Path, expected: NDArray[Any], there: NDArray[np.bool_], most: int) -> bool:
    try:
        found = _READ[name](out)
    except Exception:
        return False
    found = found.reshape(*found.shape[:2], -1)[:, :, : expected.shape[2]]
    if found.shape[2] < expected.shape[2]:  # a reader that shows the first channel
        expected = expected[:, :, : found.shape[2]]
    if found.shape != expected.shape:
        return False
    return bool(np.abs(found.astype(int) - expected)[there].max() <= most)  # chroma is smoothed in two ways


def _by_tifffile(path: Path) -> NDArray[Any]:
    return level_0(path)


def _by_libvips(path: Path) -> NDArray[Any]:
    return np.asarray(pyvips.Image.new_from_file(str(path), fail_on="none").numpy())


def _by_bioformats(path: Path) -> NDArray[Any]:
    found = by_bioformats(path, "-series", "0")
    return np.moveaxis(found, 0, 2) if found.shape[0] < found.shape[2] else found  # of many channels


_READ: dict[str, Callable[[Path], NDArray[Any]]] = {
    "tifffile": _by_tifffile,
    "OpenSlide": _by_openslide,
    "libvips": _by_libvips,
    "Bio-Formats": _by_bioformats,
}


def table() -> str:
    """The table of the page."""
    lines = [f"| source | {' | '.join(DESTINATIONS)} |", "|---" * (1 + len(DESTINATIONS)) + "|"]
    for kind in KINDS:
        cells = []
        for destination in DESTINATIONS:
            wrong = WRONG.get((kind, destination), set())
            if (kind, destination) in REFUSED:
                cells.append("refused")
                continue
            good = "anew" if (kind, destination) in NOT_KEPT else "kept"
            cells.append(good + (f"; not in {', '.join(name for name in READERS if name in wrong)}" if wrong else ""))
        asked = KINDS[kind].asked
        lines.append(f"| {kind}{f', with `compression={asked!r}`' if asked else ''} | {' | '.join(cells)} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with its table as it should be."""
    block = f"<!-- begin matrix -->\n\n{table()}\n\n<!-- end matrix -->"
    return re.sub("<!-- begin matrix -->.*?<!-- end matrix -->", lambda _: block, page, flags=re.DOTALL)


def main() -> None:
    """Print every cell that differs from what is written above, of all kinds or those named, and write the table."""
    readers = READERS if AVAILABLE else READERS[:-1]
    found: dict[tuple[str, str], set[str]] = {}
    for kind in sys.argv[1:] or KINDS:
        for destination in DESTINATIONS:
            if (kind, destination) in REFUSED:
                continue
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                source, out, kept = convert(kind, destination, folder)
                equal = bool(kept) and same_bytes(source, out)
                wrong = readers_wrong(kind, source, folder, out, readers)
                found[kind, destination] = wrong
                if equal == ((kind, destination) in NOT_KEPT) or wrong != WRONG.get((kind, destination), set()):
                    print(f"    ({kind!r}, {destination!r}): {sorted(wrong)}, # kept {kept} {equal}", flush=True)
    PAGE.write_text(written(PAGE.read_text()))
    print(len(found), "cells, by", ", ".join(readers), file=sys.stderr)


if __name__ == "__main__":
    main()
