"""One page written from an `Encoding` by tifffile alone, and what readers that nobody here wrote see in a file."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from slidewright.codecs import Encoding, resolve
from slidewright.formats.tiff import TiffFormat
from slidewright.formats.tiff_tags import corrections, encoding_arguments
from slidewright.geometry import Size
from slidewright.options import ConvertOptions
from slidewright.sources.base import SourceInfo
from slidewright.sources.pixel_format import resolve_pixels

LIBTIFF = shutil.which("tiffcp") is not None and shutil.which("tiff2rgba") is not None


def encoding_of(pixels: NDArray[Any], **options: Any) -> Encoding:
    """The encoding of (height, width, channels) pixels under `convert`'s options."""
    given = ConvertOptions(**{"tile_size": 64, **options})
    size, dtype = Size(*pixels.shape[:2]), pixels.dtype.name
    return resolve(given, resolve_pixels(given, SourceInfo("pixels", "test", size, pixels.shape[2], dtype)))


def encoded(encoding: Encoding, tile: NDArray[Any]) -> bytes:
    """A tile's segment, as the codec gives it."""
    return encoding.encoder().encode([tile])[0]


def stored(encoding: Encoding, tile: NDArray[Any]) -> bytes:
    """A tile's segment, as a TIFF stores it."""
    pack = TiffFormat().packer(encoding)
    return encoded(encoding, tile) if pack is None else pack(encoded(encoding, tile))


def write_page(path: Path, pixels: NDArray[Any], encoding: Encoding) -> None:
    """Write the page, its edge tiles filled with zeros."""
    height, width, channels = pixels.shape
    planes = encoding.pixels.planes
    shape = (channels, height, width) if planes > 1 else (height, width, channels) if channels > 1 else (height, width)
    arguments = {"dtype": encoding.dtype, **encoding_arguments(encoding)}
    tile = (encoding.tile, encoding.tile)
    with tifffile.TiffWriter(path, bigtiff=True, byteorder="<", ome=False, shaped=False) as tiff:
        tiff.write(_segments(pixels, encoding), shape=shape, tile=tile, metadata=None, **arguments)
    if corrections(encoding):
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for name, value in corrections(encoding).items():
                tiff.pages.first.tags[name].overwrite(value)


def _segments(pixels: NDArray[Any], encoding: Encoding) -> Iterator[bytes]:
    side = encoding.tile
    for plane in range(0, pixels.shape[2], encoding.samples):
        for y in range(0, pixels.shape[0], side):
            for x in range(0, pixels.shape[1], side):
                part = pixels[y : y + side, x : x + side, plane : plane + encoding.samples]
                tile = np.zeros((side, side, encoding.samples), encoding.dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield stored(encoding, tile)


def by_tifffile(path: Path) -> NDArray[Any]:
    """(height, width, channels), as all of these."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        pixels = page.asarray()
        return np.moveaxis(pixels, 0, 2) if page.planarconfig == 2 and pixels.ndim == 3 else _deep(pixels)


def by_libtiff(path: Path) -> NDArray[Any]:
    """The first page as tiffcp copies it out uncompressed, or tiff2rgba makes it of YCbCr, read by tifffile."""
    plain = path.with_suffix(".plain")
    with tifffile.TiffFile(path) as tiff:
        ycbcr = tiff.pages.first.photometric == 6
    # The first page only: tiffcp refuses planes of a page that is smaller than its tiles.
    command = ["tiff2rgba", "-n", "-c", "none", str(path)] if ycbcr else ["tiffcp", "-c", "none", f"{path},0"]
    done = subprocess.run([*command, str(plain)], capture_output=True, text=True, check=False)
    if done.returncode or "rror" in done.stderr:
        raise ValueError(done.stderr)
    return by_tifffile(plain)


def by_libvips(path: Path) -> NDArray[Any]:
    """Libvips' own TIFF loader."""
    import pyvips

    return _deep(pyvips.Image.tiffload(str(path), fail_on="error").numpy())


def by_pillow(path: Path) -> NDArray[Any]:
    """Pillow, by libtiff or by itself."""
    from PIL import Image

    with Image.open(path) as image:
        return _deep(np.asarray(image))


def by_openslide(path: Path) -> NDArray[Any]:
    """OpenSlide; of RGBA what it gives back is composed on nothing."""
    import openslide

    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def _deep(pixels: NDArray[Any]) -> NDArray[Any]:
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
