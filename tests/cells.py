"""Every kind of pixels, which compression takes which, and what each reader gives back of them.

Written down here, not read from the compression table, so that a wrong row of it fails.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pages
from numpy.typing import NDArray

from slidewright.codecs import codecs_of

COLORMAP = {0: "white", 1: "red", 2: "blue", 4: (1, 2, 3)}
COLORS = np.array([(255, 255, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0), (1, 2, 3)], np.uint8)
HEIGHT, WIDTH = 100, 150


def _cells() -> dict[str, tuple[NDArray[Any], dict[str, Any]]]:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    wave = 128 + 60 * np.sin(x / 9) + 50 * np.cos(y / 7)
    noise = np.random.default_rng(3).normal(0, 3, (HEIGHT, WIDTH, 3))
    rgb = (np.stack([wave, wave[::-1], 255 - wave], 2) + noise).clip(0, 255).astype(np.uint8)
    alpha = np.where(x < 70, 255, x * 3 % 256).astype(np.uint8)[..., None]
    five = np.concatenate([rgb, rgb[::-1, ::-1, :2]], 2)
    labels = ((x // 11 + y // 13) % 5).astype(np.uint8)[..., None]
    mask = (labels > 2).astype(np.uint8)
    return {
        "rgb": (rgb, {}),
        "rgb16": (rgb.astype(np.uint16) * 200 + 7, {"kind": "rgb"}),
        "rgba": (np.concatenate([rgb, alpha], 2), {}),
        "opaque": (np.concatenate([rgb, np.full_like(alpha, 255)], 2), {}),
        "grey": (rgb[..., :1], {}),
        "grey16": (rgb[..., :1].astype(np.uint16) * 200 + 7, {}),
        "grey32": (rgb[..., :1].astype(np.uint32) * 2**23 + 7, {}),
        "signed": (rgb[..., :1].astype(np.int16) * 200 - 20_000, {}),
        "float": (((wave - 100) * 3.7).astype(np.float32)[..., None], {}),
        "channels": (five, {"kind": "multichannel"}),
        "channels16": (five.astype(np.uint16) * 9, {"kind": "multichannel"}),
        "palette": (labels, {"colormap": COLORMAP}),
        "palette16": (labels.astype(np.uint16), {"colormap": COLORMAP}),
        "labels32": (labels.astype(np.uint32) * 100_000, {"kind": "labels"}),
        "mask": (mask, {"kind": "binary"}),
        "mask1": (mask, {"kind": "binary", "bits": 1}),
    }


CELLS = _cells()
_IMAGES8 = {"rgb", "grey", "channels"}
_IMAGES = _IMAGES8 | {"rgb16", "grey16", "channels16"}
_WORDS = _IMAGES | {"rgba", "opaque", "palette", "palette16", "mask"}
ACCEPTED: dict[str, set[str]] = {
    **{name: set(CELLS) for name in ("none", "zstd", "deflate", "lzw", "packbits")},
    "jpeg": _IMAGES8,
    "jpeg2000": _WORDS | {"signed"},
    "jpeg2000-lossy": _IMAGES,
    "htj2k": _WORDS | {"signed"},
    "webp": {"rgb", "rgba", "opaque"},
    "webp-lossless": {"rgb", "rgba", "opaque"},
    "png": _WORDS,
    "ccitt-t4": {"mask", "mask1"},  # of one bit unless asked otherwise
    "ccitt-t6": {"mask", "mask1"},
    "jpegxl": _IMAGES8 | {"rgba", "opaque"},
    "jpegxl-lossless": _WORDS,
}
LOSSY = {"jpeg": 34.0, "jpeg2000-lossy": 36.0, "webp": 34.0, "jpegxl": 33.0}
"""The least PSNR in dB at the default quality."""

_PLAIN = {"none", "jpeg", "zstd", "deflate", "lzw", "packbits", "ccitt-t4", "ccitt-t6"}
READERS: dict[str, tuple[set[str], set[str]]] = {
    "tifffile": (set(codecs_of("tiff")), set(CELLS)),
    # tiffcp puts planes of 8 bits together, and spoils those of 16.
    "libtiff": (_PLAIN | {"webp", "webp-lossless"}, set(CELLS) - {"channels16"}),
    # pyvips' binary has no Zstandard, libvips no tiles of separate planes.
    "libvips": (_PLAIN - {"zstd"} | {"webp", "webp-lossless"}, set(CELLS) - {"channels", "channels16"}),
    # Pillow turns 16-bit RGB into 8-bit, and refuses or flattens the rest.
    "pillow": (_PLAIN, {"rgb", "rgba", "opaque", "grey", "grey16", "float", "palette", "mask", "mask1"}),
    # OpenSlide gives 8-bit RGBA of everything, premultiplied.
    "openslide": (_PLAIN, {"rgb", "opaque", "grey", "palette", "mask", "mask1"}),
}


def check_readers(path: Path, compression: str, cell: str, bits: int) -> None:
    """Hold what each reader that knows the compression sees against the cell's pixels."""
    for reader, (compressions, cells) in READERS.items():
        if compression not in compressions or cell not in cells or (reader == "libtiff" and not pages.LIBTIFF):
            continue
        # libtiff 4.7, as OpenSlide has it, miscounts the last tile of uncompressed bits.
        if reader == "openslide" and bits == 1 and compression == "none":
            continue
        _check_pixels(reader, cell, getattr(pages, f"by_{reader}")(path), CELLS[cell][0], LOSSY.get(compression))


def _check_pixels(reader: str, cell: str, found: NDArray[Any], wanted: NDArray[Any], least: float | None) -> None:
    if cell.startswith("palette") and reader in ("libvips", "openslide"):
        found, wanted = (found >> 8 if found.dtype == np.uint16 else found), COLORS[wanted[:, :, 0]]
    elif reader == "openslide":
        wanted = wanted[:, :, :3] if wanted.shape[2] > 1 else np.repeat(wanted, 3, 2)
    if cell == "mask1" or found.dtype == bool or (cell == "mask" and found.max() == 255):
        found = (found > 0).astype(np.uint8)
    assert found.shape == wanted.shape, reader
    if least is None:
        np.testing.assert_array_equal(found, wanted, err_msg=reader)
        return
    peak = np.iinfo(wanted.dtype).max
    error = float(((found.astype(np.float64) - wanted) ** 2).mean())
    assert error > 0, f"{reader}: {cell} is not lossy"
    assert 10 * math.log10(peak**2 / error) >= least, reader
    if cell in ("rgba", "opaque"):
        np.testing.assert_array_equal(found[:, :, 3], wanted[:, :, 3], err_msg=f"{reader}: alpha")
