"""Files made to do harm: decompression bombs, absurd claims, code in metadata, paths in metadata."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import stat
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from faults.campaign import make_slide

import slidewright
from slidewright.errors import OutputError, SlidewrightError, SourceError, VerifyError

MEGA = 1_000_000
linux = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA holds for all private memory on Linux only")


MEASURED = """
import resource, sys
from slidewright.cli.main import main
code = main(sys.argv[1:])
print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
sys.exit(code)
"""


def run(source: Path, *options: str) -> tuple[int, str, int]:
    """Convert from the command line with 400 MB: exit code, standard error, and the most that one process took."""
    line = [sys.executable, "-c", MEASURED, "convert", source, source.parent / "out.tif", "--memory", "400MB", "-q"]
    # A shell between: Linux counts what this process has at the fork as its child's
    command = ["sh", "-c", '"$@"; exit $?', "sh", *map(str, line), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stderr, int(done.stdout or 0) << 10


def inflating_bomb() -> bytes:
    """Two gigabytes of zeros in 9 MB: whole flushed blocks repeat, so one of them is enough to know."""
    packer = zlib.compressobj(1)
    start = packer.compress(bytes(MEGA)) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MEGA)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + 2000 * block


def assert_refused(source: Path, *options: str, about: str = "") -> None:
    code, errors, memory = run(source, "--workers", "2", *options)
    assert code in (1, 2), errors
    assert errors.startswith("slidewright: error: "), errors
    assert len(errors.splitlines()) == 1, errors
    assert about in errors
    assert memory < 500 * MEGA, f"{memory / MEGA:.0f} MB"
    assert not (source.parent / "out.tif").exists()


def patched(path: Path, *tags: tuple[int, int, int]) -> Path:
    """Set tags of the first directory of a classic TIFF: (code, type, value)."""
    data = bytearray(path.read_bytes())
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    for code, kind, value in tags:
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            if struct.unpack_from("<H", data, entry)[0] == code:
                struct.pack_into("<HHII", data, entry, code, kind, 1, value)
    path.write_bytes(data)
    return path


def bomb_tiff(path: Path, segment: bytes, compression: int, tile: int = 256) -> Path:
    """A TIFF of 512 x 512 pixels, every tile of which is the same segment."""
    pixels = np.zeros((512, 512, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(tile, tile), compression="zlib", photometric="rgb")
    with tifffile.TiffFile(path) as tiff:
        offsets, counts = (tiff.pages[0].tags[code] for code in (324, 325))
        where, number = path.stat().st_size, offsets.count
        places = offsets.valueoffset, counts.valueoffset
        kinds = [tag.dtype for tag in (offsets, counts)]
    data = bytearray(path.read_bytes()) + segment
    for place, kind, value in zip(places, kinds, (where, len(segment)), strict=True):
        size = 4 if int(kind) == 4 else 8
        for n in range(number):
            data[place + n * size : place + (n + 1) * size] = value.to_bytes(size, "little")
    path.write_bytes(data)
    return patched(path, (259, 3, compression))


@pytest.mark.parametrize("side", [10**9, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("options", [{}, {"tile": (64, 64)}, {"tile": (64, 64), "compression": "zlib"}])
def test_tiff_that_claims_a_billion_pixels_a_side_is_refused(tmp_path, side, options):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, np.zeros((100, 100), np.uint8), photometric="minisblack", **options)
    patched(path, (256, 4, side), (257, 4, side))
    with pytest.raises(SourceError, match=r"in\.tif"):
        slidewright.convert(path, tmp_path / "out.tif", n_workers=0)


@pytest.mark.parametrize("name", ["o.tif", "o.ome.zarr"])
def test_destination_folder_that_is_removed_in_mid_run_is_a_failed_run(tmp_path, name):
    """And no error of the source, whose exit code is another."""
    source, folder = make_slide(tmp_path / "in.tif"), tmp_path / "out"
    folder.mkdir()

    def take_away(progress) -> None:
        if progress.tiles_done:
            shutil.rmtree(folder, ignore_errors=True)

    with pytest.raises((OutputError, VerifyError)):
        slidewright.convert(source, folder / name, n_workers=0, tile_size=64, progress=take_away)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", [5, 6, 8, 9, 10, 11, 12])
@pytest.mark.parametrize("tag", [256, 257, 277])
def test_tiff_with_a_size_below_zero_is_refused(tmp_path, tag, kind):
    """tifffile goes through the pages of such a file without end."""
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, np.zeros((100, 120, 3), np.uint8), photometric="rgb")  # whose description has its shape
    patched(path, (tag, kind, 0xFFFFFFFF))
    for look in (slidewright.info, slidewright.verify_file):
        with pytest.raises(SlidewrightError, match=r"a size, is of type|does not lie|declares"):
            look(path)


def test_tiff_with_a_size_of_a_signed_type_is_read(tmp_path):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, np.zeros((100, 120, 3), np.uint8), photometric="rgb")
    patched(path, (256, 9, 120), (257, 8, 100))
    assert slidewright.info(path).size == (100, 120)


@linux
def test_tile_that_inflates_to_gigabytes_is_refused(tmp_path):
    assert_refused(bomb_tiff(tmp_path / "in.tif", inflating_bomb(), 8), about="tile at row 0, column 0")


@pytest.mark.long
@linux
@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000", "png"])
def test_image_in_a_tile_that_claims_to_be_huge_is_refused(tmp_path, kind):
    import imagecodecs

    pixels = np.zeros((256, 256, 3), np.uint8)
    if kind == "jpeg":
        data = bytearray(imagecodecs.jpeg8_encode(pixels))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 65_500, 65_500)
    elif kind == "jpeg2000":
        data = bytearray(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k"))
        at = data.index(b"\xff\x51") + 6
        struct.pack_into(">II", data, at, 40_000, 40_000)
        struct.pack_into(">II", data, at + 16, 40_000, 40_000)
    else:
        data = bytearray(imagecodecs.png_encode(np.zeros((17_000, 17_000), np.uint8), level=1))
    code = {"jpeg": 7, "jpeg2000": 34712, "png": 34933}[kind]
    path = bomb_tiff(tmp_path / "in.tif", bytes(data), code)
    assert_refused(path)


@linux
def test_zarr_chunk_that_inflates_to_gigabytes_is_refused(tmp_path):
    array = zarr.create_array(
        tmp_path / "in.zarr", shape=(256, 256), chunks=(128, 128), dtype="uint8", zarr_format=2,
        compressors=__import__("numcodecs").Zlib(1),
    )  # fmt: skip
    array[:] = 7
    next(p for p in (tmp_path / "in.zarr").rglob("0.0")).write_bytes(inflating_bomb())
    assert_refused(tmp_path / "in.zarr")


@pytest.mark.parametrize("shape", [[10**9, 10**9], [10**18, 10**18], [-5, 100], [100], "abc", [0, 10]])
def test_zarr_with_a_hostile_shape_is_refused(tmp_path, shape):
    array = zarr.create_array(tmp_path / "in.zarr", shape=(256, 256), chunks=(128, 128), dtype="uint8")
    array[:] = 7
    metadata = tmp_path / "in.zarr" / "zarr.json"
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "shape": shape}))
    with pytest.raises(SlidewrightError):
        slidewright.convert(tmp_path / "in.zarr", tmp_path / "out.tif", n_workers=0, memory="400MB")
    assert [p.name for p in tmp_path.iterdir()] == ["in.zarr"]


class Payload:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("place", ["filters", "compressor"])
def test_pickles_in_a_zarr_store_are_never_loaded(tmp_path, place):
    array = zarr.create_array(tmp_path / "in.zarr", shape=(64, 64), chunks=(64, 64), dtype="uint8", zarr_format=2)
    array[:] = 7
    metadata = tmp_path / "in.zarr" / ".zarray"
    tree = json.loads(metadata.read_text())
    tree |= {"compressor": None, "filters": None}
    tree[place] = [{"id": "pickle"}] if place == "filters" else {"id": "pickle"}
    metadata.write_text(json.dumps(tree))
    next(p for p in (tmp_path / "in.zarr").rglob("0.0")).write_bytes(pickle.dumps(Payload(tmp_path / "harm")))
    with pytest.raises(SourceError, match=r"pickle|can't be opened"):
        slidewright.convert(tmp_path / "in.zarr", tmp_path / "out.tif", n_workers=0)
    assert not (tmp_path / "harm").exists()


def test_pickles_in_a_npy_file_are_never_loaded(tmp_path):
    array = np.empty((2, 2), object)
    array[:] = Payload(tmp_path / "harm")
    np.save(tmp_path / "in.npy", array, allow_pickle=True)
    with pytest.raises(SourceError, match=r"in\.npy"):
        slidewright.convert(tmp_path / "in.npy", tmp_path / "out.tif", n_workers=0)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("sizes", "data"),
    [
        ({"Z": "100000000"}, ""),
        ({"Z": "1000000000", "T": "1000000000"}, ""),
        ({}, "PlaneCount='1000000000'"),
        ({}, "NumPlanes='1000000000'"),
        ({"X": "1000000", "Y": "1000000"}, "IFD='0'"),
        ({"C": "&#57;00000000"}, ""),
    ],
)
def test_ome_xml_of_a_billion_planes_is_refused_at_once(tmp_path, sizes, data):
    sizes = " ".join(f"Size{axis}='{sizes.get(axis, 256 if axis in 'XY' else 1)}'" for axis in "XYCZT")
    xml = (
        "<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'><Image ID='Image:0'><Pixels ID='P' "
        f"DimensionOrder='XYZCT' Type='uint8' {sizes}><TiffData {data}/></Pixels></Image></OME>"
    )
    pixels = np.zeros((256, 256), np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", pixels, tile=(64, 64), description=xml, metadata=None)
    with pytest.raises(SourceError, match="planes"):
        slidewright.convert(tmp_path / "s.tif", tmp_path / "o.tif", n_workers=0)


def test_ome_xml_that_speaks_of_all_pages_very_often_is_refused_at_once(tmp_path):
    """Without an IFD, tifffile goes over all pages for each."""
    xml = (
        "<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'><Image ID='Image:0'><Pixels ID='P' "
        "DimensionOrder='XYZCT' Type='uint8' SizeX='16' SizeY='16' SizeC='1' SizeT='1' SizeZ='3000'>"
        f"{'<TiffData/>' * 3000}</Pixels></Image></OME>"
    )
    with tifffile.TiffWriter(tmp_path / "s.tif") as tiff:
        for number in range(3000):
            more = {"description": None if number else xml, "metadata": None, "contiguous": False}
            tiff.write(np.zeros((16, 16), np.uint8), **more)
    with pytest.raises(SourceError, match="planes"):
        slidewright.convert(tmp_path / "s.tif", tmp_path / "o.tif", n_workers=0)


def test_ome_xml_of_a_billion_steps_is_refused_at_once(tmp_path):
    along = "<ModuloAlongZ Type='phase' Start='0' Step='1e-9' End='1'/>"
    xml = (
        "<OME xmlns='http://www.openmicroscopy.org/Schemas/OME/2016-06'><StructuredAnnotations><XMLAnnotation ID='A' "
        f"Namespace='openmicroscopy.org/omero/dimension/modulo'><Value><Modulo>{along}</Modulo></Value></XMLAnnotation>"
        "</StructuredAnnotations><Image ID='Image:0'><Pixels ID='P' DimensionOrder='XYZCT' Type='uint8' SizeX='64' "
        "SizeY='64' SizeZ='1' SizeC='1' SizeT='1'><TiffData/></Pixels><AnnotationRef ID='A'/></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "s.tif", np.zeros((64, 64), np.uint8), description=xml, metadata=None)
    with pytest.raises(SourceError, match="planes"):
        slidewright.convert(tmp_path / "s.tif", tmp_path / "o.tif", n_workers=0)


@pytest.mark.parametrize("said", [{}, {"axes": "CYX", "truncated": True}, {"axes": "ZYX", "truncated": True}])
def test_shape_of_a_billion_planes_is_refused_at_once(tmp_path, said):
    shape = json.dumps({"shape": [10**9, 16, 16], **said})
    pixels = np.zeros((16, 16), np.uint8)
    tifffile.imwrite(tmp_path / "s.tif", pixels, description=shape, metadata=None, software="tifffile.py")
    with pytest.raises(SourceError, match="claims a shape"):
        slidewright.convert(tmp_path / "s.tif", tmp_path / "o.tif", n_workers=0)


def test_file_named_in_ome_xml_is_not_opened(tmp_path):
    """A multi-file OME-TIFF is read as the one file that was named."""
    pixels = np.zeros((2, 64, 64), np.uint8)
    tifffile.imwrite(tmp_path / "secret.tif", pixels[0] + 99, photometric="minisblack")
    plane = (
        '<TiffData FirstZ="1" IFD="0" PlaneCount="1"><UUID FileName="secret.tif">'
        "urn:uuid:00000000-0000-0000-0000-000000000002</UUID></TiffData>"
    )
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:00000000-0000-0000-0000-000000000001"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" Type="uint8" SizeX="64" SizeY="64" SizeC="1" SizeZ="2" SizeT="1">'
        '<Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData FirstZ="0" IFD="0" PlaneCount="1">'
        '<UUID FileName="in.tif">urn:uuid:00000000-0000-0000-0000-000000000001</UUID></TiffData>'
        f"{plane}</Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "in.tif", pixels[0], description=xml, metadata=None, photometric="minisblack")
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    try:
        slidewright.convert(tmp_path / "in.tif", tmp_path / "out.tif", n_workers=0)
    except SlidewrightError:
        pass
    assert any(name.endswith("in.tif") for name in opened)
    assert not any(name.endswith("secret.tif") for name in opened)


@pytest.mark.parametrize("path", ["../secret.zarr", "/etc", "..", "a/../../secret.zarr"])
def test_path_in_zarr_metadata_that_leads_out_of_the_store_is_refused(tmp_path, path):
    secret = zarr.create_array(tmp_path / "secret.zarr", shape=(64, 64), chunks=(64, 64), dtype="uint8")
    secret[:] = 99
    group = zarr.create_group(tmp_path / "in.zarr")
    axes = [{"name": "y"}, {"name": "x"}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [{"path": path}]}]}
    with pytest.raises(SourceError):
        slidewright.convert(tmp_path / "in.zarr", tmp_path / "out.tif", n_workers=0)


def test_xml_bomb_in_a_description_does_no_harm(tmp_path):
    entities = "".join(f'<!ENTITY e{n} "{("&e" + str(n - 1) + ";") * 10}">' for n in range(1, 12))
    xml = (
        f'<?xml version="1.0"?><!DOCTYPE OME [<!ENTITY e0 "aaaaaaaaaa">{entities}]>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">&e11;</OME>'
    )
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((64, 64), np.uint8), description=xml, metadata=None)
    code, errors, memory = run(tmp_path / "in.tif", "--workers", "2")
    assert code in (0, 2), errors
    assert memory < 500 * MEGA


@pytest.mark.skipif(not hasattr(os, "fork"), reason="permissions as POSIX knows them")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_output_follows_the_umask_and_temporary_files_are_private(tmp_path, umask, mode):
    source, scratch = make_slide(tmp_path / "in.tif"), tmp_path / "scratch"
    scratch.mkdir()
    modes = []

    def look(_):
        modes.extend(stat.S_IMODE(p.stat().st_mode) for p in scratch.iterdir() if p.is_dir())

    before = os.umask(umask)
    try:
        options = {"tile_size": 64, "block_tiles": 2, "scratch": scratch, "n_workers": 2, "progress": look}
        slidewright.convert(source, tmp_path / "out.tif", **options)
        slidewright.convert(source, tmp_path / "inline.tif", **{**options, "n_workers": 0})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.tif").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "inline.tif").stat().st_mode) == mode
    assert set(modes) == {0o700}


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="owners as POSIX knows them")
def test_folders_of_others_that_look_like_ours_are_left_alone(tmp_path):
    """In a shared temporary folder anybody can make one, or a link that leads elsewhere."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / "slidewright-scratch-0000000000000000").symlink_to(tmp_path / "precious")
    (tmp_path / "slidewright-scratch-0000000000000000.lock").touch()
    if os.getuid() == 0:
        (tmp_path / "slidewright-scratch-1111111111111111").mkdir()
        (tmp_path / "slidewright-scratch-1111111111111111.lock").touch()
        os.chown(tmp_path / "slidewright-scratch-1111111111111111.lock", 65534, 65534)
    source = make_slide(tmp_path / "in.tif")
    slidewright.convert(source, tmp_path / "out.tif", n_workers=0, tile_size=64, block_tiles=2, scratch=tmp_path)
    assert (tmp_path / "precious" / "file").exists()
    if os.getuid() == 0:
        assert (tmp_path / "slidewright-scratch-1111111111111111").exists()


def test_limits_are_those_of_workers_only(tmp_path):
    """The caller's own process keeps what it had."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    shutil.copy(make_slide(tmp_path / "in.tif"), tmp_path / "copy.tif")
    slidewright.convert(tmp_path / "copy.tif", tmp_path / "out.tif", n_workers=1, memory="400MB")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
