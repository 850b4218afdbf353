"""A small world of folders for the campaign of `test_random_world.py`: sources of each kind, outputs that are good,
broken or somebody else's, shards, manifests, links; what is in it, and what a file's pixels are, as other readers find
them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from faults.test_random import read_zarr
from kept_sources import picture
from numpy.typing import NDArray
from oracle import next_level
from PIL import Image

import slidewright

Entries = dict[str, tuple[Any, ...]]
Levels = list[NDArray[Any]]

SOURCES = (
    "src/a.tif", "src/a.tif", "src/b.svs", "src/b.svs", "src/deep/a.tif", "src/f.ome.tif", "src/d.npy", "src/g.npy",
    "src/e.png", "src/p.zarr", "src/o.ome.zarr", "src/o4.zarr", "out/good.tif", "out/good.zarr", "out/linksrc.tif",
    "out/hardsrc.tif",
)  # fmt: skip
LEFT = re.compile(r"\.[0-9a-f]{16}\.(partial|lock|trash|old)$|^slidewright-scratch|^\.slidewright")
"""Names of files that are a run's own."""
OF_ZARR = (".zgroup", ".zattrs", ".zarray", ".zmetadata")
_TILES = {"tile_size": 64, "n_workers": 0}
_CROPPED = 26  # decibels; what JPEG keeps of these pictures is above 30


class World:
    """The folder `world`, made anew from a copy for each trial, so that absolute paths in shards stay right."""

    def __init__(self, folder: Path) -> None:
        self.root, self._template = folder / "world", folder / "template"
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        self._make()
        self.root.rename(self._template)

    def reset(self) -> None:
        """As it was at first."""
        self.remove(self.root)
        subprocess.run(["cp", "-a", self._template, self.root], check=True)
        self._open_drop(0o333)

    def close(self) -> None:
        """Remove all of it."""
        self.remove(self.root)
        self.remove(self._template)

    def remove(self, root: Path) -> None:
        """Remove a world, with what may not be changed in it."""
        self._open_drop(0o755)
        for folder, _, _ in os.walk(root):
            os.chmod(folder, 0o755)
        shutil.rmtree(root, ignore_errors=True)

    def _open_drop(self, mode: int) -> None:
        if os.path.isdir(self.root / "drop"):
            os.chmod(self.root / "drop", mode)

    def _make(self) -> None:
        root = self.root
        for name in ("src/deep", "out/mine", "out/ro", "out/empty.zarr", "out/plain.zarr", "sh/others/files", "man",
                     "tmp", "deliver", "drop", "beside"):  # fmt: skip
            (root / name).mkdir(parents=True)
        self._make_sources(picture(), picture(1, "uint16", 200, 333)[:, :, 0])
        self._make_outputs(picture()[:111])
        self._make_shards()
        for name, text in {
            "out/notes.txt": "mine", "out/page.html": "<p>mine", "out/mine/data.csv": "1,2", "out/GOOD.tif": "case",
            "out/.mine": "mine", "out/.good.tif.old.partial": "mine", "out/plain.zarr/x.txt": "no zarr",
            "out/ro/keep.tif": "read-only", "sh/others/files/photo.jpg": "mine", "sh/mixed/README": "mine",
            "man/mine.jsonl": "no report\n",
            "man/m.csv": "source,destination\n../src/a.tif,../deliver/a.tif\n../src/b.svs,../deliver/b.tif\n"
            "../src/g.npy,../deliver/g.zarr\n",
            "man/n.csv": "source,destination,compression,tile_size\n../src/a.tif,../out/good.tif,zstd,64\n"
            "../src/d.npy,../out/new.ome.tif,deflate,64\n../src/e.png,../out/good.zarr,zstd,64\n"
            "../out/good.ome.tif,../deliver/x.tif,deflate,64\n",
        }.items():  # fmt: skip
            (root / name).write_text(text)
        for name, target in {
            "out/link.tif": "good.tif", "out/dangling.tif": "nowhere.tif", "src/toMine": "../out/mine",
            "out/link.zarr": "good.zarr", "out/linksrc.tif": "../src/a.tif", "here": ".",
        }.items():  # fmt: skip
            (root / name).symlink_to(target)
        os.link(root / "out/good.tif", root / "out/hard.tif")
        os.link(root / "src/a.tif", root / "out/hardsrc.tif")
        for name in ("a.svs", "b.svs"):
            shutil.copy2(root / "src/b.svs", root / "beside" / name)
        for folder, _, names in os.walk(root / "sh/fixed"):
            for name in names:
                os.chmod(os.path.join(folder, name), 0o444)
            os.chmod(folder, 0o555)
        os.chmod(root / "out/good.ome.tif", 0o444)
        os.chmod(root / "out/ro", 0o555)

    def _make_sources(self, rgb: NDArray[Any], grey: NDArray[Any]) -> None:
        at, tiled = self.root / "src", {"tile": (64, 64), "metadata": None}
        tifffile.imwrite(at / "a.tif", rgb, photometric="rgb", compression="zlib", **tiled)
        tifffile.imwrite(at / "b.svs", rgb[::-1].copy(), photometric="rgb", compression="jpeg", **tiled)
        tifffile.imwrite(at / "deep/a.tif", rgb[:, ::-1].copy(), photometric="rgb", **tiled)
        tifffile.imwrite(at / "f.ome.tif", grey, tile=(64, 64), ome=True)
        np.save(at / "d.npy", rgb[:250, :190])
        np.save(at / "g.npy", grey)
        Image.fromarray(rgb[:120, :130]).save(at / "e.png")
        Image.fromarray(rgb[:50, :70]).save(at / "label.png")
        zarr.create_array(str(at / "p.zarr"), data=rgb[:260, :300, 0].copy(), chunks=(64, 64))
        slidewright.convert(rgb, at / "o.ome.zarr", **_TILES)
        slidewright.convert(rgb[:200], at / "o4.zarr", ngff="0.4", **_TILES)

    def _make_outputs(self, rgb: NDArray[Any]) -> None:
        at = self.root / "out"
        for name in ("good.tif", "good.zarr", "good.ome.tif"):
            slidewright.convert(rgb, at / name, **_TILES)
        slidewright.convert(self.root / "src/b.svs", at / "arch.tif", archive="jpegxl", n_workers=0)
        tifffile.imwrite(at / "foreign.tif", rgb[:77, :, 0])
        (at / "broken.tif").write_bytes((at / "good.tif").read_bytes()[:-3000])

    def _make_shards(self) -> None:
        at, tiff = self.root / "sh", {"compression": "deflate", **_TILES}
        for name, count, made in (("full", 3, 3), ("mixed", 3, 3), ("half", 3, 1)):
            for index in range(made):
                slidewright.shard(self.root / "src/a.tif", at / name, index=index, count=count, **tiff)
        store = {"format": "ome-zarr", "compression": "zstd", "zarr_shard": 2, **_TILES}
        for name, count in (("zarr", 2), ("fixed", 1)):
            for index in range(count):
                slidewright.shard(self.root / "src/g.npy", at / name, index=index, count=count, **store)

    def names(self) -> Iterator[str]:
        """All there is, by paths from its root; a folder that may not be read is made readable meanwhile."""
        self._open_drop(0o755)
        for folder, folders, files in os.walk(self.root):
            for name in folders + files:
                yield os.path.relpath(os.path.join(folder, name), self.root)
        self._open_drop(0o333)

    def snapshot(self) -> Entries:
        """What each name is: kind, inode and rights, and of a file its content."""
        found: Entries = {}
        for name in self.names():
            path = self.root / name
            about = path.lstat()
            if stat.S_ISLNK(about.st_mode):
                found[name] = ("link", os.readlink(path))
            elif stat.S_ISDIR(about.st_mode):
                found[name] = ("folder", about.st_ino) if name != "drop" else ("folder",)
            else:
                found[name] = ("file", about.st_ino, about.st_mode, hashlib.md5(path.read_bytes()).hexdigest())
        return found

    def real(self, name: str) -> str:
        """A path as it is without links, from the root."""
        return os.path.relpath(os.path.realpath(self.root / name.rstrip("/")), os.path.realpath(self.root))

    def levels(self, name: str) -> Levels | None:
        """What tifffile, zarr, numpy or Pillow read; None where they do not."""
        path = self.root / name
        try:
            return _levels(path)
        except Exception:  # whatever they say of damage
            return None

    def wrong(self, name: str, source: Levels | None) -> str | None:
        """What is wrong with an image that was made of a source, None for nothing."""
        found = self.levels(name)
        if found is None:
            return "neither tifffile nor zarr reads it"
        return None if source is None else _difference(found, source[0])


