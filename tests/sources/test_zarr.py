"""Zarr sources give zarr's pixels for both formats, any axes and chunks, and follow OME-NGFF metadata."""

from __future__ import annotations

import bz2
import errno
import gzip
import json
import lzma
import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.codecs import BytesCodec, ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import slidewright
from slidewright.errors import CorruptTileError, OptionError, SourceError
from slidewright.sources.access import inflated, zarr_store
from slidewright.sources.access.inflated import InflatedMember
from slidewright.sources.access.zarr_codecs import TooMuchError, decode_within
from slidewright.sources.access.zarr_store import ArchiveStore
from slidewright.sources.base import Source
from slidewright.sources.open import open_source
from slidewright.system.early import ENVIRONMENT

PIXELS = np.random.default_rng(3).integers(0, 256, (130, 170, 3), dtype=np.uint8)


def assert_reads_like(source: Source, expected: NDArray[Any]) -> None:
    info = source.info
    expected = expected.reshape(info.shape)
    reader = pickle.loads(pickle.dumps(source)).open()
    for side in (32, 48, 200):
        out = np.empty((side, side, info.samples), info.dtype)
        for y in range(0, info.size.height, side):
            for x in range(0, info.size.width, side):
                height, width = min(side, info.size.height - y), min(side, info.size.width - x)
                got = reader.read(y, x, height, width, out)
                assert got.dtype == expected.dtype
                np.testing.assert_array_equal(got, expected[y : y + height, x : x + width])
    reader.close()
    reader.close()


def save(where: Any, pixels: NDArray[Any], chunks: tuple[int, ...], **options: Any) -> zarr.Array[Any]:
    array = zarr.create_array(where, shape=pixels.shape, dtype=pixels.dtype, chunks=chunks, **options)
    array[...] = pixels
    return array


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("side", [32, 50, 96, 400])
def test_interleaved_pixels_for_any_chunks(tmp_path: Path, zarr_format: Any, compressors: Any, side: int) -> None:
    path = tmp_path / "a.zarr"
    array = save(path, PIXELS, (side, side, 3), zarr_format=zarr_format, compressors=compressors)
    for source in (open_source(path), open_source(str(path)), open_source(array)):
        assert source.info.format == "zarr"
        assert_reads_like(source, PIXELS)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("shape", "chunks", "order"),
    [
        ((3, 130, 170), (1, 64, 64), (1, 2, 0)),
        ((3, 130, 170), (3, 40, 64), (1, 2, 0)),
        ((1, 3, 1, 130, 170), (1, 1, 1, 64, 64), (3, 4, 1, 0, 2)),
        ((130, 170, 3), (64, 64, 1), (0, 1, 2)),
    ],
)
def test_axes_in_other_orders(tmp_path: Path, shape: Any, chunks: Any, order: Any, zarr_format: Any) -> None:
    path = tmp_path / "a.zarr"
    stored = np.random.default_rng(4).integers(0, 256, shape, dtype=np.uint8)
    save(path, stored, chunks, zarr_format=zarr_format, compressors=None)
    assert_reads_like(open_source(path), stored.transpose(order))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
def test_grey_of_either_byte_order(tmp_path: Path, dtype: str, zarr_format: Any) -> None:
    path = tmp_path / "a.zarr"
    pixels = np.random.default_rng(5).integers(0, 256, (90, 110)).astype(dtype)
    options: dict[str, Any] = {"compressors": None, "zarr_format": zarr_format}
    if zarr_format == 3 and dtype == ">u2":
        options["serializer"] = zarr.codecs.BytesCodec(endian="big")
    save(path, pixels, (32, 48), **options)
    assert_reads_like(open_source(path), pixels.astype(pixels.dtype.newbyteorder("=")))


def test_sharded_fortran_and_transposed_arrays(tmp_path: Path) -> None:
    save(tmp_path / "s.zarr", PIXELS, (32, 32, 3), shards=(64, 64, 3), compressors=None)
    save(tmp_path / "f.zarr", PIXELS, (32, 32, 3), order="F", zarr_format=2, compressors=None)
    transposed = [zarr.codecs.TransposeCodec(order=(1, 0, 2))]
    save(tmp_path / "t.zarr", PIXELS, (32, 32, 3), filters=transposed, compressors=None)
    for name in "sft":
        assert_reads_like(open_source(tmp_path / f"{name}.zarr"), PIXELS)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("compressors", [None, "auto"])
def test_missing_chunks_are_the_fill_value(tmp_path: Path, compressors: Any, zarr_format: Any) -> None:
    path = tmp_path / "a.zarr"
    options = {"zarr_format": zarr_format, "compressors": compressors, "fill_value": 255}
    array = zarr.create_array(path, shape=(100, 100, 3), chunks=(32, 32, 3), dtype="u1", **options)
    array[40:60] = 7
    assert_reads_like(open_source(path), np.asarray(array[...]))


