"""Streams of JPEG 2000 that claim more work than their bytes can be."""

from __future__ import annotations

import io
import itertools
import struct
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from kept_sources import aperio_jpeg2000
from PIL import Image

import slidewright
from slidewright.cli.main import main
from slidewright.tiff import jpeg2000
from slidewright.tiff.jpeg2000 import too_much

SOT, SOD, EOC = b"\xff\x90", b"\xff\x93", b"\xff\xd9"
MANY, SMALL = 65_535, 2  # layers, and the exponent of the sides of precincts


def segment(marker: bytes, body: bytes) -> bytes:
    return marker + struct.pack(">H", len(body) + 2) + body


def size(side: int) -> bytes:
    return segment(b"\xff\x51", struct.pack(">H8IH", 0, side, side, 0, 0, side, side, 0, 0, 1) + b"\x07\x01\x01")


def cod(layers: int, exponent: int) -> bytes:
    return segment(b"\xff\x52", b"\x01" + struct.pack(">BHB", 0, layers, 0) + style(exponent))


def style(exponent: int) -> bytes:
    """Levels, sides of blocks, their kind, the wavelet and precincts."""
    return bytes([5, 2, 2, 0, 1]) + bytes([exponent | exponent << 4]) * 6


def part(own: bytes = b"") -> bytes:
    body = bytes(200)
    return segment(SOT, struct.pack(">HIBB", 0, 14 + len(own) + len(body), 0, 1)) + own + SOD + body


def stream(header: bytes, own: bytes = b"", side: int = 256) -> bytes:
    quantisation = segment(b"\xff\x5c", b"\x40" + bytes([64]) * 16)
    return b"\xff\x4f" + size(side) + header + quantisation + part(own) + EOC


def boxed(code: bytes) -> bytes:
    """In a file that has another stream in a box before."""

    def box(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content) + 8) + kind + content

    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 " + bytes(4) + b"jp2 ")
    header = box(b"ihdr", struct.pack(">IIHBBBB", 256, 256, 1, 7, 7, 0, 0))
    header += box(b"colr", b"\1\0\0" + struct.pack(">I", 17))
    return start + box(b"uuid", bytes(16) + stream(cod(1, 15))) + box(b"jp2h", header) + box(b"jp2c", code)


def many_kinds() -> bytes:
    """Components of sixteen kinds, and then those that cost."""
    code = stream(cod(100, 1))
    kinds = b"".join(bytes([7, 255, 240 - n]) for n in range(16)) + b"\x07\x01\x01" * 30
    header = code[6:40] + struct.pack(">H", 46) + kinds
    return code[:4] + struct.pack(">H", len(header) + 2) + header + code[45:]


LAYERS, PACKETS = "claims 65535 layers", "claims more than 65536 packets"
CLAIMS = {
    "layers": (stream(cod(MANY, SMALL)), LAYERS),
    "layers without precincts": (stream(cod(MANY, 15)), LAYERS),
    "precincts": (stream(cod(100, 1)), PACKETS),
    "precincts of a component": (stream(cod(100, 15) + segment(b"\xff\x53", b"\x00\x01" + style(1))), PACKETS),
    "a second style": (
        stream(cod(1, 15) + segment(b"\xff\x53", b"\x00\x01" + style(15)) + cod(MANY, SMALL)),
        LAYERS,
    ),
    "a tile part": (stream(cod(1, 15), own=cod(MANY, SMALL)), LAYERS),
    "precincts of a tile part": (stream(cod(1, 15), own=cod(100, 1)), PACKETS),
    "an unknown marker": (stream(b"\xff\x70" + cod(MANY, SMALL)), "marker 0xff70 that is not known"),
    "components": (many_kinds(), "its components are sampled in 17 ways"),
    "a box before": (boxed(stream(cod(MANY, SMALL))), LAYERS),
}
"""Streams of some 300 bytes that are gone over for minutes, and what is said of them."""


@pytest.mark.parametrize("what", CLAIMS)
def test_stream_that_claims_more_than_its_bytes_can_hold_is_known(what: str) -> None:
    code, said = CLAIMS[what]
    assert said in too_much(code)


def test_look_at_a_stream_takes_steps_as_its_length_lets_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    """What begins a tile part, in each of many comments, led from each through all the rest; and each of many styles
    was counted for each kind of component anew, tile by tile.
    """
    numbers, look = [], jpeg2000._int
    monkeypatch.setattr(jpeg2000, "_int", lambda *given: numbers.append(given) or look(*given))
    comments = segment(b"\xff\x64", SOT + b"\x00\x0a" + bytes(8)) * 1000
    assert too_much(stream(cod(1, 15) + comments)) == ""
    assert len(numbers) < 10_000
    kinds = b"".join(bytes([7, 255 - n, 255 - n]) for n in range(16))
    sides = struct.pack(">8IH", 1024, 1024, 0, 0, 1, 1, 0, 0, 16) + kinds
    finest = [bytes([32, 4, 4, 0, 1, 0xFF - n % 15]) + b"\xff" * 32 for n in range(30)]
    styles = b"".join(segment(b"\xff\x53", b"\x00\x01" + each) for each in finest)
    header = segment(b"\xff\x51", bytes(2) + sides) + segment(b"\xff\x52", b"\x01\x00\x00\x01\x00" + finest[0])
    made, pieces = [], jpeg2000._Pieces
    monkeypatch.setattr(jpeg2000, "_Pieces", lambda *given: made.append(pieces(*given)) or made[-1])
    assert too_much(b"\xff\x4f" + header + styles + part() + EOC) == ""
    assert 16 * 33 * 2 <= len(made[0]._known) <= 16 * (33 + 15) * 2


