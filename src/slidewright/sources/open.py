"""From what was given to a `Source`: which module knows it. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slidewright.errors import OptionError, SlidewrightError, SourceError
from slidewright.selection import Selection
from slidewright.sources.base import Source, SourceInfo
from slidewright.system.file_identity import is_descriptor, without_descriptor
from slidewright.system.files import regular
from slidewright.system.remote_file import absolute, is_store, is_url, open_pixels
from slidewright.tiff.directories import starts_as_tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.tiff.slide import TiffSlide

FILES = (
    "slidewright reads TIFF, SVS, OME-TIFF, zarr, .npy, PNG, JPEG, JPEG 2000, WebP and BMP, and with "
    "slidewright[openslide] NDPI, MRXS, SCN, VMS and BIF, and with slidewright[dicom] DICOM"
)
OBJECTS = (
    "slidewright takes paths, NumPy arrays, zarr arrays and groups, Pillow images, and with shape=(height, width) "
    "datasets of tiles and functions of (y, x, height, width)"
)
_OPENSLIDE_ONLY = {".mrxs", ".vms", ".vmu", ".svslide", ".dcm", ".czi"}
_OPENSLIDE_BETTER = ("ndpi", "scn", "bif", "trestle", "aperio-ycbcr")
"""Huge or overlapping tiles, several regions, colours."""
_LAID = {"scn": "leica", "bif": "ventana", "trestle": "trestle"}
"""Formats whose tiles or regions only OpenSlide puts in their places, and what it calls them."""
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs")


def open_source(
    obj: Any,
    *,
    page: int | None = None,
    series: int | None = None,
    level: int | None = None,
    z: int | str | None = None,
    t: int | str | None = None,
    axes: str | None = None,
    region: tuple[int, int, int, int] | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: Any = None,
) -> Source:
    """Describe anything that slidewright can read.

    Parameters
    ----------
    obj
        A path of a TIFF, SVS, zarr, `.npy` or OpenSlide file; a NumPy array, or what gives one (`__array__`); a Pillow
        image; a zarr array or group; a map-style dataset of tiles; a function of (y, x, height, width); or a `Source`,
        which is given back as it is.
    page
        Of a TIFF: the number of the page to read, instead of series and level.
    series
        Of a TIFF, or of a zarr group made by bioformats2raw: the number of the series; by default the largest of a
        TIFF, the first of a group.
    level
        Of a pyramid: the level to read, 0 by default.
    z, t
        Of a TIFF or zarr source that is a stack: which plane, and which time; several by "first:end", such as "2:5", or
        "all".
    axes
        Of an array, `.npy` file or zarr array that does not name its axes: a letter each, such as "tczyx".
    region
        Only this part: (x, y, width, height) in pixels of the level that is read.
    shape
        Of a dataset or function: (height, width[, samples]) of the image. dlup's datasets know it themselves.
    dtype
        Of a dataset or function: the dtype of its pixels; by default that of a first tile.

    Raises
    ------
    SourceError
        When it is missing, damaged or of a kind that can't be read; the message says what is supported.
    OptionError
        When page, series, level, shape or dtype make no sense for it.
    """
    selection = Selection(page, series, level, z, t, axes, region)
    source = _opened(obj, selection, shape, dtype)
    if selection.region is None:
        return source
    from slidewright.sources.wrappers.region import region_of

    return region_of(source, selection.region)


def open_all(obj: Any, level: int | None = None) -> Source:
    """Everything of a source: of a stack all planes and times."""
    try:
        return open_source(obj, level=level, z="all", t="all")
    except OptionError:  # it has no such axes
        return open_source(obj, level=level)


def _opened(obj: Any, selection: Selection, shape: tuple[int, ...] | None, dtype: Any) -> Source:
    """The whole source."""
    if isinstance(obj, (str, os.PathLike)):
        _refuse("a file", shape=shape, dtype=dtype)
        return _from_path(os.fspath(obj), selection)
    if _is_zarr(obj):
        from slidewright.sources.zarr import ZarrSource

        _refuse("a zarr object", page=selection.page, shape=shape, dtype=dtype)
        return ZarrSource.of(obj, selection)
    if isinstance(obj, Source) or _is_like_a_source(obj):
        _refuse("a source that is already described", **selection.place, shape=shape, dtype=dtype)
        from slidewright.sources.wrappers.pickled import own_source

        return own_source(obj)
    source = _from_memory(obj, selection)
    if source is not None:
        _refuse("an image in memory", **_other(selection), shape=shape, dtype=dtype)
        return source
    _refuse("a dataset or function", **selection.place)
    return _from_caller(obj, shape, dtype)


def _from_path(path: str | bytes, selection: Selection) -> Source:
    path = without_descriptor(absolute(os.fsdecode(path)))
    if is_url(path):
        return _from_url(path, selection)
    if not os.path.exists(path):
        raise SourceError(f"{path} does not exist; check the path")
    if os.path.isdir(path) or path.lower().endswith(".zarr.zip"):
        if not path.lower().endswith(".zip") and not any(
            os.path.exists(os.path.join(path, name)) for name in _ZARR_FILES
        ):
            return _from_folder(path, selection)
        from slidewright.sources.zarr import ZarrSource

        if not os.path.isdir(path):
            _first_bytes(path)  # a regular file
        _refuse("a zarr store", page=selection.page)
        return ZarrSource.at(path, selection)
    start = _first_bytes(path)
    if is_descriptor(path):
        _refuse_nameless(path, start)
    if start.startswith(b"\x93NUMPY"):
        from slidewright.sources.array import NpySource

        _refuse("a .npy file", **_other(selection))
        return NpySource.at(path, selection)
    if starts_as_tiff(start):
        return _from_tiff(path, selection)
    if start[128:] == b"DICM":
        return _from_dicom(path, selection)
    from slidewright.sources.image_file import ImageFileSource, is_image_file

    vendors = Path(path).suffix.lower() in _OPENSLIDE_ONLY or _openslide_knows(path)
    if is_image_file(start) and not vendors:
        _refuse("an image file", **selection.place)
        return ImageFileSource.at(path)
    if vendors:
        return _from_openslide(path, selection)
    raise SourceError(f"{path} is not an image of a known format; {FILES}")


def _refuse_nameless(path: str, start: bytes) -> None:
    """Refuse a file that one process alone has open, but for what is decoded in that process."""
    from slidewright.sources.image_file import is_image_file

    if not is_image_file(start):
        raise SourceError(f"{path} is a file without a name, which other processes can't open; save it to a disk first")


def _from_folder(path: str, selection: Selection) -> Source:
    """A folder that is no zarr: the files of a slide in DICOM."""
    from slidewright.sources.dicom_files import first_dicom

    if first_dicom(path) is None:
        raise SourceError(
            f"{path} is a folder, but not a zarr array or group, nor of DICOM files; for a folder of slides use batch"
        )
    return _from_dicom(path, selection)


def _from_dicom(path: str, selection: Selection) -> Source:
    """DICOM by our own reader, which hands out frames and knows more colours; else by OpenSlide, if that can."""
    from slidewright.sources.dicom_files import first_dicom, no_pydicom

    if find_spec("pydicom") is None:
        file = first_dicom(path) if os.path.isdir(path) else path
        if file is None or not _openslide_knows(file):
            raise no_pydicom(path)
        return _from_openslide(file, selection)
    from slidewright.sources.dicom import DicomSource

    _refuse("a slide in DICOM", **{**selection.place, "level": None, "z": None})
    return DicomSource.at(path, selection)


def _from_url(url: str, selection: Selection) -> Source:
    if is_store(url):
        from slidewright.sources.zarr import ZarrSource

        _refuse("a zarr store", page=selection.page)
        return ZarrSource.at(url, selection)
    with contextlib.closing(open_pixels(url)) as file:
        start = file.read(0, 16)
    if starts_as_tiff(start):
        return _from_tiff(url, selection)
    raise _not_from_afar(url)


def _not_from_afar(url: str) -> SourceError:
    return SourceError(f"{url} is neither a TIFF that can be read from afar nor a zarr store; download it first")


def _first_bytes(path: str) -> bytes:
    if not os.path.isfile(path):
        raise SourceError(
            f"{path} is not a regular file; sources are read in no fixed order, so save it to a disk first"
        )
    try:
        with open(path, "rb", opener=regular) as file:
            start = file.read(132)
    except OSError as error:
        raise SourceError(f"{path} can't be opened: {error.strerror or error}") from error
    if not start:
        raise SourceError(f"{path} is empty; copy it again")
    return start


def _from_tiff(path: str, selection: Selection) -> Source:
    from slidewright.sources.tiff import TiffSource, opened, vendor_of

    whole = selection.page is None and selection.series is None
    if whole:
        _refuse_index(path)
    with opened(path) as slide:  # once: reading the directories of a small slide takes as long as a tenth of its pixels
        vendor = vendor_of(slide) if whole else ""
        if is_url(path) and vendor in _OPENSLIDE_BETTER:
            raise _not_from_afar(path)
        if vendor == "ndpi" and (striped := _from_ndpi(slide, selection)) is not None:
            return striped
        kind = _openslide_kind(path) if vendor in _OPENSLIDE_BETTER else None
        if vendor in _LAID and kind != _LAID[vendor] and _has_openslide():
            raise SourceError(
                f"{path} is a slide of kind {vendor}, whose metadata OpenSlide does not understand, and without them "
                "its tiles would lie in wrong places; the file may be damaged: copy it again, or read one page (page)"
            )
        if kind is not None:
            left_out = ""
            with contextlib.suppress(SlidewrightError):  # what is damaged for us need not be for OpenSlide
                if vendor == "ndpi" and slide.focal_planes > 1:
                    left_out = f"{slide.focal_planes - 1} more focal planes (z chooses one)"
            return _from_openslide(path, selection, left_out)
        source = TiffSource.of(slide, selection)
        page = slide.image(source.selection).pages[0]
    given: Source = source
    grid = source.info.tile
    if grid is not None and grid.width >= source.info.size.width:
        from slidewright.sources.access.unpack import unpacked_first

        given = unpacked_first(source, compressed_strips=not page.tiled and page.raw_order is None)
    if page.orientation == 1:
        return given
    from slidewright.sources.wrappers.orient import upright

    return upright(given, page.orientation)


def _from_ndpi(slide: TiffSlide, selection: Selection) -> Source | None:
    """Its stripes joined to tiles; None where they can't be: then OpenSlide reads it, or else our reader of strips."""
    from slidewright.sources.ndpi import ndpi_source

    try:
        return ndpi_source(slide, selection)
    except SourceError:
        if not _openslide_knows(slide.path):
            raise
        return None


