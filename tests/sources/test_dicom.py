"""DICOM: pixels as wsidicom and OpenSlide have them, however frames are packed and ordered, and errors that say what to
do.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import slidewright
from slidewright.errors import CorruptTileError, OptionError, SourceError

pytest.importorskip("pydicom")

import dicom_slides as made
from kept_sources import TILE, picture

from slidewright.sources.access.dicom_places import slow_places
from slidewright.sources.dicom_files import read_header
from slidewright.system.pixel_file import PixelFile

_EXACT = ("jpeg2000", "htj2k", "none", "none planar", "jpegls", "inverted", "jpeg lossless")


def pixels(source: slidewright.sources.base.Source) -> NDArray[Any]:
    """All pixels of a source, in regions that are no tiles."""
    info = source.info
    out, reader = np.empty(info.shape, info.dtype), source.open()
    for y in range(0, info.size.height, 100):
        height = min(100, info.size.height - y)
        part = np.empty((height, info.size.width, info.samples), info.dtype)
        out[y : y + height] = reader.read(y, 0, height, info.size.width, part)
    reader.close()
    reader.close()
    return out


def by_wsidicom(path: Path, level: int = 0) -> NDArray[Any]:
    """The same by wsidicom."""
    wsidicom = pytest.importorskip("wsidicom")
    with wsidicom.WsiDicom.open(path) as slide:
        size = slide.levels[level].size
        return np.asarray(slide.read_region((0, 0), level, (size.width, size.height), as_array=True))


def by_openslide(path: Path) -> NDArray[Any] | None:
    """The same by OpenSlide; None where it refuses the colours or the codec."""
    openslide = pytest.importorskip("openslide")
    try:
        with openslide.OpenSlide(path) as slide:
            return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[:, :, :3]
    except openslide.OpenSlideError:
        return None


@pytest.mark.parametrize("kind", list(made.KINDS))
def test_pixels_are_those_of_wsidicom_and_openslide(tmp_path, kind):
    folder = made.slide(tmp_path / "slide", kind)
    source = pickle.loads(pickle.dumps(slidewright.open_source(folder)))
    assert source.info.tile == (TILE, TILE)
    found = pixels(source)
    difference = np.abs(found.astype(int) - made.pixels_of(kind))
    assert difference.mean() < (0.01 if kind in _EXACT else 4)
    if kind not in ("none planar", "inverted", "jpeg lossless"):  # which it refuses, shows as a negative, can't decode
        np.testing.assert_array_equal(by_wsidicom(folder).reshape(found.shape), found)
    other = by_openslide(folder / "a_level_0.dcm")
    if other is not None:
        np.testing.assert_array_equal(other, found)
    refused = ("jpeg 444", "jpeg grey", "htj2k", "none planar", "jpegls", "jpeg lossless", "inverted")
    assert (other is None) == (kind in refused)


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("jpeg 422", {"table": "extended"}),
        ("jpeg2000", {"table": "none"}),
        ("jpegls", {"fragments": 3}),
        ("jpeg 420", {"fragments": 2, "table": "none"}),
    ],
)
def test_frames_are_found_however_they_are_packed(tmp_path, kind, how):
    plain, other = made.slide(tmp_path / "plain", kind), made.slide(tmp_path / "other", kind, **how)
    np.testing.assert_array_equal(pixels(slidewright.open_source(other)), pixels(slidewright.open_source(plain)))
    one, two = (slidewright.open_source(folder).open() for folder in (plain, other))
    frames = made.frames_of(kind)
    for number in (0, 8, len(frames) - 1):
        row, column = divmod(number, 7)
        assert one.segment(row, column) == two.segment(row, column) == frames[number]
    one.close()
    two.close()


def test_sparse_frames_are_put_where_they_say_and_the_rest_is_white(tmp_path):
    frames = made.frames_of("jpeg 422")
    places = [8, 3, 34, 0]
    folder = tmp_path / "slide"
    folder.mkdir()
    made.write(folder / "one.dcm", "jpeg 422", picture(), [frames[n] for n in places], sparse=places)
    found = pixels(slidewright.open_source(folder))
    np.testing.assert_array_equal(found, by_wsidicom(folder))
    whole = pixels(slidewright.open_source(made.slide(tmp_path / "whole")))
    np.testing.assert_array_equal(found[64:128, 64:128], whole[64:128, 64:128])
    assert (found[:64, 64:128] == 255).all()
    reader = slidewright.open_source(folder).open()
    assert reader.segment(0, 1) == b""
    assert reader.segment(1, 1) == frames[8]
    reader.close()


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("known_length", [False, True])
def test_places_of_frames_are_found_by_their_bytes_as_pydicom_finds_them(tmp_path, known_length, implicit):
    places, path = [8, 3, 34, 0, 12], tmp_path / "one.dcm"
    made.write(path, "none", picture(), [made.frames_of("none")[n] for n in places], sparse=places)
    dataset = made.read(path)
    dataset["PerFrameFunctionalGroupsSequence"].is_undefined_length = not known_length
    for number, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.is_undefined_length_sequence_item = not known_length
        frame.PlanePositionSlideSequence[0].ZOffsetInSlideCoordinateSystem = f"{number % 2 * -0.25}"
    if implicit:
        dataset.file_meta.TransferSyntaxUID = made.IMPLICIT
    pydicom = pytest.importorskip("pydicom")
    pydicom.dcmwrite(path, dataset, enforce_file_format=True, implicit_vr=implicit, little_endian=True)
    header = read_header(str(path))
    assert "PerFrameFunctionalGroupsSequence" not in header.dataset
    assert header.places == slow_places(pydicom.dcmread(path)) != None  # noqa: E711
    assert header.places[2] == (257, 385, 0.0)
    with path.open("rb") as file:
        file.seek(header.start)
        assert file.read(4) == b"\xe0\x7f\x10\x00"


@pytest.mark.timeout(60)
def test_parts_of_a_concatenation_are_one_image(tmp_path):
    frames, folder = made.frames_of("jpeg 422"), tmp_path / "slide"
    folder.mkdir()
    for number, (first, last) in enumerate([(0, 11), (11, 30), (30, 35)], 1):
        made.write(
            folder / f"{9 - number}.dcm", "jpeg 422", picture(), frames[first:last],
            more={
                "ConcatenationUID": made.PREFIX + "9",
                "InConcatenationNumber": number,
                "InConcatenationTotalNumber": 3,
                "ConcatenationFrameOffsetNumber": first,
                "SOPInstanceUIDOfConcatenationSource": made.PREFIX + "8",
            },
        )  # fmt: skip
    whole = pixels(slidewright.open_source(made.slide(tmp_path / "whole")))
    np.testing.assert_array_equal(pixels(slidewright.open_source(folder)), whole)
    shutil.copy(folder / "8.dcm", folder / "8 (1).dcm")
    with pytest.raises(SourceError, match=r"8\.dcm begins with frame 1 of its image, and frame 12 is due there"):
        slidewright.open_source(folder)
    (folder / "8 (1).dcm").unlink()
    (folder / "7.dcm").unlink()
    with pytest.raises(SourceError, match="one of 3 files of an image, of which 2 are there"):
        slidewright.open_source(folder)


@pytest.mark.timeout(60)
def test_missing_part_of_sparse_frames_is_not_white_where_nothing_says_how_many_there_are(tmp_path):
    frames = made.frames_of("none")
    for first, last in ((0, 11), (11, 30), (30, 35)):
        more = {"ConcatenationUID": made.PREFIX + "9", "ConcatenationFrameOffsetNumber": first}
        path = tmp_path / f"from-{first}.dcm"
        made.write(path, "none", picture(), frames[first:last], sparse=range(first, last), more=more)
    np.testing.assert_array_equal(pixels(slidewright.open_source(tmp_path)), picture())
    (tmp_path / "from-11.dcm").unlink()
    with pytest.raises(SourceError, match=r"from-30\.dcm begins with frame 31 of its image, and frame 12 is due there"):
        slidewright.open_source(tmp_path)


def test_focal_planes_are_chosen(tmp_path):
    folder, frames = tmp_path / "slide", made.frames_of("none")
    folder.mkdir()
    made.write(
        folder / "one.dcm", "none", picture(), [*frames, *(bytes(len(frame)) for frame in frames)],
        more={"TotalPixelMatrixFocalPlanes": 2},
    )  # fmt: skip
    np.testing.assert_array_equal(pixels(slidewright.open_source(folder, z=0)), picture())
    assert not pixels(slidewright.open_source(folder, z=1)).any()
    said = [slidewright.open_source(folder, z=z).info.left_out for z in (None, 0)]
    assert said == [("1 more focal planes (z chooses one)",), ()]
    with pytest.raises(OptionError, match=r"no focal plane 2; it has 2"):
        slidewright.open_source(folder, z=2)


def test_what_it_says_of_itself(tmp_path):
    folder = made.slide(tmp_path / "slide")
    for given in (folder, folder / "a_level_0.dcm", folder / "b_level_1.dcm", folder / "label.dcm"):
        info = slidewright.open_source(given).info
        assert (info.size, info.format, info.mpp) == ((300, 410), "dicom", (0.25, 0.5))
    assert (info.metadata.objective_power, info.metadata.scanner_vendor) == (20, "Maker")
    assert (info.metadata.scanner_model, info.metadata.scanner_software) == ("Scanner 9", "1.0 2.0")
    assert info.icc_profile == made.PROFILE
    assert info.associated == ("label", "macro")
    fields = dict(info.metadata.identifying)
    assert fields["PatientName"] == "Doe^Jane"
    assert fields["AcquisitionDateTime"] == "20240102030405"
    assert fields["DeviceSerialNumber"] == "S1"
    assert not {"Manufacturer", "PhotometricInterpretation", "Modality"} & set(fields)
    half = slidewright.open_source(folder, level=1)
    assert (half.info.size, half.info.mpp, half.info.metadata.reduction) == ((150, 205), (0.5, 1.0), 2)
    np.testing.assert_array_equal(pixels(half), by_wsidicom(folder, 1))
    with pytest.raises(OptionError, match="no level 2; it has 2"):
        slidewright.open_source(folder, level=2)
    with pytest.raises(OptionError, match="series 0 has no meaning for a slide in DICOM"):
        slidewright.open_source(folder, series=0)


def test_nothing_that_identifies_is_written_unless_it_is_asked_for(tmp_path):
    folder = made.slide(tmp_path / "slide")
    slidewright.convert(folder, tmp_path / "out.tif", n_workers=0)
    data = (tmp_path / "out.tif").read_bytes()
    assert b"Scanner 9" in data
    assert not any(text in data for text in (b"Doe", b"4711", b"20240102"))
    assert slidewright.info(tmp_path / "out.tif").associated == ()
    everything: dict[str, Any] = {"keep_metadata": "all", "associated": ("label", "macro"), "flavour": "aperio"}
    everything["mpp"] = 0.25  # the flavour has one number for both sides
    slidewright.convert(folder, tmp_path / "all.tif", n_workers=0, **everything)
    assert b"Doe^Jane" in (tmp_path / "all.tif").read_bytes()
    assert {"label", "macro"} <= {image.name for image in slidewright.info(tmp_path / "all.tif").associated}


def test_associated_images_are_read(tmp_path):
    source = slidewright.open_source(made.slide(tmp_path / "slide"))
    label = source.associated_image("label")
    assert np.abs(label.astype(int) - picture(height=TILE, width=TILE)).mean() < 4
    with pytest.raises(SourceError, match="no associated image 'thumbnail'; it has label, macro"):
        source.associated_image("thumbnail")


@pytest.mark.timeout(60)
def test_label_of_another_slide_in_the_folder_is_not_taken(tmp_path):
    folder = made.slide(tmp_path / "slide")
    other = np.full((2 * TILE, 2 * TILE, 3), 30, np.uint8)  # of a slide whose levels are still to come
    frames = made.frames_of("jpeg rgb", other)
    made.write(folder / "a.dcm", "jpeg rgb", other, frames, flavour="LABEL", series=made.PREFIX + "7")
    assert slidewright.open_source(folder).associated_image("label").shape == (TILE, TILE, 3)
    (folder / "label.dcm").unlink()
    with pytest.raises(SourceError, match="no associated image 'label'; it has macro"):
        slidewright.open_source(folder).associated_image("label")


@pytest.mark.parametrize("damage", ["cut", "garbage", "size"])
def test_damaged_frame_is_named_and_may_be_kept_or_filled(tmp_path, damage):
    frames = made.frames_of("jpeg 422")
    small = made.jpeg(picture(height=32, width=TILE))
    frames[8] = {"cut": frames[8][:200], "garbage": b"\xff\xd8" + bytes(98) + b"\xff\xd9", "size": small}[damage]
    folder = tmp_path / "slide"
    folder.mkdir()
    made.write(folder / "one.dcm", "jpeg 422", picture(), frames)
    with pytest.raises(CorruptTileError, match=r"one\.dcm: level 0, tile at row 1, column 1"):
        slidewright.convert(folder, tmp_path / "no.tif", n_workers=0, on_corrupt="error")
    report = slidewright.convert(folder, tmp_path / "kept.tif", n_workers=0)
    assert report.kept_tiles == 35
    assert "row 1, column 1" in report.warnings[0]
    slidewright.convert(folder, tmp_path / "filled.tif", n_workers=0, on_corrupt="fill")
    slidewright.verify_file(tmp_path / "filled.tif")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("kind", "table"), [("jpeg2000", "extended"), ("jpeg 422", "extended"), ("jpeg 422", "basic")])
def test_hole_in_a_file_is_damage_and_no_tile_that_was_not_scanned(tmp_path, kind, table):
    path = made.slide(tmp_path / "slide", kind, table=table) / "a_level_0.dcm"
    table_of = slidewright.open_source(path).open()._table
    with open(path, "r+b") as file:  # whole frames, as of a copy that was broken off after its place was made
        file.seek(int(table_of.offsets[20]))
        file.write(bytes(int(table_of.offsets[30] - table_of.offsets[20])))
    with pytest.raises(CorruptTileError, match="row 2, column 6 has no fragment"):
        slidewright.convert(path, tmp_path / "no.tif", n_workers=0, keep_tiles="never")
    report = slidewright.convert(path, tmp_path / "filled.tif", n_workers=0, on_corrupt="fill")
    assert "10 tiles" in report.warnings[0]


@pytest.mark.parametrize("table", ["extended", "basic"])
def test_frame_whose_item_says_that_it_is_empty_is_damage_and_no_tile_that_was_not_scanned(tmp_path, table):
    path = made.slide(tmp_path / "slide", "jpeg 422", table=table) / "a_level_0.dcm"
    table_of = slidewright.open_source(path).open()._table
    with open(path, "r+b") as file:
        file.seek(int(table_of.offsets[20]) + 4)
        file.write(bytes(4))
    with pytest.raises(CorruptTileError, match="row 2, column 6 has no bytes"):
        slidewright.convert(path, tmp_path / "no.tif", n_workers=0, keep_tiles="never")


@pytest.mark.parametrize("kind", ["jpeg2000", "jpegls"])
def test_frame_of_jpeg_2000_or_jpeg_ls_without_an_end_is_damage(tmp_path, kind):
    """OpenJPEG and CharLS make up the rest; Pillow calls it a broken data stream."""
    path = made.slide(tmp_path / "slide", kind, table="extended") / "a_level_0.dcm"
    table = slidewright.open_source(path).open()._table
    offset, count = int(table.offsets[20]), int(table.counts[20])
    with open(path, "r+b") as file:
        file.seek(offset + count // 2)
        file.write(bytes(count - count // 2))
    with pytest.raises(CorruptTileError, match="row 2, column 6 does not decode"):
        slidewright.convert(path, tmp_path / "no.tif", n_workers=0, keep_tiles="never")


@pytest.mark.parametrize("element", ["TotalPixelMatrixRows", "TotalPixelMatrixColumns"])
def test_size_that_does_not_fit_the_number_of_frames_is_refused(tmp_path, element):
    """A smaller one laid tiles in other places."""
    path = made.slide(tmp_path / "slide", "jpeg 422") / "a_level_0.dcm"
    header = made.read(path)
    setattr(header, element, getattr(header, element) - 64)
    header.save_as(path)
    with pytest.raises(SourceError, match=r"claims .* tiles in 1 planes, and has 35 frames"):
        slidewright.open_source(path)


@pytest.mark.parametrize("which", ["ExtendedOffsetTable", "ExtendedOffsetTableLengths"])
def test_hole_in_the_table_of_frames_is_got_over(tmp_path, which):
    """Zeros in it made tiles white, or copies of the first."""
    path = made.slide(tmp_path / "slide", "jpeg2000", table="extended") / "a_level_0.dcm"
    whole = pixels(slidewright.open_source(path))
    data, table = path.read_bytes(), getattr(made.read(path), which)
    at = data.index(table) + 64
    path.write_bytes(data[:at] + bytes(80) + data[at + 80 :])
    np.testing.assert_array_equal(pixels(slidewright.open_source(path)), whole)


def test_last_frame_that_is_longer_than_its_table_says_is_found_without_it(tmp_path):
    path = made.slide(tmp_path / "slide", "jpeg2000", table="extended") / "a_level_0.dcm"
    before = pixels(slidewright.open_source(path))
    data, table = path.read_bytes(), made.read(path).ExtendedOffsetTableLengths
    at = data.index(table) + len(table) - 8
    path.write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    np.testing.assert_array_equal(pixels(slidewright.open_source(path)), before)


@pytest.mark.parametrize("lost", [2, 4, 8])
@pytest.mark.parametrize("table", ["basic", "extended", "none"])
def test_last_frame_that_has_taken_the_end_of_all_for_its_own_is_damage(tmp_path, table, lost):
    """A decoder of JPEG 2000 took the bytes of that end for codes."""
    path = made.slide(tmp_path / "slide", "jpeg2000", table=table) / "a_level_0.dcm"
    data = bytearray(path.read_bytes())
    end = data.rindex(b"\xfe\xff\xdd\xe0")
    del data[end - 100 - lost : end - 100]
    path.write_bytes(data)
    with pytest.raises(SourceError, match="its last fragment goes beyond its end"):
        slidewright.convert(path, tmp_path / "no.tif", n_workers=0)


def test_pixels_without_compression_that_are_said_to_be_fewer_are_damage(tmp_path):
    """The frames beyond them were whatever comes next in the file."""
    path = made.slide(tmp_path / "slide", "none") / "a_level_0.dcm"
    data = bytearray(path.read_bytes())
    at = data.rindex(b"\xe0\x7f\x10\x00") + 8
    said = int.from_bytes(data[at : at + 4], "little")
    data[at : at + 4] = (said - 2).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"frames of .* bytes and has .* bytes of pixels"):
        slidewright.open_source(path)


@pytest.mark.parametrize("name", ["TotalPixelMatrixRows", "TotalPixelMatrixColumns"])
def test_image_that_says_one_of_its_sides_is_damaged(tmp_path, name):
    """The other was taken for that of a tile."""
    folder = tmp_path / "slide"
    folder.mkdir()
    made.write(folder / "one.dcm", "none", picture(), made.frames_of("none"))
    header = made.read(folder / "one.dcm")
    delattr(header, name)
    header.save_as(folder / "one.dcm")
    with pytest.raises(SourceError, match="it says how high or how wide its image is, and not both"):
        slidewright.open_source(folder / "one.dcm")


@pytest.mark.parametrize("name", ["PhotometricInterpretation", "TotalPixelMatrixColumns", "BitsStored"])
def test_files_of_an_image_that_say_other_things_of_it_are_damaged(tmp_path, name):
    """That of the first was believed."""
    frames, half = made.frames_of("none"), 15
    for first, last in ((0, half), (half, 35)):
        more = {"ConcatenationUID": made.PREFIX + "9", "ConcatenationFrameOffsetNumber": first}
        made.write(tmp_path / f"{first}.dcm", "none", picture(), frames[first:last], more=more)
    np.testing.assert_array_equal(pixels(slidewright.open_source(tmp_path)), picture())
    header = made.read(tmp_path / "15.dcm")
    value = getattr(header, name)
    setattr(header, name, "YBR_FULL" if isinstance(value, str) else value - 1)
    header.save_as(tmp_path / "15.dcm")
    with pytest.raises(SourceError, match=f"has another {name} than .*0.dcm, which is of the same image"):
        slidewright.convert(tmp_path, tmp_path / "no.tif", n_workers=0)


@pytest.mark.parametrize("order", ["", "TILED_SPARSE"])
def test_places_of_a_part_of_the_frames_are_damage(tmp_path, order):
    """Frames were laid row by row."""
    places = [8, 3, 34, 0]
    folder = tmp_path / "slide"
    folder.mkdir()
    frames = made.frames_of("jpeg 422")
    made.write(folder / "one.dcm", "jpeg 422", picture(), [frames[n] for n in places], sparse=places)
    header = made.read(folder / "one.dcm")
    header.DimensionOrganizationType = order
    del header.PerFrameFunctionalGroupsSequence[2].PlanePositionSlideSequence
    header.save_as(folder / "one.dcm")
    with pytest.raises(SourceError, match="it says of 3 of its 4 frames where they lie"):
        slidewright.open_source(folder)


@pytest.mark.parametrize("parts", [1, 2])
def test_sparse_frames_of_which_nothing_says_where_they_lie_are_damage(tmp_path, parts):
    """One bit of the sequence's tag is enough; they were laid row by row, or by the places of another file's."""
    frames, each = made.frames_of("none"), 34 // parts
    for first in range(0, 34, each):
        more = {"ConcatenationUID": made.PREFIX + "9", "ConcatenationFrameOffsetNumber": first} if parts > 1 else {}
        path = tmp_path / f"from-{first}.dcm"
        numbers = list(range(first, first + each))[::-1]
        made.write(path, "none", picture(), [frames[n] for n in numbers], sparse=numbers, more=more)
    data = bytearray((tmp_path / "from-0.dcm").read_bytes())
    data[data.index(b"\x00\x52\x30\x92") + 2] ^= 1
    (tmp_path / "from-0.dcm").write_bytes(data)
    with pytest.raises(SourceError, match=f"it says of 0 of its {each} frames where they lie"):
        slidewright.open_source(tmp_path)


def test_largest_level_that_was_made_of_a_larger_one_is_told(tmp_path):
    """The file of level 0 is missing, or was damaged at its beginning."""
    path = made.slide(tmp_path / "slide") / "a_level_0.dcm"
    header = made.read(path)
    header.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    header.save_as(path)
    (told,) = slidewright.open_source(path).info.left_out
    assert "check that no file is missing" in told


def test_frame_of_which_the_disk_gives_a_part_is_not_kept(tmp_path, monkeypatch):
    folder = made.slide(tmp_path / "slide")
    place = int(slidewright.open_source(folder).open()._table.offsets[8])
    read = PixelFile.read
    monkeypatch.setattr(PixelFile, "read", lambda f, at, count: read(f, at, count // 2 if at == place else count))
    with pytest.raises(CorruptTileError, match="ends outside the file"):
        slidewright.convert(folder, tmp_path / "out.tif", n_workers=0)
    assert not (tmp_path / "out.tif").exists()


def test_file_that_is_cut_short_ends_in_an_error_of_ours(tmp_path):
    whole = made.slide(tmp_path / "slide") / "a_level_0.dcm"
    data = whole.read_bytes()
    folder = tmp_path / "cut"
    folder.mkdir()
    for share in range(1, 20):
        (folder / "one.dcm").write_bytes(data[: len(data) * share // 20])
        with pytest.raises((SourceError, CorruptTileError)):
            slidewright.convert(folder, tmp_path / "out.tif", n_workers=0, on_corrupt="error", overwrite=True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("there", [0, 100, 512, 1000, None], ids=str)
def test_level_that_is_cut_in_its_header_is_not_replaced_by_the_next(tmp_path, there):
    folder = made.slide(tmp_path / "slide")
    (folder / "DICOMDIR").touch()
    (folder / "notes.txt").touch()
    assert slidewright.open_source(folder).info.size == (300, 410)
    level_0 = folder / "a_level_0.dcm"
    level_0.write_bytes(bytes(50_000) if there is None else level_0.read_bytes()[:there])
    with pytest.raises(SourceError, match=r"a_level_0\.dcm: its DICOM header can't be read \((it ends|there is none)"):
        slidewright.convert(folder, tmp_path / "out.tif", n_workers=0)
    assert slidewright.open_source(folder / "b_level_1.dcm").info.size == (150, 205)


def test_changed_bytes_of_a_header_end_in_an_error_of_ours_or_an_image(tmp_path):
    data = (made.slide(tmp_path / "slide") / "a_level_0.dcm").read_bytes()
    folder, random = tmp_path / "changed", np.random.default_rng(1)
    folder.mkdir()
    for _ in range(30):
        changed = bytearray(data)
        for at in random.integers(132, 2500, 3):
            changed[at] = random.integers(256)
        (folder / "one.dcm").write_bytes(changed)
        with suppress(slidewright.SlidewrightError):
            slidewright.convert(folder, tmp_path / "out.tif", n_workers=0, overwrite=True)


def test_folder_of_two_slides_and_other_dicom_are_refused(tmp_path):
    folder = made.slide(tmp_path / "slide")
    made.write(folder / "z.dcm", "none", picture(), made.frames_of("none"), series=made.PREFIX + "7")
    with pytest.raises(SourceError, match=r"holds 2 slides in DICOM; give a file of the one that is meant: a_level_0"):
        slidewright.open_source(folder)
    assert slidewright.open_source(folder / "z.dcm").info.stored.compression == "none"
    made.write(tmp_path / "ct.dcm", "none", picture(), made.frames_of("none"), more={"SOPClassUID": made.PREFIX + "5"})
    with pytest.raises(SourceError, match="no whole slide image"):
        slidewright.open_source(tmp_path / "ct.dcm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="is a folder, but not a zarr array or group, nor of DICOM files"):
        slidewright.open_source(tmp_path / "empty")


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR in JPEG Baseline"),
        ({"OpticalPathSequence": [pytest.importorskip("pydicom").Dataset()] * 2}, "2 optical paths"),
        ({"Rows": 65535, "Columns": 65535}, "tiles of 65535 x 65535 pixels"),
        ({"TotalPixelMatrixRows": 4_000_000_000}, "claims"),
        ({"TotalPixelMatrixRows": 5_000}, "needs frame"),
        ({"NumberOfFrames": 2_000_000_000}, "2000000000 frames"),
        ({"BitsStored": 300}, "300 bits of 8 are stored"),
    ],
)
def test_what_can_not_be_read_is_refused_with_the_reason(tmp_path, more, reason):
    (tmp_path / "slide").mkdir()
    made.write(tmp_path / "slide" / "one.dcm", "jpeg 422", picture(), made.frames_of("jpeg 422"), more=more)
    with pytest.raises(SourceError, match=reason):
        slidewright.open_source(tmp_path / "slide")


def test_without_pydicom_openslide_reads_it_or_the_extra_is_named(tmp_path, monkeypatch):
    folder, other = made.slide(tmp_path / "slide"), made.slide(tmp_path / "other", "jpegls")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.setattr("slidewright.sources.open.find_spec", lambda name: None if name == "pydicom" else True)
    assert slidewright.open_source(folder / "a_level_0.dcm").info.format == "dicom"
    assert type(slidewright.open_source(folder)).__name__ == "OpenSlideSource"
    monkeypatch.setattr("slidewright.sources.open.find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r"needs pydicom to be read; install it with: pip install 'slidewright\[dic"):
        slidewright.open_source(other)


def test_readers_leave_no_file_open_and_notice_that_one_has_changed(tmp_path):
    folder = made.slide(tmp_path / "slide")
    source = slidewright.open_source(folder)
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    reader = source.open()
    reader.close()
    if sys.platform == "linux":
        assert set(os.listdir("/proc/self/fd")) == before
    status = (folder / "a_level_0.dcm").stat()
    os.utime(folder / "a_level_0.dcm", ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # another of as many bytes
    with pytest.raises(SourceError, match="not the file it was"):
        source.open()
    os.utime(folder / "a_level_0.dcm", ns=(status.st_atime_ns, status.st_mtime_ns))
    source.open().close()
    with (folder / "a_level_0.dcm").open("ab") as file:
        file.write(b"more")
    with pytest.raises(SourceError, match="not the file it was"):
        source.open()
    shutil.rmtree(folder)
    with pytest.raises(SourceError, match="can't be opened"):
        source.open()
