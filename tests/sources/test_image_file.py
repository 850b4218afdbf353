"""Image files by path: Pillow's pixels, whatever the format and mode, upright, and once for all workers."""

from __future__ import annotations

import base64
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import pyvips
import simplejpeg
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps
from reading import assert_reads_like
from written import assert_levels_equal_oracle

import slidewright
from slidewright.errors import CorruptTileError, OptionError, SourceError
from slidewright.geometry import Size
from slidewright.sources import image_file
from slidewright.sources.open import open_source
from slidewright.sources.pillow import pil_pixels
from slidewright.system.limits import MemoryLimit
from slidewright.tiff.jpeg_holes import has_hole

PIXELS = np.random.default_rng(8).integers(0, 255, (90, 130, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jp2", "webp", "bmp"])
def test_every_format_gives_pillows_pixels(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    source = open_source(path)
    expected = np.asarray(Image.open(path))
    assert (source.info.size, source.info.kind) == ((90, 130), "rgb")
    assert_reads_like(source, expected)
    for workers in (0, 2):
        slidewright.convert(
            path, tmp_path / "out.tif", tile_size=32, compression="deflate", n_workers=workers, overwrite=True
        )
        assert_levels_equal_oracle(tmp_path / "out.tif", expected, 32)


@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16"])
def test_modes_of_jpeg_2000(mode: str, name: str, tmp_path: Path) -> None:
    image: Any = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200) if mode == "I;16" else None
    (image or Image.fromarray(PIXELS).convert(mode)).save(tmp_path / name)
    shown = Image.open(tmp_path / name)
    assert_reads_like(open_source(tmp_path / name), np.asarray(shown.convert("RGBA") if mode == "LA" else shown))


def _jpeg2000(pixels: NDArray[Any], path: Path, bits: int) -> NDArray[Any]:
    form = path.suffix.removeprefix(".")
    path.write_bytes(imagecodecs.jpeg2k_encode(pixels, bitspersample=bits, level=0, codecformat=form))
    return pixels


@pytest.mark.parametrize("bits", [4, 10, 12, 16])
def test_colours_of_other_bits_of_jpeg_2000_are_pillows_and_what_is_lost_is_told(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jp2"
    _jpeg2000((PIXELS >> max(0, 8 - bits)).astype("uint16" if bits > 8 else "uint8"), path, bits)
    source = open_source(path)
    assert_reads_like(source, np.asarray(Image.open(path)))
    assert bool(source.info.left_out) == (bits > 8)


@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
@pytest.mark.parametrize("bits", [9, 10, 12, 15, 16])
def test_greys_of_jpeg_2000_keep_their_numbers(name: str, bits: int, tmp_path: Path) -> None:
    """Pillow cuts those of 9 bits to 8, and stretches more over 16; a TIFF's are numbers as well."""
    path = tmp_path / name
    pixels = _jpeg2000(np.random.default_rng(1).integers(0, 1 << bits, (90, 130)).astype(np.uint16), path, bits)
    assert_reads_like(open_source(path), pixels)
    slidewright.convert(path, tmp_path / "out.tif", n_workers=0, compression="zstd")
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif", key=0), pixels)


def test_greys_of_jpeg_2000_are_what_the_codes_say(tmp_path: Path) -> None:
    """Its header may say other bits (ihdr, ISO 15444-1 I.5.3.1), which Pillow believes."""
    path = tmp_path / "a.jp2"
    pixels = _jpeg2000(PIXELS[..., 0].copy(), path, 8)
    data = bytearray(path.read_bytes())
    at = data.index(b"ihdr") + 14
    assert data[at] == 7
    data[at] = 15
    path.write_bytes(data)
    assert_reads_like(open_source(path), pixels)


@pytest.mark.parametrize(("dtype", "bits"), [("int8", 8), ("int16", 16), ("uint32", 20)])
def test_signed_and_wide_numbers_of_jpeg_2000_are_refused(dtype: str, bits: int, tmp_path: Path) -> None:
    _jpeg2000(PIXELS[..., 0].astype(dtype), tmp_path / "a.jp2", bits)
    with pytest.raises(SourceError, match="which are not read right from JPEG 2000"):
        open_source(tmp_path / "a.jp2")


@pytest.mark.parametrize("bits", [8, 10])
def test_colours_of_jpeg_2000_that_nobody_here_knows_are_refused(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "a.jp2"
    _jpeg2000(PIXELS if bits == 8 else PIXELS[..., 0].astype(np.uint16), path, bits)
    data = bytearray(path.read_bytes())
    at = data.index(b"colr") + 7
    assert data[at : at + 4] == (16 if bits == 8 else 17).to_bytes(4)
    data[at : at + 4] = (24).to_bytes(4)  # e-sYCC
    path.write_bytes(data)
    with pytest.raises(CorruptTileError, match=r"a\.jp2 does not decode"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no such signal here")
@pytest.mark.parametrize("name", ["a.jp2", "a.jpg"])
def test_signal_is_heard_while_one_call_decodes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PIXELS).save(tmp_path / name)
    ended = threading.Event()

    class HeardError(Exception):
        pass

    def hear(*_: object) -> None:
        raise HeardError

    def decode(*_: object, **__: object) -> None:
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGALRM)
        ended.wait(60)  # as one that takes a minute

    monkeypatch.setattr(imagecodecs, "jpeg2k_decode", decode)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode)
    before = signal.signal(signal.SIGALRM, hear)
    try:
        with pytest.raises(HeardError):
            slidewright.convert(tmp_path / name, tmp_path / "out.tif", n_workers=0)
        assert not ended.is_set()
        assert [path.name for path in tmp_path.iterdir()] == [name]
    finally:
        ended.set()
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("codec", ["jpeg2k", "jpeg"])
def test_other_packages_decode_beside_python(codec: str) -> None:
    """Else nothing is heard in the calling process while another of its threads decodes."""
    pixels = np.random.default_rng(1).integers(0, 255, (1500, 1500, 3), np.uint8)
    if codec == "jpeg2k":
        thread = threading.Thread(target=imagecodecs.jpeg2k_decode, args=(imagecodecs.jpeg2k_encode(pixels),))
    else:
        data = imagecodecs.jpeg8_encode(np.tile(pixels, (4, 4, 1)))
        thread = threading.Thread(target=simplejpeg.decode_jpeg, args=(data, "GRAY"), kwargs={"min_factor": 8})
    thread.start()
    longest, last = 0.0, time.monotonic()
    begin = last
    while thread.is_alive():
        time.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert longest < (last - begin) / 2


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("1", "binary"), ("L", "grey"), ("LA", "rgba"), ("P", "labels"), ("RGBA", "rgba"), ("I;16", "grey")],
)
def test_modes_of_a_png(mode: str, kind: str, tmp_path: Path) -> None:
    image: Any = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 200) if mode == "I;16" else None
    image = image or Image.fromarray(PIXELS).convert(mode)
    image.save(tmp_path / "a.png")
    source = open_source(tmp_path / "a.png")
    assert source.info.kind == kind
    assert_reads_like(source, np.asarray(image.convert("RGBA") if mode == "LA" else image))


