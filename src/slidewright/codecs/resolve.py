"""From options and pixels to an encoding, or to the message that says which compression would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slidewright.codecs.encoding import FAMILIES, Codec, Encoding
from slidewright.codecs.table import (
    ALIASES,
    CODECS,
    DEFAULT,
    DEFAULT_IMAGE,
    DEFAULT_ZARR,
    DEFAULT_ZARR_WIDE,
    canonical,
    codecs_of,
)
from slidewright.errors import OptionError, did_you_mean
from slidewright.pixels import MASKS

if TYPE_CHECKING:
    from slidewright.options import ConvertOptions
    from slidewright.pixels import PixelFormat


def resolve(options: ConvertOptions, pixels: PixelFormat, family: str = "tiff") -> Encoding:
    """The encoding that the options ask for, for such pixels in a format of this family.

    Raises
    ------
    OptionError
        If the compression is unknown, can't encode such pixels (the message says why and names those that can), or an
        option does not apply to it.
    """
    import numpy as np

    codec = _codec(options, pixels, family)
    bits = 8 * np.dtype(pixels.dtype).itemsize
    if pixels.kind == "binary":
        bits = options.bits or codec.bits[0]
    elif options.bits is not None:
        raise OptionError(f"bits applies to binary masks, and these are {pixels.words}: leave it out")
    if family == "zarr" and bits == 1:
        raise OptionError("an OME-Zarr holds no single bits; leave bits out, or make it 8")
    reason = codec.refusal(pixels, bits)
    if reason is not None:
        raise OptionError(_refusal(codec, pixels, options.bits, reason, family))
    subsampling = _subsampling(codec, options, pixels)
    return Encoding(
        codec=codec,
        pixels=pixels,
        tile=options.tile_side,
        bits=bits,
        effort=_effort(codec, options),
        subsampling=subsampling,
        rgb_inside=subsampling == "444",
        predictor=_predictor(codec, options, pixels, bits) if family == "tiff" else _no_predictor(options),
    )


def _codec(options: ConvertOptions, pixels: PixelFormat, family: str) -> Codec:
    if options.compression is None and family == "zarr":
        wide = pixels.dtype not in ("uint8", "int8") and pixels.kind not in MASKS
        return CODECS[DEFAULT_ZARR_WIDE if wide else DEFAULT_ZARR]
    if options.compression is None:
        return CODECS[DEFAULT_IMAGE if pixels.kind in ("rgb", "grey") and pixels.dtype == "uint8" else DEFAULT]
    name = canonical(options.compression) if isinstance(options.compression, str) else None
    if name is None:
        near = did_you_mean(str(options.compression), (*CODECS, *ALIASES))
        raise OptionError(
            f"compression {options.compression!r} is not known; choose one of {', '.join(codecs_of(family))}{near}"
        )
    codec = CODECS[name]
    if family not in codec.families:
        others = " and ".join(words for other, words in FAMILIES.items() if other in codec.families)
        raise OptionError(
            f"compression {name!r} is for {others}, not for {FAMILIES[family]}; "
            f"choose one of {', '.join(codecs_of(family))}"
        )
    return codec


def _refusal(codec: Codec, pixels: PixelFormat, bits: int | None, reason: str, family: str) -> str:
    able = [name for name, other in codecs_of(family).items() if other.refusal(pixels, bits) is None]
    advice = f"choose one of {', '.join(able)}" if able else "no compression can; convert the pixels first"
    if pixels.kind == "rgba" and pixels.dtype in codec.accepts.get("rgb", ()):
        advice += ", or alpha 'compose'"
    elif pixels.kind == "binary" and "binary" in codec.accepts:
        advice += f", or bits {codec.bits[0]}"
    return f"compression {codec.name!r} can't encode {_words(pixels, bits)}: {reason}; {advice}"


def _words(pixels: PixelFormat, bits: int | None) -> str:
    if pixels.kind == "binary":
        return "a binary mask" if bits is None else f"a binary mask of {bits} bit{'s' * (bits > 1)} a pixel"
    if pixels.kind == "multichannel":
        return f"channels of {pixels.dtype}"
    return pixels.words


def _effort(codec: Codec, options: ConvertOptions) -> int | None:
    """Quality or effort, whichever the codec has, checked against its range."""
    effort = codec.effort
    for name, value in (("quality", options.quality), ("effort", options.effort)):
        if value is not None and (effort is None or effort.name != name):
            remedy = f"use {effort.name}, {effort.low} to {effort.high}" if effort is not None else "leave it out"
            raise OptionError(f"{name} does not apply to compression {codec.name!r}; {remedy}")
    if effort is None:
        return None
    value = options.quality if effort.name == "quality" else options.effort
    if value is None:
        return effort.default
    if not isinstance(value, int) or not effort.low <= value <= effort.high:
        raise OptionError(f"{effort.name} {value!r} is out of range for {codec.name!r}: {effort.low} to {effort.high}")
    return value


def _subsampling(codec: Codec, options: ConvertOptions, pixels: PixelFormat) -> str | None:
    if codec.name == "jpeg" and pixels.kind == "rgb":
        return options.subsampling or "420"
    if options.subsampling is not None:
        raise OptionError("subsampling applies to jpeg compression of RGB pixels only; leave it out")
    return None


def _no_predictor(options: ConvertOptions) -> int:
    if options.predictor:
        raise OptionError("predictor is TIFF's, and zarr has none; leave it out (blosc shuffles bits instead)")
    return 1


def _predictor(codec: Codec, options: ConvertOptions, pixels: PixelFormat, bits: int) -> int:
    """TIFF's Predictor. By default it is on for images of integers: it makes tissue 9 to 25 % smaller (docs,
    compression), and float pixels that were integers once larger.
    """
    if not options.predictor:
        default = codec.predictor and pixels.kind not in MASKS and pixels.dtype != "float32"
        return 2 if options.predictor is None and default else 1
    if not codec.predictor:
        able = [name for name, other in CODECS.items() if other.predictor]
        raise OptionError(f"predictor does not apply to compression {codec.name!r}, only to {', '.join(able)}")
    if bits == 1:
        raise OptionError("predictor does not apply to masks of single bits; leave it out")
    return 3 if pixels.dtype == "float32" else 2
