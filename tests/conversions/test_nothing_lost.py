"""No file of the user's is lost: not by two outputs of one name, not by a kill between two renames, not by a device."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import folder_format  # registers the format whose destination is a folder
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from written import digest

import slidewright
from slidewright.cli.main import main
from slidewright.conversions import conversion
from slidewright.conversions import destination as destinations
from slidewright.conversions import shard as shard_module
from slidewright.conversions.destination import Destination, sweep_beside
from slidewright.errors import DestinationError, OptionError, OutputError
from slidewright.formats import ome_zarr
from slidewright.sources import on_disk, watched
from slidewright.system import file_identity, file_lock, files

OPTIONS = {"n_workers": 0, "tile_size": 64}
posix = pytest.mark.skipif(os.name == "nt", reason="links, FIFOs and sockets as POSIX knows them")
pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def slide(tmp_path):
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (150, 200), np.uint8), tile=(64, 64))
    return path


def hard_link(old: Path, new: Path) -> Path:
    os.link(old, new)
    return new


def soft_link(old: Path, new: Path) -> Path:
    new.symlink_to(old)
    return new


def linked_folder(old: Path, new: Path) -> Path:
    new.symlink_to(old.parent)
    return new / old.name


@pytest.mark.skipif(sys.platform != "linux", reason="a folder is found again by its descriptor")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["o.tif", "o.zarr"])
def test_nothing_is_left_in_a_folder_that_is_renamed_in_mid_run(tmp_path, name, workers):
    place, renamed = tmp_path / "place", tmp_path / "renamed"
    pixels = np.random.default_rng(0).integers(1, 255, (512, 512), np.uint8)

    def read(y, x, height, width):
        if y == 256:
            with contextlib.suppress(OSError):
                place.rename(renamed)
        return pixels[y : y + height, x : x + width]

    place.mkdir()
    (place / "mine.txt").write_text("mine")
    given = {"tile_size": 64, "n_workers": workers, "block_tiles": 1}
    with pytest.raises(OutputError):
        slidewright.convert(read, place / name, shape=pixels.shape, dtype="uint8", **given)
    assert os.listdir(renamed) == ["mine.txt"]
    assert os.listdir(tmp_path) == ["renamed"]


@pytest.mark.timeout(60)
@pytest.mark.skipif(sys.platform != "linux", reason="a folder is found again by its descriptor")
def test_folder_that_is_renamed_as_soon_as_the_file_has_its_name_is_no_failure(tmp_path, monkeypatch):
    place, renamed, real = tmp_path / "place", tmp_path / "renamed", os.unlink

    def late(path, **more):
        if place.exists() and str(path).endswith(".partial"):
            place.rename(renamed)
        real(path, **more)

    place.mkdir()
    monkeypatch.setattr(os, "unlink", late)
    slidewright.convert(np.zeros((90, 90), np.uint8), place / "o.tif", n_workers=0, tile_size=64)
    assert os.listdir(renamed) == ["o.tif"]
    assert os.listdir(tmp_path) == ["renamed"]


@pytest.mark.timeout(60)
@pytest.mark.skipif(sys.platform != "linux", reason="a folder is found again by its descriptor")
def test_no_lock_is_left_in_a_folder_that_is_renamed_as_soon_as_it_is_there(tmp_path, monkeypatch):
    place, renamed, real = tmp_path / "place", tmp_path / "renamed", destinations.FileLock

    def locked(path):
        lock = real(path)
        place.rename(renamed)
        return lock

    place.mkdir()
    monkeypatch.setattr(destinations, "FileLock", locked)
    with pytest.raises(OutputError):
        slidewright.convert(np.zeros((90, 90), np.uint8), place / "o.tif", n_workers=0, tile_size=64)
    assert os.listdir(tmp_path) == ["renamed"]
    assert os.listdir(renamed) == []


@posix
@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("more", [{"zarr_shard": 0}, {"zarr_shard": 2}, {"ngff": "0.4"}, {"n_workers": 1}])
def test_disk_of_a_store_that_is_away_for_a_while_is_an_error(tmp_path, more, back):
    """Chunks that were written to where it had been would be background in a store that seems to be complete."""
    disk, away = tmp_path / "disk", tmp_path / "away"
    pixels = np.random.default_rng(0).integers(1, 255, (512, 512), np.uint8)

    def read(y, x, height, width):
        with contextlib.suppress(OSError):
            if (y, x) == (128, 0):
                disk.rename(away)
                disk.mkdir()
            elif (y, x) == (320, 0) and back:
                shutil.rmtree(disk)
                away.rename(disk)
        return pixels[y : y + height, x : x + width]

    disk.mkdir()
    given = {**OPTIONS, "zarr_shard": 0 if "n_workers" in more else None, "block_tiles": 1, **more}
    with pytest.raises(OutputError, match="No such file"):
        slidewright.convert(read, disk / "o.zarr", shape=pixels.shape, dtype="uint8", **given)
    assert not os.path.exists(disk / "o.zarr")


@posix
@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("more", [{"zarr_shard": 0}, {"zarr_shard": 2}, {"ngff": "0.4"}, {"n_workers": 1}])
def test_copy_that_has_the_place_of_a_stores_folder_for_a_while_is_an_error(tmp_path, more, hidden):
    """Chunks that were written into the copy would be background."""
    disk, pixels = tmp_path / "disk", np.random.default_rng(0).integers(1, 255, (512, 512), np.uint8)

    def read(y, x, height, width):
        with contextlib.suppress(OSError):
            place = next(disk.glob(".*.partial"), disk) if hidden else disk
            if (y, x) == (128, 0):
                shutil.copytree(place, tmp_path / "copy")
                place.rename(tmp_path / "away")
                (tmp_path / "copy").rename(place)
            elif (y, x) == (320, 0):
                shutil.rmtree(place)
                (tmp_path / "away").rename(place)
        return pixels[y : y + height, x : x + width]

    disk.mkdir()
    given = {**OPTIONS, "zarr_shard": 0 if "n_workers" in more else None, "block_tiles": 1, **more}
    with pytest.raises(OutputError, match="it was moved, or replaced by a copy"):
        slidewright.convert(read, disk / "o.zarr", shape=pixels.shape, dtype="uint8", **given)
    assert os.listdir(disk) == []


@posix
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_copy_that_has_the_place_of_a_store_while_its_metadata_are_written_is_an_error(tmp_path, ngff, monkeypatch):
    """The first had those of before then, without channels."""
    write, calls = ome_zarr.write_json, []

    def late(path, value):
        if os.path.basename(path) not in ("zarr.json", ".zattrs") or "multiscales" not in str(value):
            return write(path, value)
        calls.append(path)
        place = os.path.dirname(path)
        if len(calls) == 1:
            write(path, value)
            shutil.copytree(place, tmp_path / "copy")
            return None
        os.rename(place, tmp_path / "away")
        os.rename(tmp_path / "copy", place)
        write(path, value)
        shutil.rmtree(place)
        os.rename(tmp_path / "away", place)
        return None

    monkeypatch.setattr(ome_zarr, "write_json", late)
    with pytest.raises(OutputError, match="while its metadata were written"):
        slidewright.convert(np.zeros((90, 90), np.uint16), tmp_path / "o.zarr", ngff=ngff, **OPTIONS)
    assert len(calls) == 2
    assert not (tmp_path / "o.zarr").exists()


@posix
@pytest.mark.parametrize("alias", [lambda old, new: old, hard_link, soft_link, linked_folder])
@pytest.mark.parametrize("meant", ["source", "destination"])
def test_report_is_neither_source_nor_destination(tmp_path, slide, alias, meant, capsys):
    out = tmp_path / "o.tif"
    slidewright.convert(slide, out, **OPTIONS)
    before = digest(slide), digest(out)
    report = alias(slide if meant == "source" else out, tmp_path / "alias")
    assert main(["convert", str(slide), str(out), "--report", str(report), "--overwrite", "--workers", "0"]) == 2
    assert meant in capsys.readouterr().err
    assert (digest(slide), digest(out)) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_file_that_takes_the_name_of_the_report_in_mid_run_is_replaced_only_when_asked(tmp_path, slide, overwrite):
    page, out = tmp_path / "r.html", tmp_path / "o.tif"

    def come(progress):
        page.write_text("somebody's")

    options = {"report": page, "progress": come, "overwrite": overwrite, **OPTIONS}
    if overwrite:
        slidewright.convert(slide, out, **options)
        assert "o.tif" in page.read_text()
    else:
        with pytest.raises(OutputError, match=r"is complete, but its report .* exists"):
            slidewright.convert(slide, out, **options)
        assert page.read_text() == "somebody's"
    assert sorted(os.listdir(tmp_path)) == ["o.tif", "r.html", "s.tif"]


@posix
def test_report_and_destination_that_do_not_exist_yet_are_held_apart(tmp_path, slide):
    (tmp_path / "link").symlink_to(tmp_path)
    for report in (tmp_path / "o.tif", tmp_path / "link" / "o.tif"):
        with pytest.raises(DestinationError, match="the report"):
            slidewright.convert(slide, tmp_path / "o.tif", report=report, **OPTIONS)
        assert sorted(os.listdir(tmp_path)) == ["link", "s.tif"]


@posix
@pytest.mark.parametrize("alias", [hard_link, soft_link, linked_folder])
def test_source_is_not_replaced_under_another_name(tmp_path, slide, alias):
    before = digest(slide)
    with pytest.raises(DestinationError, match="source itself"):
        slidewright.convert(slide, alias(slide, tmp_path / "alias"), overwrite=True, **OPTIONS)
    assert digest(slide) == before


def test_files_inside_the_source_are_not_replaced(tmp_path):
    import zarr

    store = tmp_path / "s.zarr"
    zarr.save_array(store, np.zeros((100, 100), np.uint8))
    with pytest.raises(DestinationError, match="lies in the source"):
        slidewright.convert(store, store / "zarr.json", overwrite=True, format="tiff", **OPTIONS)
    with pytest.raises(DestinationError, match="lies in the source"):
        slidewright.convert(zarr.open(store), store / "zarr.json", overwrite=True, format="tiff", **OPTIONS)


def test_folder_that_holds_the_source_is_not_replaced(tmp_path, slide):
    out = tmp_path / "o.segments"
    slidewright.convert(slide, out, **OPTIONS)
    inner = out / "s.tif"
    inner.write_bytes(slide.read_bytes())
    with pytest.raises(DestinationError, match="source lies in"):
        slidewright.convert(inner, out, overwrite=True, **OPTIONS)
    assert inner.exists()


def test_folder_of_other_things_is_not_replaced(tmp_path, slide):
    out = tmp_path / "holidays.segments"
    out.mkdir()
    (out / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(DestinationError, match="other things"):
        slidewright.convert(slide, out, overwrite=True, **OPTIONS)
    assert (out / "photo.jpg").read_bytes() == b"precious"


def rows(tmp_path, *pairs):
    path = tmp_path / "m.csv"
    text = "source,destination\n" + "".join(f"{source},{dest}\n" for source, dest in pairs)
    path.write_text(text, encoding="utf-8")
    return path


@posix
def test_rows_whose_destinations_are_one_file_are_refused(tmp_path, slide):
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "t.tif").write_bytes(slide.read_bytes())
    manifest = rows(tmp_path, ("s.tif", "d.tif"), ("t.tif", "link/d.tif"))
    with pytest.raises(OptionError, match="both become"):
        slidewright.batch(manifest, overwrite=True, **OPTIONS)
    assert not (tmp_path / "d.tif").exists()


@posix
def test_rows_that_would_replace_the_source_of_another_are_refused(tmp_path, slide):
    os.link(slide, tmp_path / "hard.tif")
    (tmp_path / "t.tif").write_bytes(slide.read_bytes())
    with pytest.raises(OptionError, match="same file"):
        slidewright.batch(rows(tmp_path, ("s.tif", "d.tif"), ("t.tif", "hard.tif")), overwrite=True, **OPTIONS)
    assert not (tmp_path / "d.tif").exists()


@pytest.mark.parametrize("report", ["m.csv", "s.tif", "d.tif"])
def test_report_of_a_batch_is_none_of_its_files(tmp_path, slide, report):
    manifest = rows(tmp_path, ("s.tif", "d.tif"))
    before = digest(slide), digest(manifest)
    with pytest.raises(OptionError, match="same file"):
        slidewright.batch(manifest, report=tmp_path / report, overwrite=True, **OPTIONS)
    assert (digest(slide), digest(manifest)) == before


def test_report_of_a_batch_is_not_appended_to_another_file(tmp_path, slide):
    manifest = rows(tmp_path, ("s.tif", "d.tif"))
    (tmp_path / "notes.json").write_text('{"precious": 1}')
    with pytest.raises(OptionError, match="no report of a batch"):
        slidewright.batch(manifest, report=tmp_path / "notes.json", **OPTIONS)
    assert (tmp_path / "notes.json").read_text() == '{"precious": 1}'
    for start in ("", '{"sou', '{\n{"so\n'):  # new, and of batches that were killed
        (tmp_path / "report").write_text(start)
        for status in ("done", "skipped"):
            (item,) = slidewright.batch(manifest, report=tmp_path / "report", **OPTIONS).items
            assert item.status == status
        (tmp_path / "d.tif").unlink()


@pytest.mark.parametrize("text", ['{"my": "measurements"}\n', '{\n "my": 1\n}\n', "\nnotes\n"])
@posix
@pytest.mark.parametrize("how", ["beside the manifest", "in out", "through a link", "of a task"])
def test_reports_that_nobody_named_are_not_appended_to_another_file_either(tmp_path, slide, how, text):
    slides, given = rows(tmp_path, ("s.tif", "d.tif")), dict[str, object](OPTIONS)
    other = tmp_path / "m.report.jsonl"
    if how in ("in out", "through a link"):
        slides, given["out"] = slide, tmp_path / "out"
        (tmp_path / "out").mkdir()
        other = tmp_path / "out" / "slidewright-batch.jsonl"
    if how == "through a link":
        other.symlink_to(tmp_path / "notes")
    if how == "of a task":
        given |= {"report": tmp_path / "q.jsonl", "task": (0, 2)}
        other = tmp_path / "q.task-00000.jsonl"
    other.write_text(text)
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(OptionError, match="no report of a batch"):
        slidewright.batch(slides, **given)
    assert other.read_text() == text
    assert sorted(path for path in tmp_path.rglob("*")) == before
    other.unlink()
    for status in ("done", "skipped"):  # a report of its own is appended to
        (item,) = slidewright.batch(slides, **given).items
        assert item.status == status


def test_report_of_a_batch_is_not_written_into_a_source(tmp_path):
    import zarr

    zarr.save_array(tmp_path / "s.zarr", np.zeros((100, 100), np.uint8))
    with pytest.raises(OptionError, match="would lie in the source"):
        slidewright.batch(tmp_path / "s.zarr", tmp_path / "out", report=tmp_path / "s.zarr" / "r.jsonl", **OPTIONS)
    assert "r.jsonl" not in os.listdir(tmp_path / "s.zarr")


def test_folder_that_is_renamed_while_its_rules_are_tried(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    monkeypatch.setattr(file_identity.os.path, "exists", lambda _: (tmp_path / "a").rename(tmp_path / "b") is None)
    assert not file_identity._ignores_case(str(tmp_path / "a"))


def test_rules_for_names_are_not_tried_where_one_of_two_names_is_there(tmp_path, monkeypatch):
    """A kill meanwhile would leave the hidden file that they are tried with."""
    (tmp_path / "Slide.tif").touch()
    if (tmp_path / "slide.tif").exists():
        pytest.skip("the filesystem takes both for one")
    monkeypatch.setattr(file_identity, "_takes_for_one", lambda *_: pytest.fail("a file was made"))
    assert not file_identity.same_file(tmp_path / "Slide.tif", tmp_path / "slide.tif")
    assert not file_identity.same_file(tmp_path / "slide.tif", tmp_path / "Slide.tif")


def test_names_that_differ_in_case_are_held_apart_where_the_filesystem_does(tmp_path, slide, monkeypatch):
    (tmp_path / "t.tif").write_bytes(slide.read_bytes())
    manifest = rows(tmp_path, ("s.tif", "out.tif"), ("t.tif", "OUT.tif"))
    monkeypatch.setattr(file_identity, "_ignores_case", lambda folder: True)
    with pytest.raises(OptionError, match="both become"):
        slidewright.batch(manifest, **OPTIONS)
    monkeypatch.undo()
    if not file_identity._ignores_case(str(tmp_path)):
        assert [item.status for item in slidewright.batch(manifest, **OPTIONS).items] == ["done", "done"]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".slidewright-")]


def test_rules_for_names_are_tried_once_for_many_of_them(tmp_path, monkeypatch):
    """Each try makes a file in the folder; 1,000 names that differ in case took minutes."""
    letters = list(enumerate("abcdefghij"))
    names = ["".join(letter.upper() if n >> bit & 1 else letter for bit, letter in letters) for n in range(1000)]
    tried, really = [], file_identity._takes_for_one
    monkeypatch.setattr(file_identity, "_takes_for_one", lambda *given: tried.append(given) or really(*given))
    found = list(file_identity.shared_places([str(tmp_path / name) for name in [*names, "other", names[3]]]))
    assert len(tried) == 2
    assert found == [(3, 1001)] or file_identity._ignores_case(str(tmp_path))


@pytest.mark.parametrize(("one", "other"), [("\u00e9.tif", "e\u0301.tif"), ("\u00e9.tif", "E\u0301.tif")])
def test_names_of_two_spellings_are_held_apart_where_the_filesystem_does(tmp_path, slide, monkeypatch, one, other):
    """As those of Apple's do not."""
    (tmp_path / "t.tif").write_bytes(slide.read_bytes())
    manifest = rows(tmp_path, ("s.tif", one), ("t.tif", other))
    for kind in ("_ignores_case", "_ignores_form"):
        monkeypatch.setattr(file_identity, kind, lambda folder: True)
    with pytest.raises(OptionError, match="both become"):
        slidewright.batch(manifest, **OPTIONS)
    monkeypatch.setattr(file_identity, "_ignores_form", lambda folder: False)
    assert [item.status for item in slidewright.batch(manifest, **OPTIONS).items] == ["done", "done"]


