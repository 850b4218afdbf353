"""What a source's pixels become under the options: kind, dtype, channels, palette, background, reduction. Decided once.
"""

from __future__ import annotations

from slidewright.errors import OptionError, SourceError
from slidewright.options import MASK_RESAMPLINGS, ConvertOptions
from slidewright.pixels import MASKS, MAX_CHANNELS, Colormap, PixelFormat, parse_color, parse_colormap
from slidewright.sources.base import SourceInfo

_INTEGERS = ("uint8", "uint16", "uint32", "int8", "int16", "int32")
_DTYPES = {
    "rgb": ("uint8", "uint16"),
    "rgba": ("uint8", "uint16"),
    "grey": (*_INTEGERS, "float32"),
    "multichannel": (*_INTEGERS, "float32"),
    "labels": _INTEGERS,
    "binary": ("bool", *_INTEGERS),
}
_SAMPLES = {"rgb": 3, "rgba": 4, "grey": 1, "labels": 1, "binary": 1}


def resolve_pixels(options: ConvertOptions, info: SourceInfo) -> PixelFormat:
    """What the pixels of this source become under these options.

    Raises
    ------
    OptionError
        When kind, colormap, alpha, background or resampling do not fit the source.
    SourceError
        When its dtype can't be stored.
    """
    kind = _kind(options, info)
    _check_pixels(kind, info)
    composed = kind == "rgba" and options.alpha == "compose"
    if options.alpha == "compose" and kind not in ("rgba", "rgb"):
        raise OptionError(f"alpha 'compose' applies to RGBA; {info.name} is {kind}: leave it out")
    kind = "rgb" if composed else kind
    dtype = "uint8" if kind == "binary" else info.dtype
    channels = 3 if composed else info.samples
    return PixelFormat(
        kind=kind,
        dtype=dtype,
        channels=channels,
        resampling=_resampling(options, kind),
        background=_background(options, info, kind, channels),
        colormap=_colormap(options, info, kind),
        stack=info.stack,
    )


def _kind(options: ConvertOptions, info: SourceInfo) -> str:
    if options.kind is not None:
        return options.kind
    if options.colormap is not None:
        if info.samples != 1:
            raise OptionError(
                f"colormap is for labels, one integer a pixel; {info.name} has {info.samples} samples a pixel: "
                "leave it out"
            )
        return "labels"
    if info.kind is not None:
        return info.kind
    if info.dtype == "bool":
        return "binary"
    if info.samples == 1:
        return "grey"
    return {3: "rgb", 4: "rgba"}.get(info.samples, "multichannel") if info.dtype == "uint8" else "multichannel"


def _check_pixels(kind: str, info: SourceInfo) -> None:
    wanted = _SAMPLES.get(kind)
    if wanted is not None and info.samples != wanted:
        raise OptionError(
            f"kind {kind!r} has {wanted} sample{'s' * (wanted > 1)} a pixel; {info.name} has {info.samples}: "
            "choose another kind"
        )
    if kind == "multichannel" and info.samples > MAX_CHANNELS:
        raise SourceError(f"{info.name} has {info.samples} channels; at most {MAX_CHANNELS} can be written")
    if info.dtype in _DTYPES[kind]:
        return
    remedies = {
        "float64": "array.astype('float32')",
        "float16": "array.astype('float32')",
        "int64": "array.astype('int32')",
        "uint64": "array.astype('uint32')",
        "bool": "array.astype('uint8') * 255, or kind='binary'",
    }
    raise SourceError(
        f"{info.name} has pixels of {info.dtype}; {kind} images are {', '.join(_DTYPES[kind])}: "
        f"use {remedies.get(info.dtype, 'array.astype() to one of them')}"
    )


def _resampling(options: ConvertOptions, kind: str) -> str:
    if options.resampling is None:
        return "nearest" if kind in MASKS else "mean"
    if kind in MASKS and options.resampling not in MASK_RESAMPLINGS:
        raise OptionError(
            f"resampling {options.resampling!r} would make values between the {kind}'s; "
            f"choose one of {', '.join(MASK_RESAMPLINGS)}"
        )
    return options.resampling


def _background(options: ConvertOptions, info: SourceInfo, kind: str, channels: int) -> tuple[float, ...]:
    """The value of each channel; colours are scaled to the dtype, an RGBA pixel of nothing is transparent."""
    given = options.background
    if kind in ("rgb", "rgba"):
        if isinstance(given, (int, float)):
            raise OptionError(f"background {given!r} is a number, {kind.upper()} wants a colour such as 'white'")
        color = parse_color(given, "background") if given is not None else info.background or (255, 255, 255)
        scaled = tuple(float(value * (257 if info.dtype == "uint16" else 1)) for value in color)
        return (*scaled, 0.0) if kind == "rgba" else scaled
    if given is None:
        return (0.0,) * channels
    if not isinstance(given, (int, float)):
        raise OptionError(f"background {given!r} is a colour, {kind} pixels want a number")
    _check_background(given, info.dtype, kind)
    return (float(given),) * channels


def _check_background(value: float, dtype: str, kind: str) -> None:
    import numpy as np

    if kind == "binary":
        fits = value in (0, 1)
    elif dtype == "float32":
        fits = bool(np.isfinite(value))
    else:
        limits = np.iinfo(dtype)
        fits = float(value).is_integer() and limits.min <= value <= limits.max
    if not fits:
        raise OptionError(f"background {value!r} is not a value of {dtype} {kind} pixels")


def _colormap(options: ConvertOptions, info: SourceInfo, kind: str) -> Colormap | None:
    if kind != "labels":
        if options.colormap is not None:
            raise OptionError(f"colormap is for labels; kind {kind!r} has no palette: leave it out")
        return None
    if options.colormap is None:
        return info.colormap
    if info.dtype not in ("uint8", "uint16"):
        raise OptionError(
            f"a colormap needs labels of uint8 or uint16 (TIFF 6.0 section 5), not {info.dtype}; convert them first"
        )
    colormap = parse_colormap(options.colormap)
    if info.dtype == "uint8" and len(colormap) > 256:
        raise OptionError(f"colormap goes up to {len(colormap) - 1}, but labels of uint8 end at 255; use uint16 labels")
    return colormap
