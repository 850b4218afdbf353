"""PNG, JPEG, JPEG 2000, WebP, BMP and GIF files, by Pillow: formats whose pixels can't be had in parts. JPEG 2000 is
decoded by imagecodecs where it is of a common kind, as nobody can interrupt Pillow at it.

Apart from `pillow.py`, which takes an image that is open already. A file is decoded once, into an unlinked file that
workers read, so that its pixels are not in the memory of each of them; what decoding itself needs is bounded.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from slidewright.errors import CorruptTileError, SourceError
from slidewright.geometry import Size
from slidewright.sources import png, second_reader
from slidewright.sources.access.shapes import check_dtype
from slidewright.sources.access.unpack import UnpackedSource, unpacked
from slidewright.sources.array import ArraySource
from slidewright.sources.base import Pixels, Reader, Source, SourceInfo, pickled_identity
from slidewright.sources.on_disk import file_identity
from slidewright.sources.pillow import (
    PROFILED,
    PilPixels,
    colormap_of,
    has_transparent_colour,
    kind_of_mode,
    pil_pixels,
)
from slidewright.system.file_identity import seen_as
from slidewright.system.files import regular
from slidewright.system.interrupts import let_through
from slidewright.system.limits import available_memory
from slidewright.tiff.jpeg2000 import too_much
from slidewright.tiff.jpeg_holes import (
    MAX_SCANS,
    damage_of,
    has_hole,
    is_padding,
    number_of_scans,
    without_tail,
)
from slidewright.tiff.metadata import MAX_MPP

_T = TypeVar("_T")
FORMATS = ("PNG", "JPEG", "JPEG2000", "WEBP", "BMP", "GIF")
MAX_BYTES = 2 << 30
"""Decoded bytes of an image that is taken; a larger one is a job for a program that reads it row by row."""
_ROWS = 256
_COLOURS = ("RGB", "RGBA", "LA")
_REMEDY = "it is damaged, or of a sort that Pillow does not know: copy it again, or save it as a TIFF"
_ORIENTATION, _TURNED = 274, (5, 6, 7, 8)  # as in TIFF
_PLAIN = ("1", "L", "P", "I", "F", "I;16", "I;16L", "I;16B", "I;16N", "RGB", "RGBA")
"""Modes that become arrays as they are."""
_MOST_CODES = 16  # bytes of a JPEG for a pixel: 27 bits for each of three coefficients in one pass, less than twice
_SMALL = 64 << 20  # bytes that are always tried
_SIZ, _TO_COMPONENTS = b"\xff\x4f\xff\x51", 40
"""How a codestream of JPEG 2000 begins, and how far from there the number of its components is (ISO 15444-1, A.5.1)."""
_SIGNED, _DEPTH = 0x80, 0x7F  # of a component's bits less one (A.5.1)
_PLAIN_COLOURS = (None, 16, 17, 18)
"""sRGB, grey and sYCC."""
_EOC = b"\xff\xd9"  # the end of a codestream, which is in no codes (ISO 15444-1, A.4.4 and B.10.1)
_HEADER_BYTES = 1 << 16
_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"BM", b"GIF8")
_LOCK = threading.Lock()
_limits: list[tuple[int | None, bool]] = []  # of Pillow, the first as they were before anybody here needed others


def is_image_file(start: bytes) -> bool:
    """Whether a file begins as one of the formats does."""
    return start.startswith(_STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP")


@dataclass(frozen=True, slots=True)
class ImageFileSource(Source):
    """An image file that Pillow decodes."""

    path: str
    info: SourceInfo

    @classmethod
    def at(cls, path: str) -> ImageFileSource:
        """Describe a file by its header; SourceError when it is damaged or too large."""
        seen = seen_as(path)
        with _open(path) as image:
            dtype, samples, kind = kind_of_mode("RGBA" if has_transparent_colour(image) else image.mode)
            _refuse_odd_components(image, path)
            if bits := _grey_bits(image, path):
                dtype = "uint16" if bits > 8 else "uint8"
            left_out = _left_out(image, path)
            size, form = Size(image.height, image.width), str(image.format).lower()
            if _orientation(image) in _TURNED:
                size = Size(size.width, size.height)
            profile = image.info.get("icc_profile") if image.mode in PROFILED else None
        nbytes = size.height * size.width * samples * np.dtype(dtype).itemsize
        if nbytes > MAX_BYTES:
            raise SourceError(
                f"{path}: its {size} pixels would take {nbytes >> 20} MiB, and {form} can't be read in parts; make a "
                "tiled TIFF of it first, for example with vips tiffsave --tile"
            )
        dtype = check_dtype(np.dtype(dtype), path)
        info = SourceInfo(path, form, size, samples, dtype, kind=kind, icc_profile=profile, worker_bytes=0)
        info = replace(info, left_out=left_out, whole_bytes=_bytes_to_decode(image), seen=seen)
        if kind == "labels":
            info = replace(info, colormap=colormap_of(image))
        return cls(path, info)

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {**pickled_identity(self), **file_identity(self.path, self.info.seen)}

    def open(self) -> Reader:
        """Decode it into the memory of this process."""
        return ArraySource(self._pixels(), self.path).open()

    @contextmanager
    def shared(self, folder: str | None = None, *, on_disk: bool = False) -> Iterator[Source]:
        """Decode it into an unlinked file in `folder`, see `Source`."""
        copy = self._unpacked(folder)
        try:
            yield copy
        finally:
            copy.close()

    def _unpacked(self, folder: str | None) -> UnpackedSource:
        pixels = self._pixels()
        return unpacked(self.info, folder, lambda y, rows, plane: pixels[y : y + rows], _ROWS)

    def _pixels(self) -> Pixels:
        seen = seen_as(self.path)
        pixels = _load(self.path).pixels
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        other = self.info.seen is not None and seen not in (None, self.info.seen)
        if other or pixels.shape != self.info.shape or pixels.dtype.name != self.info.dtype:
            raise SourceError(f"{self.path} is not the file it was when the run began; start again")
        return pixels


def _left_out(image: Any, path: str) -> tuple[str, ...]:
    """What a file holds that is not converted, as clauses."""
    found = []
    if image.mode in _COLOURS and _is_wide(image, path):
        found.append("more than the upper 8 bits of its colours, which Pillow leaves out (a TIFF can have 16)")
    dots = image.info.get("dpi")
    mpp = [25_400 / value for value in dots if value > 0] if isinstance(dots, tuple) else []
    if len(mpp) == 2 and max(mpp) <= MAX_MPP:  # coarser ones are nearly always a screen's, or a program's default
        found.append(f"its resolution of {mpp[0]:.4g} x {mpp[1]:.4g} um a pixel (give mpp where it is right)")
    if image.mode == "P" and "transparency" in image.info:
        found.append("which colours of its palette are transparent")
    if image.mode not in ("P", "RGBA") and "transparency" in image.info and not has_transparent_colour(image):
        found.append("which of its greys is transparent")  # of 16 bits, to which Pillow adds no alpha
    try:
        frames = getattr(image, "n_frames", 1)  # which most of Pillow's images have not
    except Exception:  # a GIF is read to its end for them; if that is damaged, its first image need not be
        frames = 1
    if frames > 1:
        found.append(f"its frames after the first of {frames}")
    return tuple(found)


def _is_wide(image: Any, path: str) -> bool:
    """Whether samples have more than 8 bits, which Pillow does not tell: in a PNG by how it unpacks them."""
    if image.format == "PNG":
        return any(";16" in str(tile[3]) for tile in image.tile)
    return any(depth & _DEPTH > 7 for depth, *_ in _components(image, path))


def _orientation(image: Any) -> int:
    """EXIF's Orientation, or XMP's: of a PNG as `_open` knows it, since Pillow would decode the pixels for it."""
    from PIL.Image import Image

    try:
        value = Image.getexif(image).get(_ORIENTATION, 1)
    except Exception as error:  # it is damaged, which the pixels need not be
        let_through(error)
        return 1
    return value if value in range(1, 9) else 1


@contextmanager
def our_limits() -> Iterator[None]:
    """Pillow's own limits, which count for all threads, as they are needed here; the last to leave puts back what the
    caller has made of them.
    """
    from PIL import Image, ImageFile

    with _LOCK:
        _limits.append((Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES))
        Image.MAX_IMAGE_PIXELS = None  # MAX_BYTES is the bound here
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # which would make what is lost grey, and say nothing
    try:
        yield
    finally:
        with _LOCK:
            before = _limits.pop()
            if not _limits:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = before


def _open(path: str) -> Any:
    from PIL import Image

    try:
        with warnings.catch_warnings(), our_limits():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            _check_webp(path)
            image = Image.open(path, formats=FORMATS)
            if image.format == "PNG" and "exif" not in image.info:
                image.info.update({"exif": b"Exif\0\0" + exif} if (exif := png.late_exif(path)) else {})
            return image
    except Exception as error:  # its plugins raise many kinds over a damaged header
        let_through(error)
        raise SourceError(f"{path} can't be read by Pillow ({error}); {_REMEDY}") from error


def _check_webp(path: str) -> None:
    """Refuse a WebP with much behind its end, all of which Pillow would read (RFC 9649, 2.4: its size is in its head).
    """
    with open(path, "rb", opener=regular) as file:
        head, nbytes = file.read(12), os.fstat(file.fileno()).st_size
    tail = nbytes - int.from_bytes(head[4:8], "little")
    if head[8:] == b"WEBP" and tail > _SMALL:
        raise SourceError(f"{tail} bytes stand behind its end")


def _load(path: str) -> PilPixels:
    """Its pixels, upright as its EXIF says."""
    from PIL.Image import Transpose

    turns = (
        *(None, None, Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM),
        *(Transpose.TRANSPOSE, Transpose.ROTATE_270, Transpose.TRANSVERSE, Transpose.ROTATE_90),
    )
    with _open(path) as image:
        _check_memory(image, path)
        turn = turns[_orientation(image)]
        _check_whole(image, path)
        plain = _plain_jpeg2000(image, path)
        if plain is not None:
            return plain if turn is None else replace(plain, pixels=_turned(plain.pixels, turn))
        try:
            with our_limits():
                image.load()
            upright = image if turn is None else image.transpose(turn)
        except Exception as error:
            let_through(error)
            raise CorruptTileError(f"{path} does not decode ({error}); {_REMEDY}") from error
        return pil_pixels(upright, path)


def _turned(pixels: Pixels, turn: Any) -> Pixels:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).transpose(turn))


def check_whole(path: str) -> None:
    """Raise CorruptTileError where a file of one of the formats is not whole; nothing is said of others."""
    with open(path, "rb", opener=regular) as file:
        if not is_image_file(file.read(12)):
            return
    with _open(path) as image:
        _check_whole(image, path)


def _check_memory(image: Any, path: str) -> None:
    needed, limit = _bytes_to_decode(image), available_memory()
    if needed > max(limit.bytes, _SMALL):
        raise SourceError(
            f"{path}: to decode its {image.width} x {image.height} pixels takes some {needed / 1e6:.0f} MB, and "
            f"{limit.source} is {limit.bytes / 1e6:.0f} MB; make a tiled TIFF of it first, which is read in parts"
        )


def _refuse_odd_components(image: Any, path: str) -> None:
    """Raise SourceError for numbers of a JPEG 2000 that Pillow changes, and colours that it lays as no other does."""
    found = _components(image, path)
    if any(depth & _SIGNED or (depth & _DEPTH) > 15 for depth, *_ in found):
        raise SourceError(
            f"{path} has signed samples, or some of more than 16 bits, which are not read right from JPEG 2000; make a "
            "TIFF of it first"
        )
    if len(found) > 2 and (found[0][1:] != (1, 1) or found[1][1:] != found[2][1:]):
        raise SourceError(f"{path} has colours of different size, which no reader lays alike; make a TIFF of it first")


def _grey_bits(image: Any, path: str) -> int:
    """Bits of the samples of a JPEG 2000 that has one, of 8 to 16 bits and no palette, which Pillow would stretch over
    16, or cut to 8; 0 of another image.
    """
    found = _components(image, path)
    depth, *steps = found[0] if len(found) == 1 else (0, 0)
    return depth + 1 if depth > 6 and steps == [1, 1] and image.mode in ("L", "I;16") else 0


def _bytes_to_decode(image: Any) -> int:
    """What Pillow and NumPy take at most until the pixels of an image are in an array: measured over all modes and
    formats (8,000 x 8,000 pixels, Pillow 12), rounded up.
    """
    dtype, samples, _ = kind_of_mode("RGBA" if has_transparent_colour(image) else image.mode)
    out = np.dtype(dtype).itemsize * samples
    plain = image.mode in _PLAIN and not has_transparent_colour(image)
    held = out if samples == 1 and plain else 4
    copies = 1 + (_orientation(image) != 1) + (not plain)
    checked = second_reader.bytes_to_check(image)
    more = {"WEBP": 8, "JPEG2000": 4 * out, "BMP": checked, "GIF": checked}.get(str(image.format), 0)
    return int(image.width * image.height * (held * copies + 2 * (out if plain else held) + more))


def _check_whole(image: Any, path: str) -> None:
    """Refuse a JPEG, JPEG 2000, PNG, BMP or GIF of which a part is missing or something else; Pillow says nothing, and
    makes up the rest.
    """
    match image.format:
        case "JPEG" | "MPO":
            found = _interruptibly(lambda: _jpeg_damage(image, path))
        case "PNG":
            found = png.damage_of(path, image.width, image.height)
        case "BMP":
            found = second_reader.bmp_damage(image, path)
        case "GIF":
            found = second_reader.gif_damage(image, path)
        case "JPEG2000":
            found = _jpeg2000_damage(image, path)
        case _:
            return
    if found:
        raise CorruptTileError(f"{path} does not decode whole ({found}); {_REMEDY}")


def _jpeg_damage(image: Any, path: str) -> str:
    stream = without_tail(_stream(image, path))
    if (scans := number_of_scans(stream)) > MAX_SCANS:
        return f"{scans} scans, where {MAX_SCANS} are the most that are read"
    found = damage_of(stream)
    if has_hole(stream, Size(image.height, image.width)):
        return found or "zeros in the place of a part of it"
    return "" if is_padding(stream, found) else found


def _jpeg2000_damage(image: Any, path: str) -> str:
    stream = _stream(image, path)
    begin = stream.find(_SIZ)
    if begin >= 0 and stream.find(_EOC, begin) < 0:
        return "its codes have no end"
    return too_much(stream)


def _stream(image: Any, path: str) -> bytes:
    """The bytes of a JPEG or JPEG 2000, but for most of what may stand behind its end, such as a whole film."""
    with open(path, "rb", opener=regular) as file:
        return file.read(_SMALL + _MOST_CODES * image.width * image.height)


def _interruptibly(work: Callable[[], _T]) -> _T:
    """What `work` gives, in another thread: no signal is heard during a single call that takes long. Whoever is
    interrupted leaves the thread to itself.
    """
    found: list[_T] = []
    failed: list[BaseException] = []

    def do() -> None:
        try:
            found.append(work())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=do, name="slidewright-decode", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # a limit on processes
        return work()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def _plain_jpeg2000(image: Any, path: str) -> PilPixels | None:
    """The pixels of a JPEG 2000 of the common kind; None for another, or a file of another format.

    Pillow would hold the interpreter meanwhile, for more than a minute at 9,000 x 9,000 pixels, and no signal be heard.
    """
    if image.format != "JPEG2000":
        return None
    dtype, samples, kind = kind_of_mode(image.mode)
    common = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1}
    each, deep = (8 * np.dtype(dtype).itemsize - 1, 1, 1), _grey_bits(image, path)
    as_said = deep or _components(image, path) == [each] * samples
    known = _colours(path) in _PLAIN_COLOURS
    if deep and not known:
        raise CorruptTileError(f"{path} does not decode (it names colours that nobody knows); {_REMEDY}")
    if common.get(image.mode) != samples or not as_said or not known:
        return None
    from imagecodecs import jpeg2k_decode

    try:
        pixels: Pixels = _interruptibly(lambda: jpeg2k_decode(_stream(image, path)))
    except Exception as error:
        let_through(error)
        raise CorruptTileError(f"{path} does not decode ({error}); {_REMEDY}") from error
    return PilPixels(pixels, kind, None, image.info.get("icc_profile") if image.mode in PROFILED else None)


def _colours(path: str) -> int | None:
    """The enumerated colours of a JPEG 2000 (EnumCS, ISO 15444-1 I.5.3.3); None where it has none."""
    with open(path, "rb", opener=regular) as file:
        header = file.read(_HEADER_BYTES)
    box = header.find(b"colr", 0, max(0, header.find(_SIZ)))
    return int.from_bytes(header[box + 7 : box + 11], "big") if box >= 0 and header[box + 4] == 1 else None


def _components(image: Any, path: str) -> list[tuple[int, int, int]]:
    """Of a JPEG 2000 each component's bits less one (128 more where they are signed), and how many pixels one of its
    samples stands for across and down; nothing where its header is not found, or of another format.
    """
    if image.format != "JPEG2000":
        return []
    with open(path, "rb", opener=regular) as file:
        header = file.read(_HEADER_BYTES)
    begin = header.find(_SIZ)
    places = header[begin + _TO_COMPONENTS :] if begin >= 0 else b""
    count = int.from_bytes(places[:2], "big")
    return [(places[at], places[at + 1], places[at + 2]) for at in range(2, 2 + 3 * count, 3) if at + 2 < len(places)]