def _refuse_index(path: str) -> None:
    """Refuse a TIFF that has only a preview of what lies in files beside it: CellSens' .vsi, whose image is in .ets."""
    folder = os.path.join(os.path.dirname(path), f"_{Path(path).stem}_")
    if Path(path).suffix.lower() == ".vsi" or any(Path(folder).glob("stack*/frame*.ets")):
        raise SourceError(
            f"{path} has only a preview of a CellSens slide, whose image is in the .ets files of {folder!r}: slideio, "
            "bioio-vsi and Bio-Formats read it (how to convert with slideio: the documentation, sources); the preview "
            "itself is page 0"
        )


def _from_openslide(path: str, selection: Selection, left_out: str = "") -> Source:
    if not _has_openslide():
        raise SourceError(f"{path} needs OpenSlide to be read; install it with: pip install 'slidewright[openslide]'")
    from slidewright.sources.openslide import OpenSlideSource

    level = selection.level or 0
    _refuse("a slide that OpenSlide reads", **{**selection.place, "level": None})
    source = OpenSlideSource.at(path, level=level)
    return replace(source, info=replace(source.info, left_out=(left_out,))) if left_out else source


def _other(selection: Selection) -> dict[str, int | str]:
    """What was selected besides planes of an array."""
    return {name: value for name, value in selection.place.items() if name not in ("z", "t", "axes")}


