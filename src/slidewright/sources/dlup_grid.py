"""What dlup's tiled datasets say of themselves: the grid of their tiles and the image's size, and how one whose slide
is open travels to a worker.

Written for dlup 0.3.38 (`TiledWsiDataset`: `grids`, samples are dicts) and 0.9.4 (`SlideDataset`: `grid`, samples are
objects); dlup itself is never imported here, so anything with the same attributes will do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from slidewright.errors import SourceError
from slidewright.geometry import Size

_HANDLES = ("_wsi", "_image_view", "_annotation_view")  # of a SlideDataset: what is open


@dataclass(frozen=True, slots=True)
class DlupGrid:
    """The tiles of a dataset: how many, of what size, in which order, and the image that they cover, where known."""

    tiles: Size
    tile: Size
    size: Size | None
    by_columns: bool
    mpp: float


def dlup_grid(dataset: Any, name: str) -> DlupGrid | None:
    """The grid of one of dlup's datasets; None for another dataset.

    Raises
    ------
    SourceError
        When the tiles overlap, or are not one regular grid.
    """
    described = _described(dataset, name)
    if described is None:
        return None
    grid, (width, height), mpp = described
    if len(grid.coordinates) != 2:
        raise SourceError(f"{name} has tiles at single points, not on a grid; write them with PyramidWriter.write_tile")
    xs, ys = grid.coordinates
    for points, side, axis in ((xs, width, "x"), (ys, height, "y")):
        step = float(points[1] - points[0]) if len(points) > 1 else side
        if step != side:
            raise SourceError(
                f"{name} has tiles of {side} pixels every {step:g} along {axis}; make it with tile_overlap=(0, 0)"
            )
    tiles, tile = Size(len(ys), len(xs)), Size(int(height), int(width))
    order = getattr(grid.order, "value", grid.order)
    size = _size_of(dataset, (float(xs[0]), float(ys[0])), tiles, tile, float(mpp))
    return DlupGrid(tiles, tile, size, str(order) == "F", float(mpp))


def _described(dataset: Any, name: str) -> tuple[Any, tuple[int, int], float] | None:
    """(grid, tile size as (width, height), mpp) by either generation's attributes."""
    grids = getattr(dataset, "grids", None)
    if isinstance(grids, (list, tuple)) and grids and hasattr(grids[0][0], "coordinates"):
        if len(grids) > 1:
            raise SourceError(f"{name} has {len(grids)} regions with a grid each; make one of a single region")
        grid, tile_size, mpp = grids[0]
        return grid, tile_size, mpp
    grid = getattr(dataset, "grid", None)
    if hasattr(grid, "coordinates") and hasattr(dataset, "tile_size") and hasattr(dataset, "mpp"):
        return grid, dataset.tile_size, dataset.mpp
    return None


def _size_of(dataset: Any, origin: tuple[float, float], tiles: Size, tile: Size, mpp: float) -> Size | None:
    """The size of what the grid covers: the slide, or the bounds in it, whichever begins and ends with the grid."""
    slide = getattr(dataset, "_wsi", None) or getattr(dataset, "slide_image", None)
    if slide is None:
        return None
    scaling = slide.get_scaling(mpp)
    for (x, y), (width, height) in (
        slide.get_scaled_slide_bounds(scaling),
        ((0, 0), slide.get_scaled_size(scaling)),
    ):
        size = Size(int(height), int(width))
        covering = Size(-(-size.height // tile.height), -(-size.width // tile.width))
        if (float(x), float(y)) == origin and covering == tiles:
            return size
    return None


def _slide_dataset(obj: Any) -> Any:
    """A `SlideDataset` as `__reduce__` gives it, without the slide that it holds open; None for other objects."""
    if not any(base.__name__ == "SlideDataset" and base.__module__.startswith("dlup.") for base in type(obj).__mro__):
        return None
    state = {key: value for key, value in vars(obj).items() if key not in _HANDLES}
    return _reopened, (type(obj), state, getattr(vars(obj).get("_image_view"), "boundary_mode", None))


def _reopened(cls: Any, state: dict[str, Any], boundary_mode: Any) -> Any:
    dataset = cls.__new__(cls)
    dataset.__dict__.update(state)
    dataset._wsi = dataset.slide_image
    dataset._image_view = dataset._wsi.get_view_at_mpp(dataset.mpp)
    dataset._image_view.boundary_mode = boundary_mode
    annotations = state.get("_annotations")
    dataset._annotation_view = annotations.get_view_at_mpp(dataset.mpp) if annotations else None
    return dataset


REDUCERS: tuple[Callable[[Any], Any], ...] = (_slide_dataset,)
"""What `portable` asks for each object that it pickles: its reduced form, or None."""
