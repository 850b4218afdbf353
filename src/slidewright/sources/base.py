"""What a source is: a picklable description that is opened inside the worker that reads it.

Everything that knows a file format lives in the sibling modules; the rest of slidewright sees only `Source`, `Reader`
and `SourceInfo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from slidewright.geometry import Size

Pixels = NDArray[Any]


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source without reading pixels."""

    name: str
    """How to call it in a message: its path, or a description such as "NumPy array"."""
    format: str
    """A short word for the kind: "tiff", "svs", "zarr", "npy", "array", or OpenSlide's vendor."""
    size: Size
    """Height and width in pixels."""
    samples: int
    """Samples a pixel: 1 for grey, 3 for RGB, 4 for RGBA, the number of channels otherwise."""
    dtype: str
    """NumPy dtype name, native byte order: "bool", "uint8", "uint16", "uint32", "int8", "int16", "int32", "float32"."""
    kind: str | None = None
    """What the pixels are (`options.KINDS`), where the source says so; None leaves it to dtype and samples."""
    colormap: tuple[tuple[int, int, int], ...] | None = None
    """The palette of labels as (red, green, blue) of 0 to 65535 by index, where there is one."""
    planar: bool = False
    """Whether a channel can be read without the others, at its share of the cost."""
    mpp: tuple[float, float] | None = None
    """Micrometres a pixel along (x, y), where known."""
    grid: Size | None = None
    """The source's own tile, strip or chunk size (height, width); None when regions cost the same anywhere."""
    icc_profile: bytes | None = None
    """The ICC profile, where there is one."""
    description: str | None = None
    """The source's own ImageDescription, where there is one."""
    background: tuple[int, int, int] | None = None
    """The colour, of 0 to 255, that stands for "no tissue" where the source states one."""
    associated: tuple[str, ...] = ()
    """Names of associated images (thumbnail, label, macro)."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, samples)."""
        return (self.size.height, self.size.width, self.samples)

    @property
    def itemsize(self) -> int:
        """Bytes a sample."""
        return int(np.dtype(self.dtype).itemsize)


class Reader(Protocol):
    """An open source in one process; not shared between threads."""

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, wholly inside the image, as (height, width, planes), native byte order.

        The channels wanted are those from `plane` on, as many as `out` has; all of them except of a multichannel image.
        `out` is a C-contiguous (>= height, >= width, planes) array of the source's dtype that the reader may use: the
        answer may be a view of it, or of memory of the reader's own (a memory map) that holds until the next call, and
        is never written to by the caller unless it is a view of `out`.

        Raises
        ------
        CorruptTileError
            When a segment can't be decoded; names the source and the tile.
        SourceError
            When the source can't be read.
        """

    def close(self) -> None:
        """Release files and caches; may be called twice."""


@runtime_checkable
class Source(Protocol):
    """A picklable description of an image and how to open it.

    A source whose pixels are in the memory of this process has a `prepare(folder)` besides, which gives a source that
    travels, to be closed at the end. One with large parts of background sets `sparse`, and its readers answer a whole
    tile of background with their attribute `blank`, which is then encoded once and kept out of the scratch.
    """

    @property
    def info(self) -> SourceInfo:
        """Size, samples, dtype and metadata, found when the description was made."""

    def open(self) -> Reader:
        """Open it in this process."""
