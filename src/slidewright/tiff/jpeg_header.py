"""What the header of a JPEG says of its colours, chroma and quality: more than `stream_headers`, which is for every
codec, and only asked of a stream that is to be kept as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

ADOBE = b"\xff\xee\0\x0eAdobe\0\x64" + bytes(4)
"""Adobe's marker of a JPEG, up to the byte that tells its colours: 0 RGB, 1 YCbCr."""
PROGRESSIVE = 2
"""The highest n of SOFn, see `JpegHeader.process`, of what is in blocks of Huffman's codes."""
LOSSLESS = 3
WITH_BLOCKS = (*range(PROGRESSIVE + 1), 9, 10)
"""Those that simplejpeg is asked for, the last two of arithmetic coding. Version 1.9.0 writes beyond the end of its
array when it is to give half of a lossless JPEG.
"""
_SOS = 0xDA
_ALONE = (0x01, *range(0xD0, 0xD8))
"""Markers without a length: TEM and RSTn (B.1.1.3)."""
_PADDING = 3  # bytes behind tables, up to a multiple of 4
_STANDARD = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
"""Luminance quantisation of ITU T.81, annex K.1, row by row."""


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """The frame header (ITU T.81, B.2.2) and the quantisation tables beside it."""

    process: int
    """The n of SOFn: 0 baseline, 1 extended, 2 progressive, more for what few decoders read (T.81, table B.1)."""
    bits: int
    sampling: tuple[tuple[int, int], ...]
    """(horizontal, vertical) of each component."""
    quality: int | None
    """The quality of libjpeg whose luminance table comes closest; None where there is no table here."""
    told: Literal["rgb", "ycbcr"] | None = None
    """What the stream itself says of its colours, by a marker of Adobe or JFIF."""

    @property
    def subsampling(self) -> tuple[int, int] | None:
        """How often chroma is halved along (x, y), such as (2, 2); None for components that are not sampled so."""
        if len(self.sampling) != 3 or self.sampling[1] != self.sampling[2]:
            return None
        (across, down), (chroma_across, chroma_down), _ = self.sampling
        if across % chroma_across or down % chroma_down:
            return None
        return across // chroma_across, down // chroma_down


def read_jpeg_header(stream: bytes, tables: bytes | None = None) -> JpegHeader | None:
    """The header of a stream, with the tables that it may share with others; None for what is no JPEG."""
    quantisation: dict[int, tuple[int, ...]] = {}
    frame: bytes | None = None
    told: Literal["rgb", "ycbcr"] | None = None
    process = 0
    try:
        for part in (tables or b"", stream):
            for marker, payload in segments(part):
                if marker == 0xDB:
                    quantisation.update(_quantisation(payload))
                elif marker == 0xEE and payload[:5] == b"Adobe":
                    told = "ycbcr" if payload[11] else "rgb"
                elif marker == 0xE0 and payload[:5] == b"JFIF\0":
                    told = told or "ycbcr"
                elif _is_frame(marker):
                    frame, process = payload, marker - 0xC0
        if frame is None:
            return None
        components = [frame[6 + 3 * n : 9 + 3 * n] for n in range(frame[5])]
        sampling = tuple((which[1] >> 4, which[1] & 15) for which in components)
        luminance = quantisation.get(components[0][2])
    except IndexError:
        return None
    if not all(across and down for across, down in sampling):
        return None
    return JpegHeader(process, frame[0], sampling, None if luminance is None else _quality(luminance), told)


def read_process(stream: bytes) -> int | None:
    """The n of SOFn, see `JpegHeader.process`; None for what is no JPEG."""
    return next((marker - 0xC0 for marker, _ in segments(stream) if _is_frame(marker)), None)


