"""Stacks: every plane along z and every time is kept, with a pyramid of its own, in OME-TIFF and OME-Zarr."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import by_bioformats
import numpy as np
import openslide
import pytest
import pyvips
import tifffile
import zarr
from click.testing import CliRunner
from numpy.typing import NDArray
from ome_types import from_xml
from ome_xml import validate_xml
from oracle import pyramid

import slidewright
from slidewright.cli.main import cli
from slidewright.errors import CorruptTileError, OptionError, SourceError, VerifyError
from slidewright.formats.ome_zarr import OmeZarrFormat
from slidewright.geometry import Size, Stack
from slidewright.inspection.info import info
from slidewright.inspection.verify import verify_file
from slidewright.pyramid.plan import make_plan
from slidewright.sources.base import Pixels, Reader, Source, SourceInfo

TESTS = Path(__file__).parents[1]
TILE = 64
MADE: dict[str, Any] = {"tile_size": TILE, "compression": "deflate", "n_workers": 0}
ZARR: dict[str, Any] = {"tile_size": TILE, "compression": "zstd", "n_workers": 0}
NOISE = np.random.default_rng(7)
TZC = NOISE.integers(0, 60000, (2, 3, 2, 150, 210), np.uint16)
"""(t, z, c, y, x)."""
RGB = NOISE.integers(0, 256, (3, 150, 210, 3), np.uint8)
"""(z, y, x, samples)."""
LABELS = NOISE.integers(0, 4, (4, 150, 210), np.uint8)
SAID = {
    **{"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.25, "PhysicalSizeYUnit": "µm"},
    **{"PhysicalSizeZ": 1500.0, "PhysicalSizeZUnit": "nm", "TimeIncrement": 2000.0, "TimeIncrementUnit": "ms"},
}


def levels_of(frame: NDArray[Any], method: str = "mean") -> list[NDArray[Any]]:
    """Every level of one plane."""
    return [level[:, :, 0] if frame.ndim == 2 else level for level in pyramid(frame, TILE, method)]


def stacked(planes: NDArray[Any], level: int, method: str = "mean") -> NDArray[Any]:
    """A level of (..., y, x)."""
    flat = planes.reshape(-1, *planes.shape[-2:])
    found = np.stack([levels_of(plane, method)[level] for plane in flat])
    return found.reshape(*planes.shape[:-2], *found.shape[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("stacks")
    tifffile.imwrite(place / "ome.ome.tif", TZC, ome=True, metadata={"axes": "TZCYX", **SAID})
    about = {"axes": "TZCYX", "spacing": 1.5, "unit": "um", "finterval": 2.0}
    tifffile.imwrite(place / "imagej.tif", TZC, imagej=True, metadata=about, resolution=(2, 4))
    tifffile.imwrite(
        place / "rgb.ome.tif", RGB, ome=True, metadata={"axes": "ZYXS"}, photometric="rgb", tile=(TILE, TILE),
        compression="deflate", predictor=True,
    )  # fmt: skip
    tifffile.imwrite(place / "pages.tif", LABELS, metadata=None, photometric="minisblack", rowsperstrip=11)
    np.save(place / "tzc.npy", TZC)
    slidewright.convert(place / "ome.ome.tif", place / "out.ome.tif", z="all", t="all", **MADE)
    slidewright.convert(place / "ome.ome.tif", place / "out.ome.zarr", z="all", t="all", **ZARR)
    slidewright.convert(place / "rgb.ome.tif", place / "rgb-out.ome.tif", z="all", **MADE)
    return place


def test_every_plane_of_an_ome_tiff_has_its_levels_in_its_subifds(folder):
    with tifffile.TiffFile(folder / "out.ome.tif") as tiff:
        (series,) = tiff.series
        assert (series.kind, series.axes, series.shape) == ("ome", "TZCYX", TZC.shape)
        assert len(series.levels) == 3
        for number, level in enumerate(series.levels):
            np.testing.assert_array_equal(level.asarray(), stacked(TZC, number))
        copies = list(tiff.pages)[12:]
        assert len(tiff.pages) == 12 + 2, "the main chain has copies of the first plane's levels alone"
        for page, level in zip(copies, levels_of(TZC[0, 0, 0])[1:], strict=True):
            assert page.aspage().is_reduced
            np.testing.assert_array_equal(page.aspage().asarray(), level)


def test_xml_names_the_place_of_every_plane_and_the_steps_between_them(folder):
    xml = tifffile.TiffFile(folder / "out.ome.tif").ome_metadata
    validate_xml(xml)
    pixels = from_xml(xml).images[0].pixels
    assert (pixels.size_z, pixels.size_t, pixels.size_c, pixels.dimension_order.value) == (3, 2, 2, "XYCZT")
    assert (pixels.physical_size_z, pixels.physical_size_z_unit.value) == (1.5, "µm")
    assert (pixels.time_increment, pixels.time_increment_unit.value) == (2.0, "s")
    places = [(block.first_t, block.first_z, block.first_c) for block in pixels.tiff_data_blocks]
    assert places == list(np.ndindex(2, 3, 2))
    assert [block.ifd for block in pixels.tiff_data_blocks] == list(range(12))
    rgb = from_xml(tifffile.TiffFile(folder / "rgb-out.ome.tif").ome_metadata).images[0].pixels
    assert (rgb.size_z, rgb.size_c, [channel.samples_per_pixel for channel in rgb.channels]) == (3, 3, [3])
    assert [(block.first_z, block.ifd) for block in rgb.tiff_data_blocks] == [(0, 0), (1, 1), (2, 2)]


def test_readers_of_plain_tiffs_see_the_first_plane_with_its_levels(folder):
    with openslide.OpenSlide(folder / "rgb-out.ome.tif") as slide:
        wanted = levels_of(RGB[0])
        assert slide.level_count == len(wanted)
        for number, level in enumerate(wanted):
            shown = np.asarray(slide.read_region((0, 0), number, level.shape[1::-1]).convert("RGB"))
            np.testing.assert_array_equal(shown, level)
    for page in range(3):
        for number, level in enumerate(levels_of(RGB[page])):
            found = pyvips.Image.tiffload(str(folder / "rgb-out.ome.tif"), page=page, subifd=number - 1)
            np.testing.assert_array_equal(found.numpy(), level)


@pytest.mark.skipif(not by_bioformats.AVAILABLE, reason=by_bioformats.WHY)
@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", ["out", "rgb-out"])
def test_bioformats_reads_every_plane_of_every_level(folder, tmp_path, name):
    source, out = folder / f"{name}.ome.tif", tmp_path / "read.ome.tif"
    tool = ["-cp", str(by_bioformats.JAR), "loci.formats.tools.ImageConverter", "-no-upgrade", "-overwrite"]
    subprocess.run([str(by_bioformats.JAVA), "-Xmx512m", *tool, str(source), str(out)], check=True, timeout=200)
    with tifffile.TiffFile(out) as tiff:  # each level is a series of its own there
        assert len(tiff.series) == 3
        for number, series in enumerate(tiff.series):
            pixels = series.asarray()
            if name == "out":
                wanted = stacked(TZC, number).transpose(2, 0, 1, 3, 4)
                order = [series.axes.index(axis) for axis in "CTZYX"]
            else:
                wanted = np.stack([levels_of(plane)[number] for plane in RGB])
                order = [series.axes.index(axis) for axis in "ZYXS"]
            np.testing.assert_array_equal(pixels.transpose(order), wanted)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_ome_zarr_has_axes_of_time_channel_and_z_with_units(folder, tmp_path, ngff):
    path = folder / "out.ome.zarr"
    if ngff == "0.4":
        path = tmp_path / "out.ome.zarr"
        slidewright.convert(folder / "ome.ome.tif", path, z="all", t="all", ngff=ngff, **ZARR)
    pytest.importorskip("yaozarrs").validate_zarr_store(str(path))
    group = zarr.open_group(path, mode="r")
    assert pytest.importorskip("ome_zarr_models").open_ome_zarr(group).ome_zarr_version == ngff
    (multiscale,) = dict(group.attrs).get("ome", dict(group.attrs))["multiscales"]
    assert multiscale["axes"] == [
        {"name": "t", "type": "time", "unit": "second"},
        {"name": "c", "type": "channel"},
        *({"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"),
    ]
    scales = [dataset["coordinateTransformations"][0]["scale"] for dataset in multiscale["datasets"]]
    assert scales == [[2.0, 1.0, 1.5, 0.25 * times, 0.5 * times] for times in (1, 2, 4)]
    for number in range(3):
        array = group[str(number)]
        assert array.chunks == (1, 1, 1, TILE, TILE)
        np.testing.assert_array_equal(array[:], stacked(TZC.transpose(0, 2, 1, 3, 4), number))


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize("name", ["ome.ome.tif", "rgb.ome.tif"])
def test_other_readers_of_ome_zarr_see_every_plane(folder, tmp_path, name, ngff):
    python = Path(os.environ.get("SLIDEWRIGHT_READERS", "")) / "zarr" / "bin" / "python"
    if not python.exists():
        pytest.skip("SLIDEWRIGHT_READERS names no folder with the environment of zarr (tests/readers/environments.py)")
    slidewright.convert(folder / name, tmp_path / "out.ome.zarr", z="all", t="all", ngff=ngff, **ZARR)
    planes = TZC.transpose(0, 2, 1, 3, 4) if name == "ome.ome.tif" else RGB.transpose(3, 0, 1, 2)
    np.savez(tmp_path / "levels.npz", *(stacked(planes, number) for number in range(3)))
    given = (TESTS / "zarr_readers.py", tmp_path / "out.ome.zarr", tmp_path / "levels.npz")
    command = [str(python), *map(str, given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found.pop("GDAL") != "exact"  # which knows no stacks, nor shards
    if ngff == "0.4":
        assert "_ARRAY_DIMENSIONS" in found.pop("xarray")
    assert {word for word in found.values() if word != "absent"} == {"exact"}, found


def test_rgb_stack_in_an_ome_zarr_has_its_samples_in_one_chunk(folder, tmp_path):
    slidewright.convert(folder / "rgb.ome.tif", tmp_path / "out.ome.zarr", z="all", **ZARR)
    pytest.importorskip("yaozarrs").validate_zarr_store(str(tmp_path / "out.ome.zarr"))
    group = zarr.open_group(tmp_path / "out.ome.zarr", mode="r")
    assert group["0"].chunks == (3, 1, TILE, TILE)
    for number in range(3):
        wanted = np.stack([levels_of(plane)[number] for plane in RGB])
        np.testing.assert_array_equal(group[str(number)][:], wanted.transpose(3, 0, 1, 2))


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize("source", ["imagej.tif", "tzc.npy", "array", "out.ome.tif", "out.ome.zarr", "unnamed"])
def test_the_same_planes_come_out_of_every_source(folder, tmp_path, source, suffix):
    given: Any = folder / source
    more: dict[str, Any] = {"z_spacing": 1.5, "time_increment": 2.0, "mpp": (0.5, 0.25)}
    if source == "array":  # strides that no copy was made for
        given, more["axes"] = TZC.transpose(1, 4, 0, 2, 3), "zxtcy"
    elif source == "tzc.npy":
        more["axes"] = "TZCYX"
    elif source == "unnamed":  # a chunk has several planes and times here
        given = tmp_path / "unnamed.zarr"
        zarr.create_array(given, data=TZC, chunks=(2, 2, 1, 100, 100))
        more["axes"] = "tzcyx"
    made = ZARR if suffix == ".ome.zarr" else MADE
    kept = {} if suffix == ".ome.zarr" else {"keep_tiles": "never", "keep_metadata": "none"}
    out = tmp_path / f"out{suffix}"
    slidewright.convert(given, out, z="all", t="all", **{**made, **more, **kept})
    found = tifffile.imread(out) if suffix == ".ome.tif" else zarr.open_group(out)["0"][:].transpose(0, 2, 1, 3, 4)
    np.testing.assert_array_equal(found, TZC)
    said = info(out)
    assert (said.stack, said.metadata.z_spacing, said.metadata.time_increment) == (Stack(2, 3), 1.5, 2.0)
    assert said.mpp == pytest.approx((0.5, 0.25))


def test_pages_of_which_nothing_says_what_they_are_count_as_planes(folder, tmp_path):
    colours = {"colormap": {0: "black", 1: "red", 2: "lime", 3: "blue"}}
    slidewright.convert(folder / "pages.tif", tmp_path / "out.ome.tif", z="all", **colours, **MADE)
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as tiff:
        for number, level in enumerate(tiff.series[0].levels):
            np.testing.assert_array_equal(level.asarray(), stacked(LABELS, number, "nearest"))
        assert {page.aspage().photometric.name for page in tiff.pages} == {"PALETTE"}
    slidewright.convert(tmp_path / "out.ome.tif", tmp_path / "labels.ome.zarr", z="all", **ZARR)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "labels.ome.zarr")["0"][:], LABELS)


@pytest.mark.parametrize("mask", [LABELS > 1, LABELS.astype(np.float32) / 3], ids=["bits", "float"])
def test_masks_and_floats_are_stacks_too(tmp_path, mask):
    slidewright.convert(mask, tmp_path / "out.ome.tif", axes="zyx", z="all", **MADE)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.ome.tif"), mask)
    verify_file(tmp_path / "out.ome.tif", against=slidewright.open_source(mask, axes="zyx", z="all"))


@pytest.mark.parametrize(
    ("chosen", "planes"),
    [({"z": "1:3", "t": 1}, TZC[1, 1:3]), ({"z": 2, "t": "all"}, TZC[:, 2]), ({"z": "2:3", "t": "0:1"}, TZC[0, 2])],
)
def test_a_range_is_kept_as_python_counts(folder, tmp_path, chosen, planes):
    for source in ("ome.ome.tif", "out.ome.zarr", "imagej.tif"):
        slidewright.convert(folder / source, tmp_path / "out.ome.tif", overwrite=True, **chosen, **MADE)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.ome.tif"), planes)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"z": 3}, "no z 3"),
        ({"z": "2:4"}, "no z 2:4"),
        ({"z": "some"}, "must be a whole number"),
        ({"z": "2:1"}, "must be a whole number"),
        ({"t": -1}, "whole number, 0 or more"),
        ({"axes": "tzyx"}, "no meaning for a TIFF"),
        ({"axes": "zyy"}, "each once"),
    ],
)
def test_planes_that_are_not_there_are_refused(folder, tmp_path, chosen, message):
    with pytest.raises(OptionError, match=message):
        slidewright.convert(folder / "ome.ome.tif", tmp_path / "out.ome.tif", **{"z": "all", "t": "all", **chosen})
    assert not list(tmp_path.iterdir())


def test_a_plain_tiff_says_what_can_hold_a_stack(folder, tmp_path):
    for flavour in ("generic", "aperio"):
        with pytest.raises(OptionError, match="3 planes along z at 2 times, and a plain TIFF holds a single plane"):
            slidewright.convert(
                folder / "ome.ome.tif", tmp_path / "out.tif", z="all", t="all", flavour=flavour, n_workers=0
            )
    with pytest.raises(SourceError, match="choose one with z, 0 to 2"):
        slidewright.convert(folder / "ome.ome.tif", tmp_path / "out.ome.tif", t="all", n_workers=0)
    with pytest.raises(SourceError, match="choose one with z, or keep all"):
        slidewright.convert(TZC[0, :, 0], tmp_path / "out.ome.tif", axes="zyx", n_workers=0)
    with pytest.raises(OptionError, match="unless axes names"):
        slidewright.convert(TZC[0, :, 0], tmp_path / "out.ome.tif", z="all", n_workers=0)


@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr"])
@pytest.mark.parametrize("name", ["ome.ome.tif", "rgb.ome.tif"])
def test_the_bytes_are_the_same_for_workers_shards_resume_and_tiles_that_are_pushed(folder, tmp_path, name, suffix):
    planes = TZC if name == "ome.ome.tif" else RGB[None]
    made: dict[str, Any] = {**(ZARR if suffix == ".ome.zarr" else MADE), "keep_tiles": "never", "keep_metadata": "none"}
    both = {"z": "all", "t": "all"}
    known: dict[str, Any] = {} if planes is not TZC else {"mpp": (0.5, 0.25), "kind": "multichannel"}
    made |= known
    outs = [tmp_path / f"{name}{suffix}" for name in "02rsw"]
    slidewright.convert(folder / name, outs[0], **both, **made)
    slidewright.convert(folder / name, outs[1], **both, **{**made, "n_workers": 2, "block_tiles": 1})
    slidewright.convert(folder / name, outs[2], resume=True, **both, **made)
    form = "ome-tiff" if suffix == ".ome.tif" else "ome-zarr"
    for index in range(3):
        slidewright.shard(folder / name, tmp_path / "s", index=index, count=3, format=form, **both, **made)
    slidewright.assemble(tmp_path / "s", outs[3], n_workers=0)
    for out in outs[1:4]:
        assert bytes_of(out) == bytes_of(outs[0]), out.name
    write_planes(outs[4], planes, {**made, "n_workers": 1})
    together = np.moveaxis(planes, 2, -1) if planes is TZC else planes
    slidewright.convert(together.copy(), outs[0], axes="tzyxc", overwrite=True, **both, **made)
    assert bytes_of(outs[4]) == bytes_of(outs[0])


def write_planes(out: Path, planes: NDArray[Any], made: dict[str, Any], **more: Any) -> None:
    """Write (t, z, c, y, x) or (t, z, y, x, c), the last planes first."""
    planes = np.moveaxis(planes, 2, -1) if planes.shape[-1] != 3 else planes
    shape = planes.shape[2:]
    sizes = {"z": planes.shape[1], "t": planes.shape[0]}
    with slidewright.PyramidWriter(out, shape, dtype=planes.dtype, **sizes, **made, **more) as writer:
        for t, z in reversed(list(np.ndindex(*planes.shape[:2]))):
            for row, column in np.ndindex(*Size(*shape[:2]).grid(TILE)):
                y, x = row * TILE, column * TILE
                writer.write_tile(planes[t, z, y : y + TILE, x : x + TILE], row, column, z=z, t=t)


def bytes_of(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def test_writer_takes_planes_in_order_regions_and_nothing(tmp_path):
    made = {**MADE, "z_spacing": 0.5, "kind": "multichannel"}
    frames = np.moveaxis(TZC, 2, -1)
    sizes = {"dtype": "uint16", "z": 3, "t": 2}
    with slidewright.PyramidWriter(tmp_path / "a.ome.tif", frames.shape[2:], **sizes, **made) as writer:
        cells = list(np.ndindex(3, 4))
        writer.write(
            frame[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            for frame in frames.reshape(-1, *frames.shape[2:])
            for row, column in cells
        )
    with slidewright.PyramidWriter(
        tmp_path / "b.ome.tif", frames.shape[2:], overlap="blend", **sizes, **made
    ) as writer:
        for t, z in np.ndindex(2, 3):
            writer.write_region(frames[t, z, :100], 0, 0, z=z, t=t)
            writer.write_region(frames[t, z, 70:], 70, 0, z=z, t=t)
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "b.ome.tif").read_bytes()
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.ome.tif"), TZC)
    with slidewright.PyramidWriter(tmp_path / "c.ome.zarr", (150, 210), z=2, background=7, **ZARR) as writer:
        writer.write_tile(np.full((TILE, TILE), 9, np.uint8), 0, 0, z=1)
    found = zarr.open_group(tmp_path / "c.ome.zarr")["0"][:]
    assert (found[0] == 7).all()
    assert (found[1, :TILE, :TILE] == 9).all()
    assert (found[1, TILE:] == 7).all()


def test_writer_refuses_planes_beyond_its_own(tmp_path):
    with pytest.raises(OptionError, match="number of planes"):
        slidewright.PyramidWriter(tmp_path / "a.ome.tif", (150, 210), z=0)
    with (
        pytest.raises(SourceError, match="there is no z 2"),
        slidewright.PyramidWriter(tmp_path / "a.ome.tif", (150, 210), z=2, n_workers=0) as writer,
    ):
        writer.write_tile(np.zeros((150, 210), np.uint8), 0, 0, z=2)


def tiles_of(page: Any) -> list[bytes]:
    found = page.parent.filehandle.read_segments(page.dataoffsets, page.databytecounts)
    return [data for data, _ in found]


def test_tiles_of_every_plane_are_kept(tmp_path):
    smooth = np.add.outer(np.arange(3) * 20, np.add.outer(np.arange(150), np.arange(210)) // 3).astype(np.uint8)
    rgb = np.stack([smooth, smooth[:, ::-1], smooth // 2], -1)
    tifffile.imwrite(
        tmp_path / "in.ome.tif", rgb, ome=True, metadata={"axes": "ZYXS"}, photometric="rgb", tile=(TILE, TILE),
        compression="jpeg",
    )  # fmt: skip
    report = slidewright.convert(tmp_path / "in.ome.tif", tmp_path / "out.ome.tif", z="all", n_workers=2)
    assert report.kept_tiles == 3 * 12
    with tifffile.TiffFile(tmp_path / "in.ome.tif") as was, tifffile.TiffFile(tmp_path / "out.ome.tif") as tiff:
        for plane in range(3):
            assert tiles_of(was.pages[plane].aspage()) == tiles_of(tiff.pages[plane].aspage())
    verify_file(tmp_path / "out.ome.tif", against=tmp_path / "in.ome.tif")


@pytest.mark.parametrize("name", ["out.ome.tif", "out.ome.zarr"])
def test_verify_compares_every_plane(folder, tmp_path, name):
    report = verify_file(folder / name, against=folder / "ome.ome.tif")
    assert [level.exact for level in report.levels] == [True] * 3
    assert report.levels[0].tiles == report.levels[0].decoded == 12 * 12
    assert report.others == 0
    other = TZC.copy()
    other[1, 2, 1, 140, 200] += 1
    with pytest.raises(VerifyError, match=r"level 0.*x=200, y=140"):
        verify_file(folder / name, against=slidewright.open_source(other, axes="tzcyx", z="all", t="all"))
    with pytest.raises(VerifyError, match="12 samples of uint16, but"):
        verify_file(folder / name, against=slidewright.open_source(TZC[:1], axes="tzcyx", z="all"))


def test_info_says_how_many_planes_there_are(folder):
    for name in ("ome.ome.tif", "imagej.tif", "out.ome.zarr"):
        assert info(folder / name).stack == Stack(2, 3)
    assert str(info(folder / "rgb.ome.tif").stack) == "3 planes along z"


def test_channels_of_a_stack_wait_in_a_file_that_goes_with_their_frame():
    plan = make_plan(Size(300, 300), TILE, planes=3 * 4, band=4)
    waves = {form_wave(plan, plane) for plane in range(12) if plane % 4}
    assert waves == {-1, -2, -3}
    assert form_wave(make_plan(Size(300, 300), TILE, planes=4, band=4), 1) is None


def form_wave(plan, plane):
    return OmeZarrFormat().wave(plan, (0, plane, 0, 0))


def test_spacing_of_a_single_plane_goes_through_every_format(folder, tmp_path):
    outs = [tmp_path / "0.ome.tif", tmp_path / "1.ome.zarr", tmp_path / "2.tif", tmp_path / "3.ome.tif"]
    source: Any = folder / "ome.ome.tif"
    for out in outs:
        chosen = {"z": 1, "t": 1} if out is outs[0] else {}
        slidewright.convert(source, out, tile_size=TILE, n_workers=0, **chosen)
        assert (info(out).metadata.z_spacing, info(out).metadata.time_increment) == (1.5, 2.0), out.name
        source = out


def test_batch_and_command_line_keep_planes(folder, tmp_path):
    manifest = tmp_path / "slides.csv"
    manifest.write_text(
        "source,destination,z,t,axes\n"
        f"{folder / 'imagej.tif'},a.ome.tif,all,all,\n"
        f"{folder / 'tzc.npy'},b.ome.zarr,1:3,1,tzcyx\n"
    )
    report = slidewright.batch(manifest, tile_size=TILE, compression="zstd", n_workers=0)
    assert [item.status for item in report.items] == ["done", "done"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.ome.tif"), TZC)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "b.ome.zarr")["0"][:], TZC[1, 1:3].transpose(1, 0, 2, 3))
    run = CliRunner()
    given = [str(folder / "imagej.tif"), str(tmp_path / "c.ome.tif"), "--z", "all", "--t", "0:2"]
    made = ["--compression", "zstd", "--tile-size", str(TILE), "--workers", "0", "--quiet"]
    done = run.invoke(cli, ["convert", *given, *made])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a.ome.tif").read_bytes() == (tmp_path / "c.ome.tif").read_bytes()
    said = run.invoke(cli, ["info", str(tmp_path / "c.ome.tif")])
    assert "2 x uint16, 3 planes along z at 2 times" in said.output
    assert "time increment  2" in said.output


def test_a_source_class_of_ones_own_may_be_a_stack(tmp_path):
    slidewright.convert(Ramps(), tmp_path / "out.ome.tif", compression="zstd", tile_size=TILE, n_workers=0)
    with tifffile.TiffFile(tmp_path / "out.ome.tif") as tiff:
        assert tiff.series[0].shape == (5, 100, 100)
        assert [int(page.asarray()[0, 0]) for page in tiff.series[0].pages] == [0, 10, 20, 30, 40]


RAMPS = SourceInfo("ramps", "computed", Size(100, 100), 1, "uint8", stack=Stack(1, 5))


@dataclass(frozen=True)
class Ramps(Source):
    """Five planes, each of one value."""

    info: SourceInfo = RAMPS

    def open(self) -> Reader:
        return _Ramps()


class _Ramps(Reader):
    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        out[:height, :width] = 10 * plane
        return out[:height, :width]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_corrupt_tiles_are_filled_in_their_own_plane(folder, tmp_path, n_workers):
    broken = tmp_path / "broken.ome.tif"
    data = bytearray((folder / "rgb.ome.tif").read_bytes())
    with tifffile.TiffFile(folder / "rgb.ome.tif") as tiff:
        page = tiff.pages[1].aspage()
        start, count = page.dataoffsets[5], page.databytecounts[5]
    data[start : start + count] = bytes(count)
    broken.write_bytes(data)
    report = slidewright.convert(
        broken, tmp_path / "out.ome.tif", z="all", on_corrupt="fill", keep_tiles="never", background="red",
        **{**MADE, "n_workers": n_workers},
    )  # fmt: skip
    assert report.corrupt_tiles == 1
    wanted = RGB.copy()
    wanted[1, TILE : 2 * TILE, TILE : 2 * TILE] = (255, 0, 0)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.ome.tif"), wanted)


def test_transparent_stacks_are_laid_on_white(tmp_path):
    clear = np.zeros((2, 80, 80, 4), np.uint8)
    clear[1, :, :, 0], clear[1, :, :, 3] = 200, 255
    slidewright.convert(clear, tmp_path / "out.ome.tif", axes="zyxc", z="all", alpha="compose", **MADE)
    found = tifffile.imread(tmp_path / "out.ome.tif")
    assert (found[0] == 255).all()
    assert (found[1] == (200, 0, 0)).all()


def test_wide_strips_of_a_stack_are_unpacked_plane_by_plane(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("slidewright.sources.access.unpack.CACHE_BYTES", 1000)
    for name, planes, photometric in (("rgb", RGB, "rgb"), ("grey", LABELS, "minisblack")):
        source = tmp_path / f"{name}.tif"
        axes = {"axes": "ZYXS" if name == "rgb" else "ZYX"}
        tifffile.imwrite(
            source, planes, photometric=photometric, rowsperstrip=8, compression="deflate", metadata=axes, ome=True
        )
        slidewright.convert(source, tmp_path / f"{name}.ome.tif", z="all", kind=name, **MADE)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / f"{name}.ome.tif"), planes)


def test_an_object_that_names_its_axes_is_read_by_them(tmp_path):
    class Named:
        dims = ("time", "z", "channel", "y", "x")

        def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
            return TZC

    slidewright.convert(Named(), tmp_path / "out.ome.tif", z="all", t=1, **MADE)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.ome.tif"), TZC[1])


def test_the_page_about_a_run_shows_a_stack(folder, tmp_path):
    page = tmp_path / "run.html"
    slidewright.convert(folder / "rgb.ome.tif", tmp_path / "out.ome.tif", z="all", report=page, **MADE)
    assert "data:image/png" in page.read_text()


def by_libvips(path: Path, planes: NDArray[Any], order: str, data: str = "", **sizes: int) -> None:
    """As its documentation makes an OME-TIFF, whose XML does not say of any plane where it is."""
    pages = [pyvips.Image.new_from_array(plane) for plane in planes.reshape(-1, *planes.shape[-2:])]
    joined = pyvips.Image.arrayjoin(pages, across=1).copy()
    joined.set_type(pyvips.GValue.gint_type, "page-height", planes.shape[-2])
    counts = " ".join(f'{name}="{size}"' for name, size in sizes.items())
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        f'<Pixels ID="Pixels:0" DimensionOrder="{order}" Type="uint16" SizeX="210" SizeY="150" {counts}>{data}</Pixels>'
        "</Image></OME>"
    )
    joined.set_type(pyvips.GValue.gstr_type, "image-description", xml)
    joined.tiffsave(str(path), compression="deflate", tile=True, pyramid=True, subifd=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("order", ["XYCZT", "XYZTC", "XYTCZ"])
def test_planes_of_an_ome_tiff_that_says_of_none_where_it_is_are_in_its_order(tmp_path: Path, order: str) -> None:
    stored = np.moveaxis(TZC, range(3), [order[:1:-1].index(axis) for axis in "TZC"])
    by_libvips(tmp_path / "a.ome.tif", stored, order, SizeT=2, SizeZ=3, SizeC=2)
    slidewright.convert(tmp_path / "a.ome.tif", tmp_path / "o.ome.tif", z="all", t="all", **MADE)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.ome.tif"), TZC)
    slidewright.convert(tmp_path / "a.ome.tif", tmp_path / "p.tif", t=1, z=2, **MADE)
    source = slidewright.open_source(tmp_path / "p.tif")
    found = source.open().read(0, 0, 150, 210, np.empty((150, 210, 2), np.uint16))
    np.testing.assert_array_equal(np.moveaxis(found, 2, 0), TZC[1, 2])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("data", [{"SizeC": 4}, {"SizeC": 3, "data": "<MetadataOnly/>"}])
def test_planes_of_which_an_ome_tiff_says_something_else_are_a_stack_of_images(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    by_libvips(tmp_path / "a.ome.tif", TZC[:, :, 0].reshape(-1, 150, 210)[:3], "XYCZT", SizeT=1, SizeZ=1, **data)
    assert slidewright.open_source(tmp_path / "a.ome.tif", z=1).info.samples == 1
    with pytest.raises(SourceError, match="is a stack of images"):
        slidewright.open_source(tmp_path / "a.ome.tif")


def test_damaged_page_of_a_stack_is_named_by_the_number_that_chooses_it(tmp_path: Path) -> None:
    """Whatever the order of its axes is in the file."""
    path, planes = tmp_path / "in.ome.tif", np.zeros((2, 3, 4, 40, 60), np.uint8)
    tifffile.imwrite(path, planes, metadata={"axes": "TCZYX"}, photometric="minisblack", tile=(32, 32), compression=8)
    with tifffile.TiffFile(path) as tiff, path.open("r+b") as file:
        file.seek(tiff.pages[7].dataoffsets[1])
        file.write(b"\x55" * tiff.pages[7].databytecounts[1])
    with pytest.raises(CorruptTileError, match="page 7, tile at row 0, column 1 does not decode"):
        slidewright.convert(path, tmp_path / "out.ome.tif", z="all", t="all", **MADE)
    with pytest.raises(CorruptTileError, match="tile at row 0, column 1 does not decode"):
        slidewright.convert(path, tmp_path / "out.tif", page=7, **MADE)
