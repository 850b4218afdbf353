"""Every wrapper passes on every ability of the source inside it: what a source says and does is the same however it is
wrapped, and `convert` gets the same levels of it.
"""

from __future__ import annotations

import pickle
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from able_source import PIXELS, SIDE, TILE, AbleReader, AbleSource
from numpy.typing import NDArray
from written import assert_levels_equal_oracle

import slidewright
from slidewright.errors import CorruptTileError, OptionError, SourceError
from slidewright.geometry import Region, Size
from slidewright.pixels import PixelFormat
from slidewright.sources.array import ArraySource
from slidewright.sources.base import BLANK, Source
from slidewright.sources.open import open_source
from slidewright.sources.wrappers.adapt import AdaptedSource
from slidewright.sources.wrappers.fill import FillingSource, fill_corrupt
from slidewright.sources.wrappers.pickled import OwnSource, Portable, own_source


def wrapped(source: Source, wrapper: str) -> Source:
    pixels = PixelFormat("grey", "uint8", 1, "mean", (0.0,))
    return {
        "none": lambda: source,
        "filled": lambda: FillingSource(source, (0.0,)),
        "adapted": lambda: AdaptedSource(source, pixels),
        "filled and adapted": lambda: AdaptedSource(FillingSource(source, (0.0,)), pixels),
    }[wrapper]()


WRAPPERS = ["none", "filled", "adapted", "filled and adapted"]


def read_all(source: Source) -> tuple[NDArray[Any], dict[Any, str]]:
    reader, out = source.open(), np.zeros((SIDE, SIDE, 1), np.uint8)
    for y in range(0, SIDE, TILE):
        for x in range(0, SIDE, TILE):
            pixels = reader.read(y, x, TILE, TILE, np.empty((TILE, TILE, 1), np.uint8))
            out[y : y + TILE, x : x + TILE] = 0 if pixels is BLANK else pixels
    found = reader.filled()
    assert reader.filled() == {}  # it is told once
    reader.close()
    return out, found


