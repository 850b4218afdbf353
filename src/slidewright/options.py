"""The options of a conversion: frozen dataclasses, validated once at the door, and the one table of all that is known
of each option.

A field says everything about its option in its metadata, an `Option`: flag, parser, help, group, who takes it. The
command line, the columns of a batch manifest, the fingerprint and the signatures of the library follow from that.
What can be judged without the pixels is judged here, in `ConvertOptions.__post_init__`; what needs the source's dtype
and samples is judged by `codecs.resolve`. Deep code never re-checks or re-defaults.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from slidewright.errors import OptionError, did_you_mean
from slidewright.option_text import (
    parse_bytes,
    read_background,
    read_colormap,
    read_mpp,
    read_one_of,
    read_region,
    read_seconds,
    read_whole,
    read_yes_or_no,
)

KINDS = ("rgb", "rgba", "grey", "multichannel", "labels", "binary")
RESAMPLINGS = ("mean", "median", "nearest", "mode", "max", "min")
MASK_RESAMPLINGS = ("nearest", "mode", "max", "min")  # never make a value that was not there
SUBSAMPLINGS = ("420", "422", "444")
ALPHAS = ("keep", "compose")
ENGINES = ("processes", "dask")
ON_CORRUPT = ("error", "fill")
MAX_TILE = 4096
GROUPS = ("Source", "Pixels", "Compression", "Levels", "Metadata", "File", "Run")
"""Headings of the help, in its order."""

Color = str | tuple[int, int, int]
"""A colour name or "#rrggbb" as Pillow's ImageColor reads them, or (red, green, blue) of 0 to 255."""

_REREADING = frozenset(("convert", "batch"))
_ENCODING = _REREADING | {"shard", "PyramidWriter"}
_FINISHING = _REREADING | {"assemble", "PyramidWriter"}


