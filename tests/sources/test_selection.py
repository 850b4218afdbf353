"""One plane of a stack with all its channels, and a region of any source, through everything that converts."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from able_source import SIDE, AbleSource
from reading import assert_reads_like
from written import assert_levels_equal_oracle, digest

import slidewright
from slidewright.cli.main import main
from slidewright.errors import OptionError, SourceError
from slidewright.sources.open import open_source

STACK = np.random.default_rng(2).integers(0, 60_000, (2, 3, 4, 90, 130), np.uint16)  # T, Z, C, Y, X
PIXELS = np.random.default_rng(3).integers(0, 255, (150, 203, 3), np.uint8)
REGION = (37, 21, 120, 99)


@pytest.mark.parametrize("kind", ["ome.tif", "imagej.tif", "imagej large.tif", "zarr"])
def test_plane_of_a_stack_has_all_its_channels(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    if kind == "zarr":
        stored = STACK.transpose(0, 2, 1, 3, 4)  # T, C, Z, Y, X
        zarr.create_array(path, shape=stored.shape, chunks=(1, 1, 1, 64, 64), dtype=stored.dtype)[...] = stored
    elif kind == "ome.tif":
        tifffile.imwrite(path, STACK, ome=True, metadata={"axes": "TZCYX"}, tile=(64, 64), compression="zlib")
    else:
        tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "TZCYX"}, contiguous=True)
    for t, z in itertools.product(range(2), range(3)):
        assert_reads_like(open_source(path, z=z, t=t), STACK[t, z].transpose(1, 2, 0))
    with pytest.raises(SourceError, match="choose one with"):
        open_source(path, z=1)
    with pytest.raises(OptionError, match="has no z 3"):
        open_source(path, z=3, t=0)


def test_plane_of_a_stack_of_greys_or_colours(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "grey.ome.tif", STACK[0, :, 0], ome=True, metadata={"axes": "ZYX"})
    colours = np.stack([PIXELS, 255 - PIXELS])
    tifffile.imwrite(tmp_path / "rgb.ome.tif", colours, ome=True, photometric="rgb", metadata={"axes": "ZYXS"})
    assert_reads_like(open_source(tmp_path / "grey.ome.tif", z=2), STACK[0, 2, 0])
    assert_reads_like(open_source(tmp_path / "rgb.ome.tif", z=1), colours[1])
    tifffile.imwrite(tmp_path / "flat.tif", PIXELS, photometric="rgb")
    assert_reads_like(open_source(tmp_path / "flat.tif", z=0, t=0), PIXELS)
    with pytest.raises(OptionError, match="has no z 1; it has only 0"):
        open_source(tmp_path / "flat.tif", z=1)
    with pytest.raises(OptionError, match="page chooses one image by itself"):
        open_source(tmp_path / "flat.tif", page=0, z=1)


def sources(tmp_path: Path) -> dict[str, Any]:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", tile=(64, 64), compression="zlib")
    np.save(tmp_path / "a.npy", PIXELS)
    return {"tiff": tmp_path / "a.tif", "npy": tmp_path / "a.npy", "array": PIXELS}


@pytest.mark.parametrize("kind", ["tiff", "npy", "array"])
@pytest.mark.parametrize("workers", [0, 2])
def test_region_is_an_image_of_its_own(kind: str, workers: int, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    options: dict[str, Any] = {"tile_size": 64, "compression": "deflate", "n_workers": workers}
    slidewright.convert(sources(tmp_path)[kind], out, region=REGION, **options)
    x, y, width, height = REGION
    assert_levels_equal_oracle(out, PIXELS[y : y + height, x : x + width], 64)


def test_region_of_functions_datasets_and_level(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb")
    source = open_source(lambda y, x, h, w: PIXELS[y : y + h, x : x + w], shape=PIXELS.shape, region=REGION)
    x, y, width, height = REGION
    assert_reads_like(source, PIXELS[y : y + height, x : x + width], travels=False)
    slidewright.convert(PIXELS, tmp_path / "out.tif", tile_size=64, compression="deflate", n_workers=0)
    half = tifffile.imread(tmp_path / "out.tif", key=1)
    assert_reads_like(open_source(tmp_path / "out.tif", level=1, region=(1, 2, 30, 40)), half[2:42, 1:31])


def test_corrupt_tile_is_filled_where_it_is_in_the_region(tmp_path: Path) -> None:
    path = sources(tmp_path)["tiff"]
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.dataoffsets[5]
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\x55" * 20)
    report = slidewright.convert(
        path, tmp_path / "out.tif", region=(50, 10, 100, 90), tile_size=64, compression="deflate", n_workers=2,
        on_corrupt="fill", background="black",
    )  # fmt: skip
    expected = PIXELS.copy()
    expected[64:128, 64:128] = 0
    assert report.corrupt_tiles == 1
    assert_levels_equal_oracle(tmp_path / "out.tif", expected[10:100, 50:150], 64)


def test_region_passes_on_what_a_source_can_do() -> None:
    whole = open_source(AbleSource(), region=(0, 0, SIDE, SIDE))
    assert (whole.identity(), whole.info.associated) == ({"able": False, "region": [0, 0, SIDE, SIDE]}, ("label",))


def test_every_verb_makes_the_same_of_a_region(tmp_path: Path) -> None:
    path = sources(tmp_path)["tiff"]
    options = ["--tile-size", "64", "--compression", "deflate", "--workers", "1", "--block-tiles", "1"]
    region = ["--region", ",".join(map(str, REGION))]
    assert main(["convert", str(path), str(tmp_path / "a-convert.tif"), *options, *region]) == 0
    assert main(["convert", str(path), str(tmp_path / "a-resume.tif"), "--resume", *options, *region]) == 0
    for index in ("0", "1"):
        arguments = ["shard", str(path), str(tmp_path / "shards"), "--index", index, "--count", "2", *options, *region]
        assert main(arguments) == 0
    assert main(["assemble", str(tmp_path / "shards"), str(tmp_path / "a-shards.tif")]) == 0
    cells = '"' + ",".join(map(str, REGION)) + '"'
    (tmp_path / "m.csv").write_text(f"source,destination,region\na.tif,a-batch.tif,{cells}\n")
    assert main(["batch", str(tmp_path / "m.csv"), *options]) == 0
    assert len({digest(made) for made in tmp_path.glob("a-*.tif")}) == 1
    assert len(list(tmp_path.glob("a-*.tif"))) == 4
    x, y, width, height = REGION
    assert_levels_equal_oracle(tmp_path / "a-batch.tif", PIXELS[y : y + height, x : x + width], 64)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((0, 0, 204, 10), "does not lie inside .* which is 203 x 150"),
        ((-1, 0, 10, 10), "must be x, y, width and height"),
        ((0, 0, 0, 10), "must be x, y, width and height"),
        ((0, 0, 10), "must be x, y, width and height"),
        ((0, 0, 1.5, 10), "must be x, y, width and height"),
    ],
)
def test_impossible_regions_are_refused(region: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        open_source(PIXELS, region=region)


def test_channels_that_bio_formats_counts_as_images_of_one_page_are_read(tmp_path: Path) -> None:
    planes = np.arange(3 * 40 * 50, dtype=np.uint8).reshape(3, 40, 50)
    said = "ImageJ=\nhyperstack=true\nimages=3\nchannels=3\nslices=1\nframes=1\n"
    tifffile.imwrite(
        tmp_path / "s.tif", planes, photometric="rgb", planarconfig="separate", description=said, metadata=None
    )
    source = open_source(tmp_path / "s.tif")
    assert (source.info.samples, source.info.kind) == (3, "rgb")
    tifffile.imwrite(tmp_path / "cut.tif", planes[0], description=said, metadata=None)
    with pytest.raises(SourceError, match="put 3 images into it"):
        open_source(tmp_path / "cut.tif")


def test_page_or_series_has_the_size_of_its_own_pixels(tmp_path: Path) -> None:
    def said(words: str) -> dict[str, Any]:
        head = f"Aperio Image Library v10\n203x150 {words}|AppMag = 20|MPP = 0.5"
        return {"photometric": "rgb", "description": head, "metadata": None}

    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        tiff.write(PIXELS, tile=(64, 64), **said("(64x64)"))
        tiff.write(PIXELS[::2, ::2], rowsperstrip=16, **said("-> 102x75 - "))
        tiff.write(PIXELS[:37, :50], tile=(64, 64), **said("-> 50x37"))
        tiff.write(PIXELS[:20, :30], rowsperstrip=16, subfiletype=1, **said("\nlabel 30x20"))
    mpp = [open_source(tmp_path / "a.svs", page=page).info.mpp for page in range(4)]
    assert mpp == [(0.5, 0.5), None, (2.0, 2.0), None]
    assert [open_source(tmp_path / "a.svs", series=series).info.mpp for series in range(3)] == [(0.5, 0.5), None, None]


def test_page_of_an_ome_tiff_is_described_by_its_own_image(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as tiff:
        for number, grey in enumerate((PIXELS[..., 0], PIXELS[:80, :70, 1])):
            size = {f"PhysicalSize{axis}": 0.5 + number for axis in "XY"}
            tiff.write(grey, metadata={"axes": "YX", **size, "Channel": {"Name": [f"stain {number}"]}})
    for number in range(2):
        for chosen in ({"page": number}, {"series": number}):
            info = open_source(tmp_path / "a.ome.tif", **chosen).info
            assert info.mpp == (0.5 + number, 0.5 + number)
            assert [channel.name for channel in info.metadata.channels] == [f"stain {number}"]


def test_images_without_pixels_are_not_counted_among_those_of_an_ome_tiff(tmp_path: Path) -> None:
    images = "".join(
        f'<Image ID="Image:{n}" Name="{name}"><Pixels ID="Pixels:{n}" DimensionOrder="XYCZT" Type="uint8" SizeX="203" '
        f'SizeY="150" SizeC="1" SizeZ="1" SizeT="1" PhysicalSizeX="{mpp}" PhysicalSizeY="{mpp}">'
        f'<Channel ID="Channel:{n}:0" Name="{name}" SamplesPerPixel="1"/>{data}</Pixels></Image>'
        for n, name, mpp, data in ((0, "lost", 9, "<MetadataOnly/>"), (1, "kept", 0.5, '<TiffData PlaneCount="1"/>'))
    )
    xml = f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">{images}</OME>'
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS[..., 0], description=xml, metadata=None)
    info = open_source(tmp_path / "a.ome.tif").info
    assert info.mpp == (0.5, 0.5)
    assert [channel.name for channel in info.metadata.channels] == ["kept"]