def _from_memory(obj: Any, selection: Selection) -> Source | None:
    """A source of an array, a Pillow image, or anything that makes an array of itself; None for other objects."""
    import numpy as np

    if isinstance(obj, np.ndarray):
        return _from_array(obj, selection)
    pillow = sys.modules.get("PIL.Image")  # who has such an image has imported it
    if pillow is not None and isinstance(obj, pillow.Image):
        from slidewright.sources.pillow import pil_source

        _refuse("a Pillow image", **selection.place)
        return pil_source(obj)
    from slidewright.sources.access.shapes import as_array, axis_letter, makes_array

    if not makes_array(obj):
        return None
    name = type(obj).__name__
    if hasattr(obj, "__dask_graph__"):
        raise SourceError(f"a dask {name} would have to fit in memory; store it first, for example with to_zarr()")
    letters = "".join(axis_letter(str(one)) for one in getattr(obj, "dims", None) or ())  # xarray's
    if selection.axes is None and {"y", "x"} <= {*letters} <= {*"tczyx"} and len({*letters}) == len(letters):
        selection = replace(selection, axes=letters)
    return _from_array(as_array(obj, f"the {name}"), selection, name)


def _from_array(array: NDArray[Any], selection: Selection, name: str = "NumPy array") -> Source:
    import numpy as np

    from slidewright.sources.access.shapes import masks_left_out
    from slidewright.sources.array import ArraySource, NpySource

    if isinstance(array, np.memmap):
        mapped = NpySource.of(array, selection=selection)
        if mapped is not None:
            return mapped
    plain = np.asarray(array)  # a masked array, or a np.matrix, has rules of its own
    return ArraySource(plain, name, selection, left_out=masks_left_out(array))