def make_special(path: Path, kind: str) -> socket.socket | None:
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        server = socket.socket(socket.AF_UNIX)
        server.bind(os.path.relpath(path))
        return server
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("needs root, to make a device")
    else:
        path.symlink_to("/dev/null")
    return None


@posix
@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "link to a device"])
@pytest.mark.parametrize("target", ["destination", "report"])
def test_what_is_no_file_is_never_replaced(tmp_path, slide, kind, target, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    special = tmp_path / "special"
    holder = make_special(special, kind)
    before = os.lstat(special)
    names = {"dest": special} if target == "destination" else {"dest": tmp_path / "o.tif", "report": special}
    with pytest.raises(DestinationError, match="device, a pipe or a socket"):
        slidewright.convert(slide, overwrite=True, **names, **OPTIONS)
    after = os.lstat(special)
    assert (after.st_mode, after.st_ino) == (before.st_mode, before.st_ino)
    assert sorted(os.listdir(tmp_path)) == ["s.tif", "special"]
    if holder is not None:
        holder.close()


@posix
@pytest.mark.parametrize("alias", [lambda old, new: old, hard_link, soft_link])
def test_image_of_the_label_is_neither_destination_nor_report(tmp_path, slide, alias):
    from PIL import Image

    label = tmp_path / "label.tif"
    Image.new("RGB", (20, 30), "red").save(label)
    before, other = digest(label), alias(label, tmp_path / "alias.tif")
    given = {"label": label, "overwrite": True, **OPTIONS}
    with pytest.raises(DestinationError, match="label image"):
        slidewright.convert(slide, other, **given)
    with pytest.raises(DestinationError, match="label image"):
        slidewright.convert(slide, other, resume=True, **given)
    with pytest.raises(DestinationError, match="label image"):
        slidewright.convert(slide, tmp_path / "o.tif", report=other, **given)
    with pytest.raises(OptionError, match="same file"):
        slidewright.batch(rows(tmp_path, ("s.tif", other.name)), **given)
    assert digest(label) == before
    assert not (tmp_path / "o.tif").exists()
    assert not list(tmp_path.glob("*.shards"))


# ---- a source that changes


@pytest.mark.parametrize("change", ["written", "longer", "replaced"])
@pytest.mark.parametrize("archive", [None, "jpegxl"])
def test_source_that_changes_while_it_is_read_makes_no_file(tmp_path, archive, change, monkeypatch):
    slide = tmp_path / "s.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (150, 200, 3), np.uint8)
    tifffile.imwrite(slide, pixels, tile=(64, 64), photometric="rgb", compression="jpeg")
    os.utime(slide, (1e9, 1e9))
    whole = slide.read_bytes()
    execute = conversion.execute

    def changing(*arguments):
        outcome = execute(*arguments)
        if change == "replaced":
            (tmp_path / "other").write_bytes(whole)
            (tmp_path / "other").replace(slide)
        else:
            slide.write_bytes(whole + (b"more" if change == "longer" else b""))
        return outcome

    monkeypatch.setattr(conversion, "execute", changing)
    with pytest.raises(slidewright.SourceError, match="has changed while it was read"):
        slidewright.convert(slide, tmp_path / "o.tif", archive=archive, n_workers=0)
    assert os.listdir(tmp_path) == ["s.tif"]


def replace_once_opened(monkeypatch, slide, other):
    """Have `other` take the place of a slide in the moment after it was first opened."""
    module = sys.modules[slidewright.convert.__module__]
    opened = module.open_selected

    def replaced(*arguments):
        found = opened(*arguments)
        if other.exists():
            other.replace(slide)
        return found

    monkeypatch.setattr(module, "open_selected", replaced)


@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_source_that_is_replaced_when_it_has_just_been_opened_makes_no_file(tmp_path, suffix, monkeypatch):
    """Its pixels would be the new one's, and its resolution the old one's."""
    slide, other = tmp_path / f"s.{suffix}", tmp_path / f"other.{suffix}"
    for path, grey in ((slide, 10), (other, 99)):
        Image.new("RGB", (200, 150), (grey, grey, grey)).save(path)
    replace_once_opened(monkeypatch, slide, other)
    with pytest.raises(slidewright.SourceError, match=r"has changed while it was read|is not the file it was"):
        slidewright.convert(slide, tmp_path / "o.tif", n_workers=0)
    assert os.listdir(tmp_path) == [slide.name]
    slidewright.convert(slide, tmp_path / "o.tif", n_workers=0)


def test_file_beside_the_one_that_was_seen_is_another(tmp_path):
    """A source of the caller's may name its own files and pass on what a TIFF says of itself."""
    one, other = tmp_path / "mask.tif", tmp_path / "s.tif"
    for path, text in ((one, "mask"), (other, "slide, longer")):
        path.write_text(text)
    files = watched.WatchedFiles([str(one), str(other)], {str(other): file_identity.seen_as(other)})
    files.check()
    other.write_text("changed")
    with pytest.raises(slidewright.SourceError, match=r"s\.tif has changed"):
        files.check()


def test_job_of_a_source_that_was_replaced_when_it_had_just_been_opened_is_begun_again(tmp_path, monkeypatch):
    """Its shards were of the old file and named as of the new one, and refused for ever."""
    slide, other = tmp_path / "s.tif", tmp_path / "other.tif"
    rng = np.random.default_rng(3)
    for path, photometric in ((slide, "rgb"), (other, "ycbcr")):
        pixels = rng.integers(0, 255, (150, 200, 3), np.uint8)
        tifffile.imwrite(path, pixels, tile=(64, 64), compression="jpeg", photometric=photometric)
    replace_once_opened(monkeypatch, slide, other)
    with pytest.raises(slidewright.SourceError, match=r"is not the file it was|has changed"):
        slidewright.convert(slide, tmp_path / "o.tif", n_workers=0, resume=True)
    assert slidewright.convert(slide, tmp_path / "o.tif", n_workers=0, resume=True).kept_tiles


def write_over(path: Path, data: bytes, status: os.stat_result | None = None) -> None:
    with path.open("r+b") as file:
        file.write(data)
    if status is not None:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def once_half_done(act, part=0.5):
    """A callback that acts in the middle of a run."""
    acted = []

    def told(snapshot):
        if not acted and snapshot.tiles_done >= part * snapshot.tiles_total:
            acted.append(act())

    return told


@pytest.fixture
def swapped(tmp_path):
    """A slide, and how it is written over with other pixels and put back as it was."""
    rng, slide = np.random.default_rng(8), tmp_path / "s.tif"
    for path in (tmp_path / "other.tif", slide):
        tifffile.imwrite(path, rng.integers(0, 255, (500, 600), np.uint8), tile=(64, 64))
    own, others, status = slide.read_bytes(), (tmp_path / "other.tif").read_bytes(), slide.stat()
    return slide, lambda: write_over(slide, others), lambda: write_over(slide, own, status)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_parts_of_what_a_source_was_meanwhile_are_not_kept(swapped, tmp_path, n_workers):
    """Put back from a backup, with its time, it is the source of the parts that were made before."""
    slide, swap, back = swapped
    options = {"tile_size": 64, "block_tiles": 1, "compression": "zstd", "n_workers": n_workers}
    told = once_half_done(swap, part=0 if n_workers else 0.5)  # of workers it is told now and then
    with pytest.raises(slidewright.SourceError, match=r"has changed while it was read|is not the file it was"):
        slidewright.convert(slide, tmp_path / "o.tif", resume=True, progress=told, **options)
    back()
    slidewright.convert(slide, tmp_path / "o.tif", resume=True, **options)
    slidewright.convert(slide, tmp_path / "p.tif", **options)
    assert (tmp_path / "o.tif").read_bytes() == (tmp_path / "p.tif").read_bytes()


def test_shard_of_a_source_that_changes_is_not_made(swapped, tmp_path):
    slide, swap, back = swapped
    options = {"tile_size": 64, "block_tiles": 1, "compression": "zstd", "n_workers": 0}
    with pytest.raises(slidewright.SourceError, match="has changed while it was read"):
        slidewright.shard(slide, tmp_path / "sh", index=0, count=2, progress=once_half_done(swap), **options)
    back()
    assert not list((tmp_path / "sh").glob("shard-*"))
    assert not slidewright.shard(slide, tmp_path / "sh", index=0, count=2, **options).done_before


def test_shard_of_a_source_that_is_replaced_once_the_job_is_noted_is_not_made(tmp_path, monkeypatch):
    """The job has the size and time of the file that was there before."""
    rng, slide, other = np.random.default_rng(2), tmp_path / "s.npy", tmp_path / "other.npy"
    for path in (slide, other):
        np.save(path, rng.integers(0, 255, (200, 300), np.uint8))
    plan = shard_module.shard_plan

    def replacing(*arguments, **options):
        if other.exists():
            other.replace(slide)
        return plan(*arguments, **options)

    monkeypatch.setattr(shard_module, "shard_plan", replacing)
    with pytest.raises(slidewright.SourceError, match="has changed while it was read"):
        slidewright.shard(slide, tmp_path / "sh", index=0, count=2, n_workers=0)
    assert not list((tmp_path / "sh").glob("shard-*"))


@posix
def test_shard_of_a_source_whose_time_was_set_back_is_told(swapped, tmp_path):
    slide, swap, back = swapped

    def both():
        swap()
        back()

    options = {"tile_size": 64, "block_tiles": 1, "n_workers": 0}
    done = slidewright.shard(slide, tmp_path / "sh", index=0, count=2, progress=once_half_done(both), **options)
    (warning,) = done.warnings
    assert f"{slide} was touched while it was read" in warning


@pytest.mark.parametrize("interrupted", [False, True])
def test_parts_of_a_store_of_which_a_chunk_changes_are_not_kept(tmp_path, interrupted):
    """Its folders are not looked at for each shard, but at the end of the run; whoever interrupts it does not wait for
    that, and the next run tells.
    """
    rng, store = np.random.default_rng(9), tmp_path / "s.zarr"
    array = zarr.create_array(store, shape=(500, 600), chunks=(100, 100), dtype="uint8", compressors=None)
    array[...] = rng.integers(0, 255, array.shape, np.uint8)
    chunk = store / "c" / "4" / "5"
    own, status = chunk.read_bytes(), chunk.stat()

    def swap():
        write_over(chunk, bytes(len(own)))
        if interrupted:
            raise KeyboardInterrupt

    options = {"tile_size": 64, "block_tiles": 1, "compression": "zstd", "n_workers": 0}
    with pytest.raises(KeyboardInterrupt if interrupted else slidewright.SourceError):
        slidewright.convert(store, tmp_path / "o.tif", resume=True, progress=once_half_done(swap), **options)
    assert bool(list((tmp_path / "o.tif.shards").glob("shard-*"))) == interrupted
    write_over(chunk, own, status)
    warnings = slidewright.convert(store, tmp_path / "o.tif", resume=True, **options).warnings
    if interrupted:
        assert "was touched since the first part was made of it" in warnings[0]
    else:
        assert not warnings
        assert (tifffile.imread(tmp_path / "o.tif") == array[...]).all()


@posix
@pytest.mark.parametrize("n_workers", [0, 1])
def test_parts_of_a_file_that_was_written_over_and_removed_are_not_made(swapped, tmp_path, n_workers):
    """Who holds it open can tell; put back, it is the source of the job again."""
    slide, swap, back = swapped
    own = slide.read_bytes()

    def swap_and_remove():
        swap()
        slide.unlink()

    told = once_half_done(swap_and_remove, part=0 if n_workers else 0.5)
    options = {"tile_size": 64, "block_tiles": 1, "compression": "zstd", "n_workers": n_workers}
    with pytest.raises(slidewright.SourceError):  # a worker that opens it later says that it is not there
        slidewright.convert(slide, tmp_path / "o.tif", resume=True, progress=told, **options)
    assert not list((tmp_path / "o.tif.shards").glob("shard-*"))
    slide.write_bytes(own)
    back()
    slidewright.convert(slide, tmp_path / "o.tif", resume=True, **options)
    slidewright.convert(slide, tmp_path / "p.tif", **options)
    assert (tmp_path / "o.tif").read_bytes() == (tmp_path / "p.tif").read_bytes()


def put_aside_and_back(path: Path, meanwhile: Path, copied: bool) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    meanwhile.rename(path)
    path.rename(meanwhile)
    if copied:
        shutil.copytree(aside, path)  # with all times
        shutil.rmtree(aside)
    else:
        aside.rename(path)


@posix
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("group", [False, True])
def test_store_that_was_exchanged_and_put_back_is_told(tmp_path, group, copied):
    """In one run, and between a run that was killed and the next."""
    stores = tmp_path / "s.zarr", tmp_path / "other.zarr"
    for store in stores:
        if group:
            zarr.create_group(store)
        zarr.create_array(store / "0" if group else store, shape=(500, 600), chunks=(100, 100), dtype="uint8")[...] = 50
    options = {"tile_size": 64, "block_tiles": 1, "n_workers": 0}
    source = stores[0]
    told = once_half_done(lambda: put_aside_and_back(*stores, copied))
    if copied:  # and the folder that is read is gone
        with pytest.raises(slidewright.SourceError, match=r"s\.zarr was moved or removed while it was read"):
            slidewright.convert(source, tmp_path / "o.tif", progress=told, **options)
    else:
        (warning,) = slidewright.convert(source, tmp_path / "o.tif", progress=told, **options).warnings
        assert "s.zarr" in warning
        assert "was touched while it was read" in warning

    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slidewright.convert(source, tmp_path / "p.tif", resume=True, progress=once_half_done(stop), **options)
    put_aside_and_back(*stores, copied)
    (warning,) = slidewright.convert(source, tmp_path / "p.tif", resume=True, **options).warnings
    assert "was touched since the first part was made of it" in warning


@posix
def test_source_whose_time_was_set_back_is_told(tmp_path, slide, monkeypatch):
    """As a program does that writes into it and keeps its time; who changes its permissions is no matter."""
    execute, status = conversion.execute, slide.stat()

    def writing(*arguments):
        outcome = execute(*arguments)
        time.sleep(0.02)
        os.utime(slide, ns=(status.st_atime_ns, status.st_mtime_ns))
        return outcome

    def permitting(*arguments):
        outcome = execute(*arguments)
        slide.chmod(0o600)
        return outcome

    monkeypatch.setattr(conversion, "execute", permitting)
    assert not slidewright.convert(slide, tmp_path / "o.tif", n_workers=0).warnings
    monkeypatch.setattr(conversion, "execute", writing)
    (warning,) = slidewright.convert(slide, tmp_path / "p.tif", n_workers=0).warnings
    assert "was touched while it was read" in warning


@posix
@pytest.mark.parametrize("change", ["overwritten", "cut", "nothing"])
def test_source_that_is_shredded_and_removed_while_it_is_read_makes_no_file(tmp_path, slide, change, monkeypatch):
    """A file that is only removed is read to its end by whoever has it open."""
    execute = conversion.execute

    def shredding(*arguments):
        outcome = execute(*arguments)
        if change != "nothing":
            os.utime(slide, (1e9, 1e9))
            with slide.open("r+b") as file:
                file.truncate(100 if change == "cut" else None)
                file.write(bytes(100))
        slide.unlink()
        return outcome

    monkeypatch.setattr(conversion, "execute", shredding)
    if change == "nothing":
        slidewright.convert(slide, tmp_path / "o.tif", **OPTIONS)
        assert os.listdir(tmp_path) == ["o.tif"]
        return
    with pytest.raises(slidewright.SourceError, match="has changed while it was read"):
        slidewright.convert(slide, tmp_path / "o.tif", **OPTIONS)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("resume", [False, True])
def test_store_that_changes_while_it_is_read_makes_no_file(tmp_path, resume):
    array = zarr.create_array(tmp_path / "s.zarr", shape=(256, 256), chunks=(64, 64), dtype="uint8")
    array[...] = 50

    def change(progress):
        if progress.stage != "done":
            array[...] = 200

    with pytest.raises(slidewright.SourceError, match="has changed while it was read"):
        slidewright.convert(
            *(tmp_path / "s.zarr", tmp_path / "o.tif"), progress=change, resume=resume, tile_size=64, n_workers=0
        )
    assert not (tmp_path / "o.tif").exists()


@pytest.fixture
def store(tmp_path):
    """An OME-Zarr of two levels."""
    path = tmp_path / "s.zarr"
    slidewright.convert(np.full((256, 256), 50, np.uint8), path, tile_size=64, levels=2, n_workers=0)
    return path


def add_labels(store, name):
    labels = zarr.open_group(store, mode="r+").require_group("labels")
    labels.attrs["ome"] = {"labels": [name]}
    labels.create_array(name, shape=(256, 256), chunks=(64, 64), dtype="uint8")[...] = 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("n_workers", [0, 1])
def test_labels_beside_the_array_that_is_read_are_no_change(tmp_path, store, resume, n_workers):
    names = iter(["one", "two"])

    def change(progress):
        if name := next(names, None):
            add_labels(store, name)

    slidewright.convert(store, tmp_path / "o.tif", progress=change, resume=resume, n_workers=n_workers)
    assert not next(names, None)
    assert (tifffile.imread(tmp_path / "o.tif") == 50).all()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("changed", ["0", "zarr.json"])
def test_level_or_metadata_that_change_while_they_are_read_make_no_file(tmp_path, store, changed):
    def change(progress):
        if changed == "0":
            zarr.open_group(store, mode="r+")["0"][...] = 200
        else:
            os.utime(store / changed)

    with pytest.raises(slidewright.SourceError, match=rf"s\.zarr/{changed} has changed while it was read"):
        slidewright.convert(store, tmp_path / "o.tif", progress=change, n_workers=0)
    slidewright.convert(store, tmp_path / "o.tif", level=1, progress=lambda _: os.utime(store / "0"), n_workers=0)


@pytest.mark.timeout(60)
def test_labels_are_no_other_source_for_shards_and_batches(tmp_path, store):
    group = zarr.open_group(store, mode="r")
    for number, source in enumerate((store, group)):
        folder = tmp_path / f"shards{number}"
        slidewright.shard(source, folder, index=0, count=2, n_workers=0)
        add_labels(store, f"label{number}")
        slidewright.shard(source, folder, index=1, count=2, n_workers=0)
        slidewright.assemble(folder, tmp_path / f"{number}.tif", source=source, n_workers=0)
    slidewright.batch(store, tmp_path / "out", n_workers=0)
    add_labels(store, "more")
    assert [item.status for item in slidewright.batch(store, tmp_path / "out", n_workers=0).items] == ["skipped"]
    group = zarr.open_group(store, mode="r+")
    group["0"][...] = 200
    assert [item.status for item in slidewright.batch(store, tmp_path / "out", n_workers=0).items] == ["done"]


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize("way", ["convert", "resume", "shard"])
@pytest.mark.parametrize("root", ["s.zarr", "s.zarr/0"])
def test_store_that_is_moved_while_it_is_read_is_no_background(tmp_path, way, compressors, root):
    """Chunks that are missing are background, also where all are, since the folder has gone."""
    pixels = np.random.default_rng(0).integers(1, 255, (512, 512), np.uint8)
    group = zarr.create_group(tmp_path / "s.zarr")
    array = group.create_array("0", shape=(512, 512), chunks=(64, 64), dtype="uint8", compressors=compressors)
    array[...] = pixels
    store, out = tmp_path / root, tmp_path / "o.tif"

    def move(progress):
        if progress.stage != "done" and store.exists():
            (tmp_path / "s.zarr").rename(tmp_path / "moved")

    def run(**more):
        given = {"tile_size": 64, "block_tiles": 2, "compression": "deflate", "n_workers": 0, **more}
        if way != "shard":
            return slidewright.convert(store, out, resume=way == "resume", **given)
        slidewright.shard(store, tmp_path / "shards", index=0, count=1, **given)
        return slidewright.assemble(tmp_path / "shards", out, n_workers=0)

    with pytest.raises(slidewright.SourceError, match=r"moved or removed|has changed while it was read"):
        run(progress=move)
    assert not out.exists()
    (tmp_path / "moved").rename(tmp_path / "s.zarr")
    run()
    assert np.array_equal(tifffile.imread(out), pixels)


@pytest.mark.parametrize("form", [2, 3])
def test_chunk_that_comes_late_to_a_store_of_very_many_is_no_background(tmp_path, form, monkeypatch):
    """As of a store that is still being copied; only the first files of it are looked at."""
    monkeypatch.setattr(on_disk, "_MAX_FILES", 10)
    pixels = np.random.default_rng(0).integers(1, 255, (256, 256), np.uint8)
    zarr.create_array(tmp_path / "s.zarr", data=pixels, chunks=(64, 64), zarr_format=form)
    last = tmp_path / "s.zarr" / ("3.3" if form == 2 else "c/3/3")
    last.rename(tmp_path / "late")
    execute = conversion.execute

    def copying(*arguments):
        outcome = execute(*arguments)
        (tmp_path / "late").rename(last)
        return outcome

    monkeypatch.setattr(conversion, "execute", copying)
    with pytest.raises(slidewright.SourceError, match="has changed while it was read"):
        slidewright.convert(tmp_path / "s.zarr", tmp_path / "o.tif", **OPTIONS)
    assert os.listdir(tmp_path) == ["s.zarr"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("most", [10, 20_000])
def test_folder_is_walked_once_to_see_whether_it_has_changed(tmp_path, most, monkeypatch):
    monkeypatch.setattr(on_disk, "_MAX_FILES", most)
    zarr.create_array(tmp_path / "s.zarr", shape=(256, 256), chunks=(64, 64), dtype="uint8")[...] = 50
    scandir, walked = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda path: walked.append(os.fspath(path)) or scandir(path))
    _, seen = watched._look(str(tmp_path / "s.zarr"))
    assert len(walked) == len(set(walked)) == len(seen["times"]) == 6  # it, c, and four rows


def test_store_that_has_gone_at_the_end_makes_no_file(tmp_path, monkeypatch):
    """It may have gone file by file, so that chunks were missing while its folder was there."""
    zarr.create_array(tmp_path / "s.zarr", shape=(256, 256), chunks=(64, 64), dtype="uint8")[...] = 50
    execute = conversion.execute

    def removing(*arguments):
        outcome = execute(*arguments)
        shutil.rmtree(tmp_path / "s.zarr")
        return outcome

    monkeypatch.setattr(conversion, "execute", removing)
    with pytest.raises(slidewright.SourceError, match="has changed while it was read"):
        slidewright.convert(tmp_path / "s.zarr", tmp_path / "o.tif", **OPTIONS)
    assert os.listdir(tmp_path) == []


# ---- URLs


@pytest.mark.parametrize("url", ["s3://bucket/out", "file:///tmp/out"])
def test_results_that_should_go_to_a_url_do_not_go_into_a_folder_of_that_name(tmp_path, slide, url, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DestinationError, match="is a URL"):
        slidewright.batch(slide, url, **OPTIONS)
    with pytest.raises(OptionError, match="is a URL"):
        share(slide, url)
    assert os.listdir(tmp_path) == ["s.tif"]


@posix
@pytest.mark.parametrize("scheme", ["file://", "local://"])
def test_source_is_not_replaced_under_its_url(tmp_path, slide, scheme):
    pytest.importorskip("fsspec")
    before, url = digest(slide), f"{scheme}{slide}"
    with pytest.raises(DestinationError, match="source itself"):
        slidewright.convert(url, slide, overwrite=True, **OPTIONS)
    with pytest.raises(DestinationError, match="the report"):
        slidewright.convert(url, tmp_path / "o.tif", report=slide, overwrite=True, **OPTIONS)
    with pytest.raises(OptionError, match="same file"):
        slidewright.batch(rows(tmp_path, (url, "s.tif")), overwrite=True, **OPTIONS)
    assert digest(slide) == before


# ---- folders of shards


def share(slide, folder, **options):
    for index in range(2):
        slidewright.shard(slide, folder, index=index, count=2, **OPTIONS, **options)


def test_resumed_run_removes_nothing_but_its_own(tmp_path, slide):
    shards = tmp_path / "o.tif.shards"
    (shards / "notes").mkdir(parents=True)
    (shards / "notes" / "thesis.partial").write_bytes(b"precious")
    (shards / "x.partial").write_bytes(b"precious")
    slidewright.convert(slide, tmp_path / "o.tif", resume=True, **OPTIONS)
    assert sorted(str(path.relative_to(shards)) for path in shards.rglob("*")) == [
        "notes",
        "notes/thesis.partial",
        "x.partial",
    ]


def test_removed_shards_leave_what_others_put_into_their_folders(tmp_path):
    zarr, shards = {"format": "ome-zarr", "zarr_shard": 2, "block_tiles": 2, **OPTIONS}, tmp_path / "work"
    np.save(tmp_path / "s.npy", np.random.default_rng(0).integers(0, 255, (600, 700), np.uint8))
    for index in range(2):
        slidewright.shard(tmp_path / "s.npy", shards, index=index, count=2, **zarr)
    level = min(shards.glob("level-*.zarr"))
    (level / "c" / "0" / "0" / f"0.{'0' * 16}.partial").write_bytes(b"of a killed task")
    mine = ["files/README.txt", "files/0/c/notes/a", f"{level.name}/notes.txt", f"{level.name}/c/0/plan", "notes.txt"]
    empty = shards / "files" / "mine"
    empty.mkdir()
    for name in mine:
        (shards / name).parent.mkdir(exist_ok=True)
        (shards / name).write_bytes(b"precious")
    assert len(list(shards.rglob("*"))) > 40
    slidewright.assemble(shards, tmp_path / "o.zarr", remove=True, n_workers=0)
    left = [path for path in shards.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(shards)) for path in left) == sorted(mine)
    assert empty.is_dir()
    assert sorted(os.listdir(shards / "files" / "0")) == ["c"]


