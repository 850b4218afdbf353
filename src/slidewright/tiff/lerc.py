"""Pixels without a value in LERC: libtiff makes NaN or alpha of them, and tifffile's decoder nothing at all, which even
mixes up the bands where they differ from one to the next.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np

from slidewright.geometry import Size
from slidewright.system.interrupts import let_through

PARAMETERS = 50674
"""The tag LercParameters: a version, and what the blobs are compressed with (0 nothing, 1 deflate, 2 Zstandard)."""
_DEFLATE, _ZSTD = 1, 2
_SIGN = b"Lerc2 "
_MOST = 1 << 28  # bytes, of a segment


def has_gaps(data: bytes, compression: int, inside: Size) -> bool:
    """Whether a segment has pixels without a value, of those `inside` the image (beyond it GDAL writes NaN), or its
    bands one after the other, as libtiff writes those of which not the same pixels have one; False too for what is no
    LERC, of which the decoder tells.

    The header has its sign, a version, from version 3 on a checksum, rows, columns, from version 4 on how many values a
    pixel has, how many pixels have one, a block's side, and how many bytes there are up to the next (Esri's Lerc2.h).
    """
    import imagecodecs

    try:
        if compression == _DEFLATE:
            data = zlib.decompressobj().decompress(data, _MOST)
        elif compression == _ZSTD:
            data = bytes(imagecodecs.zstd_decode(data))
        if data[:6] != _SIGN:
            return False
        (version,) = struct.unpack_from("<i", data, 6)
        at = 10 if version < 3 else 14
        rows, columns = struct.unpack_from("<ii", data, at)
        valid, _, length = struct.unpack_from("<iii", data, at + (8 if version < 4 else 12))
        if data[length : length + 6] == _SIGN:
            return True
        if valid == rows * columns:
            return False
        _, mask = imagecodecs.lerc_decode(data, masks=True)
    except Exception as error:  # of each codec its own
        let_through(error)
        return False
    return mask is not None and not np.all(mask[..., : inside.height, : inside.width])
