"""Zarr chunks in the codecs that imagecodecs registers, in zarr v2 and v3; none decodes to more than its chunk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs.numcodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from reading import assert_reads_like

from slidewright.errors import CorruptTileError, SourceError
from slidewright.sources.open import open_source

BYTES = (
    "blosc", "blosc2", "brotli", "bz2", "deflate", "lz4", "lz4f", "lz4h5", "lzf", "lzma", "lzw", "packbits", "snappy",
    "zlib", "zlibng", "zstd",
)  # fmt: skip; zopfli takes seconds to encode, and decodes as zlib does
IMAGES = ("apng", "htj2k", "jpeg", "jpeg2k", "jpegls", "jpegxl", "jpegxr", "lerc", "png", "webp")
Y, X = np.mgrid[:90, :130]
RGB = np.stack([X, Y * 2, X ^ Y], 2).astype(np.uint8)
DEEP = (X * 300 + Y).astype(np.uint16)


def store(path: Path, name: str, pixels: NDArray[Any], zarr_format: Any, rows: int = 48) -> NDArray[Any]:
    """Write the pixels in chunks of that codec, and give what zarr reads of them."""
    arguments: dict[str, Any] = {"chunks": (rows, 64, *pixels.shape[2:]), "zarr_format": zarr_format}
    if zarr_format == 2:
        imagecodecs.numcodecs.register_codecs([f"imagecodecs_{name}"], verbose=False)
        arguments["compressors"] = numcodecs.get_codec({"id": f"imagecodecs_{name}"})
    else:
        codecs = pytest.importorskip("imagecodecs.zarr", reason="imagecodecs before 2026.5.10 has none for zarr v3")
        codecs.register_codecs([name], verbose=False)
        arguments["serializer" if name in IMAGES else "compressors"] = codecs._CODEC_CLASSES[name]()
        arguments.setdefault("compressors", None)
    array = zarr.create_array(path, shape=pixels.shape, dtype=pixels.dtype, **arguments)
    array[...] = pixels
    return np.asarray(zarr.open_array(path, mode="r")[...])


@pytest.mark.filterwarnings("ignore:.*Zarr format 3 specification")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", [*BYTES, *IMAGES])
def test_chunks_are_what_zarr_reads(name: str, zarr_format: int, tmp_path: Path) -> None:
    for index, pixels in enumerate((RGB, DEEP)):
        if pixels is DEEP and name in ("jpeg", "webp"):
            continue
        shown = store(tmp_path / f"{index}.zarr", name, pixels, zarr_format)
        assert np.abs(shown.astype(int) - pixels).mean() < 6  # chroma may be halved
        assert_reads_like(open_source(tmp_path / f"{index}.zarr"), shown, 40, 200)


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:.*Zarr format 3 specification")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ["htj2k", "jpegls", "lerc", "png"])
def test_chunks_of_one_row_are_what_zarr_reads(name: str, zarr_format: int, tmp_path: Path) -> None:
    shown = store(tmp_path / "in.zarr", name, DEEP[:4], zarr_format, rows=1)
    assert_reads_like(open_source(tmp_path / "in.zarr"), shown, 2, 100)


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore:.*Zarr format 3 specification")
@pytest.mark.parametrize("name", ["png", "zstd"])
def test_program_may_know_those_of_zarr_v3_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {key: codec for key, codec in numcodecs.registry.codec_registry.items() if "imagecodecs" not in key}
    monkeypatch.setattr(numcodecs.registry, "codec_registry", known)
    store(tmp_path / "in.zarr", name, RGB, 3)
    assert_reads_like(open_source(tmp_path / "in.zarr"), RGB, 40, 200)


def test_command_line_knows_them_in_its_workers(tmp_path: Path) -> None:
    shown = store(tmp_path / "in.zarr", "jpeg", RGB, 2)
    arguments = ["convert", "in.zarr", "out.tif", "--compression", "lzw", "--workers", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "slidewright", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), shown)


@pytest.mark.filterwarnings("ignore:.*Zarr format 3 specification")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", [*BYTES, *IMAGES])
def test_chunk_that_holds_more_than_its_pixels_is_refused(name: str, zarr_format: int, tmp_path: Path) -> None:
    store(tmp_path / "in.zarr", name, RGB, zarr_format)
    big = np.zeros((300, 400, 3), np.uint8)
    codec = numcodecs.get_codec({"id": f"imagecodecs_{name}"})
    place = "0.0.0" if zarr_format == 2 else "c/0/0/0"
    (tmp_path / "in.zarr" / place).write_bytes(bytes(codec.encode(big)))
    with pytest.raises(CorruptTileError, match="row 0, column 0 can't be read"):
        open_source(tmp_path / "in.zarr").open().read(0, 0, 48, 64, np.empty((48, 64, 3), np.uint8))


@pytest.mark.parametrize("name", ["imagecodecs_delta", "imagecodecs_tiff", "pickle"])
def test_codec_that_is_not_run_is_named(name: str, tmp_path: Path) -> None:
    store(tmp_path / "in.zarr", "zlib", RGB, 2)
    metadata = tmp_path / "in.zarr" / ".zarray"
    text = metadata.read_text().replace("imagecodecs_zlib", name)
    metadata.write_text(text.replace('"level": null', '"protocol": 5'))
    with pytest.raises(SourceError, match=name):
        open_source(tmp_path / "in.zarr")


def test_codec_that_nobody_has_is_no_damage(tmp_path: Path) -> None:
    store(tmp_path / "in.zarr", "zlib", RGB, 2)
    metadata = tmp_path / "in.zarr" / ".zarray"
    metadata.write_text(metadata.read_text().replace("imagecodecs_zlib", "acme"))
    with pytest.raises(SourceError, match=r"'acme'.*save it again"):
        open_source(tmp_path / "in.zarr")
