"""A JPEG decoded at half its size, as libjpeg does it in the frequencies of its blocks.

Apart from `segments.py` because JPEGs that are no TIFF's are decoded so as well.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from slidewright.geometry import Size
from slidewright.tiff.jpeg_header import ADOBE, PROGRESSIVE, header_segments, read_process


def decode_half_jpeg(data: bytes, out: NDArray[Any], cell: Size, *, tables: bytes | None, as_rgb: bool) -> bool:
    """Decode a JPEG of `cell` pixels into `out`, at most half as large; False for one of another size, or lossless.

    `as_rgb` says that its components are RGB, whether or not the stream does. Raises what the decoder raises.
    """
    from simplejpeg import decode_jpeg

    told = ADOBE + b"\0" if as_rgb else b""
    half, colours = cell.halved(1), "RGB" if out.shape[2] == 3 else "GRAY"
    stream = data[:2] + told + header_segments(tables) + data[2:]
    process = read_process(stream)
    if process is None or process > PROGRESSIVE:
        return False
    pixels = decode_jpeg(stream, colours, min_height=half.height, min_width=half.width, min_factor=2)
    if pixels.shape[:2] != half:
        return False
    out[...] = pixels[: out.shape[0], : out.shape[1]]
    return True
