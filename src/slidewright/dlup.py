"""Drop-in for the TIFF writer of dlup: the same constructor, conventions, levels and errors; the work is done by
`PyramidWriter`.

To use it, import `TifffileImageWriter` and `TiffCompression` from here instead of from `dlup.writers`. Three
generations of the constructor are understood: dlup 0.3 (`interpolator`, `anti_aliasing`), 0.4 to 0.6 and 0.9
(`is_mask`). Where they differ from what their documentation says, this follows what they do: `size` is (width,
height[, samples]).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from numbers import Real
from typing import TYPE_CHECKING, Any

from slidewright.conversions.pyramid_writer import PyramidWriter
from slidewright.geometry import Size
from slidewright.report import Report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.report import ProgressOption


class TiffCompression(StrEnum):
    """The compressions that dlup names; dlup's own members are understood too, and so is any name of slidewright's."""

    NONE = "NONE"
    CCITTFAX4 = "CCITTFAX4"
    JPEG = "JPEG"
    DEFLATE = "DEFLATE"
    PACKBITS = "PACKBITS"
    LZW = "LZW"
    WEBP = "WEBP"
    ZSTD = "ZSTD"
    JP2K = "JP2K"
    JP2K_LOSSY = "JP2K_LOSSY"
    PNG = "PNG"


class TifffileImageWriter:
    """dlup's writer of pyramidal TIFF images and masks, in parallel.

    Parameters
    ----------
    filename
        Where to write. An existing file is replaced at the end, as dlup does.
    size
        (width, height), or (width, height, samples): as dlup's own code takes it, not as its docstring has it.
    mpp
        Micrometres a pixel, one number or (x, y).
    tile_size
        (height, width) of a tile; both the same here, a multiple of 16.
    pyramid
        Whether to write levels below the first: until the shorter side fits in a tile (dlup's rule).
    colormap
        Label to colour name, for masks.
    compression
        A `TiffCompression`, dlup's or this module's, or a name; None stands for no compression.
    is_mask
        Masks are reduced by the maximum of 2 x 2, other images by the mean (dlup 0.4 and later). May also be dlup 0.3's
        `interpolator`, which had this place.
    quality
        For lossy compressions; default as documented for the compression, and 100 where `interpolator` is given (dlup
        0.3). WebP without a quality, or of 100, is lossless, as it is in dlup.
    metadata
        Written into the ImageDescription beside the size of a pixel, as JSON; without the "shape" that tifffile puts
        there for dlup, and expects on every level then.
    interpolator
        dlup 0.3: NEAREST keeps the top left of 2 x 2 pixels; any other means the mean here.
    anti_aliasing
        dlup 0.3: never implemented there either.
    n_workers, progress
        As for `slidewright.convert`; not dlup's.

    Raises
    ------
    ValueError
        Where dlup raises it: a quality for a lossless compression, anti-aliasing of nearest neighbours; and for tiles
        that are not square.
    """

    report: Report | None
    """What was written, once it is."""

    def __init__(
        self,
        filename: str | os.PathLike[str],
        size: tuple[int, int] | tuple[int, int, int],
        mpp: float | tuple[float, float],
        tile_size: tuple[int, int] = (512, 512),
        pyramid: bool = False,
        colormap: Mapping[int, str] | None = None,
        compression: TiffCompression | str | None = TiffCompression.JPEG,
        is_mask: Any = False,
        quality: int | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        interpolator: Any = None,
        anti_aliasing: bool = False,
        n_workers: int | None = None,
        progress: ProgressOption = False,
    ) -> None:
        if not isinstance(is_mask, bool):
            is_mask, interpolator = False, is_mask
        self._filename = filename
        self._shape = (int(size[1]), int(size[0]), int(size[2]) if len(size) == 3 else 1)
        self._mpp = (float(mpp), float(mpp)) if isinstance(mpp, (float, Real)) else (float(mpp[0]), float(mpp[1]))
        self._tile = _square(tile_size)
        self._pyramid, self._colormap = pyramid, colormap
        self._nearest = _is_nearest(interpolator, anti_aliasing)
        self._is_mask = is_mask
        third_generation = interpolator is not None
        self._compression = _compression(compression, quality)
        self._quality = _quality(self._compression, quality, old=third_generation)
        self._metadata = dict(metadata or {})
        self._n_workers, self._progress = n_workers, progress
        self.report = None

    def from_pil(self, pil_image: Any) -> None:
        """Write a PIL image, of values that fit in uint8; others are refused, where dlup takes what is left of them.

        Raises
        ------
        RuntimeError
            When it is smaller than a tile, as dlup has it.
        ValueError
            When it has other rows or columns of tiles than `size`, such as of its sides the wrong way round: each tile
            would lie elsewhere, as in dlup.
        """
        import numpy as np

        if pil_image.mode in ("CMYK", "YCbCr", "HSV", "LAB"):  # of 3 or 4 samples, which would be taken for RGB
            pil_image = pil_image.convert("RGB")
        width, height = pil_image.size
        if height < self._tile or width < self._tile:
            raise RuntimeError(
                f"PIL Image must be larger than set tile size. Got {pil_image.size} and {(self._tile, self._tile)}."
            )
        size = Size(*self._shape[:2])
        if Size(height, width).grid(self._tile) != size.grid(self._tile):
            raise ValueError(f"PIL Image of {width} x {height} pixels (width x height), and size says {size}.")
        self.from_tiles_iterator(_tiles(np.asarray(pil_image), self._tile))

    def from_tiles_iterator(self, iterator: Iterable[NDArray[Any]]) -> None:
        """Write the tiles of an iterator in row-major order, pulled here while worker processes encode.

        Parameters
        ----------
        iterator
            Gives (tile, tile, samples) arrays, or (tile, tile) for masks, of values that fit in uint8; tiles at the
            border may be smaller. RGBA for an image of three samples (dlup's OpenSlide backend gives that) is composed
            on white.

        Raises
        ------
        ValueError
            For a colormap on RGB(A).
        SlidewrightError
            See `PyramidWriter`.
        """
        if self._colormap is not None and self._shape[2] in (3, 4):
            raise ValueError("Colormaps only work with integer-valued images (e.g. masks).")
        writer = PyramidWriter(
            self._filename,
            self._shape,
            tile_size=self._tile,
            compression=self._compression,
            quality=self._quality,
            kind=self._kind(),
            colormap=self._colormap,
            resampling=self._resampling(),
            levels=self._count_levels(),
            mpp=self._mpp,
            description=self._description(),
            overwrite=True,
            n_workers=self._n_workers,
            progress=self._progress,
        )
        with writer:
            writer.write(self._fitted(tile) for tile in iterator)
        self.report = writer.report

    def _fitted(self, tile: Any) -> NDArray[Any]:
        import numpy as np

        from slidewright.sources.wrappers.alpha import compose

        pixels = _as_bytes(tile)
        if self._shape[2] != 3 or pixels.ndim != 3 or pixels.shape[2] != 4 or pixels.dtype != np.uint8:
            return pixels
        composed = np.empty((*pixels.shape[:2], 3), np.uint8)
        compose(pixels, (255.0, 255.0, 255.0), composed)
        return composed

    def _kind(self) -> str | None:
        if self._compression.startswith("ccitt"):
            return "binary"
        if self._shape[2] != 1:
            return None
        return "labels" if self._is_mask or self._colormap is not None else "grey"

    def _resampling(self) -> str | None:
        if self._is_mask:
            return "max"
        return "nearest" if self._nearest else None

    def _count_levels(self) -> int:
        """Dlup's rule: the shorter side decides (writers.py, `n_subresolutions`)."""
        if not self._pyramid:
            return 1
        return 1 + max(0, math.ceil(math.log2(min(self._shape[:2]) / self._tile)))

    def _description(self) -> str:
        size = {"PhysicalSizeX": self._mpp[0], "PhysicalSizeXUnit": "µm"}
        size |= {"PhysicalSizeY": self._mpp[1], "PhysicalSizeYUnit": "µm"}
        return json.dumps({**size, **self._metadata})


def _square(tile_size: tuple[int, int]) -> int:
    height, width = (int(side) for side in tile_size)
    if height != width:
        raise ValueError(f"tile_size {tuple(tile_size)} must be square: slidewright writes tiles of one side")
    return height


def _is_nearest(interpolator: Any, anti_aliasing: bool) -> bool:
    nearest = interpolator is not None and str(getattr(interpolator, "name", interpolator)).upper() == "NEAREST"
    if anti_aliasing and nearest:
        raise ValueError("Anti-aliasing cannot be used with nearest neighbor interpolation.")
    if anti_aliasing:
        raise NotImplementedError("Anti-aliasing is not yet implemented.")
    return nearest


def _compression(compression: Any, quality: int | None) -> str:
    """Slidewright's name for it; raises ValueError for one that nobody knows."""
    from slidewright.codecs import CODECS, canonical

    name = "none" if compression is None else str(getattr(compression, "value", compression))
    found = canonical(name)
    if found is None:
        raise ValueError(f"compression {name!r} is not known; choose one of {', '.join(CODECS)}")
    return "webp-lossless" if found == "webp" and quality in (None, 100) else found


def _quality(compression: str, quality: int | None, *, old: bool) -> int | None:
    from slidewright.codecs import CODECS

    if CODECS[compression].lossy:
        return 100 if quality is None and old else quality
    if quality is not None and not old and compression != "webp-lossless":
        raise ValueError(f"Quality is not supported for the {compression} compression type.")
    return None


def _as_bytes(tile: Any) -> NDArray[Any]:
    """A tile as uint8, which is all that dlup writes: other integers are taken where their values fit."""
    import numpy as np

    pixels: NDArray[Any] = np.asarray(tile)
    if pixels.dtype == np.uint8 or pixels.dtype.kind not in "bui" or not pixels.size:
        return pixels
    return pixels.astype(np.uint8) if pixels.min() >= 0 and pixels.max() <= 255 else pixels


def _tiles(pixels: NDArray[Any], tile: int) -> Iterator[NDArray[Any]]:
    for y in range(0, pixels.shape[0], tile):
        for x in range(0, pixels.shape[1], tile):
            yield pixels[y : y + tile, x : x + tile]
