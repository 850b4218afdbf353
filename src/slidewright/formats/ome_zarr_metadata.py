"""What the JSON of an OME-Zarr says: arrays as the zarr specifications have them, levels, channels and labels as NGFF
0.5 and 0.4. Apart from `ome_zarr.py`, which writes the chunks.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from slidewright.codecs import Encoding
from slidewright.formats.base import ImageDescription
from slidewright.formats.zarr_images import image_codec
from slidewright.metadata import Channel
from slidewright.pixels import MASKS, PixelFormat
from slidewright.pyramid.kept import Kept
from slidewright.pyramid.plan import Level
from slidewright.sources.ome_attributes import made_up_channel

Window = tuple[float, float]
"""The values that a viewer shows as black and as full colour."""

OWN = "slidewright"
"""The attribute with what NGFF has no place for; `sources/zarr.py` reads it back."""
_AXIS_TYPES = {"t": "time", "c": "channel"}
_RGBA = (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"), ("Alpha", "FFFFFF"))
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


def axes_of(pixels: PixelFormat) -> str:
    """Letters of the axes: those of times, channels and planes along z only where there are several."""
    lengths = {"t": pixels.stack.t, "c": pixels.channels, "z": pixels.stack.z}
    return "".join(axis for axis, length in lengths.items() if length > 1) + "yx"


def fill_value(pixels: PixelFormat) -> int | float:
    """What a left-out chunk is: the background, where one number can say it."""
    values = set(pixels.background)
    value = values.pop() if len(values) == 1 else 0
    return float(value) if pixels.dtype.startswith("float") else int(value)


def array_v3(encoding: Encoding, level: Level, shard: int | None, kept: Kept | None = None) -> dict[str, Any]:
    """zarr.json of a level; `shard` is the chunks a side of a shard, `kept` what its tiles are if not encoded here."""
    pixels = encoding.pixels
    codecs: list[dict[str, Any]] = []
    if pixels.samples > 1 and not encoding.planar:  # a tile whose samples lie side by side
        axes = axes_of(pixels)
        order = [*(number for number, axis in enumerate(axes) if axis != "c"), axes.index("c")]
        codecs.append({"name": "transpose", "configuration": {"order": order}})
    image = image_codec(encoding, kept)
    codecs += [_LITTLE, *_compressor_v3(encoding)] if image is None else [image]
    chunk = _chunk_shape(pixels, encoding.tile)
    if shard is not None:
        sharding = {
            "chunk_shape": chunk,
            "codecs": codecs,
            "index_codecs": [_LITTLE, {"name": "crc32c"}],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
        chunk = _chunk_shape(pixels, encoding.tile * shard)
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": _shape(pixels, level),
        "data_type": pixels.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill_value(pixels),
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(axes_of(pixels)),
    }


def array_v2(encoding: Encoding, level: Level) -> dict[str, Any]:
    """.zarray of a level."""
    return {
        "zarr_format": 2,
        "shape": _shape(encoding.pixels, level),
        "chunks": _chunk_shape(encoding.pixels, encoding.tile),
        "dtype": np.dtype(encoding.dtype).newbyteorder("<").str,
        "compressor": _compressor_v2(encoding),
        "fill_value": fill_value(encoding.pixels),
        "order": "C",
        "filters": None,
        "dimension_separator": "/",
    }


def group_attributes(image: ImageDescription, ngff: str, windows: Sequence[Window] | None) -> dict[str, Any]:
    """Attributes of the image's group: multiscales, and channels or labels."""
    pixels = image.encoding.pixels
    ome: dict[str, Any] = {"multiscales": [_multiscale(image, ngff)]}
    if pixels.kind in MASKS:
        ome["image-label"] = _image_label(pixels, ngff)
    elif windows is not None:
        ome["omero"] = _omero(pixels, windows, image.metadata.channels)
    own = {OWN: _own(image)}
    return {"ome": {"version": ngff, **ome}, **own} if ngff == "0.5" else {**ome, **own}


def whole_window(dtype: str) -> Window:
    """The range of a dtype; of floating point the usual one of pictures."""
    if dtype.startswith("float"):
        return (0.0, 1.0)
    limits = np.iinfo(dtype)
    return (int(limits.min), int(limits.max))


def _shape(pixels: PixelFormat, level: Level) -> list[int]:
    lengths = {"t": pixels.stack.t, "c": pixels.channels, "z": pixels.stack.z}
    return [*(lengths[axis] for axis in axes_of(pixels)[:-2]), *level.size]


def _chunk_shape(pixels: PixelFormat, side: int) -> list[int]:
    """All samples of an RGB pixel are in one chunk, each channel of a multichannel image in one of its own, and a chunk
    has one plane and time.
    """
    return [*(pixels.samples if axis == "c" else 1 for axis in axes_of(pixels)[:-2]), side, side]


def _compressor_v3(encoding: Encoding) -> list[dict[str, Any]]:
    match encoding.compression:
        case "zstd":
            settings: dict[str, Any] = {"level": encoding.effort, "checksum": False}
        case "gzip":
            settings = {"level": encoding.effort}
        case "blosc":
            itemsize = np.dtype(encoding.dtype).itemsize
            settings = {"cname": "zstd", "clevel": encoding.effort, "shuffle": "bitshuffle", "typesize": itemsize}
            settings["blocksize"] = 0
        case _:
            return []
    return [{"name": encoding.compression, "configuration": settings}]


