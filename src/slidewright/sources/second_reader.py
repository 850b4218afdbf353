"""BMP and GIF of which Pillow makes an image whatever is in them: what is wrong with one, by sizes and by OpenCV."""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.system.files import regular

_MOST_CODES = 3  # bytes for a pixel of run-length codes, and of LZW: two for each that stands alone
_SMALL = 1 << 20  # bytes of codes for ends of rows, and of what stands before the pixels
_QUIET = threading.Lock()  # for OpenCV's level of messages, which is one for all threads
_BACKGROUND = 11  # where GIF has the index of its background's colour, which OpenCV wants to be one of its palette


def bytes_to_check(image: Any) -> int:
    """What looking at an image takes for each of its pixels."""
    if image.format == "GIF":
        return 12
    return 6 if image.tile and image.tile[0][0] != "raw" else 0


def bmp_damage(image: Any, path: str) -> str:
    """What is wrong with the pixels of a BMP that Pillow has opened, in words; "" where nothing is.

    Rows are of whole words of 32 bits, the last one too, unless the size in the file's header (bytes 2 to 5 of
    BITMAPFILEHEADER) is that of a file without its last padding. Where some bytes are missing, each row after them is
    moved, and Pillow sees nothing as long as only the last padding is too short. Run-length codes that go beyond their
    row, or that end too early, are cut or filled by Pillow, and of rows that are left out it moves the next; OpenCV
    refuses the first and lays the last rightly.
    """
    decoder, _, offset, options = image.tile[0]
    if decoder == "raw":
        with open(path, "rb", opener=regular) as file:
            said, nbytes = int.from_bytes(file.read(6)[2:], "little"), os.fstat(file.fileno()).st_size
        row: int = options[1]
        missing = min(said, offset + row * image.height) - nbytes
        return f"{missing} of its bytes are missing" if missing > 0 else ""
    import cv2

    try:
        found = _decoded(_codes(image, path))
        if found is None:
            return "its runs of pixels do not fit its rows"
        shown = np.asarray(image.convert("RGB"))
    except (cv2.error, OSError, ValueError) as error:  # of more than 2^30 pixels; damage that Pillow knows
        return f"its runs of pixels: {error}"
    return "" if np.array_equal(found, shown) else "its runs leave out pixels, which Pillow and OpenCV show differently"


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
