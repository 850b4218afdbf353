"""A source gives what a viewer shows: upright, white where zero is white, the full range of few bits; held against
Pillow and libvips.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from numpy.typing import NDArray
from oracle import pyramid
from PIL import Image, ImageOps
from reading import assert_reads_like

import slidewright
from slidewright.errors import OptionError, SourceError, VerifyError
from slidewright.inspection.verify import verify_file
from slidewright.sources.open import open_source

HEIGHT, WIDTH = 130, 205


def picture(samples: int = 3, dtype: str = "uint8") -> NDArray[Any]:
    pixels = np.random.default_rng(4).integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH, samples), dtype)
    pixels[:40, :30] = 7
    return pixels if samples > 1 else pixels[..., 0]


def by_pillow(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def by_vips(path: Path) -> NDArray[Any]:
    pixels: NDArray[Any] = pyvips.Image.tiffload(str(path)).autorot().numpy()
    return pixels


def turned(path: Path, orientation: int, **options: Any) -> Path:
    pixels = picture()
    tags = [(274, "H", 1, orientation, True)]
    resolution = {"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}
    options = {"tile": (64, 48), "photometric": "rgb", **options}
    if options.get("planarconfig") == "separate":
        pixels = pixels.transpose(2, 0, 1)
    tifffile.imwrite(path, pixels, metadata=None, extratags=tags, **resolution, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    "options",
    [{}, {"compression": "zlib"}, {"tile": None, "rowsperstrip": 7}, {"tile": None, "compression": "lzw"}],
    ids=["tiles", "deflate", "strips", "lzw strip"],
)
def test_turned_source_is_read_upright(orientation: int, options: dict[str, Any], tmp_path: Path) -> None:
    path = turned(tmp_path / "a.tif", orientation, **options)
    source, shown = open_source(path), by_vips(path)
    np.testing.assert_array_equal(shown, by_pillow(path))
    assert source.info.size == shown.shape[:2]
    assert source.info.mpp == ((0.25, 0.5) if orientation < 5 else (0.5, 0.25))
    assert_reads_like(source, shown, 48, 64, 500)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("workers", [0, 2])
def test_converted_file_is_upright_and_has_no_orientation(orientation: int, workers: int, tmp_path: Path) -> None:
    path, out = turned(tmp_path / "a.tif", orientation, compression="zlib"), tmp_path / "out.tif"
    slidewright.convert(path, out, tile_size=64, compression="deflate", n_workers=workers)
    with tifffile.TiffFile(out) as tiff:
        for page, level in zip(tiff.pages, pyramid(by_pillow(path), 64), strict=True):
            np.testing.assert_array_equal(page.asarray(), level)
            assert page.aspage().tags.valueof(274, 1) == 1
    assert verify_file(out, against=path).levels[0].exact


def test_turned_wide_strips_are_unpacked_and_turned(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (300, 30_000, 3), np.uint8)
    tags = [(274, "H", 1, 6, True)]
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        compression="zlib",
        rowsperstrip=16,
        photometric="rgb",
        extratags=tags,
        metadata=None,
    )
    with open_source(tmp_path / "a.tif").shared(str(tmp_path)) as shared:
        found = shared.open().read(29_000, 20, 100, 90, np.empty((100, 100, 3), np.uint8))
    np.testing.assert_array_equal(found, np.rot90(pixels, -1)[29_000:29_100, 20:110])


def test_corrupt_tile_of_a_turned_source_is_filled_where_it_is_shown(tmp_path: Path) -> None:
    path = turned(tmp_path / "a.tif", 6, compression="zlib")
    shown = by_pillow(path).copy()
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.dataoffsets[1]  # stored at y=0, x=48
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\x55" * 20)
    report = slidewright.convert(
        path,
        tmp_path / "out.tif",
        tile_size=64,
        compression="deflate",
        n_workers=2,
        on_corrupt="fill",
        background="red",
    )
    shown[48:96, HEIGHT - 64 :] = (255, 0, 0)
    assert report.corrupt_tiles == 1
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), shown)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize(
    "options", [{"tile": (64, 64)}, {"rowsperstrip": 9}, {"tile": (64, 64), "compression": "zlib"}], ids=str
)
def test_grey_whose_zero_is_white_is_what_viewers_show(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    path, out = tmp_path / "a.tif", tmp_path / "out.tif"
    tifffile.imwrite(path, picture(1, dtype), photometric="miniswhite", metadata=None, **options)
    shown = by_vips(path)
    if dtype == "uint8":
        np.testing.assert_array_equal(shown, by_pillow(path))
    slidewright.convert(path, out, tile_size=64, compression="deflate", n_workers=0)
    np.testing.assert_array_equal(by_vips(out), shown)
    assert verify_file(out, against=path).levels[0].exact


def test_verify_finds_a_negative(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "white.tif", picture(1), photometric="miniswhite", tile=(64, 64), metadata=None)
    tifffile.imwrite(tmp_path / "black.tif", picture(1), photometric="minisblack", tile=(64, 64), metadata=None)
    with pytest.raises(VerifyError, match="differs from the source"):
        verify_file(tmp_path / "black.tif", against=tmp_path / "white.tif")
    assert verify_file(tmp_path / "white.tif", against=255 - picture(1)).levels[0].exact


@pytest.mark.parametrize("compression", ["raw", "group4"])
def test_mask_whose_zero_is_white_is_one_where_viewers_show_white(compression: str, tmp_path: Path) -> None:
    mask = picture(1) > 99
    path, out = tmp_path / "a.tif", tmp_path / "out.tif"
    Image.fromarray(mask).save(path, compression=compression, tiffinfo={262: 0})
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages.first.photometric.name == "MINISWHITE"
    np.testing.assert_array_equal(by_pillow(path), mask)
    slidewright.convert(path, out, tile_size=64, n_workers=0)
    np.testing.assert_array_equal(tifffile.imread(out, key=0), mask)


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_few_bits_fill_the_range(bits: int, photometric: int, tmp_path: Path) -> None:
    path, out = tmp_path / "a.tif", tmp_path / "out.tif"
    few_bits(path, picture(1)[..., None] >> (8 - bits), bits, photometric)
    shown = by_vips(path)
    np.testing.assert_array_equal(shown, by_pillow(path))
    assert (shown.min(), shown.max()) == (0, 255)
    slidewright.convert(path, out, tile_size=64, compression="deflate", n_workers=0)
    np.testing.assert_array_equal(tifffile.imread(out, key=0), shown)


def few_bits(path: Path, values: NDArray[Any], bits: int, photometric: int) -> None:
    """A TIFF of one strip by hand: nobody's writer makes one of 2 bits. The last of 2 or 4 samples is alpha."""
    height, width, samples = values.shape
    rows = np.unpackbits(values.reshape(height, -1, 1), axis=2)[..., 8 - bits :].reshape(height, -1)
    packed = np.packbits(rows, axis=1)
    tags = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * samples), (259, 4, [1]), (262, 4, [photometric])]
    tags += [(273, 4, [256]), (277, 4, [samples]), (278, 4, [height]), (279, 4, [packed.size])]
    tags += [(338, 4, [2])] if samples in (2, 4) else []
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    for tag, kind, numbers in tags:
        found = struct.pack(f"<{len(numbers)}{'HI'[kind - 3]}", *numbers)
        place = found.ljust(4, b"\0") if len(found) <= 4 else struct.pack("<I", 200)
        head += struct.pack("<HHI", tag, kind, len(numbers)) + place
    sizes = struct.pack(f"<{samples}H", *[bits] * samples)
    path.write_bytes(head.ljust(200, b"\0") + sizes.ljust(56, b"\0") + packed.tobytes())


