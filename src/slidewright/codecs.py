"""The compression table: name, TIFF compression, what it accepts, how a tile becomes a segment.

One row a compression; validation, help, documentation and the test matrix read it. `resolve` turns options and pixels
into an `Encoding`, a small picklable value from which each worker makes its encoder and the writer its tags.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OptionError
from slidewright.kinds import PixelFormat
from slidewright.options import ConvertOptions

Pixels = NDArray[Any]
Encoder = Callable[[Pixels], bytes]


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
        return CODECS[self.compression]

    @property
    def tile_bytes(self) -> int:
        """Bytes of one unencoded tile."""
        return self.tile * self.tile * self.samples * int(np.dtype(self.dtype).itemsize)

    def encoder(self) -> Encoder:
        """A function from a padded tile, (tile, tile, samples) and C-contiguous, to its segment."""
        return self.codec.make(self)

    def tiff_arguments(self) -> dict[str, Any]:
        """The arguments of `tifffile.TiffWriter.write` that say how segments are encoded."""
        arguments: dict[str, Any] = {"compression": self.codec.tiff_name}
        arguments["photometric"] = "rgb" if self.samples == 3 else "minisblack"
        if self.predictor != 1:
            arguments["predictor"] = self.predictor
        if self.compression == "jpeg":
            arguments["jpegtables"] = jpeg_tables(self)
            if self.samples == 3:
                arguments["subsampling"] = _SUBSAMPLING_TAG[self.subsampling or "420"]
        return arguments


@dataclass(frozen=True, slots=True)
class Codec:
    """One row of the compression table."""

    name: str
    tiff_name: str | None
    """tifffile's name of the compression tag, None for uncompressed."""
    lossy: bool
    dtypes: tuple[str, ...]
    samples: tuple[int, ...]
    effort: tuple[int, int, int] | None
    """(lowest, highest, default) of `quality` for a lossy codec, of `level` for a lossless one; None if it has
    neither.
    """
    predictor: bool
    """Whether horizontal differencing may precede it."""
    make: Callable[[Encoding], Encoder]

    def accepts(self, dtype: str, samples: int) -> bool:
        """Whether pixels of this dtype and number of samples can be encoded."""
        return dtype in self.dtypes and samples in self.samples


def resolve(options: ConvertOptions, pixels: PixelFormat) -> Encoding:
    """The encoding that the options ask for, for such pixels.

    Raises
    ------
    OptionError
        If the compression is unknown, can't encode such pixels (the message names those that can), or an option does
        not apply to it.
    """
    dtype, samples = pixels.dtype, pixels.samples
    default = "jpeg" if pixels.kind in ("rgb", "grey") and dtype == "uint8" else "deflate"
    codec = CODECS.get(options.compression or default)
    if codec is None:
        raise OptionError(f"compression {options.compression!r} is not known; choose one of {', '.join(CODECS)}")
    if not codec.accepts(dtype, samples):
        able = [name for name, other in CODECS.items() if other.accepts(dtype, samples)]
        kind = f"{dtype} pixels with {samples} sample{'s' if samples > 1 else ''}"
        advice = f"choose one of {', '.join(able)}" if able else "no compression can; convert the pixels first"
        raise OptionError(f"compression {codec.name!r} can't encode {kind}; {advice}")
    if options.subsampling is not None and (codec.name != "jpeg" or samples != 3):
        raise OptionError("subsampling applies to jpeg compression of RGB pixels only; leave it out")
    if options.predictor and not codec.predictor:
        able = [name for name, other in CODECS.items() if other.predictor]
        raise OptionError(f"predictor does not apply to compression {codec.name!r}, only to {', '.join(able)}")
    return Encoding(
        compression=codec.name,
        pixels=pixels,
        tile=options.tile_size,
        bits=8 * np.dtype(dtype).itemsize,
        effort=_effort(codec, options),
        subsampling=(options.subsampling or "420") if codec.name == "jpeg" and samples == 3 else None,
        predictor=2 if options.predictor else 1,
    )


def _effort(codec: Codec, options: ConvertOptions) -> int | None:
    """Quality or level, whichever the codec has, checked against its range."""
    name, value = ("quality", options.quality) if codec.lossy else ("level", options.level)
    other = options.level if codec.lossy else options.quality
    if other is not None or (value is not None and codec.effort is None):
        wrong = ("level" if codec.lossy else "quality") if other is not None else name
        remedy = f"use {name}" if codec.effort is not None else "leave it out"
        raise OptionError(f"{wrong} does not apply to compression {codec.name!r}; {remedy}")
    if codec.effort is None:
        return None
    low, high, default = codec.effort
    if value is None:
        return default
    if not low <= value <= high:
        raise OptionError(f"{name} {value} is out of range for {codec.name!r}: {low} to {high}")
    return value


