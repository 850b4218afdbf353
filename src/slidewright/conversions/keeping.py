"""Whether level 0 keeps the source's own encoded tiles: decided once, before anything is written, and told afterwards.

Apart from `conversion.py` because it weighs everything that was asked for against what the source has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slidewright.codecs import canonical
from slidewright.errors import OptionError
from slidewright.options import MAX_TILE, ConvertOptions
from slidewright.pyramid.kept import Kept

if TYPE_CHECKING:
    from slidewright.codecs import Encoding
    from slidewright.formats.base import Format
    from slidewright.pixels import PixelFormat
    from slidewright.pyramid.plan import Level
    from slidewright.sources.base import Source, SourceInfo, Stored

_AS_BAD = ("tiff", "svs")
"""Formats whose YCbCr of 4:4:4 Bio-Formats shows in the same wrong colours, so that nothing is lost by keeping it."""
_SUBSAMPLINGS = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}
_LEAST_QUALITY = 75
"""Of the levels above kept JPEG tiles, which are seen side by side with level 0 but are encoded a second time."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """What becomes of level 0, and how the levels above are encoded."""

    encoding: Encoding
    kept: Kept | None
    words: str
    """What was decided and why, in words; empty where there was nothing to decide."""
    reused: tuple[Kept, ...] = ()
    """The source's own levels that are copied, from level 1 on."""


def decide_keeping(form: Format, options: ConvertOptions, info: SourceInfo, pixels: PixelFormat) -> Keeping:
    """Weigh what was asked for against what the source has.

    Raises
    ------
    OptionError
        When its tiles must be kept and can't be, and for an encoding that makes no sense.
    """
    if options.keep_tiles == "never":
        _refuse_scaling(options, "keep_tiles 'never' was asked for")
        encoding = form.encoding(options, pixels)
        return Keeping(encoding, None, "encoded anew, as keep_tiles 'never' asks" if info.stored else "")
    reason = _reason(form, options, info, pixels)
    if info.stored is not None and info.tile is not None and reason is None:
        above, encoding = _above(form, options, info.tile.height, info.stored, pixels)
        reason = _plane_reason(encoding.pixels, info.stored)
    if info.stored is not None and reason is None:
        kept = Kept(
            info.stored,
            _filling(encoding, info.stored),
            scaled=options.scaled_decoding and _can_scale(pixels, info),
            corrupt=options.on_corrupt is None,
            gaps=form.holds_gaps,
        )
        above += ", level 1 decoded at half size" if kept.scaled else ""
        return Keeping(encoding, kept, f"kept as they are in the source: {kept.words}{above}")
    _refuse_scaling(options, f"{info.name}: {reason}")
    if options.keep_tiles == "always":
        raise OptionError(f"keep_tiles 'always' can't be: {info.name}: {reason}; leave it out, or choose 'auto'")
    return Keeping(form.encoding(options, pixels), None, f"encoded anew: {reason}" if info.stored is not None else "")


def decide_reuse(
    keeping: Keeping, options: ConvertOptions, source: Source, levels: Sequence[Level]
) -> tuple[Keeping, tuple[Source, ...]]:
    """Which of the source's own levels are copied, from level 1 on, and what is said of it.

    Raises
    ------
    OptionError
        Where they are asked for beside what needs every tile of level 0 decoded, or a way to make levels.
    """
    if not options.reuse_levels:
        return keeping, ()
    for name, given in (("on_corrupt", options.on_corrupt), ("scaled_decoding", options.scaled_decoding or None)):
        if given is not None:
            raise OptionError(f"{name} asks for level 0 to be decoded, which reuse_levels spares; leave one out")
    if options.resampling is not None:
        raise OptionError("resampling asks how levels are made, and reuse_levels for the source's own; leave one out")
    if keeping.kept is None:
        words = "no level is reused, since level 0 is not kept"
        return replace(keeping, words="; ".join(filter(None, (keeping.words, words)))), ()
    found: list[Source] = []
    theirs = source.reduced()
    reason = ""
    for level in levels[1:]:
        fitting = [each for each in theirs if each.info.size == level.size]
        if not fitting:
            reason = f"the source has none of {level.size}"
            break
        reason = _level_reason(source.info, fitting[0].info)
        if reason:
            break
        found.append(fitting[0])
    words = f"levels 1 to {len(found)} are the source's own" if len(found) > 1 else "level 1 is the source's own"
    words = words if found else "no level is reused"
    if reason:
        words += f", level {len(found) + 1} and those above are not: {reason}"
    return replace(keeping, words=f"{keeping.words}; {words}", reused=_kept_levels(keeping.kept, found)), tuple(found)


