"""Small files of every kind that slidewright writes, made by random options, and what readers that nobody here wrote
find in them: what a campaign needs that makes such files wrong.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from oracle import pyramid
from PIL import ImageCms

import slidewright

Pixels = NDArray[Any]
FORMS = (
    *("plain", "plain", "classic", "aperio", "beside", "kept"),
    *("ome", "ome", "ome strict", "ome classic"),
    *("zarr 0.4", "zarr", "zarr", "zarr sharded", "zarr sharded", "archive"),
)
SUFFIXES = {"ome": ".ome.tif", "zarr": ".ome.zarr", "aperio": ".svs"}
KINDS = ("rgb", "rgb", "grey", "multichannel", "labels", "binary")
IN_TIFF = ("none", "deflate", "zstd", "lzw", "packbits", "png", "jpeg2000", "htj2k", "webp-lossless", "jpegxl-lossless")
LOSSY = ("jpeg", "jpeg", "webp", "jpeg2000-lossy", "jpegxl")
IN_ZARR = ("none", "zstd", "zstd", "gzip", "blosc", "jpeg", "jpeg2000", "webp-lossless")
IMAGES = ("jpeg", "jpeg2000", "webp-lossless")  # which zarr can't read without codecs that are not here
OF_BITS = ("none", "deflate", "zstd", "lzw", "packbits", "ccitt-t4", "ccitt-t6")


class Made:
    """A random image, its file, and what is right of that."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.form = chance.choice(FORMS)
        self.is_zarr = self.form.startswith("zarr")
        self.kind = "rgb" if self.form in ("aperio", "kept", "archive", "beside") else chance.choice(KINDS)
        self.options: dict[str, Any] = {"tile_size": chance.choice((16, 32, 64)), "n_workers": 0}
        self._choose()
        self.pixels, self.source = self._image(chance.randrange(1 << 30), "source")
        self.path = folder / f"out{SUFFIXES.get(self.form.partition(' ')[0], '.tif')}"
        self._levels: list[Pixels] | None = None

    def __str__(self) -> str:
        return f"{self.form}, {self.kind}, {self.pixels.shape} of {self.pixels.dtype}, {self.options}"

    def _maybe(self, part: float) -> bool:
        return self.chance.random() < part

    def _choose(self) -> None:
        """Options that suit the form and the kind."""
        chance, options = self.chance, self.options
        self.dtype = "uint16" if self.kind in ("grey", "multichannel", "labels") and self._maybe(0.4) else "uint8"
        self.samples = {"rgb": 3, "multichannel": 2 + 3 * chance.randrange(2)}.get(self.kind, 1)
        self.frames = chance.choice((1, 2)) if self.form.startswith(("ome", "zarr")) else 1
        self.shape = (chance.randrange(40, 240), chance.randrange(40, 240))
        if self.form in ("kept", "archive"):
            options |= {"kept": {}, "archive": {"archive": "jpegxl"}}[self.form]
            options.pop("tile_size")
            return
        if self.is_zarr:
            options["compression"] = chance.choice(IN_ZARR)
            sides = {"zarr 0.4": {"ngff": "0.4"}, "zarr": {"zarr_shard": 0}}
            options |= sides.get(self.form, {"zarr_shard": chance.choice((1, 2, 4))})
        elif self.kind == "binary" and self._maybe(0.6):
            options |= {"bits": 1, "compression": chance.choice(OF_BITS)}
        else:
            options["compression"] = chance.choice(LOSSY if self._maybe(0.35) else IN_TIFF)
        options |= {"kind": self.kind} if self.kind != "binary" else {}
        options |= {"axes": "zyxc" if self.samples > 1 else "zyx", "z": "all"} if self.frames > 1 else {}
        options |= {"bigtiff": False} if "classic" in self.form else {}
        options |= {"strict": True} if "strict" in self.form else {}
        options |= {"aperio": {"flavour": "aperio", "levels": 3}, "beside": {"associated": ["thumbnail"]}}.get(
            self.form, {"levels": chance.choice((1, 2, 3))} if self._maybe(0.3) else {}
        )
        options |= {"mpp": 0.25} if self._maybe(0.5) else {}
        if self.kind not in ("labels", "binary") and self._maybe(0.3):
            options["resampling"] = chance.choice(("nearest", "max", "min", "median"))

    def _image(self, seed: int, name: str) -> tuple[Pixels, Any]:
        """Smooth colours with some noise, and of that a part that is background; the source is an array or a file."""
        noise, samples = np.random.default_rng(seed), self.samples * self.frames
        height, width = self.shape
        most = {"labels": 9, "binary": 2}.get(self.kind, np.iinfo(self.dtype).max)
        wave = np.add.outer(np.sin(np.arange(height) / 17 + seed % 7), np.cos(np.arange(width) / 13)) / 4 + 0.5
        grain = noise.normal(0, 0.02, (height, width, samples))
        pixels = (np.clip(wave[..., None] + grain, 0, 0.999) * most).astype(self.dtype)
        if self.kind not in ("labels", "binary"):
            pixels = np.maximum(pixels, 1)
        pixels[: height // 3, : width // 2] = 255 if self.kind == "rgb" else 0
        if self.form in ("kept", "archive"):
            path = self.folder / f"{name}.tif"
            said: dict[str, Any] = {"compression": "jpeg", "photometric": "rgb", "tile": (32, 32), "metadata": None}
            said["iccprofile"] = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
            tifffile.imwrite(path, pixels, **said)
            return tifffile.imread(path), path
        given = np.moveaxis(pixels.reshape(height, width, self.frames, -1), 2, 0)
        given = given[..., 0] if self.samples == 1 else given
        given = given if self.frames > 1 else given[0]
        return pixels, np.ascontiguousarray(given).astype(bool if self.kind == "binary" else self.dtype)

    def write(self) -> None:
        """Make the file."""
        slidewright.convert(self.source, self.path, **self.options)

    def stranger(self) -> Path:
        """A file of other pixels by the same options."""
        path = self.path.with_name(f"stranger{self.path.name[3:]}")
        if not path.exists():
            _, source = self._image(self.chance.randrange(1 << 30), "strange")
            slidewright.convert(source, path, **self.options)
        return path

    def opened(self) -> Any:
        """The source as `verify` takes it."""
        axes = {name: self.options[name] for name in ("axes", "z") if name in self.options}
        return slidewright.open_source(self.source, **axes)

    def words(self) -> list[str]:
        """The source, and how the file was made of it, as the command takes them."""
        path = self.source
        if isinstance(path, np.ndarray):
            path = self.folder / "source.npy"
            np.save(path, self.source)
        names = [name for name in ("axes", "z", "resampling") if name in self.options]
        least = [] if self.least is None else ["--min-psnr", str(self.least)]
        return [str(path), *least, *(word for name in names for word in (f"--{name}", self.options[name]))]

    @property
    def lossless(self) -> bool:
        """Whether every level must be exact."""
        return self.options.get("compression", "jpeg") not in LOSSY

    @property
    def least(self) -> float | None:
        """A PSNR that the right file reaches, and one of other pixels does not."""
        return None if self.lossless else 20.0

    def levels(self, count: int) -> list[Pixels]:
        """So many levels as they should be, (height, width, samples of all planes)."""
        masks = self.kind in ("labels", "binary")
        method = self.options.get("resampling", "nearest" if masks else "mean")
        if self.kind == "rgb" and self.frames == 1:
            return pyramid(self.pixels, 64, method, count)
        each = [pyramid(self.pixels[:, :, [n]], 64, method, count) for n in range(self.pixels.shape[2])]
        return [np.concatenate(planes, 2) for planes in zip(*each, strict=True)]

    def is_as_it_should_be(self) -> bool | None:
        """Whether other readers find every level as it should be, the lossy ones by far or not at all; None where that
        can't be said. Raises whatever they raise over damage.
        """
        if self.is_zarr and self.options["compression"] in IMAGES:
            return None
        found = read_zarr(self.path) if self.is_zarr else read_tiff(self.path)
        verdicts = [True]
        for level, wanted in zip(found, self.levels(len(found)), strict=True):
            if level.shape != wanted.shape:
                return False
            if self.lossless:
                verdicts.append(bool((level == wanted).all()))
                continue
            error = float(np.square(level.astype(float) - wanted).mean()) or 1e-9
            psnr = 20 * np.log10(np.iinfo(wanted.dtype).max) - 10 * np.log10(error)
            verdicts.append(True if psnr > 20.1 else False if psnr < 19.9 else None)
        return False if False in verdicts else None if None in verdicts else True


def read_tiff(path: Path) -> list[Pixels]:
    """The levels as tifffile reads them."""
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages.first
        if tiff.is_ome or tiff.is_svs:
            levels = list(tiff.series[0].levels)
        else:
            levels = [page for page in map(tiff.pages.get, range(len(tiff.pages))) if page.is_tiled]
        assert first.is_tiled
        return [flat(level.asarray(), level.axes) for level in levels]


def read_zarr(path: Path) -> list[Pixels]:
    """The levels as zarr reads them."""
    group: Any = zarr.open_group(str(path), mode="r")
    attributes: Any = dict(group.attrs)
    (image,) = attributes.get("ome", attributes)["multiscales"]
    axes = "".join(axis["name"] for axis in image["axes"])
    return [flat(np.asarray(group[each["path"]]), axes) for each in image["datasets"]]


def flat(pixels: Pixels, axes: str) -> Pixels:
    """Rows and columns first, all else last: plane by plane, in each its channels."""
    order = [axes.upper().index(axis) for axis in "YX"]
    rest = sorted((n for n in range(pixels.ndim) if n not in order), key=lambda n: "TZICS".index(axes.upper()[n]))
    moved = pixels.transpose(*order, *rest)
    return moved.reshape(*moved.shape[:2], -1).astype(np.uint8 if pixels.dtype == bool else pixels.dtype)