def test_assembling_removes_neither_what_it_made_nor_its_source(tmp_path, slide):
    shards = tmp_path / "work"
    shards.mkdir()
    inner = shards / "s.tif"
    slide.rename(inner)
    share(inner, shards)
    slidewright.assemble(shards, shards / "o.tif", remove=True, n_workers=0)
    assert sorted(os.listdir(shards)) == ["o.tif", "s.tif"]


@pytest.mark.parametrize("name", ["job.json", "shard-00000-of-00002"])
def test_shards_are_not_replaced_by_what_is_put_together_out_of_them(tmp_path, slide, name):
    share(slide, tmp_path / "work")
    before = digest(tmp_path / "work" / name)
    with pytest.raises(DestinationError, match="part of the shards"):
        slidewright.assemble(tmp_path / "work", tmp_path / "work" / name, overwrite=True, n_workers=0)
    assert digest(tmp_path / "work" / name) == before


@pytest.mark.parametrize(
    ("form", "name"), [(None, "o.ome.tif"), (None, "o.zarr"), (None, "o.png"), ("ome-zarr", "o.tif")]
)
def test_shards_are_not_put_together_under_the_name_of_another_format(tmp_path, slide, form, name):
    share(slide, tmp_path / "work", format=form)
    with pytest.raises(OptionError, match=r"name of format|is named '.png'"):
        slidewright.assemble(tmp_path / "work", tmp_path / name, n_workers=0)
    assert sorted(os.listdir(tmp_path)) == ["s.tif", "work"]
    slidewright.assemble(tmp_path / "work", tmp_path / "o.3", n_workers=0)


