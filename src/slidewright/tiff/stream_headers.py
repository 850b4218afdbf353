"""What the first bytes of a segment say of it: its size, and whether its codec was lossless.

TIFF's Compression tag is the same for both sorts of WebP, JPEG 2000 and JPEG XL; and a decoder makes room for the size
that a stream claims, which is to be checked before.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from slidewright.geometry import Size

HEAD_BYTES = 4096
_WIDTH, _HEIGHT, _SHORT = 0xBC80, 0xBC81, 3


class Stream(NamedTuple):
    """What a stream says of itself; None where it does not."""

    size: Size | None = None
    lossless: bool | None = None
    high_throughput: bool = False
    """Of JPEG 2000: whether blocks are coded as ITU T.814 has it."""


def is_far_larger(size: Size, cell: Size) -> bool:
    """Whether an image is too large to be one tile of `cell` pixels: a sign of damage."""
    return size.height * size.width > most_pixels(cell.height * cell.width)


def most_pixels(cell_pixels: int) -> int:
    """How many pixels a tile's image may say it has, padded as some writers do it."""
    return 4 * cell_pixels + 65_536


def look(compression: str, data: bytes) -> Stream:
    """Read the header of a segment; nothing is known of a codec without one here, or of a damaged one."""
    reader = _READERS.get(compression)
    try:
        return reader(data) if reader is not None else Stream()
    except (IndexError, ValueError, struct.error):
        return Stream()


def _jpeg(data: bytes) -> Stream:
    """The frame header (ITU T.81, B.2.2; that of JPEG-LS, T.87, C.1.2, is laid out alike)."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return Stream(Size(int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])))
        else:
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4]))
    return Stream()


def _jpeg2000(data: bytes) -> Stream:
    """SIZ and COD (ITU T.800, A.5.1 and A.6.1); the 5-3 wavelet is the reversible one. Bit 6 of the code-block style
    says that blocks are of high throughput (T.814, A.4).
    """
    at = data.index(b"\xff\x4f\xff\x51") + 2
    x, y, left, top = (int.from_bytes(data[at + n : at + n + 4]) for n in (6, 10, 14, 18))
    size = Size(y - top, x - left)
    while data[at] == 0xFF and data[at + 1] != 0x90:  # start of the first tile part
        if data[at + 1] == 0x52:
            return Stream(size, data[at + 13] == 1, bool(data[at + 12] & 0x40))
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return Stream(size)


def _webp(data: bytes) -> Stream:
    """The first chunks (RFC 9649, section 2): VP8L is lossless, VP8 and the alpha chunk before it are not."""
    size, at = None, 12
    while at + 13 <= len(data) and data[:4] == b"RIFF":  # a tile of one colour has 34 bytes in all
        name, payload = data[at : at + 4], data[at + 8 : at + 18]
        if name == b"VP8L":
            bits = int.from_bytes(payload[1:5], "little")
            return Stream(Size((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1), True)
        if name == b"VP8 ":
            width, height = (int.from_bytes(payload[n : n + 2], "little") & 0x3FFF for n in (6, 8))
            return Stream(size or Size(height, width), False)
        if name == b"ALPH":
            return Stream(size, False)
        if name == b"VP8X":
            width, height = (int.from_bytes(payload[n : n + 3], "little") + 1 for n in (4, 7))
            size = Size(height, width)
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return Stream(size)


def _png(data: bytes) -> Stream:
    """IHDR (PNG, 11.2.1)."""
    if data[12:16] != b"IHDR" or len(data) < 24:
        return Stream()
    return Stream(Size(int.from_bytes(data[20:24]), int.from_bytes(data[16:20])), True)


def _jpegxl(data: bytes) -> Stream:
    """SizeHeader and ImageMetadata (ISO 18181-1, D.2 and D.3): what is not XYB is taken for lossless."""
    if data[:2] != b"\xff\x0a":
        data = data[data.index(b"jxlc\xff\x0a") + 4 :]
    bits = _Bits(data[2:HEAD_BYTES])
    size = bits.size()
    if bits.take(1):  # all default: XYB
        return Stream(size, False)
    if bits.take(1):  # extra fields, which only say how to show it
        return Stream(size)
    bits.depth()
    bits.take(1)
    for _ in range(bits.choose((0, 0), (1, 0), (2, 4), (1, 12))):
        bits.extra_channel()
    return Stream(size, not bits.take(1))


def _jpegxr(data: bytes) -> Stream:
    """The larger of what the container's directory says and the stream in it (ITU-T T.832, A.6 and 8.3)."""
    at = data.index(b"WMPHOTO\0")
    short = bool(data[at + 10] & 0x80)
    width, height = (1 + value for value in struct.unpack_from(">HH" if short else ">II", data, at + 12))
    said = {_WIDTH: 0, _HEIGHT: 0}
    (at,) = struct.unpack_from("<I", data, 4)
    for number in range(struct.unpack_from("<H", data, at)[0]):
        tag, kind, _ = struct.unpack_from("<HHI", data, at + 2 + 12 * number)
        if tag in said:
            (said[tag],) = struct.unpack_from("<H" if kind == _SHORT else "<I", data, at + 10 + 12 * number)
    sizes = Size(height, width), Size(said[_HEIGHT], said[_WIDTH])
    return Stream(max(sizes, key=lambda size: size.height * size.width))


class _Bits:
    """JPEG XL's bits, lowest first, and its small structures."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        if count > self._left:
            raise ValueError("the stream is too short")
        value = self._value & ((1 << count) - 1)
        self._value >>= count
        self._left -= count
        return value

    def choose(self, *choices: tuple[int, int]) -> int:
        """U32: two bits choose an offset and the number of bits to add to it."""
        offset, count = choices[self.take(2)]
        return offset + self.take(count)

    def size(self) -> Size:
        small = self.take(1)
        height = self._side(small)
        ratio = self.take(3)
        if not ratio:
            return Size(height, self._side(small))
        across, down = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
        return Size(height, height * across // down)

    def _side(self, small: int) -> int:
        return 8 * (1 + self.take(5)) if small else self.choose((1, 9), (1, 13), (1, 18), (1, 30))

    def depth(self) -> None:
        if self.take(1):
            self.choose((32, 0), (16, 0), (24, 0), (1, 6))
            self.take(4)
        else:
            self.choose((8, 0), (10, 0), (12, 0), (1, 6))

    def extra_channel(self) -> None:
        if self.take(1):
            return
        kind = self.choose((0, 0), (1, 0), (2, 4), (18, 6))
        self.depth()
        self.choose((0, 0), (3, 0), (4, 0), (1, 3))
        self.take(8 * self.choose((0, 0), (0, 4), (16, 5), (48, 10)))
        if kind:
            raise ValueError("an extra channel that is not alpha")
        self.take(1)


_READERS = {
    "jpeg": _jpeg,
    "jpeg2000": _jpeg2000,
    "htj2k": _jpeg2000,
    "webp": _webp,
    "png": _png,
    "jpegxl": _jpegxl,
    "jpegxr": _jpegxr,
    "jpegxr_ndpi": _jpegxr,
}