def _from_caller(obj: Any, shape: Any, dtype: Any) -> Source:
    """A source of a dataset or a function."""
    from slidewright.sources.access.shapes import option_dtype, option_shape

    known = option_shape(shape) if shape is not None else None
    name = option_dtype(dtype) if dtype is not None else None
    if _is_dataset(obj):
        from slidewright.sources.dataset import DatasetSource

        return DatasetSource.of(obj, known, name)
    if callable(obj):
        from slidewright.sources.function import FunctionSource

        if known is None:
            raise OptionError("a function does not say how large its image is; give shape=(height, width)")
        return FunctionSource.of(obj, known, name)
    if isinstance(obj, (bytes, bytearray, memoryview)) or hasattr(obj, "read"):
        raise SourceError(
            f"a {type(obj).__name__} can't be read as an image; save it and give the path of the file, or give its "
            f"pixels as a NumPy array; {OBJECTS}"
        )
    if hasattr(obj, "__next__") or (hasattr(obj, "__iter__") and not isinstance(obj, Mapping)):
        raise SourceError(f"a {type(obj).__name__} gives tiles in its own order; write them with PyramidWriter.write")
    raise SourceError(f"an object of type {type(obj).__name__} is not an image that can be read; {OBJECTS}")


def _is_dataset(obj: Any) -> bool:
    """Whether it is indexed by number: sequences, and classes of the caller's, which say so by their methods only."""
    kind = type(obj)
    if isinstance(obj, (bytes, bytearray, memoryview, Mapping)):
        return False
    return hasattr(kind, "__len__") and hasattr(kind, "__getitem__")


def _is_like_a_source(obj: Any) -> bool:
    """Whether an object of the caller's is a source in all but its class."""
    return isinstance(getattr(obj, "info", None), SourceInfo) and callable(getattr(obj, "open", None))


def _is_zarr(obj: Any) -> bool:
    if "zarr" not in sys.modules:  # who has a zarr object has imported zarr
        return False
    import zarr

    return isinstance(obj, (zarr.Array, zarr.Group))


def _has_openslide() -> bool:
    return find_spec("openslide") is not None


def _openslide_knows(path: str) -> bool:
    return _openslide_kind(path) is not None


def _openslide_kind(path: str) -> str | None:
    """The format that OpenSlide takes a file for; None where it knows none."""
    if not _has_openslide():
        return None
    try:
        import openslide

        kind: str | None = openslide.OpenSlide.detect_format(path)
        return kind
    except Exception:  # a broken installation, or a file that it can't open
        return None


def _refuse(what: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise OptionError(f"{name} {value} has no meaning for {what}; leave it out")
