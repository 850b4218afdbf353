"""What a TIFF's tags say of its pages: the arguments of tifffile's writer, and the tags that it would not write."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slidewright.codecs import Encoding
from slidewright.errors import OptionError
from slidewright.formats.base import ImageDescription, PackSegment
from slidewright.pixels import MASKS, Colormap
from slidewright.pyramid.kept import Kept
from slidewright.pyramid.plan import Level
from slidewright.sources.base import Stored
from slidewright.tiff.metadata import KIND_MARK, OWN
from slidewright.tiff.vendor_metadata import as_description, own_fields

COMPRESSION = {
    "none": 1,
    "jpeg": 7,
    "jpeg2000": 34712,
    "jpeg2000-lossy": 34712,
    "htj2k": 34712,
    "webp": 50001,
    "webp-lossless": 50001,
    "zstd": 50000,
    "deflate": 8,
    "lzw": 5,
    "packbits": 32773,
    "png": 34933,
    "ccitt-t4": 3,
    "ccitt-t6": 4,
    "jpegxl": 50002,
    "jpegxl-lossless": 50002,
}
"""TIFF's Compression (259) of every codec of the table."""
BYTEWISE = ("none", "deflate", "lzw", "zstd", "packbits")
"""Codecs that take samples for bytes, in the byte order of the file."""

_LEICA = "http://www.leica-microsystems.com/scn/"  # a namespace, by which OpenSlide goes
_PACKBITS = COMPRESSION["packbits"]
_SUBSAMPLING = {"420": (2, 2), "422": (2, 1), "444": (1, 1)}
_SOI, _EOI, _APP0, _SOS, _DQT, _DHT = b"\xff\xd8", b"\xff\xd9", 0xE0, 0xDA, 0xDB, 0xC4


def page_arguments(image: ImageDescription, level: Level) -> dict[str, Any]:
    """The arguments of `tifffile.TiffWriter.write` for the page of a level."""
    encoding, kept = image.encoding, image.kept_at(level.index)
    arguments: dict[str, Any] = {
        "shape": _page_shape(image, level),
        "dtype": encoding.dtype,
        "tile": (encoding.tile, encoding.tile),
        "subfiletype": 1 if level.index else 0,
        "metadata": None,
        "software": generic_software(image) if not level.index else False,
        **(encoding_arguments(encoding) if kept is None else kept_arguments(kept)),
    }
    if image.mpp is not None:
        arguments["resolution"] = tuple(1e4 / (mpp * (1 << level.index)) for mpp in image.mpp)
        arguments["resolutionunit"] = "CENTIMETER"
    if image.icc_profile is not None:
        arguments["iccprofile"] = image.icc_profile
    description = generic_description(image)
    if description is not None and not level.index:
        arguments["description"] = description.encode("utf-8")
    return arguments


def generic_description(image: ImageDescription) -> str | None:
    """ImageDescription where no tag and no schema has a place for metadata: what was given, or what is known, as a line
    that slidewright reads back, and below it what may identify, where that was asked for.
    """
    given, said = image.description, image.metadata
    if given is not None and not is_kept(given):
        return given
    pieces = {piece.strip() for piece in re.split(r"[|=\n]", given or "")}  # most are: to look for each takes long
    fields = {
        name: value
        for name, value in said.identifying
        if given is None or (value not in pieces and value not in given)
    }
    lines = [value if name == "ImageDescription" else f"{name} = {value}" for name, value in fields.items()]
    known = as_description(said, **noted_kind(image)) or (OWN if lines else None)
    return "\n".join(line for line in (known, given, *lines) if line is not None) or None


def generic_software(image: ImageDescription) -> str:
    """Software, with the kind of pixels where a description that was given is in the place of what notes it."""
    noted = noted_kind(image) if image.description is not None and not is_kept(image.description) else {}
    head, comma, kept = image.software.partition(",")
    return "".join((head, *(f"{KIND_MARK}{kind}" for kind in noted.values()), comma, kept))


