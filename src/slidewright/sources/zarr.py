"""Zarr arrays and groups as sources: v2 and v3, OME-NGFF multiscales (0.4 and 0.5) and bioformats2raw layouts.

Also reads the engine's own scratch stores. A zarr 3 read costs 0.3 to 0.5 ms a chunk whatever is in it, so uncompressed
chunks of a local store are read from their files directly (zarr v3 core specification, "bytes" codec; v2 specification,
null compressor).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import main_thread
from typing import Any

import numpy as np

from slidewright.errors import CorruptTileError, OptionError, SlidewrightError, SourceError, numbered
from slidewright.geometry import Size, Stack, reduction
from slidewright.metadata import Channel, Metadata, fields_of
from slidewright.pixels import MAX_CHANNELS
from slidewright.selection import Selection
from slidewright.sources.access.shapes import check_dtype, check_shape
from slidewright.sources.access.tile_grid import CellReader
from slidewright.sources.base import LIBRARY_BYTES, Pixels, Reader, Source, SourceInfo, more_images, pickled_identity
from slidewright.sources.ome_attributes import (
    OmeAttributes,
    described_beside,
    labels_of,
    left_out_of,
    ome_of,
    other_members,
    step_of,
)
from slidewright.sources.on_disk import file_identity, zarr_files
from slidewright.system.files import fill_from, leads_to, regular
from slidewright.system.limits import blame_memory
from slidewright.system.remote_file import absolute, is_url
from slidewright.tiff.metadata import MICROMETRES, SECONDS

_SUPPORTED = f"an image has axes such as YX, YXS, CYX or TCZYX, and up to {MAX_CHANNELS} channels"
_MAX_CHUNK_BYTES = 1 << 30
_RED_GREEN_BLUE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
_WASTE = 2  # how many times its own pixels a region may decode before whole chunks are kept instead


@dataclass(frozen=True, slots=True)
class ZarrSource(Source):
    """One array of a local zarr store, as an image."""

    store: str
    array: str
    axes: str
    """One letter an axis: y, x, c for samples, and any other for an axis of one."""
    info: SourceInfo
    planes: Mapping[str, range] = field(default_factory=dict)
    """The places along z and t, where there are several."""
    form: int = 3

    @classmethod
    def at(cls, path: str, selection: Selection = Selection()) -> ZarrSource:  # noqa: B008 - frozen
        """Describe an array or group in a folder or a .zip file; SourceError and OptionError say what is wrong."""
        store, inner = absolute(path), ""
        node = _node(store, inner)
        return cls._describe(node, store, inner, selection)

    @classmethod
    def of(cls, node: Any, selection: Selection = Selection()) -> ZarrSource:  # noqa: B008 - frozen
        """Describe an open zarr array or group by the place of its store."""
        from zarr.storage import LocalStore, ZipStore

        if isinstance(node.store, LocalStore):
            store = str(node.store.root)
        elif isinstance(node.store, ZipStore):
            store = str(node.store.path)
        else:
            raise SourceError(
                f"a zarr store of kind {type(node.store).__name__} can't be opened by other processes; save it "
                f"to a folder first "
                "(zarr.save_array, or zarr.copy_store), or pass the array's pixels as a NumPy array"
            )
        store = os.path.abspath(store)
        form = node.metadata.zarr_format
        if _node(store, node.path).metadata.zarr_format != form:
            raise SourceError(
                f"{os.path.join(store, node.path)} is there in two formats, and other processes would not open that of "
                f"zarr v{form}; remove one, or pass the array's pixels as a NumPy array"
            )
        return cls._describe(node, store, node.path, selection)

    @classmethod
    def _describe(cls, node: Any, store: str, inner: str, selection: Selection) -> ZarrSource:
        name = os.path.join(store, inner) if inner else store
        try:
            chosen = _choose(node, name, selection.series, selection.level)
            if selection.axes not in (None, chosen.axes or selection.axes):
                raise OptionError(
                    f"axes {selection.axes} has no meaning for {name}, whose axes are {chosen.axes}; leave it out"
                )
            axes = selection.axes or chosen.axes or _guess_axes(chosen.array, name)
            if len(axes) != chosen.array.ndim:
                raise OptionError(f"{name} has shape {chosen.array.shape}, which does not fit axes {axes!r}")
            _check_names(chosen.array, os.path.join(store, chosen.array.path), name)
            planes = _places(dict(zip(axes, chosen.array.shape, strict=False)), selection, name)
            info = _info(chosen, axes, name if chosen.array is node else os.path.join(store, chosen.array.path), planes)
        except (SlidewrightError, MemoryError):
            raise
        except Exception as error:  # metadata can be anything, such as paths that lead out of the store
            raise SourceError(f"{name}: its metadata can't be used ({type(error).__name__}: {error})") from error
        return cls(store, chosen.array.path, axes, info, planes, chosen.array.metadata.zarr_format)

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        described = pickled_identity(replace(self, info=replace(self.info, left_out=())))  # labels, that others may add
        files = [file_identity(path) for path in self.read_from]
        return {**described, **({"files": files} if files else file_identity(self.store))}

    @property
    def read_from(self) -> tuple[str, ...]:
        """See `Source`."""
        return zarr_files(self.store, self.array, self.form)

    def open(self) -> ZarrReader:
        """Open the array in this process."""
        array = _node(self.store, self.array)
        shape, dtype = getattr(array, "shape", ()), np.dtype(getattr(array, "dtype", "V"))
        lengths = dict(zip(self.axes, shape, strict=False))
        now = tuple(lengths.get(axis, 1) for axis in "yxc")
        if len(shape) != len(self.axes) or now != self.info.shape or dtype.name != self.info.dtype:
            raise SourceError(f"{self.info.name} is not the array it was when the run began; start again")
        from slidewright.sources.access.zarr_codecs import bounded

        return ZarrReader(self, bounded(array))


class ZarrReader(Reader):
    """Reads regions of one zarr array."""

    def __init__(self, source: ZarrSource, array: Any) -> None:
        info = source.info
        assert info.tile is not None
        self._name, self._array, self._axes, self._samples = info.name, array, source.axes, info.samples
        self._size, self._chunk = info.size, info.tile
        self._depth = array.chunks[self._axes.index("c")] if "c" in self._axes else 1
        self._closed = False
        self._places, self._frame = source.planes, 0
        self._planes = self._planes_of(0)
        raw = _raw_chunks(array, source.axes, source.store, self._planes)
        self._raw = raw is not None
        self._cells = CellReader(info.size, info.tile, info.samples, info.dtype, raw or self._decode, depth=self._depth)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        frame, plane = divmod(plane, self._samples)
        if frame != self._frame:  # decoded chunks are of one frame
            self._frame = frame
            self._planes.update(self._planes_of(frame))
            self._cells.clear()
        if self._raw or self._wasteful(y, x, height, width, plane, out.shape[2]):
            return self._cells.read(y, x, height, width, out, plane)
        answer = out[:height, :width]
        self._fetch(y, x, plane, answer)
        return answer

    def _planes_of(self, frame: int) -> dict[str, int]:
        """Where a frame lies along z and t."""
        times, depths = (self._places.get(axis, range(1)) for axis in "tz")
        time, depth = divmod(frame, len(depths))
        return {axis: place for axis, place in (("t", times[time]), ("z", depths[depth])) if axis in self._places}

    def close(self) -> None:
        """Drop the cache and close the store (a .zip holds its file open)."""
        self._cells.clear()
        if not self._closed:
            self._closed = True
            self._array.store.close()

    def _wasteful(self, y: int, x: int, height: int, width: int, plane: int, channels: int) -> bool:
        """Whether the chunks that a region touches hold far more pixels than the region."""
        tall, wide = self._chunk
        rows = min(-(-(y + height) // tall) * tall, self._size.height) - y // tall * tall
        columns = min(-(-(x + width) // wide) * wide, self._size.width) - x // wide * wide
        deep = self._depth
        depth = min(-(-(plane + channels) // deep) * deep, self._samples) - plane // deep * deep
        return rows * columns * depth > _WASTE * height * width * channels

    def _decode(self, row: int, column: int, band: int, out: Pixels) -> None:
        y, x, plane = row * self._chunk.height, column * self._chunk.width, band * self._depth
        self._fetch(y, x, plane, out[: self._size.height - y, : self._size.width - x, : self._samples - plane])

    def _fetch(self, y: int, x: int, plane: int, out: Pixels) -> None:
        """One read of zarr's, of all the chunks that `out` at (y, x) touches."""
        channels = slice(plane, plane + out.shape[2])
        spans = {"y": slice(y, y + out.shape[0]), "x": slice(x, x + out.shape[1]), "c": channels}
        try:
            pixels = np.asarray(self._array[tuple(spans.get(axis, self._planes.get(axis, 0)) for axis in self._axes)])
        except (SlidewrightError, MemoryError):
            raise
        except Exception as error:  # a codec's own error, or the store's
            row, column = y // self._chunk.height, x // self._chunk.width
            what = (
                f"{self._name}: the chunks of {out.shape[1]} x {out.shape[0]} pixels from row {row}, column {column} "
                f"can't be read ({type(error).__name__}: {error})"
            )
            if is_url(self._name):  # which of the two it is, the server does not say
                raise SourceError(f"{what}; try again, or download the store first") from error
            if not main_thread().is_alive():  # zarr's own threads take no work any more
                raise SourceError(
                    f"{what}; the program's main thread has ended: have it wait for this thread (thread.join()), or "
                    "give a number of workers"
                ) from error
            if isinstance(error, OSError) and error.errno:  # of the system's; some codecs have OSErrors of their own
                raise SourceError(f"{what}; try again when its disk is well") from error
            blame_memory(out.nbytes)
            raise CorruptTileError(f"{what}; the store is damaged") from error
        left = [axis for axis in self._axes if axis in spans]
        if "c" in left:
            pixels = pixels.transpose([left.index(axis) for axis in "yxc"])
        elif left == ["x", "y"]:
            pixels = pixels.T
        out[...] = pixels.reshape(out.shape)


