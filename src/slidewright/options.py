"""The options of a conversion: frozen dataclasses, validated once at the door, and the one table of all that is known
of each option.

A field says everything about its option in its metadata, an `Option`: flag, parser, help, group, who takes it. The
command line, the columns of a batch manifest, the fingerprint and the signatures of the library follow from that.
What can be judged without the pixels is judged here, in `ConvertOptions.__post_init__`; what needs the source's dtype
and samples is judged by `codecs.resolve`. Deep code never re-checks or re-defaults.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from slidewright.errors import OptionError, did_you_mean
from slidewright.option import COMPARING, ENCODING, FINISHING, REREADING, RUNNING, Option, says
from slidewright.option_text import (
    parse_bytes,
    read_background,
    read_colormap,
    read_mpp,
    read_number,
    read_one_of,
    read_seconds,
    read_whole,
    read_words,
    read_yes_or_no,
)
from slidewright.selection import Selection

KINDS = ("rgb", "rgba", "grey", "multichannel", "labels", "binary")
RESAMPLINGS = ("mean", "median", "nearest", "mode", "max", "min")
MASK_RESAMPLINGS = ("nearest", "mode", "max", "min")  # never make a value that was not there
SUBSAMPLINGS = ("420", "422", "444")
ALPHAS = ("keep", "compose")
ENGINES = ("processes", "dask")
ON_CORRUPT = ("error", "fill")
NGFF_VERSIONS = ("0.4", "0.5")
FLAVOURS = ("generic", "aperio")
KEEP_METADATA = ("none", "allowed", "all")
ASSOCIATED = ("thumbnail", "label", "macro")
KEEP_TILES = ("auto", "always", "never")
ARCHIVES = ("jpegxl",)
TILE, MAX_TILE = 512, 4096
Color = str | tuple[int, int, int]
"""A colour name or "#rrggbb" as Pillow's ImageColor reads them, or (red, green, blue) of 0 to 255."""


def _read_subsampling(text: str) -> str:
    """ "420", or as written elsewhere "4:2:0"."""
    return read_one_of(*SUBSAMPLINGS)(text.replace(":", ""))


_FINISH: dict[str, Any] = {
    **{"group": "File", "parse": read_yes_or_no, "given": True},
    **{"changes_output": False, "takers": FINISHING},
}
_SAID: dict[str, Any] = {"group": "Metadata", "default": "the source's"}
_RUN: dict[str, Any] = {"group": "Run", "changes_output": False}