@pytest.mark.parametrize("name", ["files", "level-1.zarr", "lock", "shard-00000-of-00002"])
def test_shards_are_not_made_over_what_is_not_theirs(tmp_path, slide, name):
    shards = tmp_path / "work"
    shards.mkdir()
    (shards / name).write_bytes(b"precious")
    with pytest.raises(OptionError, match="would be lost"):
        share(slide, shards)
    assert os.listdir(shards) == [name]
    assert (shards / name).read_bytes() == b"precious"


# ---- a batch that was killed before it could say what it had made


def test_batch_that_lost_its_report_finds_its_files_by_their_content(tmp_path, slide):
    (tmp_path / "t.tif").write_bytes(slide.read_bytes())
    manifest = rows(tmp_path, ("s.tif", "d.tif"), ("t.tif", "e.tif"))
    slidewright.batch(manifest, **OPTIONS)
    before = (tmp_path / "d.tif").stat()
    (tmp_path / "m.report.jsonl").unlink()
    report = slidewright.batch(manifest, **OPTIONS)
    assert [item.status for item in report.items] == ["done", "done"]
    assert (tmp_path / "d.tif").stat().st_ino == before.st_ino
    assert [item.status for item in slidewright.batch(manifest, **OPTIONS).items] == ["skipped", "skipped"]