def _little_endian(tile: Pixels) -> Any:
    return tile if tile.dtype.itemsize == 1 else tile.astype(tile.dtype.newbyteorder("<"), copy=False)


def _differenced(encoding: Encoding, encode: Encoder) -> Encoder:
    """`encode` behind horizontal differencing, where the encoding asks for it."""
    if encoding.predictor == 1:
        return encode
    from imagecodecs import delta_encode

    def make(tile: Pixels) -> bytes:
        differences: Any = delta_encode(tile, axis=1)
        return encode(differences)

    return make


def _make_none(encoding: Encoding) -> Encoder:
    return lambda tile: _little_endian(tile).tobytes()


def _make_deflate(encoding: Encoding) -> Encoder:
    from imagecodecs import deflate_encode  # libdeflate: the zlib format at twice zlib's speed

    level = encoding.effort
    return _differenced(encoding, lambda tile: bytes(deflate_encode(_little_endian(tile), level)))


def _make_zstd(encoding: Encoding) -> Encoder:
    from imagecodecs import zstd_encode

    level = encoding.effort
    return _differenced(encoding, lambda tile: bytes(zstd_encode(_little_endian(tile), level)))


_SUBSAMPLING_TAG = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}


def _jpeg_stream(encoding: Encoding) -> Encoder:
    """Tile to complete JPEG stream, with its tables in it."""
    from imagecodecs import jpeg8_encode

    settings: dict[str, Any] = {"level": encoding.effort, "optimize": False}
    if encoding.samples == 3:
        settings |= {"colorspace": "rgb", "outcolorspace": "ycbcr", "subsampling": encoding.subsampling}
        return lambda tile: bytes(jpeg8_encode(tile, **settings))
    settings |= {"colorspace": "grayscale", "outcolorspace": "grayscale"}
    return lambda tile: bytes(jpeg8_encode(tile[:, :, 0], **settings))


_SOI, _EOI, _APP0, _DQT, _DHT = b"\xff\xd8", b"\xff\xd9", 0xE0, 0xDB, 0xC4


def _split_jpeg(stream: bytes) -> tuple[bytes, bytes, int]:
    """The table markers (DQT, DHT), the other header markers, and where the scan begins; JFIF's APP0 is dropped."""
    tables, others, at = [], [], 2
    while stream[at + 1] != 0xDA:  # start of scan
        marker, end = stream[at + 1], at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker in (_DQT, _DHT):
            tables.append(stream[at:end])
        elif marker != _APP0:
            others.append(stream[at:end])
        at = end
    return b"".join(tables), b"".join(others), at


def jpeg_tables(encoding: Encoding) -> bytes:
    """The JPEGTables tag (Adobe's TIFF technical note 2): the tables that all segments share, as an abbreviated
    stream.
    """
    blank = np.zeros((encoding.tile, encoding.tile, encoding.samples), encoding.dtype)
    return _SOI + _split_jpeg(_jpeg_stream(encoding)(blank))[0] + _EOI


def _make_jpeg(encoding: Encoding) -> Encoder:
    """Abbreviated streams: the tables are the same for every tile (fixed Huffman tables, fixed quality), so the file
    holds them once.
    """
    encode = _jpeg_stream(encoding)
    blank = encode(np.zeros((encoding.tile, encoding.tile, encoding.samples), encoding.dtype))
    _, others, scan = _split_jpeg(blank)
    full_header, header = blank[:scan], _SOI + others

    def make(tile: Pixels) -> bytes:
        stream = encode(tile)
        if stream[:scan] != full_header:
            raise AssertionError("libjpeg changed its header between tiles")
        return header + stream[scan:]

    return make


_INTEGER = ("uint8", "uint16")
CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("none", None, False, _INTEGER, (1, 3), None, False, _make_none),
        Codec("jpeg", "jpeg", True, ("uint8",), (1, 3), (1, 100, 90), False, _make_jpeg),
        Codec("deflate", "adobe_deflate", False, _INTEGER, (1, 3), (1, 12, 6), True, _make_deflate),
        Codec("zstd", "zstd", False, _INTEGER, (1, 3), (1, 22, 3), True, _make_zstd),
    )
}
