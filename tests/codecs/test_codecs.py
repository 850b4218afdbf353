"""Compressions one by one: names, what quality and level do, predictors, bytes that standards prescribe."""

from __future__ import annotations

import enum
import pickle
import threading
from typing import Any

import imagecodecs
import numpy as np
import pages
import pytest
from numpy.typing import NDArray

from slidewright.codecs import ALIASES, CODECS, canonical, codecs_of
from slidewright.errors import OptionError
from slidewright.formats.tiff_tags import encoding_arguments, jpeg_tables
from slidewright.geometry import Size
from slidewright.tiff.stream_headers import Stream, look

RGB = (np.indices((64, 64)).sum(0)[..., None] * np.array([1, 2, 3]) % 256).astype(np.uint8)
MASK = ((np.indices((64, 64)).sum(0) // 9) % 3 == 0).astype(np.uint8)[..., None]
FIRST = {"rgb": RGB, "binary": MASK}


def encode(pixels: NDArray[Any], **options: Any) -> bytes:
    return pages.encoded(pages.encoding_of(pixels, **options), pixels)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("NONE", "none"),
        ("CCITTFAX4", "ccitt-t6"),
        ("ccittfax4", "ccitt-t6"),
        ("JPEG", "jpeg"),
        ("DEFLATE", "deflate"),
        ("packbits", "packbits"),
        ("LZW", "lzw"),
        ("WEBP", "webp"),
        ("ZSTD", "zstd"),
        ("JP2K", "jpeg2000"),
        ("jp2k_lossy", "jpeg2000-lossy"),
        ("JP2K_LOSSY", "jpeg2000-lossy"),
        ("PNG", "png"),
        ("webp_lossless", "webp-lossless"),
        (" JpegXL-Lossless ", "jpegxl-lossless"),
        ("brotli", None),
        ("", None),
    ],
)
def test_names_of_dlup_and_spellings_are_understood(given: str, name: str | None) -> None:
    assert canonical(given) == name


def test_aliases_lead_to_compressions_and_hide_none() -> None:
    assert set(ALIASES.values()) <= set(CODECS)
    assert not set(ALIASES) & set(CODECS)


def test_member_of_a_string_enumeration_is_its_value() -> None:
    class TiffCompression(str, enum.Enum):  # noqa: UP042 - as dlup has it
        JP2K_LOSSY = "JP2K_LOSSY"

    assert pages.encoding_of(RGB, compression=TiffCompression.JP2K_LOSSY).compression == "jpeg2000-lossy"


def test_unknown_compression_names_them_all() -> None:
    with pytest.raises(
        OptionError, match=r"'brotli' is not known; choose one of none, jpeg, jpeg2000, .*jpegxl-lossless"
    ):
        pages.encoding_of(RGB, compression="brotli")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "webp", "effort": 3}, "effort does not apply to compression 'webp'; use quality, 1 to 100"),
        ({"compression": "zstd", "quality": 90}, "quality does not apply to compression 'zstd'; use effort, 1 to 22"),
        ({"compression": "lzw", "effort": 3}, "effort does not apply to compression 'lzw'; leave it out"),
        ({"compression": "jpeg2000", "quality": 80}, "quality does not apply to compression 'jpeg2000'; leave it out"),
        ({"compression": "deflate", "effort": 13}, "effort 13 is out of range for 'deflate': 1 to 12"),
        ({"compression": "webp-lossless", "effort": -1}, "effort -1 is out of range for 'webp-lossless': 0 to 6"),
        (
            {"compression": "png", "predictor": True},
            "does not apply to compression 'png', only to zstd, deflate, lzw",
        ),
        ({"compression": "webp", "subsampling": "444"}, "subsampling applies to jpeg compression of RGB pixels only"),
        ({"bits": 1}, "bits applies to binary masks, and these are uint8 RGB"),
    ],
)
def test_options_that_do_not_apply_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pages.encoding_of(RGB, **options)


