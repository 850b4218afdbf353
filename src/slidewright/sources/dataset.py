"""Map-style datasets as sources: anything with `__len__` and `__getitem__` that gives tiles, indexed in the workers.

The tiles are a grid without gaps, row by row from the top left. Those at the right and bottom edge may stick out of the
image, what does is cut off, or end where it does.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slidewright.errors import CorruptTileError, OptionError, SourceError
from slidewright.geometry import Size
from slidewright.pixels import Colormap
from slidewright.sources.access.shapes import as_array, check_dtype, check_shape, makes_array, masks_left_out
from slidewright.sources.access.tile_grid import CellReader
from slidewright.sources.base import Pixels, Reader, Source, SourceInfo, unknown_identity
from slidewright.sources.dlup_grid import DlupGrid, dlup_grid
from slidewright.sources.wrappers.pickled import Portable
from slidewright.system.interrupts import let_through


@dataclass(frozen=True, slots=True)
class DatasetSource(Source):
    """An image that is the tiles of a dataset; the tile size is `info.tile`."""

    dataset: Portable
    by_columns: bool
    """Whether the tiles run down the columns instead of along the rows."""
    info: SourceInfo

    @classmethod
    def of(cls, dataset: Any, shape: tuple[int, ...] | None = None, dtype: str | None = None) -> DatasetSource:
        """Describe a dataset by its first tile, its length, and the image's (height, width[, samples]).

        The shape may be left out of dlup's datasets.

        Raises
        ------
        OptionError
            When the shape is needed and missing, or is not what the tiles are.
        SourceError
            When the dataset is empty, its tiles are no image, or it has not as many tiles as the image needs.
        """
        name = f"dataset {type(dataset).__name__}"
        count = len(dataset)
        if not count:
            raise SourceError(f"{name} is empty; it needs a tile for each place of the grid")
        known = dlup_grid(dataset, name)
        size = _size(known, shape, name)
        tile = _tile(dataset, 0, f"{name}, tile 0")
        height, width, samples = check_shape(tile.pixels.shape, f"{name}, tile 0")
        if shape is not None and len(shape) == 3 and shape[2] != samples:
            raise OptionError(f"shape {shape} has {shape[2]} samples a pixel, but the tiles of {name} have {samples}")
        grid = known.tile if known is not None else Size(height, width)
        _check_count(name, count, size, grid)
        info = SourceInfo(
            name=name,
            format="dataset",
            size=size,
            samples=samples,
            dtype=check_dtype(np.dtype(dtype) if dtype is not None else tile.pixels.dtype, name),
            kind=tile.kind,
            colormap=tile.colormap,
            mpp=(known.mpp, known.mpp) if known is not None else None,
            tile=grid,
            icc_profile=tile.icc_profile,
            left_out=tile.left_out,
        )
        source = cls(Portable(dataset, name), known is not None and known.by_columns, info)
        DatasetReader(source).check(tile.pixels, 0, 0, 0)
        return source

    def open(self) -> DatasetReader:
        """Have the dataset in this process."""
        return DatasetReader(self)

    def identity(self) -> dict[str, Any]:
        """Nobody can know its pixels again (see `Source`)."""
        raise unknown_identity(self.info.name)

    @contextmanager
    def shared(self, folder: str | None = None, *, on_disk: bool = False) -> Iterator[Source]:
        """The same with the dataset pickled, so that it fails here if it must, see `Source`."""
        with self.dataset.packed(folder) as dataset:
            yield replace(self, dataset=dataset)


class DatasetReader(Reader):
    """Reads regions out of the tiles of a dataset."""

    def __init__(self, source: DatasetSource) -> None:
        info = source.info
        assert info.tile is not None
        self._info, self._cell = info, info.tile
        self._dataset = source.dataset.get()
        self._rows, self._columns = (-(-side // cell) for side, cell in zip(info.size, info.tile, strict=True))
        self._by_columns = source.by_columns
        self._cells = CellReader(info.size, info.tile, info.samples, info.dtype, self._decode)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        return self._cells.read(y, x, height, width, out, plane)

    def close(self) -> None:
        """Forget the tiles; the dataset is the caller's."""
        self._cells.clear()

    def check(self, pixels: Pixels, index: int, row: int, column: int) -> Pixels:
        """A tile as (height, width, samples), if it belongs at its place; SourceError says what was expected."""
        left = (self._info.size.height - row * self._cell.height, self._info.size.width - column * self._cell.width)
        if pixels.ndim == 2:
            pixels = pixels[:, :, np.newaxis]
        fits = pixels.ndim == 3 and all(
            side in (cell, min(cell, rest)) for side, cell, rest in zip(pixels.shape[:2], self._cell, left, strict=True)
        )
        if fits and pixels.shape[2] == self._info.samples and pixels.dtype.name == self._info.dtype:
            return pixels
        samples = self._info.samples
        wanted = [self._cell, Size(min(self._cell.height, left[0]), min(self._cell.width, left[1]))]
        shapes = " or ".join(str((*size, samples)) for size in dict.fromkeys(wanted))
        raise SourceError(
            f"{self._place(index, row, column)} is {pixels.dtype.name} of shape {pixels.shape}; expected "
            f"{self._info.dtype} of shape {shapes}"
        )

    def _decode(self, row: int, column: int, band: int, out: Pixels) -> None:
        index = column * self._rows + row if self._by_columns else row * self._columns + column
        tile = _tile(self._dataset, index, self._place(index, row, column))
        pixels = self.check(tile.pixels, index, row, column)
        if (tile.kind, tile.colormap) != (self._info.kind, self._info.colormap):
            raise SourceError(
                f"{self._place(index, row, column)} is {tile.kind or 'an array'} and the first tile "
                f"{self._info.kind or 'an array'}, or their palettes differ; give all tiles one mode and palette"
            )
        out[: pixels.shape[0], : pixels.shape[1]] = pixels

    def _place(self, index: int, row: int, column: int) -> str:
        return f"{self._info.name}, tile {index} (row {row}, column {column})"