def can_be_mpp(mpp: tuple[float, float]) -> bool:
    """Whether micrometres a pixel along (x, y) are of this world, and fit in a TIFF, in two numbers of 32 bits."""
    return all(1e-5 <= value < 1e6 for value in mpp)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """Options of `slidewright.convert`; every one has a default that suits a brightfield slide.

    Raises OptionError, naming the option and what it accepts.
    """

    tile_size: int | None = field(
        default=None,
        metadata=says(
            "Tile side in pixels, a multiple of 16 up to 4096.",
            "Compression",
            parse=read_whole,
            metavar="N",
            default="512, or the source's own where its tiles are kept",
        ),
    )
    keep_tiles: str = field(
        default="auto",
        metadata=says(
            "Whether level 0 keeps the source's own encoded tiles, so that only the levels above are made.",
            "Compression",
            choices=KEEP_TILES,
            more="auto keeps them where nothing else that was asked for contradicts it; always is an error where they "
            "can't be kept, and quality and effort are then those of the levels above.",
            takers=ENCODING - {"PyramidWriter"},
        ),
    )
    reuse_levels: bool = field(
        default=False,
        metadata=says(
            "Keep the source's own reduced levels too, as far as each is half the one below and has such tiles.",
            "Levels",
            parse=read_yes_or_no,
            given=True,
            more="Only above tiles that are kept; the levels above those are made of the last of them.",
            takers=ENCODING - {"PyramidWriter"},
        ),
    )
    scaled_decoding: bool = field(
        default=False,
        metadata=says(
            "Make level 1 above kept JPEG tiles by libjpeg's half-size decoding: faster, and not the exact mean.",
            "Levels",
            parse=read_yes_or_no,
            given=True,
            more="Needs tiles that are kept.",
            takers=ENCODING - {"PyramidWriter"},
        ),
    )
    compression: str | None = field(
        default=None,
        metadata=says(
            "How tiles are compressed: a name or alias of the compression table.",
            "Compression",
            metavar="NAME",
            default="jpeg for RGB and grey of 8 bits, else deflate; in an OME-Zarr zstd, or blosc for wider images",
        ),
    )
    quality: int | None = field(
        default=None,
        metadata=says(
            "Quality of a lossy compression.",
            "Compression",
            parse=read_whole,
            metavar="Q",
            more="Only for lossy ones; range and default are the compression's.",
        ),
    )
    effort: int | None = field(
        default=None,
        metadata=says(
            "Effort of a lossless compression: more is slower and smaller.",
            "Compression",
            parse=read_whole,
            metavar="N",
            more="Only for lossless ones; range and default are the compression's.",
        ),
    )
    subsampling: str | None = field(
        default=None,
        metadata=says(
            "JPEG chroma subsampling of RGB.",
            "Compression",
            parse=_read_subsampling,
            choices=SUBSAMPLINGS,
            default="420",
        ),
    )
    predictor: bool | None = field(
        default=None,
        metadata=says(
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
        metadata=says(
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
        metadata=says(
            "Palette of labels: 0=white,1=red,..., or a JSON file of it.",
            "Pixels",
            parse=read_colormap,
            metavar="LIST|FILE",
            more="In Python: index to colour name or (red, green, blue). A label beyond its last index is an error.",
        ),
    )
    alpha: str = field(
        default="keep", metadata=says("What becomes of alpha; compose it on background.", "Pixels", choices=ALPHAS)
    )
    background: Color | int | float | None = field(
        default=None,
        metadata=says(
            "Colour, or value, of what has no pixels, and what alpha is composed on.",
            "Pixels",
            parse=read_background,
            metavar="COLOUR",
            default="white for RGB and RGBA, or the source's own; 0 for anything else",
            more="In a `PyramidWriter` that of tiles never written.",
            takers=COMPARING,
        ),
    )
    bits: int | None = field(
        default=None,
        metadata=says(
            "Bits a pixel of a binary mask.", "Pixels", parse=read_whole, metavar="1|8", default="CCITT 1, else 8"
        ),
    )
    levels: int | None = field(
        default=None,
        metadata=says(
            "Number of levels.", "Levels", parse=read_whole, metavar="N", default="until both sides fit in one tile"
        ),
    )
    resampling: str | None = field(
        default=None,
        metadata=says(
            "How a level is made from the one below.",
            "Levels",
            choices=RESAMPLINGS,
            default="mean; of labels and masks nearest",
            more='"nearest" takes the top left pixel. Of labels and binary masks only nearest, mode, max and min are '
            "taken, which make no new values.",
            takers=COMPARING,
        ),
    )
    mpp: float | tuple[float, float] | None = field(
        default=None,
        metadata=says("Micrometres a pixel of level 0, one number or X,Y.", parse=read_mpp, metavar="UM", **_SAID),
    )
    description: str | None = field(
        default=None,
        metadata=says(
            "ImageDescription of level 0.",
            "Metadata",
            metavar="TEXT",
            default="none",
            more="Written as it is; one by which readers would take a TIFF for a file of ImageJ, tifffile, ScanImage, "
            "Leica, Aperio or OME-TIFF is an error.",
        ),
    )
    objective_power: float | None = field(
        default=None,
        metadata=says("Magnification of the objective, such as 20.", parse=read_number, metavar="N", **_SAID),
    )
    z_spacing: float | None = field(
        default=None,
        metadata=says("Micrometres from one plane of a stack to the next.", parse=read_number, metavar="UM", **_SAID),
    )
    time_increment: float | None = field(
        default=None,
        metadata=says("Seconds from one time of a stack to the next.", parse=read_number, metavar="S", **_SAID),
    )
    channel_names: Sequence[str] | None = field(
        default=None,
        metadata=says("Names of the channels, such as DAPI,CD3.", parse=read_words, metavar="LIST", **_SAID),
    )
    channel_colors: Sequence[Color] | None = field(
        default=None,
        metadata=says("Colours of the channels, such as blue,#00ff00.", parse=read_words, metavar="LIST", **_SAID),
    )
    keep_metadata: str = field(
        default="allowed",
        metadata=says(
            "What the source says of itself: allowed keeps optics and scanner, all what may identify too.",
            "Metadata",
            choices=KEEP_METADATA,
            more="User, barcode, case, file name and date are kept by all alone.",
        ),
    )
    associated: Sequence[str] | None = field(
        default=None,
        metadata=says(
            "Images to write beside the levels: thumbnail,label,macro, or none.",
            "Metadata",
            parse=read_words,
            metavar="LIST",
            default="none, but the Aperio flavour always has a thumbnail",
            more="The thumbnail is made of the levels; the source's label and macro may show who the patient is.",
        ),
    )
    label: str | os.PathLike[str] | None = field(
        default=None,
        metadata=says(
            "An image file to write as the label, instead of the source's.", "Metadata", metavar="IMAGE", default="none"
        ),
    )
    format: str | None = field(
        default=None,
        metadata=says(
            "What to write: tiff, ome-tiff or ome-zarr.", "File", metavar="NAME", default="by DST's suffix, else a TIFF"
        ),
    )
    archive: str | None = field(
        default=None,
        metadata=says(
            "Keep the whole TIFF, its JPEG tiles as jpegxl: smaller, and restore gives it back byte for byte.",
            "File",
            choices=ARCHIVES,
            default="none",
            more="No option that changes what is written goes with it.",
            takers=REREADING,
        ),
    )
    flavour: str = field(
        default="generic",
        metadata=says(
            "How a TIFF says what it is: generic, or aperio, as slide viewers know it.", "File", choices=FLAVOURS
        ),
    )
    strict: bool = field(
        default=False,
        metadata=says(
            "Leave the copies of the levels out of an OME-TIFF, which readers without OME need, such as OpenSlide.",
            "File",
            parse=read_yes_or_no,
            given=True,
        ),
    )
    zarr_shard: int | None = field(
        default=None,
        metadata=says(
            "Chunks a side of a zarr shard of an OME-Zarr, a power of two; 0 makes each chunk a file.",
            "File",
            parse=read_whole,
            metavar="N",
            default="what makes shards of up to about 32 MB",
        ),
    )
    ngff: str | None = field(
        default=None,
        metadata=says(
            "Version of an OME-Zarr: 0.5 is zarr v3, 0.4 is zarr v2, without shards.",
            "File",
            choices=NGFF_VERSIONS,
            default="0.5",
        ),
    )
    bigtiff: bool = field(
        default=True,
        metadata=says(
            "Classic TIFF instead of BigTIFF; fails cleanly if it does not fit in 4 GB.",
            "File",
            parse=read_yes_or_no,
            flag="--classic",
            given=False,
        ),
    )
    overwrite: bool = field(
        default=False,
        metadata=says(
            "Replace an existing destination, at the very end and in one step.",
            **{**_FINISH, "takers": FINISHING | {"restore"}},
        ),
    )
    verify: bool = field(
        default=False, metadata=says("Decode every tile of the output before it gets its name.", **_FINISH)
    )
    n_workers: int | None = field(
        default=None,
        metadata=says(
            "Worker processes; 0 works in this process.",
            parse=read_whole,
            metavar="N",
            flag="--workers",
            default="usable CPUs, 0 for little work",
            takers=RUNNING,
            column=False,
            **_RUN,
        ),
    )
    memory: str | int | None = field(
        default=None,
        metadata=says(
            "Budget for all processes of the run together, such as 4GB.",
            metavar="SIZE",
            default="what is free",
            takers=RUNNING,
            **_RUN,
        ),
    )
    block_tiles: int | None = field(
        default=None,
        metadata=says(
            "Block side in tiles, a power of two; never changes the output.",
            parse=read_whole,
            metavar="N",
            default="by tile size and memory",
            **_RUN,
        ),
    )
    scratch: str | os.PathLike[str] | None = field(
        default=None,
        metadata=says(
            "Folder for temporary levels.",
            metavar="DIR",
            default="TMPDIR, the system's temporary folder",
            takers=RUNNING,
            **_RUN,
        ),
    )
    timeout: float | None = field(
        default=None,
        metadata=says(
            "Seconds a worker may take for one block; then it is killed and the block done again.",
            parse=read_seconds,
            metavar="SECONDS",
            default="no limit",
            takers=RUNNING,
            **_RUN,
        ),
    )
    on_corrupt: str | None = field(
        default=None,
        metadata=says(
            "What to do about a tile of the source that does not decode: end and name it, or fill in the background.",
            "Source",
            choices=ON_CORRUPT,
            default="error, but where tiles are kept it is kept too, with a warning that names it",
        ),
    )
    resume: bool = field(
        default=False,
        metadata=says(
            "Keep finished parts in the folder DST.shards until DST is complete; run again to go on after a kill.",
            parse=read_yes_or_no,
            given=True,
            takers=REREADING,
            **_RUN,
        ),
    )
    engine: str = field(
        default="processes",
        metadata=says(
            "Who encodes: processes of this machine, or dask, the workers of a Dask cluster.",
            choices=ENGINES,
            flag=None,
            more="On the command line --dask chooses it.",
            takers=REREADING,
            column=False,
            **_RUN,
        ),
    )
    dask: object = field(
        default=None,
        metadata=says(
            "Address of the scheduler of the Dask cluster to encode on.",
            metavar="ADDRESS",
            more='In Python with engine="dask", also a `distributed.Client`; None lets Dask\'s configuration decide.',
            takers=REREADING,
            column=False,
            **_RUN,
        ),
    )

    def __post_init__(self) -> None:
        if self.compression is not None and not isinstance(self.compression, str):
            raise OptionError(f"compression {self.compression!r} must be the name of one")
        self._check_integer("tile_size", 16, MAX_TILE)
        if self.tile_size is not None and self.tile_size % 16:
            raise OptionError(
                f"tile_size {self.tile_size} is not a multiple of 16, which TIFF 6.0 (section 15) asks for"
            )
        self._check_integer("quality", 1, 100)
        self._check_integer("levels", 1, 32)
        self._check_integer("n_workers", 0, 1024)
        self._check_integer("block_tiles", 1, 256)
        if self.block_tiles is not None and self.block_tiles & (self.block_tiles - 1):
            raise OptionError(f"block_tiles {self.block_tiles} is not a power of two")
        self._check_integer("zarr_shard", 0, 256)
        if self.zarr_shard and self.zarr_shard & (self.zarr_shard - 1):
            raise OptionError(f"zarr_shard {self.zarr_shard} is not a power of two, nor 0 for none")
        for name, option in OPTIONS.items():
            if option.choices:
                self._check_choice(name, option.choices)
        for name, texts in (("description", [self.description]), ("channel_names", self.channel_names or ())):
            for text in texts:
                self._check_text(name, text)
        for name in self.associated or ():
            if name not in ASSOCIATED:
                raise OptionError(f"associated {name!r} is not known; choose of {', '.join(ASSOCIATED)}, or none")
        if self.objective_power is not None and not 0 < self.objective_power < 1e4:
            raise OptionError(f"objective_power {self.objective_power!r} must be a magnification such as 20")
        for name, number in (("z_spacing", self.z_spacing), ("time_increment", self.time_increment)):
            if number is not None and not 0 < number < 1e6:
                raise OptionError(f"{name} {number!r} must be a positive number")
        if self.label is not None and not Path(self.label).is_file():
            raise OptionError(f"label {os.fspath(self.label)!r} is no file; give an image")
        if self.dask is not None and self.engine != "dask":
            raise OptionError('dask names a cluster; give engine="dask" with it')
        if self.bits not in (None, 1, 8):
            raise OptionError(f"bits {self.bits!r} must be 1 or 8")
        if self.timeout is not None and not (isinstance(self.timeout, (int, float)) and 0 < self.timeout < 1e9):
            raise OptionError(f"timeout {self.timeout!r} must be a positive number of seconds")
        if self.memory is not None:
            parse_bytes(self.memory)
        if self.mpp_xy is not None and not can_be_mpp(self.mpp_xy):
            raise OptionError(f"mpp {self.mpp!r} must be a number of micrometres a pixel, from 0.00001 to a million")
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
    def tile_side(self) -> int:
        """`tile_size`, or its default."""
        return self.tile_size or TILE

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

    def _check_text(self, name: str, text: str | None) -> None:
        """What goes into a file: half characters stand for bytes of a command line that are not UTF-8."""
        try:
            ("" if text is None else text).encode("utf-8")
        except (AttributeError, UnicodeEncodeError):
            raise OptionError(f"{name} {text!r} is not text that UTF-8 can hold; give it in UTF-8") from None

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


def split_options(given: Mapping[str, Any], taker: str) -> tuple[Selection, ConvertOptions]:
    """Which image of a source is meant, and the options, both validated; raises as `make_options`."""
    selection = Selection(**{name: given[name] for name in SELECTION if name in given})
    return selection, make_options({name: value for name, value in given.items() if name not in SELECTION}, taker)


def _unknown(name: str, known: Collection[str], taker: str | None) -> str:
    if name in OPTIONS or name in SELECTION:
        return f"option {name!r} is not for {taker or 'this'}, which takes {', '.join(known)}; leave it out"
    for option in (*OPTIONS.values(), *SELECTION.values()):
        if "--" + name.replace("_", "-") in option.flags:
            return f"option {name!r} is the command line's {option.flags[0]}; here it is {option.name}"
    near = did_you_mean(name, (*known, *SELECTION))
    return f"option {name!r} is not known{near or '; known are ' + ', '.join(known)}"