def multiscales(group: Any, version: str, unit: str = "micrometer") -> None:
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": unit} for n in "yx")]
    sets = [
        {"path": str(i), "coordinateTransformations": [{"type": "scale", "scale": [1, 0.5 * 2**i, 0.25 * 2**i]}]}
        for i in range(2)
    ]
    entry = {"axes": axes, "datasets": sets, "version": version}
    group.attrs.update(
        {"multiscales": [entry]} if version == "0.4" else {"ome": {"multiscales": [entry], "version": version}}
    )


@pytest.mark.parametrize(("version", "zarr_format"), [("0.4", 2), ("0.5", 3)])
def test_ome_ngff_level_and_mpp(tmp_path: Path, version: str, zarr_format: Any) -> None:
    path = tmp_path / "a.ome.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    planes = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
    for name, level in (("0", planes), ("1", planes[:, ::2, ::2])):
        array = group.create_array(name, shape=level.shape, dtype="u1", chunks=(1, 64, 64))
        array[...] = level
    multiscales(group, version)
    for target in (path, group):
        source = open_source(target)
        assert source.info.mpp == (0.25, 0.5)
        assert_reads_like(source, PIXELS)
        assert open_source(target, level=1).info.mpp == (0.5, 1.0)
        assert_reads_like(open_source(target, level=1), PIXELS[::2, ::2])
    with pytest.raises(OptionError, match="no level 2"):
        open_source(path, level=2)
    multiscales(group, version, "millimeter")
    assert open_source(path).info.mpp == (250.0, 500.0)
    multiscales(group, version, "parsec")
    assert open_source(path).info.mpp is None


def test_bioformats2raw_series_is_chosen(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for number in range(2):
        group = root.create_group(str(number))
        for name in "01":
            array = group.create_array(name, shape=(3, 20 + number, 30), dtype="u1", chunks=(1, 16, 16))
            array[...] = number
        multiscales(group, "0.4")
    assert open_source(tmp_path / "a.zarr").info.size == (20, 30)
    assert open_source(tmp_path / "a.zarr", series=1).info.size == (21, 30)
    objective = '<Objective ID="O:0" NominalMagnification="40"/>'
    instrument = f'<Instrument ID="I:0"><Microscope Model="AT2"/>{objective}</Instrument>'
    image = '<Image ID="Image:0" Name="jane.svs"><ObjectiveSettings ID="O:0"/><Pixels><Channel/></Pixels></Image>'
    (tmp_path / "a.zarr/OME").mkdir()
    (tmp_path / "a.zarr/OME/METADATA.ome.xml").write_text(f"<OME>{instrument}{image}</OME>")
    said, other = (open_source(tmp_path / "a.zarr", series=n).info.metadata for n in (None, 1))
    assert (said.objective_power, said.scanner_model, said.identifying) == (40, "AT2", (("Name", "jane.svs"),))
    for itself in (tmp_path / "a.zarr/0", f"{tmp_path}/a.zarr/0/", root["0"]):
        assert open_source(itself).info.metadata == said
    assert open_source(tmp_path / "a.zarr/1").info.metadata == other
    assert other.objective_power is None
    several = f"{objective}{objective.replace('40', '10').replace('O:0', 'O:1')}"
    unnamed = image.replace('<ObjectiveSettings ID="O:0"/>', "")
    (tmp_path / "a.zarr/OME/METADATA.ome.xml").write_text(f"<OME>{several}{unnamed}</OME>")
    for path in ("a.zarr", "a.zarr/0"):
        assert [words for words in open_source(tmp_path / path).info.left_out if "its objectives" in words]
    (tmp_path / "a.zarr/OME/METADATA.ome.xml").write_text("<OME")
    assert open_source(tmp_path / "a.zarr").info.metadata.objective_power is None


@pytest.mark.parametrize(
    ("colors", "kind"),
    [
        (("0000FF", "00FF00", "FF0000"), "multichannel"),
        (("0000FF", "00FF00", "FF0000", "FFFF00"), "multichannel"),
        (("FF0000", "00FF00", "0000FF"), None),
        (("FFFFFF",) * 3, None),
    ],
)
def test_channels_in_colours_of_their_own_are_no_rgb(colors: tuple[str, ...], kind: str | None, tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for name in "01":
        group.create_array(name, shape=(len(colors), 40, 60), dtype="u1", chunks=(1, 20, 20))[...] = 7
    multiscales(group, "0.4")
    group.attrs["omero"] = {"channels": [{"label": f"stain {n}", "color": color} for n, color in enumerate(colors)]}
    assert open_source(tmp_path / "a.zarr").info.kind == kind


def test_series_is_one_of_the_images_that_a_group_lists(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    for name, side in (("a", 20), ("b", 25)):
        group.create_array(name, shape=(side, 30), dtype="u1", chunks=(16, 16))
    group.attrs["multiscales"] = [
        {"version": "0.4", "axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": name}]} for name in "ab"
    ]
    sizes = [open_source(tmp_path / "a.zarr", series=series).info.size for series in (None, 0, 1)]
    assert sizes == [(20, 30), (20, 30), (25, 30)]
    with pytest.raises(OptionError, match="has no series 2; "):
        open_source(tmp_path / "a.zarr", series=2)
    assert open_source(tmp_path / "a.zarr", axes="yx").info.size == (20, 30)
    with pytest.raises(OptionError, match=r"axes xy has no meaning for .*, whose axes are yx"):
        open_source(tmp_path / "a.zarr", axes="xy")


def test_plain_group_uses_its_only_array_or_lists_them(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.create_array("image", shape=(20, 30), dtype="u1", chunks=(16, 16))
    assert open_source(group).info.size == (20, 30)
    assert open_source(group["image"]).info.size == (20, 30)
    group.create_array("other", shape=(20, 30), dtype="u1", chunks=(16, 16))
    with pytest.raises(SourceError, match="image, other"):
        open_source(tmp_path / "a.zarr")
    assert open_source(tmp_path / "a.zarr" / "other").info.size == (20, 30)


def test_zip_store_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    store = zarr.storage.ZipStore(path, mode="w")
    save(store, PIXELS, (64, 64, 3), compressors=None)
    store.close()
    assert_reads_like(open_source(path), PIXELS)


def test_memory_store_is_refused_with_a_remedy() -> None:
    array = zarr.create_array(zarr.storage.MemoryStore(), shape=(20, 30), dtype="u1", chunks=(16, 16))
    with pytest.raises(SourceError, match="save it to a folder"):
        open_source(array)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 3, 20, 30), "u1", "axes can't be told"),
        ((20, 30), "f8", r"float64.*astype\('float32'\)"),
        ((20, 30), "i8", r"int64.*astype\('int32'\)"),
        ((2, 1, 1, 20, 30), "u1", "t of 2.*choose one with t"),
        ((1, 101, 1, 20, 30), "u1", "c of 101.*some of its channels"),
        ((120, 30, 140), "u1", "keep some of the channels"),
        ((0, 30), "u1", "no pixel"),
    ],
)
def test_other_arrays_are_refused_with_a_reason(tmp_path: Path, shape: Any, dtype: str, message: str) -> None:
    chunks = tuple(max(1, side) for side in shape)
    zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype=dtype, chunks=chunks)
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / "a.zarr")


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("side", [32, 64])
def test_damaged_chunk_is_named(tmp_path: Path, side: int, compressors: Any) -> None:
    path = tmp_path / "a.zarr"
    save(path, PIXELS, (64, 64, 3), compressors=compressors)
    (path / "c" / "1" / "2" / "0").write_bytes(b"damaged")
    reader = open_source(path).open()
    out = np.empty((64, 64, 3), np.uint8)
    reader.read(0, 0, side, side, out)
    with pytest.raises(CorruptTileError, match="row 1, column 2") as caught:
        reader.read(64, 128, side, side, out)
    assert str(path) in str(caught.value)


