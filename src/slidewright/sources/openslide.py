"""Slides of scanner vendors, read by OpenSlide (extra `[openslide]`): NDPI, MRXS, SCN, VMS, BIF, DICOM and others.

OpenSlide's pixels carry an alpha channel for what was never scanned; here it is composed on the slide's background
colour.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from slidewright.errors import CorruptTileError, OptionError, SourceError, numbered
from slidewright.geometry import Size, reduction
from slidewright.metadata import Metadata, fields_of
from slidewright.sources.access.held_files import HeldFiles
from slidewright.sources.base import (
    Pixels,
    Reader,
    Source,
    SourceInfo,
    check_associated,
    no_associated,
    pickled_identity,
)
from slidewright.sources.on_disk import companions, file_identity, seen_beside
from slidewright.sources.wrappers.alpha import compose
from slidewright.system.file_identity import seen_as
from slidewright.system.interrupts import let_through

_PIECE = 1024  # RGBA, Pillow and NumPy copies of a piece are alive at once: 12 MB
_CACHE_BYTES = 24_000_000
_WHITE = (255, 255, 255)
_KEPT = {
    "scanner_vendor": ("philips.DICOM_MANUFACTURER", "tiff.Make", "dicom.Manufacturer"),
    "scanner_model": (
        *("philips.DICOM_MANUFACTURERS_MODEL_NAME", "leica.device-model", "ventana.ScannerModel", "tiff.Model"),
        *("dicom.ManufacturerModelName", "hamamatsu.Product"),
    ),
    "scanner_software": ("philips.DICOM_SOFTWARE_VERSIONS", "leica.device-version", "tiff.Software"),
}
"""Where vendors say what may be kept."""
_IDENTIFYING = re.compile(
    r"user|operator|patient|name$|date|time|barcode|case|label|file|serial|comment|description|artist|computer|slide_?id"
    r"|imageid|scanscope",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class OpenSlideSource(Source):
    """One level of a slide that OpenSlide reads."""

    path: str
    level: int
    info: SourceInfo
    parts: tuple[tuple[str, int, int], ...] = ()
    """`seen_beside` of the slide before it was looked at."""

    @classmethod
    def at(cls, path: str, level: int = 0) -> OpenSlideSource:
        """Describe a level of a slide.

        Raises
        ------
        SourceError
            When OpenSlide can't be loaded or can't open the file.
        OptionError
            When there is no such level.
        """
        seen, parts = seen_as(path), seen_beside(path)
        slide = _open(path)
        try:
            if not 0 <= level < slide.level_count:
                raise OptionError(f"{path} has no level {level}; {numbered(slide.level_count)}")
            return cls(path, level, replace(_describe(slide, path, level), seen=seen), parts)
        finally:
            slide.close()

    @property
    def beside(self) -> tuple[str, ...]:
        """See `Source`; found here, since OpenSlide does not tell."""
        return companions(self.path)

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {**pickled_identity(replace(self, parts=())), **file_identity(self.path, self.info.seen)}

    def open(self) -> OpenSlideReader:
        """Open the slide in this process."""
        return OpenSlideReader(self)

    def associated_image(self, name: str) -> Pixels:
        """See `Source`."""
        import openslide

        slide = _open(self.path)
        try:
            if name not in list(slide.associated_images):  # a mapping would decode the image to know
                raise no_associated(self.info, name)
            sides = [slide.properties.get(f"openslide.associated.{name}.{side}") for side in ("height", "width")]
            if None not in sides:  # which OpenSlide before 4.0 does not tell
                check_associated(self.path, name, (int(sides[0]), int(sides[1])))
            rgba = np.asarray(slide.associated_images[name])
        except openslide.OpenSlideError as error:
            raise SourceError(f"{self.path}: its {name} can't be decoded by OpenSlide ({error})") from error
        finally:
            slide.close()
        pixels = np.empty((*rgba.shape[:2], 3), np.uint8)
        compose(rgba, _WHITE, pixels)
        return pixels


class OpenSlideReader(Reader):
    """Reads regions of one level of a slide, of which OpenSlide opens some kinds by name at each tile."""

    def __init__(self, source: OpenSlideSource) -> None:
        self._path, self._level = source.path, source.level
        self._background = source.info.background or _WHITE
        self._files = HeldFiles(source.path, source.info.seen, source.parts)
        self._slide: Any = None
        try:
            slide = self._open()
            self._files.check()
            if slide.level_dimensions[self._level] != (source.info.size.width, source.info.size.height):
                raise SourceError(f"{self._path} is not the file it was when the run began; start again")
            self._scale = float(slide.level_downsamples[self._level])
        except BaseException:
            self.close()
            raise

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        answer = out[:height, :width]
        if out.shape[2] != 3:  # one colour as a channel of its own
            answer[...] = self.read(y, x, height, width, np.empty((height, width, 3), np.uint8))[
                :, :, plane : plane + out.shape[2]
            ]
            return answer
        for top in range(0, height, _PIECE):
            for left in range(0, width, _PIECE):
                piece = answer[top : top + _PIECE, left : left + _PIECE]
                self._piece(y + top, x + left, piece)
        return answer

    def close(self) -> None:
        """Close the slide; may be called twice."""
        if self._slide is not None:
            self._slide.close()
            self._slide = None
        self._files.close()

    def _open(self) -> Any:
        self._slide = slide = _open(self._files.path, self._files)
        import openslide

        slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        return slide

    def _piece(self, y: int, x: int, out: Pixels) -> None:
        if self._slide is None:
            raise SourceError(f"{self._path} was closed")
        self._files.check()
        corner = (round(x * self._scale), round(y * self._scale))  # OpenSlide takes the corner in pixels of level 0
        try:
            rgba = np.asarray(self._slide.read_region(corner, self._level, (out.shape[1], out.shape[0])))
        except MemoryError:
            raise
        except Exception as error:
            let_through(error)
            self._files.check(strict=True)
            self._slide.close()  # after an error OpenSlide has the same for whatever it is asked
            self._slide = None  # where it does not open again
            self._open()
            raise CorruptTileError(
                f"{self._path}: OpenSlide can't read {out.shape[1]} x {out.shape[0]} pixels at x={x}, y={y} of "
                f"level {self._level} "
                f"({self._files.named(str(error))}); the file is damaged, copy it again"
            ) from error
        self._files.check()
        compose(rgba, self._background, out)


def _open(path: str, files: HeldFiles | None = None) -> Any:
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise SourceError(
            f"{path} needs OpenSlide ({error}); install it with: pip install 'slidewright[openslide]'"
        ) from error
    try:
        return openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        said, path = (text if files is None else files.named(text) for text in (str(error), path))
        raise SourceError(f"{path} can't be opened by OpenSlide ({said}); {_remedy(path, said)}") from error


def _remedy(path: str, error: str) -> str:
    """What may help: only some formats lie in several files."""
    suffix = os.path.splitext(path)[1].lower()
    if "hotometric" in error or "ransfer syntax" in error:
        return "its pixels are stored in a way that OpenSlide does not know; wsidicom may, which writes another DICOM"
    if suffix in (".mrxs", ".vms", ".vmu", ".dcm"):
        return "check that its companion files are beside it"
    return "the file may be damaged: copy it again"


def _describe(slide: Any, path: str, level: int) -> SourceInfo:
    width, height = slide.level_dimensions[level]
    full_width, full_height = slide.dimensions
    if width <= 0 or height <= 0:
        raise SourceError(f"{path}: level {level} has no pixel")
    properties = slide.properties
    mpp = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    tile = [_number(properties.get(f"openslide.level[{level}].tile-{side}")) for side in ("height", "width")]
    try:
        profile = slide.color_profile
    except Exception:  # lcms can't read it
        profile = None
    return SourceInfo(
        name=path,
        format=str(properties.get("openslide.vendor", "openslide")),
        size=Size(height, width),
        samples=3,
        dtype="uint8",
        mpp=(mpp[0] * (full_width / width), mpp[1] * (full_height / height)) if mpp[0] and mpp[1] else None,
        tile=Size(int(tile[0]), int(tile[1])) if tile[0] and tile[1] else None,
        icc_profile=profile.tobytes() if profile is not None else None,
        description=properties.get("openslide.comment"),
        metadata=replace(_metadata(properties), reduction=reduction(slide.dimensions[0], width)),
        background=_colour(properties.get("openslide.background-color")),
        associated=tuple(sorted(slide.associated_images)),
    )


def _metadata(properties: Mapping[str, str]) -> Metadata:
    """What may be kept; of the rest, the fields whose names say that they may identify."""
    known: dict[str, Any] = {
        field: next((properties[name] for name in names if properties.get(name)), None)
        for field, names in _KEPT.items()
    }
    vendor = known["scanner_vendor"] or properties.get("openslide.vendor")
    identifying = {name: value for name, value in properties.items() if _IDENTIFYING.search(name.rpartition(".")[2])}
    return Metadata(
        **{**known, "scanner_vendor": vendor},
        objective_power=_number(properties.get("openslide.objective-power")),
        background=_colour(properties.get("openslide.background-color")),
        identifying=fields_of(identifying),
    )


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < 1e9 else None


def _colour(text: str | None) -> tuple[int, int, int] | None:
    """OpenSlide's six hexadecimal digits, RRGGBB."""
    try:
        red, green, blue = bytes.fromhex((text or "").lstrip("#"))
    except ValueError:
        return None
    return red, green, blue