@pytest.mark.parametrize("orientation", [3, 6])
def test_photograph_is_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(PIXELS).save(tmp_path / "a.png", exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))
    assert_reads_like(open_source(tmp_path / "a.png"), shown)


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_colour_that_is_transparent_becomes_alpha(mode: str, tmp_path: Path) -> None:
    path, image = tmp_path / "a.png", Image.fromarray(PIXELS // 64 * 64).convert(mode)
    image.save(path, transparency=(64, 0, 128) if mode == "RGB" else 0)
    shown = np.asarray(Image.open(path).convert("RGBA"))
    assert 0 < (shown[..., 3] == 0).sum() < shown[..., 3].size
    assert open_source(path).info.kind == "rgba"
    assert_reads_like(open_source(path), shown)


def test_transparent_index_and_further_frames_are_told(tmp_path: Path) -> None:
    frames = [Image.fromarray(PIXELS[..., channel] // 9).convert("P") for channel in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], transparency=3)
    report = slidewright.convert(tmp_path / "a.gif", tmp_path / "out.tif", n_workers=0)
    assert open_source(tmp_path / "a.gif").info.kind == "labels"
    (warning,) = report.warnings
    assert "colours of its palette are transparent" in warning
    assert "frames after the first of 3" in warning


@pytest.mark.timeout(60)
def test_transparent_grey_of_16_bits_is_told(tmp_path: Path) -> None:
    pixels = PIXELS[..., 0].astype(np.uint16) * 200
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=int(pixels[3, 3]))
    report = slidewright.convert(tmp_path / "a.png", tmp_path / "out.tif", n_workers=0)
    (warning,) = report.warnings
    assert "which of its greys is transparent" in warning
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), pixels)


