"""Random images with random options: every level, as tifffile or zarr reads it, is the oracle's."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from faults.campaign import Campaign
from numpy.typing import NDArray
from oracle import pyramid

import slidewright
from slidewright.inspection.verify import verify_file

Pixels = NDArray[Any]

SIDES = (1, 2, 15, 16, 17, 31, 33, 64, 65, 100, 127, 128, 129, 200, 255, 257, 300)
DTYPES = ("uint8", "uint8", "uint8", "uint16", "int16", "uint32", "int32", "int8", "float32", "bool")
RESAMPLINGS = ("mean", "median", "nearest", "mode", "max", "min")
IN_ZARR = ("none", "zstd", "blosc", "gzip")
IN_TIFF = ("none", "zstd", "deflate", "lzw", "packbits", "png", "jpeg2000", "webp-lossless", "jpegxl-lossless")


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_random_images_with_random_options(tmp_path: Path) -> None:
    Campaign("random images", short=60, long=20_000).run(tmp_path, Made, lambda made: [made.convert_and_compare()])


class Made:
    """An image, a source of it, and options that may not fit."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self._folder, self._chance = folder, chance
        self.samples = chance.choice((1, 1, 2, 3, 3, 4, 5))
        self.dtype = np.dtype(chance.choice(DTYPES[: None if self.samples == 1 else -1]))
        self.options: dict[str, Any] = {"tile_size": chance.choice((16, 16, 32, 32, 64, 128))}
        self.pixels = self._image()
        self.source, self.about = self._source()
        self.suffix = chance.choice((".tif", ".tif", ".ome.tif", ".ome.zarr"))
        self._choose_options()

    def __str__(self) -> str:
        return f"{self.pixels.shape} of {self.dtype}, {self.about}, to {self.suffix} with {self.options}"

    def _maybe(self, part: float) -> bool:
        return self._chance.random() < part

    def _image(self) -> Pixels:
        """Noise over the whole range of the dtype, with some flat rectangles."""
        chance, dtype = self._chance, self.dtype
        noise = np.random.default_rng(chance.randrange(1 << 30))
        height, width = (chance.choice((*SIDES, chance.randrange(1, 400))) for _ in range(2))
        shape = (height, width, self.samples)
        if dtype.kind == "f":
            pixels: Pixels = noise.normal(0, 100, shape).astype(dtype)
        elif dtype.kind == "b":
            pixels = noise.integers(0, 2, shape).astype(bool)
        else:
            limits = np.iinfo(dtype)
            pixels = noise.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        most = 1 if dtype.kind in "bf" else np.iinfo(dtype).max
        for _ in range(chance.choice((0, 3))):
            y, x = chance.randrange(height), chance.randrange(width)
            rows, columns = chance.randrange(1, height + 1), chance.randrange(1, width + 1)
            pixels[y : y + rows, x : x + columns] = chance.choice((0, most))
        return pixels

    def _source(self) -> tuple[Any, str]:
        flat = self.pixels if self.samples > 1 else self.pixels[:, :, 0]
        match self._chance.choice(("array", "npy", "zarr", "tiff", "tiff", "tiff")):
            case "array":
                return flat, "an array"
            case "npy":
                np.save(self._folder / "source.npy", flat)
                return self._folder / "source.npy", "a .npy file"
            case "zarr":
                return self._zarr(flat)
        return self._tiff(flat)

    def _zarr(self, flat: Pixels) -> tuple[Any, str]:
        chance, axes = self._chance, "YXC"[: flat.ndim]
        chunks = (chance.choice((16, 50, 64, 100)), chance.choice((16, 50, 64, 100)), self.samples)[: flat.ndim]
        if flat.ndim == 3 and self._maybe(0.5):
            flat, axes, chunks = np.moveaxis(flat, 2, 0), "CYX", (chance.choice((1, self.samples)), *chunks[:2])
        path, form = self._folder / "source.zarr", chance.choice((2, 3))
        zarr.create_array(str(path), data=np.ascontiguousarray(flat), chunks=chunks, zarr_format=form, fill_value=0)
        self.options["axes"] = axes
        return path, f"zarr v{form} of {axes} in chunks of {chunks}"

    def _tiff(self, flat: Pixels) -> tuple[Any, str]:
        chance, integer = self._chance, self.dtype.kind in "iu"
        given: dict[str, Any] = {"photometric": "minisblack"}
        compression = chance.choice((None, "packbits", *(("zlib", "lzw", "zstd") if self.dtype.kind != "b" else ())))
        if compression is not None:
            given["compression"] = compression
            given["predictor"] = integer and compression != "packbits" and self._maybe(0.5)
        if self.dtype.kind != "b" and self._maybe(0.7):
            given["tile"] = (chance.choice((16, 32, 64, 112)), chance.choice((16, 32, 64, 112)))
        else:
            given["rowsperstrip"] = chance.choice((1, 7, 32, flat.shape[0]))
        if self.samples in (3, 4) and self.dtype.kind == "u":
            given |= {"photometric": "rgb", "extrasamples": ["unassalpha"][: self.samples - 3]}
        if flat.ndim == 3:
            given["planarconfig"] = chance.choice(("contig", "contig", "separate"))
            flat = np.moveaxis(flat, 2, 0) if given["planarconfig"] == "separate" else flat
        path = self._folder / "source.tif"
        with tifffile.TiffWriter(path, bigtiff=self._maybe(0.3), byteorder=chance.choice("<>")) as tiff:
            tiff.write(np.ascontiguousarray(flat), metadata=None, **given)
        return path, f"a TIFF with {given}"

    def _choose_options(self) -> None:
        chance, options, zarr_like = self._chance, self.options, self.suffix == ".ome.zarr"
        options["compression"] = chance.choice(IN_ZARR if zarr_like else IN_TIFF)
        kinds = {1: ("grey", "labels", "binary"), 3: ("rgb",), 4: ("rgba",)}
        some = {
            "block_tiles": (0.5, (1, 2, 4)),
            "levels": (0.3, (1, 2, 3)),
            "resampling": (0.5, RESAMPLINGS),
            "kind": (0.3, ("multichannel", *kinds.get(self.samples, ()))),
            "memory": (0.2, ("400MB",)),
            "resume": (0.2, (True,)),
            "keep_tiles": (0.2, ("auto", "never")),
        }
        if zarr_like:
            some |= {"zarr_shard": (0.4, (0, 1, 2, 4))} if self._maybe(0.7) else {"ngff": (1, ("0.4",))}
        else:
            some |= {"bigtiff": (0.25, (False,))}
            some |= {"predictor": (0.5, (True, False))} if options["compression"] in ("zstd", "lzw", "deflate") else {}
            some |= {"strict": (0.2, (True,))} if self.suffix == ".ome.tif" else {}
        options |= {name: chance.choice(values) for name, (part, values) in some.items() if self._maybe(part)}
        if self._maybe(0.3) and not isinstance(self.source, np.ndarray):
            height, width, _ = self.pixels.shape
            x, y = chance.randrange(width), chance.randrange(height)
            options["region"] = (x, y, chance.randrange(1, width - x + 1), chance.randrange(1, height - y + 1))

    def convert_and_compare(self) -> str:
        """What became of it; AssertionError where the file is not what it should be."""
        found = []
        for workers in (0, 2) if self._maybe(0.35) else (self._chance.choice((0, 0, 2)),):
            path = self._folder / f"out{workers}{self.suffix}"
            try:
                slidewright.convert(self.source, path, n_workers=workers, **self.options)
            except slidewright.SlidewrightError as error:
                assert not path.exists()
                return f"refused ({type(error).__name__})"
            found.append(bytes_of(path))
        assert all(one == found[0] for one in found), "other bytes for another number of workers"
        left = [name for name in os.listdir(self._folder) if not name.startswith(("source", "out"))]
        assert left == []
        verify_file(path)
        levels = read_zarr(path) if self.suffix == ".ome.zarr" else read_tiff(path)
        expected = self._expected()
        assert [level.shape for level in levels] == [level.shape for level in expected]
        if self.options.get("kind") not in ("labels", "binary"):  # whose values may fit in a smaller dtype
            assert levels[0].dtype.newbyteorder("=") in (expected[0].dtype, np.dtype(bool))
        for number, (level, wanted) in enumerate(zip(levels, expected, strict=True)):
            np.testing.assert_array_equal(level.astype(wanted.dtype), wanted, err_msg=f"level {number}")
        return "converted"

    def _expected(self) -> list[Pixels]:
        options, pixels = self.options, self.pixels
        if "region" in options:
            x, y, width, height = options["region"]
            pixels = pixels[y : y + height, x : x + width]
        kind = options.get("kind")
        masks = self.dtype.kind == "b" or kind in ("labels", "binary")
        pixels = pixels.astype(np.uint8) if self.dtype.kind == "b" else pixels
        method = options.get("resampling", "nearest" if masks else "mean")
        tile, levels = options["tile_size"], options.get("levels")
        said = kind in ("rgb", "rgba") or self.dtype.name == "uint8" or self.about.startswith("a TIFF")
        colours = said and self.samples in (3, 4) and self.dtype.name in ("uint8", "uint16") and kind != "multichannel"
        if colours:
            return pyramid(pixels, tile, method, levels)
        each = [pyramid(pixels[:, :, [number]], tile, method, levels) for number in range(self.samples)]
        return [np.concatenate(channels, 2) for channels in zip(*each, strict=True)]


def bytes_of(path: Path) -> dict[str, bytes]:
    """All that a file or a folder has, by names within it."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def read_tiff(path: Path) -> list[Pixels]:
    """The levels as tifffile reads them, (height, width, samples)."""
    with tifffile.TiffFile(path) as tiff:
        pages = tiff.series[0].levels if tiff.is_ome else tiff.pages
        found = [(page.asarray(), page.axes) for page in pages]
    return [_channels_last(pixels, axes) for pixels, axes in found]


def read_zarr(path: Path) -> list[Pixels]:
    """The levels as zarr reads them, (height, width, samples)."""
    group = zarr.open_group(str(path), mode="r")
    attributes: Any = dict(group.attrs)
    (image,) = attributes.get("ome", attributes)["multiscales"]
    axes = "".join(axis["name"] for axis in image["axes"])
    return [_channels_last(np.asarray(group[each["path"]]), axes) for each in image["datasets"]]


def _channels_last(pixels: Pixels, axes: str) -> Pixels:
    pixels = np.moveaxis(pixels, 0, 2) if pixels.ndim == 3 and axes[0].upper() in "SCI" else pixels
    return pixels.reshape(*pixels.shape[:2], -1)
