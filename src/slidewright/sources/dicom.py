"""DICOM whole slide images as sources (extra `[dicom]`): what the pixels of a level are, and how frames are decoded.

pydicom reads the headers once, when the source is described; the readers in the workers read frames at known places and
decode them with imagecodecs. OpenSlide reads DICOM too, but hands out no frames and refuses several kinds of colours.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from slidewright.errors import CorruptTileError, OptionError, SlidewrightError, SourceError, numbered
from slidewright.geometry import Size, reduction
from slidewright.metadata import Metadata, fields_of
from slidewright.selection import Selection
from slidewright.sources.access.jpeg_tiles import corrupt, decode_jpeg, halve_jpeg
from slidewright.sources.access.tile_grid import CellReader
from slidewright.sources.base import (
    Pixels,
    Reader,
    Source,
    SourceInfo,
    Stored,
    as_bytes,
    check_associated,
    no_associated,
    pickled_identity,
)
from slidewright.sources.dicom_files import (
    ASSOCIATED,
    ITEM,
    FrameTable,
    Part,
    damaged,
    frame_table,
    instances,
    read_header,
    slide_parts,
)
from slidewright.sources.on_disk import file_identity
from slidewright.sources.tiff_stored import CONFLICT, jpeg_stored
from slidewright.system.interrupts import let_through
from slidewright.system.limits import blame_memory
from slidewright.system.pixel_file import PixelFile
from slidewright.tiff.jpeg2000 import too_much
from slidewright.tiff.jpeg_header import read_jpeg_header
from slidewright.tiff.stream_headers import HEAD_BYTES, look

_CODECS = {
    **dict.fromkeys(("1.2.840.10008.1.2", "1.2.840.10008.1.2.1"), "none"),
    **dict.fromkeys(("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"), "jpeg"),
    **dict.fromkeys(("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"), "jpegsof3"),
    **dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), "jpegls"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203)], "jpeg2k"),
    **dict.fromkeys([f"1.2.840.10008.1.2.4.11{n}" for n in (0, 1, 2)], "jpegxl"),
}
"""Codecs of imagecodecs by transfer syntax (PS3.5, chapter 10), and "none" for little-endian pixels as they are."""
_COLOURS: dict[str, dict[str, Literal["rgb", "ycbcr", "grey"]]] = {
    "jpeg": {"RGB": "rgb", "YBR_FULL": "ycbcr", "YBR_FULL_422": "ycbcr"},
    "jpeg2k": {"RGB": "rgb", "YBR_RCT": "rgb", "YBR_ICT": "rgb"},  # which the codec turns into RGB itself
    "jpegxl": {"RGB": "rgb", "XYB": "rgb"},
}
_GREYS = ("MONOCHROME1", "MONOCHROME2")
_MAX_BYTES = 1 << 28  # of a decoded tile
_TEXTS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
_HARMLESS = re.compile(
    r"Manufacturer|ManufacturerModelName|SoftwareVersions|Modality|ImageType|SpecificCharacterSet|SOPClassUID"
    r"|.*(Spacing|Thickness|Imaged|TotalPixelMatrix|Lossy|Dimension|Pixel|Bits|Photometric|Burned|Depth).*"
    r"|(CodeValue|CodingSchemeDesignator|VolumetricProperties|SpecimenLabelInImage|FocusMethod|NumberOf.*|.*PlaneCount|ContentQualification)"
)
"""Keywords of what says nothing of patient, person, place or time; every other one counts as identifying."""


@dataclass(frozen=True, slots=True)
class Coding:
    """How the frames of an image are to be decoded."""

    codec: str
    colours: Literal["rgb", "ycbcr", "grey"]
    tile: Size
    samples: int
    dtype: str
    planar: bool = False
    """Whether pixels that are stored as they are have all reds first."""
    white: int | None = None
    """The value that stands for black where 0 is white (MONOCHROME1)."""


@dataclass(frozen=True, slots=True, eq=False)
class DicomSource(Source):
    """A level of a slide in DICOM, or an image beside the levels."""

    path: str
    info: SourceInfo
    coding: Coding
    table: FrameTable
    parts: tuple[str, ...] = ()
    """All files of the slide."""

    @classmethod
    def at(cls, path: str, selection: Selection = Selection()) -> DicomSource:  # noqa: B008 - frozen
        """Describe a level of a slide by a folder or any file of it.

        Raises
        ------
        SourceError
            When pydicom is missing, the files are damaged or incomplete, or the pixels are of an unknown kind.
        OptionError
            When there is no such level or focal plane.
        """
        with _quiet():
            return cls._level(path, selection)

    @classmethod
    def _level(cls, path: str, selection: Selection) -> DicomSource:
        if isinstance(selection.z, str):
            raise OptionError(f"z {selection.z}: of a slide in DICOM one focal plane is read; choose it by its number")
        parts = slide_parts(path)
        volumes = instances(parts, "VOLUME")
        sizes = sorted({(files[0].size.height, files[0].size.width) for files in volumes}, key=lambda s: -s[0] * s[1])
        level = selection.level or 0
        if not 0 <= level < len(sizes):
            raise OptionError(f"{path} has no level {level}; {numbered(len(sizes))}")
        alike = [files for files in volumes if files[0].size == sizes[level]]
        names = sorted({ASSOCIATED[part.flavour] for part in parts if part.flavour in ASSOCIATED})
        left_out = [f"{len(alike) - 1} more images of the same size (focal planes or optical paths)"]
        left_out = left_out if len(alike) > 1 else []
        if volumes[0][0].reduced:
            left_out.append("a larger image, of which its largest was made (RESAMPLED): check that no file is missing")
        found = cls._of(path, alike[0], selection.z, tuple(names), tuple(left_out))
        said = replace(found.info.metadata, reduction=reduction(sizes[0][1], found.info.size.width))
        info = replace(found.info, metadata=said)
        return replace(found, info=info, parts=tuple(part.path for part in parts))

    @classmethod
    def _of(
        cls, path: str, parts: Sequence[Part], z: int | None, names: tuple[str, ...] = (), left: tuple[str, ...] = ()
    ) -> DicomSource:
        """An image of the given files, beside images of these names."""
        where = parts[0].path
        try:
            headers = [read_header(part.path) for part in parts]
            header = headers[0].dataset
            coding = _coding(where, header)
            table = frame_table(parts, headers, z)
            heights = {height for read in headers for _, _, height in read.places or ()}
            planes = len(heights) or int(header.get("TotalPixelMatrixFocalPlanes") or 1)
            if z is None and planes > 1:
                left = (*left, f"{planes - 1} more focal planes (z chooses one)")
            stored, reason = _stored(table, coding)
            info = SourceInfo(
                name=path,
                format="dicom",
                size=parts[0].size,
                samples=coding.samples,
                dtype=coding.dtype,
                kind="grey" if coding.colours == "grey" else "rgb",
                mpp=_mpp(header),
                tile=coding.tile,
                worker_bytes=0,
                icc_profile=_icc_profile(header),
                metadata=_metadata(header),
                left_out=left,
                associated=names,
                stored=stored,
                not_stored=reason,
            )
        except SlidewrightError:
            raise
        except Exception as error:  # values that make no sense: pydicom reads them when they are asked for
            raise damaged(where, error) from error
        return cls(path, info, coding, table)

    @property
    def beside(self) -> tuple[str, ...]:
        """See `Source`."""
        return tuple(path for path in self.parts if path != self.path)

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        table = self.table
        files = [file_identity(path, seen) for path, seen in zip(table.files, table.seen, strict=True)]
        return {**pickled_identity(replace(self, table=replace(table, seen=()))), "files": files}

    def open(self) -> DicomReader:
        """Open the files in this process."""
        return DicomReader(self)

    def associated_image(self, name: str) -> Pixels:
        """See `Source`."""
        flavour = next((key for key, value in ASSOCIATED.items() if value == name), None)
        with _quiet():
            found = instances(slide_parts(self.path), flavour) if flavour is not None else []
            if not found:
                raise no_associated(self.info, name)
            source = self._of(found[0][0].path, found[0], None)
        check_associated(source.path, name, source.info.size)
        reader = source.open()
        try:
            out = np.empty(source.info.shape, source.info.dtype)
            return as_bytes(reader.read(0, 0, *source.info.size, out))
        finally:
            reader.close()


class DicomReader(Reader):
    """Reads regions of one image in DICOM."""

    def __init__(self, source: DicomSource) -> None:
        info, table = source.info, source.table
        self._coding, self._table = source.coding, table
        self._columns = -(-info.size.width // source.coding.tile.width)
        self._files: list[PixelFile] = []
        try:
            self._files.extend(map(PixelFile, table.files))
            for file, seen in zip(self._files, table.seen, strict=True):
                file.require(seen)
        except BaseException:
            self.close()
            raise
        self._last: tuple[int, bytes] = (-1, b"")
        self._cells = CellReader(info.size, source.coding.tile, info.samples, info.dtype, self._decode)

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels:
        """The pixels of a region, see `Reader.read`."""
        return self._cells.read(y, x, height, width, out, plane)

    def segment(self, row: int, column: int, plane: int = 0) -> bytes | None:
        """See `Reader`."""
        return self._frame(row * self._columns + column)

    def halved(self, row: int, column: int, out: Pixels) -> bool:
        """See `Reader`."""
        if self._coding.codec != "jpeg" or self._coding.white is not None:
            return False
        index = row * self._columns + column
        data = self._frame(index)
        if not data:
            out[...] = self._nothing
            return True
        return halve_jpeg(data, out, self._coding.tile, self._coding.colours, self._where(index))

    def close(self) -> None:
        """Close the files and drop the cache."""
        for file in self._files:
            file.close()

    @property
    def _nothing(self) -> int:
        """The value of what was not scanned: white in colours, black in grey."""
        return 0 if self._coding.colours == "grey" else int(np.iinfo(self._coding.dtype).max)

    def _frame(self, index: int) -> bytes:
        """The encoded bytes of a tile, the last ones from memory, without the byte that makes them even."""
        if self._last[0] == index:
            return self._last[1]
        table = self._table
        offset, count = int(table.offsets[index]), int(table.counts[index])
        if not count:
            return b""
        file = self._files[table.file[index]]
        if not 0 <= offset <= offset + count <= file.nbytes or count > _MAX_BYTES:
            raise CorruptTileError(
                f"{self._where(index)} lies outside the file ({file.nbytes} bytes); copy the file again"
            )
        data: bytes = file.read(offset, count)
        if len(data) < count:  # it has become shorter since it was opened, or the disk gives less of it
            raise CorruptTileError(f"{self._where(index)} ends outside the file; the file is cut short, copy it again")
        if table.encapsulated:
            if not data.startswith(ITEM):  # such as a hole, which is no tile that was not scanned
                raise CorruptTileError(f"{self._where(index)} has no fragment; the file is damaged, copy it again")
            if _is_short(data):
                raise CorruptTileError(
                    f"{self._where(index)} is larger than the file's table of frames says; the file is damaged, copy "
                    "it again"
                )
            data = b"".join(_fragments(data))
            if data.endswith((b"\xff\xd9\0", b"\xff\xd9\0\0")):
                data = data[: data.rindex(b"\xd9") + 1]
            if not data:  # a tile that was not scanned has no place in the table
                raise CorruptTileError(f"{self._where(index)} has no bytes; the file is damaged, copy it again")
        self._last = (index, data)
        return data

    def _where(self, index: int) -> str:
        row, column = divmod(index, self._columns)
        return f"{self._files[self._table.file[index]].path}: level 0, tile at row {row}, column {column}"

    def _decode(self, row: int, column: int, band: int, out: Pixels) -> None:
        index, coding = row * self._columns + column, self._coding
        data = self._frame(index)
        if not data:
            out[...] = self._nothing
            return
        if coding.codec == "jpeg":
            decode_jpeg(data, out, coding.colours, self._where(index))
        elif coding.codec == "none":
            self._raw(index, data, out)
        else:
            self._decode_other(index, data, out)
        if coding.white is not None:
            np.subtract(coding.white, out, out=out)

    def _raw(self, index: int, data: bytes, out: Pixels) -> None:
        """Pixels as they are."""
        if len(data) != out.nbytes:
            raise corrupt(self._where(index), f"{len(data)} bytes instead of {out.nbytes}")
        pixels = np.frombuffer(data, np.dtype(out.dtype).newbyteorder("<"))
        if self._coding.planar:
            out[...] = np.moveaxis(pixels.reshape(out.shape[2], *out.shape[:2]), 0, 2)
        else:
            out[...] = pixels.reshape(out.shape)

    def _decode_other(self, index: int, data: bytes, out: Pixels) -> None:
        import imagecodecs

        where, codec = self._where(index), self._coding.codec
        size = look({"jpeg2k": "jpeg2000", "jpegxl": "jpegxl"}.get(codec, "jpeg"), data).size
        if size is not None and size != self._coding.tile:
            raise CorruptTileError(f"{where} holds an image of {size}, not of {self._coding.tile}; the file is damaged")
        if codec != "jpegxl" and data.rfind(b"\xff\xd9") < 0:  # OpenJPEG and CharLS make up the rest
            raise corrupt(where, "it has no end")
        if codec == "jpeg2k" and (problem := too_much(data)):
            raise corrupt(where, problem)
        decode: Callable[[bytes], Any] = getattr(imagecodecs, f"{codec}_decode")
        try:
            pixels = np.asarray(decode(data))
        except MemoryError:
            raise
        except Exception as error:  # each codec has an error class of its own
            let_through(error)
            blame_memory(out.nbytes)
            raise corrupt(where, error) from error
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if pixels.shape != out.shape or pixels.dtype.itemsize > out.dtype.itemsize or pixels.dtype.kind != "u":
            raise corrupt(where, f"{pixels.shape} {pixels.dtype} instead of {out.shape} {out.dtype}")
        out[...] = pixels


@contextmanager
def _quiet() -> Iterator[None]:
    """Without pydicom's warnings of values that break a rule and are read all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _fragments(data: bytes) -> Iterator[bytes]:
    """The contents of the items that a frame consists of (PS3.5, A.4)."""
    at = 0
    while at + 8 <= len(data) and data[at : at + 4] == ITEM:
        count = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at + 8 : at + 8 + count]
        at += 8 + count


