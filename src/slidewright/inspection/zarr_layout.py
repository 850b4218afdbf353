"""How a zarr array of an image lies on disk: from its metadata (v2 or v3) to shape, chunks, shards, keys and codec.

Only layouts that slidewright writes, and close relatives, are described; others are refused by name.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from slidewright.errors import SourceError, VerifyError
from slidewright.geometry import Size, Stack
from slidewright.sources.access.image_chunks import NAMES, decode_image
from slidewright.system.json_file import read_json

MAX_CHUNK_BYTES = 1 << 28
MAX_CHUNKS = 1 << 24
_ENTRY_BYTES, _CHECKSUM_BYTES = 16, 4
_KNOWN = (
    "verify reads chunks in zstd, gzip, blosc, none or imagecodecs' jpeg, jpeg2k, webp or jpegxl, of one plane or of a "
    "pixel's samples, in C order"
)


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """An array of t, c, z, y and x, in this order, of which it need not have the first three."""

    size: Size
    samples: int
    depth: int
    """Samples in a chunk."""
    dtype: np.dtype[Any]
    chunk: int
    shard: int
    """Chunks a side of a shard; 1 where there is none."""
    sharded: bool
    planar: bool
    """Whether the samples in a chunk's bytes come one after the other, not side by side."""
    compression: str
    settings: Mapping[str, Any]
    """Of the codec, where chunks are images."""
    fill: int | float
    prefix: str
    """What each key begins with: "c/" in v3."""
    axes: str
    stack: Stack

    @property
    def index_bytes(self) -> int:
        """Bytes of a shard's index with its checksum."""
        return self.shard * self.shard * _ENTRY_BYTES + _CHECKSUM_BYTES

    def path(self, folder: str, plane: int, row: int, column: int) -> str:
        """The file of a shard, or of a chunk where there are none; planes are counted frame by frame."""
        frame, channel = divmod(plane, self.samples // self.depth)
        time, depth = divmod(frame, self.stack.z)
        place = {"t": time, "c": channel, "z": depth, "y": row, "x": column}
        return f"{folder}{os.sep}{self.prefix}{os.sep.join(str(place[axis]) for axis in self.axes)}"

    @property
    def lossless(self) -> bool:
        """Whether the codec is said to give back what it was given."""
        images = self.settings.get("lossless", False) or self.settings.get("reversible", False)
        return self.compression not in NAMES.values() or bool(images)

    def decompressor(self) -> Callable[[bytes], Any]:
        """From a chunk's bytes to its pixels', or to pixels; refuses to make more than a chunk has."""
        import imagecodecs

        if self.compression in NAMES.values():
            shape = (self.chunk, self.chunk, self.depth)
            return lambda data: decode_image(self.compression, data, shape, self.dtype, self.settings)
        nbytes = self.chunk * self.chunk * self.depth * self.dtype.itemsize
        match self.compression:
            case "zstd":
                return lambda data: imagecodecs.zstd_decode(data, out=bytearray(nbytes))
            case "gzip":
                return lambda data: imagecodecs.gzip_decode(data, out=bytearray(nbytes))
            case "blosc":
                return lambda data: imagecodecs.blosc_decode(data, numthreads=1, out=bytearray(nbytes))
            case _:
                return lambda data: data


def read_layout(folder: str, axes: str) -> ArrayLayout:
    """The layout of the array in a folder.

    Raises
    ------
    SourceError
        When it is one that is not read here.
    VerifyError
        When it is not there, or makes no sense.
    """
    for name, read in (("zarr.json", _v3), (".zarray", _v2)):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return _checked(read(read_json(path), axes, folder), folder)
    raise VerifyError(f"{folder}: there is no array; the store is damaged")


def _v3(given: Mapping[str, Any], axes: str, folder: str) -> ArrayLayout:
    chunk_shape = given["chunk_grid"]["configuration"]["chunk_shape"]
    codecs = given["codecs"]
    sharded = codecs[0]["name"] == "sharding_indexed"
    inner = chunk_shape
    if sharded:
        settings = codecs[0]["configuration"]
        if len(codecs) > 1 or settings.get("index_location", "end") != "end":
            raise SourceError(f"{folder}: {_KNOWN}, its shards with the index at the end")
        if [codec["name"] for codec in settings["index_codecs"]] != ["bytes", "crc32c"]:
            raise SourceError(f"{folder}: {_KNOWN}, its shards with an index of bytes and crc32c")
        inner, codecs = settings["chunk_shape"], settings["codecs"]
    encoding = given["chunk_key_encoding"]
    if encoding["name"] != "default" or encoding.get("configuration", {}).get("separator", "/") != "/":
        raise SourceError(f"{folder}: {_KNOWN}, in files named c/row/column")
    names = [codec["name"] for codec in codecs]
    planar = "transpose" not in names
    order = codecs[0].get("configuration", {}).get("order")
    if not planar and order != [*(n for n, axis in enumerate(axes) if axis != "c"), axes.find("c")]:
        raise SourceError(f"{folder}: {_KNOWN}")
    named = {codec["name"]: codec.get("configuration") or {} for codec in codecs if codec["name"] != "transpose"}
    names = list(named)
    image = NAMES.get(names[0]) if len(names) == 1 else None
    if image is None and (not names or names[0] != "bytes" or len(names) > 2):
        raise SourceError(f"{folder} has the codecs {', '.join(names)}; {_KNOWN}")
    return _layout(
        given,
        axes,
        folder,
        dtype=np.dtype(str(given["data_type"])).newbyteorder("<"),
        chunk=inner,
        outer=chunk_shape if sharded else None,
        planar=planar,
        compression=image or (names[1] if len(names) == 2 else "none"),
        settings=named[names[0]] if image else {},
        prefix=f"c{os.sep}",
    )


def _v2(given: Mapping[str, Any], axes: str, folder: str) -> ArrayLayout:
    if given.get("order") != "C" or given.get("filters") or given.get("dimension_separator") != "/":
        raise SourceError(f"{folder}: {_KNOWN}, without filters, in files named row/column")
    compressor = given.get("compressor")
    return _layout(
        given,
        axes,
        folder,
        dtype=np.dtype(given["dtype"]),
        chunk=given["chunks"],
        outer=None,
        planar=True,
        compression="none" if compressor is None else str(compressor["id"]),
        prefix="",
    )


def _layout(
    given: Mapping[str, Any],
    axes: str,
    folder: str,
    *,
    dtype: np.dtype[Any],
    chunk: Sequence[int],
    outer: Sequence[int] | None,
    planar: bool,
    compression: str,
    prefix: str,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> ArrayLayout:
    shape = [int(length) for length in given["shape"]]
    known = axes == "".join(axis for axis in "tcz" if axis in axes) + "yx"
    if not known or len(shape) != len(axes) or len(chunk) != len(axes):
        raise SourceError(f"{folder} has axes {axes!r} and shape {tuple(shape)}; {_KNOWN}")
    lengths, depths = dict(zip(axes, shape, strict=True)), dict(zip(axes, map(int, chunk), strict=True))
    samples, depth = lengths.get("c", 1), depths.get("c", 1)
    stack = Stack(lengths.get("t", 1), lengths.get("z", 1))
    side = int(chunk[-1])
    shard = 1 if outer is None else int(outer[-1]) // side
    single = depth in (1, samples) and depths.get("t", 1) == depths.get("z", 1) == 1
    if chunk[-2] != side or not single or (outer or chunk)[0 : len(axes) - 2] != chunk[: len(axes) - 2]:
        raise SourceError(f"{folder} has chunks of {tuple(chunk)}; {_KNOWN}, and square")
    if outer is not None and list(outer[-2:]) != [shard * side] * 2:
        raise SourceError(f"{folder} has shards of {tuple(outer)}; {_KNOWN}, and square shards")
    if compression not in ("none", "zstd", "gzip", "blosc", *NAMES.values()):
        raise SourceError(f"{folder} is stored with {compression!r}; {_KNOWN}")
    return ArrayLayout(
        size=Size(shape[-2], shape[-1]),
        samples=samples,
        depth=depth,
        dtype=dtype,
        chunk=side,
        shard=shard,
        sharded=outer is not None,
        planar=planar and depth > 1,
        compression=compression,
        settings=settings,
        fill=np.array(given.get("fill_value") or 0).astype(dtype).item(),
        prefix=prefix,
        axes=axes,
        stack=stack,
    )


def _checked(layout: ArrayLayout, folder: str) -> ArrayLayout:
    """The layout, unless its numbers would have somebody allocate too much."""
    good = min(*layout.size, *layout.stack, layout.samples, layout.depth, layout.chunk, layout.shard) > 0
    chunk_bytes = layout.chunk * layout.chunk * layout.depth * layout.dtype.itemsize
    if not good or chunk_bytes > MAX_CHUNK_BYTES or layout.shard > 4096 or layout.dtype.kind not in "uif":
        raise VerifyError(f"{folder}: its metadata make no sense; the store is damaged")
    if math.prod(layout.size.grid(layout.chunk)) * layout.samples * layout.stack.frames > MAX_CHUNKS:
        raise VerifyError(f"{folder}: it declares more chunks than verify looks at")
    return layout
