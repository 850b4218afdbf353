"""JPEG as TIFF has it (Adobe's TIFF technical note 2): abbreviated streams, whose tables the file holds once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.codecs.encoding import Encoder, Encoding

_SOI, _EOI, _APP0, _DQT, _DHT = b"\xff\xd8", b"\xff\xd9", 0xE0, 0xDB, 0xC4


def make_jpeg(encoding: Encoding) -> Encoder:
    """Abbreviated streams: the tables are the same for every tile (fixed Huffman tables, fixed quality), so the file
    holds them once.
    """
    encode = _stream(encoding)
    blank = encode(_blank(encoding))
    _, others, scan = _split(blank)
    full_header, header = blank[:scan], _SOI + others

    def make(tile: NDArray[Any]) -> bytes:
        stream = encode(tile)
        if stream[:scan] != full_header:
            raise AssertionError("libjpeg changed its header between tiles")
        return header + stream[scan:]

    return make


def jpeg_tables(encoding: Encoding) -> bytes:
    """The JPEGTables tag: the tables that all segments share, as an abbreviated stream."""
    return _SOI + _split(_stream(encoding)(_blank(encoding)))[0] + _EOI


def _blank(encoding: Encoding) -> NDArray[Any]:
    import numpy as np

    return np.zeros((encoding.tile, encoding.tile, encoding.samples), encoding.dtype)


def _stream(encoding: Encoding) -> Encoder:
    """Tile to complete JPEG stream, with its tables in it."""
    from imagecodecs import jpeg8_encode

    settings: dict[str, Any] = {"level": encoding.effort, "optimize": False}
    if encoding.samples == 3:
        settings |= {"colorspace": "rgb", "outcolorspace": "ycbcr", "subsampling": encoding.subsampling}
        return lambda tile: bytes(jpeg8_encode(tile, **settings))
    settings |= {"colorspace": "grayscale", "outcolorspace": "grayscale"}
    return lambda tile: bytes(jpeg8_encode(tile[:, :, 0], **settings))


def _split(stream: bytes) -> tuple[bytes, bytes, int]:
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