def header_segments(stream: bytes | None) -> bytes:
    """What stands between SOI and the scan, or EOI where there are tables alone, as in TIFF's JPEGTables: other bytes
    may be behind that EOI, or it may be missing.
    """
    parts = [(marker, part) for marker, part in segments(stream or b"") if marker != _SOS]
    return b"".join(bytes([0xFF, marker]) + (2 + len(part)).to_bytes(2) + part for marker, part in parts)


def is_damaged(header: bytes) -> bool:
    """Whether a header, or tables alone as in TIFF's JPEGTables, can't be what was written: other bytes in the place of
    a marker, segments that end outside, zeros in a quantisation table (B.2.4.1 has none), or more than one in a table
    of codes (B.2.4.2), where a symbol is once. libjpeg goes over such, or takes standard tables for those that it does
    not find.
    """
    at = 2
    if header[:at] != b"\xff\xd8":
        return True
    while at < len(header):
        if header[at] != 0xFF:
            return len(header) - at > _PADDING or any(header[at:])
        marker = header[at + 1 : at + 2]
        if marker == b"\xff":  # of which any number may stand before a marker
            at += 1
            continue
        if marker in (b"", b"\xd9"):
            return False
        if marker[0] in _ALONE:
            at += 2
            continue
        length = int.from_bytes(header[at + 2 : at + 4])
        payload = header[at + 4 : at + 2 + length]
        if marker == b"\0" or length < 2 or len(payload) != length - 2:
            return True
        if (marker == b"\xdb" and not _are_steps(payload)) or (marker == b"\xc4" and not _are_codes(payload)):
            return True
        if marker[0] == _SOS:
            return False
        at += 2 + length
    return False


def _are_steps(payload: bytes) -> bool:
    """Whether a DQT segment is of whole tables without zeros."""
    while payload and not payload[0] >> 4:  # else numbers of two bytes, which may have zeros
        if len(payload) < 65 or 0 in payload[1:65]:
            return False
        payload = payload[65:]
    return not payload or all(len(table) == 64 and all(table) for _, table in _quantisation(payload))


def _are_codes(payload: bytes) -> bool:
    """Whether a DHT segment is of whole tables, none of which has the symbol 0 twice."""
    while payload:
        count = sum(payload[1:17])
        symbols = payload[17 : 17 + count]
        if len(payload) < 17 or len(symbols) < count or symbols.count(0) > 1:
            return False
        payload = payload[17 + count :]
    return True


def _is_frame(marker: int) -> bool:
    """Whether a marker is one of SOF0 to SOF15, which DHT, JPG and DAC lie among (B.1.1.3)."""
    return 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, payload) up to the first scan, whose header is the last of them."""
    at, marker = 2, 0
    while at + 4 <= len(data) and data[at] == 0xFF and marker != _SOS:
        if data[at + 1] == 0xFF:
            at += 1
            continue
        if data[at + 1] == 0xD9:
            return
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        yield marker, data[at + 4 : at + 2 + length]
        at += 2 + max(2, length)


def _quantisation(payload: bytes) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Tables by number, in zigzag order (B.2.4.1)."""
    while payload:
        wide = 2 if payload[0] >> 4 else 1
        values = payload[1 : 1 + 64 * wide]
        yield (
            payload[0] & 15,
            tuple(values) if wide == 1 else tuple(int.from_bytes(values[n : n + 2]) for n in range(0, len(values), 2)),
        )
        payload = payload[1 + 64 * wide :]


@lru_cache(maxsize=256)
def _quality(table: tuple[int, ...]) -> int:
    """The quality at which libjpeg's scaled table differs least from this one; the order of values does not matter."""
    found = np.sort(table)
    qualities = np.arange(1, 101)
    scales = np.where(qualities < 50, 5000 // qualities, 200 - 2 * qualities)
    made = np.clip((np.outer(scales, np.sort(_STANDARD)) + 50) // 100, 1, 255)  # which scaling leaves in order
    distances = np.abs(made[:, : len(found)] - found[: made.shape[1]]).sum(axis=1)
    return int(qualities[distances.argmin()])
