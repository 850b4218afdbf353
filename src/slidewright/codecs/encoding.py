"""What every tile of a file is encoded with, as one picklable value: apart from the table, which all files share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.codecs.table import Codec
    from slidewright.pixels import Colormap, PixelFormat

Encoder = Callable[["NDArray[Any]"], bytes]
"""From a padded tile of one plane, (tile, tile, samples), C-contiguous and in native byte order, to its segment."""

_PACKBITS = 32773
_SUBSAMPLING_TAG = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How every tile of a file is encoded: a compression with its settings, and the pixels it applies to."""

    compression: str
    pixels: PixelFormat
    tile: int
    bits: int
    """Bits a sample in the file: those of the dtype, or 1 for a binary mask of single bits."""
    effort: int | None = None
    """Quality of a lossy codec, level of a lossless one; None where the codec has neither."""
    subsampling: str | None = None
    predictor: int = 1
    """TIFF's Predictor: 1 none, 2 horizontal differencing, 3 the same of floating point."""

    @property
    def dtype(self) -> str:
        """Of the pixels in memory."""
        return self.pixels.dtype

    @property
    def samples(self) -> int:
        """Samples a pixel of a tile: one plane's."""
        return self.pixels.samples

    @property
    def codec(self) -> Codec:
        """The row of the table."""
        from slidewright.codecs.table import CODECS

        return CODECS[self.compression]

    @property
    def tile_bytes(self) -> int:
        """Bytes of one unencoded tile."""
        import numpy as np

        return self.tile * self.tile * self.samples * int(np.dtype(self.dtype).itemsize)

    def encoder(self) -> Encoder:
        """A function from a padded tile, (tile, tile, samples) and C-contiguous, to its segment."""
        return self.codec.make(self)

    def tiff_arguments(self) -> dict[str, Any]:
        """The arguments of `tifffile.TiffWriter.write` that say what segments hold and how they are encoded.

        A page of single bits is written as if it were of bytes in PackBits; `corrections` says what it is.
        """
        pixels = self.pixels
        tag = _PACKBITS if self.bits == 1 else self.codec.tag
        arguments: dict[str, Any] = {"compression": None if tag == 1 else tag}
        arguments["photometric"] = "rgb" if pixels.kind in ("rgb", "rgba") else "minisblack"
        if pixels.kind == "rgba":
            arguments["extrasamples"] = ("unassalpha",)
        if pixels.planes > 1:
            arguments["planarconfig"] = "separate"
        if pixels.colormap is not None:
            arguments |= {"photometric": "palette", "colormap": _whole_palette(pixels.colormap, self.bits)}
        if self.predictor != 1:
            arguments["predictor"] = self.predictor
        if self.compression == "jpeg":
            from slidewright.codecs.jpeg import jpeg_tables

            arguments["jpegtables"] = jpeg_tables(self)
            if self.subsampling is not None:
                arguments["subsampling"] = _SUBSAMPLING_TAG[self.subsampling]
        return arguments

    def corrections(self) -> dict[str, int]:
        """Tags, by tifffile's names, to overwrite in every page after writing.

        tifffile writes no single bits in CCITT, and of others leaves out BitsPerSample, without which OpenSlide refuses
        the file.
        """
        return {"BitsPerSample": 1, "Compression": self.codec.tag} if self.bits == 1 else {}


def _whole_palette(colormap: Colormap, bits: int) -> NDArray[Any]:
    """(3, 2 ** bits) of uint16: TIFF 6.0 section 5 wants a colour for every value; those nobody gave are black."""
    import numpy as np

    palette = np.zeros((3, 1 << bits), np.uint16)
    palette[:, : len(colormap)] = np.array(colormap, np.uint16).T
    return palette
