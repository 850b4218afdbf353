"""What a codec is, and what every tile of a file is encoded with, as picklable values: apart from the table, which has
all codecs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from slidewright.pixels import MASKS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.pixels import PixelFormat

EncodeTile = Callable[["NDArray[Any]"], bytes]
"""From a padded tile of one plane, (tile, tile, samples), C-contiguous and in native byte order, to its segment."""

FAMILIES = {"tiff": "TIFF", "zarr": "OME-Zarr"}
"""Families of formats, by the words for them: each holds codecs of its own, and some hold the same."""


class Encoder(ABC):
    """Encodes tiles, a batch at a time, so that a device that wants many at once fits."""

    batch: int = 1
    """How many tiles it wants at a time; it takes fewer as well."""

    @abstractmethod
    def encode(self, tiles: Sequence[NDArray[Any]]) -> list[bytes]:
        """The segments of padded tiles of one plane each, (tile, tile, samples), C-contiguous and in native byte order;
        the same tile gives the same bytes every time, whatever is beside it.
        """


class OneByOne(Encoder):
    """An encoder of codecs that take a tile at a time."""

    def __init__(self, encode_tile: EncodeTile) -> None:
        self._encode_tile = encode_tile

    def encode(self, tiles: Sequence[NDArray[Any]]) -> list[bytes]:
        """See `Encoder`."""
        return [self._encode_tile(tile) for tile in tiles]


@dataclass(frozen=True, slots=True)
class Effort:
    """The one number that a codec takes: `quality` if it is lossy, `effort` if it is not."""

    name: str
    low: int
    high: int
    default: int
    meaning: str
    """What it maps to, in words."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One row of the compression table."""

    name: str
    title: str
    """What it is, in a few words."""
    lossy: bool
    accepts: Mapping[str, tuple[str, ...]]
    """Dtypes by kind of pixels."""
    limits: str
    """Why it accepts no more, as a clause of a message; empty if it takes everything."""
    make: Callable[[Encoding], EncodeTile | Encoder]
    effort: Effort | None = None
    predictor: bool = False
    """Whether differencing may precede it."""
    bits: tuple[int, ...] = (8,)
    """Bits a pixel of the binary masks that it takes; the first one is the default."""
    families: frozenset[str] = frozenset({"tiff"})
    """Of formats that hold it, see `FAMILIES`."""
    pixel_bytes: int = 0
    """Memory that encoding takes beside some tiles, in bytes a pixel: measured, and rounded up (docs/faults.md)."""
    piece_side: int = 1 << 16
    """Pixels a side above which it encodes piece by piece, and takes no more."""

    @property
    def likely_ratio(self) -> int:
        """How many times smaller than pixels its segments are, at a guess."""
        return 8 if self.lossy else 2

    def encoder_bytes(self, tile: int) -> int:
        """Memory that encoding a tile takes, see `pixel_bytes`."""
        return self.pixel_bytes * min(tile, self.piece_side) ** 2

    def refusal(self, pixels: PixelFormat, bits: int | None = None) -> str | None:
        """Why it can't encode such pixels, as a clause of a message; None if it can."""
        if self.lossy and pixels.kind in MASKS:
            return "it is lossy and would make values that were not there"
        if pixels.dtype not in self.accepts.get(pixels.kind, ()):
            return self.limits
        if pixels.kind == "binary" and bits is not None and bits not in self.bits:
            return f"it holds masks of {self.bits[0]} bit{'s' * (self.bits[0] > 1)} a pixel only"
        return None


@dataclass(frozen=True, slots=True)
class Encoding:
    """How every tile of a file is encoded: a compression with its settings, and the pixels it applies to."""

    codec: Codec
    """The row of the compression table."""
    pixels: PixelFormat
    tile: int
    bits: int
    """Bits a sample in the file: those of the dtype, or 1 for a binary mask of single bits."""
    effort: int | None = None
    """Quality of a lossy codec, level of a lossless one; None where the codec has neither."""
    subsampling: str | None = None
    rgb_inside: bool = False
    """Whether a JPEG holds red, green and blue as they are, not YCbCr: as it does without chroma subsampling, since
    Bio-Formats shows YCbCr of 1, 1 in wrong colours (docs/compression.md).
    """
    predictor: int = 1
    """TIFF's Predictor: 1 none, 2 horizontal differencing, 3 the same of floating point."""

    planar: bool = False
    """Whether a segment holds all first samples of a tile, then all second ones, not the samples of a pixel side by
    side; only for codecs of bytes.
    """

    @property
    def dtype(self) -> str:
        """Of the pixels in memory."""
        return self.pixels.dtype

    @property
    def samples(self) -> int:
        """Samples a pixel of a tile: one plane's."""
        return self.pixels.samples

    @property
    def compression(self) -> str:
        """The codec's name."""
        return self.codec.name

    @property
    def tile_bytes(self) -> int:
        """Bytes of one unencoded tile."""
        import numpy as np

        return self.tile * self.tile * self.samples * int(np.dtype(self.dtype).itemsize)

    def encoder(self) -> Encoder:
        """What encodes tiles in this process."""
        made = self.codec.make(self)
        return made if isinstance(made, Encoder) else OneByOne(made)
