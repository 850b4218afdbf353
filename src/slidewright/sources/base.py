"""What a source is: a picklable description that is opened inside the worker that reads it.

Everything that knows a format lives in the sibling modules; the rest of slidewright sees only `Source`, `Reader` and
`SourceInfo`. Every ability that a source or a reader may have is declared here, with a default, so that nobody has to
ask an object what it can do and a wrapper can't forget to pass an ability on.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OptionError, SourceError
from slidewright.geometry import SINGLE, Region, Size, Stack
from slidewright.metadata import Metadata

Pixels = NDArray[Any]

CorruptPlace = tuple[int, int, int]
"""The corner (y, x) of a part of a source that did not decode, and its first plane."""

LIBRARY_BYTES: Final = 80 << 20
"""What zarr or OpenSlide take in each worker that opens them; taken for granted of what nobody here knows."""

MAX_ASSOCIATED_PIXELS = 1 << 26
"""Of an image beside the levels, which the calling process holds whole whatever the memory budget; the macros of
scanners have a twentieth of it.
"""
_MAX_LISTED = 8


class Blank(Enum):
    """The type of `BLANK`."""

    BLANK = "blank"


BLANK: Final = Blank.BLANK
"""The answer of a reader where there is nothing but background: no pixel is made, and a tile of it is encoded once."""


@dataclass(frozen=True, slots=True)
class Stored:
    """How a source's own tiles are encoded, so that they can be kept as they are."""

    compression: str
    """By the name that the compression table has for it."""
    photometric: Literal["rgb", "ycbcr", "grey", "palette"]
    subsampling: tuple[int, int] | None = None
    """Horizontal and vertical chroma subsampling of YCbCr, such as (2, 2)."""
    tables: bytes | None = None
    """The tables that all JPEG tiles share (TIFF's JPEGTables); None where each tile is whole by itself."""
    predictor: int = 1
    """TIFF's Predictor, 1 for none."""
    bits: int = 8
    """Bits a sample."""
    separate: bool = False
    """Whether each channel has tiles of its own."""
    big_endian: bool = False
    """The byte order of samples that the codec takes for bytes."""
    quality: int | None = None
    """The quality of libjpeg's tables that come closest to those of a JPEG."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source without reading pixels."""

    name: str
    """How to call it in a message: its path, or a description such as "NumPy array"."""
    format: str
    """A short word for the kind: "tiff", "svs", "zarr", "npy", "array", or OpenSlide's vendor."""
    size: Size
    """Height and width in pixels."""
    samples: int
    """Samples a pixel: 1 for grey, 3 for RGB, 4 for RGBA, the number of channels otherwise."""
    dtype: str
    """NumPy dtype name, native byte order: "bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float32"."""
    stack: Stack = SINGLE
    """How many frames of `samples` each there are."""
    kind: str | None = None
    """What the pixels are (`options.KINDS`), where the source says so; None leaves it to dtype and samples."""
    colormap: tuple[tuple[int, int, int], ...] | None = None
    """The palette of labels as (red, green, blue) of 0 to 65535 by index, where there is one."""
    planar: bool = False
    """Whether a channel can be read without the others, at its share of the cost."""
    mpp: tuple[float, float] | None = None
    """Micrometres a pixel along (x, y), where known."""
    tile: Size | None = None
    """The source's own tile, strip or chunk size (height, width); None when regions cost the same anywhere."""
    icc_profile: bytes | None = None
    """The ICC profile, where there is one."""
    description: str | None = None
    """The source's own ImageDescription, where there is one."""
    metadata: Metadata = field(default_factory=Metadata)
    """What the source says of optics, instrument and channels, and what of it may identify."""
    left_out: tuple[str, ...] = ()
    """What the source says that a conversion does not pass on, as clauses of a warning."""
    background: tuple[int, int, int] | None = None
    """The colour, of 0 to 255, that stands for "no tissue" where the source states one."""
    associated: tuple[str, ...] = ()
    """Names of associated images (thumbnail, label, macro)."""
    sparse: bool = False
    """Whether readers may answer `BLANK`, in large parts of the image: then blank tiles stay out of the stores of
    reduced levels.
    """
    in_memory: bool = False
    """Whether the pixels are in the memory of this process, so that workers need a copy (see `Source.shared`)."""
    worker_bytes: int = LIBRARY_BYTES
    """Memory that reading takes in each worker, beyond a cache of decoded tiles."""
    whole_bytes: int = 0
    """Memory that decoding it whole takes in the calling process before the run, where it can't be read in parts."""
    stored: Stored | None = None
    """How the source's own tiles are encoded, where a reader can hand them out (`Reader.segment`)."""
    not_stored: str = "its tiles are not of a kind that can be copied"
    """Why there is no `stored`, as a clause of a message."""
    seen: tuple[int, int] | None = field(default=None, compare=False)
    """Bytes of the file and its time of change (ns) before all of this was read from it, where a file says all."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, samples) of a frame."""
        return (self.size.height, self.size.width, self.samples)

    @property
    def all_samples(self) -> int:
        """Samples of all frames, one after the other."""
        return self.samples * self.stack.frames

    @property
    def itemsize(self) -> int:
        """Bytes a sample."""
        return int(np.dtype(self.dtype).itemsize)