def refuse_misleading(image: ImageDescription, written: str | None, *, but: str = "") -> None:
    """Raise OptionError for a description that was given by which readers would take the file for another program's,
    and look for what is not there; `written` is the text that it becomes part of, `but` the program that this is right
    of.
    """
    given = image.description
    if given is None or written is None or is_kept(given):
        return
    other = _taken_for(written)
    if other not in (None, but) and _taken_for(given) == other:
        raise OptionError(
            f"description {given[:60]!r} begins or ends as in a file of {other}, for which readers would take this; "
            "put other words before and after it, or write a name.ome.tif, which may say it as it is"
        )


def _taken_for(description: str) -> str | None:
    """Whose file readers take a TIFF for by its description alone, such as tifffile (its `TiffPage.is_*`), OpenSlide
    and Bio-Formats do; None for nobody's.
    """
    text = description.strip("\0 \t\r\n")
    found = {
        "ImageJ": text.startswith(("ImageJ=", "SCIFIO=")),
        "tifffile": text.startswith("shape=") or (text.startswith("{") and '"shape":' in text),
        "ScanImage": text.startswith("state.") or "scanimage.SI" in text[-256:],
        "OME-TIFF": text.endswith("OME>"),
        "Leica": text.endswith("</scn>") or (text.startswith("<") and _LEICA in text),
        "Aperio": text.startswith("Aperio"),  # last, as in its flavour each begins so
    }
    return next((name for name, is_so in found.items() if is_so), None)


def noted_kind(image: ImageDescription) -> dict[str, str]:
    """The kind of pixels of masks that nothing else in a TIFF tells from greys, by the name that it is noted under."""
    pixels = image.encoding.pixels
    noted = pixels.kind in MASKS and pixels.colormap is None and image.encoding.bits > 1
    return {"kind": pixels.kind} if noted else {}


def no_place(image: ImageDescription) -> tuple[str, ...]:
    """What a generic TIFF does not say of an image, as clauses of a warning."""
    said, found = image.metadata, list(no_channels(image))
    fields = [name.replace("_", " ") for name in own_fields(said)] + ["what may identify"] * bool(said.identifying)
    if fields and image.description is not None and not is_kept(image.description):
        found.append(f"{', '.join(fields)}, in whose place in a plain TIFF is the description that was given")
    return tuple(found)


def no_channels(image: ImageDescription) -> tuple[str, ...]:
    """The clause of a TIFF of either flavour."""
    there = image.metadata.tells_of_channels
    return ("names and colours of its channels, for which a plain TIFF has no place",) if there else ()


def is_kept(description: str) -> bool:
    """Whether a description is the source's, which conversions put into brackets, and not one that was given."""
    return description.startswith("[description of the source: ")


def _page_shape(image: ImageDescription, level: Level) -> tuple[int, ...]:
    """As tifffile wants it: planes first, samples last, neither where there is one."""
    planes, samples = image.plan.planes, image.encoding.samples
    return (*((planes,) if planes > 1 else ()), *level.size, *((samples,) if samples > 1 else ()))


def encoding_arguments(encoding: Encoding) -> dict[str, Any]:
    """Those that say what segments hold and how they are encoded.

    A page of single bits is written as if it were of bytes in PackBits; `corrections` says what it is.
    """
    pixels = encoding.pixels
    tag = _PACKBITS if encoding.bits == 1 else COMPRESSION[encoding.compression]
    arguments: dict[str, Any] = {"compression": None if tag == 1 else tag}
    arguments["photometric"] = "rgb" if pixels.kind in ("rgb", "rgba") else "minisblack"
    if pixels.kind == "rgba":
        arguments["extrasamples"] = ("unassalpha",)
    if pixels.planes > 1:
        arguments["planarconfig"] = "separate"
    elif pixels.interleaved:
        arguments |= {"planarconfig": "contig", "extrasamples": ("unspecified",) * (pixels.channels - 1)}
    if pixels.colormap is not None:
        arguments |= {"photometric": "palette", "colormap": _whole_palette(pixels.colormap, encoding.bits)}
    if encoding.predictor != 1:
        arguments["predictor"] = encoding.predictor
    if encoding.compression == "jpeg":
        arguments["jpegtables"] = jpeg_tables(encoding)
        if encoding.subsampling is not None:
            arguments["subsampling"] = _SUBSAMPLING[encoding.subsampling]
            if encoding.rgb_inside:  # the streams hold RGB, and so the page's photometric is RGB
                arguments["compressionargs"] = {"outcolorspace": "rgb"}
    return arguments