@pytest.mark.parametrize("bits", [1, 3, 4, 6])
@pytest.mark.parametrize("samples", [2, 3, 4])
@pytest.mark.parametrize("photometric", [0, 1, 2])
def test_few_bits_of_colours_fill_the_range(bits: int, samples: int, photometric: int, tmp_path: Path) -> None:
    """Which neither libvips nor Pillow reads: held against the formula; of grey with alpha only the grey is turned."""
    if (samples == 2) == (photometric == 2) or (photometric < 2 and bits in (1, 3, 6)):
        return
    path, top = tmp_path / "a.tif", (1 << bits) - 1
    values = np.random.default_rng(bits).integers(0, top + 1, (HEIGHT, 40, samples), np.uint8)
    few_bits(path, values, bits, photometric)
    shown = np.round(values * (255 / top)).astype(np.uint8)
    if samples == 2:
        grey = 255 - shown[..., :1] if photometric == 0 else shown[..., :1]
        shown = np.concatenate([grey, grey, grey, shown[..., 1:]], axis=2)
    assert_reads_like(open_source(path), shown, 48, 500)


def test_palette_of_single_bits_is_labels(tmp_path: Path) -> None:
    path, out, mask = tmp_path / "a.tif", tmp_path / "out.tif", picture(1) > 99
    palette = (320, "H", 6, (0, 65535, 32896, 0, 0, 257), True)
    tifffile.imwrite(path, mask, photometric="minisblack", extratags=[palette], metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["PhotometricInterpretation"].overwrite(3)
    slidewright.convert(path, out, tile_size=64, n_workers=0)
    np.testing.assert_array_equal(tifffile.imread(out, key=0), mask)
    with Image.open(path) as before, Image.open(out) as after:
        np.testing.assert_array_equal(after.convert("RGB"), before.convert("RGB"))


def test_largest_series_is_taken(tmp_path: Path) -> None:
    small, large = picture()[:50, :60], picture()
    for name in ("a.ome.tif", "plain.tif"):
        with tifffile.TiffWriter(tmp_path / name, ome=name == "a.ome.tif") as tiff:
            tiff.write(small, photometric="rgb")
            tiff.write(large, photometric="rgb")
        source = open_source(tmp_path / name)
        np.testing.assert_array_equal(
            source.open().read(0, 0, HEIGHT, WIDTH, np.empty_like(large)), tifffile.imread(tmp_path / name, series=1)
        )
        assert open_source(tmp_path / name, series=0).info.size == (50, 60)
        assert slidewright.info(tmp_path / name).levels[0].size == (HEIGHT, WIDTH)


def test_index_of_a_cellsens_slide_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "slide.vsi", picture(), photometric="rgb")
    with pytest.raises(SourceError, match=r"only a preview of a CellSens slide.*slideio"):
        open_source(tmp_path / "slide.vsi")
    assert open_source(tmp_path / "slide.vsi", page=0).info.size == (HEIGHT, WIDTH)
    (tmp_path / "_renamed_" / "stack1").mkdir(parents=True)
    (tmp_path / "_renamed_" / "stack1" / "frame_t.ets").touch()
    (tmp_path / "slide.vsi").rename(tmp_path / "renamed.tif")
    with pytest.raises(SourceError, match="only a preview of a CellSens slide"):
        open_source(tmp_path / "renamed.tif")
    with pytest.raises(OptionError, match="has no page 3"):
        open_source(tmp_path / "renamed.tif", page=3)


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((72, 72), "INCH", None),
        ((4000, 2000), "CENTIMETER", (2.5, 5)),
        ((250, 250), "INCH", None),
        ((1, 1), "NONE", None),
    ],
)
def test_resolution_of_a_screen_is_no_microscopes(
    resolution: tuple[int, int], unit: str, mpp: tuple[float, float] | None, tmp_path: Path
) -> None:
    path, out = tmp_path / "a.tif", tmp_path / "out.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", resolution=resolution, resolutionunit=unit, metadata=None)
    report = slidewright.convert(path, out, tile_size=64, n_workers=0)
    assert open_source(path).info.mpp == mpp
    assert ("no microscope's" in "".join(report.warnings)) == (unit == "INCH")
    with tifffile.TiffFile(out) as tiff:
        assert tiff.pages.first.resolutionunit == (3 if mpp else 1)
    slidewright.convert(path, out, tile_size=64, n_workers=0, mpp=200, overwrite=True)
    with tifffile.TiffFile(out) as tiff:
        assert tiff.pages.first.resolution == (50, 50)