def _compressor_v2(encoding: Encoding) -> dict[str, Any] | None:
    match encoding.compression:
        case "zstd" | "gzip":
            return {"id": encoding.compression, "level": encoding.effort}
        case "blosc":
            return {"id": "blosc", "cname": "zstd", "clevel": encoding.effort, "shuffle": 2, "blocksize": 0}
        case _:
            return None


def _multiscale(image: ImageDescription, ngff: str) -> dict[str, Any]:
    pixels = image.encoding.pixels
    measured = _measures(image)
    axes = [
        {"name": axis, "type": _AXIS_TYPES.get(axis, "space")}
        | ({"unit": "second" if axis == "t" else "micrometer"} if measured.get(axis) is not None else {})
        for axis in axes_of(pixels)
    ]
    multiscale: dict[str, Any] = {} if ngff == "0.5" else {"version": ngff}
    multiscale |= {
        "name": "labels" if pixels.kind in MASKS else "image",
        "axes": axes,
        "datasets": [
            {"path": str(level.index), "coordinateTransformations": _transformations(image, level)}
            for level in image.plan.levels
        ],
        "type": pixels.resampling,
        "metadata": {"method": "slidewright.convert", "version": image.software.split()[1].rstrip(",")},
    }
    return multiscale


def _transformations(image: ImageDescription, level: Level) -> list[dict[str, Any]]:
    """Scale and translation: the centre of a pixel that is the mean of others lies between theirs, while "nearest"
    takes the top left one as it is.
    """
    times = 1 << level.index
    shift = 0.0 if image.encoding.pixels.resampling == "nearest" else (times - 1) / 2
    steps = {axis: _measures(image).get(axis) or 1.0 for axis in axes_of(image.encoding.pixels)}
    scale = [step * times if axis in "yx" else step for axis, step in steps.items()]
    translation = [step * shift if axis in "yx" else 0.0 for axis, step in steps.items()]
    return [{"type": "scale", "scale": scale}, {"type": "translation", "translation": translation}]


def _measures(image: ImageDescription) -> dict[str, float | None]:
    """From one place of an axis to the next, in seconds or micrometres; None for what is not known."""
    across, down = (None, None) if image.mpp is None else image.mpp
    said = image.metadata
    return {"t": said.time_increment, "z": said.z_spacing, "y": down, "x": across}


def _image_label(pixels: PixelFormat, ngff: str) -> dict[str, Any]:
    label: dict[str, Any] = {} if ngff == "0.5" else {"version": ngff}
    if pixels.colormap is not None:
        label["colors"] = [
            {"label-value": value, "rgba": [*(part >> 8 for part in color), 255]}
            for value, color in enumerate(pixels.colormap)
        ]
    return label


def _omero(pixels: PixelFormat, windows: Sequence[Window], named: Sequence[Channel]) -> dict[str, Any]:
    least, most = whole_window(pixels.dtype)
    colors = pixels.kind in ("rgb", "rgba")
    channels = []
    for number, (start, end) in enumerate(windows):
        if colors:
            label, color = _RGBA[number]
        else:
            said = named[number] if number < len(named) else Channel()
            label, shown_in = made_up_channel(number, pixels.channels)
            label, color = said.name or label, "{:02X}{:02X}{:02X}".format(*(said.color or shown_in))
        low, high = (start, end) if pixels.dtype.startswith("float") else (least, most)
        window = {"min": low, "max": high, "start": start, "end": end}
        channels.append({"label": label, "color": color, "active": label != "Alpha", "window": window})
    return {"channels": channels, "rdefs": {"model": "color" if pixels.channels > 1 else "greyscale"}}


def _own(image: ImageDescription) -> dict[str, Any]:
    own: dict[str, Any] = {"software": image.software, "kind": image.encoding.pixels.kind}
    said = image.metadata
    values = {
        "objective_power": said.objective_power,
        "scanner_vendor": said.scanner_vendor,
        "scanner_model": said.scanner_model,
        "scanner_software": said.scanner_software,
        "background": said.known.get("background"),
        "z_spacing": None if image.encoding.pixels.stack.z > 1 else said.z_spacing,
        "time_increment": None if image.encoding.pixels.stack.t > 1 else said.time_increment,
    }
    own |= {name: value for name, value in values.items() if value is not None}
    shown_in = [channel.color for channel in said.channels]
    like = [made_up_channel(number, len(shown_in))[1] == color for number, color in enumerate(shown_in)]
    if len(shown_in) > 1 and None not in shown_in and any(like):
        own["channel_colors"] = "given"  # which else would be taken for made up
    if said.identifying:
        own["identifying"] = [list(pair) for pair in said.identifying]
    if image.description is not None:
        own["description"] = image.description
    if image.icc_profile is not None:
        own["icc_profile"] = base64.b64encode(image.icc_profile).decode("ascii")
    return own