def test_file_of_ours_with_other_content_is_not_taken_for_the_one_to_make(tmp_path, slide):
    manifest = rows(tmp_path, ("s.tif", "d.tif"))
    slidewright.convert(slide, tmp_path / "d.tif", compression="deflate", **OPTIONS)
    before = digest(tmp_path / "d.tif")
    (item,) = slidewright.batch(manifest, compression="zstd", **OPTIONS).items
    assert (item.status, "exists" in (item.error or "")) == ("failed", True)
    assert digest(tmp_path / "d.tif") == before
    assert sorted(os.listdir(tmp_path)) == ["d.tif", "m.csv", "m.report.jsonl", "s.tif"]


KILLED = """
import os, signal, sys
import slidewright
from slidewright.conversions import batch_pool, destination
rename = destination.Destination.commit
def commit(self):
    rename(self)
    os.killpg(0, signal.SIGKILL)
destination.Destination.commit = commit
run = batch_pool.SlidePool.run  # where a process of its own gives the name
def told(self, slides):
    for outcome in run(self, slides):
        os.killpg(0, signal.SIGKILL)
        yield outcome
batch_pool.SlidePool.run = told
slidewright.batch(sys.argv[1], n_workers=int(sys.argv[2]), tile_size=64, resume=sys.argv[3] == "resume")
"""


