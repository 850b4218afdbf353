"""Small slides in DICOM, written by pydicom: tiles of every codec, in every order and packing that real ones have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from kept_sources import TILE, picture, tiles_of
from numpy.typing import NDArray
from PIL.ImageCms import ImageCmsProfile, createProfile
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import UID, generate_uid

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
PREFIX = "1.2.826.0.1.3680043.8.498.1."
NATIVE, JPEG, JPEG_LS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80"
JPEG2000_LOSSLESS, JPEG2000, LOSSLESS_JPEG = (f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 70))
IMPLICIT = UID("1.2.840.10008.1.2")
HTJ2K = "1.2.840.10008.1.2.4.201"
PROFILE: bytes = ImageCmsProfile(createProfile("sRGB")).tobytes()
PROFILE += bytes(len(PROFILE) % 2)


def jpeg(tile: NDArray[Any], subsampling: str = "422", quality: int = 90) -> bytes:
    """YCbCr as most scanners write it, with JFIF's marker."""
    return bytes(
        imagecodecs.jpeg8_encode(tile, quality, colorspace="rgb", outcolorspace="ycbcr", subsampling=subsampling)
    )


def rgb_jpeg(tile: NDArray[Any]) -> bytes:
    """RGB in JPEG; libjpeg marks it as Adobe does."""
    return bytes(imagecodecs.jpeg8_encode(tile, 90, colorspace="rgb", outcolorspace="rgb", subsampling="444"))


def grey_jpeg(tile: NDArray[Any]) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(tile[:, :, 0], 90))


def planes(tile: NDArray[Any]) -> bytes:
    return np.moveaxis(tile, 2, 0).tobytes()


KINDS: dict[str, tuple[str, str, Any]] = {
    "jpeg 422": (JPEG, "YBR_FULL_422", jpeg),
    "jpeg 420": (JPEG, "YBR_FULL_422", lambda tile: jpeg(tile, "420")),
    "jpeg 444": (JPEG, "YBR_FULL", lambda tile: jpeg(tile, "444")),
    "jpeg rgb": (JPEG, "RGB", rgb_jpeg),
    "jpeg grey": (JPEG, "MONOCHROME2", grey_jpeg),
    "jpeg2000": (JPEG2000_LOSSLESS, "YBR_RCT", lambda tile: imagecodecs.jpeg2k_encode(tile, codecformat="j2k")),
    "jpeg2000-lossy": (
        JPEG2000,
        "YBR_ICT",
        lambda tile: imagecodecs.jpeg2k_encode(tile, 40, reversible=False, codecformat="j2k"),
    ),
    "htj2k": (HTJ2K, "YBR_RCT", lambda tile: imagecodecs.htj2k_encode(tile, reversible=True)),
    "none": (NATIVE, "RGB", lambda tile: tile.tobytes()),
    "none planar": (NATIVE, "RGB", planes),
    "jpegls": (JPEG_LS, "RGB", imagecodecs.jpegls_encode),
    "jpeg lossless": (LOSSLESS_JPEG, "MONOCHROME2", lambda tile: imagecodecs.ljpeg_encode(tile[:, :, 0])),
    "inverted": (NATIVE, "MONOCHROME1", lambda tile: (255 - tile).tobytes()),
}
"""Transfer syntax, photometric interpretation and encoder."""
ASKED = {"jpeg 444": "jpeg", **{name: name for name in ("jpeg2000", "jpeg2000-lossy", "htj2k", "none")}}
"""Those that are kept when they are asked for."""


def pixels_of(kind: str) -> NDArray[np.uint8]:
    """The pixels that a kind encodes."""
    return picture(1 if KINDS[kind][1].startswith("MONO") else 3)


def frames_of(kind: str, pixels: NDArray[Any] | None = None) -> list[bytes]:
    """The encoded tiles, row by row."""
    return [bytes(KINDS[kind][2](tile)) for tile in tiles_of(pixels_of(kind) if pixels is None else pixels, TILE)]


def slide(folder: Path, kind: str = "jpeg 422", **how: Any) -> Path:
    """A slide of two levels, a label and an overview; the answer is its folder. `how` is for level 0, see `write`."""
    folder.mkdir(exist_ok=True)
    pixels = pixels_of(kind)
    half = np.ascontiguousarray(pixels[::2, ::2])
    write(folder / "b_level_1.dcm", kind, half, frames_of(kind, half), spacing=0.001)
    write(folder / "a_level_0.dcm", kind, pixels, frames_of(kind), **how)
    for name, flavour in (("label", "LABEL"), ("overview", "OVERVIEW")):
        image = picture(height=TILE, width=TILE)
        write(folder / f"{name}.dcm", "jpeg rgb", image, frames_of("jpeg rgb", image), flavour=flavour)
    return folder


