"""The options of a conversion: one frozen dataclass, validated once at the door.

What can be judged without the pixels is judged here, in `ConvertOptions.__post_init__`; what needs the source's dtype
and samples is judged by `codecs.resolve`. Deep code never re-checks or re-defaults.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slidewright.errors import OptionError

KINDS = ("rgb", "rgba", "grey", "multichannel", "labels", "binary")
RESAMPLINGS = ("mean", "median", "nearest", "mode", "max", "min")
MASK_RESAMPLINGS = ("nearest", "mode", "max", "min")  # never make a value that was not there
SUBSAMPLINGS = ("420", "422", "444")
ENGINES = ("processes", "dask")
ON_CORRUPT = ("error", "fill")
MAX_TILE = 4096

Color = str | tuple[int, int, int]
"""A colour name or "#rrggbb" as Pillow's ImageColor reads them, or (red, green, blue) of 0 to 255."""

_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """A number of bytes from 4000000000, "4GB" (10^9) or "4GiB" (2^30); raises OptionError."""
    if isinstance(text, int):
        value = text
    else:
        match = _BYTES.fullmatch(text)
        if match is None:
            raise OptionError(f"memory {text!r} is not a size; write for example 4GB or 512MiB")
        number, prefix, binary = match.groups()
        value = int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))
    if value <= 0:
        raise OptionError(f"memory {text!r} must be more than nothing")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """Options of `slidewright.convert`; every one has a default that suits a brightfield slide.

    Raises OptionError, naming the option and what it accepts.
    """

    tile_size: int = 512
    """Tile side in pixels, a multiple of 16 up to 4096."""
    compression: str | None = None
    """A name or alias of the compression table; default "jpeg" for RGB and grey of uint8, else "deflate"."""
    quality: int | None = None
    """Quality of a lossy compression, see the compression table. Only for lossy ones."""
    level: int | None = None
    """Effort of a lossless compression, see the compression table. Only for lossless ones."""
    subsampling: str | None = None
    """JPEG chroma subsampling of RGB: "420" (default), "422", "444"."""
    predictor: bool | None = None
    """Horizontal differencing (TIFF 6.0 section 14; of float, Adobe's technical note 3) before lzw, deflate or zstd;
    default on for images of integers, off for float, labels and binary masks.
    """
    kind: str | None = None
    """What the pixels are: "rgb", "rgba", "grey", "multichannel" (planes of their own), "labels" (annotations),
    "binary" (a mask); default by the source, its dtype and samples, and "labels" where there is a colormap.
    """
    colormap: Mapping[int, Color] | Sequence[Color] | None = None
    """Colours of labels: index to colour name or (red, green, blue); a label beyond its last index is an error."""
    alpha: str = "keep"
    """What becomes of the alpha of RGBA: "keep", or "compose" on `background`."""
    background: Color | int | float | None = None
    """Colour, or value, of what has no pixels: tiles never written, and what alpha is composed on; default white for
    RGB and RGBA, or the source's own; 0 for anything else.
    """
    bits: int | None = None
    """Bits a pixel of a binary mask: 1 or 8; default 1 for CCITT, else 8."""
    levels: int | None = None
    """Number of levels; default until both sides fit in one tile."""
    resampling: str | None = None
    """How a level is made from the one below: "mean", "median", "nearest" (top left), "mode", "max", "min"; default
    "mean", and "nearest" for labels and binary masks, of which only the last four make no new values.
    """
    mpp: float | tuple[float, float] | None = None
    """Micrometres a pixel of level 0, one number or (x, y); default the source's own."""
    description: str | None = None
    """ImageDescription of level 0; default the source's own."""
    format: str | None = None
    """What to write, such as "tiff"; default by the destination's suffix, else a TIFF."""
    strict: bool = False
    """Of an OME-TIFF: leave out the copies of the levels that readers without OME need, such as OpenSlide."""
    bigtiff: bool = True
    """BigTIFF; False writes classic TIFF and fails cleanly if it does not fit in 4 GB."""
    overwrite: bool = False
    """Replace an existing destination (at the very end, in one step)."""
    verify: bool = False
    """Decode every tile of the output before it gets its name."""
    n_workers: int | None = None
    """Worker processes; 0 works in this process; default as many as this process may use."""
    memory: str | int | None = None
    """Budget for all processes of the run together, such as "4GB"; default what is free."""
    block_tiles: int | None = None
    """Block side in tiles, a power of two; default by tile size and memory. Never changes the output."""
    scratch: str | os.PathLike[str] | None = None
    """Folder for temporary level stores; default the system's temporary folder (TMPDIR)."""
    timeout: float | None = None
    """Seconds that a worker may take for one block, after which it is killed and the block done again; default no
    limit.
    """
    on_corrupt: str = "error"
    """What a tile of the source that does not decode is: "error" ends the run and names it, "fill" paints it with the
    background.
    """

    resume: bool = False
    """Keep finished parts in the folder DST.shards until the file is complete, and go on from those that are there."""
    engine: str = "processes"
    """Who encodes: "processes" of this machine, or "dask", the workers of a Dask cluster."""
    dask: object = None
    """The scheduler's address, or a `distributed.Client`; None lets Dask's configuration decide."""

    def __post_init__(self) -> None:
        self._check_integer("tile_size", self.tile_size, 16, MAX_TILE)
        if self.tile_size % 16:
            raise OptionError(
                f"tile_size {self.tile_size} is not a multiple of 16, which TIFF 6.0 (section 15) asks for"
            )
        if self.quality is not None:
            self._check_integer("quality", self.quality, 1, 100)
        if self.levels is not None:
            self._check_integer("levels", self.levels, 1, 32)
        if self.n_workers is not None:
            self._check_integer("n_workers", self.n_workers, 0, 1024)
        if self.block_tiles is not None:
            self._check_integer("block_tiles", self.block_tiles, 1, 256)
            if self.block_tiles & (self.block_tiles - 1):
                raise OptionError(f"block_tiles {self.block_tiles} is not a power of two")
        if self.resampling is not None:
            self._check_choice("resampling", self.resampling, RESAMPLINGS)
        self._check_choice("engine", self.engine, ENGINES)
        if self.dask is not None and self.engine != "dask":
            raise OptionError('dask names a cluster; give engine="dask" with it')
        if self.kind is not None:
            self._check_choice("kind", self.kind, KINDS)
        self._check_choice("alpha", self.alpha, ("keep", "compose"))
        if self.bits not in (None, 1, 8):
            raise OptionError(f"bits {self.bits!r} must be 1 or 8")
        self._check_choice("on_corrupt", self.on_corrupt, ON_CORRUPT)
        if self.timeout is not None and not (isinstance(self.timeout, (int, float)) and 0 < self.timeout < 1e9):
            raise OptionError(f"timeout {self.timeout!r} must be a positive number of seconds")
        if self.subsampling is not None:
            self._check_choice("subsampling", self.subsampling, SUBSAMPLINGS)
        if self.memory is not None:
            parse_bytes(self.memory)
        for value in self.mpp_xy or ():
            if not 0 < value < 1e6:
                raise OptionError(f"mpp {self.mpp!r} must be a positive number of micrometres a pixel")
        if self.scratch is not None and not Path(self.scratch).is_dir():
            raise OptionError(f"scratch folder {os.fspath(self.scratch)!r} does not exist; make it or choose another")

    @property
    def mpp_xy(self) -> tuple[float, float] | None:
        """`mpp` as (x, y), or None."""
        if self.mpp is None:
            return None
        if isinstance(self.mpp, tuple):
            if len(self.mpp) != 2:
                raise OptionError(f"mpp {self.mpp!r} must be one number or (x, y)")
            return (float(self.mpp[0]), float(self.mpp[1]))
        return (float(self.mpp), float(self.mpp))

    @property
    def memory_bytes(self) -> int | None:
        """`memory` in bytes, or None."""
        return None if self.memory is None else parse_bytes(self.memory)

    @staticmethod
    def _check_integer(name: str, value: object, low: int, high: int) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise OptionError(f"{name} {value!r} must be a whole number from {low} to {high}")

    @staticmethod
    def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
        if not isinstance(value, str) or value not in choices:
            raise OptionError(f"{name} {value!r} is not known; choose one of {', '.join(choices)}")
