"""What Pillow does not look at in a BMP: whether its last row is whole, and runs of pixels that do not fit."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from slidewright.system.files import regular

_MOST_CODES = 3  # bytes for a pixel: two for each that stands alone
_SMALL = 1 << 20  # bytes of codes for ends of rows, and the like


def bytes_to_check(image: Any) -> int:
    """What `damage_of` takes for each pixel."""
    return 6 if image.tile and image.tile[0][0] != "raw" else 0


def damage_of(image: Any, path: str) -> str:
    """What is wrong with the pixels of a BMP that Pillow has opened, in words; "" where nothing is.

    Rows are of whole words of 32 bits, the last one too, unless the size in the file's header (bytes 2 to 5 of
    BITMAPFILEHEADER) is that of a file without its last padding. Where some bytes are missing, each row after them is
    moved, and Pillow sees nothing as long as only the last padding is too short. Run-length codes that go beyond their
    row, or that end too early, are cut or filled by Pillow, and of rows that are left out it moves the next; OpenCV
    refuses the first and lays the last rightly.
    """
    decoder, _, offset, options = image.tile[0]
    with open(path, "rb", opener=regular) as file:
        nbytes = os.fstat(file.fileno()).st_size
        if decoder == "raw":
            row: int = options[1]
            said = int.from_bytes(file.read(6)[2:], "little")
            missing = min(said, offset + row * image.height) - nbytes
            return f"{missing} of its bytes are missing" if missing > 0 else ""
        codes = np.frombuffer(file.read(offset + _MOST_CODES * image.width * image.height + _SMALL), np.uint8)
    import cv2

    try:
        found = cv2.imdecode(codes, cv2.IMREAD_COLOR_RGB)
        if found is None:
            return "its runs of pixels do not fit its rows"
        shown = np.asarray(image.convert("RGB"))
    except (cv2.error, OSError, ValueError) as error:  # of more than 2^30 pixels; damage that Pillow knows
        return f"its runs of pixels: {error}"
    return "" if np.array_equal(found, shown) else "its runs leave out pixels, which Pillow and OpenCV show differently"