def _levels(path: Path) -> Levels:
    if path.is_dir():
        if isinstance(array := zarr.open(str(path), mode="r"), zarr.Array):
            names = getattr(array.metadata, "dimension_names", None) or ()
            pixels = np.moveaxis(array[:], 0, 2) if names[:1] == ("c",) else array[:]  # of an OME-Zarr
            return [np.atleast_3d(pixels)]
        return read_zarr(path)
    if path.suffix == ".npy":
        return [np.atleast_3d(np.load(path))]
    if path.suffix == ".png":
        return [np.atleast_3d(np.asarray(Image.open(path)))]
    with tifffile.TiffFile(path) as tiff:
        found = list(tiff.series[0].levels)
        if len(found) == 1:  # of a plain TIFF each level is a series; a label has no tiles
            found += [page for page in tiff.pages if page.is_tiled and page.subfiletype & 1]
        return [np.atleast_3d(level.asarray()) for level in found]


def _difference(found: Levels, wanted: NDArray[Any]) -> str | None:
    if (found[0].shape, found[0].dtype) != (wanted.shape, wanted.dtype):
        return f"{found[0].shape} of {found[0].dtype} in place of {wanted.shape} of {wanted.dtype}"
    most = np.iinfo(wanted.dtype).max
    error = np.square(found[0].astype(float) - wanted).mean()
    if error and 10 * np.log10(most**2 / error) < _CROPPED:
        return f"level 0 has other pixels ({10 * np.log10(most**2 / error):.1f} dB)"
    for number, level in enumerate(found):
        if level.shape != wanted.shape or np.abs(level.astype(float) - wanted).mean() > 0.04 * most:
            return f"level {number} is wrong ({level.shape} in place of {wanted.shape}, or its pixels)"
        wanted = next_level(wanted)
    return None