def test_damaged_and_too_large_files_are_errors_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptTileError, match="does not decode"):
        slidewright.convert(tmp_path / "cut.png", tmp_path / "out.tif", n_workers=0)
    (tmp_path / "bad.png").write_bytes(data[:10] + b"x" * 50)
    with pytest.raises(SourceError, match="can't be read by Pillow"):
        open_source(tmp_path / "bad.png")
    with pytest.raises(OptionError, match="page 0 has no meaning"):
        open_source(tmp_path / "a.png", page=0)
    monkeypatch.setattr(image_file, "MAX_BYTES", 1000)
    with pytest.raises(SourceError, match="vips tiffsave --tile"):
        open_source(tmp_path / "a.png")


def test_codec_that_nobody_has_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, tile=(64, 64), photometric="rgb", metadata=None, compression="packbits")
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(34676)
    with pytest.raises(SourceError, match=r"compressed by sgilog \(TIFF's Compression 34676\)") as caught:
        open_source(path)
    assert "damaged" not in str(caught.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_file_that_is_cut_short_is_an_error_whatever_the_caller_has_made_of_pillow(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs that train on image files let Pillow make what is missing grey, which it says nowhere."""
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CorruptTileError, match=r"truncated|end before their checksum"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(open_source, [path] * 200))
    assert ImageFile.LOAD_TRUNCATED_IMAGES
    assert Image.MAX_IMAGE_PIXELS == 100
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", ["png", "jp2"])
@pytest.mark.parametrize("samples", [3, 4])
def test_colours_of_16_bits_are_said_to_lose_the_lower_8(suffix: str, samples: int, tmp_path: Path) -> None:
    import imagecodecs

    wide = np.random.default_rng(9).integers(0, 65_536, (40, 60, samples), np.uint16)
    for name, pixels in (("wide", wide), ("narrow", (wide >> 8).astype(np.uint8))):
        encoded = imagecodecs.png_encode(pixels) if suffix == "png" else imagecodecs.jpeg2k_encode(pixels, level=0)
        (tmp_path / f"{name}.{suffix}").write_bytes(encoded)
        report = slidewright.convert(tmp_path / f"{name}.{suffix}", tmp_path / f"{name}.tif", n_workers=0)
        said = [warning for warning in report.warnings if "more than the upper 8 bits of its colours" in warning]
        assert len(said) == (name == "wide")


def test_inks_of_a_jpeg_are_shown_by_their_profile(tmp_path: Path) -> None:
    pyvips = pytest.importorskip("pyvips")
    profile = bytes(pyvips.Image.profile_load("cmyk"))
    inks = np.dstack([PIXELS // 2, PIXELS[..., 0] // 3])
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0, icc_profile=profile)
    printed = pyvips.Image.new_from_file(str(tmp_path / "a.jpg"))
    shown = printed.icc_transform("srgb", embedded=True, intent="perceptual")
    slidewright.convert(tmp_path / "a.jpg", tmp_path / "out.tif", compression="deflate", n_workers=0)
    found = tifffile.imread(tmp_path / "out.tif", key=0).astype(int)
    assert np.abs(found - shown.numpy()).mean() < 2
    Image.fromarray(inks, "CMYK").save(tmp_path / "b.jpg", quality=100, subsampling=0, icc_profile=b"no profile")
    slidewright.convert(tmp_path / "b.jpg", tmp_path / "out.tif", compression="deflate", n_workers=0, overwrite=True)
    plain = np.asarray(Image.open(tmp_path / "b.jpg").convert("RGB"))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), plain)


@pytest.mark.parametrize(
    ("name", "mode", "space", "kept"),
    [
        ("a.jpg", "CMYK", b"CMYK", False),
        ("a.jpg", "YCbCr", b"RGB ", True),
        ("a.tif", "YCbCr", b"RGB ", True),
        ("a.tif", "CMYK", b"CMYK", False),
        ("a.png", "L", b"GRAY", True),
        ("a.png", "LA", b"GRAY", False),
        ("a.tif", "LA", b"GRAY", False),
    ],
)
def test_icc_profile_is_of_the_pixels_that_are_written(
    name: str, mode: str, space: bytes, kept: bool, tmp_path: Path
) -> None:
    profile = bytes(16) + space + bytes(108)
    Image.fromarray(PIXELS).convert(mode).save(tmp_path / name, icc_profile=profile)
    slidewright.convert(tmp_path / name, tmp_path / "out.tif", n_workers=0)
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert tiff.pages.first.iccprofile == (profile if kept else None)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("dots", "told"), [(50_800, "0.5 x 0.5 um a pixel"), (72, None), (None, None)])
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp"])
def test_resolution_of_a_microscope_is_told(suffix: str, dots: int | None, told: str | None, tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / f"a.{suffix}", **({} if dots is None else {"dpi": (dots, dots)}))
    warnings = slidewright.convert(tmp_path / f"a.{suffix}", tmp_path / "b.tif", n_workers=0).warnings
    assert [told is not None and told in warning for warning in warnings] == [True] * (told is not None)


def test_image_that_memory_does_not_hold_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PNG of a few kilobytes can take gigabytes."""
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 15_000)).save(path)
    assert path.stat().st_size < 100_000

    def load(image: Any) -> None:
        pytest.fail("it was decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    for workers in (0, 2):
        with pytest.raises(OptionError, match=r"of 300 MB is too little: this source can't be read in parts.* 1005 MB"):
            slidewright.convert(path, tmp_path / "out.tif", memory="300MB", n_workers=workers)
    monkeypatch.setattr(image_file, "available_memory", lambda: MemoryLimit(200_000_000, "the free memory"))
    with pytest.raises(SourceError, match="takes some 900 MB, and the free memory is 200 MB; make a tiled TIFF"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    assert [name.name for name in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is Linux's to tell")
@pytest.mark.parametrize(
    ("mode", "suffix", "turned"),
    [
        *((mode, "png", False) for mode in ("1", "L", "P", "I;16", "LA", "RGB", "RGBA")),
        *(("RGB", suffix, False) for suffix in ("jpg", "jp2", "webp", "bmp")),
        *(("CMYK", "jpg", False), ("L", "jp2", False), ("P", "gif", False), ("RGB", "jpg", True), ("L", "jpg", True)),
    ],
)
def test_decoding_takes_what_is_said_of_it(mode: str, suffix: str, turned: bool, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new(mode, (4000, 4000)).save(path, **({"exif": exif} if turned else {}))
    script = (
        "import sys; from slidewright.sources.open import open_source\n"
        "import PIL.JpegImagePlugin, PIL.Jpeg2KImagePlugin, imagecodecs\n"
        "def peak(): return int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) << 10\n"
        "source = open_source(sys.argv[1])\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"
        "before = peak()\n"
        "source._unpacked(sys.argv[2]).close()\n"
        "print(peak() - before, source.info.whole_bytes)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path), str(tmp_path)], capture_output=True, check=True)
    taken, said = map(int, done.stdout.split())
    slack = 16 << 20  # what a library keeps for itself, and 256 rows that are written
    assert 0.4 * said < taken <= said + slack


def test_palette_is_told_without_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the image file's description, before anybody has asked for its pixels: it may have gigabytes."""
    labels = Image.fromarray(PIXELS[..., 0] % 5, "P")
    labels.putpalette([200, 10, 0, 0, 0, 255, 1, 2, 3, 250, 250, 250, 9, 8, 7])
    expected = {}
    for suffix in ("png", "bmp", "gif"):
        labels.save(tmp_path / f"a.{suffix}")
        with Image.open(tmp_path / f"a.{suffix}") as image:
            expected[suffix] = pil_pixels(image, "").colormap
        assert expected[suffix] is not None
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
        found = {suffix: open_source(tmp_path / f"a.{suffix}").info.colormap for suffix in expected}
    assert found == expected


@pytest.mark.parametrize("damage", ["hole", "middle cut out", "ends early", "twice the rows"])
def test_jpeg_of_which_codes_are_missing_is_damaged(damage: str, tmp_path: Path) -> None:
    """Pillow makes up the rest, and says nothing."""
    path = tmp_path / "a.jpg"
    pixels = np.random.default_rng(4).integers(0, 255, (480, 640, 3), np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    slidewright.convert(path, tmp_path / "good.tif", n_workers=0)
    data = path.read_bytes()
    half, frame = len(data) // 2, data.index(b"\xff\xc0")
    path.write_bytes(
        {
            "hole": data[:half] + bytes(8192) + data[half + 8192 :],
            "middle cut out": data[:half] + data[half + 20_000 :],
            "ends early": data[:half] + data[-2:],
            "twice the rows": data[: frame + 5] + (960).to_bytes(2) + data[frame + 7 :],
        }[damage]
    )
    with pytest.raises(CorruptTileError, match=r"a\.jpg does not decode whole"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


def _bmp() -> bytearray:
    """PIXELS as a BMP whose rows have padding."""
    data = BytesIO()
    image = Image.fromarray(PIXELS)
    assert image.width * 3 % 4
    image.save(data, "BMP")
    return bytearray(data.getvalue())


def test_bmp_whose_rows_are_moved_is_damaged(tmp_path: Path) -> None:
    """Pillow does not miss the padding of the last row; where a byte is missing before, all rows after it are moved."""
    path, data = tmp_path / "a.bmp", _bmp()
    del data[len(data) // 2]
    path.write_bytes(data)
    with pytest.raises(CorruptTileError, match=r"a\.bmp does not decode whole \(1 of its bytes are missing"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


def test_bmp_whose_pixels_are_said_to_begin_later_is_damaged(tmp_path: Path) -> None:
    path, data = tmp_path / "a.bmp", _bmp()
    data[10] += 1
    path.write_bytes(data)
    with pytest.raises(CorruptTileError, match="1 of its bytes are missing"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


def test_bmp_may_leave_out_its_last_padding_where_it_says_so(tmp_path: Path) -> None:
    """As some writers do, whose header has the size of such a file."""
    path, data = tmp_path / "a.bmp", _bmp()
    del data[-1:]
    data[2:6] = len(data).to_bytes(4, "little")
    data[34:38] = bytes(4)  # biSizeImage, which may be 0 of pixels without codes
    path.write_bytes(data)
    slidewright.convert(path, tmp_path / "out.tif", n_workers=0, compression="zstd")
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), PIXELS)


@pytest.mark.parametrize("damage", ["none", "a byte more", "one bit", "two pieces exchanged"])
def test_gif_whose_codes_make_no_sense_is_damaged(
    damage: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Pillow makes up the rest; OpenCV says so, and nothing of that comes to the terminal."""
    path, data = tmp_path / "a.gif", BytesIO()
    Image.fromarray(PIXELS[..., 0]).save(data, "GIF")
    codes = bytearray(data.getvalue())
    at = len(codes) // 2
    if damage == "a byte more":
        codes[at:at] = b"\x55"
    elif damage == "one bit":
        codes[at] ^= 16
    elif damage == "two pieces exchanged":
        codes[at : at + 40] = codes[at + 20 : at + 40] + codes[at : at + 20]
    path.write_bytes(codes)
    if damage == "none":
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
        return
    with pytest.raises(CorruptTileError, match=r"a\.gif does not decode"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    assert "OpenCV" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("damage", ["none", "a run too long", "an end too early", "an empty row"])
def test_bmp_of_runs_that_do_not_fit_is_damaged(damage: str, tmp_path: Path) -> None:
    """Pillow cuts runs that go beyond their row, and fills what is missing."""
    whole = b"\3\1\0\0\3\2\0\1"  # a run of three, the end of a row, and so on
    other = {"a run too long": b"\4" + whole[1:], "an end too early": whole[:4], "an empty row": whole[2:4] + whole}
    codes = other.get(damage, whole)
    palette = bytes(range(256)) * 4
    header = struct.pack("<IiiHHIIiiII", 40, 3, 2, 1, 8, 1, len(codes), 0, 0, 256, 0)
    start = 14 + len(header) + len(palette)
    path = tmp_path / "a.bmp"
    path.write_bytes(struct.pack("<2sIHHI", b"BM", start + len(codes), 0, 0, start) + header + palette + codes)
    if damage == "none":
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0, kind="labels")
        assert tifffile.imread(tmp_path / "out.tif").tolist() == [[2, 2, 2], [1, 1, 1]]
        return
    with pytest.raises(CorruptTileError, match=r"a\.bmp does not decode whole \((its runs end|a r)"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)



def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    each = [len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(each)


def _png_header(height: int, width: int) -> tuple[bytes, bytes]:
    return b"IHDR", width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])


@pytest.mark.parametrize("damage", ["zeros to the end", "one bit", "no checksum", "too many pixels", "too few"])
def test_png_of_which_pixels_are_wrong_is_damaged(damage: str, tmp_path: Path) -> None:
    """Pillow stops where it has all rows, and does not look at the checksum of the last chunk, nor at that of all."""
    path = tmp_path / "a.png"
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    packed = zlib.compress(rows)
    if damage == "too many pixels":
        packed = zlib.compress(rows + bytes(2 << 20))
    if damage == "too few":
        packed = zlib.compress(rows[:-1])
    if damage == "no checksum":
        packed = packed[:-4]
    data = bytearray(_png([_png_header(*PIXELS.shape[:2]), (b"IDAT", packed), (b"IEND", b"")]))
    if damage == "zeros to the end":
        data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    if damage == "one bit":
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptTileError, match=r"a\.png does not decode"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("length", [None, 767])
def test_png_without_its_palette_is_damaged(length: int | None, tmp_path: Path) -> None:
    """Pillow takes its indices for greys (PNG, 11.2.2: it is there, and of whole colours)."""
    path, packed = tmp_path / "a.png", zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS[..., 0]))
    kind, header = _png_header(*PIXELS.shape[:2])
    palette = [] if length is None else [(b"PLTE", bytes(length))]
    path.write_bytes(_png([(kind, header[:9] + b"\3" + header[10:]), *palette, (b"IDAT", packed), (b"IEND", b"")]))
    with pytest.raises(CorruptTileError, match=r"a\.png does not decode whole \(its palette is missing, or damaged"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


def test_png_whose_header_stands_elsewhere_is_damaged(tmp_path: Path) -> None:
    path, packed = tmp_path / "a.png", zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS))
    path.write_bytes(_png([(b"gAMA", bytes(4)), _png_header(*PIXELS.shape[:2]), (b"IDAT", packed), (b"IEND", b"")]))
    with pytest.raises(CorruptTileError, match="its header is not where it begins"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("piece", [1, 1000, 1 << 20])
def test_png_is_whole_in_any_number_of_chunks_and_with_bytes_behind_it(piece: int, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    rows = b"".join(b"\0" + row.tobytes() for row in PIXELS)
    packed = zlib.compress(rows + bytes(77))  # which libpng, and others with it, leave alone
    parts = [(b"IDAT", packed[at : at + piece]) for at in range(0, len(packed), piece)]
    path.write_bytes(_png([_png_header(*PIXELS.shape[:2]), (b"IDAT", b""), *parts, (b"IEND", b"")]) + bytes(500))
    assert_reads_like(open_source(path), PIXELS)


@pytest.mark.parametrize("mode", ["b-w", "b", "srgb"])
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (9, 5), (90, 130)])
def test_interlaced_png_has_all_its_pixels(mode: str, size: tuple[int, int], tmp_path: Path) -> None:
    path, grey = tmp_path / "a.png", PIXELS[: size[0], : size[1], 0] & 0x80
    image = pyvips.Image.new_from_array(PIXELS[: size[0], : size[1]] if mode == "srgb" else grey)
    image.pngsave(str(path), interlace=True, bitdepth=1 if mode == "b" else 8)
    with Image.open(path) as opened:
        assert opened.info.get("interlace") == 1
        expected = np.asarray(opened)
    found = slidewright.convert(path, tmp_path / "o.tif", n_workers=0, compression="zstd")
    assert found.levels[0].size == size
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif", level=0) > 0, expected > 0)


def test_png_of_one_colour_inflates_in_pieces(tmp_path: Path) -> None:
    """A run of bytes may end exactly where a piece of them does, and is asked for all the same."""
    path = tmp_path / "a.png"
    pixels = np.full((1024, 1023), 7, np.uint8)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels), 9)
    header = (b"IHDR", (1023).to_bytes(4) + (1024).to_bytes(4) + bytes([8, 0, 0, 0, 0]))
    path.write_bytes(_png([header, *((b"IDAT", bytes([byte])) for byte in packed), (b"IEND", b"")]))
    assert_reads_like(open_source(path), pixels[..., None])


def test_jpeg_with_bytes_that_belong_to_no_image_is_read(tmp_path: Path) -> None:
    """Cameras append what they like, and some leave bytes before a marker."""
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path)
    data, expected = path.read_bytes(), np.asarray(Image.open(path))
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2) + data
    padded = b"\xff\xe1" + (3002).to_bytes(2) + bytes(3000)
    for good in (
        data + bytes(3000),
        data[:-2] + bytes(700) + data[-2:],
        data[:2] + thumbnail + data[2:],
        data + data,
        data[:2] + padded + data[2:-2] + b"\x5a" * 16 + data[-2:],
        data[:-2] + bytes(20) + data[-2:] + bytes(3000) + data,
        data[:-2] + b"\1" + data[-2:],
    ):
        path.write_bytes(good)
        assert_reads_like(open_source(path), expected)


@pytest.mark.parametrize(
    ("damage", "options"),
    [
        ("sectors exchanged", {"restart_marker_rows": 1}),
        ("sectors exchanged", {"progressive": True}),
        ("one lost", {"restart_marker_rows": 1}),
        ("one lost", {"progressive": True}),
        ("one lost", {}),
        ("a few bytes more", {}),
    ],
)
def test_jpeg_with_codes_left_over_is_damaged(damage: str, options: dict[str, Any], tmp_path: Path) -> None:
    """What is left of the codes before the next marker, or the end, has made other blocks of all that follow."""
    path = tmp_path / "a.jpg"
    rows, columns = np.mgrid[:480, :640]
    pixels = np.stack([rows // 2 % 256, columns // 3 % 256, (rows * columns // 700) % 256], -1).astype(np.uint8)
    noise = np.random.default_rng(4).integers(0, 12, pixels.shape, np.uint8)
    Image.fromarray(pixels // 2 + noise).save(path, quality=90, **options)
    assert open_source(path).info.size == (480, 640)
    data = path.read_bytes()
    first = len(data) // 3 // 512 * 512
    sectors = data[first : first + 512], data[first + 512 : first + 3 * 512]
    swapped = sectors[1] + sectors[0] if damage == "sectors exchanged" else sectors[1]
    damaged = data[:first] + swapped + data[first + 3 * 512 :]
    path.write_bytes(data[:-2] + b"\1\2\3" * 4 + data[-2:] if damage == "a few bytes more" else damaged)
    with pytest.raises(CorruptTileError, match=r"a\.jpg does not decode whole"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)

def test_progressive_jpeg_without_its_first_scan_is_damaged(tmp_path: Path) -> None:
    """libjpeg decodes what is left, with a warning of another kind."""
    path = tmp_path / "a.jpg"
    rng = np.random.default_rng(7)
    Image.fromarray(rng.integers(0, 255, (64, 96), np.uint8)).save(path, progressive=True)
    whole = path.read_bytes()
    first = whole.index(b"\xff\xda")
    second = whole.index(b"\xff\xc4", first)  # the tables of the next scan
    path.write_bytes(whole[:first] + whole[second:])
    with pytest.raises(CorruptTileError, match=r"does not decode whole \(Inconsistent progression sequence"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


ARITHMETIC = (  # 24 x 24 pixels of noise in YCbCr, by libjpeg-turbo
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNS"
    "Mj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09P"
    "T0//yQARCAAYABgDASIAAhEBAxEB/8wACgAQEAUBEBEF/9oADAMBAAIRAxEAPwDOLeyXS8ykq0LWKtnhqzyeuGcUeSH3qhxhCzLT/fYl"
    "QAoJbe5jF/2caNWz6Tl2VOr46hv4mUUylDPcN8bC5hz6GU+SzAKxBI+Qc7yKIKCpuFHQdHLa0RSppi0y68wgDK2BgzaRjhJfAnHjmpGG"
    "UWQzZIGA8lyOuwM3EtotCkuUYJnhsugqWZN7HbtGLmCAtOqnap1G9bVuEvFIynPUZ5APnO1fEA/9Y6IeLFfI4CjONEgEyRSJ0Z0JYpOI"
    "ZqHX/wAb8QF6dHc6wG956aP0xeEMRXmvYoDTSsfuyJK9uXY+eTD+rvMWWtUXrFYLCFUnTadZkUG+Unx7Zuk3abSWQ7ksKgsJBZRe+jPS"
    "lrCrBi//ADtp2N1GjRfA/9k="
)


def test_jpeg_of_arithmetic_coding_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    whole = base64.b64decode(ARITHMETIC)
    path.write_bytes(whole)
    assert_reads_like(open_source(path), np.asarray(Image.open(path)))
    assert not has_hole(whole, Size(24, 24))
    begin = whole.index(b"\xff\xda")
    for damaged in (
        whole[:-2] + bytes(700) + whole[-2:],  # which an arithmetic code may as well take for its own
        whole[: begin + 60] + bytes(range(1, 60)) + whole[begin + 60 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(CorruptTileError, match=r"a\.jpg does not decode whole"):
            slidewright.convert(path, tmp_path / "out.tif", n_workers=0)
    assert has_hole(whole[:-2] + bytes(700) + whole[-2:], Size(24, 24))


def test_jpeg_of_scans_without_number_is_refused(tmp_path: Path) -> None:
    """192 kB of them took two minutes, at 6,000 x 6,000 pixels."""
    path = tmp_path / "a.jpg"
    Image.fromarray(PIXELS).save(path, progressive=True)
    data = path.read_bytes()
    path.write_bytes(data[:-2] + bytes([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0]) * 120 + data[-2:])
    with pytest.raises(CorruptTileError, match=r"a\.jpg does not decode whole \(1\d\d scans, where 100 are the most"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("damage", ["codes", "scans", "png"])
def test_label_of_which_a_part_is_missing_is_refused(damage: str, tmp_path: Path) -> None:
    """As a source of pixels is, of which Pillow makes up the rest."""
    source, label = tmp_path / "s.npy", tmp_path / ("l.png" if damage == "png" else "l.jpg")
    np.save(source, PIXELS)
    Image.fromarray(PIXELS).save(label)
    slidewright.convert(source, tmp_path / "good.tif", label=label, n_workers=0)
    whole = label.read_bytes()
    more = {"codes": bytes(range(1, 90)), "scans": bytes([0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0]) * 120}
    if damage == "png":
        at = whole.index(b"IDAT") + 40
        label.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    else:
        label.write_bytes(whole[:-2] + more[damage] + whole[-2:])
    with pytest.raises(OptionError, match=r"label .*l\.\w+ does not decode whole"):
        slidewright.convert(source, tmp_path / "out.tif", label=label, n_workers=0)


def test_label_in_a_tiff_of_which_a_part_is_missing_is_refused(tmp_path: Path) -> None:
    source, label = tmp_path / "s.npy", tmp_path / "l.tif"
    np.save(source, PIXELS)
    noise = np.random.default_rng(6).integers(0, 255, (256, 256, 3), np.uint8)
    tifffile.imwrite(label, noise, compression="jpeg", tile=(128, 128), photometric="rgb")
    slidewright.convert(source, tmp_path / "good.tif", label=label, n_workers=0)
    with tifffile.TiffFile(label) as tiff:
        offset = tiff.pages.first.dataoffsets[1]
    with label.open("r+b") as file:
        file.seek(offset + 2000)
        file.write(bytes(1024))
    with pytest.raises(OptionError, match=r"label .*l\.tif: tile at row 0, column 1 is a JPEG with zeros"):
        slidewright.convert(source, tmp_path / "out.tif", label=label, n_workers=0)


FAR_BEHIND = """
import pathlib, sys, slidewright
slidewright.convert(sys.argv[1], sys.argv[2], n_workers=0)
said = pathlib.Path("/proc/self/status").read_text().split()
assert int(said[said.index("VmHWM:") + 1]) < 700_000, "kB"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs files with holes")
@pytest.mark.parametrize("suffix", ["jpg", "png", "jp2", "bmp", "gif"])
def test_what_stands_behind_an_image_is_not_held_in_memory(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(PIXELS).save(path)
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    subprocess.run([sys.executable, "-c", FAR_BEHIND, path, tmp_path / "o.tif"], check=True, timeout=120)


@pytest.mark.skipif(sys.platform != "linux", reason="needs files with holes")
def test_webp_with_much_behind_it_is_refused(tmp_path: Path) -> None:
    """Pillow would read all of it."""
    path = tmp_path / "a.webp"
    Image.fromarray(PIXELS).save(path)
    with path.open("r+b") as file:
        file.truncate(3 << 30)
    with pytest.raises(SourceError, match="bytes stand behind its end"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0)


@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
def test_jpeg2000_of_zeros_to_its_end_is_damaged(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    Image.fromarray(PIXELS).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(CorruptTileError, match=r"a\.j.. does not decode whole"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("where", ["before the pixels", "behind the pixels"])
def test_png_is_upright_wherever_its_exif_stands(where: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)
    data = path.read_bytes()
    at = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[at : at + 4])
    if where == "behind the pixels":
        path.write_bytes(data[:at] + data[at + length : -12] + data[at : at + length] + data[-12:])
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert expected.shape == (130, 90, 3)
    assert_reads_like(open_source(path), expected)


def test_exif_that_makes_no_sense_turns_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    data = path.read_bytes()
    for exif in (b"garbage!", b"II*\0" + bytes(3), b"II*\0\x08\0\0\0\1\0\x12\1\x0b\0\1\0\0\0" + bytes(8)):
        chunk = b"eXIf" + exif
        late = len(exif).to_bytes(4) + chunk + zlib.crc32(chunk).to_bytes(4)
        path.write_bytes(data[:-12] + late + data[-12:])
        assert_reads_like(open_source(path), PIXELS)


def test_image_that_was_replaced_since_it_was_described_is_refused(tmp_path: Path) -> None:
    """By one of the same size and kind, whose pixels a process that opens it late would decode."""
    for name, grey in (("a.png", 10), ("b.png", 99)):
        Image.new("RGB", (64, 48), (grey, grey, grey)).save(tmp_path / name)
    source = image_file.ImageFileSource.at(str(tmp_path / "a.png"))
    source.open().close()
    os.utime(tmp_path / "b.png", (1, 1))
    os.replace(tmp_path / "b.png", tmp_path / "a.png")
    with pytest.raises(SourceError, match="is not the file it was when the run began"):
        source.open()
