"""Every kind of image from every kind of file: kind, palette, dtype and channels are found, and each channel can be
read alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image
from reading import assert_reads_like

from slidewright.errors import SourceError
from slidewright.sources.access import unpack as strips
from slidewright.sources.access.unpack import WideStripsSource
from slidewright.sources.array import ArraySource, NpySource
from slidewright.sources.base import SourceInfo
from slidewright.sources.open import open_source
from slidewright.tiff.slide import TiffSlide

HEIGHT, WIDTH = 90, 130
RNG = np.random.default_rng(11)


def image(dtype: str, samples: int = 1) -> NDArray[Any]:
    """Random pixels of any dtype, over all of its range."""
    shape = (HEIGHT, WIDTH, samples) if samples > 1 else (HEIGHT, WIDTH)
    if dtype == "bool":
        return RNG.random(shape) > 0.7
    if dtype.startswith("float"):
        return RNG.normal(0, 1e3, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True)


DTYPES = ("bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float32")


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_dtype(dtype: str, samples: int, tmp_path: Path) -> None:
    pixels = image(dtype, samples)
    source = open_source(pixels)
    assert isinstance(source, ArraySource)
    assert source.info.samples == samples
    assert not source.info.planar
    assert_reads_like(source, pixels, travels=False)
    with source.shared(str(tmp_path)) as shared:
        assert_reads_like(shared, pixels, travels=False)
    np.save(tmp_path / "a.npy", pixels)
    saved = open_source(tmp_path / "a.npy")
    assert isinstance(saved, NpySource)
    assert_reads_like(saved, pixels)


def test_channels_first_in_memory_stay_so_and_are_read_alone(tmp_path: Path) -> None:
    stored = np.ascontiguousarray(image("uint16", 5).transpose(2, 0, 1))
    pixels = stored.transpose(1, 2, 0)
    source = open_source(pixels)
    assert isinstance(source, ArraySource)
    assert source.info.planar
    one = source.open().read(10, 20, 30, 40, np.empty((64, 64, 1), np.uint16), 3)
    assert np.shares_memory(one, stored)
    assert_reads_like(source, pixels, travels=False)
    with source.shared(str(tmp_path)) as shared:
        assert shared.info == source.info
        assert_reads_like(shared, pixels, travels=False)
    np.save(tmp_path / "a.npy", stored)
    mapped = open_source(np.load(tmp_path / "a.npy", mmap_mode="r").transpose(1, 2, 0)[5:80, 3:])
    assert isinstance(mapped, NpySource)
    assert mapped.info.planar
    assert_reads_like(mapped, pixels[5:80, 3:])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_zarr_of_every_dtype(dtype: str, zarr_format: Any, tmp_path: Path) -> None:
    for compressors in (None, "auto"):
        pixels = image(dtype, 3)
        options: dict[str, Any] = {"compressors": compressors, "zarr_format": zarr_format, "overwrite": True}
        array = zarr.create_array(tmp_path / "a", shape=pixels.shape, dtype=dtype, chunks=(64, 64, 3), **options)
        array[...] = pixels
        assert_reads_like(open_source(tmp_path / "a"), pixels)


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize(("version", "zarr_format"), [("0.4", 2), ("0.5", 3)])
def test_ome_zarr_of_five_channels(
    tmp_path: Path, version: str, zarr_format: Any, depth: int, compressors: Any
) -> None:
    stored = np.ascontiguousarray(image("uint16", 5).transpose(2, 0, 1))
    group = zarr.open_group(tmp_path / "a.ome.zarr", mode="w", zarr_format=zarr_format)
    chunks = (depth, 64, 64)
    array = group.create_array("0", shape=stored.shape, dtype="u2", chunks=chunks, compressors=compressors)
    array[...] = stored
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"]
    scale = {"type": "scale", "scale": [1, 1, 1]}
    entry = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": [scale]}], "version": version}
    described = {"multiscales": [entry]}
    group.attrs.update(described if version == "0.4" else {"ome": described | {"version": version}})
    source = open_source(tmp_path / "a.ome.zarr")
    assert source.info.planar == (depth == 1)
    assert_reads_like(source, stored.transpose(1, 2, 0))


def test_one_channel_of_a_zarr_is_read_without_the_others(tmp_path: Path) -> None:
    stored = np.ascontiguousarray(image("uint8", 4).transpose(2, 0, 1))
    for compressors in (None, "auto"):
        path = tmp_path / f"{compressors}.zarr"
        array = zarr.create_array(path, shape=stored.shape, dtype="u1", chunks=(1, 64, 64), compressors=compressors)
        array[...] = stored
        for channel in (0, 1, 3):
            for file in (path / "c" / str(channel)).rglob("*"):
                if file.is_file():
                    file.write_bytes(b"damaged")
        for side in (64, 40):
            got = open_source(path).open().read(0, 0, side, side, np.empty((64, 64, 1), np.uint8), 2)
            np.testing.assert_array_equal(got[..., 0], stored[2, :side, :side])


def test_zarr_labels_say_so(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=(40, 50), dtype="i4", chunks=(32, 32))
    axes = [{"name": name, "type": "space"} for name in "yx"]
    group.attrs.update({"image-label": {}, "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}]})
    assert open_source(tmp_path / "a.zarr").info.kind == "labels"


def write(path: Path, pixels: NDArray[Any], **options: Any) -> SourceInfo:
    tifffile.imwrite(path, pixels, **{"metadata": None, **options})
    return open_source(path).info


@pytest.mark.parametrize("options", [{}, {"tile": (32, 48)}, {"tile": (32, 48), "compression": "zlib"}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiff_greys_of_every_dtype(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    pixels = image(dtype)
    info = write(tmp_path / "a.tif", pixels, photometric="minisblack", **options)
    assert info.kind == ("binary" if dtype == "bool" else "grey")
    assert_reads_like(open_source(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("layout", [{}, {"tile": (32, 48)}, {"compression": "lzw"}, {"tile": (32, 48), "predictor": 2}])
@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
@pytest.mark.parametrize(("dtype", "samples"), [("uint16", 5), ("float32", 2), ("int16", 3), ("uint8", 9)])
def test_tiff_of_many_channels(
    dtype: str, samples: int, planarconfig: Any, layout: dict[str, Any], tmp_path: Path
) -> None:
    if "predictor" in layout:
        layout = {**layout, "compression": "zlib", "predictor": 3 if dtype == "float32" else 2}
    pixels = image(dtype, samples)
    stored = pixels if planarconfig == "contig" else np.ascontiguousarray(pixels.transpose(2, 0, 1))
    info = write(tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planarconfig, **layout)
    assert info.kind == "multichannel"
    assert info.planar == (planarconfig == "separate")
    assert_reads_like(open_source(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize(
    "layout", [{}, {"tile": (32, 48)}, {"tile": (32, 48), "compression": "zstd"}, {"rowsperstrip": 16}]
)
@pytest.mark.parametrize("flavour", [{"ome": True}, {"imagej": True}, {}])
def test_channels_on_pages_of_their_own(flavour: dict[str, Any], layout: dict[str, Any], tmp_path: Path) -> None:
    if "imagej" in flavour and "tile" in layout:
        pytest.skip("ImageJ has no tiles")
    pixels = image("uint16", 5)
    stored = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    options = {**flavour, **layout, "metadata": {"axes": "CYX"}, "photometric": "minisblack"}
    info = write(tmp_path / "a.tif", stored, **options)
    assert (info.kind, info.samples, info.planar) == ("multichannel", 5, True)
    assert_reads_like(open_source(tmp_path / "a.tif"), pixels)
    page = open_source(tmp_path / "a.tif", page=3)
    assert page.info.kind == "grey"
    assert_reads_like(page, pixels[..., 3])


def test_imagej_channels_without_pages(tmp_path: Path) -> None:
    pixels = image("uint16", 5)
    stored = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    options = {"imagej": True, "truncate": True, "metadata": {"axes": "CYX"}}
    assert write(tmp_path / "a.tif", stored, **options).planar
    assert_reads_like(open_source(tmp_path / "a.tif"), pixels)
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) - 3 * HEIGHT * WIDTH])
    with pytest.raises(SourceError, match="copy the file again"):
        open_source(tmp_path / "a.tif")


def test_level_of_an_ome_pyramid_of_channels(tmp_path: Path) -> None:
    pixels = image("uint16", 3)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        options: dict[str, Any] = {"photometric": "minisblack", "tile": (32, 32)}
        tiff.write(np.ascontiguousarray(pixels.transpose(2, 0, 1)), subifds=1, metadata={"axes": "CYX"}, **options)
        half = np.ascontiguousarray(pixels[::2, ::2].transpose(2, 0, 1))
        tiff.write(half, subfiletype=1, **options)
    assert_reads_like(open_source(tmp_path / "a.ome.tif"), pixels)
    assert_reads_like(open_source(tmp_path / "a.ome.tif", level=1), pixels[::2, ::2])


def test_one_channel_of_a_tiff_is_read_without_the_others(tmp_path: Path) -> None:
    stored = np.ascontiguousarray(image("uint16", 4).transpose(2, 0, 1))
    options = {"photometric": "minisblack", "planarconfig": "separate", "tile": (64, 64), "compression": "zlib"}
    write(tmp_path / "a.tif", stored, **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        page = tiff.pages.first
        segments = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    each = len(segments) // 4
    with open(tmp_path / "a.tif", "r+b") as file:
        for number, (offset, count) in enumerate(segments):
            if number // each != 2:
                file.seek(offset)
                file.write(b"\x55" * count)
    got = open_source(tmp_path / "a.tif").open().read(0, 0, 64, 64, np.empty((64, 64, 1), np.uint16), 2)
    np.testing.assert_array_equal(got[..., 0], stored[2, :64, :64])


def test_wide_strips_of_many_channels_are_unpacked_by_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "CACHE_BYTES", 1000)
    pixels = image("uint16", 5)
    stored = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    write(tmp_path / "a.tif", stored, ome=True, metadata={"axes": "CYX"}, compression="zlib", rowsperstrip=16)
    source = open_source(tmp_path / "a.tif")
    assert isinstance(source, WideStripsSource)
    with source.shared(str(tmp_path)) as unpacked:
        assert_reads_like(unpacked, pixels, travels=False)


@pytest.mark.parametrize("options", [{}, {"tile": (32, 48)}, {"tile": (32, 48), "compression": "zlib"}])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_tiff_rgb_and_rgba(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    for samples, kind in ((3, "rgb"), (4, "rgba")):
        pixels = image(dtype, samples)
        assert write(tmp_path / "a.tif", pixels, photometric="rgb", **options).kind == kind
        assert_reads_like(open_source(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("tile", [None, (32, 48)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_alpha_that_was_multiplied_in_is_taken_out(dtype: str, tile: Any, tmp_path: Path) -> None:
    straight = image(dtype, 4)
    straight[:, :40, 3] = np.iinfo(dtype).max
    straight[:, 40:60, 3] = 0
    top = int(np.iinfo(dtype).max)
    alpha = straight[..., 3:].astype(np.int64)
    multiplied = np.concatenate([(straight[..., :3] * alpha + top // 2) // top, alpha], axis=2).astype(dtype)
    write(tmp_path / "a.tif", multiplied, photometric="rgb", extrasamples=["assocalpha"], tile=tile)
    source = open_source(tmp_path / "a.tif")
    assert source.info.kind == "rgba"
    got = source.open().read(0, 0, HEIGHT, WIDTH, np.empty((HEIGHT, WIDTH, 4), dtype)).copy()
    np.testing.assert_array_equal(got[:, :40], straight[:, :40])
    assert not got[:, 40:60].any()
    np.testing.assert_array_equal(got[..., 3], straight[..., 3])
    with np.errstate(divide="ignore"):
        error = np.abs(got[..., :3].astype(np.int64) - straight[..., :3]) * np.where(alpha, alpha, 0)
    assert error.max() <= top  # half a step of the multiplied value, and half of the result's


def test_palette_that_is_no_table_is_damage(tmp_path: Path) -> None:
    """tifffile gives its numbers as they are."""
    palette = RNG.integers(0, 65_536, (3, 256), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", image("uint8"), photometric="palette", colormap=palette, tile=(32, 48))
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        entry = tiff.pages.first.tags[320].offset
    with (tmp_path / "a.tif").open("r+b") as file:
        file.seek(entry + 4)
        file.write((7).to_bytes(4, "little"))  # of 768
    with pytest.raises(SourceError, match=r"indices of a palette, and no palette \(ColorMap\)"):
        open_source(tmp_path / "a.tif")
    with TiffSlide(tmp_path / "a.tif") as slide:
        assert slide.levels[0].encoding


@pytest.mark.parametrize("options", [{}, {"tile": (32, 48)}, {"tile": (32, 48), "compression": "lzw"}])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_palette_tiff_is_labels_with_its_colours(dtype: str, options: dict[str, Any], tmp_path: Path) -> None:
    palette = RNG.integers(0, 65_536, (3, 1 << (8 * np.dtype(dtype).itemsize)), dtype=np.uint16)
    pixels = image(dtype)
    info = write(tmp_path / "a.tif", pixels, photometric="palette", colormap=palette, **options)
    assert info.kind == "labels"
    assert info.colormap == tuple(zip(*palette.tolist(), strict=True))
    assert_reads_like(open_source(tmp_path / "a.tif"), pixels)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt", "packbits", None])
def test_bilevel_tiff_is_a_binary_mask(compression: str | None, tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[20:50, 30:91] = True
    Image.fromarray(mask).save(tmp_path / "a.tif", compression=compression)
    source = open_source(tmp_path / "a.tif")
    assert (source.info.kind, source.info.dtype) == ("binary", "bool")
    assert_reads_like(source, tifffile.imread(tmp_path / "a.tif"))
    assert_reads_like(source, mask)


def test_hundred_channels_and_no_more(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 255, (120, 16, 100), dtype=np.uint8)
    assert open_source(pixels).info.samples == 100
    stored = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.tif", stored, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    got = open_source(tmp_path / "a.tif").open().read(3, 0, 64, 16, np.empty((64, 64, 1), np.uint8), 99)
    np.testing.assert_array_equal(got[..., 0], pixels[3:67, :, 99])
    with pytest.raises(SourceError, match="101 samples"):
        open_source(np.zeros((120, 16, 101), np.uint8))


def test_channels_in_several_files_are_refused_with_the_remedy(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "UUID": "urn:uuid:11111111-2222-3333-4444-555555555555"}
    stored = np.ascontiguousarray(image("uint16", 2).transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.ome.tif", stored, metadata=metadata, photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        xml = tiff.ome_metadata or ""
    assert "<TiffData" in xml
    start, end = xml.index("<TiffData"), xml.index("</Pixels>")
    parts = [
        f'<TiffData FirstC="{c}" IFD="0"><UUID FileName="{name}">urn:uuid:{c}</UUID></TiffData>'
        for c, name in enumerate(("a.ome.tif", "b.ome.tif"))
    ]
    xml = xml[:start] + "".join(parts) + xml[end:]
    for channel, name in enumerate(("a.ome.tif", "b.ome.tif")):
        tifffile.imwrite(tmp_path / name, stored[channel], description=xml.encode(), metadata=None)
    with pytest.raises(SourceError, match="one of several files"):
        open_source(tmp_path / "a.ome.tif")


def test_file_that_names_another_for_some_planes_alone_is_refused(tmp_path: Path) -> None:
    other = '<UUID FileName="b.ome.tif">urn:uuid:2</UUID>'
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1"><Image ID="Image:0"><Pixels '
        'ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="60" SizeY="40" SizeC="2" SizeZ="1" SizeT="1">'
        '<TiffData FirstC="0" IFD="0" PlaneCount="1"/>'
        f'<TiffData FirstC="1" IFD="0" PlaneCount="1">{other}</TiffData></Pixels></Image></OME>'
    )
    for name, said in (("a.ome.tif", xml), ("whole.ome.tif", xml.replace(other, "<UUID>urn:uuid:1</UUID>"))):
        tifffile.imwrite(tmp_path / name, np.zeros((40, 60), np.uint8), description=said, metadata=None)
    with pytest.raises(SourceError, match="one of several files"):
        open_source(tmp_path / "a.ome.tif")
    assert open_source(tmp_path / "whole.ome.tif").info.samples == 2


@pytest.mark.parametrize("place", ["IFD", "FirstC", "FirstZ", "FirstT"])
def test_plane_whose_place_is_below_0_is_refused(tmp_path: Path, place: str) -> None:
    """tifffile counts it from the end."""
    planes = np.stack([np.full((40, 60), value, np.uint8) for value in (1, 2, 3)])
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, photometric="minisblack", metadata={"axes": "CYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        xml = str(tiff.ome_metadata)
    start, end = xml.index("<TiffData"), xml.index("</Pixels>")
    for last, name in (("2", "good.ome.tif"), ("-1", "bad.ome.tif")):
        known = [{"IFD": str(n), "FirstC": str(n)} for n in range(3)]
        known[2] |= {place: last if place in ("IFD", "FirstC") else last.replace("2", "0")}
        parts = [f"<TiffData {' '.join(f'{k}={chr(34)}{v}{chr(34)}' for k, v in one.items())}/>" for one in known]
        xml_of = (xml[:start] + "".join(parts) + xml[end:]).encode()
        tifffile.imwrite(tmp_path / name, planes, photometric="minisblack", description=xml_of, metadata=None)
    assert open_source(tmp_path / "good.ome.tif").info.samples == 3
    with pytest.raises(SourceError, match=f"{place} is below 0"):
        open_source(tmp_path / "bad.ome.tif")


def test_file_whose_ome_xml_is_in_another_is_refused(tmp_path: Path) -> None:
    space = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    xml = f'<OME xmlns="{space}"><BinaryOnly MetadataFile="a.companion.ome"/></OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", image("uint8", 1), description=xml, metadata=None)
    with pytest.raises(SourceError, match="one of several files"):
        open_source(tmp_path / "a.ome.tif")
    assert open_source(tmp_path / "a.ome.tif", page=0).info.samples == 1


def test_file_whose_channels_change_after_it_was_described_is_an_error(tmp_path: Path) -> None:
    for pixels in (image("uint16", 3), image("uint8", 2)):
        write(tmp_path / "a.tif", image("uint16", 2), photometric="minisblack", planarconfig="contig")
        source = open_source(tmp_path / "a.tif")
        write(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
        with pytest.raises(SourceError, match="start again"):
            source.open()