def test_coarse_resolution_is_kept_where_slidewright_wrote_it(tmp_path: Path) -> None:
    slidewright.convert(picture(), tmp_path / "a.tif", tile_size=64, n_workers=0, mpp=(150, 300))
    assert slidewright.info(tmp_path / "a.tif").mpp == pytest.approx((150, 300))
    report = slidewright.convert(tmp_path / "a.tif", tmp_path / "b.ome.tif", n_workers=0)
    assert slidewright.info(tmp_path / "b.ome.tif").mpp == pytest.approx((150, 300))
    assert report.warnings == ()


def test_coarse_resolution_is_kept_where_ome_says_it(tmp_path: Path) -> None:
    size = {f"PhysicalSize{axis}": 200.0 for axis in "XY"}
    tifffile.imwrite(tmp_path / "a.ome.tif", picture(), photometric="rgb", metadata=size)
    assert open_source(tmp_path / "a.ome.tif").info.mpp == (200, 200)


@pytest.mark.parametrize(("unit", "mpp"), [("um", 0.5), ("micron", 0.5), ("\\u00B5m", 0.5), ("mm", None), ("", None)])
def test_imagejs_resolution_is_mpp(unit: str, mpp: float | None, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(1), imagej=True, resolution=(2, 2), metadata={"unit": unit} if unit else None)
    assert open_source(path).info.mpp == (None if mpp is None else (mpp, mpp))


def test_what_is_not_passed_on_is_told_in_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        options = {"photometric": "rgb", "metadata": None, "resolution": (72, 72), "resolutionunit": "INCH"}
        tiff.write(picture().astype(np.float32), extratags=[(42113, "s", 0, "-1", True)], **options)
        tiff.write(picture(1) > 9, photometric="mask", subfiletype=4, metadata=None)
    report = slidewright.convert(path, tmp_path / "out.tif", tile_size=64, n_workers=0)
    (warning,) = report.warnings
    for words in ("352.8 um a pixel", "a mask", "are red, green and blue", "the value -1 stands for no data"):
        assert words in warning
