"""Every way to make a file, each to be disturbed by the campaigns: what it runs, what it makes, what it may leave."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from faults.campaign import OPTIONS, make_slide

import slidewright
from slidewright.errors import SlidewrightError

Run = Callable[..., object]


@dataclass(frozen=True)
class Way:
    """One way, in a folder with `slide.tif`, `kept.tif`, `work` and `scratch`."""

    name: str
    run: Run
    """With a folder, a number of workers and options; what was there before is replaced or gone on from."""
    makes: tuple[str, ...] = ("out.tif",)
    """Names in `work` that are complete or not there."""
    keeps: tuple[str, ...] = ()
    """Names in `work` that a disturbed run may leave for the next."""
    stays: tuple[str, ...] = ()
    """Names in `work` that a finished run leaves too."""
    finish: Run | None = None
    """What leads to the end after a disturbed run, if not `run` again."""
    prepare: Callable[[Path], None] = lambda folder: None
    """What is done undisturbed before."""


class FailedRowsError(SlidewrightError):
    """Rows of a batch failed, with an error of ours each."""


def _convert(folder: Path, workers: int, name: str = "out.tif", source: str = "slide.tif", **more: object) -> object:
    options = {**OPTIONS, **more}
    return slidewright.convert(
        folder / source, folder / "work" / name, n_workers=workers, scratch=folder / "scratch",
        overwrite=True, **{key: value for key, value in options.items() if value is not None},
    )  # fmt: skip


def _batch(folder: Path, workers: int, **more: object) -> None:
    (folder / "m.csv").write_text(
        "source,destination\nslide.tif,work/a.tif\nkept.tif,work/b.tif\nslide.tif,work/c.ome.tif\n"
    )
    report = slidewright.batch(
        folder / "m.csv", report=folder / "work" / "log.jsonl", n_workers=workers, scratch=folder / "scratch",
        **{**OPTIONS, **more},
    )  # fmt: skip
    known = (*(kind.__name__ for kind in SlidewrightError.__subclasses__()), "CorruptTileError")
    for item in report.failed:
        assert item.error.startswith(known), item.error
    if report.failed:
        raise FailedRowsError("; ".join(str(item.error) for item in report.failed))


def _shard(folder: Path, workers: int, index: int = 0, **more: object) -> None:
    options = {**OPTIONS, **more}
    slidewright.shard(
        folder / "slide.tif", folder / "work" / "shards", index=index, count=2, n_workers=workers,
        scratch=folder / "scratch", **{key: value for key, value in options.items() if value is not None},
    )  # fmt: skip


def _assemble(folder: Path, workers: int, name: str = "out.tif", **more: object) -> None:
    slidewright.assemble(
        folder / "work" / "shards", folder / "work" / name, n_workers=workers, scratch=folder / "scratch",
        overwrite=True, **more,
    )  # fmt: skip


def _copy_shards(folder: Path) -> None:
    shutil.copytree(folder / "shards", folder / "work" / "shards")


def _shard_to_the_end(folder: Path, workers: int, name: str = "out.tif", **more: object) -> None:
    for index in range(2):
        _shard(folder, workers, index, **more)
    _assemble(folder, workers, name)


def _write_tiles(folder: Path, workers: int, **more: object) -> None:
    pixels = _pixels(folder)
    height, width = pixels.shape[:2]
    side = OPTIONS["tile_size"]
    with slidewright.PyramidWriter(
        folder / "work" / "out.tif", pixels.shape, n_workers=workers, scratch=folder / "scratch", overwrite=True,
        **{key: value for key, value in OPTIONS.items() if key != "block_tiles"}, **more,
    ) as writer:  # fmt: skip
        for y in range(0, height, side):
            for x in range(0, width, side):
                writer.write_tile(pixels[y : y + side, x : x + side], y // side, x // side)


@functools.cache
def _pixels(folder: Path) -> np.ndarray:
    return tifffile.imread(folder / "slide.tif")


LOG = ("log.jsonl",)
ZARR = {"compression": "zstd", "effort": None, "zarr_shard": 2}  # shards that blocks fill, so that workers write them
WAYS = {
    way.name: way
    for way in (
        Way("convert", _convert),
        Way(
            "kept tiles",
            functools.partial(_convert, source="kept.tif", tile_size=None, compression=None, effort=None),
        ),
        Way("OME-TIFF", functools.partial(_convert, name="o.ome.tif"), ("o.ome.tif",)),
        Way(
            "OME-Zarr",
            functools.partial(_convert, name="o.ome.zarr", **ZARR),
            ("o.ome.zarr",),
        ),
        Way(
            "OME-Zarr 0.4",
            functools.partial(_convert, name="o.ome.zarr", compression="gzip", effort=None, ngff="0.4"),
            ("o.ome.zarr",),
        ),
        Way("resume", functools.partial(_convert, resume=True), keeps=("out.tif.shards",)),
        Way(
            "resume of OME-Zarr",
            functools.partial(_convert, name="o.ome.zarr", resume=True, **ZARR),
            ("o.ome.zarr",),
            ("o.ome.zarr.shards",),
        ),
        Way("batch", _batch, ("a.tif", "b.tif", "c.ome.tif"), LOG, LOG),
        Way(
            "batch with resume",
            functools.partial(_batch, resume=True),
            ("a.tif", "b.tif", "c.ome.tif"),
            (*LOG, "a.tif.shards", "b.tif.shards", "c.ome.tif.shards"),
            LOG,
        ),
        Way("shard", _shard, (), ("shards",), ("shards", "out.tif"), _shard_to_the_end),
        Way(
            "shard of OME-Zarr",
            functools.partial(_shard, format="ome-zarr", **ZARR),
            (),
            ("shards",),
            ("shards", "o.ome.zarr"),
            functools.partial(_shard_to_the_end, name="o.ome.zarr", format="ome-zarr", **ZARR),
        ),
        Way("assemble", _assemble, ("out.tif",), ("shards",), ("shards",), prepare=_copy_shards),
        Way("tiles", _write_tiles),
        Way("regions", functools.partial(_write_tiles, overlap="blend")),
    )
}


def make_places(folder: Path, height: int = 700, width: int = 900) -> dict[str, dict[str, str]]:
    """Slides, shards and folders; the digests of what each way makes when nobody disturbs it."""
    make_sources(folder, height, width)
    return {way.name: undisturbed(folder, way) for way in WAYS.values()}


def make_sources(folder: Path, height: int, width: int) -> None:
    """Slides, shards and folders."""
    make_slide(folder / "slide.tif", height, width)
    make_slide(folder / "kept.tif", height // 2, width // 2, compression="jpeg", seed=4)
    for name in ("work", "scratch"):
        (folder / name).mkdir()
    for index in range(2):
        _shard(folder, 0, index)
    shutil.move(folder / "work" / "shards", folder / "shards")


def undisturbed(folder: Path, way: Way) -> dict[str, str]:
    """The digests of what a way makes when nobody disturbs it."""
    way.prepare(folder)
    (way.finish or way.run)(folder, 0)
    names = [name for name in (*way.makes, "out.tif") if exists(folder, name)]
    found = {name: digest(folder / "work" / name) for name in names}
    clear(folder)
    return found


def exists(folder: Path, name: str) -> bool:
    return os.path.lexists(folder / "work" / name)


def clear(folder: Path) -> None:
    """An empty `work`, which a test looked at before."""
    for path in (folder / "work").iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def digest(path: Path) -> str:
    """What a file, or a folder with all its files, is."""
    found = hashlib.sha256()
    for item in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if item.is_file():
            found.update(str(item.relative_to(path)).encode() + b"\0" + item.read_bytes())
    return found.hexdigest()


def left(folder: Path, allowed: tuple[str, ...]) -> list[str]:
    """What lies in `work`, `scratch` and `tmp` beside what may."""
    found = [path.name for path in (folder / "work").iterdir() if path.name not in allowed]
    others = (folder / name for name in ("scratch", "tmp") if (folder / name).exists())
    return found + [path.name for other in others for path in other.iterdir()]


def assert_whole(
    folder: Path, way: Way, clean: dict[str, str], story: str, old: dict[str, str] | None = None
) -> None:
    """What has its name is complete, or still the old one where there was one."""
    for name in way.makes:
        if exists(folder, name):
            assert digest(folder / "work" / name) in (clean[name], (old or {}).get(name)), f"{name} is wrong: {story}"
        else:
            assert name not in (old or {}), f"the old {name} is gone: {story}"


def assert_goes_on(folder: Path, way: Way, clean: dict[str, str], story: str) -> None:
    """The next run makes the right files, and leaves nothing of the disturbed one."""
    (way.finish or way.run)(folder, 0)
    for name, expected in clean.items():
        assert digest(folder / "work" / name) == expected, f"{name} is wrong after the next run: {story}"
    found = left(folder, (*way.makes, *way.stays))
    assert found == [], f"{found} left behind by the next run: {story}"