def test_damaged_metadata_is_a_source_error(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    save(path, PIXELS, (64, 64, 3))
    (path / "zarr.json").write_text("{")
    with pytest.raises(SourceError, match=str(path)):
        open_source(path)


@settings(max_examples=30)
@given(st.data())
def test_any_region(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("regions") / "a.zarr"
    chunk = data.draw(st.integers(8, 140))
    save(path, PIXELS, (chunk, chunk, 3), compressors=data.draw(st.sampled_from([None, "auto"])))
    reader = open_source(path).open()
    for _ in range(5):
        y, x = data.draw(st.integers(0, 129)), data.draw(st.integers(0, 169))
        height, width = data.draw(st.integers(1, 130 - y)), data.draw(st.integers(1, 170 - x))
        out = np.empty((height, width, 3), np.uint8)
        np.testing.assert_array_equal(reader.read(y, x, height, width, out), PIXELS[y : y + height, x : x + width])


def test_workers_have_zarr_in_one_thread() -> None:
    code = "import zarr; print(zarr.config.get('threading.max_workers'), zarr.config.get('async.concurrency'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(("shape", "dtype"), [((130, 170, 4), "u1"), ((130, 170, 3), "u2"), ((130, 170), "u1")])
def test_array_replaced_by_another_is_an_error(tmp_path: Path, shape: Any, dtype: str) -> None:
    save(tmp_path / "a.zarr", PIXELS, (64, 64, 3))
    source = open_source(tmp_path / "a.zarr")
    zarr.create_array(tmp_path / "a.zarr", shape=shape, dtype=dtype, chunks=shape, overwrite=True)
    with pytest.raises(SourceError, match="start again"):
        source.open()


@pytest.mark.timeout(60)
def test_array_that_another_format_hides_is_refused(tmp_path: Path) -> None:
    """Whoever opens the folder again gets the other array, of the same shape."""
    options = {"shape": (60, 70), "chunks": (32, 32), "dtype": "uint8"}
    old, new = (zarr.create_array(tmp_path / "a.zarr", zarr_format=form, **options) for form in (2, 3))
    old[:], new[:] = 2, 3
    with pytest.raises(SourceError, match="two formats"):
        open_source(old)
    assert_reads_like(open_source(new), np.full((60, 70), 3, np.uint8))


@pytest.mark.parametrize("separator", [".", "/"])
def test_chunks_that_are_named_otherwise_than_the_array_says_are_refused(separator: str, tmp_path: Path) -> None:
    named = {"name": "v2", "separator": separator}
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(40, 60), chunks=(20, 20), dtype="u1", zarr_format=2, chunk_key_encoding=named
    )
    array[...] = 7
    assert open_source(tmp_path / "a.zarr").info.size == (40, 60)
    said = json.loads((tmp_path / "a.zarr" / ".zarray").read_text())
    said["dimension_separator"] = "/" if separator == "." else "."
    (tmp_path / "a.zarr" / ".zarray").write_text(json.dumps(said))
    with pytest.raises(SourceError, match=f'add "dimension_separator": "{separator}"'):
        open_source(tmp_path / "a.zarr")


KEYS = [("default", "/"), ("default", "."), ("v2", "/"), ("v2", ".")]


@pytest.mark.parametrize(("name", "separator"), KEYS)
def test_chunks_of_zarr_v3_that_are_named_otherwise_than_it_says_are_refused(
    name: str, separator: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.zarr"
    save(path, PIXELS, (64, 64, 3), chunk_key_encoding={"name": name, "separator": separator})
    assert_reads_like(open_source(path), PIXELS)
    said = json.loads((path / "zarr.json").read_text())
    for other, mark in KEYS:
        said["chunk_key_encoding"] = {"name": other, "configuration": {"separator": mark}}
        (path / "zarr.json").write_text(json.dumps(said))
        if (other, mark) == (name, separator):
            assert open_source(path).info.size == (130, 170)
            continue
        with pytest.raises(SourceError, match=r"chunk_key_encoding in its zarr\.json the first is"):
            open_source(path)


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("place", ["0/0", "0"])
def test_what_can_be_no_chunk_is_not_background(
    tmp_path: Path, compressors: Any, zarr_format: Any, place: str
) -> None:
    keys = {"name": "v2" if zarr_format == 2 else "default", "separator": "/"}
    path = tmp_path / "a.zarr"
    save(path, PIXELS, (64, 64, 3), compressors=compressors, zarr_format=zarr_format, chunk_key_encoding=keys)
    chunk = path / ("c" if zarr_format == 3 else "") / place / ("0" if place == "0/0" else "")
    chunk.rename(tmp_path / "kept")
    if place == "0/0":
        chunk.mkdir()
    else:
        chunk.touch()
    with pytest.raises(SourceError, match=r"0.*can't be"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_array_that_was_resized_after_its_group_was_consolidated_is_read_as_it_is(
    tmp_path: Path, zarr_format: Any
) -> None:
    path, pixels = tmp_path / "a.zarr", PIXELS[:, :, 0]
    keys = {"name": "v2", "separator": "/"} if zarr_format == 2 else None
    array = zarr.open_group(path, mode="w", zarr_format=zarr_format).create_array(
        "0", shape=(100, 170), dtype="u1", chunks=(64, 64), chunk_key_encoding=keys
    )
    array[...] = pixels[:100]
    zarr.consolidate_metadata(path)
    array.resize(pixels.shape)
    array[...] = pixels
    assert_reads_like(open_source(path), pixels)
    assert_reads_like(open_source(zarr.open_group(path, mode="r")), pixels)


@pytest.mark.parametrize(
    "names", [("x", "y"), ("width", "height"), ("Lon", "Lat"), ("col", "row"), ("columns", "rows"), ("WIDTH", "HEIGHT")]
)
def test_usual_names_of_x_and_y_tell_the_axes(tmp_path: Path, names: tuple[str, str]) -> None:
    grey, turned = PIXELS[:, :, 0], PIXELS.transpose(1, 0, 2)
    save(tmp_path / "a.zarr", grey.T.copy(), (64, 64), dimension_names=names)
    assert_reads_like(open_source(tmp_path / "a.zarr"), grey)
    save(tmp_path / "b.zarr", turned, (64, 64, 3), dimension_names=(*names, "bands"))
    assert_reads_like(open_source(tmp_path / "b.zarr"), PIXELS)
    save(tmp_path / "c.zarr", turned, (64, 64, 3), dimension_names=("foo", "bar", "baz"))
    assert_reads_like(open_source(tmp_path / "c.zarr"), turned)


@pytest.mark.parametrize("name", ["o.tif", "o.svs", "o.ome.tif", "o.ome.zarr"])
def test_half_characters_in_what_a_source_says_are_replaced(tmp_path: Path, name: str) -> None:
    """JSON can hold them, and no UTF-8 can."""
    source, out = tmp_path / "a.ome.zarr", tmp_path / name
    said = {"description": "of old", "n_workers": 0, "kind": "multichannel", "channel_names": ["DAPI", "CD3"]}
    slidewright.convert(np.zeros((64, 64, 2), np.uint8), source, **said)
    file = source / "zarr.json"
    file.write_text(file.read_text().replace("of old", "caf\\udce9").replace("DAPI", "\\ud83d"))
    assert open_source(source).info.description == "caf\udce9"
    slidewright.convert(source, out, keep_metadata="all", n_workers=0)
    files = filter(Path.is_file, out.rglob("*")) if out.is_dir() else [out]
    texts = [text for file in files for text in (file.read_bytes(), json_again(file))]
    assert any("caf\ufffd".encode() in text for text in texts)
    assert not any(b"\\ud" in text for text in texts)


def json_again(file: Path) -> bytes:
    """What a JSON file says, in UTF-8."""
    return json.dumps(json.loads(file.read_text()), ensure_ascii=False).encode() if file.suffix == ".json" else b""


def test_labels_beside_an_image_are_told_to_be_left_out(tmp_path):
    store = tmp_path / "a.ome.zarr"
    slidewright.convert(np.zeros((64, 64, 3), np.uint8), store, n_workers=0)
    (store / "labels").mkdir()
    slidewright.convert(np.zeros((64, 64), np.uint8), store / "labels" / "cells.zarr", kind="labels", n_workers=0)
    (warning,) = slidewright.convert(store, tmp_path / "out.tif", n_workers=0).warnings
    assert "the labels beside it (cells.zarr)" in warning


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ESTALE])
@pytest.mark.parametrize("shards", [None, (128, 128)])
def test_disk_that_fails_is_no_damage_of_the_store(tmp_path, monkeypatch, number, shards):
    """What is filled is what is damaged; another time the disk gives it."""
    array = zarr.create_array(tmp_path / "s.zarr", shape=(256, 256), chunks=(64, 64), shards=shards, dtype="uint8")
    array[...] = 50
    real = zarr_store.FolderStore._read

    def fail(store, key, byte_range):
        if key.endswith("c/1/1") and (shards is None or getattr(byte_range, "start", 0)):  # a chunk, not the index
            raise OSError(number, os.strerror(number), key)
        return real(store, key, byte_range)

    monkeypatch.setattr(zarr_store.FolderStore, "_read", fail)
    with pytest.raises(SourceError, match=os.strerror(number)) as caught:
        slidewright.convert(tmp_path / "s.zarr", tmp_path / "o.tif", on_corrupt="fill", n_workers=0, tile_size=64)
    assert not isinstance(caught.value, CorruptTileError)
    assert os.listdir(tmp_path) == ["s.zarr"]


@pytest.mark.parametrize("shards", [None, (128, 128)])
def test_lack_of_memory_is_no_damage_of_the_store(tmp_path, monkeypatch, shards):
    """A worker's block is done again by those that are left."""
    zarr.create_array(tmp_path / "s.zarr", shape=(256, 256), chunks=(64, 64), shards=shards, dtype="uint8")[...] = 50
    reader = open_source(tmp_path / "s.zarr").open()

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(zarr_store.FolderStore, "_read", fail)
    with pytest.raises(MemoryError):
        reader.read(0, 0, 64, 64, np.empty((64, 64, 1), np.uint8))


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("how", ["rename", "link"])
def test_folder_above_a_store_that_is_exchanged_in_mid_run_changes_nothing(
    tmp_path: Path, how: str, compressors: Any
) -> None:
    """Chunks came from whatever was there at the moment, and nobody was told once the first was back."""
    for folder, value in (("first", 10), ("second", 200)):
        made: dict[str, Any] = {"shape": (128, 128), "chunks": (64, 64), "dtype": "u1", "compressors": compressors}
        zarr.create_array(tmp_path / folder / "a.zarr", **made)[...] = value
    place = tmp_path / "place"
    place.symlink_to("first") if how == "link" else (tmp_path / "first").rename(place)

    def exchange() -> None:
        if how == "link":
            (tmp_path / "new").symlink_to("second")
            (tmp_path / "new").replace(place)
        else:
            place.rename(tmp_path / "first")
            (tmp_path / "second").rename(place)

    source, out = open_source(place / "a.zarr"), np.empty((64, 64, 1), np.uint8)
    reader = source.open()
    assert np.all(reader.read(0, 0, 64, 64, out) == 10)
    exchange()
    assert np.all(reader.read(64, 64, 64, 64, out) == 10)
    with pytest.raises(SourceError, match="is not the array it was when the run began"):  # as a worker that comes late
        source.open()
    reader.close()


@pytest.mark.parametrize("compressors", [None, "auto"])
def test_array_whose_folder_is_away_for_a_moment_has_no_background(tmp_path: Path, compressors: Any) -> None:
    made: dict[str, Any] = {"shape": (128, 128), "chunks": (64, 64), "dtype": "u1", "compressors": compressors}
    array = zarr.open_group(tmp_path / "g.zarr", mode="w").create_array("a", **made)
    array[:64] = 10
    reader, out = open_source(tmp_path / "g.zarr/a").open(), np.empty((64, 64, 1), np.uint8)
    assert np.all(reader.read(64, 0, 64, 64, out) == 0)  # which has no chunk
    (tmp_path / "g.zarr/a").rename(tmp_path / "a")
    with pytest.raises(SourceError, match="was moved or removed while it was read"):
        reader.read(64, 64, 64, 64, out)
    (tmp_path / "a").rename(tmp_path / "g.zarr/a")
    assert np.all(reader.read(0, 64, 64, 64, out) == 10)
    reader.close()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_blosc_chunk_that_is_cut_short_is_damage(tmp_path: Path, zarr_format: int) -> None:
    """Stored as it is, Blosc copied what lies behind it in memory."""
    compressor = numcodecs.Blosc() if zarr_format == 2 else zarr.codecs.BloscCodec(typesize=1)
    path, pixels = tmp_path / "a.zarr", np.random.default_rng(0).integers(0, 256, (128, 128), np.uint8)
    options: dict[str, Any] = {"shape": pixels.shape, "chunks": (64, 64), "dtype": "u1", "zarr_format": zarr_format}
    zarr.create_array(path, compressors=compressor, **options)[...] = pixels
    chunk = path / ("1.0" if zarr_format == 2 else "c/1/0")
    data = chunk.read_bytes()
    for length in (len(data) - 1, len(data) // 2, 17, 15, 3):
        chunk.write_bytes(data[:length])
        with pytest.raises(CorruptTileError, match="can't be read"):
            slidewright.convert(path, tmp_path / "o.tif", n_workers=0)
    chunk.write_bytes(data)
    slidewright.convert(path, tmp_path / "o.tif", n_workers=0)


@pytest.mark.parametrize("linked", ["c/0/1", "c/0", "c"])
def test_link_to_a_chunk_that_is_not_there_is_no_background(tmp_path: Path, linked: str) -> None:
    """As git-annex and DVC leave them where content is not fetched."""
    save(tmp_path / "a.zarr", np.full((64, 64), 9, np.uint8), (32, 32))
    place = tmp_path / "a.zarr" / linked
    place.rename(tmp_path / "kept")
    place.symlink_to(tmp_path / "gone")
    with pytest.raises(SourceError, match=f"{linked} is a link to what is not there; fetch it"):
        slidewright.convert(tmp_path / "a.zarr", tmp_path / "out.tif", n_workers=0, on_corrupt="fill")
    assert not (tmp_path / "out.tif").exists()
    (tmp_path / "kept").rename(tmp_path / "gone")
    slidewright.convert(tmp_path / "a.zarr", tmp_path / "out.tif", n_workers=0, resume=True)
    assert slidewright.verify_file(tmp_path / "out.tif", against=tmp_path / "a.zarr")


def test_link_to_nowhere_beside_the_chunks_does_not_matter(tmp_path: Path) -> None:
    save(tmp_path / "a.zarr", np.full((64, 64), 9, np.uint8), (32, 32))
    (tmp_path / "a.zarr/notes").symlink_to(tmp_path / "gone")
    slidewright.convert(tmp_path / "a.zarr", tmp_path / "out.tif", n_workers=0, resume=True)


def zipped(path: Path, method: int, members: dict[str, bytes] | None = None) -> Path:
    """The picture as zarr's .zip, with members of it replaced, all written by zipfile in one way of compression."""
    store = zarr.storage.MemoryStore()
    save(store, PIXELS, (64, 64, 3), compressors=None)
    found = {key: buffer.to_bytes() for key, buffer in store._store_dict.items()}
    with zipfile.ZipFile(path, "w", method) as file:
        for key, data in {**found, **(members or {})}.items():
            file.writestr(key, data)
    return path


def test_zip_whose_members_are_compressed_is_read(tmp_path: Path) -> None:
    assert_reads_like(open_source(zipped(tmp_path / "a.zarr.zip", zipfile.ZIP_DEFLATED)), PIXELS)


def archived(store: Path) -> Path:
    """A store's folder as a .zip beside it."""
    path = store.with_suffix(".zarr.zip")
    with zipfile.ZipFile(path, "w") as file:
        for each in sorted(store.rglob("*")):
            if each.is_file():
                file.write(each, each.relative_to(store).as_posix())
    return path


@pytest.mark.parametrize("damage", ["another name", "one name less"])
def test_zip_whose_directory_does_not_name_its_members_is_damaged(damage: str, tmp_path: Path) -> None:
    """What it does not name was background."""
    path = tmp_path / "a.zarr"
    array = zarr.create(store=path, shape=(128, 128), chunks=(64, 64), dtype="uint8", zarr_format=3)
    array[:] = np.full((128, 128), 7, np.uint8)
    store = archived(path)
    open_source(store)
    data = bytearray(store.read_bytes())
    at = data.rindex(b"c/1/0")
    if damage == "another name":
        data[at + 4] ^= 8
    else:
        entry = data.rindex(b"PK\1\2", 0, at)
        end, lost = data.rindex(b"PK\5\6"), data.index(b"PK\1\2", at) - entry
        size = int.from_bytes(data[end + 12 : end + 16], "little") - lost
        data[end + 12 : end + 16] = size.to_bytes(4, "little")
        del data[entry : entry + lost]
    store.write_bytes(data)
    with pytest.raises(SourceError, match=r"has another name|its directory lacks the member"):
        open_source(store)


def test_zip_of_chunks_that_are_named_otherwise_than_it_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    options: dict[str, Any] = {"zarr_format": 2, "dimension_separator": "/"}
    zarr.create(store=path, shape=(128, 128), chunks=(64, 64), dtype="uint8", **options)[:] = 7
    said = json.loads((path / ".zarray").read_text())
    (path / ".zarray").write_text(json.dumps({**said, "dimension_separator": "."}))
    with pytest.raises(SourceError, match=r'its chunks are named with "/", and its \.zarray does not say so'):
        open_source(archived(path))


@pytest.mark.parametrize("where", ["start", "end"])
@pytest.mark.parametrize("form", ["folder", "zip", "url"])
def test_shard_that_is_cut_short_is_damage(where: Any, form: str, tmp_path: Path) -> None:
    """zarr took what lies beyond its end for chunks that were left out, where it reads a part of a shard."""
    plain = [BytesCodec()]
    sharding = ShardingCodec(chunk_shape=(64, 64), codecs=plain, index_location=where, index_codecs=plain)
    pixels = (np.indices((256, 256)).sum(0) % 250 + 1).astype(np.uint8)
    path = tmp_path / "a.zarr"
    options: dict[str, Any] = {"codecs": [sharding], "zarr_format": 3, "dimension_names": ["y", "x"]}
    zarr.create(store=path, shape=pixels.shape, chunks=pixels.shape, dtype="uint8", **options)[:] = pixels
    shard = path / "c" / "0" / "0"
    data, index = shard.read_bytes(), 16 * 16
    half = (len(data) - index) // 2
    shard.write_bytes(data[: index + half] if where == "start" else data[:half] + data[-index:])
    source: Any = path
    if form == "zip":
        source = archived(path)
    if form == "url":
        source = f"file://{path}"
    with pytest.raises(CorruptTileError, match="is cut short: a chunk of it ends at byte"):
        slidewright.convert(source, tmp_path / "o.tif", n_workers=0, tile_size=64)
    report = slidewright.convert(source, tmp_path / "o.tif", n_workers=0, tile_size=64, on_corrupt="fill")
    assert report.corrupt_tiles == 8


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_ranges_and_what_is_missing_in_a_zip(tmp_path: Path, method: int) -> None:
    store = ArchiveStore(zipped(tmp_path / "a.zarr.zip", method, {"a": bytes(range(10))}), mode="r")
    spans = {
        None: range(10), RangeByteRequest(2, 5): range(2, 5), RangeByteRequest(8, 10): range(8, 10),
        OffsetByteRequest(7): range(7, 10), SuffixByteRequest(4): range(6, 10),
    }  # fmt: skip
    prototype = default_buffer_prototype()
    for span, expected in spans.items():
        assert sync(store.get("a", prototype, span)).to_bytes() == bytes(expected)
    for beyond in (RangeByteRequest(8, 1 << 62), RangeByteRequest(20, 30)):
        with pytest.raises(CorruptTileError, match="a is cut short: a chunk of it ends at byte"):
            sync(store.get("a", prototype, beyond))
    first, none = sync(store.get_partial_values(prototype, [("a", RangeByteRequest(0, 1)), ("b", None)]))
    assert (first.to_bytes(), none) == (b"\0", None)
    again = pickle.loads(pickle.dumps(store))
    store.close()
    assert sync(again.get("a")).to_bytes() == bytes(range(10))
    again.close()


def test_parts_of_a_compressed_member_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflated, "_STEP", 1 << 14)
    monkeypatch.setattr(inflated, "_READ", 1000)
    random = np.random.default_rng(0)
    noise, blank = random.bytes(50_000), bytes(300_000)
    steps = np.repeat(np.arange(200), 1000).astype(np.uint8).tobytes()
    for number, data in enumerate((noise, steps, blank, noise + blank + steps, b"", b"a", blank[: 1 << 14])):
        path = tmp_path / f"{number}.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("other", noise)
            file.writestr("a", data)
        with zipfile.ZipFile(path) as file:
            member = InflatedMember(file.fp, file.getinfo("a"))
            assert member.read(0, len(data)) == data
            for _ in range(60):
                start, end = sorted(random.integers(0, len(data) + 1, 2).tolist())
                assert member.read(start, end) == data[start:end]
        whole = path.read_bytes()
        at = whole.rindex(b"PK\x01\x02")
        path.write_bytes(whole[: at + 16] + bytes([whole[at + 16] ^ 1]) + whole[at + 17 :])  # its checksum
        with zipfile.ZipFile(path) as file, pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
            InflatedMember(file.fp, file.getinfo("a"))


def test_shard_in_a_compressed_zip_is_not_inflated_anew_for_each_of_its_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 9, (256, 256), np.uint8)
    store = tmp_path / "a.zarr"
    array = zarr.create_array(store, shape=pixels.shape, shards=(256, 256), chunks=(8, 8), dtype="u1", compressors=None)
    array[:] = pixels
    with zipfile.ZipFile(tmp_path / "a.zarr.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(store.rglob("*")):
            file.write(path, str(path.relative_to(store)))
    made, inflate = [], InflatedMember._inflate
    monkeypatch.setattr(InflatedMember, "_inflate", lambda *given: made.append(given) or inflate(*given))
    assert_reads_like(open_source(tmp_path / "a.zarr.zip"), pixels[:, :, None])
    assert 2 <= len(made) <= 6  # to look through it and to inflate it, for each of the readers


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_endless_metadata_in_a_zip_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: int
) -> None:
    monkeypatch.setattr(zarr_store, "_MAX_METADATA_BYTES", 4096)
    path = zipped(tmp_path / "a.zarr.zip", method, {"zarr.json": b" " * 4096})
    with pytest.raises(SourceError, match="JSONDecodeError"):  # it is read
        open_source(path)
    path = zipped(tmp_path / "a.zarr.zip", method, {"zarr.json": b" " * 4097})
    with pytest.raises(SourceError, match=r"OSError: .*a\.zarr\.zip.zarr\.json has 4097 bytes of metadata"):
        open_source(path)