@dataclass(frozen=True, slots=True)
class _Tile:
    pixels: Pixels
    kind: str | None = None
    """What the pixels are, where the tile is a Pillow image; so with the next two."""
    colormap: Colormap | None = None
    icc_profile: bytes | None = None
    left_out: tuple[str, ...] = ()


def _tile(dataset: Any, index: int, place: str) -> _Tile:
    """The pixels of the sample at `index`."""
    try:
        sample = dataset[index]
    except MemoryError:
        raise
    except Exception as error:  # the caller's own; a tile that can't be had can be filled
        let_through(error)
        text = f"{place} can't be had ({type(error).__name__}: {error}); check the dataset"
        raise CorruptTileError(text) from error
    image = sample
    if isinstance(sample, Mapping):
        if "image" not in sample:
            raise SourceError(f'{place} is a dict without "image"; put the pixels under that key')
        image = sample["image"]
    elif not hasattr(sample, "__array__") and hasattr(sample, "image"):
        image = sample.image
    return _as_tile(image, place)


def _as_tile(image: Any, place: str) -> _Tile:
    if isinstance(image, np.ndarray):
        return _Tile(np.asarray(image), left_out=masks_left_out(image, "each tile's"))
    pillow = sys.modules.get("PIL.Image")  # who has such an image has imported it
    if pillow is not None and isinstance(image, pillow.Image):
        from slidewright.sources.pillow import pil_pixels

        found = pil_pixels(image, place)
        return _Tile(found.pixels, found.kind, found.colormap, found.icc_profile)
    if not makes_array(image) and hasattr(image, "numpy"):  # tensors that have neither
        image = image.numpy()
    if not makes_array(image):
        raise SourceError(
            f'{place} is a {type(image).__name__}; give an array, a Pillow image, or a dict with one of them as "image"'
        )
    return _Tile(as_array(image, place))


def _size(known: DlupGrid | None, shape: tuple[int, ...] | None, name: str) -> Size:
    if shape is not None:
        return Size(shape[0], shape[1])
    if known is None:
        raise OptionError(f"{name} does not say how large its image is; give shape=(height, width)")
    if known.size is None:
        raise SourceError(
            f"{name} has {known.tiles.height} rows of {known.tiles.width} tiles of {known.tile} pixels, which are not "
            "those that cover its slide; make it with tile_mode='overflow', or give shape=(height, width)"
        )
    return known.size


def _check_count(name: str, count: int, size: Size, tile: Size) -> None:
    rows, columns = -(-size.height // tile.height), -(-size.width // tile.width)
    if count != rows * columns:
        few = (
            ": tiles that a mask left out can be written with PyramidWriter.write_tile"
            if count < rows * columns
            else ""
        )
        raise SourceError(
            f"{name} has {count} tiles; {rows * columns} are due, {rows} rows of {columns}, for {size} pixels in tiles "
            f"of {tile}{few}"
        )
