"""Every compression with every kind of pixels through `convert`: levels are right, info and verify know the codec."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import oracle
import pages
import pytest
import tifffile
from cells import ACCEPTED, CELLS, LOSSY, check_readers
from PIL import Image

import slidewright
from slidewright.codecs import codecs_of
from slidewright.errors import OptionError
from slidewright.formats.tiff_tags import COMPRESSION
from slidewright.geometry import Size
from slidewright.inspection.info import info
from slidewright.inspection.verify import verify_file
from slidewright.sources.base import SourceInfo
from slidewright.sources.open import open_source


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("compression", codecs_of("tiff"))
def test_every_level_is_right_or_the_pixels_are_refused(compression: str, cell: str, tmp_path: Path) -> None:
    pixels, options = CELLS[cell]
    array = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    path = tmp_path / f"{compression}-{cell}.tif"  # libvips remembers files by name
    try:
        slidewright.convert(array, path, compression=compression, tile_size=64, n_workers=0, **options)
    except OptionError:
        if cell in ACCEPTED[compression]:
            raise
        assert not path.exists()
        return
    assert cell in ACCEPTED[compression]
    method = "nearest" if options.get("kind") in ("labels", "binary") or "colormap" in options else "mean"
    _check_levels(path, oracle.pyramid(pixels, 64, method), LOSSY.get(compression))
    found = info(path)
    assert {level.compression for level in found.levels} == {compression}
    check_readers(path, compression, cell, 1 if found.dtype == "bool" else 8)
    report = verify_file(path, against=open_source(array), resampling=method, n_workers=1)
    for level in report.levels:
        assert level.exact is (compression not in LOSSY)
        assert level.psnr is not None
        assert level.psnr >= LOSSY.get(compression, math.inf) - 4


def _check_levels(path: Path, wanted: list[np.ndarray], least: float | None) -> None:
    with tifffile.TiffFile(path) as tiff:
        levels = [np.asarray(page.asarray()) for page in tiff.pages]
        separate = tiff.pages.first.planarconfig == 2
    assert len(levels) == len(wanted)
    for found, pixels in zip(levels, wanted, strict=True):
        deep = np.moveaxis(found, 0, 2) if separate and found.ndim == 3 else found.reshape(pixels.shape)
        if least is None:
            np.testing.assert_array_equal(deep, pixels)
        else:
            error = ((deep.astype(float) - pixels) ** 2).mean()
            # Small levels have more detail a pixel, so a lossy codec keeps less of them.
            assert error <= np.iinfo(pixels.dtype).max ** 2 / 10 ** ((least - 4) / 10)


def test_jpeg_of_full_chroma_holds_rgb_in_every_reader(tissue: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "444.tif"
    slidewright.convert(tissue, path, subsampling="444", tile_size=256, n_workers=0)
    readers = [pages.by_tifffile, pages.by_pillow, pages.by_libvips, pages.by_openslide]
    for reader in [*readers, *([pages.by_libtiff] if pages.LIBTIFF else [])]:
        assert np.abs(reader(path).astype(int) - tissue).mean() < 3, reader.__name__
    with tifffile.TiffFile(path) as tiff:
        assert {page.photometric.name for page in tiff.pages} == {"RGB"}


@pytest.mark.parametrize("quality", [30, 75, 90])
def test_every_tile_of_lossy_jpeg2000_has_the_psnr_that_is_promised(quality: int) -> None:
    y, x = np.mgrid[:256, :256]
    wave = 200 + 20 * np.sin(x / 17) + 12 * np.cos(y / 11)
    noise = np.random.default_rng(1).normal(0, 1, (256, 256, 3))
    smooth = np.stack([wave, wave, wave], 2) + noise * 3
    blank, busy = 240 + noise, np.where((x // 3 + y // 3)[..., None] % 2, 40, 200) + noise * 9
    for tile in (smooth, blank, busy, np.where(x[..., None] < 128, blank, busy)):
        pixels = tile.clip(0, 255).astype(np.uint8)
        encoding = pages.encoding_of(pixels, compression="jpeg2000-lossy", quality=quality, tile_size=256)
        with Image.open(io.BytesIO(pages.encoded(encoding, pixels))) as image:
            error = float(((np.asarray(image).astype(float) - pixels) ** 2).mean())
        assert 10 * math.log10(255**2 / error) >= 20 + quality / 5


@pytest.mark.parametrize("compression", ["ccitt-t4", "ccitt-t6", "none", "deflate", "zstd", "lzw", "packbits"])
@pytest.mark.parametrize("size", [(64, 64), (150, 200)])
def test_single_bits_through_processes_and_other_readers(
    compression: str, size: tuple[int, int], tmp_path: Path
) -> None:
    mask = (np.indices(size).sum(0) // 9 % 3 == 0).astype(np.uint8)
    path = tmp_path / f"{compression}-{size[0]}.tif"
    slidewright.convert(mask, path, compression=compression, kind="binary", bits=1, tile_size=64, n_workers=2)
    with tifffile.TiffFile(path) as tiff:
        for page in tiff.pages:
            assert (page.bitspersample, int(page.compression)) == (1, COMPRESSION[compression])
    assert info(path).dtype == "bool"
    readers = [pages.by_tifffile, pages.by_pillow, *([pages.by_libtiff] if pages.LIBTIFF else [])]
    if compression != "zstd":  # pyvips' binary has none
        readers.append(pages.by_libvips)
    for reader in readers:
        np.testing.assert_array_equal(reader(path)[..., 0] > 0, mask > 0, err_msg=reader.__name__)


def test_verify_finds_a_changed_pixel_of_single_bits(tmp_path: Path) -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[20:40, 30:60] = 1
    slidewright.convert(mask, tmp_path / "mask.tif", compression="ccitt-t6", kind="binary", tile_size=64, n_workers=0)
    mask[21, 33] = 0
    with pytest.raises(slidewright.VerifyError, match=r"x=33, y=21: \[1\] instead of \[0\]"):
        verify_file(tmp_path / "mask.tif", against=open_source(mask), resampling="nearest")


class _Channels:
    """A source of planes that needs nothing but an array."""

    def __init__(self, pixels: np.ndarray) -> None:
        self._pixels = pixels
        size = Size(*pixels.shape[:2])
        self.info = SourceInfo("channels", "test", size, pixels.shape[2], pixels.dtype.name, kind="multichannel")

    def open(self) -> _Channels:
        return self

    def read(self, y: int, x: int, height: int, width: int, out: np.ndarray, plane: int = 0) -> np.ndarray:
        out[:] = self._pixels[y : y + height, x : x + width, plane : plane + out.shape[2]]
        return out

    def close(self) -> None:
        pass


@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
def test_verify_compares_planes(compression: str, tmp_path: Path) -> None:
    pixels = CELLS["channels"][0].copy()
    pages.write_page(
        tmp_path / "a.tif", pixels, pages.encoding_of(pixels, kind="multichannel", compression=compression)
    )
    (level,) = verify_file(tmp_path / "a.tif", against=_Channels(pixels)).levels
    assert (level.tiles, level.decoded, level.exact) == (30, 30, compression == "deflate")
    pixels[70, 80, 3] ^= 255
    if compression == "deflate":
        with pytest.raises(slidewright.VerifyError, match=r"channel 3, tile at row 1, column 1 differs .*x=80, y=70"):
            verify_file(tmp_path / "a.tif", against=_Channels(pixels))


@pytest.mark.parametrize("compression", ["webp-lossless", "jpegxl-lossless", "jpeg2000", "png"])
def test_verify_holds_lossless_streams_to_every_bit(compression: str, tmp_path: Path) -> None:
    pixels = CELLS["rgb"][0].copy()
    slidewright.convert(pixels, tmp_path / "a.tif", compression=compression, tile_size=64, n_workers=0)
    pixels[3, 4, 1] ^= 1
    with pytest.raises(slidewright.VerifyError, match="x=4, y=3"):
        verify_file(tmp_path / "a.tif", against=open_source(pixels))


@pytest.mark.parametrize("compression", ["webp", "jpeg2000", "png", "jpegxl"])
def test_image_far_larger_than_its_tile_is_refused(compression: str, tmp_path: Path) -> None:
    pixels = CELLS["rgb"][0]
    slidewright.convert(pixels, tmp_path / "a.tif", compression=compression, tile_size=64, n_workers=0)
    large = np.zeros((512, 512, 3), np.uint8)
    segment = pages.stored(pages.encoding_of(large, compression=compression, tile_size=512), large)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        offset, count = tiff.pages.first.dataoffsets[1], tiff.pages.first.databytecounts[1]
    assert len(segment) <= count
    data[offset : offset + len(segment)] = segment
    (tmp_path / "b.tif").write_bytes(data)
    with pytest.raises(slidewright.VerifyError, match=rf"row 0, column 1 holds a {compression.upper()} of 512 x 512"):
        verify_file(tmp_path / "b.tif")


@pytest.mark.parametrize("compression", ["jpeg", "webp", "jpeg2000", "png", "jpegxl"])
def test_image_of_another_shape_with_as_many_pixels_is_refused(compression: str, tmp_path: Path) -> None:
    """tifffile would lay them in rows of the tile's length, and libvips refuses it."""
    streams = []
    for shape in ((64, 64, 3), (32, 128, 3)):
        pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        encode = {"jpeg": imagecodecs.jpeg8_encode, "webp": imagecodecs.webp_encode, "png": imagecodecs.png_encode}
        more = {"jpeg2000": imagecodecs.jpeg2k_encode, "jpegxl": imagecodecs.jpegxl_encode}
        streams.append(bytes((encode | more)[compression](pixels)))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        layout: dict[str, Any] = {"shape": (64, 128, 3), "dtype": np.uint8, "tile": (64, 64), "metadata": None}
        tiff.write(iter(streams), compression=compression, photometric="rgb", **layout)
    with pytest.raises(slidewright.SourceError, match=r"row 0, column 1 holds a \w+ of 128 x 32, not of 64 x 64"):
        slidewright.convert(tmp_path / "a.tif", tmp_path / "out.tif", compression="zstd", n_workers=0)


def test_high_throughput_jpeg2000_is_told_from_the_older(tmp_path: Path) -> None:
    for name in ("htj2k", "jpeg2000"):
        slidewright.convert(CELLS["rgb"][0], tmp_path / f"{name}.tif", compression=name, tile_size=64, n_workers=0)
        assert info(tmp_path / f"{name}.tif").levels[0].compression == name
    for name in ("htj2k", "jpeg2000"):
        asked = {"compression": name, "overwrite": True, "n_workers": 0}
        report = slidewright.convert(tmp_path / "htj2k.tif", tmp_path / "out.tif", **asked)
        assert bool(report.kept_tiles) == (name == "htj2k"), report.keeping