def _is_short(frame: bytes) -> bool:
    """Whether an item says that it is longer than what there is of it, but for the byte that makes it even."""
    at = 0
    while at + 8 <= len(frame) and frame[at : at + 4] == ITEM:
        at += 8 + int.from_bytes(frame[at + 4 : at + 8], "little")
    return at > len(frame) + 1


def _coding(path: str, header: Any) -> Coding:
    """How frames are to be decoded; SourceError for what can't be."""
    syntax, photometric = header.file_meta.TransferSyntaxUID, str(header.PhotometricInterpretation)
    codec, samples = _CODECS.get(str(syntax)), int(header.SamplesPerPixel)
    if codec is None:
        raise SourceError(f"{path}: pixels in {syntax.name} can't be read; write it again in another transfer syntax")
    grey = photometric in _GREYS and samples == 1
    colours = "grey" if grey else _COLOURS.get(codec, {"RGB": "rgb"}).get(photometric) if samples == 3 else None
    bits, allocated = int(header.BitsStored), int(header.BitsAllocated)
    if colours is None or allocated not in (8, 16) or int(header.get("PixelRepresentation") or 0):
        raise SourceError(
            f"{path} has {samples} samples a pixel of {bits} bits, {photometric} in {syntax.name}, which can't be "
            "read; wsidicom may, which writes another DICOM"
        )
    tile, paths = Size(int(header.Rows), int(header.Columns)), int(header.get("NumberOfOpticalPaths") or 1)
    paths = max(paths, len(header.get("OpticalPathSequence") or ()))
    if paths > 1:
        raise SourceError(f"{path} has {paths} optical paths in one file; save each as an image of its own first")
    if not 0 < tile.height * tile.width * samples * allocated // 8 <= _MAX_BYTES:
        raise SourceError(f"{path} has tiles of {tile} pixels, which can't be decoded in memory")
    dtype = "uint8" if allocated == 8 else "uint16"
    if not 0 < bits <= allocated:  # PS3.5, 8.1.1
        raise SourceError(f"{path} says that {bits} bits of {allocated} are stored; the file is damaged")
    white = (1 << bits) - 1 if photometric == "MONOCHROME1" else None
    planar = samples > 1 and int(header.get("PlanarConfiguration") or 0) == 1
    return Coding(codec, colours, tile, samples, dtype, planar and codec == "none", white)


