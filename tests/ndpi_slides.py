"""Small slides as Hamamatsu writes them: each level one JPEG with restart markers, and a tag of where stripes are."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from kept_sources import picture
from numpy.typing import NDArray
from PIL import Image

STRIPE = 256
ASCII, SHORT, LONG, RATIONAL, FLOAT, SLONG = 2, 3, 4, 5, 11, 9
_CHROMA = {"444": (0, 8, 8), "422": (1, 16, 8), "420": (2, 16, 16)}


def restarted(pixels: NDArray[Any], chroma: str, stripe: int = STRIPE) -> bytes:
    """A JPEG with a restart marker each `stripe` pixels of a row of MCUs."""
    subsampling, width, _ = _CHROMA[chroma]
    out, shown = io.BytesIO(), pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    width = 8 if pixels.shape[2] == 1 else width
    more = {} if pixels.shape[2] == 1 else {"subsampling": subsampling}
    Image.fromarray(shown).save(out, "JPEG", quality=90, restart_marker_blocks=stripe // width, **more)
    return out.getvalue()


def stripe_starts(jpeg: bytes) -> list[int]:
    """Where the coded bits of each stripe begin."""
    at = 2
    while jpeg[at + 1] != 0xDA:
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    starts = [at + 2 + int.from_bytes(jpeg[at + 2 : at + 4])]
    data = np.frombuffer(jpeg, np.uint8)
    found = np.flatnonzero((data[:-1] == 0xFF) & (data[1:] & 0xF8 == 0xD0)) + 2
    return [*starts, *(int(place) for place in found if place > starts[0])]


def slide(path: Path, chroma: str = "422", samples: int = 3, jpeg: bytes | None = None) -> Path:
    """Two levels and a macro image; `jpeg` stands in for the largest level."""
    pixels = picture(samples, height=304, width=3 * STRIPE)
    first = restarted(pixels, chroma) if jpeg is None else jpeg
    half = restarted(np.ascontiguousarray(pixels[::2, ::2]), chroma, STRIPE // 2)
    macro = restarted(picture(height=80, width=160), chroma, 32)
    write(path, [(first, 20.0, True), (half, 10.0, True), (macro, -1.0, False)], samples)
    return path


def write(path: Path, images: list[tuple[bytes, float, bool]], samples: int = 3, depths: Sequence[int] = ()) -> None:
    """(JPEG, magnification, whether McuStarts names its stripes) of each directory, and its focal plane."""
    data = bytearray(struct.pack("<2sHQ", b"II", 42, 0))
    link = 4
    for number, (jpeg, magnification, striped) in enumerate(images):
        samples_here = samples if magnification > 0 else 3
        height, width = Image.open(io.BytesIO(jpeg)).size[::-1]
        offset = len(data)
        data += jpeg
        starts = stripe_starts(jpeg) if striped else []
        tags: list[tuple[int, int, Any]] = [
            (256, LONG, [width]), (257, LONG, [height]), (258, SHORT, [8] * samples_here), (259, SHORT, [7]),
            (262, SHORT, [6 if samples_here == 3 else 1]), (271, ASCII, b"Hamamatsu\0"), (272, ASCII, b"C13210\0"),
            (273, LONG, [offset]), (277, SHORT, [samples_here]), (278, LONG, [height]), (279, LONG, [len(jpeg)]),
            (282, RATIONAL, [(int(40_000 * abs(magnification) / 20), 1)]),
            (283, RATIONAL, [(int(40_000 * abs(magnification) / 20), 1)]),
            (296, SHORT, [3]), (305, ASCII, b"NDP.scan\0"), (306, ASCII, b"2024:01:02 03:04:05\0"), (65420, LONG, [1]),
            (65421, FLOAT, [magnification]), (65422, SLONG, [0]), (65423, SLONG, [0]),
            (65424, SLONG, [depths[number] if depths else 0]),
            *([(65426, LONG, starts)] if starts else []), (65427, ASCII, b"CASE 4711\0"),
        ]  # fmt: skip
        link = _directory(data, link, tags)
    path.write_bytes(data)


def _directory(data: bytearray, link: int, tags: list[tuple[int, int, Any]]) -> int:
    """Append a directory, to which the 8 bytes at `link` then lead; the answer is where the next link is."""
    entries = b""
    for code, kind, values in tags:
        if kind == ASCII:
            packed, count = values, len(values)
        elif kind == RATIONAL:
            packed, count = b"".join(struct.pack("<II", *value) for value in values), len(values)
        else:
            letter = {SHORT: "H", LONG: "I", FLOAT: "f", SLONG: "i"}[kind]
            packed, count = struct.pack(f"<{len(values)}{letter}", *values), len(values)
        if len(packed) > 4:
            data += bytes(len(data) % 2)
            packed, place = struct.pack("<I", len(data)), packed
            data += place
        entries += struct.pack("<HHI", code, kind, count) + packed.ljust(4, b"\0")
    data += bytes(len(data) % 2)
    data[link : link + 8] = struct.pack("<Q", len(data))
    data += struct.pack("<H", len(tags)) + entries + bytes(8) + bytes(4 * len(tags))
    return len(data) - 8 - 4 * len(tags)