def write(
    path: Path,
    kind: str,
    pixels: NDArray[Any],
    frames: Sequence[bytes],
    *,
    flavour: str = "VOLUME",
    spacing: float = 0.0005,
    sparse: Sequence[int] | None = None,
    table: str = "basic",
    fragments: int = 1,
    series: str = PREFIX + "2",
    more: dict[str, Any] | None = None,
) -> None:
    """One file. `sparse` gives the places, in the grid, of the frames that are there (TILED_SPARSE); `table` is
    "basic", "extended" or "none"."""
    syntax, photometric, _ = KINDS[kind]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = UID(WHOLE_SLIDE), UID(syntax)
    meta.MediaStorageSOPInstanceUID = generate_uid(PREFIX, [str(path)])
    made = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = PREFIX + "1", series, PREFIX + "3"
    made.PatientName, made.PatientID, made.Modality = "Doe^Jane", "4711", "SM"
    made.AcquisitionDateTime, made.DeviceSerialNumber = "20240102030405", "S1"
    made.Manufacturer, made.ManufacturerModelName, made.SoftwareVersions = "Maker", "Scanner 9", ["1.0", "2.0"]
    made.ImageType = ["ORIGINAL", "PRIMARY", flavour, "NONE"]
    made.Rows = made.Columns = TILE
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = pixels.shape[:2]
    made.NumberOfFrames, made.SamplesPerPixel = len(frames), pixels.shape[2]
    made.PhotometricInterpretation, made.PixelRepresentation = photometric, 0
    made.BitsAllocated = made.BitsStored = 8 * pixels.dtype.itemsize
    made.HighBit = made.BitsStored - 1
    if pixels.shape[2] > 1:
        made.PlanarConfiguration = int(kind == "none planar")
    _where_it_lies(made, pixels, spacing)
    _optics(made)
    if sparse is None:
        made.DimensionOrganizationType = "TILED_FULL"
        made.TotalPixelMatrixFocalPlanes, made.NumberOfOpticalPaths = 1, 1
    else:
        made.DimensionOrganizationType = "TILED_SPARSE"
        made.PerFrameFunctionalGroupsSequence = _places(pixels, sparse)
    for name, value in (more or {}).items():
        setattr(made, name, value)
    _put_pixels(made, frames, table, fragments)
    made.save_as(path, enforce_file_format=True)


def _where_it_lies(made: Dataset, pixels: NDArray[Any], spacing: float) -> None:
    """What OpenSlide and wsidicom want besides."""
    measures, shared, origin = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [spacing, spacing / 2], 0.001
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0
    made.TotalPixelMatrixOriginSequence = [origin]
    made.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
    made.ImagedVolumeHeight, made.ImagedVolumeWidth = pixels.shape[0] * spacing, pixels.shape[1] * spacing / 2
    made.ImagedVolumeDepth, made.SpecimenLabelInImage, made.BurnedInAnnotation = 0.001, "NO", "NO"
    made.VolumetricProperties, made.ExtendedDepthOfField, made.FocusMethod = "VOLUME", "NO", "AUTO"


def _optics(made: Dataset) -> None:
    path, code = Dataset(), Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "111744", "DCM", "Brightfield illumination"
    path.OpticalPathIdentifier, path.ObjectiveLensPower, path.ICCProfile = "1", 20, PROFILE
    path.IlluminationTypeCodeSequence = [code]
    made.OpticalPathSequence = [path]


def _places(pixels: NDArray[Any], places: Sequence[int]) -> list[Dataset]:
    columns, found = -(-pixels.shape[1] // TILE), []
    for place in places:
        position, frame = Dataset(), Dataset()
        position.RowPositionInTotalImagePixelMatrix = place // columns * TILE + 1
        position.ColumnPositionInTotalImagePixelMatrix = place % columns * TILE + 1
        position.XOffsetInSlideCoordinateSystem = position.YOffsetInSlideCoordinateSystem = 0
        position.ZOffsetInSlideCoordinateSystem = 0
        frame.PlanePositionSlideSequence = [position]
        found.append(frame)
    return found


def _put_pixels(made: Dataset, frames: Sequence[bytes], table: str, fragments: int) -> None:
    if not made.file_meta.TransferSyntaxUID.is_encapsulated:
        made.PixelData = b"".join(frames)
    elif table == "extended":
        made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(list(frames))
    else:
        made.PixelData = encapsulate(list(frames), fragments_per_frame=fragments, has_bot=table == "basic")
    made["PixelData"].VR = "OB"


def read(path: Path) -> pydicom.FileDataset:
    """A file as pydicom reads it."""
    return pydicom.dcmread(path)
