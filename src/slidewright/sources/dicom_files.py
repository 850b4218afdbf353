"""The files of a DICOM whole slide image (extra `[dicom]`): which of them belong together, where each frame lies in
them, and which tile it is.

Apart from `dicom.py`, which decides what the pixels are. pydicom reads the headers; pixel data is only looked at here,
so that workers need the numbers that come out and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from slidewright.errors import OptionError, SourceError, numbered
from slidewright.geometry import Size
from slidewright.sources.access.dicom_places import Place, quick_places, slow_places
from slidewright.system.files import regular
from slidewright.system.pixel_file import PixelFile

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""The SOP class VL Whole Slide Microscopy Image."""
ASSOCIATED = {"LABEL": "label", "OVERVIEW": "macro", "THUMBNAIL": "thumbnail"}
"""The third value of ImageType (PS3.3, C.8.12.4.1.1) and our name of the image; the levels are "VOLUME"."""
_START = 128
_DEFER = 1 << 28  # no element of a header is larger; one that says so is not read
_MAX_TILES, _FEW_TILES = 1 << 24, 1 << 12
_MOST_EMPTY = 256  # places for each frame that there is; a slide of which less was scanned is a damaged one
ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_SAME = (
    *("TotalPixelMatrixRows", "TotalPixelMatrixColumns", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated"),
    *("BitsStored", "PixelRepresentation", "PhotometricInterpretation", "PlanarConfiguration"),
)
_CODESTREAMS = (b"\xff\xd8", b"\xff\x4f")
_WANTED = (
    *("SOPClassUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixRows", "TotalPixelMatrixColumns", "Rows"),
    *("Columns", "ConcatenationUID", "ConcatenationFrameOffsetNumber", "InConcatenationTotalNumber"),
)


@dataclass(frozen=True, slots=True)
class Part:
    """One file: an instance, or a part of a concatenation."""

    path: str
    series: str
    flavour: str
    """"VOLUME", or a key of `ASSOCIATED`."""
    size: Size
    instance: str
    """What all parts of an instance have in common."""
    first_frame: int
    parts: int
    """How many files the instance has."""
    reduced: bool
    """Whether it was made of a larger image (RESAMPLED, PS3.3, C.8.12.4.1.1)."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """Where the tiles of an image lie: for each its file, the first byte and how many; row by row."""

    files: tuple[str, ...]
    seen: tuple[tuple[int, int], ...]
    """Bytes of each file and its time of change (ns) before it was read."""
    file: NDArray[np.int32]
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    """0 for a tile that is not there."""
    encapsulated: bool
    """Whether the bytes are items of fragments, and not the pixels themselves."""


def is_dicom(path: str) -> bool:
    """Whether a file begins as DICOM's do."""
    try:
        with open(path, "rb", opener=regular) as file:
            return file.read(_START + 4)[_START:] == b"DICM"
    except OSError:
        return False


def _is_blank(path: str) -> bool:
    """Whether a file has the name of DICOM and nothing else of it: a copy that has not come far, or lost its bytes."""
    if not path.lower().endswith(".dcm"):
        return False
    with open(path, "rb", opener=regular) as file:
        return not file.read(_START + 4).strip(b"\0")


def first_dicom(folder: str) -> str | None:
    """The first DICOM file of a folder, by name."""
    return next((path for path in _files(folder) if is_dicom(path)), None)


def _files(folder: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        yield from sorted(entry.path for entry in entries if entry.is_file())


def slide_parts(path: str) -> list[Part]:
    """The files of one slide: those in a folder, or those beside a file that have its series. In a folder none may be
    damaged: it could be the largest level, and the next one is no image of the same size.

    Raises
    ------
    SourceError
        When there is no whole slide image, or a folder has several.
    """
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    parts = [part for file in _files(folder) for part in _part(file, path in (file, folder))]
    if folder != path:
        own = next((part.series for part in parts if part.path == path), None)
        if own is None:
            raise SourceError(f"{path} is DICOM, but no whole slide image; convert what it is with pydicom")
        parts = [part for part in parts if part.series == own]
    levels = [part for part in parts if part.flavour == "VOLUME"]
    slides = {part.series: part for part in reversed(levels)}
    if not levels:
        raise SourceError(f"{path} has no level of a whole slide image (ImageType VOLUME) in DICOM; check the folder")
    if len(slides) > 1:
        some = ", ".join(sorted(os.path.basename(part.path) for part in slides.values())[:3])
        raise SourceError(f"{path} holds {len(slides)} slides in DICOM; give a file of the one that is meant: {some}")
    return [part for part in parts if part.series in slides]  # a label of another slide's, whose levels are to come


def _part(path: str, asked_for: bool) -> Iterator[Part]:
    """What a file is, if it is of a whole slide image; one that is not asked for may be damaged."""
    try:
        if not is_dicom(path):
            if asked_for and _is_blank(path):
                raise damaged(path, "there is none")
            return
        header, end, *_ = read_header(path, _WANTED)
        stated = header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID", WHOLE_SLIDE)
        if stated == WHOLE_SLIDE:
            if end >= os.path.getsize(path):
                raise damaged(path, "it ends before its pixels")
            yield _described(path, header)
    except SourceError:
        if asked_for:
            raise
    except Exception as error:  # values are read when they are asked for
        if asked_for:
            raise damaged(path, error) from error


def _described(path: str, header: Any) -> Part:
    kinds = [str(kind) for kind in header.get("ImageType") or ()]
    flavour = next((kind for kind in kinds[2:] if kind in ASSOCIATED), "VOLUME")
    tall, wide = header.get("TotalPixelMatrixRows"), header.get("TotalPixelMatrixColumns")
    if (tall is None) != (wide is None):
        raise damaged(path, "it says how high or how wide its image is, and not both")
    size = Size(int(tall or header.get("Rows") or 0), int(wide or header.get("Columns") or 0))
    if not size.height or not size.width:
        raise damaged(path, "it does not say how large its image is")
    return Part(
        path,
        str(header.get("SeriesInstanceUID", "")),
        flavour,
        size,
        str(header.get("ConcatenationUID") or path),
        int(header.get("ConcatenationFrameOffsetNumber") or 0),
        int(header.get("InConcatenationTotalNumber") or 1),
        "RESAMPLED" in kinds[3:],
    )


def instances(parts: Sequence[Part], flavour: str) -> list[list[Part]]:
    """The images of one kind, the largest first, each with its files in order.

    Raises
    ------
    SourceError
        When a part of a concatenation is missing.
    """
    found: dict[str, list[Part]] = {}
    for part in parts:
        if part.flavour == flavour:
            found.setdefault(part.instance, []).append(part)
    for files in found.values():
        files.sort(key=lambda part: part.first_frame)
        if len(files) < files[0].parts:
            raise SourceError(
                f"{files[0].path} is one of {files[0].parts} files of an image, of which {len(files)} are there; "
                "check that all are in its folder"
            )
    return sorted(found.values(), key=lambda files: -files[0].size.height * files[0].size.width)


class Header(NamedTuple):
    """What a file says before its pixels."""

    dataset: Any
    """pydicom's; without what is said of each frame, where that was read the quick way."""
    start: int
    """The byte at which the element of the pixels begins."""
    places: list[Place] | None
    """Where each frame lies, of a file that states it (TILED_SPARSE)."""
    seen: tuple[int, int]
    """Bytes of the file and its time of change (ns) before it was read."""


def read_header(path: str, wanted: Sequence[str] | None = None) -> Header:
    """The header of a file; of `wanted` elements alone, which must come before those of each frame.

    Raises
    ------
    SourceError
        When it can't be read, or pydicom is not installed.
    """
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_dataset, read_partial
        from pydicom.tag import BaseTag, Tag
    except ImportError as error:
        raise no_pydicom(path) from error
    try:
        with open(path, "rb", opener=regular) as file:
            status = os.fstat(file.fileno())
            seen = (status.st_size, status.st_mtime_ns)
            tags: list[BaseTag | int] | None = None if wanted is None else [Tag(name) for name in wanted]
            dataset = read_partial(file, _before_frames, defer_size=_DEFER, specific_tags=tags)
            if wanted is not None:
                return Header(dataset, file.tell(), None, seen)
            found = quick_places(file, dataset)
            if found is not None:
                places, start = found
                file.seek(start)
                syntax = dataset.file_meta.TransferSyntaxUID
                dataset.update(read_dataset(file, syntax.is_implicit_VR, True, stop_when=_before_pixels))
                return Header(dataset, file.tell(), places, seen)
            file.seek(0)
            dataset = dcmread(file, stop_before_pixels=True, defer_size=_DEFER)
            return Header(dataset, file.tell(), slow_places(dataset), seen)
    except OSError as error:
        raise SourceError(f"{path} can't be read: {error.strerror or error}") from error
    except Exception as error:  # pydicom raises many kinds over a damaged header
        raise damaged(path, error) from error


def _before_frames(tag: int, vr: str | None, length: int) -> bool:
    return tag >= 0x5200_9230


def _before_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag in (0x7FE0_0008, 0x7FE0_0009, 0x7FE0_0010)


def no_pydicom(path: str) -> SourceError:
    """The error about what only the extra reads."""
    return SourceError(f"{path} needs pydicom to be read; install it with: pip install 'slidewright[dicom]'")


def damaged(path: str, error: object) -> SourceError:
    """The error about a header that makes no sense."""
    return SourceError(f"{path}: its DICOM header can't be read ({error}); the file is damaged, copy it again")


def frame_table(parts: Sequence[Part], headers: Sequence[Header], z: int | None) -> FrameTable:
    """Where each tile of an image lies.

    Raises
    ------
    OptionError
        When there is no such focal plane.
    SourceError
        When frames are missing, or are no grid.
    """
    header = headers[0].dataset
    tile, size = Size(int(header.Rows), int(header.Columns)), parts[0].size
    rows, columns = -(-size.height // tile.height), -(-size.width // tile.width)
    frames = [_frames(part.path, read.dataset, read.start) for part, read in zip(parts, headers, strict=True)]
    offsets, counts = (np.concatenate([found[n] for found in frames]) for n in (0, 1))
    if rows * columns > min(_MAX_TILES, _FEW_TILES + _MOST_EMPTY * len(offsets)):
        raise SourceError(
            f"{parts[0].path} claims {size} pixels in tiles of {tile}, and has {len(offsets)}; the file is damaged"
        )
    file = np.repeat(np.arange(len(parts), dtype=np.int32), [len(found[0]) for found in frames])
    path = parts[0].path
    _refuse_other_order(parts, [len(found[0]) for found in frames])
    _refuse_other_pixels(parts, headers)
    if any(read.places is not None for read in headers):
        places = [place for read in headers for place in read.places or ()]
        if len(places) != len(offsets):
            raise SourceError(
                f"{path} and the files of its image say of {len(places)} of their {len(offsets)} frames where they "
                "lie; one of them is damaged, copy it again"
            )
        numbers = _sparse(path, places, tile, Size(rows, columns), z)
    else:
        said = header.get("TotalPixelMatrixFocalPlanes")
        planes, each = int(said or 1), rows * columns
        due = planes * each if said else each * max(1, len(offsets) // each)  # PS3.3, C.7.6.17.3
        if len(offsets) > due:
            raise SourceError(
                f"{path} claims {size} pixels, {rows} x {columns} tiles in {planes} planes, and has {len(offsets)} "
                "frames; the file is damaged, copy it again"
            )
        numbers = np.arange(rows * columns) + _plane(path, z, planes) * rows * columns
    if int(numbers.max()) >= len(offsets):
        raise SourceError(
            f"{path}: an image of {rows} x {columns} tiles needs frame {int(numbers.max()) + 1}, and there are "
            f"{len(offsets)}; the file is damaged, copy it again"
        )
    there = numbers >= 0
    taken = np.where(there, numbers, 0)
    encapsulated = header.file_meta.TransferSyntaxUID.is_encapsulated
    return FrameTable(
        tuple(part.path for part in parts),
        tuple(read.seen for read in headers),
        file[taken],
        offsets[taken],
        np.where(there, counts[taken], 0),
        bool(encapsulated),
    )


def _refuse_other_order(parts: Sequence[Part], counts: Sequence[int]) -> None:
    """Refuse files that don't follow each other: all after a part that is there twice would be moved, and one that is
    missing would be of tiles that were not scanned.
    """
    due = 0
    for part, count in zip(parts, counts, strict=True):
        if part.first_frame != due:
            raise SourceError(
                f"{part.path} begins with frame {part.first_frame + 1} of its image, and frame {due + 1} is due there; "
                "check that each of its files is in the folder, and no copy of one"
            )
        due += count


def _refuse_other_pixels(parts: Sequence[Part], headers: Sequence[Header]) -> None:
    """Refuse files of one image that say different things of its pixels (PS3.3, C.7.6.16.2.2.4: they are the same)."""
    said = [[str(read.dataset.get(name)) for name in _SAME] for read in headers]
    syntaxes = [str(read.dataset.file_meta.TransferSyntaxUID) for read in headers]
    for part, each, syntax in zip(parts, said, syntaxes, strict=True):
        other = [name for name, value, first in zip(_SAME, each, said[0], strict=True) if value != first]
        if other or syntax != syntaxes[0]:
            what = (*other, "TransferSyntaxUID")[0]
            raise SourceError(
                f"{part.path} has another {what} than {parts[0].path}, which is of the same image; one of them is "
                "damaged, copy them again"
            )


def _plane(path: str, z: int | None, planes: int) -> int:
    if not 0 <= (z or 0) < planes:
        raise OptionError(f"{path} has no focal plane {z}; {numbered(planes)}")
    return z or 0


def _sparse(path: str, positions: list[Place], tile: Size, grid: Size, z: int | None) -> NDArray[Any]:
    """The number of the frame at each place of the grid, -1 where there is none."""
    planes = sorted({depth for _, _, depth in positions})
    wanted = planes[_plane(path, z, len(planes))]
    numbers = np.full((grid.height, grid.width), -1)
    for number, (y, x, depth) in enumerate(positions):
        if depth != wanted:
            continue
        row, down = divmod(y - 1, tile.height)
        column, right = divmod(x - 1, tile.width)
        if down or right or not (0 <= row < grid.height and 0 <= column < grid.width):
            raise SourceError(
                f"{path}: frame {number + 1} lies at x={x - 1}, y={y - 1}, which is no place of a grid of {tile} "
                "pixels; such an image can't be read"
            )
        if numbers[row, column] >= 0:
            raise SourceError(
                f"{path}: frames {numbers[row, column] + 1} and {number + 1} both lie at x={x - 1}, y={y - 1}; the "
                "file is damaged, copy it again"
            )
        numbers[row, column] = number
    return numbers.reshape(-1)


def _frames(path: str, header: Any, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(first byte, bytes) of each frame in a file."""
    file = PixelFile(path)
    try:
        n_frames = int(header.get("NumberOfFrames") or 1)
        implicit = bool(header.file_meta.TransferSyntaxUID.is_implicit_VR)
        first = start + (8 if implicit else 12)  # tag, VR and length (PS3.5, 7.1)
        if file.read(start, 4) != b"\xe0\x7f\x10\x00":
            raise SourceError(f"{path} has no pixels; copy it again")
        if not 0 < n_frames < 1 << 31 or n_frames > file.nbytes:
            raise SourceError(f"{path} claims {n_frames} frames in {file.nbytes} bytes; the file is damaged")
        if header.file_meta.TransferSyntaxUID.is_encapsulated:
            return _encapsulated(file, header, first, n_frames)
        count = int(header.Rows) * int(header.Columns) * int(header.SamplesPerPixel) * (int(header.BitsAllocated) // 8)
        said = int.from_bytes(file.read(first - 4, 4), "little")
        if said < n_frames * count:
            raise SourceError(
                f"{path} claims {n_frames} frames of {count:,} bytes and has {said:,} bytes of pixels; the file is "
                "damaged, copy it again"
            )
        return first + np.arange(n_frames, dtype=np.int64) * count, np.full(n_frames, count, np.int64)
    finally:
        file.close()


def _encapsulated(
    file: PixelFile, header: Any, first: int, n_frames: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same of frames in items (PS3.5, A.4): by a table of offsets where there is a good one, without a
    hole, else item by item.
    """
    table = file.read(first, 8)
    n_bytes = int.from_bytes(table[4:], "little")
    if table[:4] != ITEM or n_bytes > file.nbytes:
        raise SourceError(f"{file.path} has no table of frames where DICOM has it; the file is damaged")
    base = first + 8 + n_bytes
    extended = header.get("ExtendedOffsetTable"), header.get("ExtendedOffsetTableLengths")
    if all(extended) and [len(values) for values in extended] == [8 * n_frames] * 2:
        starts, lengths = (np.frombuffer(values, "<i8") for values in extended)
        odd = np.diff(starts) - 8 - lengths[:-1]  # 1 where a length is
        if starts[0] == 0 and (lengths >= 0).all() and np.isin(odd, (0, 1)).all():
            last = sum(count for _, count in _items(file, base + int(starts[-1])))
            if last - 8 - lengths[-1] in (0, 1):
                return base + starts, lengths + 8
    table = file.read(first + 8, n_bytes) if n_bytes == 4 * n_frames else b""
    starts = np.frombuffer(table, "<u4").astype(np.int64)
    if len(starts) == n_frames and (np.diff(starts) > 0).all():
        end = max((at + count for at, count in _items(file, base + int(starts[-1]))), default=base)
        return base + starts, np.diff(starts, append=end - base)
    items = list(_items(file, base))
    if len(items) != n_frames:
        heads = [at for at, _ in items if n_frames == 1 or file.read(at + 8, 2) in _CODESTREAMS]
        heads = heads[:1] if n_frames == 1 else heads
        if len(heads) != n_frames:
            raise SourceError(
                f"{file.path} has {n_frames} frames in {len(items)} fragments and no table of them; write it again "
                "with one, such as with wsidicom"
            )
        ends = [*heads[1:], sum(items[-1])]
        items = [(at, end - at) for at, end in zip(heads, ends, strict=True)]
    found = np.array(items, np.int64)
    return found[:, 0], found[:, 1]


def _items(file: PixelFile, at: int) -> Iterator[tuple[int, int]]:
    """(first byte, bytes) of the items from one on, each with its own header of 8 bytes."""
    while at + 8 <= file.nbytes:
        head = file.read(at, 8)
        count = 8 + int.from_bytes(head[4:], "little")
        if head[:4] != ITEM:
            if head[:4] != _END:
                raise SourceError(f"{file.path}: there is no fragment at byte {at}; the file is damaged, copy it again")
            return
        yield at, count
        at += count
    if at != file.nbytes or file.read(at - 8, 4) == _END:  # it has taken the end of all for its own
        raise SourceError(f"{file.path}: its last fragment goes beyond its end; the file is damaged, copy it again")