@pytest.fixture(params=["of a module", "of a script", "of a script, in all but its class"])
def given(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What a caller gives: a source whose class workers can import, can't, or that is no `Source`."""
    if request.param == "of a module":
        yield AbleSource
        return
    script = types.ModuleType("script_of_the_caller")
    base = AbleSource if request.param == "of a script" else object
    body = dict(vars(AbleSource)) if base is object else {}
    left = ("__dict__", "__weakref__", "__abstractmethods__", "_abc_impl")
    body = {name: value for name, value in body.items() if name not in left}
    made = type("Scripted", (base,), {**body, "__module__": "script_of_the_caller"})
    script.Scripted = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "script_of_the_caller", script)
    yield made


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_sparse_source_stays_sparse_and_its_levels_exact(tmp_path: Path, given: Any, wrapper: str) -> None:
    source = wrapped(open_source(given(sparse=True)), wrapper)
    assert source.info.sparse
    assert source.open().read(64, 32, TILE, TILE, np.empty((TILE, TILE, 1), np.uint8)) is BLANK
    for workers in (0, 2):
        slidewright.convert(
            source, tmp_path / "out.tif", tile_size=TILE, compression="deflate", block_tiles=1, n_workers=workers,
            overwrite=True,
        )  # fmt: skip
        assert_levels_equal_oracle(tmp_path / "out.tif", PIXELS, TILE)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_is_known_of_a_source_is_known_of_it_wrapped(given: Any, wrapper: str) -> None:
    source = wrapped(open_source(given()), wrapper)
    info = source.info
    assert (info.tile, info.worker_bytes, info.associated, info.in_memory) == (Size(TILE, TILE), 7, ("label",), False)
    assert source.filled == {}
    with source.shared() as shared:
        assert shared.info == info
        there = pickle.loads(pickle.dumps(shared))
        np.testing.assert_array_equal(read_all(there)[0], PIXELS)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_reader_is_told_ahead_what_will_be_read(monkeypatch: pytest.MonkeyPatch, wrapper: str) -> None:
    told: list[Any] = []
    monkeypatch.setattr(AbleReader, "ahead", lambda _, *given: told.append(given))
    wrapped(open_source(AbleSource()), wrapper).open().ahead(Region(32, 0, 64, 96), range(1))
    assert told == [(Region(32, 0, 64, 96), range(1))]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_identity_and_associated_images_are_those_of_the_source(wrapper: str) -> None:
    source = wrapped(open_source(AbleSource()), wrapper)
    assert source.identity() == {"able": False}
    assert source.associated_image("label").shape == (3, 4, 3)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_source_of_a_script_has_no_identity(given: Any, wrapper: str) -> None:
    source = wrapped(open_source(given()), wrapper)
    if given is AbleSource:
        assert source.identity()
        return
    with pytest.raises(OptionError, match="have no identity that outlives this process"):
        source.identity()


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_tiles_of_any_source_are_filled_and_told(tmp_path: Path, given: Any, workers: int) -> None:
    report = slidewright.convert(
        given(corrupt=True), tmp_path / "out.tif", tile_size=64, compression="deflate", n_workers=workers,
        on_corrupt="fill", background=9,
    )  # fmt: skip
    expected = PIXELS.copy()
    expected[32:64, 96:128] = 9
    assert_levels_equal_oracle(tmp_path / "out.tif", expected, 64)
    assert report.corrupt_tiles == 1
    assert "x=96, y=32" in report.warnings[-1]


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_tiles_of_functions_and_datasets_are_filled(tmp_path: Path, workers: int) -> None:
    def function(y: int, x: int, height: int, width: int) -> NDArray[Any]:
        if y <= 300 < y + height and x <= 300 < x + width:
            raise CorruptTileError("a tile of the slide behind it is corrupt")
        return np.full((height, width), 50, np.uint8)

    report = slidewright.convert(
        function, tmp_path / "out.tif", shape=(600, 600), tile_size=64, compression="deflate", n_workers=workers,
        on_corrupt="fill", background=9,
    )  # fmt: skip
    level = tifffile.imread(tmp_path / "out.tif", key=0)
    assert report.corrupt_tiles == 1
    assert (level[300, 300], level[0, 0], level[599, 599]) == (9, 50, 50)
    assert set(np.unique(level)) == {9, 50}


def test_filled_reader_reports_what_it_filled_and_adapted_passes_it_on() -> None:
    for wrapper in ("filled", "filled and adapted"):
        pixels, found = read_all(wrapped(AbleSource(corrupt=True), wrapper))
        assert list(found) == [(32, 96, 0)]
        assert (pixels[32:64, 96:128] == 0).all()


@pytest.mark.timeout(60)
def test_thousands_of_filled_tiles_of_one_block_are_not_looked_through_for_each_tile() -> None:
    class Rubbish(AbleReader):
        def read(self, *given: Any, **more: Any) -> Any:
            raise CorruptTileError("rubbish")

    source, side = AbleSource(), 160
    source.open = lambda: Rubbish(source)  # type: ignore[method-assign]
    reader = FillingSource(source, (0.0,)).open()
    height, width = (side * wide for wide in source.info.tile)
    reader.read(0, 0, height, width, np.empty((height, width, 1), np.uint8))
    began = time.process_time()
    assert all(reader.segment(*divmod(number, side)) is None for number in range(side * side))
    assert time.process_time() - began < 2  # else more than ten
    assert len(reader.filled()) == side * side


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_array_in_memory_is_copied_once_and_given_back(tmp_path: Path, wrapper: str) -> None:
    source = wrapped(ArraySource(PIXELS), wrapper)
    assert source.info.in_memory
    with pytest.raises(OptionError, match="no identity"):
        source.identity()
    for on_disk in (False, True):
        with source.shared(str(tmp_path), on_disk=on_disk) as shared:
            np.testing.assert_array_equal(read_all(shared)[0], PIXELS)
        assert list(tmp_path.iterdir()) == []


