"""Tiles that are whole JPEGs, of DICOM and NDPI: decoded straight into the caller's memory, and refused when a stream
lies about its size or ends early.

Apart from the formats because both need it; a TIFF's own tiles, which may share tables, are decoded in `tiff/`.
"""

from __future__ import annotations

from slidewright.errors import CorruptTileError
from slidewright.geometry import Size
from slidewright.sources.base import Pixels
from slidewright.system.interrupts import let_through
from slidewright.tiff.half_jpeg import decode_half_jpeg
from slidewright.tiff.jpeg_header import is_damaged
from slidewright.tiff.jpeg_holes import has_hole
from slidewright.tiff.stream_headers import look


def decode_jpeg(data: bytes, out: Pixels, colours: str, where: str) -> None:
    """Decode a JPEG of the size of `out`, (height, width, 1 or 3), whose components are `colours` whatever it says.

    Raises
    ------
    CorruptTileError
        When it does not decode; the message begins with `where`.
    """
    from imagecodecs import jpeg8_decode

    check(data, Size(*out.shape[:2]), where)
    space = {"rgb": ("rgb", "rgb"), "ycbcr": ("ycbcr", "rgb")}.get(colours, (None, None))
    target = out if out.shape[2] > 1 else out[:, :, 0]
    try:
        jpeg8_decode(data, colorspace=space[0], outcolorspace=space[1], out=target)
    except MemoryError:
        raise
    except Exception as error:
        let_through(error)
        raise corrupt(where, error) from error


def halve_jpeg(data: bytes, out: Pixels, cell: Size, colours: str, where: str) -> bool:
    """Decode a JPEG of `cell` pixels at half its size, see `Reader.halved`."""
    check(data, cell, where)
    try:
        return decode_half_jpeg(data, out, cell, tables=None, as_rgb=colours == "rgb")
    except MemoryError:
        raise
    except Exception as error:
        let_through(error)
        raise corrupt(where, error) from error


def check(data: bytes, cell: Size, where: str) -> None:
    """Refuse a JPEG without an end or with a hole, of which libjpeg would make something, and one of another size."""
    if data.rfind(b"\xff\xd9") < 0:
        raise CorruptTileError(f"{where} is a JPEG without an end; copy the file again")
    if is_damaged(data):
        raise corrupt(where, "its JPEG header is damaged")
    if has_hole(data, cell):
        raise CorruptTileError(f"{where} is a JPEG with zeros in the place of a part; copy the file again")
    size = look("jpeg", data).size
    if size != cell:
        raise CorruptTileError(f"{where} holds a JPEG of {size}, not of {cell}; the file is damaged")


def corrupt(where: str, error: object) -> CorruptTileError:
    """The error about a tile that does not decode."""
    return CorruptTileError(f"{where} does not decode: {error}; the file is damaged, copy it again")
