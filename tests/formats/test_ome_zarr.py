"""OME-Zarr: what is written is what the oracle says, in zarr-python, in both validators and in eight other readers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from fake_sources import SlowSource
from oracle import pyramid
from written import image

import slidewright
from slidewright.conversions import destination
from slidewright.errors import DestinationError, OptionError, OutputError, SourceError, VerifyError
from slidewright.formats import zarr_json, zarr_shard
from slidewright.formats.ome_zarr import OmeZarrFormat
from slidewright.inspection.verify import verify_file
from slidewright.inspection.zarr_pyramid import ZarrPyramid
from slidewright.tiff.page import TiledImage

TESTS = Path(__file__).parents[1]
READERS_PYTHON = Path(os.environ.get("SLIDEWRIGHT_READERS", "none")) / "zarr" / "bin" / "python"
KNOWN_FAILURES = {
    "GDAL": {"0.5": "Unsupported codec: sharding_indexed"},
    "xarray": {"0.4": "missing the attribute `_ARRAY_DIMENSIONS`"},  # which NGFF does not have
}
SMALL: dict[str, Any] = {"tile_size": 32, "block_tiles": 2, "n_workers": 0}


def labels(height: int, width: int, dtype: str = "uint8") -> Any:
    y, x = np.mgrid[:height, :width]
    return ((x // 21 + y // 17) % 5).astype(dtype)


IMAGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "rgb": (image(150, 203), {}),
    "rgba": (image(150, 203, 4), {}),
    "rgb16": (image(150, 203, 3, "uint16"), {"kind": "rgb"}),
    "grey": (image(150, 203, 1), {}),
    "channels": (image(150, 203, 5, "uint16"), {"kind": "multichannel"}),
    "signed": (image(150, 203, 1, "int16"), {}),
    "float": (image(150, 203, 1, "uint16").astype(np.float32) / 4, {}),
    "labels": (labels(150, 203), {"colormap": {0: "black", 1: "red", 4: "#00ff80"}}),
    "labels32": (labels(150, 203, "uint32"), {"kind": "labels"}),
    "mask": (labels(150, 203) > 2, {}),
}


def expected_levels(pixels: Any, kind: str, tile: int = 32) -> list[Any]:
    """As (channels,) y, x."""
    masks = kind in ("labels", "labels32", "mask")
    pixels = pixels.astype(np.uint8) if pixels.dtype == bool else pixels
    levels = pyramid(pixels, tile, "nearest" if masks else "mean")
    return [level.transpose(2, 0, 1) if level.shape[2] > 1 else level[:, :, 0] for level in levels]


def assert_levels(path: Path, expected: list[Any]) -> None:
    group = zarr.open_group(path, mode="r")
    attributes = dict(group.attrs)
    datasets = attributes.get("ome", attributes)["multiscales"][0]["datasets"]
    assert len(datasets) == len(expected)
    for dataset, level in zip(datasets, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(group[dataset["path"]]), level, err_msg=dataset["path"])


def assert_valid(path: Path, version: str) -> None:
    yaozarrs = pytest.importorskip("yaozarrs")
    models = pytest.importorskip("ome_zarr_models")
    yaozarrs.validate_zarr_store(str(path))
    assert models.open_ome_zarr(zarr.open_group(path, mode="r")).ome_zarr_version == version


def files(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize("kind", IMAGES)
def test_every_kind_is_valid_and_exact_at_every_level(tmp_path: Path, kind: str, ngff: str) -> None:
    pixels, options = IMAGES[kind]
    path = tmp_path / "out.ome.zarr"
    report = slidewright.convert(pixels, path, mpp=0.25, ngff=ngff, verify=True, **SMALL, **options)
    expected = expected_levels(pixels, kind)
    assert_levels(path, expected)
    assert_valid(path, ngff)
    assert report.bytes == sum(map(len, files(path).values()))
    assert sum(level.bytes for level in report.levels) < report.bytes
    assert [name.name for name in tmp_path.iterdir()] == ["out.ome.zarr"]


@pytest.mark.parametrize("kind", ["rgb", "channels"])
@pytest.mark.parametrize("compression", ["zstd", "blosc", "gzip", "none"])
@pytest.mark.parametrize("shard", [0, 2, None])
def test_codecs_and_shards_of_every_size_hold_the_same_pixels(
    tmp_path: Path, kind: str, compression: str, shard: int | None
) -> None:
    pixels, options = IMAGES[kind]
    path = tmp_path / "out.zarr"
    slidewright.convert(pixels, path, compression=compression, zarr_shard=shard, **SMALL, **options)
    assert_levels(path, expected_levels(pixels, kind))
    chunks = [name for name in files(path) if name.startswith("0/c/")]
    planes = 5 if kind == "channels" else 1
    assert len(chunks) == planes * {0: 5 * 7, 2: 3 * 4, None: 1}[shard]
    assert [check.exact for check in verify_file(path, against=pixels, n_workers=1).levels] == [True] * 4


@pytest.mark.parametrize("kind", ["rgb", "channels", "labels"])
def test_the_files_are_the_same_for_any_number_of_workers(tmp_path: Path, kind: str) -> None:
    pixels, options = IMAGES[kind]
    found = []
    for workers in (0, 1, 2):
        path = tmp_path / f"{workers}.ome.zarr"
        slidewright.convert(pixels, path, zarr_shard=2, **{**SMALL, "n_workers": workers}, **options)
        found.append(files(path))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
@pytest.mark.parametrize("kind", ["rgb", "channels", "labels"])
def test_other_readers_see_the_same_pixels(tmp_path: Path, kind: str, ngff: str) -> None:
    if not READERS_PYTHON.exists():
        pytest.skip("SLIDEWRIGHT_READERS names no folder with the environment of zarr (tests/readers/environments.py)")
    pixels, options = IMAGES[kind]
    path = tmp_path / "out.ome.zarr"
    slidewright.convert(pixels, path, ngff=ngff, zarr_shard=2 if ngff == "0.5" else None, **SMALL, **options)
    np.savez(tmp_path / "levels.npz", *expected_levels(pixels, kind))
    command = [str(READERS_PYTHON), str(TESTS / "zarr_readers.py"), str(path), str(tmp_path / "levels.npz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    for reader, word in found.items():
        assert word in ("exact", "absent") or KNOWN_FAILURES.get(reader, {}).get(ngff, "?") in word, found


def test_a_wide_row_of_shards_keeps_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_shard, "MAX_OPEN", 2)
    pixels = image(100, 400)
    slidewright.convert(pixels, tmp_path / "out.zarr", zarr_shard=2, **SMALL)
    assert_levels(tmp_path / "out.zarr", expected_levels(pixels, "rgb"))


@pytest.mark.parametrize("shard", [0, 2])
def test_chunks_of_background_are_left_out(tmp_path: Path, shard: int) -> None:
    pixels = np.full((128, 128, 3), 255, np.uint8)
    pixels[:20, :20] = 7
    path = tmp_path / "out.zarr"
    report = slidewright.convert(pixels, path, zarr_shard=shard, **SMALL)
    assert_levels(path, expected_levels(pixels, "rgb"))
    assert len([name for name in files(path) if name.startswith("0/c/")]) == 1
    assert report.levels[0].tiles == 16
    assert verify_file(path, against=pixels).levels[0].exact


def test_a_round_trip_from_tiff_and_back_is_exact(tmp_path: Path) -> None:
    pixels = image(150, 203)
    icc = b"\0\0\0\x80profile" * 9
    source = tmp_path / "source.tif"
    tifffile.imwrite(
        source,
        pixels,
        tile=(32, 32),
        photometric="rgb",
        iccprofile=icc,
        description="a slide",
        metadata=None,
        resolution=(40000, 20000),
        resolutionunit="CENTIMETER",
    )
    everything = {"keep_metadata": "all", **SMALL}
    slidewright.convert(source, tmp_path / "there.ome.zarr", **everything)
    slidewright.convert(tmp_path / "there.ome.zarr", tmp_path / "back.tif", compression="zstd", **everything)
    with tifffile.TiffFile(tmp_path / "back.tif") as tiff:
        np.testing.assert_array_equal(tiff.pages[0].asarray(), pixels)
        assert tiff.pages[0].iccprofile == icc
        assert "a slide" in tiff.pages[0].description
    assert slidewright.info(tmp_path / "back.tif").mpp == pytest.approx((0.25, 0.5))


@pytest.mark.parametrize("kind", ["labels", "mask", "channels", "rgb16"])
def test_kind_and_colours_come_back_from_a_round_trip(tmp_path: Path, kind: str) -> None:
    pixels, options = IMAGES[kind]
    slidewright.convert(pixels, tmp_path / "a.tif", compression="zstd", **SMALL, **options)
    slidewright.convert(pixels, tmp_path / "b.zarr", **SMALL, **options)
    slidewright.convert(tmp_path / "b.zarr", tmp_path / "c.tif", compression="zstd", **SMALL)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "c.tif").read_bytes()


def test_scales_translations_and_units_follow_from_mpp(tmp_path: Path) -> None:
    slidewright.convert(image(150, 203), tmp_path / "a.zarr", mpp=(0.25, 0.5), **SMALL)
    multiscale = zarr.open_group(tmp_path / "a.zarr", mode="r").attrs["ome"]["multiscales"][0]
    assert [axis.get("unit") for axis in multiscale["axes"]] == [None, "micrometer", "micrometer"]
    scale, translation = multiscale["datasets"][2]["coordinateTransformations"]
    assert scale == {"type": "scale", "scale": [1, 2, 1]}
    assert translation == {"type": "translation", "translation": [0, 0.75, 0.375]}
    slidewright.convert(labels(150, 203), tmp_path / "b.zarr", kind="labels", **SMALL)
    multiscale = zarr.open_group(tmp_path / "b.zarr", mode="r").attrs["ome"]["multiscales"][0]
    assert multiscale["axes"] == [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    assert multiscale["datasets"][1]["coordinateTransformations"][1]["translation"] == [0, 0]  # nearest


def test_channels_have_windows_of_what_there_is_and_labels_have_colours(tmp_path: Path) -> None:
    pixels = np.stack([np.full((64, 64), 1000), np.full((64, 64), 30)], 2).astype(np.uint16)
    pixels[:32, :, 0] = 4000
    slidewright.convert(pixels, tmp_path / "a.zarr", kind="multichannel", **SMALL)
    first, second = zarr.open_group(tmp_path / "a.zarr", mode="r").attrs["ome"]["omero"]["channels"]
    assert first["window"] == {"min": 0, "max": 65535, "start": 1000, "end": 4000}
    assert second["window"] == {"min": 0, "max": 65535, "start": 30, "end": 31}
    slidewright.convert(IMAGES["labels"][0], tmp_path / "b.zarr", **SMALL, **IMAGES["labels"][1])
    colors = zarr.open_group(tmp_path / "b.zarr", mode="r").attrs["ome"]["image-label"]["colors"]
    assert colors[1] == {"label-value": 1, "rgba": [255, 0, 0, 255]}
    assert colors[4] == {"label-value": 4, "rgba": [0, 255, 128, 255]}


def test_names_colours_and_optics_are_said_and_come_back(tmp_path: Path) -> None:
    pixels, options = IMAGES["channels"]
    names, colors = ["DAPI", "CD3", "CD8", "CK", "AF"], ["blue", "red", "lime", "white", "#102030"]
    said = {"channel_names": names, "channel_colors": colors, "objective_power": 20}
    slidewright.convert(pixels, tmp_path / "a.ome.zarr", **said, **SMALL, **options)
    channels = zarr.open_group(tmp_path / "a.ome.zarr", mode="r").attrs["ome"]["omero"]["channels"]
    assert [channel["label"] for channel in channels] == names
    assert [channel["color"] for channel in channels] == ["0000FF", "FF0000", "00FF00", "FFFFFF", "102030"]
    found = slidewright.open_source(tmp_path / "a.ome.zarr").info.metadata
    assert found.objective_power == 20
    assert [channel.name for channel in found.channels] == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "deflate"}, "'deflate' is for TIFF, not for OME-Zarr; choose one of none, jpeg, jpeg2000"),
        ({"predictor": True}, "predictor is TIFF's"),
        ({"bigtiff": False}, "classic TIFF"),
        ({"flavour": "aperio"}, "flavour is for a TIFF"),
        ({"associated": ["thumbnail"]}, "associated is for a TIFF"),
        ({"ngff": "0.4", "zarr_shard": 2}, "no shards"),
        ({"zarr_shard": 3}, "not a power of two"),
        ({"ngff": "0.3"}, "choose one of 0.4, 0.5"),
        ({"kind": "binary", "bits": 1}, "no single bits"),
    ],
)
def test_options_that_make_no_sense_for_it_are_refused(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        slidewright.convert(np.zeros((64, 64), np.uint8), tmp_path / "out.ome.zarr", **{**SMALL, **options})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "blosc"}, "'blosc' is for OME-Zarr, not for TIFF"),
        ({"zarr_shard": 2}, "zarr_shard is for an OME-Zarr"),
        ({"ngff": "0.5"}, "ngff is for an OME-Zarr"),
    ],
)
def test_a_tiff_refuses_what_is_for_an_ome_zarr(tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        slidewright.convert(np.zeros((64, 64), np.uint8), tmp_path / "out.tif", **SMALL, **options)


def test_an_existing_store_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "out.ome.zarr"
    slidewright.convert(image(64, 64), path, **SMALL)
    with pytest.raises(DestinationError, match="exists"):
        slidewright.convert(image(64, 64), path, **SMALL)
    other = image(64, 64, seed=1)
    slidewright.convert(other, path, overwrite=True, **SMALL)
    assert_levels(path, expected_levels(other, "rgb"))
    assert [name.name for name in tmp_path.iterdir()] == ["out.ome.zarr"]


def test_tiles_and_regions_of_a_writer_are_written_to_it(tmp_path: Path) -> None:
    pixels = image(100, 130)
    with slidewright.PyramidWriter(tmp_path / "a.ome.zarr", pixels.shape, tile_size=32, n_workers=1) as writer:
        for row, column in reversed(list(np.ndindex(4, 5))):
            writer.write_tile(pixels[row * 32 : (row + 1) * 32, column * 32 : (column + 1) * 32], row, column)
    assert_levels(tmp_path / "a.ome.zarr", expected_levels(pixels, "rgb"))
    with slidewright.PyramidWriter(tmp_path / "b.ome.zarr", pixels.shape, tile_size=32, n_workers=0) as writer:
        writer.write_region(pixels, 0, 0)
    assert files(tmp_path / "a.ome.zarr") == files(tmp_path / "b.ome.zarr")


def test_shards_of_a_job_are_assembled_to_it_and_resume_makes_the_same(tmp_path: Path) -> None:
    source = SlowSource(400, 300)
    slidewright.convert(source, tmp_path / "whole.ome.zarr", **SMALL)
    for index in (1, 0, 2):
        slidewright.shard(source, tmp_path / "parts", index=index, count=3, format="ome-zarr", **SMALL)
    slidewright.assemble(tmp_path / "parts", tmp_path / "joined.ome.zarr", source=source, n_workers=0)
    np.save(tmp_path / "pixels.npy", source.pixels())
    slidewright.convert(tmp_path / "pixels.npy", tmp_path / "again.ome.zarr", resume=True, **SMALL)
    assert files(tmp_path / "joined.ome.zarr") == files(tmp_path / "whole.ome.zarr")
    assert files(tmp_path / "again.ome.zarr") == files(tmp_path / "whole.ome.zarr")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "out.ome.zarr"
    slidewright.convert(image(150, 203), path, zarr_shard=2, **SMALL)
    return path


@pytest.mark.parametrize(
    ("place", "message"),
    [(-3, "checksum"), (-30, r"level 0|outside the shard|checksum"), (100, "does not decode|differs")],
)
def test_verify_names_a_changed_byte(store: Path, place: int, message: str) -> None:
    shard = store / "0/c/0/1/1"
    data = bytearray(shard.read_bytes())
    data[place] ^= 0x55
    shard.write_bytes(data)
    with pytest.raises(VerifyError, match=message):
        verify_file(store, against=image(150, 203), n_workers=1)


def test_verify_names_what_is_cut_short_or_gone(store: Path) -> None:
    shard = store / "0/c/0/1/1"
    whole = shard.read_bytes()
    for data in (whole[:40], whole[:-50], whole + b"more"):
        shard.write_bytes(data)
        with pytest.raises(VerifyError, match="damaged"):
            verify_file(store)
    shard.unlink()
    with pytest.raises(VerifyError, match="level 0, tile at row 2, column 2 differs"):
        verify_file(store, against=image(150, 203))
    (store / "1/zarr.json").unlink()
    with pytest.raises(VerifyError, match="there is no array"):
        verify_file(store)


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_verify_names_a_chunk_that_is_an_empty_file(tmp_path: Path, ngff: str) -> None:
    """As a power cut leaves them; a chunk that is left out has no file."""
    slidewright.convert(image(150, 203), tmp_path / "o.zarr", ngff=ngff, zarr_shard=0, **SMALL)
    (chunk,) = (path for path in (tmp_path / "o.zarr/0").rglob("1") if path.match("0/1/1") and path.is_file())
    chunk.write_bytes(b"")
    with pytest.raises(VerifyError, match="is empty"):
        verify_file(tmp_path / "o.zarr")


@pytest.mark.parametrize(
    "change",
    [
        lambda group: group["attributes"]["ome"]["multiscales"][0]["datasets"][0].update(path="../.."),
        lambda group: group["attributes"]["ome"]["multiscales"][0].pop("axes"),
        lambda group: group["attributes"]["ome"].update(multiscales=[]),
    ],
)
def test_metadata_that_make_no_sense_are_an_error_with_words(store: Path, change: Any) -> None:
    group = json.loads((store / "zarr.json").read_text())
    change(group)
    (store / "zarr.json").write_text(json.dumps(group))
    with pytest.raises(VerifyError, match=r"damaged|outside"):
        verify_file(store)


def test_a_folder_that_is_no_image_is_refused_by_verify(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not an OME-Zarr image"):
        verify_file(tmp_path)


def test_info_tells_of_codec_and_bytes(store: Path) -> None:
    found = slidewright.info(store)
    assert found.format == "ome-zarr 0.5"
    assert [level.compression for level in found.levels] == ["zstd"] * 4
    assert sum(level.bytes or 0 for level in found.levels) < found.bytes == sum(map(len, files(store).values()))
    assert (found.software or "").startswith("slidewright ")


def test_the_page_about_a_run_shows_it(tmp_path: Path) -> None:
    for kind in ("rgb", "channels", "labels"):
        pixels, options = IMAGES[kind]
        page = tmp_path / f"{kind}.html"
        slidewright.convert(pixels, tmp_path / f"{kind}.ome.zarr", report=page, **SMALL, **options)
        text = page.read_text()
        assert f"{kind}.ome.zarr" in text
        assert "data:image/png" in text


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_a_label_image_goes_into_the_labels_of_an_image_and_is_listed(tmp_path: Path, ngff: str) -> None:
    path = tmp_path / "slide.ome.zarr"
    slidewright.convert(image(150, 203), path, ngff=ngff, **SMALL)
    (path / "labels").mkdir()
    pixels, options = IMAGES["labels"]
    for name in ("tissue", "cells"):
        slidewright.convert(pixels, path / "labels" / name, ngff=ngff, **SMALL, **options)
    assert_valid(path, ngff)
    attributes = dict(zarr.open_group(path / "labels", mode="r").attrs)
    assert attributes.get("ome", attributes)["labels"] == ["tissue", "cells"]
    assert_levels(path / "labels/tissue", expected_levels(pixels, "labels"))
    slidewright.convert(path / "labels" / "cells", tmp_path / "cells.tif", compression="zstd", **SMALL)
    with tifffile.TiffFile(tmp_path / "cells.tif") as tiff:
        np.testing.assert_array_equal(tiff.pages[0].asarray(), pixels)
        assert tiff.pages[0].colormap is not None


@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("name", ["labels/b", "7"])
def test_what_goes_into_a_store_has_its_version(tmp_path: Path, ngff: str, name: str) -> None:
    """Readers look for one kind of metadata first, and would not see the image that was there."""
    path, other = tmp_path / "slide.ome.zarr", "0.4" if ngff == "0.5" else "0.5"
    slidewright.convert(image(150, 203), path, ngff=ngff, **SMALL)
    (path / "labels").mkdir()
    before = files(path)
    with pytest.raises(DestinationError, match=f"of NGFF {ngff}"):
        slidewright.convert(labels(150, 203), path / name, kind="labels", ngff=other, **SMALL)
    assert files(path) == before
    slidewright.convert(labels(150, 203), path / name, kind="labels", ngff=ngff, **SMALL)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("home", "name"), [(destination, "sync_folder"), (zarr_json, "FileLock")])
def test_label_that_has_its_name_is_listed_whenever_a_signal_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Any, name: str
) -> None:
    """The exit code is 0 then."""
    slidewright.convert(image(150, 203), tmp_path / "a.ome.zarr", **SMALL)
    group = tmp_path / "a.ome.zarr" / "labels"
    group.mkdir()
    real = getattr(home, name)

    def interrupted(*_: Any, **__: Any) -> None:
        monkeypatch.setattr(home, name, real)
        raise KeyboardInterrupt

    monkeypatch.setattr(home, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        slidewright.convert(labels(150, 203), group / "cells", kind="labels", **SMALL)
    assert json.loads((group / "zarr.json").read_text())["attributes"]["ome"]["labels"] == ["cells"]
    assert sorted(os.listdir(group)) == ["cells", "zarr.json"]


@pytest.mark.timeout(60)
def test_lock_of_a_stopped_process_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    slidewright.convert(image(150, 203), tmp_path / "a.ome.zarr", **SMALL)
    group = tmp_path / "a.ome.zarr" / "labels"
    group.mkdir()
    monkeypatch.setattr(zarr_json, "_PATIENCE", 0.2)
    with open(group / ".slidewright-labels.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(OutputError, match=r"cells' is complete, but .* another process"):
            slidewright.convert(labels(150, 203), group / "cells", kind="labels", **SMALL)
    slidewright.convert(labels(150, 203), group / "others", kind="labels", **SMALL)
    assert sorted(os.listdir(group)) == ["cells", "others", "zarr.json"]


def test_labels_that_come_side_by_side_are_all_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of a batch do: what one reads must be there when it writes."""
    (tmp_path / "labels").mkdir()
    read, names = zarr_json.read_json, [f"cells{number}" for number in range(8)]

    def read_slowly(path: str) -> Any:
        value = read(path)
        time.sleep(0.02)
        return value

    monkeypatch.setattr(zarr_json, "read_json", read_slowly)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: zarr_json.list_label(str(tmp_path / "labels"), name, "0.5"), names))
    listed = json.loads((tmp_path / "labels" / "zarr.json").read_text())["attributes"]["ome"]["labels"]
    assert sorted(listed) == names
    assert os.listdir(tmp_path / "labels") == ["zarr.json"]