class Reader(ABC):
    """An open source in one process; not shared between threads."""

    __slots__ = ()

    @abstractmethod
    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """The pixels of a region, wholly inside the image, as (height, width, planes), native byte order.

        The channels wanted are those from `plane` on, as many as `out` has; all of them except of a multichannel image.
        In a stack the channels of a frame follow those of the one before, and what is wanted is of one frame.
        `out` is a C-contiguous (>= height, >= width, planes) array of the source's dtype that the reader may use: the
        answer may be a view of it, or of memory of the reader's own (a memory map) that holds until the next call, and
        is never written to by the caller unless it is a view of `out`. `BLANK` stands for background.

        Raises
        ------
        CorruptTileError
            When a segment can't be decoded; names the source and the tile.
        SourceError
            When the source can't be read.
        """

    def ahead(self, region: Region, channels: range) -> None:  # noqa: B027 - nothing to fetch is fine
        """Told before the parts of a region are read, of these channels, which are counted as by `read`: a source whose
        bytes come from afar may begin to fetch them.
        """

    def segment(self, row: int, column: int, plane: int = 0) -> bytes | None:
        """One of the source's own tiles, encoded as `SourceInfo.stored` says; None where it can't be handed out, and
        `b""` for a tile that the source leaves out. `plane` counts channels, and frames, that have tiles of their own.

        It is asked for right after the pixels of the same tile: a reader that keeps the last bytes reads them once.
        """
        return None

    def halved(self, row: int, column: int, out: Pixels) -> bool:
        """Decode one of the source's own tiles at half its size into `out`, as large as its pixels halved and rounded
        down, as the codec does it; False where it can't, and then nothing is done.
        """
        return False

    def filled(self) -> dict[CorruptPlace, str]:
        """What this reader has filled since the last call because it did not decode: place to message."""
        return {}

    def close(self) -> None:  # noqa: B027 - nothing to release is fine
        """Release files and caches; may be called twice."""


class Source(ABC):
    """A picklable description of an image and how to open it."""

    __slots__ = ()

    if TYPE_CHECKING:  # most sources have it as a field, which a property here would be taken for the default of

        @property
        def info(self) -> SourceInfo:
            """Size, samples, dtype and metadata, found when the description was made."""

    @abstractmethod
    def open(self) -> Reader:
        """Open it in this process."""

    def shared(self, folder: str | None = None, *, on_disk: bool = False) -> AbstractContextManager[Source]:
        """The same source as other processes can open it, until the context ends; itself where it travels as it is.

        Parameters
        ----------
        folder
            Where to put unlinked temporary files, by default the temporary folder.
        on_disk
            Whether pixels that are in memory now should go to such a file instead of shared memory.

        Raises
        ------
        SourceError, OutputError
            When it can't travel, or there is no room for a copy.
        """
        return nullcontext(self)

    def reduced(self) -> tuple[Source, ...]:
        """The source's own reduced levels, largest first, whose tiles may be reused; none where nothing is known."""
        return ()

    @property
    def beside(self) -> tuple[str, ...]:
        """The files of the source besides the one that was given, and folders of them; as far as known."""
        return ()

    @property
    def read_from(self) -> tuple[str, ...]:
        """The files and folders that it is read from, where these are not all that was given; else nothing."""
        return ()

    @property
    def filled(self) -> Mapping[CorruptPlace, str]:
        """What was filled while the source was made shareable, because it did not decode: place to message."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What tells this source from another without reading its pixels, as values that JSON holds.

        Raises
        ------
        OptionError
            For pixels that nobody can know again: those in the memory of this process, of a dataset or a function.
        """
        if self.info.in_memory:
            raise unknown_identity(self.info.name)
        return pickled_identity(self)

    def associated_image(self, name: str) -> Pixels:
        """One of the images that `SourceInfo.associated` names, whole, as (height, width, samples) of uint8.

        Raises
        ------
        SourceError
            When there is none of this name, or it can't be decoded.
        """
        raise no_associated(self.info, name)


def no_associated(info: SourceInfo, name: str) -> SourceError:
    """The error about an image that is not beside the levels."""
    return SourceError(f"{info.name} has no associated image {name!r}; it has {', '.join(info.associated) or 'none'}")


def check_associated(path: str, name: str, size: tuple[int, int]) -> None:
    """Raise SourceError about an image beside the levels, of (height, width), that is too large to be held whole."""
    if size[0] * size[1] > MAX_ASSOCIATED_PIXELS:
        raise SourceError(f"{path}: a {name} of {size[1]} x {size[0]} is too large to be read whole; leave it out")


def more_images(series: Sequence[int]) -> tuple[str, ...]:
    """A clause for `SourceInfo.left_out` about images that nobody chose from, by the numbers of their series."""
    if not series:
        return ()
    listed = ", ".join(map(str, series[:_MAX_LISTED])) + (", ..." if len(series) > _MAX_LISTED else "")
    return (f"{len(series)} more {'images' if len(series) > 1 else 'image'} (series {listed}: give series for one)",)


def as_bytes(pixels: Pixels) -> Pixels:
    """Pixels of an associated image as uint8 of 1 or 3 samples."""
    if pixels.dtype != np.uint8:
        pixels = (pixels.astype(np.float64) * (255 / np.iinfo(pixels.dtype).max)).round().astype(np.uint8)
    return np.ascontiguousarray(pixels[:, :, : 3 if pixels.shape[2] > 2 else 1])


def known(pixels: Pixels | Blank) -> Pixels:
    """The pixels of an answer that can't be `BLANK`, because the source is not sparse."""
    if pixels is BLANK:
        raise SourceError("a reader answered BLANK, but its source does not say that it is sparse (SourceInfo.sparse)")
    return pixels


def pickled_identity(source: object) -> dict[str, Any]:
    """The identity of a source that is no file: a hash of its pickle."""
    import hashlib
    import pickle

    return {"pickle": hashlib.sha256(pickle.dumps(source, 4)).hexdigest()[:16]}


def unknown_identity(name: str) -> OptionError:
    """The error about a source that nobody can know again."""
    return OptionError(
        f"{name}: pixels that are no file have no identity that outlives this process; save them to a file first"
    )
