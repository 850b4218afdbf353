"""Verification of a file of slidewright notices levels that are in the file, but no longer in its pyramid, and an
OME-XML that says otherwise than the directories.
"""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import tifffile

import slidewright
from slidewright.errors import VerifyError

PIXELS = np.random.default_rng(3).integers(0, 255, (520, 410, 3), np.uint8)
OPTIONS = {"tile_size": 64, "n_workers": 0, "compression": "deflate"}
KINDS = {
    "plain.tif": {},
    "classic.tif": {"bigtiff": False},
    "beside.tif": {"associated": ["thumbnail"]},
    "aperio.svs": {"flavour": "aperio", "levels": 4},
    "ome.ome.tif": {},
    "strict.ome.tif": {"strict": True},
    "classic.ome.tif": {"bigtiff": False},
}


def make(folder, name):
    slidewright.convert(PIXELS, folder / name, **OPTIONS, **KINDS[name])
    slidewright.verify_file(folder / name, n_workers=1)
    return folder / name


def write_number(path, place, value, size):
    with path.open("r+b") as file:
        file.seek(place)
        file.write(value.to_bytes(size, "little"))


def links(path):
    """Where each directory of the main chain says where the next is, and the size of such a number."""
    big = path.read_bytes()[2] == 43
    with tifffile.TiffFile(path) as tiff:
        pages = [page.aspage() for page in tiff.pages]
        return [p.offset + (8 + 20 * len(p.tags) if big else 2 + 12 * len(p.tags)) for p in pages], 8 if big else 4


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["plain.tif", "classic.tif", "beside.tif", "aperio.svs"])
@pytest.mark.parametrize("left", [1, 2, -1])
def test_chain_of_directories_that_is_cut_has_lost_levels(name, left, tmp_path):
    path = make(tmp_path, name)
    places, size = links(path)
    beside = name in ("beside.tif", "aperio.svs")
    if left == -1 and beside:
        left = len(places) - 2
    write_number(path, places[left - 1], 0, size)
    with pytest.raises(VerifyError, match=r"a level of .* is in the file, but"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["plain.tif", "ome.ome.tif", "strict.ome.tif", "classic.ome.tif"])
def test_level_that_is_left_out_of_the_middle_is_lost(name, tmp_path):
    path = make(tmp_path, name)
    with tifffile.TiffFile(path) as tiff:
        first = tiff.pages.first
        if "ome" not in name:
            places, size = links(path)
            place, values = places[0], [tiff.pages[2].offset]
        else:
            tag, size = first.tags["SubIFDs"], 8 if tiff.is_bigtiff else 4
            place, values = tag.valueoffset, [tag.value[0], *tag.value[2:], tag.value[-1]]
            write_number(path, tag.offset + 4, len(tag.value) - 1, size)
    for number, value in enumerate(values):
        write_number(path, place + number * size, value, size)
    with pytest.raises(VerifyError, match="is lost"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["ome.ome.tif", "strict.ome.tif", "classic.ome.tif"])
def test_last_level_that_is_left_out_of_an_ome_tiff_is_lost(name, tmp_path):
    path = make(tmp_path, name)
    with tifffile.TiffFile(path) as tiff:
        tag, size = tiff.pages.first.tags["SubIFDs"], 8 if tiff.is_bigtiff else 4
    write_number(path, tag.offset + 4, len(tag.value) - 1, size)
    with pytest.raises(VerifyError, match=r"neither a level nor a copy|is in the file, but"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["ome.ome.tif", "classic.ome.tif"])
