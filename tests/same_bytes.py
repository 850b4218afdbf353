"""The conversions whose bytes are kept: small inputs, the options, and the hashes of what was written.

`python tests/same_bytes.py` writes `same_bytes.json` anew, with the slidewright that this Python imports. Do that for a
change of the output that is meant, and say in the changelog which cases changed and why.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import tifffile
import zarr

import slidewright

KEPT = Path(__file__).with_suffix(".json")
HEIGHT, WIDTH = 150, 203
# "level" was its name when the hashes were made.


@dataclass(frozen=True)
class Case:
    """One conversion."""

    source: str
    options: dict[str, Any] = field(default_factory=dict)
    lossy: bool = False

    @property
    def name(self) -> str:
        """The source with its options."""
        return " ".join([self.source, *(f"{key}={value}" for key, value in self.options.items())])


def make_inputs(folder: Path) -> dict[str, Any]:
    """Every input by its name; made of whole numbers, and floats of quarters, which any processor adds up the same."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    noise = np.random.default_rng(11).integers(0, 12, (HEIGHT, WIDTH, 4))
    ramps = np.stack([x + y // 2, 230 - y - x // 9, (x * y) // 160, 255 - x // 2 * (y > 40)], 2)
    rgba = ((ramps % 244) + noise).astype(np.uint8)
    rgb, grey = np.ascontiguousarray(rgba[:, :, :3]), np.ascontiguousarray(rgba[:, :, 0])
    labels = ((x // 21 + y // 17) % 5).astype(np.uint8)
    inputs: dict[str, Any] = {
        "rgb": rgb,
        "rgba": rgba,
        "grey": grey,
        "grey16": grey.astype(np.uint16) * 201 + noise[:, :, 1].astype(np.uint16),
        "signed": grey.astype(np.int16) * 90 - 9000,
        "grey32": grey.astype(np.uint32) << 22,
        "float": (grey.astype(np.float32) - 100) / 4,
        "channels": np.concatenate([rgba, rgba[::-1, :, 1:3]], 2),
        "channels16": np.concatenate([rgba, rgba[:, ::-1, :1]], 2).astype(np.uint16) * 17,
        "labels": labels,
        "labels16": labels.astype(np.uint16) * 300,
        "mask": (labels > 2).astype(np.uint8),
        "flags": (labels + noise[:, :, 0]) % 3 == 0,
        "rgb of one pixel": rgb[:1, :1],
        "rgb of one tile": rgb[:64, :64],
    }
    for name, options in {
        "tiled TIFF": {"tile": (48, 80), "resolution": (40000, 20000), "resolutionunit": "CENTIMETER"},
        "striped TIFF": {"rowsperstrip": 7, "description": "strips of seven rows"},
        "planar TIFF": {"tile": (64, 64), "planarconfig": "separate"},
    }.items():
        inputs[name] = folder / f"{name}.tif"
        stored = np.moveaxis(rgb, 2, 0) if name == "planar TIFF" else rgb
        tifffile.imwrite(inputs[name], stored, photometric="rgb", compression="zlib", metadata=None, **options)
    inputs["zarr"] = folder / "array.zarr"
    zarr.save_array(str(inputs["zarr"]), rgb, zarr_format=2)
    return inputs


def _cases() -> Iterator[Case]:
    # A compression in every form, of RGB where it takes that.
    for subsampling in ("420", "422", "444"):
        yield Case("rgb", {"compression": "jpeg", "subsampling": subsampling}, lossy=True)
    yield Case("rgb", {"compression": "jpeg", "quality": 50}, lossy=True)
    yield Case("grey", {"compression": "jpeg"}, lossy=True)
    yield Case("channels", {"compression": "jpeg", "kind": "multichannel"}, lossy=True)
    for compression in ("deflate", "lzw", "zstd"):
        for predictor in (True, False):
            for source in ("rgb", "grey16", "float"):
                yield Case(source, {"compression": compression, "predictor": predictor})
    for compression in ("none", "packbits", "png", "webp-lossless", "jpeg2000", "htj2k", "jpegxl-lossless"):
        yield Case("rgb", {"compression": compression})
    for compression in ("webp", "jpeg2000-lossy", "jpegxl"):
        yield Case("rgb", {"compression": compression}, lossy=True)
        yield Case("rgb", {"compression": compression, "quality": 60}, lossy=True)
    for compression, effort in (("deflate", 1), ("deflate", 12), ("zstd", 19), ("png", 9), ("jpegxl-lossless", 1)):
        yield Case("rgb", {"compression": compression, "effort": effort})
    for compression in ("png", "jpeg2000", "jpegxl-lossless"):
        yield Case("grey16", {"compression": compression})
    for compression in ("ccitt-t4", "ccitt-t6", "packbits", "deflate"):
        yield Case("flags", {"compression": compression, "bits": 1})
    # A kind of pixels with what it decides by itself.
    for source in ("rgb", "grey"):
        yield Case(source, lossy=True)
    for source in ("rgba", "grey16", "signed", "grey32", "float", "channels", "channels16", "labels", "flags"):
        yield Case(source, {"kind": "multichannel"} if source == "channels" else {})
    yield Case("rgba", {"compression": "webp-lossless"})
    yield Case("rgba", {"alpha": "compose", "background": "#204060", "compression": "zstd"})
    yield Case("labels", {"colormap": {0: "white", 2: "red", 4: (1, 2, 3)}, "compression": "zstd"})
    yield Case("labels16", {"kind": "labels", "resampling": "mode"})
    yield Case("mask", {"kind": "binary", "bits": 8, "resampling": "mode"})
    yield Case("mask", {"kind": "binary", "bits": 1, "resampling": "max"})
    # How levels are made, how many, in tiles of which size.
    for resampling in ("mean", "median", "nearest", "mode", "max", "min"):
        for source in ("rgb", "grey16"):
            yield Case(source, {"compression": "zstd", "resampling": resampling})
    for more in ({"tile_size": 16}, {"tile_size": 128}, {"tile_size": 256}, {"levels": 1}, {"levels": 6}):
        yield Case("rgb", {"compression": "zstd", **more})
    yield Case("rgb", {"compression": "jpeg", "tile_size": 48, "levels": 2}, lossy=True)
    # What is written beside the pixels, and where they come from.
    yield Case("rgb", {"compression": "zstd", "bigtiff": False})
    yield Case("channels", {"kind": "multichannel", "bigtiff": False, "mpp": 0.5})
    yield Case("rgb", {"compression": "zstd", "mpp": 0.25, "description": "a slide"})
    yield Case("rgb", {"compression": "zstd", "mpp": (0.25, 0.5)})
    for source in ("rgb of one pixel", "rgb of one tile", "tiled TIFF", "striped TIFF", "planar TIFF", "zarr"):
        yield Case(source, {"compression": "zstd"})


CASES = {case.name: case for case in _cases()}


def versions(case: Case) -> dict[str, str]:
    """On what the bytes depend besides slidewright."""
    found = {module.__name__: module.__version__ for module in (imagecodecs, tifffile, cv2, np)}
    compression, effort = case.options.get("compression"), case.options.get("effort")
    if compression == "jpegxl" or (compression, effort) == ("jpegxl-lossless", 1):  # as the processor does it fastest
        found["processor"] = " ".join(np.show_config(mode="dicts")["SIMD Extensions"]["found"])
    return found


def convert(case: Case, inputs: dict[str, Any], path: Path) -> None:
    """Write the file of a case, in this process."""
    options = dict(case.options)
    slidewright.convert(inputs[case.source], path, n_workers=0, **{"tile_size": 64, **options})


def file_hash(path: Path, version: str = slidewright.__version__) -> str:
    """The file's, whichever version of slidewright (of as many letters) it says has written it."""
    software = f"slidewright {slidewright.__version__}".encode()
    return hashlib.sha256(path.read_bytes().replace(software, f"slidewright {version}".encode())).hexdigest()


def pixel_hash(path: Path) -> str:
    """Of every level's shape, dtype and pixels."""
    digest = hashlib.sha256()
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            pixels = page.asarray()
            digest.update(f"{pixels.shape} {pixels.dtype.name}".encode() + np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def make_hashes() -> dict[str, Any]:
    """What `same_bytes.json` holds."""
    hashes: dict[str, Any] = {"slidewright": slidewright.__version__, "cases": {}}
    with tempfile.TemporaryDirectory() as folder:
        inputs = make_inputs(Path(folder))
        for number, case in enumerate(CASES.values()):
            path = Path(folder, f"{number}.tif")
            convert(case, inputs, path)
            kept = {"file": file_hash(path), "versions": versions(case)}
            hashes["cases"][case.name] = kept if case.lossy else {**kept, "pixels": pixel_hash(path)}
    return hashes


if __name__ == "__main__":
    KEPT.write_text(json.dumps(make_hashes(), indent=1) + "\n")
    print(f"{len(CASES)} cases written to {KEPT} with {slidewright.__file__}", file=sys.stderr)
