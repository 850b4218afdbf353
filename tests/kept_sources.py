"""Tiled TIFFs of every encoding that can be kept, written by tifffile alone, and what a file holds as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

TILE = 64


def picture(samples: int = 3, dtype: str = "uint8", height: int = 300, width: int = 410) -> NDArray[Any]:
    """Smooth colours with some noise, which JPEG takes well."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(x / (23 + 9 * n) + n) * np.cos(y / (31 - 5 * n)) for n in range(samples)]
    noise = np.random.default_rng(3).normal(0, 3, (height, width, samples))
    pixels = (np.stack(waves, 2) + noise).clip(0, 255)
    return (pixels * (257 if dtype == "uint16" else 1)).astype(dtype)


def _written(path: Path, pixels: NDArray[Any], tile: int = TILE, **options: Any) -> None:
    shown = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    if "photometric" not in options:
        options["photometric"] = "rgb" if pixels.shape[2] >= 3 else "minisblack"
    tifffile.imwrite(path, shown, tile=(tile, tile), metadata=None, **options)


def jpeg(subsampling: tuple[int, int] | None = None, samples: int = 3, **options: Any) -> Callable[[Path], None]:
    """JPEG by tifffile: each tile whole by itself."""
    more = {} if subsampling is None else {"subsampling": subsampling}
    return lambda path: _written(path, picture(samples), compression="jpeg", **more, **options)