def test_headers_that_lie_in_one_another_are_refused() -> None:
    begin = SOT + b"\x00\x0a" + bytes(8) + b"\xff\x64\xff\x00"
    assert too_much(stream(cod(1, 15) + segment(b"\xff\x64", begin * 2000))) == "its headers lie in one another"


def test_stream_of_the_same_form_that_claims_little_is_read() -> None:
    for code in (stream(cod(1, 15)), boxed(stream(cod(1, 15))), stream(cod(100, 8), own=cod(3, 7))):
        assert too_much(code) == ""


def test_precincts_that_halve_with_the_resolution_are_few() -> None:
    """As OpenJPEG and Kakadu write them, also of components that have styles of their own."""
    whole = cod(12, 8)
    halved = bytes([0x33, 0x44, 0x55, 0x66, 0x77, 0x88])
    first = whole[:-6] + halved
    other = segment(b"\xff\x53", b"\x00\x01" + bytes([4, 2, 2, 0, 1]) + halved[1:])
    assert too_much(stream(first, side=3000)) == too_much(stream(first + other, side=3000)) == ""
    assert PACKETS in too_much(stream(whole[:-6] + bytes([0x33]) * 6, side=3000))


WAYS: list[dict[str, Any]] = [
    {},
    {"quality_layers": [100, 50, 20, 5, 2]},
    {"quality_layers": list(range(30, 1, -3)), "precinct_size": (32, 32), "codeblock_size": (4, 4)},
    {"tile_size": (64, 48), "precinct_size": (64, 64), "codeblock_size": (16, 16)},
    {"tile_size": (8, 7)},
    {"irreversible": True, "num_resolutions": 1, "progression": "CPRL"},
]


@pytest.mark.parametrize(("way", "flat"), list(itertools.product(range(len(WAYS)), [False, True])))
def test_streams_of_encoders_are_not(way: int, flat: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slidewright.tiff.jpeg2000._FEW", 0)
    rng = np.random.default_rng(way)
    for shape in ((300, 211, 3), (1, 1, 3), (65, 130, 3)):
        pixels = np.full(shape, 200, np.uint8) if flat else rng.integers(0, 255, shape, np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG2000", **WAYS[way])
        assert too_much(file.getvalue()) == ""
    assert too_much(bytes(imagecodecs.htj2k_encode(rng.integers(0, 255, (99, 77, 3), np.uint8)))) == ""


def test_no_stream_at_all_is_left_to_the_decoder() -> None:
    whole = stream(cod(MANY, SMALL))
    for length in range(len(whole) - 200):
        assert isinstance(too_much(whole[:length]), str)
    assert too_much(b"") == ""


def in_tiff(path: Path, code: bytes) -> None:
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"shape": (256, 256), "dtype": np.uint8, "tile": (256, 256), "metadata": None}
        tiff.write(iter([code]), compression="jpeg2000", photometric="minisblack", **options)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["tiff", "j2k", "zarr"])
def test_source_of_such_streams_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    """OpenJPEG goes over them for minutes."""
    source, code = tmp_path / f"s.{kind}", stream(cod(MANY, SMALL))
    if kind == "tiff":
        in_tiff(source, code)
    elif kind == "j2k":
        source.write_bytes(code)
    else:
        from imagecodecs.numcodecs import Jpeg2k

        sides: dict[str, Any] = {"shape": (256, 256), "chunks": (256, 256), "zarr_format": 2}
        array = zarr.create_array(source, dtype="u1", compressors=Jpeg2k(), **sides)
        array[...] = 5
        (source / "0.0").write_bytes(code)
    with pytest.raises(slidewright.SourceError, match=f"{LAYERS}|no tile of the source decodes"):
        slidewright.convert(source, tmp_path / "o.tif", n_workers=0, compression="jpeg")
    if kind == "tiff":
        assert main(["verify", str(source)]) == 1


def test_aperios_number_for_it_is_checked_as_well(tmp_path: Path) -> None:
    source = tmp_path / "s.tif"
    aperio_jpeg2000(source)
    slidewright.convert(source, tmp_path / "o.tif", n_workers=0, compression="zstd")
    assert (tifffile.imread(tmp_path / "o.tif") == tifffile.imread(source)).all()
    with tifffile.TiffFile(source, mode="r+") as tiff:
        counts = tiff.pages.first.tags["TileByteCounts"]
        counts.overwrite([counts.value[0] // 2, *counts.value[1:]])
    with pytest.raises(slidewright.SourceError, match="is a JPEG 2000 without an end"):
        slidewright.convert(source, tmp_path / "p.tif", n_workers=0, compression="zstd")