def _stored(table: FrameTable, coding: Coding) -> tuple[Stored | None, str]:
    """How the frames are encoded, for those who would keep them; None, and why not, where a TIFF can't hold them."""
    if coding.white is not None:
        return None, "in its tiles 0 is white"
    there = np.flatnonzero(table.counts)
    if not len(there):
        return None, "none of its tiles has any bytes"
    index = int(there[0])
    file = PixelFile(table.files[table.file[index]])
    try:
        head = file.read(int(table.offsets[index]), min(int(table.counts[index]), HEAD_BYTES))
    finally:
        file.close()
    if table.encapsulated:
        head = next(_fragments(head), b"")
    stored = Stored(coding.codec, coding.colours, bits=8 * np.dtype(coding.dtype).itemsize)
    if coding.codec == "jpeg":
        header = read_jpeg_header(head)
        if header is not None and header.told not in (None, coding.colours) and coding.colours != "grey":
            return None, CONFLICT
        return jpeg_stored(stored, header, coding.samples)
    if coding.codec == "none":
        return (None, "its channels follow each other in a tile") if coding.planar else (stored, "")
    stream = look("jpeg2000", head)
    if coding.codec == "jpeg2k" and stream.size is not None:
        exact = "htj2k" if stream.high_throughput else "jpeg2000"
        return Stored("jpeg2000-lossy" if stream.lossless is False else exact, coding.colours, bits=stored.bits), ""
    return None, f"its tiles are in {coding.codec}, which few readers of TIFF know"