def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "out.zarr"
    path.mkdir()
    (path / "thesis.txt").write_text("all of it")
    with pytest.raises(DestinationError, match="folder of other things"):
        slidewright.convert(image(64, 64), path, overwrite=True, **SMALL)
    assert (path / "thesis.txt").read_text() == "all of it"


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken(y: int, x: int, height: int, width: int) -> Any:
        if y >= 64:
            raise ValueError("no such pixels")
        return np.zeros((height, width, 3), np.uint8)

    with pytest.raises(SourceError, match="no such pixels"):
        slidewright.convert(broken, tmp_path / "out.ome.zarr", shape=(150, 203, 3), dtype="uint8", **SMALL)
    assert not list(tmp_path.iterdir())


def test_a_batch_writes_stores_and_skips_those_that_are_done(tmp_path: Path) -> None:
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", image(64, 80, seed=number))
    given: dict[str, Any] = {"suffix": ".ome.zarr", "tile_size": 32, "n_workers": 0}
    first = slidewright.batch(str(tmp_path / "*.npy"), tmp_path / "out", **given)
    again = slidewright.batch(str(tmp_path / "*.npy"), tmp_path / "out", **given)
    assert [item.status for item in first.items] == ["done", "done"]
    assert [item.status for item in again.items] == ["skipped", "skipped"]
    for number in range(2):
        assert_levels(tmp_path / "out" / f"{number}.ome.zarr", expected_levels(image(64, 80, seed=number), "rgb"))


