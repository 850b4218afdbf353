"""Zarr arrays and groups as sources: v2 and v3, OME-NGFF multiscales (0.4 and 0.5), bioformats2raw's layout, and the
engine's own scratch stores.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from slidewright.errors import OptionError, SlidewrightError, SourceError, numbered
from slidewright.geometry import Size, Stack, reduction
from slidewright.metadata import Channel, Metadata, fields_of
from slidewright.pixels import MAX_CHANNELS
from slidewright.selection import Selection
from slidewright.sources.access.shapes import axis_letter, check_dtype, check_shape
from slidewright.sources.access.tile_grid import check_height
from slidewright.sources.base import LIBRARY_BYTES, Source, SourceInfo, more_images, pickled_identity
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
from slidewright.sources.zarr_reader import ZarrReader
from slidewright.system.file_identity import seen_as
from slidewright.system.remote_file import absolute
from slidewright.tiff.metadata import MICROMETRES, SECONDS

_SUPPORTED = f"an image has axes such as YX, YXS, CYX or TCZYX, and up to {MAX_CHANNELS} channels"
_MAX_CHUNK_BYTES = 1 << 30
_MAX_CHUNKS = 1 << 26  # of a frame: a slide of 500 gigapixels in chunks of 128 x 128 has half of them
_SMALL_CHUNK, _MAX_SMALL_CHUNKS = 32 * 32, 1 << 20  # pixels, which nobody has in so many files
_OLD_CHUNK = r"\d+(\.\d+)*"  # what lies in the folder of an array of zarr v2: chunks, or folders of them
_CHUNK = rf"c(\.\d+)*|{_OLD_CHUNK}"
_RED_GREEN_BLUE = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


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
    seen: tuple[int, int] | None = None
    """Bytes and time of change (ns) of the array's metadata, or of a .zip; None behind a URL."""

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
            if getattr(node.metadata, "consolidated_metadata", None) is not None:  # of what may have been resized since
                chosen = replace(chosen, array=_node(store, chosen.array.path))
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
        form = chosen.array.metadata.zarr_format
        return cls(store, chosen.array.path, axes, info, planes, form, _seen(store, chosen.array.path, form))

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        info = replace(self.info, left_out=())  # labels, that others may add
        described = pickled_identity(replace(self, info=info, seen=None))
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
        other = len(shape) != len(self.axes) or now != self.info.shape or dtype.name != self.info.dtype
        if other or _seen(self.store, self.array, self.form) != self.seen:
            raise SourceError(f"{self.info.name} is not the array it was when the run began; start again")
        from slidewright.sources.access.zarr_codecs import bounded

        return ZarrReader(self.info, bounded(array), self.axes, self.store, self.planes)


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


def _seen(store: str, inner: str, form: int) -> tuple[int, int] | None:
    """See `ZarrSource.seen`."""
    if not os.path.isdir(store):
        return seen_as(store)
    return seen_as(os.path.join(store, inner, "zarr.json" if form == 3 else ".zarray"))


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
    letters = "".join(axis_letter(str(axis.get("name", "?"))) for axis in axes)
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


def _places(lengths: Mapping[str, int], selection: Selection, name: str) -> dict[str, range]:
    """The planes and times that were chosen."""
    found = {axis: selection.places(axis, lengths.get(axis, 1), name) for axis in "zt"}
    return {axis: places for axis, places in found.items() if places is not None and axis in lengths}


def _check_names(array: Any, folder: str, name: str) -> None:
    """Refuse an array whose chunks are named otherwise than it says: none would be found, and all of it be background.
    Writers of old put those of zarr v2 into folders without saying so.
    """
    names = _names_in(array, folder) if array.ndim > 1 else ()
    new = array.metadata.zarr_format == 3
    due = array.metadata.encode_chunk_key((0,) * array.ndim)
    fitting, there = re.sub("0", r"\\d+", re.escape(due.partition("/")[0])), ""
    for each in names:
        if re.fullmatch(fitting, each):
            return
        there = there or (each if re.fullmatch(_CHUNK if new else _OLD_CHUNK, each) else "")
    if there and new:
        raise SourceError(
            f"{name}: its chunks have names such as {there!r}, and by chunk_key_encoding in its zarr.json the first is "
            f"{due!r}; correct that file"
        )
    if there:
        separator = "." if "." in there else "/"
        raise SourceError(
            f'{name}: its chunks are named with "{separator}", and its .zarray does not say so; add '
            f'"dimension_separator": "{separator}" to that file'
        )


def _names_in(array: Any, folder: str) -> Iterator[str]:
    """Names of what is in the folder of an array, also in a local .zip; none behind a URL."""
    if os.path.isdir(folder):
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries)
    elif members := getattr(array.store, "members", None):  # of an `ArchiveStore`, whose module is not imported here
        prefix = f"{array.path}/" if array.path else ""
        yield from (name[len(prefix) :].partition("/")[0] for name in members() if name.startswith(prefix))


def _guess_axes(array: Any, name: str) -> str:
    """Axes of an array without OME metadata: by its dimension names, or by where its channels must be: a short
    last axis, or whichever of the first and last is shorter.
    """
    names = getattr(array.metadata, "dimension_names", None) or dict(array.attrs).get("_ARRAY_DIMENSIONS")
    if names and all(names):
        letters, first = "".join(axis_letter(str(item)) for item in names), {str(item)[0].lower() for item in names}
        if letters.count("y") == letters.count("x") == 1 and ({*letters} <= {*"tczyx"} or {*"yx"} <= first):
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
    check_height(name, size, grid, depth * np.dtype(dtype).itemsize)
    count = -(-size.height // grid.height) * -(-size.width // grid.width) * -(-samples // depth)
    if count > (_MAX_CHUNKS if grid.height * grid.width >= _SMALL_CHUNK else _MAX_SMALL_CHUNKS):
        raise SourceError(
            f"{name} has {count:,} chunks of {grid} pixels, which would take hours to look for; save it again with "
            "larger chunks"
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