def wide_strips(path: Path, *, damaged: bool) -> Source:
    """A TIFF whose strips are unpacked before the run: too wide for a worker's cache."""
    pixels = np.full((320, 30_000, 3), 77, np.uint8)
    tifffile.imwrite(path, pixels, compression="zlib", rowsperstrip=32, photometric="rgb", metadata=None)
    if damaged:
        with tifffile.TiffFile(path) as tiff:
            place = tiff.pages.first.dataoffsets[1]
        with open(path, "r+b") as file:
            file.seek(place)
            file.write(b"\x55" * 20)
    return open_source(path)


@pytest.mark.parametrize("damaged", [False, True])
def test_unpacked_strips_are_filled_before_the_run_and_told(tmp_path: Path, damaged: bool) -> None:
    source = wide_strips(tmp_path / "a.tif", damaged=damaged)
    pixels = PixelFormat("rgb", "uint8", 3, "mean", (1.0, 2.0, 3.0))
    filling = AdaptedSource(fill_corrupt(source, (1.0, 2.0, 3.0)), pixels)
    with filling.shared(str(tmp_path)) as shared:
        assert list(shared.filled) == ([(32, 0, 0)] if damaged else [])
        out = shared.open().read(32, 100, 32, 32, np.empty((32, 32, 3), np.uint8))
        assert out is not BLANK
        assert out[0, 0].tolist() == ([1, 2, 3] if damaged else [77, 77, 77])
    if damaged:
        with pytest.raises(CorruptTileError), source.shared(str(tmp_path)):
            pass


def test_reader_that_answers_blank_without_saying_so_gives_background(tmp_path: Path) -> None:
    """`sparse` says only that blank tiles may be kept out of the stores; pixels are right without it."""

    class Forgetful(AbleReader):
        def read(self, *given: Any, **more: Any) -> Any:
            pixels = super().read(*given, **more)
            return pixels if pixels is BLANK or pixels.any() else BLANK

    source = AbleSource()
    source.open = lambda: Forgetful(source)  # type: ignore[method-assign]
    slidewright.convert(source, tmp_path / "out.tif", tile_size=TILE, compression="deflate", block_tiles=1, n_workers=0)
    assert_levels_equal_oracle(tmp_path / "out.tif", PIXELS, TILE)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels: pixels[: len(pixels) // 2], r"gave uint8 of shape \(16, 32, 1\) for 32 x 32 pixels"),
        (lambda pixels: pixels.view(np.int8), "gave int8 .* expected uint8"),
        (lambda pixels: pixels * 1.5, "gave float64 .* expected uint8"),
        (lambda pixels: pixels[..., 0], r"gave uint8 of shape \(32, 32\)"),
        (lambda pixels: None, "gave a NoneType"),
        (lambda pixels: pixels.tolist(), "gave a list"),
    ],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_reader_that_gives_something_else_is_refused(tmp_path: Path, change: Any, message: str, workers: int) -> None:
    class Careless(AbleReader):
        def read(self, *given: Any, **more: Any) -> Any:
            return change(super().read(*given, **more))

    source = AbleSource()
    source.open = lambda: Careless(source)  # type: ignore[method-assign]
    given = OwnSource(Portable(source, "able"), source.info, importable=False)
    with pytest.raises(SourceError, match=message):
        slidewright.convert(given, tmp_path / "out.tif", tile_size=TILE, compression="deflate", n_workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_source_with_its_own_class_is_taken_as_it_is() -> None:
    source = AbleSource()
    assert own_source(source) is source
    assert open_source(source) is source


def test_associated_image_that_is_not_there_is_an_error_that_names_it() -> None:
    with pytest.raises(SourceError, match="no associated image 'label'"):
        ArraySource(PIXELS).associated_image("label")
