"""Small MIRAX slides: an index, and a data file that OpenSlide opens by name at each tile."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

_ID = b"1234567890ABCDEF"
_TEXT = """[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = {id}
IMAGENUMBER_X = {tiles}
IMAGENUMBER_Y = {tiles}
OBJECTIVE_MAGNIFICATION = 20
CameraImageDivisionsPerSide = 1
[HIERARCHICAL]
HIER_COUNT = 1
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = 1
HIER_0_VAL_0_SECTION = LAYER_0_LEVEL_0_SECTION
NONHIER_COUNT = 0
INDEXFILE = Index.dat
[DATAFILE]
FILE_COUNT = 1
FILE_0 = Data0000.dat
[LAYER_0_LEVEL_0_SECTION]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = 0.25
MICROMETER_PER_PIXEL_Y = 0.25
IMAGE_FORMAT = BMP24
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = {tile}
DIGITIZER_HEIGHT = {tile}
IMAGE_CONCAT_FACTOR = 0
"""


def slide(path: Path, tiles: int, value: int, tile: int = 64) -> Path:
    """A slide of `tiles` x `tiles` tiles of one grey."""
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    stream = io.BytesIO()
    Image.new("RGB", (tile, tile), (value, value, value)).save(stream, "BMP")
    image, data, entries = stream.getvalue(), bytearray(16), bytearray()
    for number in range(tiles * tiles):
        entries += struct.pack("<4i", number, len(data), len(image), 0)
        data += image
    head = b"01.02" + _ID
    record = len(head) + 12  # behind two roots and the level's own place
    index = head + struct.pack("<2i", record - 4, record - 4) + struct.pack("<i", record)
    index += struct.pack("<4i", 0, record + 8, 0, record + 16) + struct.pack("<2i", tiles * tiles, 0)
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(index + entries)
    (folder / "Slidedat.ini").write_text(_TEXT.format(id=_ID.decode(), tiles=tiles, tile=tile))
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(path, "JPEG")
    return path