def _level_reason(first: SourceInfo, info: SourceInfo) -> str:
    """Why a reduced level can't stand above the tiles of level 0; empty if it can."""
    if info.stored is None:
        return info.not_stored
    assert first.stored is not None
    if info.tile != first.tile:
        return f"its tiles are {info.tile} there"
    if (info.samples, info.dtype, info.kind) != (first.samples, first.dtype, first.kind):
        return "its pixels are of another kind there"
    if replace(info.stored, tables=None, quality=None) != replace(first.stored, tables=None, quality=None):
        return "its tiles are encoded otherwise there"
    return ""


def _kept_levels(kept: Kept, found: Sequence[Source]) -> tuple[Kept, ...]:
    stored = [each.info.stored for each in found]
    return tuple(Kept(each, _filling(kept.filling, each)) for each in stored if each is not None)


def _refuse_scaling(options: ConvertOptions, reason: str) -> None:
    if options.scaled_decoding:
        raise OptionError(f"scaled_decoding is for JPEG tiles that are kept, and here: {reason}; leave it out")


def _can_scale(pixels: PixelFormat, info: SourceInfo) -> bool:
    """True; raises OptionError for what can't be decoded at half size."""
    if info.stored is None or info.stored.compression != "jpeg" or pixels.planes > 1 or pixels.resampling != "mean":
        raise OptionError(
            f"scaled_decoding is for JPEG tiles of RGB or grey, and for the mean; {info.name} has others: leave it out"
        )
    return True


def _reason(form: Format, options: ConvertOptions, info: SourceInfo, pixels: PixelFormat) -> str | None:
    """Why the tiles can't be kept, as a clause; None if they can."""
    stored = info.stored
    if stored is None or info.tile is None:
        return info.not_stored
    return (
        _tile_reason(options, info)
        or _pixel_reason(options, info, _laid(form, options, pixels, stored), stored)
        or _option_reason(options, stored)
        or form.keeps(stored)
        or (_auto_reason(form, options, info, stored) if options.keep_tiles == "auto" else None)
    )


def _laid(form: Format, options: ConvertOptions, pixels: PixelFormat, stored: Stored) -> PixelFormat:
    """The pixels as the format lays out channels in the source's compression, if that can hold them."""
    if pixels.kind != "multichannel" or (options.compression and canonical(options.compression) != stored.compression):
        return pixels
    try:
        return form.encoding(replace(options, compression=stored.compression, quality=None, effort=None), pixels).pixels
    except OptionError:
        return pixels


def _tile_reason(options: ConvertOptions, info: SourceInfo) -> str | None:
    assert info.tile is not None
    height, width = info.tile
    if height != width or height % 16 or height > MAX_TILE:
        return f"its tiles of {info.tile} pixels are not squares whose side is a multiple of 16 up to {MAX_TILE}"
    if options.tile_size not in (None, height):
        return f"tile_size {options.tile_size} was asked for, and its tiles are {info.tile}"
    return None


def _pixel_reason(options: ConvertOptions, info: SourceInfo, pixels: PixelFormat, stored: Stored) -> str | None:
    if (pixels.dtype, pixels.channels) != (info.dtype, info.samples):
        return "its pixels are changed on the way"
    names = {"grey": ("grey", "multichannel", "labels", "binary"), "palette": ("labels",), "rgb": ("rgb", "rgba")}
    if pixels.kind not in names.get(stored.photometric, ("rgb",)):
        return f"kind {pixels.kind!r} was asked for, and its tiles are {stored.photometric}"
    return None