@posix
@pytest.mark.parametrize("how", ["plain", "resume"])
@pytest.mark.parametrize("workers", [0, 1])
def test_batch_killed_between_name_and_report_goes_on(tmp_path, slide, workers, how):
    manifest = rows(tmp_path, ("s.tif", "d.tif"))
    line = [sys.executable, "-c", KILLED, str(manifest), str(workers), how]
    done = subprocess.run(line, capture_output=True, start_new_session=True, timeout=50)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "d.tif").exists()
    (item,) = slidewright.batch(manifest, resume=how == "resume", **OPTIONS).items
    assert (item.status, item.error) == ("done", None)
    assert sorted(os.listdir(tmp_path)) == ["d.tif", "m.csv", "m.report.jsonl", "s.tif"]


@pytest.mark.parametrize("status", ["skipped", "failed"])
def test_lock_of_a_killed_run_goes_whatever_becomes_of_the_slide(tmp_path, slide, status):
    manifest = rows(tmp_path, ("s.tif", "d.tif"))
    if status == "skipped":
        slidewright.batch(manifest, **OPTIONS)
    else:
        (tmp_path / "d.tif").write_bytes(b"precious")
    (tmp_path / f".d.tif.{'0' * 16}.lock").touch()
    (tmp_path / f".d.tif.{'0' * 16}.partial").touch()
    (item,) = slidewright.batch(manifest, **OPTIONS).items
    assert item.status == status
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_scratch_of_a_killed_run_goes_where_the_next_is_refused(tmp_path, slide):
    """It was killed when its file had its name; who asks for that file again is told that it exists."""
    scratch, dest = tmp_path / "scratch", tmp_path / "d.tif"
    scratch.mkdir()
    dest.write_bytes(b"complete")
    dead, living = (scratch / f"slidewright-scratch-{name}" for name in ("0" * 16, "1" * 16))
    for folder in (dead, living):
        folder.mkdir()
        (folder / "chunk").write_bytes(b"half")
    locks = [file_lock.FileLock(f"{folder}.lock") for folder in (dead, living)]
    locks[0].release()
    with pytest.raises(DestinationError, match="exists"):
        slidewright.convert(slide, dest, scratch=scratch, **OPTIONS)
    assert sorted(os.listdir(scratch)) == [living.name, f"{living.name}.lock"]
    locks[1].release()


@pytest.mark.parametrize("unique", ["deleted-20241130", "before_retouches", "0123456789ABCDEF", "0" * 15, "0" * 17])
def test_hidden_things_whose_names_only_look_like_those_of_a_run_stay(tmp_path, slide, unique):
    shards, scratch = tmp_path / "o.tif.shards", f"slidewright-scratch-{unique}"
    names = [f".o.tif.{unique}{ending}/a" for ending in (".trash", ".partial", ".old")] + [f".o.tif.{unique}.lock"]
    names += [f"{scratch}/a", f"{scratch}.lock", f"o.tif.shards/shard-00000-of-00001.{unique}.partial"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"precious")
    slidewright.convert(slide, tmp_path / "o.tif", resume=True, scratch=tmp_path, **OPTIONS)
    assert os.listdir(shards) == [os.path.basename(names[-1])]
    assert all((tmp_path / name).read_bytes() == b"precious" for name in names)


# ---- folders, which no system but Linux can exchange in one step


def made(folder: Path) -> int:
    """The first level's height, of a folder that the second format wrote."""
    return int(json.loads((folder / "index.json").read_text())["levels"][0][0])


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "o.segments"
    slidewright.convert(np.zeros((100, 90), np.uint8), out, **OPTIONS)
    assert made(out) == 100
    return out


@pytest.mark.parametrize("swaps", [True, False])
def test_folder_is_replaced_whole(tmp_path, folder, monkeypatch, swaps):
    if not swaps:
        monkeypatch.setattr(destinations, "exchange", lambda *_: False)
    slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    assert made(folder) == 70
    assert os.listdir(tmp_path) == ["o.segments"]


@pytest.mark.parametrize("before", [False, True])
def test_folder_of_other_things_that_came_meanwhile_is_not_replaced(tmp_path, folder, before, monkeypatch):
    execute = conversion.execute

    def slowly(*arguments):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "thesis.txt").write_bytes(b"precious")
        return execute(*arguments)

    if not before:
        shutil.rmtree(folder)
    monkeypatch.setattr(conversion, "execute", slowly)
    with pytest.raises(DestinationError, match="other things"):
        slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    assert os.listdir(tmp_path) == ["o.segments"]
    assert os.listdir(folder) == ["thesis.txt"]


@pytest.mark.parametrize("stale", [False, True])
def test_exchange_that_happened_and_was_told_as_failed(tmp_path, folder, stale, monkeypatch):
    """The old folder must not come back; where nobody can tell which has the name, it is an error, and the new one
    stays.
    """
    real, stat_of = destinations.exchange, os.stat

    def unknown(path, *more, **options):
        if path == str(folder):
            raise OSError(errno.ESTALE, "Stale file handle")
        return stat_of(path, *more, **options)

    def told_as_failed(one, other):
        if not real(one, other):
            pytest.skip("nothing can be exchanged here")
        if stale:
            monkeypatch.setattr(os, "stat", unknown)
        return False

    monkeypatch.setattr(destinations, "exchange", told_as_failed)
    with pytest.raises(OutputError, match="Stale") if stale else contextlib.nullcontext():
        slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    monkeypatch.undo()
    assert made(folder) == 70
    assert os.listdir(tmp_path) == ["o.segments"]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("swaps", [True, False])
def test_folder_of_other_things_that_came_right_before_the_exchange_is_put_back(
    tmp_path, folder, swaps, again, monkeypatch
):
    """One that comes before the exchange back, `again`, is kept where it is, and gets the name once that is free."""
    real, calls = destinations.exchange, []

    def late(one, other):
        calls.append(one)
        if len(calls) == 1 or again:
            shutil.rmtree(folder)
            folder.mkdir()
            (folder / f"thesis{len(calls)}.txt").write_bytes(b"precious")
        if swaps and not real(one, other):
            pytest.skip("nothing can be exchanged here")
        return swaps

    monkeypatch.setattr(destinations, "exchange", late)
    with pytest.raises(DestinationError, match="other things"):
        slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    monkeypatch.undo()
    assert os.listdir(folder) == ["thesis1.txt"]
    if again and swaps:
        folder.rename(tmp_path / "first")
        sweep_beside(folder)
        assert os.listdir(folder) == ["thesis2.txt"]
        (tmp_path / "first" / "thesis1.txt").unlink()
        (tmp_path / "first").rmdir()
    assert os.listdir(tmp_path) == ["o.segments"]


@pytest.mark.parametrize("what", ["unreadable", "not put back"])
def test_stranger_is_no_success_where_the_disk_fails_over_it(tmp_path, folder, exchanges, what, monkeypatch):
    """The error was taken for one of a rename that has happened."""
    real, calls = destinations.exchange, []

    def late(one, other):
        calls.append(one)
        if len(calls) == 1:
            shutil.rmtree(folder)
            folder.mkdir()
            (folder / "thesis.txt").write_bytes(b"precious")
        return real(one, other) if len(calls) != 2 or what == "unreadable" else False

    def refused(*given):
        if what == "unreadable":
            raise PermissionError(errno.EACCES, "Permission denied")
        raise FileExistsError(str(folder))

    monkeypatch.setattr(destinations, "exchange", late)
    monkeypatch.setattr(Destination, "_accept", refused)
    with pytest.raises(slidewright.SlidewrightError, match=r"can't look at what was|exists"):
        slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    assert os.listdir(folder) == ["thesis.txt"]
    assert os.listdir(tmp_path) == ["o.segments"]


def test_old_folder_that_was_moved_aside_never_comes_back_in_parts(tmp_path, folder, monkeypatch):
    """Where a kill came in its removal, and the finished one was moved away as soon as it had its name."""
    monkeypatch.setattr(destinations, "exchange", lambda *_: False)
    monkeypatch.setattr(Destination, "_remove_left", lambda _: None)
    slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    monkeypatch.undo()
    (old,) = tmp_path.glob(".*.partial")
    (old / "index.json").unlink()
    folder.rename(tmp_path / "moved.segments")
    sweep_beside(folder)
    assert os.listdir(tmp_path) == ["moved.segments"]


@pytest.mark.parametrize("there", [False, True])
def test_source_that_gets_the_name_in_the_last_instant_is_not_replaced(tmp_path, slide, exchanges, there, monkeypatch):
    out, before = tmp_path / "o.tif", digest(slide)
    name = "exchange" if there else "rename_new"
    real = getattr(destinations, name)
    if there:
        slidewright.convert(slide, out, **OPTIONS)

    def late(one, other):
        with contextlib.suppress(FileNotFoundError):
            os.replace(slide, out)
        return real(one, other)

    monkeypatch.setattr(destinations, name, late)
    with pytest.raises(DestinationError, match="is the source itself"):
        slidewright.convert(slide, out, overwrite=True, **OPTIONS)
    assert digest(out) == before
    assert os.listdir(tmp_path) == ["o.tif"]


