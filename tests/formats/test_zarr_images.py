"""OME-Zarr chunks that are images of their own: within the codec's tolerance at every level, by decoders that share no
code with the writer, and a source's tiles copied as they are.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from kept_sources import ASKED, ENDS, SOURCES, ended_otherwise, level_0, picture, segments
from oracle import pyramid

import slidewright
from slidewright.errors import CorruptTileError, OptionError, VerifyError
from slidewright.inspection.verify import verify_file

SMALL: dict[str, Any] = {"tile_size": 64, "n_workers": 0}
NAMES = {"jpeg": "jpeg", "jpeg2000": "jpeg2k", "jpeg2000-lossy": "jpeg2k", "webp": "webp", "webp-lossless": "webp"}
NAMES |= {"jpegxl": "jpegxl", "jpegxl-lossless": "jpegxl"}
DECODERS = {
    "jpeg": imagecodecs.jpeg8_decode,
    "jpeg2k": imagecodecs.jpeg2k_decode,
    "webp": imagecodecs.webp_decode,
    "jpegxl": imagecodecs.jpegxl_decode,
}
IMAGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "rgb": (picture(), {}),
    "rgba": (picture(4), {"alpha": "keep"}),
    "grey": (picture(1)[:, :, 0], {}),
    "channels": (picture(3), {"kind": "multichannel"}),
    "grey16": (picture(1, "uint16")[:, :, 0], {}),
}
CASES = [
    *((codec, "rgb") for codec in NAMES),
    *((codec, "rgba") for codec in ("jpeg2000", "webp", "webp-lossless", "jpegxl", "jpegxl-lossless")),
    *((codec, kind) for codec in NAMES for kind in ("grey", "channels") if "webp" not in codec),
    *((codec, "grey16") for codec in ("jpeg2000", "jpeg2000-lossy", "jpegxl-lossless")),
]
LOSSLESS = ("jpeg2000", "webp-lossless", "jpegxl-lossless")


def chunks(path: Path, level: int) -> dict[tuple[int, ...], bytes]:
    """The chunks of an array without shards, by place."""
    root = path / str(level) / "c"
    files = (file for file in root.rglob("*") if file.is_file())
    return {tuple(map(int, file.relative_to(root).parts)): file.read_bytes() for file in files}


def decoded(path: Path, level: int, samples: int) -> Any:
    """The pixels of such an array as (height, width, samples), by imagecodecs and what zarr.json says alone."""
    said = json.loads((path / str(level) / "zarr.json").read_text())
    (codec,) = [codec for codec in said["codecs"] if codec["name"] != "transpose"]
    decode = DECODERS[codec["name"].removeprefix("imagecodecs_")]
    height, width = said["shape"][-2:]
    out = np.full((height, width, samples), said["fill_value"], said["data_type"])
    for place, data in chunks(path, level).items():
        row, column = place[-2:]
        part = out[row * 64 :, column * 64 :][:64, :64]
        tile = np.asarray(decode(data)).reshape(64, 64, -1)
        first = place[0] if len(place) == 3 else 0
        part[..., first : first + tile.shape[2]] = tile[: part.shape[0], : part.shape[1]]
    return out


def assert_near(found: Any, wanted: Any, lossless: bool) -> None:
    if lossless:
        np.testing.assert_array_equal(found, wanted)
    else:
        peak = np.iinfo(wanted.dtype).max
        assert 10 * np.log10(peak**2 / np.mean((found.astype(float) - wanted) ** 2)) > 28


@pytest.mark.parametrize(("compression", "kind"), CASES)
def test_every_level_is_what_was_encoded(tmp_path: Path, compression: str, kind: str) -> None:
    pixels, options = IMAGES[kind]
    path = tmp_path / "out.ome.zarr"
    report = slidewright.convert(pixels, path, compression=compression, zarr_shard=0, verify=True, **SMALL, **options)
    levels = pyramid(pixels, 64, "mean")
    assert len(levels) == len(report.levels) == 4
    for number, level in enumerate(levels):
        assert_near(decoded(path, number, level.shape[2]), level, compression in LOSSLESS)
    assert f"imagecodecs_{NAMES[compression]}" in "".join(report.warnings)
    assert "few readers" in "".join(report.warnings)
    checks = verify_file(path, against=pixels, n_workers=1).levels
    assert [check.exact for check in checks] == [compression in LOSSLESS] * 4


@pytest.mark.parametrize(("compression", "kind"), CASES)
def test_zarr_with_the_codecs_of_imagecodecs_reads_every_level(tmp_path: Path, compression: str, kind: str) -> None:
    if importlib.util.find_spec("imagecodecs.zarr") is None:
        pytest.skip("this imagecodecs has no codecs for zarr v3")
    importlib.import_module("imagecodecs.zarr").register_codecs()
    pixels, options = IMAGES[kind]
    slidewright.convert(pixels, tmp_path / "out.zarr", compression=compression, zarr_shard=2, **SMALL, **options)
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    for number, level in enumerate(pyramid(pixels, 64, "mean")):
        found = np.asarray(group[str(number)])
        found = found.transpose(1, 2, 0) if found.ndim == 3 else found[..., None]
        assert_near(found, level, compression in LOSSLESS)


@pytest.mark.parametrize(("compression", "kind"), [("jpeg", "rgb"), ("jpegxl-lossless", "rgba"), ("jpeg", "channels")])
def test_it_is_a_source_again(tmp_path: Path, compression: str, kind: str) -> None:
    pixels, options = IMAGES[kind]
    slidewright.convert(pixels, tmp_path / "a.zarr", compression=compression, zarr_shard=0, **SMALL, **options)
    wanted = decoded(tmp_path / "a.zarr", 0, pixels.shape[2])
    slidewright.convert(pixels, tmp_path / "b.zarr", compression=compression, **SMALL, **options)
    slidewright.convert(tmp_path / "b.zarr", tmp_path / "back.tif", compression="zstd", **SMALL)
    found = tifffile.imread(tmp_path / "back.tif")
    np.testing.assert_array_equal(np.moveaxis(found, 0, 2) if found.shape[0] == 3 else found, wanted)


@pytest.mark.parametrize("compression", LOSSLESS)
def test_tiles_of_one_colour_are_read_and_kept(tmp_path: Path, compression: str) -> None:
    pixels = np.full((256, 256, 3), (0, 0, 128), np.uint8)
    pixels[100:] = picture()[:156, :256]
    slidewright.convert(pixels, tmp_path / "a.zarr", compression=compression, verify=True, **SMALL)
    slidewright.convert(tmp_path / "a.zarr", tmp_path / "a.tif", compression=compression, levels=1, **SMALL)
    slidewright.convert(tmp_path / "a.tif", tmp_path / "b.zarr", keep_tiles="always", verify=True, n_workers=0)
    for number, level in enumerate(pyramid(pixels, 64, "mean")):
        for name in ("a.zarr", "b.zarr"):
            found = np.asarray(zarr.open_group(tmp_path / name, mode="r")[str(number)])
            np.testing.assert_array_equal(found.transpose(1, 2, 0), level)


def test_chunks_are_the_same_bytes_for_any_number_of_workers(tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        path = tmp_path / f"{workers}.zarr"
        slidewright.convert(picture(), path, compression="jpeg", zarr_shard=0, **{**SMALL, "n_workers": workers})
        found.append([chunks(path, level) for level in range(4)])
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", [kind for kind in SOURCES if "jpeg" in kind and "endian" not in kind])
def test_jpeg_tiles_of_a_source_are_copied_and_made_whole(tmp_path: Path, kind: str) -> None:
    SOURCES[kind](tmp_path / "in.tif")
    path = tmp_path / "out.ome.zarr"
    report = slidewright.convert(tmp_path / "in.tif", path, compression="jpeg", zarr_shard=0, n_workers=0, verify=True)
    assert report.kept_tiles > 0
    assert report.keeping.startswith("kept as they are in the source")
    tiles = segments(tmp_path / "in.tif")
    found = [data for _, data in sorted(chunks(path, 0).items())]
    assert len(found) == len(tiles)
    for chunk, tile in zip(found, tiles, strict=True):
        if tile:
            assert chunk.endswith(tile[2:])
    wanted, tile = level_0(tmp_path / "in.tif"), report.levels[0]
    side = 240 if kind == "jpeg rgb" else 64
    columns = -(-wanted.shape[1] // side)
    for number, chunk in enumerate(found):  # by a decoder that is told nothing of colours
        row, column = divmod(number, columns)
        part = wanted[row * side : (row + 1) * side, column * side : (column + 1) * side]
        pixels = np.asarray(imagecodecs.jpeg8_decode(chunk)).reshape(side, side, -1)[: part.shape[0], : part.shape[1]]
        if tiles[number]:
            np.testing.assert_array_equal(pixels, part)
        else:
            np.testing.assert_allclose(pixels, part, atol=2)
    assert tile.tiles == len(tiles)


@pytest.mark.parametrize("end", ENDS)
def test_tables_may_end_otherwise(tmp_path: Path, end: str) -> None:
    SOURCES["jpeg rgb"](tmp_path / "plain.tif")
    ended_otherwise(tmp_path / "in.tif", ENDS[end])
    options: dict[str, Any] = {"compression": "jpeg", "zarr_shard": 0, "n_workers": 0, "verify": True}
    for name in ("plain", "in"):
        assert slidewright.convert(tmp_path / f"{name}.tif", tmp_path / f"{name}.zarr", **options).kept_tiles
    assert chunks(tmp_path / "in.zarr", 0) == chunks(tmp_path / "plain.zarr", 0)


@pytest.mark.parametrize("kind", ["zstd", "webp", "jpeg2000", "jpegxl"])
def test_tiles_of_other_codecs_are_copied_where_they_are_asked_for(tmp_path: Path, kind: str) -> None:
    pixels = picture()
    arguments = {"webp": {"lossless": False, "level": 80}, "jpeg2000": {"level": 0}, "jpegxl": {"distance": 1.0}}
    more = {"compressionargs": arguments[kind]} if kind in arguments else {}
    tifffile.imwrite(
        tmp_path / "in.tif", pixels, tile=(64, 64), metadata=None, photometric="rgb", compression=kind, **more
    )
    path = tmp_path / "out.ome.zarr"
    slidewright.convert(tmp_path / "in.tif", path, compression=kind, zarr_shard=0, n_workers=0)
    assert [data for _, data in sorted(chunks(path, 0).items())] == segments(tmp_path / "in.tif")
    slidewright.convert(path, tmp_path / "back.tif", compression="lzw", n_workers=0)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "back.tif"), level_0(tmp_path / "in.tif"))


def test_jpeg_tiles_are_encoded_anew_where_nothing_else_was_asked_for(tmp_path: Path) -> None:
    SOURCES["jpeg 420"](tmp_path / "in.tif")
    report = slidewright.convert(tmp_path / "in.tif", tmp_path / "out.zarr", n_workers=0)
    assert report.kept_tiles == 0
    assert report.warnings == ()
    assert "not every reader shows jpeg" in report.keeping
    found = np.asarray(zarr.open_group(tmp_path / "out.zarr", mode="r")["0"])
    np.testing.assert_array_equal(found.transpose(1, 2, 0), level_0(tmp_path / "in.tif"))


def test_what_a_predictor_was_applied_to_is_not_copied(tmp_path: Path) -> None:
    ASKED["zstd"](tmp_path / "in.tif")
    report = slidewright.convert(tmp_path / "in.tif", tmp_path / "out.zarr", compression="zstd", n_workers=0)
    assert report.kept_tiles == 0
    assert "predictor" in report.keeping


def test_ngff_0_4_refuses_them(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"needs NGFF 0\.5"):
        slidewright.convert(picture(), tmp_path / "out.zarr", ngff="0.4", compression="jpeg", **SMALL)


def test_a_chunk_of_another_size_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    slidewright.convert(picture(), path, compression="jpeg", zarr_shard=0, **SMALL)
    (path / "0/c/0/1/1").write_bytes(imagecodecs.jpeg8_encode(picture(), 90))
    with pytest.raises(VerifyError, match="image of 410 x 300, not of 64 x 64"):
        verify_file(path)
    with pytest.raises(CorruptTileError, match="image of 410 x 300"):
        slidewright.convert(path, tmp_path / "back.tif", n_workers=0)


def test_kept_tiles_are_the_same_by_every_way(tmp_path: Path) -> None:
    SOURCES["jpeg rgb"](tmp_path / "in.tif")
    options: dict[str, Any] = {"compression": "jpeg", "n_workers": 0}
    slidewright.convert(tmp_path / "in.tif", tmp_path / "a.zarr", zarr_shard=0, **options)
    for index in (1, 0):
        slidewright.shard(
            tmp_path / "in.tif", tmp_path / "parts", index=index, count=2, format="ome-zarr", zarr_shard=0, **options
        )
    slidewright.assemble(tmp_path / "parts", tmp_path / "b.zarr", n_workers=0)
    for level in range(2):
        assert chunks(tmp_path / "a.zarr", level) == chunks(tmp_path / "b.zarr", level)


def test_a_kept_tile_that_does_not_decode_is_copied_with_a_warning(tmp_path: Path) -> None:
    SOURCES["jpeg 420"](tmp_path / "in.tif")
    with tifffile.TiffFile(tmp_path / "in.tif") as tiff:
        offset, count = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    data = bytearray((tmp_path / "in.tif").read_bytes())
    data[offset + count // 2 : offset + count] = bytes(count - count // 2)
    (tmp_path / "in.tif").write_bytes(data)
    report = slidewright.convert(
        tmp_path / "in.tif", tmp_path / "out.zarr", compression="jpeg", zarr_shard=0, n_workers=0
    )
    assert report.corrupt_tiles == 1
    assert "kept as it is" in "".join(report.warnings)
    assert chunks(tmp_path / "out.zarr", 0)[0, 0, 0].endswith(segments(tmp_path / "in.tif")[0][2:])