def rgb_jpeg(path: Path) -> None:
    """As Aperio writes it: RGB in JPEG that does not say so, the tables in a tag, tiles of 240 pixels."""
    pixels, tile = picture(height=600, width=500), 240
    tables, tiles = _abbreviated(pixels, tile)
    arguments = {"shape": pixels.shape, "dtype": "uint8", "tile": (tile, tile), "photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(iter(tiles), compression="packbits", jpegtables=tables, **arguments)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(7)


def ended_otherwise(path: Path, end: bytes) -> None:
    """The same with tables that end otherwise than by EOI alone, which every reader takes."""
    rgb_jpeg(path)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["JPEGTables"]
        tag.overwrite(tag.value.removesuffix(b"\xff\xd9") + end)


ENDS = {"behind": b"\xff\xd9\0\0", "without": b"", "zeros": b"\0\0"}
"""Ends of tables, for `ended_otherwise`."""


def sparse_jpeg(path: Path) -> None:
    """YCbCr JPEG whose tiles are left out where nothing is, as Philips writes it, and one tile cut short."""
    pixels = picture()
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(
            _some_left_out(pixels), shape=pixels.shape, dtype="uint8", tile=(TILE, TILE), photometric="rgb",
            compression="jpeg", metadata=None,
        )  # fmt: skip


def ome(path: Path) -> None:
    """More channels of 16 bits than lie side by side in a plain TIFF, a page each."""
    channels = np.concatenate([np.moveaxis(picture(3, "uint16"), 2, 0)] * 6)
    tifffile.imwrite(
        path, channels, ome=True, tile=(TILE, TILE), compression="zlib", predictor=True, photometric="minisblack",
        metadata={"axes": "CYX"},
    )  # fmt: skip


def tiles_of(pixels: NDArray[Any], tile: int) -> Iterator[NDArray[Any]]:
    height, width, _ = pixels.shape
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            part = pixels[y : y + tile, x : x + tile]
            yield np.pad(part, ((0, tile - part.shape[0]), (0, tile - part.shape[1]), (0, 0)), "edge")


def _abbreviated(pixels: NDArray[Any], tile: int) -> tuple[bytes, list[bytes]]:
    """(JPEGTables, streams without them); the streams have no marker that tells their colours."""
    tables, streams = b"", []
    for part in tiles_of(pixels, tile):
        data = imagecodecs.jpeg8_encode(part, 85, colorspace="rgb", outcolorspace="rgb", subsampling="444")
        tables, rest, at = b"", b"", 2
        while data[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
            if data[at + 1] in (0xDB, 0xC4):
                tables += data[at:end]
            elif data[at + 1] != 0xEE:
                rest += _numbered(data[at:end])
            at = end
        scan_end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        streams.append(b"\xff\xd8" + rest + _numbered(data[at:scan_end]) + data[scan_end:])
    return b"\xff\xd8" + tables + b"\xff\xd9", streams


def _numbered(segment: bytes) -> bytes:
    """A frame or scan header whose components are 0, 1, 2, as Aperio has them, and not R, G, B, which would tell."""
    out = bytearray(segment)
    start, step = (10, 3) if out[1] == 0xC0 else (5, 2) if out[1] == 0xDA else (0, 0)
    for n in range(3 if step else 0):
        out[start + n * step] = n
    return bytes(out)


def _some_left_out(pixels: NDArray[Any]) -> Iterator[bytes]:
    for number, part in enumerate(tiles_of(pixels, TILE)):
        data = imagecodecs.jpeg8_encode(part, 90, colorspace="rgb", outcolorspace="ycbcr", subsampling="420")
        yield b"" if number in (1, 2, 9, 10, 34) else bytes(data)


SOURCES: dict[str, Callable[[Path], None]] = {
    "jpeg rgb": rgb_jpeg,
    "jpeg rgb whole": lambda path: _written(
        path, picture(), compression="jpeg", compressionargs={"outcolorspace": "rgb"}
    ),
    "jpeg 420": jpeg((2, 2)),
    "jpeg 422": jpeg((2, 1)),
    "jpeg 444": jpeg((1, 1)),
    "jpeg grey": jpeg(samples=1),
    "jpeg big-endian": jpeg((2, 2), byteorder=">"),
    "sparse jpeg": sparse_jpeg,
    "deflate": lambda path: _written(path, picture(), compression="zlib", predictor=True),
    "deflate grey 16": lambda path: _written(path, picture(1, "uint16"), compression="zlib", predictor=True),
    "lzw": lambda path: _written(path, picture(), compression="lzw"),
    "rgba deflate": lambda path: _written(path, picture(4), compression="zlib", extrasamples=("unassalpha",)),
    "ome channels": ome,
}
"""Those that are kept of their own accord."""

TIFF_ONLY: dict[str, Callable[[Path], None]] = {
    "shared channels": lambda path: _written(
        path, picture(3, "uint16"), compression="zlib", photometric="minisblack", planarconfig="contig"
    ),
}
"""Those that a TIFF keeps, and an OME-TIFF does not."""

ASKED: dict[str, Callable[[Path], None]] = {
    "zstd": lambda path: _written(path, picture(), compression="zstd", predictor=True),
    "webp": lambda path: _written(
        path, picture(), compression="webp", compressionargs={"lossless": False, "level": 80}
    ),
    "jpeg2000": lambda path: _written(path, picture(), compression="jpeg2000", compressionargs={"level": 0}),
    "none": lambda path: _written(path, picture()),
    "png": lambda path: _written(path, picture(), compression="png"),
    "jpegxl": lambda path: _written(path, picture(), compression="jpegxl", compressionargs={"distance": 1.0}),
}
"""Those that are kept where they are asked for by name."""


def aperio_jpeg2000(path: Path) -> None:
    """A page of Compression 33005, a plain codestream of RGB."""
    ASKED["jpeg2000"](path)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(33005)


def segments(path: Path) -> list[bytes]:
    """The encoded tiles of level 0, channel by channel."""
    found = []
    with tifffile.TiffFile(path) as tiff, path.open("rb") as file:
        pages = tiff.series[0].levels[0].pages if tiff.is_ome else [tiff.pages.first]
        for page in pages:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                file.seek(offset)
                found.append(file.read(count))
    return found


def level_0(path: Path) -> NDArray[Any]:
    """The pixels of level 0 as tifffile decodes them, (height, width, samples)."""
    with tifffile.TiffFile(path) as tiff:
        pages = tiff.series[0].levels[0].pages if tiff.is_ome else [tiff.pages.first]
        planes = [page.asarray() for page in pages]
    pixels = np.stack(planes, 2) if len(planes) > 1 else planes[0]
    with tifffile.TiffFile(path) as tiff:
        if tiff.pages.first.planarconfig == 2 and pixels.ndim == 3 and len(planes) == 1:
            pixels = np.moveaxis(pixels, 0, 2)
    return pixels.reshape(*pixels.shape[:2], -1)


def philips(path: Path) -> None:
    """As Philips writes it: the file says what it is in XML, and tiles without tissue are left out at every level."""
    spacing = '<Attribute Name="DICOM_PIXEL_SPACING">"{0}" "{0}"</Attribute>'
    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{spacing.format(0.00025 * 2**n)}</DataObject>'
        for n in (0, 1)
    )
    text = f'<DataObject ObjectType="DPUfsImport"><Array>{levels}</Array></DataObject>'
    pixels = picture(height=320, width=448)
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number, level in enumerate((pixels, np.ascontiguousarray(pixels[::2, ::2]))):
            tiff.write(
                _some_left_out(level),
                shape=level.shape,
                dtype="uint8",
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                metadata=None,
                software="Philips DP v1.0",
                description=text if not number else None,
                subfiletype=int(number > 0),
            )