def killed_itself(code: str, *words: str) -> None:
    """Run a program that ends by SIGKILL."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(folder_format.__file__).parent), *sys.path])}
    line = [sys.executable, "-c", code, *words]
    done = subprocess.run(line, capture_output=True, start_new_session=True, timeout=50, env=environment)
    assert done.returncode == -signal.SIGKILL, done.stderr


def the_fork_server_is_done(folder: Path) -> None:
    """Wait until it has left one thing there, or for ten seconds."""
    deadline = time.monotonic() + 10
    while len(os.listdir(folder)) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)


POOL_KILLED = """
import os, signal, sys
from slidewright.system.launcher import ProcessLauncher
launcher = ProcessLauncher(())
for path in sys.argv[1:]:
    launcher.own(path)
os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_folder_moved_aside_in_a_pool_that_is_killed_comes_back_with_the_next_run(tmp_path, folder):
    """What cleans up knows the temporary names alone: as long as the old one is there, its lock stays."""
    stem = str(tmp_path / f".o.segments.{files.token()}")
    (tmp_path / "o.segments").rename(f"{stem}.old")
    Path(f"{stem}.partial").mkdir()
    Path(f"{stem}.lock").touch()
    line = [sys.executable, "-c", POOL_KILLED, f"{stem}.partial", f"{stem}.lock"]
    assert subprocess.run(line, timeout=50).returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while os.path.exists(f"{stem}.partial") and time.monotonic() < deadline:
        time.sleep(0.02)  # the fork server is at work
    time.sleep(0.2)
    sweep_beside(folder)
    assert os.listdir(tmp_path) == ["o.segments"]
    assert made(folder) == 100


EXCHANGE_KILLED = """
import os, shutil, signal, sys
import numpy as np
import folder_format
import slidewright
from slidewright.conversions import destination
real, place, victim, stays = destination.exchange, *sys.argv[1:4]
def late(one, other):
    shutil.rmtree(place)
    os.mkdir(place)
    with open(os.path.join(place, "thesis.txt"), "w") as file:
        file.write("precious")
    assert real(one, other)
    if stays == "gone":
        shutil.rmtree(place)
    os.kill(os.getpid(), signal.SIGKILL) if victim == "caller" else os.killpg(0, signal.SIGKILL)
destination.exchange = late
slidewright.convert(np.zeros((70, 90), np.uint8), place, overwrite=True, tile_size=64, n_workers=1)
"""


@pytest.fixture
def exchanges(tmp_path):
    """Skips where no names can be exchanged."""
    (tmp_path / "one").touch()
    (tmp_path / "other").touch()
    if not files.exchange(str(tmp_path / "one"), str(tmp_path / "other")):
        pytest.skip("nothing can be exchanged here")
    (tmp_path / "one").unlink()
    (tmp_path / "other").unlink()


@posix
@pytest.mark.parametrize("stays", ["there", "gone"])
@pytest.mark.parametrize("victim", ["caller", "everything"])
def test_folder_that_came_right_before_the_exchange_comes_back_after_a_kill(tmp_path, folder, exchanges, victim, stays):
    killed_itself(EXCHANGE_KILLED, str(folder), victim, stays)
    if victim == "caller":
        the_fork_server_is_done(tmp_path)
    else:
        sweep_beside(folder)
    assert os.listdir(tmp_path) == ["o.segments"]
    assert (folder / "thesis.txt").read_text() == "precious"


REMOVING_KILLED = """
import os, signal, sys
from slidewright.conversions.destination import sweep_beside
unlink, count = os.unlink, []
def kill(*given, **named):
    unlink(*given, **named)
    count.append(given)
    if len(count) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
os.unlink = kill
sweep_beside(sys.argv[1])
"""


@posix
def test_old_folder_of_which_a_kill_has_left_a_part_does_not_come_back(tmp_path, folder, exchanges, monkeypatch):
    """A run is killed right after the exchange, and the next while it removes what was replaced: that has another time
    by then than the lock's note says.
    """

    class KilledError(BaseException):
        pass

    def late(one, other):
        assert real(one, other)
        monkeypatch.setattr(Destination, "_remove_left", lambda _: None)
        raise KilledError

    real = destinations.exchange
    with monkeypatch.context() as patched:
        patched.setattr(destinations, "exchange", late)
        with pytest.raises(KilledError):
            slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    monkeypatch.undo()
    (old,) = tmp_path.glob(".*.partial")
    (lock,) = tmp_path.glob(".*.lock")
    before = len(list(old.rglob("*")))
    assert files._marks_in(str(lock)) != []
    killed = subprocess.run([sys.executable, "-c", REMOVING_KILLED, str(folder)], timeout=50)
    assert killed.returncode == -signal.SIGKILL
    assert 0 < len(list(old.rglob("*"))) < before
    sweep_beside(folder)
    assert os.listdir(tmp_path) == ["o.segments"]
    assert made(folder) == 70


def test_folder_that_can_not_be_put_back_stays(tmp_path, folder, exchanges, monkeypatch):
    """Somebody has put a third there meanwhile, which is theirs as well."""
    real, calls = destinations.exchange, []

    def late(one, other):
        calls.append(one)
        if len(calls) == 2:
            shutil.rmtree(folder)
            (folder / "more").mkdir(parents=True)
            return False
        shutil.rmtree(folder)
        folder.mkdir()
        (folder / "thesis.txt").write_bytes(b"precious")
        return real(one, other)

    monkeypatch.setattr(destinations, "exchange", late)
    with pytest.raises(DestinationError, match="other things"):
        slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    sweep_beside(folder)
    (kept,) = tmp_path.glob(".*.partial")
    assert os.listdir(kept) == ["thesis.txt"]
    shutil.rmtree(folder)
    sweep_beside(folder)
    assert os.listdir(tmp_path) == ["o.segments"]
    assert os.listdir(folder) == ["thesis.txt"]


@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("there", [False, True])
def test_file_that_came_right_before_a_batch_gives_the_name_is_not_replaced(
    tmp_path, slide, there, swaps, monkeypatch
):
    """It may replace what it has made itself, and nothing else: not even in the last instant."""
    out, asked = tmp_path / "out" / "s.tif", tmp_path / "slides"
    asked.mkdir()
    slide = slide.rename(asked / "s.tif")
    slidewright.batch([asked], tmp_path / "out", **OPTIONS)
    real = Destination._look_again

    def late(self, path, before):
        if not there:
            out.unlink()
        found = real(self, path, before)
        if path == str(out):
            (tmp_path / "mine").write_bytes(b"precious")
            os.replace(tmp_path / "mine", out)
        return found

    if not swaps:
        monkeypatch.setattr(destinations, "exchange", lambda *_: False)
    monkeypatch.setattr(Destination, "_look_again", late)
    report = slidewright.batch([asked], tmp_path / "out", quality=50, **OPTIONS)
    assert "exists" in report.failed[0].error
    assert out.read_bytes() == b"precious"
    assert [name for name in os.listdir(out.parent) if name.startswith(".")] == []
    out.unlink()
    monkeypatch.setattr(Destination, "_look_again", real)
    for quality in (60, 70):
        report = slidewright.batch([asked], tmp_path / "out", quality=quality, **OPTIONS)
        assert [item.status for item in report.items] == ["done"]
    assert [name for name in os.listdir(out.parent) if name.startswith(".")] == []


def test_name_is_not_taken_from_a_file_where_there_are_no_hard_links(tmp_path, exchanges, monkeypatch):
    """It comes after a look, and right before the renaming."""
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "o.tif").write_bytes(b"precious")

    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(os.path, "lexists", lambda _: False)
    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(PermissionError):
        files.rename_new(str(tmp_path / "new"), str(tmp_path / "o.tif"))
    assert (tmp_path / "o.tif").read_bytes() == b"precious"
    (tmp_path / "o.tif").unlink()
    files.rename_new(str(tmp_path / "new"), str(tmp_path / "o.tif"))
    assert (tmp_path / "o.tif").read_bytes() == b"new"


@pytest.mark.parametrize("when", ["once all is read", "in the last moment"])
def test_folder_that_holds_the_source_and_gets_the_name_is_not_replaced(tmp_path, when, exchanges, monkeypatch):
    out, mine = tmp_path / "o.zarr", tmp_path / "mine.zarr"
    for path in (out, mine):
        slidewright.convert(np.zeros((90, 90), np.uint8), path, **OPTIONS)
    source, real = mine / "s.tif", destinations.exchange
    tifffile.imwrite(source, np.zeros((90, 90), np.uint8), tile=(64, 64))

    def come():
        if mine.exists():
            shutil.rmtree(out)
            mine.rename(out)

    def late(one, other):
        come()
        return real(one, other)

    if when == "in the last moment":
        monkeypatch.setattr(destinations, "exchange", late)
    else:
        commit = Destination.commit
        monkeypatch.setattr(Destination, "commit", lambda self: come() or commit(self))
    with pytest.raises(DestinationError, match="is the source itself, or a file of it"):
        slidewright.convert(source, out, overwrite=True, **OPTIONS)
    assert (out / "s.tif").exists()
    assert os.listdir(tmp_path) == ["o.zarr"]


