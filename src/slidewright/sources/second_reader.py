"""What is wrong with a BMP, or by OpenCV with a GIF: Pillow makes an image of either, whatever is in it."""

from __future__ import annotations

import os
import struct
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.system.files import regular

_MOST_CODES = 3  # bytes for a pixel of run-length codes, and of LZW: two for each that stands alone
_SMALL = 1 << 20  # bytes of codes for ends of rows, and of what stands before the pixels
_NEXT_ROW, _END, _LEAVE_OUT = 0, 1, 2  # after a count of 0
_HEADER = struct.Struct("<2xI22xH4xI")
"""bfSize, biBitCount and biSizeImage of a BMP."""
_QUIET = threading.Lock()  # for OpenCV's level of messages, which is one for all threads
_BACKGROUND = 11  # where GIF has the index of its background's colour, which OpenCV wants to be one of its palette


def bytes_to_check(image: Any) -> int:
    """What looking at an image takes for each of its pixels."""
    return 12 if image.format == "GIF" else _MOST_CODES


def bmp_damage(image: Any, path: str) -> str:
    """What is wrong with the pixels of a BMP that Pillow has opened, in words; "" where nothing is.

    Rows are of whole words of 32 bits, the last one too, unless the size in its header (bfSize, where biSizeImage
    says nothing else) is that of a file without its last padding. Where some bytes are missing, each row after them is
    moved, and Pillow sees nothing as long as only the last padding is too short. It also cuts run-length codes that go
    beyond their row, fills what is missing, and moves the rows after one that is left out.
    """
    decoder, _, offset, options = image.tile[0]
    with open(path, "rb", opener=regular) as file:
        header, nbytes = file.read(_HEADER.size), os.fstat(file.fileno()).st_size
    said, bits, pixel_bytes = _HEADER.unpack(header.ljust(_HEADER.size, b"\0"))
    if decoder != "raw":
        if bits != (4 if options[1] else 8):
            return f"run-length codes of another kind than of {bits} bits"
        return _runs_damage(_codes(image, path)[offset:].tobytes(), image.width, image.height, nibbles=options[1])
    whole: int = options[1] * image.height
    missing = (offset + whole if pixel_bytes == whole else min(said, offset + whole)) - nbytes
    return f"{missing} of its bytes are missing" if missing > 0 else ""


def _runs_damage(codes: bytes, width: int, height: int, *, nibbles: bool) -> str:
    """The same of run-length codes: (count, value), or 0 and what to do, such as to go to the next row (0), to end (1),
    to leave out pixels (2), or so many pixels that follow, filled up to a word (Windows GDI, "Bitmap Compression").
    ImageMagick's rows have the padding that they would have without codes.
    """
    padded = -(-width // (8 if nibbles else 4)) * (8 if nibbles else 4)
    at = x = y = 0
    ends = set[int]()
    while y < height:
        count, value = codes[at : at + 2] if at + 2 <= len(codes) else (0, 1)
        at += 2
        if count:
            x += count
        elif value == _NEXT_ROW:
            if x == 0:
                return "a row of it has no codes"
            ends.add(x)
            x, y = 0, y + 1
        elif value == _END:
            break
        elif value == _LEAVE_OUT:
            right, up = codes[at : at + 2] if at + 2 <= len(codes) else (width + 1, 0)
            x, y, at = x + right, y + up, at + 2
        else:
            x += value
            nbytes = (value + 1) // 2 if nibbles else value
            at += nbytes + nbytes % 2
        if x > padded:
            break
    if x:
        ends.add(x)
    if max(ends, default=0) > width and ends != {padded}:
        return "a run of its pixels goes beyond its row"
    return "" if y >= height or (y == height - 1 and x >= width and at <= len(codes)) else "its runs end too early"


def gif_damage(image: Any, path: str) -> str:
    """What is wrong with the first image of a GIF, in words, "" where nothing is. Pillow stops at a code that is
    none, or where it has all pixels, and says nothing.
    """
    import cv2

    codes = _codes(image, path)
    codes[_BACKGROUND] = 0
    try:
        found = _decoded(codes)
    except cv2.error as error:  # of more than 2^30 pixels
        return f"its pixels: {error}"
    return "" if found is not None else "its codes make no sense"


def _decoded(codes: NDArray[np.uint8]) -> NDArray[Any] | None:
    """What OpenCV makes of a file, as RGB; None where it refuses it, of which it says nothing on the terminal here."""
    import cv2

    with _QUIET:
        before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        try:
            return cv2.imdecode(codes, cv2.IMREAD_COLOR_RGB)
        finally:
            cv2.utils.logging.setLogLevel(before)


def _codes(image: Any, path: str) -> NDArray[np.uint8]:
    """A file as an array, but for most of what may stand behind its pixels."""
    with open(path, "rb", opener=regular) as file:
        return np.frombuffer(bytearray(file.read(_SMALL + _MOST_CODES * image.width * image.height)), np.uint8)