@dataclass(frozen=True, slots=True)
class _Chosen:
    array: Any
    axes: str | None = None
    mpp: tuple[float, float] | None = None
    z_spacing: float | None = None
    time_increment: float | None = None
    reduction: float = 1.0
    kind: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Of the group that the array is a level of."""
    channels: tuple[Channel, ...] = ()
    left_out: tuple[str, ...] = ()
    beside: Metadata = field(default_factory=Metadata)
    """What the OME-XML of bioformats2raw says of the image."""


def _node(store: str, inner: str) -> Any:
    from slidewright.sources.access.zarr_store import open_store

    return open_store(store, inner)


def _choose(node: Any, name: str, series: int | None, level: int | None) -> _Chosen:
    """The array to read: the node itself, a dataset of its multiscales, or the only array of a plain group."""
    import zarr

    if isinstance(node, zarr.Array):
        if series or level:
            raise OptionError(f"{name} is a single array; leave out series and level")
        return _Chosen(node)
    attributes = ome_of(node)
    if "bioformats2raw.layout" in attributes or (series is not None and "multiscales" not in attributes):
        member = str(series or 0)
        if member not in node:
            raise OptionError(f"{name} has no series {member}; it has {_names(node)}")
        chosen = _choose(node[member], f"{name}/{member}", None, level)
        return chosen if series is not None else replace(chosen, left_out=(*chosen.left_out, *other_members(node)))
    images = attributes.get("multiscales")
    if images:
        if not 0 <= (series or 0) < len(images):
            raise OptionError(f"{name} has no series {series}; {numbered(len(images))}")
        chosen = _dataset(node, images[series or 0], name, level or 0)
        beside, told = described_beside(node, name)
        chosen = replace(chosen, channels=OmeAttributes(node.attrs).channels, attributes=dict(node.attrs))
        more = () if series is not None else more_images(range(1, len(images)))
        chosen = replace(chosen, beside=beside, left_out=(*chosen.left_out, *told, *labels_of(node), *more))
        return replace(chosen, kind="labels") if "image-label" in attributes else chosen
    arrays = [key for key, _ in node.arrays()]
    if len(arrays) != 1:
        listing = ", ".join(sorted(arrays)) if arrays else "none"
        raise SourceError(
            f"{name} is a group without OME-NGFF multiscales; name one array of it as the source. Arrays: {listing}"
        )
    if level:
        raise OptionError(f"{name} has a single array; leave out level")
    return _Chosen(node[arrays[0]])


def _names(node: Any) -> str:
    return ", ".join(sorted(key for key, _ in node.members())) or "nothing"


def _dataset(node: Any, multiscale: Mapping[str, Any], name: str, level: int) -> _Chosen:
    import zarr

    datasets = multiscale.get("datasets") or []
    if not 0 <= level < len(datasets):
        raise OptionError(f"{name} has no level {level}; {numbered(len(datasets))}")
    path = str(datasets[level].get("path", ""))
    if not isinstance(array := node[path] if path and path in node else None, zarr.Array):
        raise SourceError(f"{name}: its multiscales name an array {path!r} that is not there; the store is damaged")
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale.get("axes") or []]
    if not axes:
        axes = [{"name": letter} for letter in "tczyx"[-array.ndim :]]  # before 0.3 the order was fixed
    letters = "".join(_letter(str(axis.get("name", "?"))) for axis in axes)
    if len(letters) != array.ndim:
        raise SourceError(f"{name}: {len(letters)} axes for an array of {array.ndim} dimensions; the store is damaged")
    holders = (multiscale, datasets[level])
    x, y, z = (step_of(axes, letters, letter, MICROMETRES, holders) for letter in "xyz")
    seconds = step_of(axes, letters, "t", SECONDS, holders)
    mpp = (x, y) if x is not None and y is not None else None
    left_out = left_out_of(letters, mpp, {"z": z, "t": seconds}, (multiscale, datasets[0]))
    whole = getattr(node.get(str(datasets[0].get("path"))), "shape", array.shape) if level else array.shape
    times = reduction(int(whole[letters.find("x")]), max(1, int(array.shape[letters.find("x")])))
    return _Chosen(array, letters, mpp, z, seconds, times, left_out=left_out)


def _kind_of(channels: tuple[Channel, ...], samples: int) -> str | None:
    """What 3 or 4 channels are that are shown in other colours than red, green and blue; None where nothing says it."""
    colors = tuple(channel.color for channel in channels[:3])
    told = len(channels) == samples and samples in (3, 4) and None not in colors and len(set(colors)) > 1
    return "multichannel" if told and colors != _RED_GREEN_BLUE else None


def _letter(axis: str) -> str:
    lower = axis.lower()
    return "c" if lower in ("c", "s", "channel", "channels", "sample", "samples", "band", "rgb") else lower[:1]


def _places(lengths: Mapping[str, int], selection: Selection, name: str) -> dict[str, range]:
    """The planes and times that were chosen."""
    found = {axis: selection.places(axis, lengths.get(axis, 1), name) for axis in "zt"}
    return {axis: places for axis, places in found.items() if places is not None and axis in lengths}


def _check_names(array: Any, folder: str, name: str) -> None:
    """Refuse an array of zarr v2 whose chunks are named otherwise than it says: none would be found, and all of it be
    background. Writers of old put them into folders without saying so.
    """
    if array.metadata.zarr_format != 2 or array.ndim < 2 or not os.path.isdir(folder):
        return
    with os.scandir(folder) as entries:
        first = next((entry.name for entry in entries if re.fullmatch(r"\d+(\.\d+)*", entry.name)), None)
    there = None if first is None else "." if "." in first else "/"
    if there not in (None, array.metadata.dimension_separator):
        raise SourceError(
            f'{name}: its chunks are named with "{there}", and its .zarray does not say so; add "dimension_separator": '
            f'"{there}" to that file'
        )


def _guess_axes(array: Any, name: str) -> str:
    """Axes of an array without OME metadata: by its dimension names, or by where its channels must be: a short
    last axis, or whichever of the first and last is shorter.
    """
    names = getattr(array.metadata, "dimension_names", None) or dict(array.attrs).get("_ARRAY_DIMENSIONS")
    if names and all(names):
        letters = "".join(_letter(str(item)) for item in names)
        if letters.count("y") == letters.count("x") == 1:
            return letters
    shape = tuple(array.shape)
    if len(shape) == 2:
        return "yx"
    if len(shape) == 3 and shape[2] > 4 and shape[0] < shape[2] and shape[0] <= MAX_CHANNELS:
        return "cyx"
    if len(shape) == 3:
        check_shape(shape, name)
        return "yxc"
    if len(shape) == 5:
        return "tczyx"
    raise SourceError(f"{name} has shape {shape}, whose axes can't be told; {_SUPPORTED}")


def _yx(shape: tuple[int, ...], axes: str) -> Size:
    return Size(int(shape[axes.index("y")]), int(shape[axes.index("x")]))


def _info(chosen: _Chosen, axes: str, name: str, planes: Mapping[str, range]) -> SourceInfo:
    from slidewright.sources.access.zarr_codecs import check_codecs

    array = chosen.array
    lengths = dict(zip(axes, array.shape, strict=True))
    if len(lengths) != len(axes) or not {"x", "y"} <= set(lengths):
        raise SourceError(f"{name} has axes {axes!r}; {_SUPPORTED}")
    known = ("y", "x", "c", *planes)
    long = [f"{axis} of {length}" for axis, length in lengths.items() if axis not in known and length != 1]
    samples = int(lengths.get("c", 1))
    if long or samples > MAX_CHANNELS:
        what = " and ".join(long) or f"c of {samples}"
        choose = all(words[0] in "zt" for words in long) and long
        remedy = (
            f"choose one with {' and '.join(words[0] for words in long)}, or keep all"
            if choose
            else "save a part of it first, such as some of its channels"
        )
        raise SourceError(f"{name} has axes {axes!r} with {what}; {_SUPPORTED}: {remedy}")
    if 0 in array.shape:
        raise SourceError(f"{name} has shape {tuple(array.shape)}, which holds no pixel")
    if min(array.chunks) < 1:
        raise SourceError(f"{name} has chunks of {tuple(array.chunks)}, which hold no pixel; the store is damaged")
    check_codecs(array, name)
    dtype = check_dtype(np.dtype(array.dtype), name)
    size, chunk = _yx(array.shape, axes), _yx(array.chunks, axes)
    grid = Size(min(chunk.height, size.height), min(chunk.width, size.width))
    depth = min(samples, int(array.chunks[axes.index("c")])) if "c" in axes else 1
    cell_bytes = grid.height * grid.width * depth * np.dtype(dtype).itemsize
    deep = zip(axes, array.chunks, array.shape, strict=True)
    frames = math.prod(min(int(chunk), int(length)) for axis, chunk, length in deep if axis not in "yxc")
    if cell_bytes * frames > _MAX_CHUNK_BYTES:
        raise SourceError(
            f"{name} has chunks of {grid} pixels, too large to decode in memory; save it again with smaller chunks"
        )
    said = OmeAttributes(chosen.attributes)
    return SourceInfo(
        name=name,
        format="zarr",
        size=size,
        samples=samples,
        dtype=dtype,
        stack=Stack(*(len(planes.get(axis, range(1))) for axis in "tz")),
        kind=said.kind(samples, dtype) or chosen.kind or _kind_of(chosen.channels, samples),
        description=said.description,
        icc_profile=said.icc_profile,
        colormap=said.colormap if samples == 1 and dtype in ("uint8", "uint16") else None,
        left_out=(*chosen.left_out, *said.left_out(samples, dtype)),
        planar=samples > 1 and depth == 1,
        mpp=chosen.mpp,
        tile=grid,
        metadata=_metadata(said.metadata, chosen, samples),
        worker_bytes=LIBRARY_BYTES + cell_bytes * (frames - 1),
    )


def _metadata(said: Metadata, chosen: _Chosen, samples: int) -> Metadata:
    beside = chosen.beside
    channels = chosen.channels or beside.channels
    return replace(
        said,
        reduction=chosen.reduction,
        channels=channels if len(channels) == samples else (),
        objective_power=said.objective_power or beside.objective_power,
        scanner_vendor=said.scanner_vendor or beside.scanner_vendor,
        scanner_model=said.scanner_model or beside.scanner_model,
        significant_bits=said.significant_bits or beside.significant_bits,
        z_spacing=chosen.z_spacing or said.z_spacing or beside.z_spacing,
        time_increment=chosen.time_increment or said.time_increment or beside.time_increment,
        identifying=fields_of({**dict(beside.identifying), **dict(said.identifying)}),
    )


def _raw_chunks(
    array: Any, axes: str, store: str, planes: Mapping[str, int]
) -> Callable[[int, int, int, Pixels], None] | None:
    """A decoder that reads the files of uncompressed chunks, or None where chunks are anything else; `planes` is asked
    each time for the place along z and t.
    """
    if is_url(store) or store.lower().endswith(".zip"):
        return None
    if not _is_cell(array, axes) or not _is_uncompressed(array.metadata):
        return None
    from slidewright.sources.access.zarr_store import gone

    encode_key, folder = array.metadata.encode_chunk_key, Path(store, array.path)
    fill, name = array.fill_value, str(folder)
    prefix, opened = str(folder) + os.sep, os.stat(folder)
    swapped = not np.dtype(array.dtype).isnative if array.metadata.zarr_format == 2 else False

    def decode(row: int, column: int, band: int, out: Pixels) -> None:
        place = {**planes, "y": row, "x": column, "c": band}
        buffer = memoryview(out).cast("B")
        try:
            with open(
                prefix + encode_key(tuple(place.get(axis, 0) for axis in axes)), "rb", buffering=0, opener=regular
            ) as file:
                got = fill_from(file, buffer)
                whole = got == len(buffer) and not file.read(1)
        except FileNotFoundError:
            if not leads_to(folder, opened):
                raise gone(name) from None
            out[...] = 0 if fill is None else fill
            return
        except OSError as error:
            raise SourceError(
                f"{name}: the chunk at row {row}, column {column} can't be read: {error.strerror or error}"
            ) from error
        if not whole:
            raise CorruptTileError(
                f"{name}: the chunk at row {row}, column {column} has not {len(buffer)} bytes; the store is damaged"
            )
        if swapped:
            out.byteswap(inplace=True)

    return decode


def _is_cell(array: Any, axes: str) -> bool:
    """Whether a chunk's memory is (height, width, channels), a plane of one channel included, and no chunk is larger
    than the image.
    """
    chunks, shape = dict(zip(axes, array.chunks, strict=True)), dict(zip(axes, array.shape, strict=True))
    if any(chunks[axis] > shape[axis] for axis in axes):
        return False
    long = [axis for axis in axes if axis in "yx" or chunks[axis] > 1]
    return long in (["y", "x"], ["y", "x", "c"])


def _is_uncompressed(metadata: Any) -> bool:
    """Whether a chunk's file is the chunk's memory, C order, in this machine's byte order (v2: in the dtype's)."""
    described = metadata.to_dict()
    if metadata.zarr_format == 2:
        return described.get("compressor") is None and not described.get("filters") and described.get("order") == "C"
    codecs = [codec if isinstance(codec, dict) else codec.to_dict() for codec in described.get("codecs", ())]
    if len(codecs) != 1 or codecs[0].get("name") != "bytes" or described.get("storage_transformers"):
        return False
    endian = (codecs[0].get("configuration") or {}).get("endian", "little")
    return bool(np.dtype("<u2" if endian == "little" else ">u2").isnative)