@pytest.mark.parametrize("change", ["Compression", "ImageWidth", "TileOffsets", "cut", "skipped"])
def test_copies_of_the_levels_must_be_copies(name, change, tmp_path):
    path = make(tmp_path, name)
    places, size = links(path)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[1].aspage()
        tags, after = page.tags, tiff.pages[2].offset
        if change in ("cut", "skipped"):
            place, value = (places[1], 0) if change == "cut" else (places[0], after)
        elif change == "TileOffsets":
            place, value = tags[change].offset + 4 + size, tags["TileByteCounts"].valueoffset
        else:
            place, value = tags[change].offset + 4 + size, {"Compression": 50000, "ImageWidth": 200}[change]
    write_number(path, place, value, size)
    with pytest.raises(VerifyError, match=r"copies of the levels .* differ|neither a level nor a copy|page 5, tile"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
@pytest.mark.parametrize("level", [0, 1, 3])
def test_level_of_an_ome_zarr_that_is_not_listed_is_lost(ngff, level, tmp_path):
    path = tmp_path / "out.ome.zarr"
    slidewright.convert(PIXELS, path, n_workers=0, tile_size=64, ngff=ngff)
    slidewright.verify_file(path, n_workers=1)
    file = path / ("zarr.json" if ngff == "0.5" else ".zattrs")
    said = json.loads(file.read_text())
    ome = said["attributes"]["ome"] if ngff == "0.5" else said
    del ome["multiscales"][0]["datasets"][level]
    file.write_text(json.dumps(said))
    with pytest.raises(VerifyError, match=r"do not list the level|is lost"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
def test_levels_of_an_ome_zarr_without_number_are_refused(tmp_path):
    """Each is opened, and 100,000 may name one array."""
    path = tmp_path / "out.ome.zarr"
    slidewright.convert(PIXELS, path, n_workers=0, tile_size=64)
    said = json.loads((path / "zarr.json").read_text())
    said["attributes"]["ome"]["multiscales"][0]["datasets"] *= 100
    (path / "zarr.json").write_text(json.dumps(said))
    with pytest.raises(VerifyError, match=r"it lists \d00 levels, where 100 are the most"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("said", ["SizeX", "SizeY", "SizeC", "SizeZ", "SizeT", "Type"])
def test_size_in_the_ome_xml_must_be_that_of_the_directories(said, tmp_path):
    path = make(tmp_path, "ome.ome.tif")
    data = path.read_bytes()
    place = data.index(b" %s=" % said.encode()) + len(said) + 3
    path.write_bytes(data[:place] + b"7" + data[place + 1 :])
    with pytest.raises(VerifyError, match=f"its OME-XML is wrong: .*{said}"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["plain.tif", "aperio.svs", "ome.ome.tif", "classic.ome.tif"])
@pytest.mark.parametrize(("tag", "value"), [("Predictor", 1), ("PhotometricInterpretation", 6)])
def test_levels_that_are_said_to_be_encoded_otherwise_are_damaged(name, tag, value, tmp_path):
    path = make(tmp_path, name)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first.pages[1].aspage() if ".ome" in name else tiff.pages[2].aspage()
        place = page.tags[tag].valueoffset
    write_number(path, place, value, 2)
    with pytest.raises(VerifyError, match=r"level \d is encoded otherwise than level 0|copies of the levels"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_levels_of_an_ome_zarr_that_are_stored_otherwise_are_damaged(ngff, tmp_path):
    path = tmp_path / "out.ome.zarr"
    slidewright.convert(PIXELS, path, n_workers=0, tile_size=64, ngff=ngff)
    file = path / "1" / ("zarr.json" if ngff == "0.5" else ".zarray")
    file.write_text(json.dumps({**json.loads(file.read_text()), "fill_value": 7}))
    with pytest.raises(VerifyError, match="1 is stored otherwise than"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("level", [0, 1])
def test_planes_of_a_level_have_one_size(level, tmp_path):
    path = tmp_path / "out.ome.tif"
    slidewright.convert(PIXELS, path, n_workers=0, tile_size=64, kind="multichannel", strict=True)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.series[0].levels[level].pages[1].aspage()
        place, height = page.tags["ImageLength"].valueoffset, page.imagelength
    write_number(path, place, height - 1, 4)
    with pytest.raises(VerifyError, match=f"level {level}, channel 1 is .* and level {level} is"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
def test_thumbnail_that_stops_in_the_middle_does_not_decode(tmp_path):
    path = tmp_path / "out.tif"
    slidewright.convert(PIXELS, path, n_workers=0, tile_size=64, compression="jpeg", associated=["thumbnail"])
    slidewright.verify_file(path, n_workers=1)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[-1].aspage()
        place, count = page.dataoffsets[0], page.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[place + count // 2 : place + count] = bytes(count - count // 2)
    path.write_bytes(data)
    with pytest.raises(VerifyError, match="thumbnail, strip 0 is a JPEG without an end"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("name", "key", "value"), [("", "node_type", "x"), ("1", "dimension_names", [1, 2, 3])])
def test_store_that_zarr_does_not_open_is_damaged(name, key, value, tmp_path):
    path = tmp_path / "out.ome.zarr"
    slidewright.convert(PIXELS, path, n_workers=0, tile_size=64)
    file = path / name / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with pytest.raises(VerifyError, match="zarr can't open it"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
def test_store_that_is_no_group_is_damaged(tmp_path):
    path = tmp_path / "out.ome.zarr"
    slidewright.convert(PIXELS, path, n_workers=0, tile_size=64, ngff="0.4")
    (path / ".zgroup").unlink()
    with pytest.raises(VerifyError, match=r"there is no \.zgroup"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
def test_ome_xml_that_is_no_xml_is_named(tmp_path):
    path = make(tmp_path, "ome.ome.tif")
    path.write_bytes(path.read_bytes().replace(b"<Pixels", b">Pixels", 1))
    with pytest.raises(VerifyError, match="its OME-XML is no XML"):
        slidewright.verify_file(path, n_workers=1)


@pytest.mark.timeout(60)
def test_directories_of_other_programs_are_not_looked_for(tmp_path):
    path = make(tmp_path, "plain.tif")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"slidewright ", b"another one ", 1))
    places, size = links(path)
    write_number(path, places[0], 0, size)
    assert len(slidewright.verify_file(path, n_workers=1).levels) == 1
    assert struct.unpack_from("<Q", path.read_bytes(), places[0]) == (0,)