def _mpp(header: Any) -> tuple[float, float] | None:
    """Micrometres a pixel along (x, y); DICOM has millimetres, rows first."""
    groups = [*(header.get("SharedFunctionalGroupsSequence") or ())[:1]]
    groups += [*(header.get("PerFrameFunctionalGroupsSequence") or ())[:1]]
    for group in groups:
        for measures in group.get("PixelMeasuresSequence") or ():
            down, across = measures.get("PixelSpacing") or (0, 0)
            if 0 < float(down) < 1e3 and 0 < float(across) < 1e3:
                return float(across) * 1000, float(down) * 1000
    return None


def _optics(header: Any) -> Any:
    return next(iter(header.get("OpticalPathSequence") or ()), {})


def _icc_profile(header: Any) -> bytes | None:
    profile = _optics(header).get("ICCProfile")
    return bytes(profile) if profile else None


def _metadata(header: Any) -> Metadata:
    """What may be kept; the rest, where it is text, may identify."""
    versions = header.get("SoftwareVersions")
    power = _optics(header).get("ObjectiveLensPower")
    return Metadata(
        objective_power=float(power) if power else None,
        scanner_vendor=str(header.get("Manufacturer") or "") or None,
        scanner_model=str(header.get("ManufacturerModelName") or "") or None,
        scanner_software=(versions if isinstance(versions, str) else " ".join(versions or ())) or None,
        identifying=fields_of(dict(_identifying(header, ""))),
    )


def _identifying(dataset: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """(keywords, value) of every text that is not known to be harmless, what is in sequences included."""
    for element in dataset:
        name = prefix + (element.keyword or f"{element.tag}")
        if element.tag.group in (0x5200, 0x0002):  # a frame each
            continue
        if element.VR == "SQ":
            for number, item in enumerate(element.value or ()):
                yield from _identifying(item, f"{name}[{number}]." if number else f"{name}.")
        elif element.VR in _TEXTS and element.value and not _HARMLESS.fullmatch(element.keyword):
            yield name, str(element.value)