def why_not_kept(stored: Stored) -> str | None:
    """Why a TIFF can't hold tiles that are stored so, as a clause; None if it can: samples are little-endian here."""
    if stored.big_endian and stored.bits > 8 and stored.compression in BYTEWISE:
        return "its samples are big-endian"
    return None if stored.compression in COMPRESSION else f"compression {stored.compression!r} has no number here"


def kept_arguments(kept: Kept) -> dict[str, Any]:
    """Those that say how tiles of another encoder are encoded.

    JPEG is written as if it were PackBits, and `page_corrections` says what it is: of JPEG tifffile takes RGB for
    YCbCr, and not every subsampling at every tile size.
    """
    stored = kept.stored
    arguments = encoding_arguments(kept.filling)
    if stored.compression == "jpeg":
        arguments.pop("subsampling", None)
        arguments.pop("compressionargs", None)
        arguments |= {"compression": _PACKBITS, "jpegtables": stored.tables}
        arguments["photometric"] = "minisblack" if stored.photometric == "grey" else stored.photometric
    return arguments


def page_corrections(image: ImageDescription, level: Level) -> dict[str, Any]:
    """Tags, by tifffile's names, to overwrite in the page of a level after writing."""
    kept = image.kept_at(level.index)
    return corrections(image.encoding) if kept is None else kept_corrections(kept)


def kept_corrections(kept: Kept) -> dict[str, Any]:
    """Those of a page whose tiles are another encoder's."""
    stored = kept.stored
    if stored.compression != "jpeg":
        return {}
    tags: dict[str, Any] = {"Compression": COMPRESSION["jpeg"]}
    return tags | ({"YCbCrSubSampling": stored.subsampling} if stored.subsampling else {})


def corrections(encoding: Encoding) -> dict[str, Any]:
    """Those of a page that is encoded here.

    tifffile writes no single bits in CCITT, and of others leaves out BitsPerSample, without which OpenSlide refuses the
    file.
    """
    return {"BitsPerSample": 1, "Compression": COMPRESSION[encoding.compression]} if encoding.bits == 1 else {}


def _whole_palette(colormap: Colormap, bits: int) -> NDArray[Any]:
    """(3, 2 ** bits) of uint16: TIFF 6.0 section 5 wants a colour for every value; those nobody gave are black."""
    import numpy as np

    palette = np.zeros((3, 1 << bits), np.uint16)
    palette[:, : len(colormap)] = np.array(colormap, np.uint16).T
    return palette


def jpeg_tables(encoding: Encoding) -> bytes:
    """The JPEGTables tag (Adobe's TIFF technical note 2): the tables that all segments share, as an abbreviated stream.

    They are the same for every tile: Huffman tables and quality are fixed.
    """
    return _SOI + _split(_blank_stream(encoding))[0] + _EOI


def abbreviator(encoding: Encoding) -> PackSegment:
    """Takes the shared tables out of a whole JPEG stream."""
    blank = _blank_stream(encoding)
    _, others, scan = _split(blank)
    full_header, header = blank[:scan], _SOI + others

    def abbreviate(stream: bytes) -> bytes:
        if stream[:scan] != full_header:
            raise AssertionError("libjpeg changed its header between tiles")
        return header + stream[scan:]

    return abbreviate


def _blank_stream(encoding: Encoding) -> bytes:
    """The stream of a tile of zeros, which has the same header as any other."""
    blank = np.zeros((encoding.tile, encoding.tile, encoding.samples), encoding.dtype)
    return encoding.encoder().encode([blank])[0]


def _split(stream: bytes) -> tuple[bytes, bytes, int]:
    """The table markers (DQT, DHT), the other header markers, and where the scan begins; JFIF's APP0 is dropped."""
    tables, others, at = [], [], 2
    while stream[at + 1] != _SOS:
        marker, end = stream[at + 1], at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker in (_DQT, _DHT):
            tables.append(stream[at:end])
        elif marker != _APP0:
            others.append(stream[at:end])
        at = end
    return b"".join(tables), b"".join(others), at
