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
from slidewright.tiff.jpeg2000 import too_many_packets

SOT, SOD, EOC = b"\xff\x90", b"\xff\x93", b"\xff\xd9"
MANY, SMALL = 65_535, 2  # layers, and the exponent of the sides of precincts


def segment(marker: bytes, body: bytes) -> bytes:
    return marker + struct.pack(">H", len(body) + 2) + body


def style(exponent: int) -> bytes:
    """Levels, sides of blocks, their kind, the wavelet and precincts."""
    return bytes([5, 2, 2, 0, 1]) + bytes([exponent | exponent << 4]) * 6


def claims(where: str, side: int = 256) -> bytes:
    """A stream of 300 bytes whose layers and precincts make 357 million packets, as `where` says."""
    main_style, main_layers = (style(SMALL), MANY) if where == "main" else (style(15), MANY if where == "coc" else 1)
    size = struct.pack(">H8IH", 0, side, side, 0, 0, side, side, 0, 0, 1) + b"\x07\x01\x01"
    code = b"\xff\x4f" + segment(b"\xff\x51", size)
    code += segment(b"\xff\x52", b"\x01" + struct.pack(">BHB", 0, main_layers, 0) + main_style)
    if where == "coc":
        code += segment(b"\xff\x53", b"\x00\x01" + style(SMALL))
    code += segment(b"\xff\x5c", b"\x40" + bytes([64]) * 16)
    own = segment(b"\xff\x52", b"\x01" + struct.pack(">BHB", 0, MANY, 0) + style(SMALL)) if where == "tile" else b""
    body = bytes(200)
    part = segment(SOT, struct.pack(">HIBB", 0, 14 + len(own) + len(body), 0, 1)) + own + SOD + body
    return code + part + EOC


@pytest.mark.parametrize("where", ["main", "coc", "tile"])
def test_stream_of_more_packets_than_bytes_is_known(where: str) -> None:
    assert "claims more than 65536 packets" in too_many_packets(claims(where))


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
        assert too_many_packets(file.getvalue()) == ""
    assert too_many_packets(bytes(imagecodecs.htj2k_encode(rng.integers(0, 255, (99, 77, 3), np.uint8)))) == ""


def test_no_stream_at_all_is_left_to_the_decoder() -> None:
    whole = claims("main")
    for length in range(len(whole) - 200):
        assert isinstance(too_many_packets(whole[:length]), str)
    assert too_many_packets(b"") == ""


def in_tiff(path: Path, code: bytes) -> None:
    with tifffile.TiffWriter(path) as tiff:
        options: dict[str, Any] = {"shape": (256, 256), "dtype": np.uint8, "tile": (256, 256), "metadata": None}
        tiff.write(iter([code]), compression="jpeg2000", photometric="minisblack", **options)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["tiff", "j2k", "zarr"])
def test_source_of_such_streams_is_an_error_at_once(tmp_path: Path, kind: str) -> None:
    """OpenJPEG goes over them for minutes."""
    source, code = tmp_path / f"s.{kind}", claims("main")
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
    with pytest.raises(slidewright.SourceError, match=r"claims more than 65536 packets|no tile of the source decodes"):
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
