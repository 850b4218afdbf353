"""The compression table: a row says all that is known of a compression, and validation, messages, help, documentation
and the test matrix are made from it.
"""

from __future__ import annotations

from slidewright.codecs import bilevel, bytewise, images, jpeg
from slidewright.codecs.encoding import FAMILIES, Codec, Effort

BYTES = ("uint8",)
WORDS = ("uint8", "uint16")
NUMBERS = ("uint8", "uint16", "uint32", "int8", "int16", "int32", "float32")

_ZARR, _EITHER = frozenset({"zarr"}), frozenset(FAMILIES)


def _all(
    images: tuple[str, ...], colors: tuple[str, ...] = WORDS, masks: tuple[str, ...] = ()
) -> dict[str, tuple[str, ...]]:
    """Dtypes by kind: of grey and multichannel images, of colour images, of masks."""
    kinds = {"rgb": colors, "rgba": colors, "grey": images, "multichannel": images, "labels": masks}
    return {kind: dtypes for kind, dtypes in {**kinds, "binary": BYTES if masks else ()}.items() if dtypes}


_EVERYTHING = _all(NUMBERS, WORDS, NUMBERS[:-1])
_QUALITY = 1, 100, 90

CODECS: dict[str, Codec] = {
    codec.name: codec
    for codec in (
        Codec("none", "uncompressed", False, _EVERYTHING, "", bytewise.make_none, bits=(8, 1), families=_EITHER),
        Codec(
            name="jpeg",
            title="JPEG, by libjpeg-turbo",
            lossy=True,
            accepts={"rgb": BYTES, "grey": BYTES, "multichannel": BYTES},
            limits="JPEG holds uint8 RGB and grey (each channel by itself), no alpha",
            make=jpeg.make_jpeg,
            families=_EITHER,
            effort=Effort("quality", *_QUALITY, "libjpeg's quality; chroma is halved unless `subsampling` says else"),
        ),
        Codec(
            name="jpeg2000",
            title="JPEG 2000, lossless",
            lossy=False,
            accepts=_all(("uint8", "uint16", "int8", "int16"), WORDS, ("uint8", "uint16", "int8", "int16")),
            limits="JPEG 2000 holds integers of 8 and 16 bits",
            make=images.make_jpeg2000,
            pixel_bytes=32,
            families=_EITHER,
        ),
        Codec(
            name="jpeg2000-lossy",
            title="JPEG 2000, lossy",
            lossy=True,
            accepts={"rgb": WORDS, "grey": WORDS, "multichannel": WORDS},
            limits="lossy JPEG 2000 holds uint8 and uint16 RGB and grey (each channel by itself), no alpha",
            make=images.make_jpeg2000_lossy,
            pixel_bytes=32,
            families=_EITHER,
            effort=Effort(
                "quality",
                *_QUALITY,
                "the least PSNR of a tile, 20 + quality / 5 dB: 38 at 90; uint16 24 dB more, as if 4095 were white",
            ),
        ),
        Codec(
            name="htj2k",
            title="High-throughput JPEG 2000 (ITU T.814), lossless, by OpenJPH",
            lossy=False,
            accepts=_all(("uint8", "uint16", "int8", "int16"), WORDS, ("uint8", "uint16", "int8", "int16")),
            limits="JPEG 2000 holds integers of 8 and 16 bits",
            make=images.make_htj2k,
            pixel_bytes=32,
        ),
        Codec(
            name="webp",
            title="WebP, lossy",
            lossy=True,
            accepts={"rgb": BYTES, "rgba": BYTES},
            limits="WebP holds uint8 RGB and RGBA",
            make=images.make_webp,
            pixel_bytes=32,
            families=_EITHER,
            effort=Effort("quality", *_QUALITY, "libwebp's quality (method 2); alpha stays exact"),
        ),
        Codec(
            name="webp-lossless",
            title="WebP, lossless",
            lossy=False,
            accepts={"rgb": BYTES, "rgba": BYTES},
            limits="WebP holds uint8 RGB and RGBA",
            make=images.make_webp_lossless,
            pixel_bytes=32,
            families=_EITHER,
            effort=Effort("effort", 0, 6, 0, "libwebp's method, from fast to small"),
        ),
        Codec(
            name="zstd",
            title="Zstandard",
            lossy=False,
            accepts=_EVERYTHING,
            limits="",
            make=bytewise.make_zstd,
            effort=Effort("effort", 1, 22, 3, "Zstandard's level"),
            predictor=True,
            bits=(8, 1),
            families=_EITHER,
        ),
        Codec(
            name="deflate",
            title="zlib's deflate, by libdeflate",
            lossy=False,
            accepts=_EVERYTHING,
            limits="",
            make=bytewise.make_deflate,
            effort=Effort("effort", 1, 12, 6, "libdeflate's level"),
            predictor=True,
            bits=(8, 1),
        ),
        Codec("lzw", "LZW", False, _EVERYTHING, "", bytewise.make_lzw, predictor=True, bits=(8, 1)),
        Codec("packbits", "PackBits, run lengths", False, _EVERYTHING, "", bytewise.make_packbits, bits=(8, 1)),
        Codec(
            name="png",
            title="PNG",
            lossy=False,
            accepts=_all(WORDS, WORDS, WORDS),
            limits="PNG holds uint8 and uint16",
            make=images.make_png,
            effort=Effort("effort", 1, 9, 6, "zlib's level; rows are filtered by Paeth, but for masks"),
        ),
        Codec(
            name="ccitt-t4",
            title="CCITT T.4, fax group 3, one-dimensional",
            lossy=False,
            accepts={"binary": BYTES},
            limits="CCITT codes runs of single bits: binary masks (kind 'binary')",
            make=bilevel.make_ccitt_t4,
            bits=(1,),
        ),
        Codec(
            name="ccitt-t6",
            title="CCITT T.6, fax group 4",
            lossy=False,
            accepts={"binary": BYTES},
            limits="CCITT codes runs of single bits: binary masks (kind 'binary')",
            make=bilevel.make_ccitt_t6,
            bits=(1,),
        ),
        Codec(
            name="jpegxl",
            title="JPEG XL, lossy",
            lossy=True,
            accepts=_all(BYTES, BYTES),
            limits="lossy JPEG XL is for what an eye sees: uint8 pixels",
            make=images.make_jpegxl,
            pixel_bytes=72,
            piece_side=2048,
            families=_EITHER,
            effort=Effort(
                "quality",
                *_QUALITY,
                "a Butteraugli distance as libjxl maps it, so 1.0 at 90 (effort 3); alpha stays exact",
            ),
        ),
        Codec(
            name="jpegxl-lossless",
            title="JPEG XL, lossless",
            lossy=False,
            accepts=_all(WORDS, WORDS, WORDS),
            limits="JPEG XL holds uint8 and uint16 (and float32, of which libjxl's encoder refuses some)",
            make=images.make_jpegxl_lossless,
            pixel_bytes=72,
            piece_side=2048,
            families=_EITHER,
            effort=Effort("effort", 1, 9, 3, "libjxl's effort, from fast to small"),
        ),
        Codec(
            name="blosc",
            title="Blosc: Zstandard after a bitshuffle",
            lossy=False,
            accepts=_EVERYTHING,
            limits="",
            make=bytewise.make_blosc,
            effort=Effort("effort", 1, 9, 3, "Blosc's level"),
            families=_ZARR,
        ),
        Codec(
            name="gzip",
            title="gzip, by libdeflate",
            lossy=False,
            accepts=_EVERYTHING,
            limits="",
            make=bytewise.make_gzip,
            effort=Effort("effort", 1, 9, 6, "libdeflate's level"),
            families=_ZARR,
        ),
    )
}