@dataclass(frozen=True, slots=True)
class Option:
    """All that is known of one option, apart from its name, type and default, which its field has."""

    help: str
    """What it is, in a sentence for the command line and the library alike."""
    group: str
    """Under which heading of `GROUPS` the help lists it."""
    parse: Callable[[str], Any] = str
    """From text, of the command line or a manifest; raises OptionError, whose message begins with the text."""
    default: str = ""
    """What is done without it, in words, where the field's default is None."""
    more: str = ""
    """What the reference adds to the help."""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    flag: str | None = ""
    """On the command line: empty for the field's name, None where there is none, "--yes/--no" for either."""
    given: bool | None = None
    """What a flag without a value stands for; None for one with a value."""
    changes_output: bool = True
    """Whether it changes what is made, and not only how a run goes."""
    takers: frozenset[str] = _ENCODING
    """Which of convert, batch, shard, assemble (verbs and functions) and PyramidWriter take it."""
    column: bool = True
    """Whether a row of a batch manifest may have its own."""
    name: str = ""
    """The field's name; the table fills it in."""

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag, or the two of an option that can be switched on and off; empty where there is none."""
        return () if self.flag is None else tuple((self.flag or "--" + self.name.replace("_", "-")).split("/"))

    @property
    def text(self) -> str:
        """The help with its default in words, and what the reference adds."""
        start = f"False: {self.help[0].lower()}{self.help[1:]}" if self.given is False else self.help
        return " ".join(filter(None, (start, f"Default: {self.default}." if self.default else "", self.more)))

    def arguments(self, value: Any) -> list[str]:
        """The words of a command line that give it this value."""
        if not self.flags:
            return []
        if isinstance(value, bool):
            return [self.flags[0 if value else -1]]
        if isinstance(value, Mapping):
            return [self.flags[0], ",".join(f"{index}={color}" for index, color in value.items())]
        several = isinstance(value, Sequence) and not isinstance(value, str)
        return [self.flags[0], ",".join(map(str, value)) if several else str(value)]


def _read_subsampling(text: str) -> str:
    """ "420", or as written elsewhere "4:2:0"."""
    return read_one_of(*SUBSAMPLINGS)(text.replace(":", ""))


def _says(help: str, group: str, **rest: Any) -> dict[str, Option]:
    """The metadata of a field."""
    if rest.get("choices") and "parse" not in rest:
        rest["parse"] = read_one_of(*rest["choices"])
    return {"option": Option(help, group, **rest)}


_SELECT: dict[str, Any] = {
    **{"group": "Source", "parse": read_whole, "metavar": "N"},
    "takers": _ENCODING - {"PyramidWriter"},
}
_FINISH: dict[str, Any] = {
    **{"group": "File", "parse": read_yes_or_no, "given": True},
    **{"changes_output": False, "takers": _FINISHING},
}
_RUN: dict[str, Any] = {"group": "Run", "changes_output": False}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which image of a source with several to read; the largest where nothing is given."""

    page: int | None = field(
        default=None, metadata=_says("Page of a TIFF source, instead of a series and level.", default="none", **_SELECT)
    )
    series: int | None = field(
        default=None, metadata=_says("Series of a TIFF or zarr source.", default="the largest", **_SELECT)
    )
    level: int | None = field(
        default=None, metadata=_says("Level of the source to read.", default="0, the largest", **_SELECT)
    )
    z: int | None = field(
        default=None, metadata=_says("Plane of a TIFF or zarr source that is a stack.", default="none", **_SELECT)
    )
    t: int | None = field(
        default=None, metadata=_says("Time of a TIFF or zarr source that has several.", default="none", **_SELECT)
    )
    region: tuple[int, int, int, int] | None = field(
        default=None,
        metadata=_says(
            "Only this part of the source, in pixels of the level that is read.",
            **{**_SELECT, "parse": read_region, "metavar": "X,Y,W,H"},
            default="all of it",
        ),
    )

    def __post_init__(self) -> None:
        for name, value in self.place.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise OptionError(f"{name} {value!r} must be a whole number, 0 or more")
        if self.region is None:
            return
        values = tuple(self.region)
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        if len(values) != 4 or not whole or min(values[:2]) < 0 or min(values[2:]) < 1:
            raise OptionError(f"region {self.region!r} must be x, y, width and height, whole numbers of pixels")
        object.__setattr__(self, "region", values)  # JSON knows lists only

    @property
    def place(self) -> dict[str, int]:
        """What was given of which image, without the part of it."""
        values = {"page": self.page, "series": self.series, "level": self.level, "z": self.z, "t": self.t}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def given(self) -> dict[str, Any]:
        """What was given, as JSON can hold it and `Selection(**given)` takes it."""
        return self.place if self.region is None else {**self.place, "region": list(self.region)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """Options of `slidewright.convert`; every one has a default that suits a brightfield slide.

    Raises OptionError, naming the option and what it accepts.
    """

    tile_size: int = field(
        default=512,
        metadata=_says(
            "Tile side in pixels, a multiple of 16 up to 4096.", "Compression", parse=read_whole, metavar="N"
        ),
    )
    compression: str | None = field(
        default=None,
        metadata=_says(
            "How tiles are compressed: a name or alias of the compression table.",
            "Compression",
            metavar="NAME",
            default="jpeg for RGB and grey of 8 bits, else deflate",
        ),
    )
    quality: int | None = field(
        default=None,
        metadata=_says(
            "Quality of a lossy compression.",
            "Compression",
            parse=read_whole,
            metavar="Q",
            more="Only for lossy ones; range and default are the compression's.",
        ),
    )
    effort: int | None = field(
        default=None,
        metadata=_says(
            "Effort of a lossless compression: more is slower and smaller.",
            "Compression",
            parse=read_whole,
            metavar="N",
            more="Only for lossless ones; range and default are the compression's.",
        ),
    )
    subsampling: str | None = field(
        default=None,
        metadata=_says(
            "JPEG chroma subsampling of RGB.",
            "Compression",
            parse=_read_subsampling,
            choices=SUBSAMPLINGS,
            default="420",
        ),
    )
    predictor: bool | None = field(
        default=None,
        metadata=_says(
            "Horizontal differencing before lzw, deflate or zstd.",
            "Compression",
            parse=read_yes_or_no,
            flag="--predictor/--no-predictor",
            given=True,
            default="on for images of integers, off for float, labels and binary masks",
            more="See TIFF 6.0, section 14; of float, Adobe's technical note 3.",
        ),
    )
    kind: str | None = field(
        default=None,
        metadata=_says(
            "What the pixels are.",
            "Pixels",
            choices=KINDS,
            default="by the source, its dtype and samples",
            more='"multichannel" has planes of their own, "labels" are annotations (the default with a colormap), '
            '"binary" is a mask.',
        ),
    )
    colormap: Mapping[int, Color] | Sequence[Color] | None = field(
        default=None,
        metadata=_says(
            "Palette of labels: 0=white,1=red,..., or a JSON file of it.",
            "Pixels",
            parse=read_colormap,
            metavar="LIST|FILE",
            more="In Python: index to colour name or (red, green, blue). A label beyond its last index is an error.",
        ),
    )
    alpha: str = field(
        default="keep", metadata=_says("What becomes of alpha; compose it on background.", "Pixels", choices=ALPHAS)
    )
    background: Color | int | float | None = field(
        default=None,
        metadata=_says(
            "Colour, or value, of what has no pixels, and what alpha is composed on.",
            "Pixels",
            parse=read_background,
            metavar="COLOUR",
            default="white for RGB and RGBA, or the source's own; 0 for anything else",
            more="In a `PyramidWriter` that of tiles never written.",
        ),
    )
    bits: int | None = field(
        default=None,
        metadata=_says(
            "Bits a pixel of a binary mask.", "Pixels", parse=read_whole, metavar="1|8", default="CCITT 1, else 8"
        ),
    )
    levels: int | None = field(
        default=None,
        metadata=_says(
            "Number of levels.", "Levels", parse=read_whole, metavar="N", default="until both sides fit in one tile"
        ),
    )
    resampling: str | None = field(
        default=None,
        metadata=_says(
            "How a level is made from the one below.",
            "Levels",
            choices=RESAMPLINGS,
            default="mean; of labels and masks nearest",
            more='"nearest" takes the top left pixel. Of labels and binary masks only nearest, mode, max and min are '
            "taken, which make no new values.",
        ),
    )
    mpp: float | tuple[float, float] | None = field(
        default=None,
        metadata=_says(
            "Micrometres a pixel of level 0, one number or X,Y.",
            "Metadata",
            parse=read_mpp,
            metavar="UM",
            default="the source's",
        ),
    )
    description: str | None = field(
        default=None, metadata=_says("ImageDescription of level 0.", "Metadata", metavar="TEXT", default="the source's")
    )
    format: str | None = field(
        default=None,
        metadata=_says(
            "What to write, such as tiff.", "File", metavar="NAME", default="by the destination's suffix, else a TIFF"
        ),
    )
    bigtiff: bool = field(
        default=True,
        metadata=_says(
            "Classic TIFF instead of BigTIFF; fails cleanly if it does not fit in 4 GB.",
            "File",
            parse=read_yes_or_no,
            flag="--classic",
            given=False,
        ),
    )
    overwrite: bool = field(
        default=False, metadata=_says("Replace an existing destination, at the very end and in one step.", **_FINISH)
    )
    verify: bool = field(
        default=False, metadata=_says("Decode every tile of the output before it gets its name.", **_FINISH)
    )
    n_workers: int | None = field(
        default=None,
        metadata=_says(
            "Worker processes; 0 works in this process.",
            parse=read_whole,
            metavar="N",
            flag="--workers",
            default="usable CPUs, 0 for little work",
            takers=_ENCODING | _FINISHING,
            column=False,
            **_RUN,
        ),
    )
    memory: str | int | None = field(
        default=None,
        metadata=_says(
            "Budget for all processes of the run together, such as 4GB.",
            metavar="SIZE",
            default="what is free",
            takers=_ENCODING | _FINISHING,
            **_RUN,
        ),
    )
    block_tiles: int | None = field(
        default=None,
        metadata=_says(
            "Block side in tiles, a power of two; never changes the output.",
            parse=read_whole,
            metavar="N",
            default="by tile size and memory",
            **_RUN,
        ),
    )
    scratch: str | os.PathLike[str] | None = field(
        default=None,
        metadata=_says(
            "Folder for temporary levels.",
            metavar="DIR",
            default="TMPDIR, the system's temporary folder",
            takers=_ENCODING | _FINISHING,
            **_RUN,
        ),
    )
    timeout: float | None = field(
        default=None,
        metadata=_says(
            "Seconds a worker may take for one block; then it is killed and the block done again.",
            parse=read_seconds,
            metavar="SECONDS",
            default="no limit",
            takers=_ENCODING | _FINISHING,
            **_RUN,
        ),
    )
    on_corrupt: str = field(
        default="error",
        metadata=_says(
            "What to do about a tile of the source that does not decode: end and name it, or fill in the background.",
            "Source",
            choices=ON_CORRUPT,
        ),
    )
    resume: bool = field(
        default=False,
        metadata=_says(
            "Keep finished parts in the folder DST.shards until DST is complete; run again to go on after a kill.",
            parse=read_yes_or_no,
            given=True,
            takers=_REREADING,
            **_RUN,
        ),
    )
    engine: str = field(
        default="processes",
        metadata=_says(
            "Who encodes: processes of this machine, or dask, the workers of a Dask cluster.",
            choices=ENGINES,
            flag=None,
            more="On the command line --dask chooses it.",
            takers=_REREADING,
            column=False,
            **_RUN,
        ),
    )
    dask: object = field(
        default=None,
        metadata=_says(
            "Address of the scheduler of the Dask cluster to encode on.",
            metavar="ADDRESS",
            more='In Python with engine="dask", also a `distributed.Client`; None lets Dask\'s configuration decide.',
            takers=_REREADING,
            column=False,
            **_RUN,
        ),
    )

    def __post_init__(self) -> None:
        self._check_integer("tile_size", 16, MAX_TILE)
        if self.tile_size % 16:
            raise OptionError(
                f"tile_size {self.tile_size} is not a multiple of 16, which TIFF 6.0 (section 15) asks for"
            )
        self._check_integer("quality", 1, 100)
        self._check_integer("levels", 1, 32)
        self._check_integer("n_workers", 0, 1024)
        self._check_integer("block_tiles", 1, 256)
        if self.block_tiles is not None and self.block_tiles & (self.block_tiles - 1):
            raise OptionError(f"block_tiles {self.block_tiles} is not a power of two")
        for name, option in OPTIONS.items():
            if option.choices:
                self._check_choice(name, option.choices)
        if self.dask is not None and self.engine != "dask":
            raise OptionError('dask names a cluster; give engine="dask" with it')
        if self.bits not in (None, 1, 8):
            raise OptionError(f"bits {self.bits!r} must be 1 or 8")
        if self.timeout is not None and not (isinstance(self.timeout, (int, float)) and 0 < self.timeout < 1e9):
            raise OptionError(f"timeout {self.timeout!r} must be a positive number of seconds")
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

    def _check_integer(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if value is None and DEFAULTS[name] is None:
            return
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise OptionError(f"{name} {value!r} must be a whole number from {low} to {high}")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value is None and DEFAULTS[name] is None:
            return
        if not isinstance(value, str) or value not in choices:
            near = did_you_mean(value, choices) if isinstance(value, str) else ""
            raise OptionError(f"{name} {value!r} is not known; choose one of {', '.join(choices)}{near}")


OPTIONS: Mapping[str, Option] = {
    field.name: replace(field.metadata["option"], name=field.name) for field in fields(ConvertOptions)
}
"""The fields of `ConvertOptions`."""
SELECTION: Mapping[str, Option] = {
    field.name: replace(field.metadata["option"], name=field.name) for field in fields(Selection)
}
"""The fields of `Selection`."""
DEFAULTS: Mapping[str, Any] = {field.name: field.default for field in fields(ConvertOptions)}


def taken_by(taker: str) -> dict[str, Option]:
    """The options of `ConvertOptions` that a verb or function takes."""
    return {name: option for name, option in OPTIONS.items() if taker in option.takers}


def make_options(given: Mapping[str, object], taker: str | None = None) -> ConvertOptions:
    """The options as a validated value.

    Raises
    ------
    OptionError
        For a name that is not known, or not for this taker; the message says what may have been meant.
    """
    known = OPTIONS if taker is None else taken_by(taker)
    for name in given:
        if name not in known:
            raise OptionError(_unknown(name, known, taker))
    values: dict[str, Any] = dict(given)
    return ConvertOptions(**values)


def _unknown(name: str, known: Collection[str], taker: str | None) -> str:
    if name in OPTIONS or name in SELECTION:
        return f"option {name!r} is not for {taker or 'this'}, which takes {', '.join(known)}; leave it out"
    for option in (*OPTIONS.values(), *SELECTION.values()):
        if "--" + name.replace("_", "-") in option.flags:
            return f"option {name!r} is the command line's {option.flags[0]}; here it is {option.name}"
    return f"option {name!r} is not known; known are {', '.join(known)}{did_you_mean(name, (*known, *SELECTION))}"
