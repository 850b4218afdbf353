"""The place of the output."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

import slidewright
from slidewright.conversions import conversion
from slidewright.conversions import destination as destinations
from slidewright.conversions.destination import Destination
from slidewright.errors import DestinationError, OptionError, OutputError
from slidewright.pyramid.level_store import ScratchFolder
from slidewright.system.file_identity import chained_path
from slidewright.system.files import total_bytes


def test_destination_taken_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "out.tif"
    destination = Destination(path, overwrite=False)
    Path(destination.partial).write_bytes(b"ours")
    path.write_bytes(b"theirs")
    with pytest.raises(DestinationError, match="exists"):
        destination.commit()
    destination.close()
    assert path.read_bytes() == b"theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["out.tif"]


@pytest.mark.parametrize("content", [b"ours", b"theirs"])
def test_destination_that_was_taken_by_the_same_is_kept_where_it_may_be(tmp_path, content):
    path = tmp_path / "out.tif"
    destination = Destination(path, overwrite=False, compare=True)
    Path(destination.partial).write_bytes(b"ours")
    path.write_bytes(content)
    before = path.stat().st_ino
    with contextlib.nullcontext() if content == b"ours" else pytest.raises(DestinationError, match="exists"):
        destination.commit()
    destination.close()
    assert (path.read_bytes(), path.stat().st_ino) == (content, before)
    assert os.listdir(tmp_path) == ["out.tif"]


def test_source_is_never_its_own_destination(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((40, 40), np.uint8))
    with pytest.raises(DestinationError, match="source itself"):
        slidewright.convert(path, path, overwrite=True, n_workers=0, format="tiff")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("old", [False, True])
def test_source_that_was_renamed_onto_its_destination_is_not_replaced(tmp_path, old, monkeypatch):
    source, dest, execute = tmp_path / "a.npy", tmp_path / "o.tif", conversion.execute
    np.save(source, np.ones((40, 40), np.uint8))
    content = source.read_bytes()
    if old:
        dest.write_bytes(b"old")

    def renamed(*arguments):
        outcome = execute(*arguments)
        os.replace(source, dest)
        return outcome

    monkeypatch.setattr(conversion, "execute", renamed)
    with pytest.raises(DestinationError, match="source itself"):
        slidewright.convert(source, dest, overwrite=True, n_workers=0)
    assert dest.read_bytes() == content
    assert os.listdir(tmp_path) == ["o.tif"]


def test_folder_of_the_source_that_was_renamed_onto_its_destination_is_not_replaced(tmp_path):
    source, dest = tmp_path / "in.zarr", tmp_path / "out.zarr"
    source.mkdir()
    (source / "zarr.json").touch()
    destination = Destination(
        dest, overwrite=True, sources=[f"file://{source}"], is_folder=True, recognises=lambda _: True
    )
    destination.make_folder()
    source.rename(dest)
    with pytest.raises(DestinationError, match="source itself"):
        destination.commit()
    destination.close()
    assert os.listdir(tmp_path) == ["out.zarr"]
    assert os.listdir(dest) == ["zarr.json"]


@pytest.fixture
def pixels():
    return np.arange(100 * 120, dtype=np.uint8).reshape(100, 120)


@pytest.mark.parametrize("name", ["x.png", "x.JPG", "scan.ndpi", "x.npy", "-"])
def test_name_of_another_kind_of_file_is_refused_before_anything_is_done(tmp_path, pixels, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=r"name a file|--format tiff"):
        slidewright.convert(pixels, name, n_workers=0)
    assert os.listdir(tmp_path) == []
    with pytest.raises(OptionError, match="a pipe"):
        slidewright.convert(pixels, "-", n_workers=0, format="tiff")
    with pytest.raises(OptionError), slidewright.PyramidWriter(name, (100, 120), n_workers=0):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x", "x.scan-3", "./-", "x.svs"])
def test_other_names_are_a_tiff_and_so_is_any_with_a_format(tmp_path, pixels, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    slidewright.convert(pixels, name, n_workers=0)
    slidewright.convert(pixels, "x.png", n_workers=0, format="tiff", compression="none")
    assert (tifffile.imread(tmp_path / "x.png") == pixels).all()
    assert tifffile.TiffFile(tmp_path / name).pages.first.tile == (512, 512)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
def test_file_is_where_it_was_asked_for_wherever_a_function_of_the_callers_goes(tmp_path, suffix, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def away(y, x, height, width):
        os.chdir(tmp_path / "there")
        return np.ones((height, width), np.uint8)

    options = {"shape": (100, 120), "n_workers": 0, "scratch": "."}
    slidewright.convert(away, f"x{suffix}", report="x.html", **options)
    assert sorted(os.listdir(tmp_path / "here")) == ["x.html", f"x{suffix}"]
    assert os.listdir(tmp_path / "there") == []


@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
@pytest.mark.parametrize("length", [238, 255])
@pytest.mark.parametrize("resume", [False, True])
def test_name_as_long_as_the_filesystem_takes(tmp_path, pixels, suffix, length, resume):
    name = "n" * (length - len(suffix)) + suffix
    (tmp_path / "in").mkdir()
    np.save(tmp_path / "in" / "source.npy", pixels)
    report = {} if resume else {"report": tmp_path / "in" / f"{'n' * 250}.html"}
    slidewright.convert(tmp_path / "in" / "source.npy", tmp_path / name, n_workers=0, resume=resume, **report)
    assert sorted(os.listdir(tmp_path)) == ["in", name]


def link_to(path, target):
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("links can't be made here")
    return path


@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
def test_link_is_followed_and_stays(tmp_path, pixels, suffix):
    (tmp_path / "disk").mkdir()
    target = tmp_path / "disk" / f"there{suffix}"
    link = link_to(tmp_path / f"link{suffix}", target)
    with pytest.raises(DestinationError, match=r"link.*exists"):
        slidewright.convert(pixels, link, n_workers=0)
    for end in ("", "", "/"):  # to nothing yet, and to what is replaced
        report = slidewright.convert(pixels, f"{link}{end}", n_workers=0, overwrite=True)
        assert report.destination == str(target)
        assert link.is_symlink()
        assert slidewright.info(target).size == (100, 120)
    assert os.listdir(tmp_path / "disk") == [target.name]
    assert sorted(os.listdir(tmp_path)) == ["disk", link.name]


def test_link_for_a_report_is_followed(tmp_path, pixels):
    (tmp_path / "there.html").touch()
    link = link_to(tmp_path / "link.html", tmp_path / "there.html")
    slidewright.convert(pixels, tmp_path / "o.tif", n_workers=0, overwrite=True, report=link)
    assert link.is_symlink()
    assert "o.tif" in (tmp_path / "there.html").read_text()


@pytest.mark.parametrize("call", ["link", "replace"])
@pytest.mark.parametrize("error", [FileExistsError(17, "File exists"), FileNotFoundError(2, "gone"), OSError(5, "I/O")])
def test_rename_that_reports_failure_and_has_happened_is_a_success(tmp_path, monkeypatch, call, error):
    """As NFS does, when the answer of the server is lost and the client asks again."""
    real = getattr(os, call)

    def done_and_failed(old, new, **options):
        real(old, new, **options)
        if str(new).endswith("o.tif"):
            raise error

    monkeypatch.setattr(os, call, done_and_failed)
    if call == "replace":
        (tmp_path / "o.tif").write_bytes(b"old")
    slidewright.convert(np.zeros((99, 99), np.uint8), tmp_path / "o.tif", n_workers=0, overwrite=call == "replace")
    assert os.listdir(tmp_path) == ["o.tif"]
    assert tifffile.imread(tmp_path / "o.tif", key=0).shape == (99, 99)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("way", ["tiff", "zarr", "archive", "restore", "resume", "batch"])
def test_output_that_somebody_moves_away_as_soon_as_it_has_its_name_is_a_success(tmp_path, monkeypatch, way):
    """As a program that watches the folder does."""
    slide, out = tmp_path / "s.tif", tmp_path / "out" / ("s.zarr" if way == "zarr" else "s.tif")
    pixels = np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8)
    tifffile.imwrite(slide, pixels, tile=(64, 64), photometric="rgb", compression="jpeg")
    if way == "restore":
        slidewright.convert(slide, tmp_path / "archive.tif", archive="jpegxl", n_workers=0)
    out.parent.mkdir()
    monkeypatch.setattr(destinations, "sync_folder", lambda _: out.rename(tmp_path / "taken"))
    if way == "batch":
        report = slidewright.batch(slide, out.parent, n_workers=0).items[0]
        assert (report.status, report.error) == ("done", None)
    elif way == "restore":
        report = slidewright.restore(tmp_path / "archive.tif", out, n_workers=0)
    else:
        more = {"archive": "jpegxl"} if way == "archive" else {"resume": True} if way == "resume" else {}
        report = slidewright.convert(slide, out, n_workers=0, **more)
    assert report.bytes == total_bytes(tmp_path / "taken")
    assert [path.name for path in out.parent.iterdir() if path.suffix != ".jsonl"] == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["s.tif", "s.zarr"])
@pytest.mark.parametrize(
    "error",
    [
        *(PermissionError(13, "Permission denied"), FileNotFoundError(2, "gone")),
        *(OSError(errno.EMFILE, "Too many open files"), OSError(errno.ESTALE, "Stale file handle")),
    ],
)
def test_folder_that_may_be_written_and_not_read_is_no_failure_of_a_complete_file(tmp_path, monkeypatch, name, error):
    """As a drop box is, of mode 1733; or one that was moved as soon as the file had its name. Others of the program, or
    of the machine, may have opened all files that may be.
    """
    real, drop = os.open, tmp_path / "drop"

    def refused(path, flags, *more, **options):
        if os.fspath(path) == str(drop) and flags == os.O_RDONLY:
            raise error
        return real(path, flags, *more, **options)

    drop.mkdir()
    monkeypatch.setattr(os, "open", refused)
    report = slidewright.convert(np.zeros((150, 200), np.uint8), drop / name, n_workers=0, tile_size=64)
    assert report.bytes == total_bytes(drop / name)
    assert os.listdir(drop) == [name]


def test_name_taken_by_another_file_is_still_an_error(tmp_path, monkeypatch):
    def taken(old, new, **_):
        (tmp_path / "o.tif").write_bytes(b"another's")
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", taken)
    with pytest.raises(DestinationError, match="exists"):
        slidewright.convert(np.zeros((99, 99), np.uint8), tmp_path / "o.tif", n_workers=0)
    assert (tmp_path / "o.tif").read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["o.tif"]


@pytest.mark.timeout(60)
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are told apart there")
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_error_of_closing_a_lock_or_a_folder_is_nobodys(tmp_path, resume, full, monkeypatch):
    """A network disk tells it when a lock is closed, in which nothing of use was written: the file is complete, or has
    failed with another error.
    """
    real, told, execute = os.close, set(), conversion.execute

    def told_late(fd):
        with contextlib.suppress(OSError):
            path = os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")
        real(fd)
        if path.endswith(".lock") or path == str(tmp_path):
            told.add(os.path.basename(path).partition("-")[0].partition(".tif")[0])
            raise OSError(errno.EIO, "Input/output error")

    def executed(*arguments):
        if full:
            raise OutputError("the disk is full")
        return execute(*arguments)

    (tmp_path / "scratch").mkdir()
    np.save(tmp_path / "s.npy", np.ones((300, 300), np.uint8))
    options = {"n_workers": 0, "tile_size": 64, "block_tiles": 1, "scratch": tmp_path / "scratch", "resume": resume}
    monkeypatch.setattr(conversion, "execute", executed)
    monkeypatch.setattr(os, "close", told_late)
    with pytest.raises(OutputError, match="full") if full else contextlib.nullcontext():
        slidewright.convert(tmp_path / "s.npy", tmp_path / "o.tif", **options)
    monkeypatch.undo()
    assert {".o", tmp_path.name} <= told
    assert "slidewright" in told or resume
    assert os.listdir(tmp_path / "scratch") == []
    left = {"s.npy", "scratch", *(["o.tif"] if not full else ["o.tif.shards"] if resume else [])}
    assert {path.name for path in tmp_path.iterdir()} == left


def interrupted_at(number, act, *arguments):
    """Call with a Ctrl-C that is heard after one of its system calls; whether there were so many."""
    seen = 0

    def profile(frame, event, function):
        nonlocal seen
        called = event in ("c_return", "c_exception") and getattr(function, "__module__", None) in ("posix", "fcntl")
        seen += called
        if called and seen == number:
            sys.setprofile(None)
            raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        act(*arguments)
    except (KeyboardInterrupt, OSError):  # `shutil.rmtree` may then close a folder twice
        pass
    finally:
        sys.setprofile(None)
    return seen >= number


@pytest.mark.timeout(60)
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted there")
@pytest.mark.parametrize("what", ["destination", "scratch", "making of scratch"])
def test_ctrl_c_at_any_moment_of_making_or_removing_temporary_files_leaves_none(tmp_path, what):
    number, came = 0, True
    before = os.listdir("/proc/self/fd")
    while came:
        number += 1
        if what == "destination":
            destination = Destination(tmp_path / "o.tif", overwrite=True)
            destination.claim()
            Path(destination.partial).touch()
            came = interrupted_at(number, destination.close)
        elif what == "scratch":
            came = interrupted_at(number, ScratchFolder(tmp_path).remove)
        else:
            came = interrupted_at(number, ScratchFolder, tmp_path)
        if came:
            assert (os.listdir(tmp_path), number) == ([], number)
    assert number > 5
    assert len(os.listdir("/proc/self/fd")) <= len(before) + 2  # one that was just opened, and one that nobody broke


@pytest.mark.parametrize("linked", ["0", "0/c"])
def test_store_that_a_source_is_a_view_of_is_not_replaced(tmp_path, linked):
    pixels = np.random.default_rng(0).integers(0, 256, (600, 600), np.uint8)
    slidewright.convert(pixels, tmp_path / "orig.zarr", n_workers=0, tile_size=256)
    view = tmp_path / "view.zarr"
    (view / linked).parent.mkdir(parents=True)
    for name in ("zarr.json", *(["0/zarr.json"] if linked == "0/c" else [])):
        (view / name).write_bytes((tmp_path / "orig.zarr" / name).read_bytes())
    os.symlink(tmp_path / "orig.zarr" / linked, view / linked)
    before = {path: path.read_bytes() for path in (tmp_path / "orig.zarr").rglob("*") if path.is_file()}
    with pytest.raises(DestinationError, match="source lies in the destination"):
        slidewright.convert(view, tmp_path / "orig.zarr", n_workers=0, level=0, overwrite=True)
    assert {path: path.read_bytes() for path in (tmp_path / "orig.zarr").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("url", ["dir://s.tif::file://{0}", "zip://s.tif::file://{0}/a.zip"])
def test_file_that_a_chained_url_begins_at_is_an_input(tmp_path, url):
    """As fsspec reads them: of the folder's file, or the archive."""
    slidewright.convert(np.zeros((64, 64), np.uint8), tmp_path / "s.tif", n_workers=0)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "s.tif", "s.tif")
    (path,) = chained_path(url.format(tmp_path))
    before = Path(path).read_bytes()
    with pytest.raises(DestinationError, match="is the source itself"):
        slidewright.convert(url.format(tmp_path), path, n_workers=0, overwrite=True, format="tiff")
    assert Path(path).read_bytes() == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["o.tif", "o.ome.zarr"])
def test_copy_of_the_destinations_folder_that_takes_its_place_is_an_error(tmp_path, pixels, name, monkeypatch):
    """What workers wrote after the copy was made is in the folder before; it was background in a store."""
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    check = Destination.commit

    def exchanged(self):
        shutil.copytree(folder, tmp_path / "copy")
        folder.rename(tmp_path / "before")
        (tmp_path / "copy").rename(folder)
        return check(self)

    monkeypatch.setattr(Destination, "commit", exchanged)
    with pytest.raises(DestinationError, match="was replaced by another while the file was made"):
        slidewright.convert(pixels, folder / name, tile_size=64, n_workers=0)
    assert os.listdir(folder) == os.listdir(tmp_path / "before") == ["mine"]
