"""Datasets of tiles are one image: any tile size, order and kind of sample, indexed in the workers, and each wrong tile
named.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import threading
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from reading import assert_reads_like

import slidewright
from slidewright.errors import OptionError, SourceError
from slidewright.sources.dataset import DatasetSource
from slidewright.sources.open import open_source
from slidewright.sources.wrappers import pickled
from slidewright.system import shared_memory as sharing

PIXELS = np.random.default_rng(14).integers(0, 256, (130, 170, 3), dtype=np.uint8)


class Tiles:
    """A map-style dataset as PyTorch's documentation has it, which needs nothing of PyTorch."""

    def __init__(self, pixels: NDArray[Any], height: int, width: int, border: str = "smaller") -> None:
        self.pixels, self.height, self.width, self.border = pixels, height, width, border
        self.columns = -(-pixels.shape[1] // width)

    def __len__(self) -> int:
        return -(-self.pixels.shape[0] // self.height) * self.columns

    def tile(self, row: int, column: int) -> NDArray[Any]:
        y, x = row * self.height, column * self.width
        tile = self.pixels[y : y + self.height, x : x + self.width]
        if self.border == "overflow":
            whole = np.full((self.height, self.width, *tile.shape[2:]), 99).astype(tile.dtype)
            whole[: tile.shape[0], : tile.shape[1]] = tile
            return whole
        return tile

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.tile(*divmod(index, self.columns))


class DictTiles(Tiles):
    def __getitem__(self, index: int) -> Any:
        return {"image": super().__getitem__(index), "coordinates": (0, 0)}


class PillowTiles(Tiles):
    def __getitem__(self, index: int) -> Any:
        return {"image": Image.fromarray(super().__getitem__(index))}


@dataclass
class Sample:
    image: Any


class ObjectTiles(Tiles):
    """Samples as dlup 0.9 has them: objects whose image makes an array of itself."""

    def __getitem__(self, index: int) -> Any:
        return Sample(Numpy(super().__getitem__(index)))


class Numpy:
    """An image with `numpy()`, as pyvips has it."""

    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels

    def numpy(self) -> Any:
        return self._pixels


@pytest.mark.parametrize("border", ["smaller", "overflow"])
@pytest.mark.parametrize("kind", [Tiles, DictTiles, PillowTiles, ObjectTiles])
def test_tiles_are_one_image(kind: type[Tiles], border: str) -> None:
    source = open_source(kind(PIXELS, 64, 48, border), shape=(130, 170))
    assert isinstance(source, DatasetSource)
    assert source.info.tile == (64, 48)
    assert source.info.samples == 3
    assert_reads_like(source, PIXELS)


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(["smaller", "overflow"]), st.integers(5, 200))
def test_any_tile_size_makes_any_region(height: int, width: int, border: str, side: int) -> None:
    reader = open_source(Tiles(PIXELS, height, width, border), shape=PIXELS.shape).open()
    out = np.empty((side, side, 3), np.uint8)
    for y in range(0, 130, side):
        for x in range(0, 170, side):
            tall, wide = min(side, 130 - y), min(side, 170 - x)
            np.testing.assert_array_equal(reader.read(y, x, tall, wide, out), PIXELS[y : y + tall, x : x + wide])


@pytest.mark.parametrize("dtype", ["bool", "uint16", "float32"])
@pytest.mark.parametrize("samples", [1, 5])
def test_tiles_of_other_kinds(dtype: str, samples: int) -> None:
    pixels = np.repeat(PIXELS, 2, axis=2)[..., :samples].astype(dtype)
    assert_reads_like(open_source(Tiles(pixels, 64, 64), shape=(130, 170)), pixels)
    if samples == 1:
        assert_reads_like(open_source(Tiles(pixels[..., 0], 64, 64), shape=(130, 170)), pixels)


def test_palette_tiles_are_labels() -> None:
    tile = Image.new("P", (20, 10))
    tile.putpalette([255, 255, 255, 255, 0, 0])
    info = open_source([tile, tile], shape=(10, 40)).info
    assert info.kind == "labels"
    assert info.colormap is not None
    assert info.colormap[1] == (65_535, 0, 0)


def test_tiles_with_palettes_of_their_own_are_refused() -> None:
    tiles = [Image.new("P", (20, 10)), Image.new("P", (20, 10)), Image.new("L", (20, 10))]
    tiles[0].putpalette([255, 255, 255])
    tiles[1].putpalette([0, 255, 0])
    for wrong in (1, 2):
        reader = open_source([tiles[0], tiles[wrong]], shape=(10, 40)).open()
        with pytest.raises(SourceError, match=r"tile 1 \(row 0, column 1\).*one mode and palette"):
            reader.read(0, 20, 10, 20, np.empty((10, 20, 1), np.uint8))


@pytest.mark.parametrize("tile_size", [64, 32])
@pytest.mark.parametrize("n_workers", [0, 2])
def test_dataset_of_this_module_is_converted(tmp_path: Path, n_workers: int, tile_size: int) -> None:
    source = open_source(DictTiles(PIXELS, 64, 64, "overflow"), shape=(130, 170))
    options = {"compression": "deflate", "tile_size": tile_size, "n_workers": n_workers}
    slidewright.convert(source, tmp_path / "a.tif", **options)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif", key=0), PIXELS)


def test_dataset_of_a_script_without_a_guard_is_converted(tmp_path: Path, root: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, slidewright\n"
        "from slidewright.sources.open import open_source\n"
        "class Tiles:\n"
        "    def __len__(self): return 4\n"
        "    def __getitem__(self, index): return {'image': np.full((32, 32), index, np.uint8)}\n"
        "source = open_source(Tiles(), shape=(64, 64))\n"
        f"slidewright.convert(source, {str(tmp_path / 'a.tif')!r}, n_workers=2, tile_size=16)\n"
    )
    subprocess.run([sys.executable, script], check=True, env={"PYTHONPATH": str(root / "src")}, timeout=60)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif", key=0)[::32, ::32], [[0, 1], [2, 3]])


class Wrong(Tiles):
    """Something else at tile 5, in row 2, column 1."""

    def __init__(self, what: Any) -> None:
        super().__init__(PIXELS, 64, 85)
        self.what = what

    def __getitem__(self, index: int) -> Any:
        if index == 5 and isinstance(self.what, Exception):
            raise self.what
        return self.what if index == 5 else super().__getitem__(index)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            np.zeros((3, 85, 3), np.uint8),
            r"uint8 of shape \(3, 85, 3\); expected uint8 .*\(64, 85, 3\) or \(2, 85, 3\)",
        ),
        (np.zeros((64, 80, 3), np.uint8), r"\(64, 80, 3\)"),
        (np.zeros((64, 85), np.uint8), r"\(64, 85, 1\)"),
        (np.zeros((64, 85, 4), np.uint8), r"\(64, 85, 4\)"),
        (np.zeros((64, 85, 3), np.uint16), "is uint16"),
        ({"pixels": 3}, 'without "image"'),
        ("text", "is a str"),
        (KeyError("gone"), "KeyError.*gone"),
    ],
)
def test_wrong_tile_is_named_with_what_was_expected(what: Any, message: str) -> None:
    reader = open_source(Wrong(what), shape=(130, 170)).open()
    out = np.empty((64, 85, 3), np.uint8)
    reader.read(64, 85, 64, 85, out)
    with pytest.raises(SourceError, match=rf"tile 5 \(row 2, column 1\).*{message}"):
        reader.read(128, 85, 2, 85, out)