@pytest.mark.parametrize(
    ("pixels", "options", "message"),
    [
        (
            np.dstack([RGB, RGB[..., :1]]),
            {"compression": "jpeg"},
            r"RGBA: .*no alpha; .*, or alpha 'compose'",
        ),
        (
            RGB[..., :1],
            {"compression": "jpeg", "kind": "labels"},
            "labels: it is lossy and would make values",
        ),
        (RGB, {"compression": "ccitt-t6"}, r"RGB: CCITT codes runs of single bits: binary masks \(kind 'binary'\)"),
        (RGB[..., :1], {"compression": "webp"}, "grey: WebP holds uint8 RGB and RGBA; choose one of none, jpeg"),
        (MASK, {"compression": "ccitt-t4", "kind": "binary", "bits": 8}, "masks of 1 bit a pixel only; .*, or bits 1"),
        (MASK, {"compression": "png", "kind": "binary", "bits": 1}, "masks of 8 bits a pixel only; .*, or bits 8"),
        (
            MASK,
            {"compression": "lzw", "kind": "binary", "bits": 1, "predictor": True},
            "does not apply to masks",
        ),
    ],
)
def test_pixels_that_do_not_fit_are_refused_with_the_reason(pixels: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        pages.encoding_of(pixels, **options)


@pytest.mark.parametrize("name", [name for name, codec in CODECS.items() if codec.lossy])
def test_more_quality_is_nearer_and_larger(name: str) -> None:
    noisy = (RGB.astype(int) + np.random.default_rng(1).integers(-20, 21, RGB.shape)).clip(0, 255).astype(np.uint8)
    decode = {"jpeg": None, "jpeg2000-lossy": imagecodecs.jpeg2k_decode, "webp": imagecodecs.webp_decode}
    sizes, errors = [], []
    for quality in (5, 29, 50, 75, 90, 100):
        encoding = pages.encoding_of(noisy, compression=name, quality=quality)
        segment = pages.stored(encoding, noisy)
        sizes.append(len(segment))
        if name == "jpeg":
            found: Any = imagecodecs.jpeg8_decode(segment, tables=jpeg_tables(encoding))
        else:
            found = decode.get(name, imagecodecs.jpegxl_decode)(segment)  # type: ignore[misc]
        errors.append(float(((found.astype(float) - noisy) ** 2).mean()))
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("name", ["zstd", "deflate", "png", "webp-lossless", "jpegxl-lossless"])
def test_level_reaches_the_codec(name: str) -> None:
    effort = CODECS[name].effort
    assert effort is not None
    rng = np.random.default_rng(2)
    pixels = np.cumsum(rng.integers(-2, 3, (64, 64, 3)), axis=1).astype(np.uint8)
    fast, small = (len(encode(pixels, compression=name, effort=value)) for value in (effort.low, effort.high))
    assert small < fast


@pytest.mark.parametrize("name", codecs_of("tiff"))
def test_segments_are_the_same_every_time_and_in_threads(name: str) -> None:
    kind = "binary" if name.startswith("ccitt") else "rgb"
    pixels, options = FIRST[kind], {"kind": kind, "compression": name}
    encoding = pickle.loads(pickle.dumps(pages.encoding_of(pixels, **options)))
    wanted, found = pages.encoded(encoding, pixels), [b""] * 4

    def work(number: int) -> None:
        found[number] = encoding.encoder().encode([np.zeros_like(pixels), pixels])[1]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 4


@pytest.mark.parametrize("name", ["zstd", "deflate", "lzw"])
@pytest.mark.parametrize(
    ("dtype", "options", "predictor"),
    [
        ("uint8", {}, 2),
        ("uint16", {}, 2),
        ("int32", {}, 2),
        ("float32", {}, 1),
        ("float32", {"predictor": True}, 3),
        ("uint8", {"predictor": False}, 1),
        ("uint8", {"kind": "labels"}, 1),
        ("uint16", {"kind": "labels", "predictor": True}, 2),
        ("uint8", {"kind": "binary"}, 1),
    ],
)
def test_predictor_is_on_for_images_of_integers(name: str, dtype: str, options: dict[str, Any], predictor: int) -> None:
    encoding = pages.encoding_of(MASK.astype(dtype), compression=name, **options)
    assert encoding.predictor == predictor
    assert encoding_arguments(encoding).get("predictor", 1) == predictor


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_packbits_packs_each_row_by_itself(dtype: str) -> None:
    pixels = np.zeros((64, 64, 3), dtype)  # all equal: a run that crossed rows would leave fewer bytes
    segment = encode(pixels, compression="packbits", kind="rgb")
    row = 64 * 3 * pixels.itemsize
    runs = -(-row // 128)
    assert len(segment) == 64 * runs * 2
    assert imagecodecs.packbits_decode(segment) == pixels.tobytes()


def test_single_bits_are_packed_from_the_highest() -> None:
    pixels = np.zeros((64, 64, 1), np.uint8)
    pixels[0, 0], pixels[0, 9], pixels[63, 63] = 1, 1, 1
    segment = encode(pixels, compression="none", kind="binary", bits=1)
    assert len(segment) == 64 * 8
    assert (segment[0], segment[1], segment[-1]) == (0b10000000, 0b01000000, 1)


@pytest.mark.parametrize("name", ["ccitt-t4", "ccitt-t6"])
@pytest.mark.parametrize("what", ["zeros", "ones", "noise", "stripes"])
@pytest.mark.parametrize("side", [16, 1024])
def test_ccitt_codes_any_mask(name: str, what: str, side: int, tmp_path: Any) -> None:
    rng = np.random.default_rng(5)
    pixels = {
        "zeros": np.zeros((side, side)),
        "ones": np.ones((side, side)),
        "noise": rng.integers(0, 2, (side, side)),
        "stripes": np.indices((side, side))[1] % 2,  # the worst case of T.4: longer than the pixels themselves
    }[what].astype(np.uint8)[..., None]
    encoding = pages.encoding_of(pixels, compression=name, kind="binary", tile_size=side)
    pages.write_page(tmp_path / "mask.tif", pixels, encoding)
    np.testing.assert_array_equal(pages.by_tifffile(tmp_path / "mask.tif"), pixels)
    np.testing.assert_array_equal(pages.by_pillow(tmp_path / "mask.tif"), pixels)


@pytest.mark.parametrize("name", ["webp-lossless", "jpegxl-lossless", "png", "jpeg2000", "deflate"])
def test_colours_under_clear_alpha_are_kept(name: str, tmp_path: Any) -> None:
    pixels = np.dstack([RGB, np.zeros_like(RGB[..., :1])])
    pages.write_page(tmp_path / "clear.tif", pixels, pages.encoding_of(pixels, compression=name))
    np.testing.assert_array_equal(pages.by_tifffile(tmp_path / "clear.tif"), pixels)


def test_palette_is_padded_with_black() -> None:
    encoding = pages.encoding_of(MASK, compression="lzw", colormap=["white", "red", "#000001"])
    arguments = encoding_arguments(encoding)
    assert arguments["photometric"] == "palette"
    assert arguments["colormap"].shape == (3, 256)
    assert arguments["colormap"][:, :4].T.tolist() == [[65535] * 3, [65535, 0, 0], [0, 0, 257], [0, 0, 0]]


@pytest.mark.parametrize("shape", [(64, 64), (48, 160), (136, 256)])
@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_streams_say_their_size_and_whether_they_are_lossless(shape: Any, samples: int, dtype: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, samples)).astype(dtype)
    pixels, size = pixels[..., 0] if samples == 1 else pixels, Size(*shape)
    for container in (False, True):
        lossless: Any = imagecodecs.jpegxl_encode(pixels, lossless=True, usecontainer=container)
        lossy: Any = imagecodecs.jpegxl_encode(pixels, distance=1.0, lossless=False, usecontainer=container)
        assert (look("jpegxl", lossless), look("jpegxl", lossy)) == (Stream(size, True), Stream(size, False))
    for form in ("j2k", "jp2"):
        lossless = imagecodecs.jpeg2k_encode(pixels, 0, codecformat=form, reversible=True)
        lossy = imagecodecs.jpeg2k_encode(pixels, 40, codecformat=form, reversible=False)
        assert (look("jpeg2000", lossless), look("jpeg2000", lossy)) == (Stream(size, True), Stream(size, False))
    assert look("jpeg2000", imagecodecs.htj2k_encode(pixels, reversible=True)) == Stream(size, True, True)
    assert look("png", imagecodecs.png_encode(pixels)) == Stream(size, True)  # type: ignore[arg-type]
    if dtype == "uint8" and samples > 1:
        for lossless in (True, False):
            stream: Any = imagecodecs.webp_encode(pixels, 90, lossless=lossless)
            assert look("webp", stream).lossless is lossless
            assert look("webp", stream).size == size


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_header_of_jpeg_xr_says_its_size(dtype: str) -> None:
    """The larger of its two headers, of which decoders take either."""
    for size in (Size(64, 64), Size(63, 65), Size(1, 1), Size(70_000, 16)):
        stream: Any = bytes(imagecodecs.jpegxr_encode(np.zeros(size, dtype), level=1.0))
        assert look("jpegxr", stream) == Stream(size)
        at = stream.index(b"WMPHOTO\0") + 12
        if stream[at - 2] & 0x80:
            assert look("jpegxr", stream[:at] + b"\xff\xff\xff\xff" + stream[at + 4 :]) == Stream(Size(65_536, 65_536))
        assert look("jpegxr", stream[:at]) == Stream()


@pytest.mark.parametrize("name", ["jpeg2000", "webp-lossless", "png", "jpegxl-lossless"])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_tile_of_one_colour_says_what_any_other_does(name: str, value: int) -> None:
    """A WebP of one colour has 34 bytes: a file whose first tile was one was taken for lossy."""
    segment = encode(np.full_like(RGB, value), compression=name)
    assert look(name.removesuffix("-lossless"), segment)[:2] == (Size(64, 64), True)


@pytest.mark.parametrize("name", ["jpeg", "jpeg2000", "webp", "png", "jpegxl"])
def test_damaged_streams_say_nothing(name: str) -> None:
    segment = encode(RGB, compression=name)
    for length in range(len(segment[:64])):
        look(name, segment[:length])  # must not raise
    rng = np.random.default_rng(0)
    for _ in range(200):
        look(name, bytes(rng.integers(0, 256, 64, dtype=np.uint8)))
        broken = bytearray(segment[:256])
        broken[rng.integers(len(broken))] ^= 1 << int(rng.integers(8))
        look(name, bytes(broken))
