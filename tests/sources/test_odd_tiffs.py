"""TIFFs as some programs write them, that others show: each is read as Pillow, libvips or tifffile shows it, or refused
for what it is.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import pyvips
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image
from reading import assert_reads_like

import slidewright
from slidewright.cli.main import main
from slidewright.errors import CorruptTileError, OptionError, SourceError
from slidewright.sources.open import open_source

Y, X = np.mgrid[:90, :130]
RGB = np.stack([X, Y * 2, (X + Y) % 256], 2).astype(np.uint8)
GREY = RGB[..., 2]


def by_pillow(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def retag(path: Path, **values: Any) -> None:
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name, value in values.items():
            tiff.pages.first.tags[name].overwrite(value)


def test_jpeg_of_four_samples_is_rgb_with_alpha(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", np.dstack([RGB, GREY])
    data = bytes(imagecodecs.jpeg8_encode(np.pad(pixels, ((0, 6), (0, 14), (0, 0))), level=95))
    options: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unassalpha"], "metadata": None}
    tifffile.imwrite(path, iter([data]), shape=pixels.shape, dtype="uint8", tile=(96, 144), compression=7, **options)
    retag(path, PhotometricInterpretation=2)
    shown = by_pillow(path)
    assert np.abs(shown.astype(int) - pixels).mean() < 4
    assert_reads_like(open_source(path), shown, 48, 500)
    assert open_source(path).info.kind == "rgba"
    slidewright.convert(path, tmp_path / "out.tif", tile_size=64, n_workers=0)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), shown)


def test_deflated_strip_may_go_on_beyond_its_rows(tmp_path: Path) -> None:
    path, padded = tmp_path / "a.tif", np.pad(GREY, ((0, 6), (0, 0)))
    strips = [zlib.compress(padded[y : y + 16].tobytes()) for y in range(0, 96, 16)]
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "rowsperstrip": 16}
    tifffile.imwrite(path, iter(strips), shape=GREY.shape, dtype="uint8", compression="zlib", **options)
    np.testing.assert_array_equal(by_pillow(path), GREY)
    assert_reads_like(open_source(path), GREY, 32, 500)


@pytest.mark.parametrize("damage", ["none", "its end", "its checksum"])
def test_deflated_strip_that_goes_on_is_whole(damage: str, tmp_path: Path) -> None:
    """What only goes on because its end is damaged has other pixels."""
    path, padded = tmp_path / "a.tif", np.pad(GREY, ((0, 6), (0, 0)))
    strips = [bytearray(zlib.compress(padded[y : y + 16].tobytes(), 0)) for y in range(0, 96, 16)]
    if damage == "its end":
        strips[-1][-40:] = bytes(40)
    if damage == "its checksum":
        strips[-1][-1] ^= 1
    options: dict[str, Any] = {"photometric": "minisblack", "metadata": None, "rowsperstrip": 16}
    tifffile.imwrite(path, map(bytes, strips), shape=GREY.shape, dtype="uint8", compression="zlib", **options)
    if damage == "none":
        assert_reads_like(open_source(path), GREY, 32, 500)
        return
    with pytest.raises(CorruptTileError, match="strip 5 does not decode"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize(("compression", "photometric"), [("webp", 8), ("png", 8), ("png", 0), ("zlib", 0), (None, 0)])
def test_colours_that_pixels_can_not_have_are_refused(
    compression: str | None, photometric: int, tmp_path: Path
) -> None:
    """No WebP or PNG is in CIE L*a*b*; and where 0 is white there is one sample, or ExtraSamples says what the others
    are.
    """
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None, tile=(64, 64), compression=compression)
    retag(path, PhotometricInterpretation=photometric)
    with pytest.raises(SourceError, match=r"cielab samples|in which 0 is white; the file is damaged"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


def test_samples_where_0_is_white_are_read_where_extrasamples_names_them(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="miniswhite", metadata=None, planarconfig="contig")
    slidewright.convert(path, tmp_path / "out.tif", n_workers=0, compression="zstd")
    found = tifffile.imread(tmp_path / "out.tif", key=0)
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1) if found.shape[0] == 3 else found, 255 - RGB)


STACKS = {
    "planar": ({"photometric": "rgb", "planarconfig": "separate"}, (4, 3, 40, 60)),
    "inks": ({"photometric": "separated"}, (4, 40, 60, 4)),
    "alpha": ({"photometric": "rgb", "extrasamples": ["assocalpha"]}, (4, 40, 60, 4)),
    "grey and alpha": ({"photometric": "minisblack", "extrasamples": ["unassalpha"]}, (4, 40, 60, 2)),
    "rgb": ({"photometric": "rgb"}, (4, 40, 60, 3)),
    "grey": ({"photometric": "minisblack"}, (4, 40, 60)),
    "white is 0": ({"photometric": "miniswhite"}, (4, 40, 60)),
    "half floats": ({"photometric": "minisblack"}, (4, 40, 60)),
}


@pytest.mark.parametrize("kind", STACKS)
def test_images_of_a_stack_that_lie_behind_one_page(kind: str, tmp_path: Path) -> None:
    """Planes were read as pixels, and of colours that are converted each image was the first."""
    how, shape = STACKS[kind]
    pixels = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
    pixels = pixels.astype(np.float16) if kind == "half floats" else pixels
    tifffile.imwrite(tmp_path / "all.tif", pixels, truncate=True, **how)
    with tifffile.TiffFile(tmp_path / "all.tif") as tiff:
        assert len(tiff.pages) == 1
    whole = {"compression": "zstd", "tile_size": 32, "n_workers": 0}
    slidewright.convert(tmp_path / "all.tif", tmp_path / "all.ome.zarr", z="all", **whole)
    stack = np.asarray(zarr.open(tmp_path / "all.ome.zarr", mode="r")["0"])
    for number, image in enumerate(pixels):
        tifffile.imwrite(tmp_path / "one.tif", image, **how)
        slidewright.convert(tmp_path / "one.tif", tmp_path / "wanted.tif", overwrite=True, **whole)
        wanted = tifffile.imread(tmp_path / "wanted.tif", key=0)
        slidewright.convert(tmp_path / "all.tif", tmp_path / "got.tif", z=number, overwrite=True, **whole)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "got.tif", key=0), wanted)
        channels = wanted[None] if wanted.ndim == 2 else np.moveaxis(wanted, -1, 0)
        plane = stack[number][None] if stack.ndim == 3 else stack[:, number]
        np.testing.assert_array_equal(plane, channels)


def two_pages(path: Path, axis: str, images: list[NDArray[Any]], ways: list[dict[str, Any]]) -> Path:
    """An OME-TIFF of two channels or planes, each in its own way."""
    height, width, *samples = images[0].shape
    count = {"C": 1, "Z": 1, "T": 1, axis: 2}
    count["C"] *= samples[0] if samples else 1
    size = " ".join(f'Size{name}="{value}"' for name, value in {"X": width, "Y": height, **count}.items())
    each = f'SamplesPerPixel="{samples[0] if samples else 1}"'
    channels = "".join(f'<Channel ID="Channel:0:{n}" {each}/>' for n in range(2 if axis == "C" else 1))
    planes = "".join(f'<TiffData IFD="{n}" First{axis}="{n}" PlaneCount="1"/>' for n in range(2))
    ome = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image '
        f'ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" {size}>{channels}{planes}</Pixels>'
        "</Image></OME>"
    )
    with tifffile.TiffWriter(path) as tiff:
        for number, (image, how) in enumerate(zip(images, ways, strict=True)):
            tiff.write(image, contiguous=False, metadata=None, description=None if number else ome, **how)
    return path


@pytest.mark.parametrize("what", ["colours", "palette", "orientation", "alpha"])
def test_images_of_a_stack_that_mean_other_things_are_refused(what: str, tmp_path: Path) -> None:
    """All were taken to be as the first: turned over or not, with its palette, its way up."""
    tables = [np.stack([np.roll(np.arange(256) * 257, shift)] * 3).astype(np.uint16) for shift in (0, 9)]
    ways: dict[str, list[dict[str, Any]]] = {
        "colours": [{"photometric": "miniswhite"}, {"photometric": "minisblack"}],
        "palette": [{"photometric": "palette", "colormap": table} for table in tables],
        "orientation": [{"photometric": "minisblack", "extratags": [(274, 3, 1, way, True)]} for way in (1, 3)],
        "alpha": [{"photometric": "rgb", "extrasamples": [way]} for way in ("assocalpha", "unassalpha")],
    }
    image = np.dstack([RGB, GREY]) if what == "alpha" else GREY
    path = two_pages(tmp_path / "a.ome.tif", "Z", [image, image], ways[what])
    with pytest.raises(SourceError, match="differ in what their numbers mean"):
        slidewright.convert(path, tmp_path / "out.ome.tif", z="all", n_workers=0)
    for page in range(2):
        slidewright.convert(path, tmp_path / "out.tif", page=page, n_workers=0, overwrite=True)


def test_channels_may_have_palettes_of_their_own(tmp_path: Path) -> None:
    """As Bio-Formats writes channels in false colours; and what is no palette says nothing (TIFF 6.0, ColorMap)."""
    tables = [np.stack([np.arange(256) * 257 * (n == sample) for n in range(3)]).astype(np.uint16) for sample in (0, 1)]
    ways = [{"photometric": "palette", "colormap": table} for table in tables]
    for number, given in enumerate((ways, [ways[0], {"photometric": "minisblack"}])):
        path = two_pages(tmp_path / f"{number}.ome.tif", "C", [GREY, RGB[..., 0]], given)
        slidewright.convert(path, tmp_path / "out.ome.tif", n_workers=0, compression="zstd", overwrite=True)
        for channel, wanted in enumerate((GREY, RGB[..., 0])):
            np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.ome.tif", key=channel), wanted)
    path = two_pages(tmp_path / "z.ome.tif", "Z", [GREY, GREY], [{"photometric": "minisblack"}] * 2)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages[1].tags
        at, value = tags["ResolutionUnit"].offset, tags["ResolutionUnit"].valueoffset
    whole = bytearray(path.read_bytes())
    whole[at : at + 2], whole[value : value + 2] = (274).to_bytes(2, "little"), bytes(2)  # Orientation, 0
    path.write_bytes(whole)
    slidewright.convert(path, tmp_path / "out.ome.tif", z="all", n_workers=0, overwrite=True)


def test_planes_of_a_stack_may_be_jpegs_of_ycbcr_and_others_of_rgb(tmp_path: Path) -> None:
    ways = [{"compression": "jpeg", "photometric": "ycbcr"}, {"compression": "zlib", "photometric": "rgb"}]
    path = two_pages(tmp_path / "a.ome.tif", "Z", [RGB, RGB], [{**way, "tile": (64, 64)} for way in ways])
    slidewright.convert(path, tmp_path / "out.ome.zarr", z="all", n_workers=0, compression="zstd")
    stack = np.asarray(zarr.open(tmp_path / "out.ome.zarr", mode="r")["0"])
    np.testing.assert_array_equal(np.moveaxis(stack[:, 1], 0, -1), RGB)
    shown = pyvips.Image.new_from_file(f"{path}[page=0]").numpy()
    assert np.abs(np.moveaxis(stack[:, 0], 0, -1).astype(int) - shown).max() <= 2


def test_channels_in_several_compressions_are_not_kept_under_one(tmp_path: Path) -> None:
    """The second was deflate under the number of JPEG, which no reader decodes."""
    ways = [{"compression": codec, "tile": (64, 64), "photometric": "minisblack"} for codec in ("jpeg", "zlib")]
    path = two_pages(tmp_path / "a.ome.tif", "C", [GREY, GREY], ways)
    report = slidewright.convert(path, tmp_path / "out.ome.tif", n_workers=0)
    assert report.kept_tiles == 0
    assert main(["verify", str(tmp_path / "out.ome.tif")]) == 0
    slidewright.convert(path, tmp_path / "exact.ome.tif", n_workers=0, compression="zstd")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "exact.ome.tif", key=1), GREY)


def test_subsampled_ycbcr_whose_bits_are_turned(tmp_path: Path) -> None:
    """They were read as they lie (FillOrder 2); what a predictor makes of such units nobody says."""
    luma, blue = GREY[:32, :48], GREY[32:64:2, :48:2]
    blocks = luma.reshape(16, 2, 24, 2).transpose(0, 2, 1, 3).reshape(16, 24, 4)
    data = zlib.compress(np.concatenate([blocks, blue[..., None], blue[::-1, :, None]], axis=2).tobytes())
    turn = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
    found = []
    for order, given, predictor in ((1, data, 1), (2, data.translate(turn), 1), (1, data, 2)):
        path = tmp_path / "a.tif"
        how: dict[str, Any] = {"photometric": "ycbcr", "compression": "zlib", "metadata": None}
        tifffile.imwrite(path, iter([given]), shape=(32, 48, 3), dtype="uint8", rowsperstrip=32, **how)
        retag(path, YCbCrSubSampling=(2, 2), ResolutionUnit=predictor if predictor > 1 else order)
        with tifffile.TiffFile(path) as tiff:
            at = tiff.pages.first.tags["ResolutionUnit"].offset
        whole = path.read_bytes()
        path.write_bytes(whole[:at] + (317 if predictor > 1 else 266).to_bytes(2, "little") + whole[at + 2 :])
        if predictor == 2:
            with pytest.raises(SourceError, match="can't be read as they are"):
                open_source(path)
            return
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0, compression="zstd", overwrite=True)
        found.append(tifffile.imread(tmp_path / "out.tif", key=0))
        np.testing.assert_array_equal(found[0], found[-1])
        by_vips = pyvips.Image.new_from_file(str(path)).numpy()[..., :3]
        assert np.abs(by_vips.astype(int) - found[0]).max() <= 1


@pytest.mark.parametrize("kind", ["one band", "bands apart", "beyond the image"])
def test_lerc_of_pixels_without_a_value(kind: str, tmp_path: Path) -> None:
    """libtiff makes NaN of them; they became 0, and bands were mixed up. Beyond the image GDAL writes such."""
    pixels = np.random.default_rng(0).normal(100, 9, (100, 90)).astype(np.float32)
    tiles = [np.zeros((64, 64), np.float32) for _ in range(4)]
    for number, tile in enumerate(tiles):
        part = pixels[number // 2 * 64 :, number % 2 * 64 :][:64, :64]
        tile[: part.shape[0], : part.shape[1]] = part
    mask = np.ones((64, 64), np.bool_)
    if kind == "beyond the image":
        mask[100 - 64 :], mask[:, 90 - 64 :] = False, False
    elif kind == "one band":
        mask[:9, :9] = False
    blobs = [bytes(imagecodecs.lerc_encode(tile)) for tile in tiles[:3]]
    blobs.append(bytes(imagecodecs.lerc_encode(tiles[3], masks=mask)) if kind != "bands apart" else blobs[0] * 2)
    path, how = tmp_path / "a.tif", {"compression": "lerc", "photometric": "minisblack", "metadata": None}
    tifffile.imwrite(path, iter(blobs), shape=(100, 90), dtype="float32", tile=(64, 64), **how)
    if kind == "beyond the image":
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0, compression="zstd")
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), pixels)
        return
    with pytest.raises(SourceError, match="pixels without a value"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0, compression="zstd")


def test_tiles_that_are_so_tall_that_each_is_decoded_again_and_again_are_refused(tmp_path: Path) -> None:
    tiles, how = (zlib.compress(bytes(70_400 * 16)) for _ in range(32)), {"compression": "zlib", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", tiles, shape=(70_400, 512), dtype="uint8", tile=(70_400, 16), **how)
    with pytest.raises(SourceError, match="decoded anew for every row"):
        open_source(tmp_path / "a.tif")
    zarr.create_array(tmp_path / "a.zarr", shape=(70_400, 512), chunks=(70_400, 16), dtype="u1")
    with pytest.raises(SourceError, match="decoded anew for every row"):
        open_source(tmp_path / "a.zarr")
    zarr.create_array(tmp_path / "b.zarr", shape=(70_400, 16), chunks=(70_400, 16), dtype="u1")
    open_source(tmp_path / "b.zarr")


@pytest.mark.parametrize("kind", ["jpeg", "inks"])
def test_colours_that_the_page_does_not_say_are_refused(kind: str, tmp_path: Path) -> None:
    """YCbCr of JPEGs was taken for RGB, and inks for colours with something else."""
    path = tmp_path / "a.tif"
    if kind == "jpeg":
        tifffile.imwrite(path, RGB, photometric="rgb", compression="jpeg", tile=(64, 64), metadata=None)
    else:
        tifffile.imwrite(path, np.dstack([RGB, GREY]), photometric="separated", metadata=None)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.tags["PhotometricInterpretation"].offset
    data[at : at + 2] = (263).to_bytes(2, "little")  # another tag
    path.write_bytes(data)
    with pytest.raises(SourceError, match="samples, and does not say of which colours"):
        open_source(path)


@pytest.mark.parametrize(("compression", "bits"), [("jpeg", 1), ("jpeg", 7), ("png", 6), ("jpeg2000", 5)])
def test_samples_of_more_bits_than_the_page_says_are_damage(compression: str, bits: int, tmp_path: Path) -> None:
    """Such a stream says its bits itself; those beyond were cut off."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, photometric="minisblack", metadata=None, tile=(64, 64), compression=compression)
    retag(path, BitsPerSample=bits)
    with pytest.raises(CorruptTileError, match=f"more than the {bits} bits that the page says"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    report = slidewright.convert(path, tmp_path / "out.tif", n_workers=0, on_corrupt="fill")
    assert report.corrupt_tiles > 0


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_bytes_of_samples_that_are_said_to_have_fewer_bits_are_damage(compression: str | None, tmp_path: Path) -> None:
    """tifffile takes the first of them."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY, photometric="minisblack", metadata=None, compression=compression, rowsperstrip=16)
    for bits in (1, 2, 4, 7):
        retag(path, BitsPerSample=bits)
        with pytest.raises(CorruptTileError, match="strip 0 does not decode: more bits than it has pixels"):
            slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("bits", [6, 7, 10])
def test_jpeg_may_exceed_its_few_bits_a_little(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(4).choice([0, (1 << bits) - 1], (64, 64)).astype(np.uint8 if bits < 8 else np.uint16)
    options: dict[str, Any] = {"compression": "jpeg", "bitspersample": bits, "compressionargs": {"level": 95}}
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None, tile=(64, 64), **options)
    assert tifffile.imread(path).max() >= 1 << bits
    slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_words_that_are_said_to_have_fewer_bits_are_damage(compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(2).integers(0, 1 << 9, (90, 130), np.uint16)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None, compression=compression, rowsperstrip=16)
    for bits in (9, 12, 15):
        retag(path, BitsPerSample=bits)
        with pytest.raises(CorruptTileError, match="strip 0 does not decode: more bits than it has pixels"):
            slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


def test_packed_tile_that_is_said_to_be_plain_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pixels = np.random.default_rng(2).integers(0, 255, (64, 64, 3), np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, compression="packbits", tile=(64, 64))
    retag(path, Compression=1, TileByteCounts=64 * 64 * 3 + 192)
    path.write_bytes(path.read_bytes() + bytes(1000))
    slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    retag(path, TileByteCounts=64 * 64 * 3 + 193)
    with pytest.raises(CorruptTileError, match="12481 bytes of pixels, where 12480 are the most that there can be"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0, overwrite=True)


def test_ycbcr_that_is_not_subsampled_as_its_page_says_is_damage(tmp_path: Path) -> None:
    """Without YCbCrSubSampling chroma is halved both ways (TIFF 6.0, section 21); these have twice the samples."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None, compression="zlib", rowsperstrip=16)
    retag(path, PhotometricInterpretation=6)
    with pytest.raises(CorruptTileError, match="strip 0 does not decode: 6240 samples, of which 3120 belong to pixels"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("pixels", [GREY, RGB, GREY.astype(np.float32)], ids=["grey", "rgb", "float"])
def test_image_that_does_not_name_its_colours_is_read(pixels: NDArray[Any], tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.tags["PhotometricInterpretation"].offset
    with open(path, "r+b") as file:
        file.seek(place)
        file.write((263).to_bytes(2, "little"))  # Threshholding, which says nothing of them
    assert open_source(path).info.kind == ("rgb" if pixels.ndim == 3 else "grey")
    assert_reads_like(open_source(path), pixels, 32, 500)


def test_orientation_of_a_wrong_type_is_heeded(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", extratags=[(274, "B", 1, 8, True)], metadata=None)
    shown = pyvips.Image.tiffload(str(path)).autorot().numpy()
    assert shown.shape[:2] == (130, 90)
    assert_reads_like(open_source(path), shown, 32, 500)


def test_channels_with_a_palette_each_are_channels(tmp_path: Path) -> None:
    """Bio-Formats writes the colour in which a microscope shows a channel as a palette."""
    path, channels = tmp_path / "a.ome.tif", np.stack([GREY, 255 - GREY])
    tags = [(320, "H", 768, (*range(0, 65536, 257), *[0] * 512), False)]
    tifffile.imwrite(path, channels, photometric="minisblack", metadata={"axes": "CYX"}, extratags=tags)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for page in tiff.pages:
            page.aspage().tags["PhotometricInterpretation"].overwrite(3)
    source = open_source(path)
    assert source.info.kind == "multichannel"
    assert_reads_like(source, channels.transpose(1, 2, 0), 32, 500)


@pytest.mark.parametrize("options", [{}, {"tile": (64, 64)}, {"compression": "zlib"}], ids=str)
def test_floats_of_sixteen_bits_become_floats(options: dict[str, Any], tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.tif", (GREY / 7).astype(np.float16)
    tifffile.imwrite(path, pixels, photometric="minisblack", metadata=None, **options)
    assert_reads_like(open_source(path), pixels.astype(np.float32), 32, 500)
    slidewright.convert(path, tmp_path / "out.tif", tile_size=64, n_workers=0)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), pixels)


def test_what_can_not_be_read_is_called_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", rowsperstrip=30, metadata=None)
    retag(path, Compression=6)
    with pytest.raises(SourceError, match="old-style JPEG"):
        open_source(path)
    retag(path, Compression=5)
    tifffile.imwrite(tmp_path / "b.tif", GREY, photometric="minisblack", predictor=True, compression="zlib")
    retag(tmp_path / "b.tif", Predictor=3)
    with pytest.raises(SourceError, match=r"a predictor of floats \(3\), and samples of uint8"):
        open_source(tmp_path / "b.tif")
    retag(tmp_path / "b.tif", Predictor=2, PhotometricInterpretation=3)
    with pytest.raises(SourceError, match=r"indices of a palette, and no palette \(ColorMap\)"):
        open_source(tmp_path / "b.tif")
    retag(path, Compression=3)
    with pytest.raises(SourceError, match=r"a fax of 3 samples of 8 bits a pixel, which is damage"):
        open_source(path)
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=None)
    retag(path, BitsPerSample=(2, 4, 2))
    with pytest.raises(SourceError, match=r"samples of \(2, 4, 2\) bits"):
        open_source(path)
    tifffile.imwrite(path, GREY.astype(np.float32), photometric="minisblack", predictor=3, compression="zlib")
    retag(path, BitsPerSample=24)
    with pytest.raises(SourceError, match=r"float24.*save it again") as caught:
        open_source(path).open()
    assert "damaged" not in str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_integers_of_24_bits_are_refused(byteorder: str, tmp_path: Path) -> None:
    """tifffile gives them byte by byte in another order than the file's, in files of either byte order."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY.astype(np.uint32), photometric="minisblack", metadata=None, byteorder=byteorder)
    retag(path, BitsPerSample=24)
    with pytest.raises(SourceError, match=r"integers of 24 bits.*save it again"):
        open_source(path)


def test_palette_of_8_bits_has_the_colours_that_libvips_shows(tmp_path: Path) -> None:
    labels = (np.arange(64 * 64).reshape(64, 64) % 4).astype(np.uint8)
    palette = np.zeros((3, 256), np.uint16)
    palette[:, :4] = np.array([(255, 0, 0), (0, 255, 0), (10, 20, 30), (1, 2, 3)]).T
    tifffile.imwrite(tmp_path / "s.tif", labels, photometric="palette", colormap=palette)
    shown = pyvips.Image.new_from_file(tmp_path / "s.tif").numpy()
    colours = np.array(open_source(tmp_path / "s.tif").info.colormap) >> 8
    np.testing.assert_array_equal(colours[labels], shown[:, :, :3])


def test_palette_of_numbers_that_are_no_colours_is_damage(tmp_path: Path) -> None:
    palette = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((20, 30), np.uint8), photometric="palette", colormap=palette)
    with tifffile.TiffFile(tmp_path / "s.tif", mode="r+") as tiff:
        tiff.pages[0].tags["ColorMap"].overwrite([70_000] * 768, dtype="I")
    with pytest.raises(SourceError, match="palette of numbers that are no colours"):
        open_source(tmp_path / "s.tif")


@pytest.mark.parametrize("compression", ["none", "packbits"])
def test_predictor_that_libtiff_does_not_heed_is_undone_and_told(tmp_path: Path, compression: str) -> None:
    """tifffile undoes it, and writes it so with PackBits; Pillow and libvips show the differences."""
    path, out = tmp_path / "a.tif", tmp_path / "out.tif"
    options: dict[str, Any] = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "predictor": True}
    given: Any = RGB
    if compression == "none":
        tiles = [np.pad(RGB, ((0, 38), (0, 62), (0, 0)))[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64, 128)]
        given = iter([imagecodecs.delta_encode(tile, axis=1).tobytes() for tile in tiles])
        options |= {"shape": RGB.shape, "dtype": "uint8"}
    tifffile.imwrite(path, given, compression="packbits", **options)
    retag(path, Compression={"none": 1, "packbits": 32773}[compression])
    np.testing.assert_array_equal(tifffile.imread(path), RGB)
    assert not np.array_equal(by_pillow(path), RGB)
    assert_reads_like(open_source(path), RGB, 48, 500)
    report = slidewright.convert(path, out, n_workers=0, compression="deflate")
    assert "they do not heed" in "".join(report.warnings)
    assert report.kept_tiles == 0
    np.testing.assert_array_equal(by_pillow(out), RGB)
    slidewright.verify_file(out, against=path)
    with pytest.raises(OptionError, match=f"beside compression {compression}, is one that readers .* do not heed"):
        slidewright.convert(path, out, n_workers=0, keep_tiles="always", overwrite=True)