def test_chunk_that_a_zip_would_inflate_without_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_store, "_MAX_INFLATED_BYTES", 64 * 64 * 3)
    assert_reads_like(open_source(zipped(tmp_path / "a.zarr.zip", zipfile.ZIP_DEFLATED)), PIXELS)
    path = zipped(tmp_path / "a.zarr.zip", zipfile.ZIP_DEFLATED, {"c/1/1/0": bytes(64 * 64 * 3 + 1)})
    out = np.empty((64, 64, 3), np.uint8)
    reader = open_source(path).open()
    reader.read(0, 0, 64, 64, out)
    with pytest.raises(SourceError, match=r"c/1/1/0 would be inflated to 12289 bytes, .* 12288 .*\(zip -0\)") as caught:
        reader.read(64, 64, 64, 64, out)
    assert not isinstance(caught.value, CorruptTileError)
    reader.close()


def test_member_of_a_zip_that_is_more_than_it_says_is_not_inflated(tmp_path: Path) -> None:
    """Asked for all of a member, the zipfile library inflates all that is there, and then cuts it off."""
    path = zipped(tmp_path / "a.zarr.zip", zipfile.ZIP_DEFLATED, {"a": bytes(1 << 25)})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # the last member's place in the directory: what it inflates to at 24
    data[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    store = ArchiveStore(path, mode="r")
    tracemalloc.start()
    try:
        with pytest.raises(zipfile.BadZipFile):
            sync(store.get("a"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
        store.close()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_of_methods_that_cant_be_bounded_is_refused(tmp_path: Path, method: int) -> None:
    with pytest.raises(SourceError, match=f"compressed by the .zip file with method {method}; make the .zip again"):
        open_source(zipped(tmp_path / "a.zarr.zip", method))


def test_member_that_is_larger_than_its_zip_is_refused(tmp_path: Path) -> None:
    """Before room is made for it."""
    path = zipped(tmp_path / "a.zarr.zip", zipfile.ZIP_STORED, {"a": b"abc"})
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 20 : at + 28] = (0xFFFF_FFF0).to_bytes(4, "little") * 2
    path.write_bytes(data)
    store = ArchiveStore(path, mode="r")
    with pytest.raises(OSError, match="a has 4294967280 bytes, more than the "):
        sync(store.get("a"))
    store.close()


def test_store_of_more_chunks_than_anybody_can_look_for_is_refused(tmp_path: Path) -> None:
    """A few hundred bytes that say 20,000 x 20,000 chunks of one pixel kept a run busy for hours."""
    zarr.create_array(str(tmp_path / "s.zarr"), shape=(20_000, 20_000), chunks=(1, 1), dtype="uint8")
    with pytest.raises(SourceError, match="has 400,000,000 chunks of 1 x 1 pixels, which would take hours"):
        slidewright.open_source(tmp_path / "s.zarr")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["zlib", "gzip", "bz2", "lzma"])
def test_streams_without_number_take_no_more_time_than_their_bytes(name: str) -> None:
    """500,000 empty ones in 4 MB took minutes, as the rest was copied for each."""
    compress = {"zlib": zlib.compress, "gzip": gzip.compress, "bz2": bz2.compress, "lzma": lzma.compress}[name]
    pixels = bytes(range(256)) * 256
    stream, empty = compress(pixels), compress(b"")
    many = empty * (4_000_000 // len(empty)) + stream
    for data in (stream, stream + bytes(9), stream + empty, many):
        assert decode_within(name, data, len(pixels)) == pixels
    assert decode_within(name, stream + stream, 2 * len(pixels)) == 2 * pixels
    for cut in (stream[:-1], stream[: len(stream) // 2], many[:-1]):
        with pytest.raises(ValueError, match="cut short"):
            decode_within(name, cut, len(pixels))
    with pytest.raises(TooMuchError):
        decode_within(name, stream, len(pixels) - 1)
