"""Where the frames of a DICOM file lie in the image, where the file says it of each (TILED_SPARSE).

Apart from `dicom_files.py` because pydicom takes a millisecond for each frame, of which a slide has a hundred thousand:
what all frames have alike is found by its bytes, and pydicom is asked where that does not add up.
"""

from __future__ import annotations

import mmap
import re
from typing import Any, BinaryIO

Place = tuple[int, int, float]
"""Row and column of the first pixel, counted from 1, and the height of the focal plane in micrometres."""
_FULL, _SPARSE = "TILED_FULL", "TILED_SPARSE"
_MOST_BYTES = 4096
"""That are said of one frame."""
_SEQUENCE = b"\x00\x52\x30\x92"
_LAST = re.compile(rb"\xfe\xff\xdd\xe0\0\0\0\0(?=\xe0\x7f[\x01\x02\x10]\0)")
"""The end of a sequence, before the group of the pixels."""
_COLUMN = re.compile(rb"\x48\x00\x1e\x02(?:SL\x04\0|\x04\0\0\0)(.{4})", re.DOTALL)
_ROW = re.compile(rb"\x48\x00\x1f\x02(?:SL\x04\0|\x04\0\0\0)(.{4})", re.DOTALL)
_DEPTH = re.compile(rb"\x40\x00\x4a\x07(?:DS([\x01-\x20])\0|([\x01-\x20])\0\0\0)([-+0-9.eE ]{1,32})")


def quick_places(file: BinaryIO, header: Any) -> tuple[list[Place] | None, int] | None:
    """The place of each frame, None for TILED_FULL, and the byte after them, from where the header ended; None where
    they can't be found so.
    """
    start, n_frames = file.tell(), int(header.get("NumberOfFrames") or 1)
    order = str(header.get("DimensionOrganizationType", ""))
    if file.read(4) != _SEQUENCE:  # which need not be there, but where it says that each frame has its own place
        return None if order == _SPARSE else (None, start)
    if not any("PixelMeasuresSequence" in group for group in header.get("SharedFunctionalGroupsSequence") or ()):
        return None
    implicit = bool(header.file_meta.TransferSyntaxUID.is_implicit_VR)
    length = int.from_bytes(file.read(4 if implicit else 8)[-4:], "little")
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = file.tell()
        stop = min(len(data), first + _MOST_BYTES * max(0, n_frames) + (1 << 20))
        if length == 0xFFFF_FFFF:
            found = _LAST.search(data, first, stop)
            if found is None:
                return None
            end = found.start()
            after = found.end()
        else:
            end = after = first + length
        if order == _FULL:
            return None, after
        rows, columns = (
            [int.from_bytes(match[1], "little") for match in code.finditer(data, first, end)]
            for code in (_ROW, _COLUMN)
        )
        depths = [float(match[3][: (match[1] or match[2])[0]]) for match in _DEPTH.finditer(data, first, end)]
    if len(rows) != n_frames or len(columns) != n_frames or len(depths) not in (0, n_frames):
        return None
    return list(zip(rows, columns, depths or [0.0] * n_frames, strict=True)), after


def slow_places(header: Any) -> list[Place] | None:
    """The same by pydicom; None where frames follow each other row by row (TILED_FULL).

    Raises
    ------
    ValueError
        When it says of a part of the frames where they lie, and not of all.
    """
    order = str(header.get("DimensionOrganizationType", ""))
    if order == _FULL:
        return None
    found = []
    for frame in header.get("PerFrameFunctionalGroupsSequence") or ():
        if "PlanePositionSlideSequence" not in frame:
            continue
        place = frame.PlanePositionSlideSequence[0]
        depth = float(place.get("ZOffsetInSlideCoordinateSystem") or 0)
        row, column = place.RowPositionInTotalImagePixelMatrix, place.ColumnPositionInTotalImagePixelMatrix
        found.append((int(row), int(column), depth))
    n_frames = int(header.get("NumberOfFrames") or 1)
    if len(found) != n_frames and (found or order == _SPARSE):
        raise ValueError(f"it says of {len(found)} of its {n_frames} frames where they lie")
    return found or None