@pytest.mark.parametrize("swaps", [True, False])
def test_folder_that_is_moved_away_in_the_last_instant_is_no_error(tmp_path, folder, swaps, exchanges, monkeypatch):
    real = destinations.exchange

    def late(one, other):
        folder.rename(tmp_path / "old.segments")
        return swaps and real(one, other)

    monkeypatch.setattr(destinations, "exchange", late)
    slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    assert (made(folder), made(tmp_path / "old.segments")) == (70, 100)
    assert sorted(os.listdir(tmp_path)) == ["o.segments", "old.segments"]


@posix
def test_old_folder_that_may_not_be_changed_is_removed_all_the_same(tmp_path, folder):
    """It stayed under a hidden name for ever, without a word."""
    (folder / "more").mkdir()
    (folder / "more" / "chunk").touch()
    paths = [folder, folder / "more"]
    for path in paths:
        path.chmod(0o555)
    code = "import sys, os; from slidewright.system.files import remove; remove(sys.argv[1])"
    as_other = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner", "--inh-caps", "-all"]
    line = [sys.executable, "-c", code, str(folder)]
    if os.getuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may change it all")
        line = [*as_other[:3], *line]
    subprocess.run(line, timeout=50, check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert not folder.exists()


def under_the_name_in_mid_run(monkeypatch, act):
    """Have something done after a run has begun and before its file gets its name."""
    execute = conversion.execute

    def disturbed(*arguments):
        act()
        return execute(*arguments)

    monkeypatch.setattr(conversion, "execute", disturbed)


@posix
@pytest.mark.parametrize("kind", ["fifo", "socket", "link to a file", "link to a folder", "link to nothing"])
@pytest.mark.parametrize("name", ["o.tif", "o.segments"])
def test_what_is_no_file_and_came_meanwhile_is_not_replaced(tmp_path, kind, name, monkeypatch):
    place, users = tmp_path / name, tmp_path / "users"
    monkeypatch.chdir(tmp_path)  # the name of a socket is short

    def come():
        if kind == "fifo":
            os.mkfifo(place)
        elif kind == "socket":
            with socket.socket(socket.AF_UNIX) as plug:
                plug.bind(name)
        else:
            if kind == "link to a folder":
                users.mkdir()
            elif kind == "link to a file":
                users.write_bytes(b"precious")
            place.symlink_to(users)

    under_the_name_in_mid_run(monkeypatch, come)
    with pytest.raises(DestinationError, match="exists: it was put there" if "link" in kind else "a pipe or a socket"):
        slidewright.convert(np.zeros((70, 90), np.uint8), place, overwrite=True, **OPTIONS)
    is_kind = {"fifo": stat.S_ISFIFO, "socket": stat.S_ISSOCK}.get(kind, stat.S_ISLNK)
    assert is_kind(place.lstat().st_mode)
    assert kind != "link to a file" or users.read_bytes() == b"precious"
    assert {path for path in os.listdir(tmp_path) if path != "users"} == {name}


@pytest.mark.parametrize("moved", ["s.tif", "label.png", "colours.json"])
def test_file_that_the_run_reads_is_not_replaced_where_it_gets_the_name_meanwhile(tmp_path, moved, monkeypatch, slide):
    from PIL import Image

    Image.new("RGB", (20, 30), "red").save(tmp_path / "label.png")
    (tmp_path / "colours.json").write_text('{"0": "black", "255": "white"}')
    before, place = digest(tmp_path / moved), tmp_path / "o.tif"
    under_the_name_in_mid_run(monkeypatch, lambda: os.rename(tmp_path / moved, place))
    asked = ["--workers", "0", "--kind", "labels", "--colormap", str(tmp_path / "colours.json"), "--overwrite"]
    assert main(["convert", str(slide), str(place), "--label", str(tmp_path / "label.png"), *asked]) != 0
    assert digest(place) == before
    assert {"s.tif", "label.png", "colours.json"} ^ {moved} | {"o.tif"} == set(os.listdir(tmp_path))


def test_link_is_not_taken_for_a_free_name_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "new").touch()
    soft_link(tmp_path / "nothing", tmp_path / "o.tif")
    with pytest.raises(FileExistsError):
        files.rename_new(str(tmp_path / "new"), str(tmp_path / "o.tif"))
    assert (tmp_path / "o.tif").is_symlink()


FOLDER_KILLED = """
import os, signal, sys
import numpy as np
import folder_format
import slidewright
from slidewright.conversions import destination
destination.exchange = lambda *_: False
rename = os.rename
def kill(old, new):
    rename(old, new)
    if str(new).endswith(".old"):
        os.kill(os.getpid(), signal.SIGKILL) if sys.argv[2] == "caller" else os.killpg(0, signal.SIGKILL)
os.rename = kill
slidewright.convert(np.zeros((70, 90), np.uint8), sys.argv[1], overwrite=True, tile_size=64, n_workers=1)
"""


@posix
@pytest.mark.parametrize("victim", ["caller", "everything"])
def test_folder_moved_aside_by_a_killed_run_comes_back(tmp_path, folder, victim):
    killed_itself(FOLDER_KILLED, str(folder), victim)
    if victim == "caller":
        the_fork_server_is_done(tmp_path)
    else:
        assert not folder.exists()
        sweep_beside(folder)
    assert os.listdir(tmp_path) == ["o.segments"]
    assert made(folder) == 100


def test_folder_comes_back_when_its_successor_can_not_be_named(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(destinations, "exchange", lambda *_: False)
    rename = os.rename

    def fail(old, new):
        if str(old).endswith(".partial"):
            raise OSError(5, "Input/output error")
        rename(old, new)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(slidewright.SlidewrightError, match="can't rename"):
        slidewright.convert(np.zeros((70, 90), np.uint8), folder, overwrite=True, **OPTIONS)
    assert os.listdir(tmp_path) == ["o.segments"]
    assert made(folder) == 100


# ---- names


@pytest.mark.parametrize("length", [200, 238, 239, 248, 255])
@pytest.mark.parametrize("letter", ["n", "ü"])
@pytest.mark.parametrize("resume", [False, True])
def test_names_may_be_as_long_as_the_filesystem_allows(tmp_path, slide, length, letter, resume):
    unit = len(os.fsencode(letter))
    name = letter * ((length - 4) // unit) + "x" * ((length - 4) % unit) + ".tif"
    assert len(os.fsencode(name)) == length
    slidewright.convert(slide, tmp_path / name, resume=resume, **OPTIONS)
    slidewright.convert(slide, tmp_path / name, resume=resume, overwrite=True, **OPTIONS)
    assert sorted(os.listdir(tmp_path)) == sorted([name, "s.tif"])


def test_name_that_is_too_long_is_an_error_of_ours_and_leaves_nothing(tmp_path, slide):
    for resume in (False, True):
        with pytest.raises(DestinationError):
            slidewright.convert(slide, tmp_path / ("n" * 252 + ".tif"), resume=resume, **OPTIONS)
    assert os.listdir(tmp_path) == ["s.tif"]


def test_temporary_names_can_not_be_guessed_and_lead_nowhere_else(tmp_path):
    names = {Destination(tmp_path / "o.tif", overwrite=False).partial for _ in range(50)}
    assert len(names) == 50
    assert all(len(name.split(".")[-2]) == 16 for name in names)


@posix
def test_planted_link_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "planted").symlink_to(victim)
    with pytest.raises(FileExistsError):
        files.new_file(tmp_path / "planted", os.O_WRONLY)
    with pytest.raises(OSError, match="symbolic"):
        file_lock.FileLock(str(tmp_path / "planted"))
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["tiff", "ome-tiff", "ome-zarr"])
@pytest.mark.parametrize("name", ["zarr.json", ".zattrs"])
def test_metadata_of_zarr_are_not_replaced(tmp_path: Path, slide: Path, name: str, kind: str) -> None:
    metadata = tmp_path / name
    metadata.write_text("{}")
    with pytest.raises(DestinationError, match="is a name that zarr keeps metadata under"):
        slidewright.convert(slide, metadata, format=kind, overwrite=True, n_workers=0, tile_size=64)
    assert metadata.read_text() == "{}"


def test_group_of_an_array_that_is_given_as_an_object_is_kept(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    array = group.create_array("0", shape=(64, 64), dtype="u1", chunks=(64, 64))
    before = (tmp_path / "a.zarr" / "zarr.json").read_bytes()
    with pytest.raises(DestinationError, match="is the source itself, or a file of it"):
        slidewright.convert(array, tmp_path / "a.zarr" / "zarr.json", format="tiff", overwrite=True, **OPTIONS)
    assert (tmp_path / "a.zarr" / "zarr.json").read_bytes() == before


def test_file_of_a_colormap_is_not_replaced(tmp_path: Path, slide: Path, capsys: pytest.CaptureFixture[str]) -> None:
    colours = tmp_path / "colours.tif"
    colours.write_text('{"0": "black", "255": "white"}')
    asked = ["--workers", "0", "--kind", "labels", "--colormap", str(colours), "--overwrite"]
    (tmp_path / "m.csv").write_text(f"source,destination,colormap\n{slide},colours.tif,colours.tif\n")
    for line in (
        ["convert", str(slide), str(colours), *asked],
        ["convert", str(slide), str(tmp_path / "o.tif"), "--report", str(colours), *asked],
        ["batch", str(tmp_path / "m.csv"), "--overwrite", "--workers", "0"],
    ):
        assert main(line) != 0
        assert ("the colormap" if line[0] == "convert" else "the same file") in capsys.readouterr().err
        assert colours.read_text().startswith("{")
    assert main(["convert", str(slide), str(tmp_path / "o.tif"), *asked]) == 0
