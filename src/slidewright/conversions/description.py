"""What a file will say besides its pixels: put together from the source, what may be kept of it, and the options."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from slidewright._version import __version__
from slidewright.errors import CorruptTileError, OptionError, SlidewrightError
from slidewright.metadata import whole
from slidewright.pixels import parse_color
from slidewright.system.interrupts import let_through

if TYPE_CHECKING:
    from slidewright.codecs import Encoding
    from slidewright.conversions.keeping import Keeping
    from slidewright.formats.associated import Associated
    from slidewright.formats.base import ImageDescription
    from slidewright.metadata import Metadata
    from slidewright.options import ConvertOptions
    from slidewright.pyramid.plan import Plan
    from slidewright.sources.base import Source, SourceInfo


def describe_image(
    source: Source, options: ConvertOptions, plan: Plan, encoding: Encoding, keeping: Keeping | None = None
) -> ImageDescription:
    """Everything that a format needs to know of an image.

    Raises
    ------
    OptionError
        When what was given does not fit the image.
    SourceError
        When an associated image that was asked for can't be read.
    """
    from slidewright.formats.base import ImageDescription
    from slidewright.options import can_be_mpp
    from slidewright.tiff.slide import kept_mark

    info, pixels = source.info, encoding.pixels
    kept = () if keeping is None or keeping.kept is None else (keeping.kept, *keeping.reused)
    wanted = options.associated or ()
    metadata = _metadata(info, options, pixels.channels if pixels.interleaved else pixels.frame_planes)
    return ImageDescription(
        plan,
        encoding,
        options.mpp_xy or (info.mpp if info.mpp is not None and can_be_mpp(info.mpp) else None),
        _description(info, options),
        _profile(info, pixels.kind),
        f"slidewright {__version__}{kept_mark(len(kept))}",
        kept,
        _of_values(metadata, info, encoding, exact=bool(kept) or not encoding.codec.lossy),
        _associated(source, options, wanted),
        "thumbnail" in wanted or options.flavour == "aperio",
    )


def _of_values(said: Metadata, info: SourceInfo, encoding: Encoding, *, exact: bool) -> Metadata:
    """The same, without the bits that values use where they are not those of the source."""
    exact = exact and (encoding.dtype, encoding.pixels.channels) == (info.dtype, info.samples)
    return said if exact else replace(said, significant_bits=None)


def _profile(info: SourceInfo, kind: str) -> bytes | None:
    """The ICC profile, unless it is of greys that became colours, or of colours that became channels: a reader would
    take it for theirs.
    """
    of = (info.icc_profile or b"")[16:20]  # ICC.1, 7.2.6: the data colour space
    became = {b"GRAY": ("rgb", "rgba"), b"RGB ": ("multichannel",)}
    return None if kind in became.get(of, ()) else info.icc_profile


def _description(info: SourceInfo, options: ConvertOptions) -> str | None:
    """What was given; the source's own only where everything is to be kept, since anything may stand in it."""
    if options.description is not None or options.keep_metadata != "all":
        return options.description
    return kept_description(whole(info.description))


def kept_description(text: str | None) -> str | None:
    """The source's description, wrapped so that no reader takes the output for the source's own format.

    OpenSlide and tiffslide take any file whose description begins with "Aperio" for an Aperio slide, tifffile one
    that ends with OME-XML for an OME-TIFF, and then look for what is not there.
    """
    if text is None:
        return None
    room = " " * 256 if "scanimage.SI" in text[-256:] else ""  # at whose end tifffile looks for ScanImage's name
    return f"[description of the source: {text}{room}]"


def _metadata(info: SourceInfo, options: ConvertOptions, planes: int) -> Metadata:
    colors = options.channel_colors
    parsed = None if colors is None else [parse_color(color, "channel_colors") for color in colors]
    kept = info.metadata.whole.kept(options.keep_metadata).with_channels(planes, options.channel_names, parsed)
    given = {
        "objective_power": options.objective_power,
        "z_spacing": options.z_spacing,
        "time_increment": options.time_increment,
    }
    numbers: dict[str, Any] = {name: float(value) for name, value in given.items() if value is not None}
    if options.objective_power is not None:
        numbers["reduction"] = 1.0  # it is that of the image
    return replace(kept, **numbers)


def _associated(source: Source, options: ConvertOptions, wanted: Any) -> tuple[Associated, ...]:
    """The source's label and macro, pixel for pixel, and the label that was given; those it has not are left out."""
    from slidewright.formats.associated import Associated

    names = {name.lower(): name for name in source.info.associated}
    found = []
    for name in ("label", "macro"):
        if name == "label" and options.label is not None:
            found.append(Associated(name, _image_file(options.label)))
        elif name in wanted and name in names:
            found.append(Associated(name, source.associated_image(names[name])))
    return tuple(found)


def _image_file(path: str | os.PathLike[str]) -> Any:
    """The pixels as a viewer shows them: upright, what is transparent on white, 16 bits as 8."""
    import numpy as np
    from PIL import Image, ImageOps

    from slidewright.sources.base import MAX_ASSOCIATED_PIXELS
    from slidewright.sources.image_file import check_whole, our_limits
    from slidewright.tiff.directories import is_tiff

    try:
        with our_limits(), Image.open(path) as opened:
            if opened.height * opened.width > MAX_ASSOCIATED_PIXELS:
                size = f"{opened.width} x {opened.height}"
                raise OptionError(f"label {os.fspath(path)!r} of {size} pixels is too large for one")
            check_whole(os.fspath(path))
            if is_tiff(path):
                _check_tiff(os.fspath(path))
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I;16"):  # which Pillow would cut off at 255
                image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            if image.mode in ("I", "F"):  # of which Pillow would show all beyond 255 as white
                raise OptionError(f"label {os.fspath(path)!r} has numbers of 32 bits; save it with 8 bits a sample")
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            return np.asarray(image.convert("RGB"))
    except OptionError:
        raise
    except CorruptTileError as error:
        raise OptionError(f"label {error}") from error
    except Exception as error:  # each of its plugins has its own
        let_through(error)
        raise OptionError(f"label {os.fspath(path)!r} is no image that Pillow reads ({error}); give another") from error


def _check_tiff(path: str) -> None:
    """Raise CorruptTileError where a part of a TIFF's first page is missing, of which Pillow says nothing."""
    import numpy as np

    from slidewright.sources.open import open_source

    try:
        source = open_source(path, page=0)
        with contextlib.closing(source.open()) as reader:
            reader.read(0, 0, *source.info.size, np.empty(source.info.shape, source.info.dtype))
    except CorruptTileError:
        raise
    except SlidewrightError:
        pass  # of a kind that is not read here