@pytest.mark.parametrize("change", ["lost", "edited"])
def test_a_batch_knows_a_store_that_somebody_has_changed_inside(tmp_path: Path, change: str) -> None:
    np.save(tmp_path / "0.npy", image(64, 80))
    given: dict[str, Any] = {"suffix": ".ome.zarr", "tile_size": 32, "n_workers": 0, "zarr_shard": 0}
    slidewright.batch(str(tmp_path / "*.npy"), tmp_path / "out", **given)
    chunk = tmp_path / "out" / "0.ome.zarr" / "0" / "c" / "0" / "1" / "1"
    if change == "lost":
        chunk.unlink()
    else:
        with open(chunk, "r+b") as file:
            file.write(b"precious")
    for more in ({}, {"mpp": 0.3}):
        (item,) = slidewright.batch(str(tmp_path / "*.npy"), tmp_path / "out", **given, **more).items
        assert (item.status, "exists" in (item.error or "")) == ("failed", True)
    assert not chunk.exists() if change == "lost" else chunk.read_bytes().startswith(b"precious")


def test_a_killed_run_leaves_nothing_beside_the_name(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
import slidewright
from fake_sources import SlowSource
if __name__ == "__main__":
    source = SlowSource(640, 640, seconds=0.05)
    slidewright.convert(source, {str(tmp_path / "out.ome.zarr")!r}, tile_size=32, block_tiles=2, n_workers=2)
"""
    child = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: any(name.name.endswith(".partial") for name in tmp_path.iterdir()))
    finally:
        child.kill()
        child.wait()
    wait_until(lambda: not list(tmp_path.iterdir()))


def wait_until(true: Any, seconds: float = 20) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_level_answers_everything_that_is_asked_of_any_image(store: Path) -> None:
    with ZarrPyramid(store) as pyramid:
        for name in [name for name, value in vars(TiledImage).items() if isinstance(value, property)]:
            getattr(pyramid.levels[0], name)
        for name in ("planes", "pages", "others", "kept", "ours", "software", "bytes"):
            getattr(pyramid, name)


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_images_under_numbers_are_a_series_in_one_store(tmp_path: Path, ngff: str) -> None:
    source, store = tmp_path / "in.ome.tif", tmp_path / "all.ome.zarr"
    images = [image(150, 203), image(90, 70, 1, "uint16")[:, :, 0]]
    with tifffile.TiffWriter(source, ome=True) as tiff:
        for pixels in images:
            tiff.write(pixels)
    store.mkdir()
    for number in range(2):
        slidewright.convert(source, store / str(number), series=number, ngff=ngff, **SMALL)
    pytest.importorskip("yaozarrs").validate_zarr_store(str(store))
    for number, kind in enumerate(("rgb", "grey")):
        assert_levels(store / str(number), expected_levels(images[number], kind))
        assert_valid(store / str(number), ngff)
        slidewright.convert(store, tmp_path / "back.tif", series=number, compression="zstd", overwrite=True, **SMALL)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "back.tif"), images[number])


@pytest.mark.parametrize(("shape", "along"), [((900, 1500, 3), True), ((5, 900, 1500), False)])
def test_levels_are_written_as_they_come(tmp_path, monkeypatch, shape, along):
    """What a row of blocks gives is asked for before the next row, whatever its level, in the order that `order` says;
    the planes of an image are asked for one by one.
    """
    asked, plans = [], []
    write = OmeZarrFormat.write

    def recorded(self, path, image, take):
        plans.append(image.plan)

        def note(key):
            asked.append(key)
            return take(key)

        return write(self, path, image, note)

    monkeypatch.setattr(OmeZarrFormat, "write", recorded)
    source = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    out = tmp_path / "o.ome.zarr"
    axes = {} if along else {"axes": "CYX"}
    slidewright.convert(source, out, tile_size=64, block_tiles=4, n_workers=0, zarr_shard=8, compression="zstd", **axes)
    (plan,) = plans
    form = OmeZarrFormat()
    assert asked == [key for key in form.order(plan) if key in set(asked)]  # of files that blocks fill the first alone
    assert {key[0] for key in asked} == set(range(len(plan.levels)))
    assert sum(key[0] == 0 for key in asked) == plan.planes * plan.levels[0].n_tiles
    waves = [form.wave(plan, key) for key in asked]
    first = [key for key in asked if key[0] <= plan.passes[0].top]
    assert plan.passes[0].top > 0
    if along:
        assert first != sorted(first)
        known = [wave for wave in waves if wave is not None]
        assert known == sorted(known)
        assert all((wave is None) == (key[0] > plan.passes[0].top) for wave, key in zip(waves, asked, strict=True))
    else:
        assert asked == sorted(asked)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("version", "name"), [("0.5", "zarr.json"), ("0.4", ".zattrs")])
def test_colours_of_many_labels_are_all_there_in_a_compact_file(tmp_path: Path, version: str, name: str) -> None:
    colors = {index: (index % 251, index % 253, index % 255) for index in range(65_536)}
    given = {"kind": "labels", "colormap": colors, "ngff": version}
    slidewright.convert(labels(150, 203, "uint16"), tmp_path / "a.ome.zarr", **SMALL, **given)
    assert (tmp_path / "a.ome.zarr" / name).stat().st_size < 4_000_000  # it was 10 MB, mostly blanks
    attributes = dict(zarr.open_group(tmp_path / "a.ome.zarr", mode="r").attrs)
    found = attributes.get("ome", attributes)["image-label"]["colors"]
    assert {one["label-value"]: tuple(one["rgba"]) for one in found} == {i: (*c, 255) for i, c in colors.items()}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("count", [1, 3])
def test_what_is_made_up_of_channels_for_viewers_is_said_by_nobody(tmp_path: Path, count: int) -> None:
    pixels = np.zeros((64, 64, count), np.uint16)
    named, coloured = {"channel_names": ["a", "b", "c"][:count]}, {"channel_colors": ["tan"] * count}
    for number, given in enumerate(({}, named, coloured)):
        first, last, plain = (tmp_path / f"{number}{suffix}" for suffix in (".ome.zarr", ".ome.tif", ".tif"))
        slidewright.convert(pixels, first, kind="multichannel" if count > 1 else "grey", n_workers=0, **given)
        slidewright.convert(first, last, n_workers=0)
        found = slidewright.info(last).metadata.channels
        assert [one.name for one in found] == (given.get("channel_names") or [None] * count * bool(given))
        warnings = slidewright.convert(first, plain, n_workers=0).warnings
        assert ["names and colours of its channels" in warning for warning in warnings] == [True] * bool(given)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_colours_that_are_given_and_as_those_that_are_made_up_are_passed_on(tmp_path, ngff):
    """As ImageJ and Bio-Formats have them of a composite."""
    given = {"kind": "multichannel", "channel_colors": ["red", "lime", "blue"], "n_workers": 0}
    slidewright.convert(np.zeros((64, 64, 3), np.uint16), tmp_path / "a.ome.zarr", ngff=ngff, **given)
    slidewright.convert(tmp_path / "a.ome.zarr", tmp_path / "b.ome.zarr", ngff=ngff, n_workers=0)
    slidewright.convert(tmp_path / "b.ome.zarr", tmp_path / "c.ome.tif", n_workers=0)
    found = slidewright.info(tmp_path / "c.ome.tif").metadata.channels
    assert [channel.color for channel in found] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert {channel.name for channel in found} == {None}