def test_wrong_number_of_tiles_says_how_many_were_due() -> None:
    tiles = [tile for tile in Tiles(PIXELS, 64, 64, "overflow")]  # noqa: C416  # a list of its own
    assert len(tiles) == 9
    for given_tiles in (tiles[:8], [*tiles, tiles[0]]):
        with pytest.raises(SourceError, match=rf"has {len(given_tiles)} tiles; 9 are due, 3 rows of 3"):
            open_source(given_tiles, shape=(130, 170))


@pytest.mark.parametrize(
    ("dataset", "options", "error", "message"),
    [
        (Tiles(PIXELS, 64, 64), {}, OptionError, r"shape=\(height, width\)"),
        (Tiles(PIXELS, 64, 64), {"shape": (130, 170, 4)}, OptionError, "4 samples.*have 3"),
        (Tiles(PIXELS, 64, 64), {"shape": (130,)}, OptionError, "must be"),
        (Tiles(PIXELS, 64, 64), {"shape": (0, 170)}, OptionError, "above 0"),
        (Tiles(PIXELS, 64, 64), {"shape": (130, 170), "dtype": "uint16"}, SourceError, "tile 0.*expected uint16"),
        (Tiles(PIXELS, 64, 64), {"shape": (130, 170), "dtype": "complex64"}, OptionError, "must be one of"),
        (Tiles(PIXELS, 64, 64), {"shape": (130, 170), "page": 1}, OptionError, "leave it out"),
        ([], {"shape": (130, 170)}, SourceError, "empty"),
        ([np.zeros((3, 64, 64), np.uint8)], {"shape": (64, 64)}, SourceError, r"transpose\(1, 2, 0\)"),
        ([np.zeros((64, 64), np.float64)], {"shape": (64, 64)}, SourceError, r"astype\('float32'\)"),
    ],
)
def test_dataset_that_is_no_image_is_refused(dataset: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(dataset, **options)


class Handle(Tiles):
    """Holds what can't be pickled, as an open slide is."""

    def __init__(self) -> None:
        super().__init__(PIXELS, 64, 64)
        self.slide = threading.Lock()


def test_dataset_with_an_open_handle_says_to_open_lazily(tmp_path: Path) -> None:
    source: Any = open_source(Handle(), shape=(130, 170))
    with pytest.raises(SourceError, match=r"Handle can't be sent.*lock.*first used"), source.shared(str(tmp_path)):
        pass
    options = {"compression": "deflate", "tile_size": 64}
    with pytest.raises(SourceError, match="n_workers=0"):
        slidewright.convert(source, tmp_path / "a.tif", n_workers=2, **options)
    assert list(tmp_path.iterdir()) == []
    slidewright.convert(source, tmp_path / "a.tif", n_workers=0, **options)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif", key=0), PIXELS)


def test_large_arrays_of_a_dataset_travel_by_descriptor(tmp_path: Path) -> None:
    pixels = np.random.default_rng(16).integers(0, 256, (1000, 1200, 3), dtype=np.uint8)
    source: Any = open_source(Tiles(pixels, 512, 512), shape=(1000, 1200))
    with source.shared(str(tmp_path)) as shared:
        data, buffers = sharing.dumps(shared)
        assert len(data) < 20_000
        there = sharing.loads(data, [os.dup(buffer.fd or 0) for buffer in buffers])
        assert_reads_like(there, pixels, 500, travels=False)
    assert list(tmp_path.iterdir()) == []


class Scribbler(Tiles):
    """Writes into its own array, as it may in a process of its own."""

    def __getitem__(self, index: int) -> Any:
        self.pixels[...] = 255 - self.pixels
        return super().__getitem__(index).copy()


def test_dataset_that_writes_to_its_array_does_so_in_its_own_copy() -> None:
    pixels = np.random.default_rng(17).integers(0, 256, (1000, 1200), dtype=np.uint8)
    source: Any = open_source(Scribbler(pixels, 1000, 1200), shape=(1000, 1200))
    before = pixels.copy()
    with source.shared() as shared:
        data, buffers = sharing.dumps(shared)
        for _ in range(2):
            there = sharing.loads(data, [os.dup(buffer.fd or 0) for buffer in buffers])
            got = there.open().read(0, 0, 1000, 1200, np.empty((1000, 1200, 1), np.uint8))
            np.testing.assert_array_equal(got[..., 0], 255 - before)
    np.testing.assert_array_equal(pixels, before)


def test_dataset_of_a_module_that_workers_can_not_import(tmp_path: Path) -> None:
    path = tmp_path / "plugin.py"
    path.write_text(
        "import numpy as np\n"
        "class Base:\n"
        "    def __len__(self): return 4\n"
        "class Tiles(Base):\n"
        "    def __getitem__(self, index): return np.full((32, 32), index, np.uint8)\n"
    )
    spec = importlib.util.spec_from_file_location("plugin_of_the_caller", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["plugin_of_the_caller"] = module
    try:
        spec.loader.exec_module(module)
        source = open_source(module.Tiles(), shape=(64, 64))
        slidewright.convert(source, tmp_path / "a.tif", n_workers=1, tile_size=16)
    finally:
        del sys.modules["plugin_of_the_caller"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif", key=0)[::32, ::32], [[0, 1], [2, 3]])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("by_caller", [False, True])
def test_modules_are_taken_along_as_long_as_anybody_needs_it(by_caller: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads convert what the same module defines, and the caller may have told cloudpickle so for Dask."""
    module = types.ModuleType("made_by_the_caller")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec("def function(): return 1", vars(module))
    if by_caller:
        cloudpickle.register_pickle_by_value(module)
    with pickled._by_value(module.function):
        with pickled._by_value(module.function):
            pass
        assert module.__name__ in cloudpickle.list_registry_pickle_by_value()
    assert (module.__name__ in cloudpickle.list_registry_pickle_by_value()) == by_caller
    if by_caller:
        cloudpickle.unregister_pickle_by_value(module)


class Unmakeable(Tiles):
    def __setstate__(self, state: Any) -> None:
        raise FileNotFoundError("the slide is on another machine")


def test_dataset_that_can_not_be_made_again_is_one_error() -> None:
    source = pickle.loads(pickle.dumps(open_source(Unmakeable(PIXELS, 64, 64), shape=(130, 170))))
    with pytest.raises(SourceError, match=r"Unmakeable can't be made again.*another machine"):
        source.open()


class Grid:
    """dlup's grid: the x and the y of its tiles."""

    def __init__(self, xs: list[int], ys: list[int], order: str = "C") -> None:
        self.coordinates, self.order = [np.array(xs), np.array(ys)], order


class Slide:
    """What dlup's slide tells of its size, a margin around the tissue included."""

    def __init__(self, size: tuple[int, int], offset: tuple[int, int], bounds: tuple[int, int]) -> None:
        self.size, self.offset, self.bounds = size, offset, bounds

    def get_scaling(self, mpp: float) -> float:
        return 0.25 / mpp

    def get_scaled_size(self, scaling: float) -> tuple[int, int]:
        return (int(self.size[0] * scaling), int(self.size[1] * scaling))

    def get_scaled_slide_bounds(self, scaling: float) -> Any:
        return tuple(tuple(int(side * scaling) for side in pair) for pair in (self.offset, self.bounds))


class Dlup(Tiles):
    """A dataset with the attributes of dlup 0.9's `SlideDataset`, or of 0.3's `TiledWsiDataset`."""

    def __init__(self, grid: Grid, generation: str = "0.9", border: str = "overflow") -> None:
        super().__init__(PIXELS, 64, 80, border)
        self.slide_image = Slide((400, 300), (20, 10), (340, 260))
        self.order = grid.order
        if generation == "0.3":
            self.grids = [(grid, (80, 64), 0.5)]
        else:
            self.grid, self.tile_size, self.mpp = grid, (80, 64), 0.5

    def __getitem__(self, index: int) -> Any:
        row, column = divmod(index, self.columns) if self.order == "C" else divmod(index, 3)[::-1]
        return {"image": self.tile(row, column)}


@pytest.mark.parametrize("generation", ["0.3", "0.9"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_dlup_tells_size_order_and_mpp(generation: str, order: str) -> None:
    source = open_source(Dlup(Grid([10, 90, 170], [5, 69, 133], order), generation))
    assert source.info.size == (130, 170)
    assert source.info.mpp == (0.5, 0.5)
    assert_reads_like(source, PIXELS)


@pytest.mark.parametrize("border", ["overflow", "smaller"])
def test_dlup_grid_over_the_whole_slide(border: str) -> None:
    dataset = Dlup(Grid([0, 80, 160], [0, 64, 128]), border=border)
    dataset.slide_image = Slide((340, 260), (20, 10), (300, 200))
    assert_reads_like(open_source(dataset), PIXELS)


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid([10, 60, 110], [5, 69, 133]), r"80 pixels every 50 along x.*tile_overlap=\(0, 0\)"),
        (Grid([10, 90], [5, 69]), "overflow.*or give shape"),
    ],
)
def test_dlup_grid_that_is_no_image_is_refused(grid: Grid, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(Dlup(grid))


def test_dlup_tiles_left_out_by_a_mask_are_counted() -> None:
    class Masked(Dlup):
        def __len__(self) -> int:
            return 7

    with pytest.raises(SourceError, match=r"7 tiles; 9 are due.*PyramidWriter\.write_tile"):
        open_source(Masked(Grid([10, 90, 170], [5, 69, 133])))


class MaskedTiles(Tiles):
    def tile(self, row: int, column: int) -> Any:
        return np.ma.masked_greater(super().tile(row, column), 100)


def test_masks_of_tiles_are_told_to_be_left_out(tmp_path: Path) -> None:
    source = open_source(MaskedTiles(PIXELS, 32, 48), shape=(130, 170))
    assert_reads_like(source, PIXELS)
    (warning,) = slidewright.convert(source, tmp_path / "a.tif", n_workers=0).warnings
    assert "each tile's mask" in warning