DEFAULT_IMAGE = "jpeg"  # of RGB and grey of uint8
DEFAULT = "deflate"
DEFAULT_ZARR = "zstd"
DEFAULT_ZARR_WIDE = (
    "blosc"  # of images of more than a byte a sample: a seventh smaller, twice as fast (docs/ome-zarr.md)
)

ALIASES = {
    "adobe-deflate": "deflate",
    "ccittfax3": "ccitt-t4",
    "ccittfax4": "ccitt-t6",
    "group3": "ccitt-t4",
    "group4": "ccitt-t6",
    "high-throughput-jpeg-2000": "htj2k",
    "htj2k-lossless": "htj2k",
    "j2k": "jpeg2000",
    "jp2k": "jpeg2000",
    "jp2k-lossy": "jpeg2000-lossy",
    "jpeg-2000": "jpeg2000",
    "jpeg-2000-lossy": "jpeg2000-lossy",
    "jpg": "jpeg",
    "jxl": "jpegxl",
    "jxl-lossless": "jpegxl-lossless",
    "zip": "deflate",
    "zlib": "deflate",
}
"""Other names: dlup's, where `CCITTFAX4` is what libtiff and libvips mean by it (T.6), tifffile's and libvips'."""


def codecs_of(family: str) -> dict[str, Codec]:
    """The rows that a family of formats holds."""
    return {name: codec for name, codec in CODECS.items() if family in codec.families}


def canonical(name: str) -> str | None:
    """The table's name for a name or alias, in capitals or not, with "_" or "-"; None if there is none."""
    plain_name = name.strip().lower().replace("_", "-")
    plain_name = ALIASES.get(plain_name, plain_name)
    return plain_name if plain_name in CODECS else None