def _plane_reason(pixels: PixelFormat, stored: Stored) -> str | None:
    """Whether channels lie in the source as the format lays them out."""
    if pixels.frame_planes > 1 and not stored.separate:
        return "its channels share their tiles, and each is written by itself"
    if pixels.frame_planes == 1 and stored.separate:
        return "its channels have tiles of their own, and share them in what is written"
    return None


def _option_reason(options: ConvertOptions, stored: Stored) -> str | None:
    """The first option that asks for what the tiles are not."""
    name = canonical(options.compression) if options.compression is not None else stored.compression
    if name != stored.compression:
        return f"compression {options.compression!r} was asked for, and its tiles are {stored.compression}"
    if options.keep_tiles == "auto":
        for option in ("quality", "effort"):
            if getattr(options, option) is not None:
                return f"{option} {getattr(options, option)} was asked for"
    if options.subsampling is not None and _SUBSAMPLINGS[options.subsampling] != stored.subsampling:
        return f"subsampling {options.subsampling!r} was asked for, and its tiles have another"
    if options.predictor is not None and options.predictor != (stored.predictor != 1):
        return f"predictor {options.predictor} was asked for, and its tiles have {'no' * (stored.predictor == 1)} such"
    if options.bits not in (None, stored.bits):
        return f"bits {options.bits} was asked for, and its samples have {stored.bits}"
    if options.on_corrupt == "fill" and stored.subsampling not in (None, *_SUBSAMPLINGS.values()):
        return "tiles that do not decode can't be filled with the chroma subsampling of its JPEGs"
    return None


def _auto_reason(form: Format, options: ConvertOptions, info: SourceInfo, stored: Stored) -> str | None:
    """Why 'auto' does not keep what could be kept."""
    if options.compression is not None:
        return None
    if stored.subsampling == (1, 1) and info.format not in _AS_BAD:
        return (
            "Bio-Formats shows YCbCr of 4:4:4 in wrong colours (compression 'jpeg', or keep_tiles 'always', keeps it)"
        )
    if stored.compression in form.shown_everywhere:
        return None
    if stored.compression == "none":
        return "its tiles are uncompressed (compression 'none', or keep_tiles 'always', keeps them)"
    return (
        f"not every reader shows {stored.compression} (compression {stored.compression!r}, or keep_tiles 'always', "
        "keeps it)"
    )


def _above(
    form: Format, options: ConvertOptions, tile: int, stored: Stored, pixels: PixelFormat
) -> tuple[str, Encoding]:
    """How the levels above are encoded, in words where that is not plain, and as a value."""
    chosen = replace(options, tile_size=tile, compression=stored.compression)
    words = ""
    if stored.compression == "jpeg":
        if chosen.quality is None and stored.quality is not None:
            chosen = replace(chosen, quality=max(_LEAST_QUALITY, stored.quality))
        if pixels.kind == "rgb" and chosen.subsampling is None:
            named = {value: name for name, value in _SUBSAMPLINGS.items()}
            chosen = replace(chosen, subsampling=named.get(stored.subsampling or (2, 2), "420"))
    elif options.predictor is None and form.encoding(chosen, pixels).codec.predictor:
        chosen = replace(chosen, predictor=stored.predictor != 1)
    encoding = form.encoding(chosen, pixels)
    if encoding.codec.lossy:
        words = f", the levels above of quality {encoding.effort}"
    if stored.subsampling == (1, 1):
        words += "; Bio-Formats shows such in wrong colours, in any TIFF"
    return words, encoding


def _filling(encoding: Encoding, stored: Stored) -> Encoding:
    """The encoding of a tile among those of the source."""
    if stored.compression != "jpeg":
        return replace(encoding, predictor=stored.predictor, planar=False)
    named = {value: name for name, value in _SUBSAMPLINGS.items()}
    return replace(
        encoding,
        rgb_inside=stored.photometric == "rgb",
        subsampling=None if stored.subsampling is None else named.get(stored.subsampling),
    )
