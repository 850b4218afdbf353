"""Many slides: what is done is skipped, a failure stops nobody, the report says it all, the helpers stay warm."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
from dataclasses import asdict

import numpy as np
import psutil
import pytest
import tifffile
import zarr
from fake_sources import SlowSource
from written import digest

import slidewright
from slidewright.cli.main import main
from slidewright.conversions import batch_slide, conversion, resume
from slidewright.conversions.conversion import Conversion
from slidewright.conversions.deciding import decide
from slidewright.conversions.destination import Destination
from slidewright.conversions.manifest import parse_cell
from slidewright.conversions.opening import make_launcher
from slidewright.errors import CorruptTileError, DestinationError, OptionError, SourceError
from slidewright.options import make_options
from slidewright.sources.open import open_source
from slidewright.system import early
from slidewright.system.launcher import ProcessLauncher

OPTIONS = {"n_workers": 0, "tile_size": 64}


@pytest.fixture
def slides(tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (200 + 50 * number, 300), np.uint8)
        tifffile.imwrite(folder / f"slide{number}.tif", pixels, tile=(64, 64))
    return folder


def manifest_of(tmp_path, text):
    path = tmp_path / "manifest.csv"
    path.write_text(text)
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def statuses(report):
    return [item.status for item in report.items]


def test_folder_becomes_files_equal_to_those_of_convert(tmp_path, slides):
    report = slidewright.batch(slides, tmp_path / "out", **OPTIONS)
    assert statuses(report) == ["done"] * 3
    for number in range(3):
        slidewright.convert(slides / f"slide{number}.tif", tmp_path / "one.tif", overwrite=True, **OPTIONS)
        assert digest(tmp_path / "out" / f"slide{number}.tif") == digest(tmp_path / "one.tif")
    assert [line["status"] for line in lines(tmp_path / "out" / "slidewright-batch.jsonl")] == ["done"] * 3


def test_columns_of_a_manifest_override_the_options_of_the_batch(tmp_path, slides):
    path = manifest_of(
        tmp_path,
        "source, destination, compression, effort, mpp, verify\n"
        "slides/slide0.tif, a.tif, , , , \n"
        'slides/slide1.tif, b.tif, deflate, 9, "0.25,0.5", yes\n',
    )
    report = slidewright.batch(path, compression="zstd", **OPTIONS)
    assert statuses(report) == ["done", "done"]
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.pages[0].compression.name == "ZSTD"
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert tiff.pages[0].compression.name == "ADOBE_DEFLATE"
        x, y = tiff.pages[0].tags["XResolution"].value, tiff.pages[0].tags["YResolution"].value
        assert (x[0] / x[1], y[0] / y[1]) == (40000, 20000)


def test_done_and_unchanged_is_skipped_changed_is_made_again(tmp_path, slides):
    def run(**options):
        return statuses(slidewright.batch(slides, tmp_path / "out", **{**OPTIONS, **options}))

    assert run() == ["done"] * 3
    made = (tmp_path / "out" / "slide1.tif").stat().st_mtime_ns
    assert run() == ["skipped"] * 3
    assert (tmp_path / "out" / "slide1.tif").stat().st_mtime_ns == made
    os.utime(slides / "slide1.tif", ns=(5, 5))
    assert run() == ["skipped", "done", "skipped"]
    assert run(quality=50) == ["done"] * 3
    (tmp_path / "out" / "slide2.tif").unlink()
    assert run(quality=50) == ["skipped", "skipped", "done"]


def test_another_source_of_the_same_size_and_time_is_another(tmp_path):
    """As those are that come out of an archive which keeps no times."""
    for number in range(2):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.full((100, 120), number, np.uint8), tile=(64, 64))
        os.utime(tmp_path / f"{number}.tif", (1_000_000_000, 1_000_000_000))
    for number in range(2):
        manifest = manifest_of(tmp_path, f"source,destination\n{number}.tif,out.tif\n")
        assert statuses(slidewright.batch(manifest, overwrite=number > 0, **OPTIONS)) == ["done"]
        assert statuses(slidewright.batch(manifest, **OPTIONS)) == ["skipped"]
    assert tifffile.imread(tmp_path / "out.tif", key=0).max() == 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 2])
def test_slide_of_the_same_name_from_another_folder_replaces_nothing(tmp_path, workers):
    for site in ("a", "b"):
        (tmp_path / site).mkdir()
        for number in range(2):
            pixels = np.full((100, 120), ord(site) + number, np.uint8)
            tifffile.imwrite(tmp_path / site / f"{number}.tif", pixels, tile=(64, 64))
    options = {**OPTIONS, "n_workers": workers}
    assert statuses(slidewright.batch(tmp_path / "a", tmp_path / "out", **options)) == ["done"] * 2
    report = slidewright.batch(tmp_path / "b", tmp_path / "out", **options)
    assert statuses(report) == ["failed"] * 2
    assert "exists" in report.failed[0].error
    assert tifffile.imread(tmp_path / "out" / "0.tif", key=0).max() == ord("a")
    assert statuses(slidewright.batch(tmp_path / "a", tmp_path / "out", **options)) == ["skipped"] * 2
    (tmp_path / "a").rename(tmp_path / "moved")  # and the same slides from elsewhere are what is there
    assert statuses(slidewright.batch(tmp_path / "moved", tmp_path / "out", **options)) == ["done"] * 2


def test_another_label_makes_a_slide_again(tmp_path, slides):
    from PIL import Image

    for colour in ("red", "blue"):
        Image.new("RGB", (64 if colour == "red" else 72, 64), colour).save(tmp_path / "label.png")
        report = slidewright.batch(
            slides / "slide0.tif", tmp_path / "out", label=tmp_path / "label.png", associated=["label"], **OPTIONS
        )
        assert statuses(report) == ["done"]
    with tifffile.TiffFile(tmp_path / "out" / "slide0.tif") as tiff:
        assert any(page.shape == (64, 72, 3) for page in tiff.pages)


@pytest.mark.timeout(60)
def test_paths_of_all_columns_begin_at_the_folder_of_the_manifest(tmp_path, slides, monkeypatch):
    from PIL import Image

    for folder, colour in ((tmp_path, "red"), (tmp_path / "elsewhere", "blue")):
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48), colour).save(folder / "label.png")
        (folder / "palette.json").write_text(json.dumps({"0": colour, "255": "white"}))
    manifest = manifest_of(
        tmp_path, "source,destination,label,colormap\nslides/slide0.tif,a.tif,label.png,palette.json\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert statuses(slidewright.batch(manifest, **OPTIONS)) == ["done"]
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tuple(tiff.pages[-1].asarray()[0, 0]) == (255, 0, 0)
        assert tuple(tiff.pages[0].colormap[:, 0]) == (65535, 0, 0)


def test_file_that_somebody_else_wrote_is_not_replaced(tmp_path, slides):
    slidewright.batch(slides, tmp_path / "out", **OPTIONS)
    (tmp_path / "out" / "slide0.tif").write_bytes(b"precious")
    report = slidewright.batch(slides, tmp_path / "out", quality=50, **OPTIONS)
    assert statuses(report) == ["failed", "done", "done"]
    assert "exists" in report.failed[0].error
    assert (tmp_path / "out" / "slide0.tif").read_bytes() == b"precious"
    report = slidewright.batch(slides, tmp_path / "out", quality=50, overwrite=True, **OPTIONS)
    assert statuses(report) == ["done", "skipped", "skipped"]


def test_file_that_somebody_else_puts_there_as_soon_as_it_has_its_name_is_not_replaced_later(
    tmp_path, slides, monkeypatch
):
    """It was taken for what the batch had made, and made again with other options."""
    given = batch_slide.place_of

    def put(path):
        if str(path).endswith("slide0.tif") and "out" in str(path):
            (tmp_path / "mine").write_bytes(b"precious")
            os.replace(tmp_path / "mine", tmp_path / "out" / "slide0.tif")
        return given(path)

    monkeypatch.setattr(batch_slide, "asdict", lambda item: put(item.destination) and asdict(item))
    slidewright.batch(slides, tmp_path / "out", **OPTIONS)
    monkeypatch.undo()
    for options in ({"quality": 50}, {}):
        report = slidewright.batch(slides, tmp_path / "out", **options, **OPTIONS)
        assert statuses(report) == ["failed", "done", "done"]
        assert "exists" in report.failed[0].error
        assert (tmp_path / "out" / "slide0.tif").read_bytes() == b"precious"


@pytest.mark.parametrize("when", ["in mid-run", "in the last moment"])
def test_store_in_which_somebody_changes_a_file_meanwhile_is_not_replaced(tmp_path, slides, when, monkeypatch):
    """Deep in it, where the folder itself shows nothing of it."""
    slidewright.batch(slides, tmp_path / "out", suffix=".zarr", **OPTIONS)
    mine = tmp_path / "out" / "slide0.zarr" / "0" / "mine.txt"
    look, execute = Destination._look_again, conversion.execute

    def put(item):
        if not mine.exists() and "slide0" in str(item):
            mine.write_bytes(b"precious")

    def late(self, path, before):
        found = look(self, path, before)
        put(path)
        return found

    if when == "in mid-run":
        monkeypatch.setattr(conversion, "execute", lambda *given: put("slide0") or execute(*given))
    else:
        monkeypatch.setattr(Destination, "_look_again", late)
    report = slidewright.batch(slides, tmp_path / "out", suffix=".zarr", effort=1, **OPTIONS)
    assert statuses(report) == ["failed", "done", "done"]
    assert "it was put there, or changed, while its file was made" in report.failed[0].error
    assert mine.read_bytes() == b"precious"


def test_store_in_which_somebody_writes_as_soon_as_it_has_its_name_is_not_replaced_later(tmp_path, slides):
    """What the batch notes is what it has made."""
    mine = tmp_path / "out" / "slide0.zarr" / "0" / "mine.txt"

    def put(progress):
        if progress.stage == "done" and mine.parent.exists():
            mine.write_bytes(b"precious")

    slidewright.batch(slides / "slide0.tif", tmp_path / "out", suffix=".zarr", progress=put, **OPTIONS)
    assert mine.exists()
    for effort in (1, 2):
        report = slidewright.batch(slides / "slide0.tif", tmp_path / "out", suffix=".zarr", effort=effort, **OPTIONS)
        assert statuses(report) == ["failed"]
    assert mine.read_bytes() == b"precious"


def test_chunk_of_a_store_that_is_put_back_with_its_old_time_is_noticed(tmp_path, slides):
    """It has the size of the other, and an older time, as `cp -p` gives it: the slide was skipped, or made again."""
    again = {"suffix": ".zarr", "compression": "none", "zarr_shard": 0, **OPTIONS}
    slidewright.batch(slides, tmp_path / "out", **again)
    chunk = tmp_path / "out" / "slide0.zarr" / "0" / "c" / "0" / "0"
    status = chunk.stat()
    chunk.write_bytes(bytes(status.st_size))
    os.utime(chunk, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))
    for more in ({}, {"compression": "zstd"}):
        report = slidewright.batch(slides, tmp_path / "out", **{**again, **more})
        assert statuses(report)[0] == "failed"
        assert "exists" in report.failed[0].error
        assert chunk.read_bytes() == bytes(status.st_size)


def test_store_that_was_changed_after_a_resumed_run_was_killed_is_not_finished(tmp_path, slides, monkeypatch):
    """Its folder alone looks as it did: the parts, which could mend it, were removed with a success."""

    class KilledError(BaseException):
        pass

    def killed(*args, **options):
        raise KilledError

    out = tmp_path / "o.zarr"
    monkeypatch.setattr(resume, "remove_folder", killed)
    with pytest.raises(KilledError):
        slidewright.convert(slides / "slide0.tif", out, resume=True, zarr_shard=0, **OPTIONS)
    monkeypatch.undo()
    (out / "0" / "c" / "0" / "0").unlink()
    with pytest.raises(DestinationError, match="exists"):
        slidewright.convert(slides / "slide0.tif", out, resume=True, zarr_shard=0, **OPTIONS)
    slidewright.convert(slides / "slide0.tif", out, resume=True, zarr_shard=0, overwrite=True, **OPTIONS)
    assert (out / "0" / "c" / "0" / "0").exists()


def test_report_of_the_version_before_knows_its_stores(tmp_path, slides):
    """It noted two numbers of each, and no word on what is in it; what makes no sense is passed over."""
    slidewright.batch(slides, tmp_path / "out", suffix=".zarr", **OPTIONS)
    (report,) = (tmp_path / "out").glob("*.jsonl")
    before = lines(report)
    assert [len(line["made"]) for line in before] == [3] * 3
    for line in before:
        line["made"] = line["made"][:2]
    odd = [{**before[0], "made": made, "destination": name} for made, name in (([], "a"), ([5], "b"), ([1, 2], "c\0"))]
    text = "".join(json.dumps(line) + "\n" for line in (*odd, *before))
    report.write_text(text)
    report.with_name(f"{report.stem}.task-00000.jsonl").write_text(text)
    assert statuses(slidewright.batch(slides, tmp_path / "out", suffix=".zarr", **OPTIONS)) == ["skipped"] * 3
    assert statuses(slidewright.batch(slides, tmp_path / "out", suffix=".zarr", effort=1, **OPTIONS)) == ["done"] * 3


def test_slide_whose_line_is_long_is_known_again(tmp_path, slides):
    """A palette of 65,536 colours takes 1.3 MB of it."""
    labels = tmp_path / "labels.npy"
    np.save(labels, np.arange(4096, dtype=np.uint16).reshape(64, 64))
    colours = {number: f"#{number:06x}" for number in range(65_536)}
    options = {"kind": "labels", "colormap": colours, "suffix": ".zarr", **OPTIONS}
    for wanted in ("done", "skipped"):
        assert statuses(slidewright.batch(labels, tmp_path / "out", **options)) == [wanted]
    assert statuses(slidewright.batch(labels, tmp_path / "out", effort=1, **options)) == ["done"]


def test_line_of_a_task_whose_clock_is_ahead_does_not_hide_newer_ones(tmp_path, slides):
    """The slide would never be made again: what is there is not what that line says."""
    slidewright.batch(slides, tmp_path / "out", task=(0, 3), **OPTIONS)
    (report,) = (tmp_path / "out").glob("*.task-00000.jsonl")
    line = json.loads(report.read_text())
    line["made"][1] += 3600 * 10**9
    os.utime(tmp_path / "out" / "slide0.tif", ns=(line["made"][1],) * 2)
    report.write_text(json.dumps(line) + "\n")
    assert statuses(slidewright.batch(slides, tmp_path / "out", **OPTIONS)) == ["skipped", "done", "done"]
    for quality in (50, 60):
        assert statuses(slidewright.batch(slides, tmp_path / "out", quality=quality, **OPTIONS)) == ["done"] * 3


def test_caller_who_goes_to_another_folder_gets_the_slides_of_the_first(tmp_path, slides, monkeypatch):
    shutil.copytree(slides, tmp_path / "other" / "slides")
    for path in (tmp_path / "other" / "slides").iterdir():
        path.write_bytes(b"another")
    (tmp_path / "other" / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    told = []

    def tell(item):
        told.append((item.source, item.destination))
        os.chdir(tmp_path / "other")

    (tmp_path / "scratch").mkdir()
    report = slidewright.batch(slides.name, "out", tell=tell, scratch="scratch", **OPTIONS)
    assert statuses(report) == ["done"] * 3
    names = [f"slide{number}.tif" for number in range(3)]
    assert told == [(os.path.join(slides.name, name), os.path.join("out", name)) for name in names]
    assert os.listdir(tmp_path / "other" / "out") == []
    monkeypatch.chdir(tmp_path)
    assert statuses(slidewright.batch(slides.name, "out", **OPTIONS)) == ["skipped"] * 3


def test_file_that_somebody_else_puts_there_after_it_was_found_is_not_replaced(tmp_path, slides, monkeypatch):
    slidewright.batch(slides, tmp_path / "out", **OPTIONS)
    due = batch_slide.due

    def put(entry, *rest):
        found = due(entry, *rest)
        if entry.destination.endswith("slide0.tif"):
            (tmp_path / "out" / "slide0.tif").write_bytes(b"precious")
        return found

    monkeypatch.setattr(batch_slide, "due", put)
    report = slidewright.batch(slides, tmp_path / "out", quality=50, **OPTIONS)
    assert statuses(report) == ["failed", "done", "done"]
    assert "it was put there, or changed, while its file was made" in report.failed[0].error
    assert (tmp_path / "out" / "slide0.tif").read_bytes() == b"precious"


def test_file_of_a_resumed_run_that_was_killed_once_it_had_its_name_is_done(tmp_path, slides, monkeypatch):
    """The next batch finds it finished, gives it no name itself, and notes it all the same."""

    class KilledError(BaseException):
        pass

    def killed(*args, **options):
        raise KilledError

    monkeypatch.setattr(resume, "remove_folder", killed)
    with pytest.raises(KilledError):
        slidewright.batch(slides / "slide0.tif", tmp_path / "out", resume=True, **OPTIONS)
    monkeypatch.undo()
    assert (tmp_path / "out" / "slide0.tif").exists()
    for wanted, more in (("done", {}), ("skipped", {}), ("done", {"quality": 50})):
        report = slidewright.batch(slides / "slide0.tif", tmp_path / "out", resume=True, **more, **OPTIONS)
        assert statuses(report) == [wanted], report.failed


def test_file_that_somebody_writes_over_is_not_known_by_its_inode(tmp_path, slides, monkeypatch):
    def write_over(item):
        (tmp_path / "out" / "slide0.tif").write_bytes(b"precious")
        return asdict(item)

    monkeypatch.setattr(batch_slide, "asdict", write_over)
    slidewright.batch(slides / "slide0.tif", tmp_path / "out", **OPTIONS)
    monkeypatch.undo()
    report = slidewright.batch(slides / "slide0.tif", tmp_path / "out", quality=50, **OPTIONS)
    assert statuses(report) == ["failed"]
    assert (tmp_path / "out" / "slide0.tif").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["slide0.tif", "slide0.ome.zarr"])
def test_file_that_was_found_as_it_was_to_be_is_done(tmp_path, slides, name):
    """The report of a batch is lost: files are made once more, found to be the same, and then skipped."""
    suffix = name.removeprefix("slide0")
    slidewright.batch(slides, tmp_path / "out", suffix=suffix, **OPTIONS)
    before = (tmp_path / "out" / name).stat()
    report = next((tmp_path / "out").glob("*.jsonl"))
    report.unlink()
    for wanted in ("done", "skipped"):
        found = slidewright.batch(slides, tmp_path / "out", suffix=suffix, **OPTIONS)
        assert statuses(found) == [wanted] * 3
    assert os.path.samestat((tmp_path / "out" / name).stat(), before)


@pytest.mark.timeout(30)
def test_many_folders_that_are_there_take_no_time(tmp_path):
    """Each was looked for in each: of 400 stores that were done, 43 s before anything began."""
    (tmp_path / "in").mkdir()
    for number in range(800):
        (tmp_path / "in" / f"{number}.tif").touch()
        (tmp_path / "out" / f"{number}.ome.zarr").mkdir(parents=True)
    report = slidewright.batch(
        tmp_path / "in", tmp_path / "out", suffix=".ome.zarr", task=(799, 800), dry_run=True, **OPTIONS
    )
    assert len(report.items) == 1
    (tmp_path / "out" / "7.ome.zarr" / "8.tif").touch()
    with pytest.raises(OptionError, match="which would be replaced"):
        slidewright.batch(
            manifest_of(
                tmp_path, "source,destination\nin/7.tif,out/7.ome.zarr\nout/7.ome.zarr/8.tif,out/8.ome.zarr\n"
            )
        )


@pytest.mark.timeout(60)
def test_folder_of_many_results_is_looked_through_once_for_what_a_kill_left(tmp_path, monkeypatch):
    """And not once a slide that is skipped, which took quadratic time. What is left beside such goes."""
    (tmp_path / "in").mkdir()
    for number in range(5):
        tifffile.imwrite(tmp_path / "in" / f"{number}.tif", np.zeros((20, 20), np.uint8))
    options = {"out": tmp_path / "out", "n_workers": 0}
    assert not slidewright.batch(tmp_path / "in", **options).failed
    left = [tmp_path / "out" / f".3.tif.{16 * 'a'}.{end}" for end in ("partial", "lock")]
    others = [tmp_path / "out" / name for name in (f".5.tif.{16 * 'a'}.lock", ".3.tif.lock", f"3.tif.{16 * 'a'}.lock")]
    for path in (*left, *others):
        path.touch()
    looked, real = [], os.listdir

    def listing(path="."):
        looked.append(os.fspath(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", listing)
    assert {item.status for item in slidewright.batch(tmp_path / "in", **options).items} == {"skipped"}
    assert looked.count(str(tmp_path / "out")) == 1
    assert [path.exists() for path in (*left, *others)] == [False, False, True, True, True]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
def test_file_that_comes_in_mid_run_is_not_replaced(tmp_path, slides, suffix, monkeypatch):
    """Also where the batch replaces what it made itself; with overwrite the user has asked for it."""

    def run(**options):
        return slidewright.batch(slides / "slide0.tif", tmp_path / "out", suffix=suffix, **{**OPTIONS, **options})

    place, run_whole = tmp_path / "out" / f"slide0{suffix}", Conversion.run

    def disturbed(self, *arguments, **named):
        check = self._source_files.check

        def take_the_name():
            check()
            place.rename(tmp_path / "old")
            if suffix == ".tif":
                place.write_bytes(b"precious")
            else:
                place.mkdir()
                (place / "precious").touch()

        self._source_files.check = take_the_name
        return run_whole(self, *arguments, **named)

    assert statuses(run()) == ["done"]
    monkeypatch.setattr(Conversion, "run", disturbed)
    report = run(levels=1)
    assert statuses(report) == ["failed"]
    assert place.read_bytes() == b"precious" if suffix == ".tif" else os.listdir(place) == ["precious"]
    assert [name for name in os.listdir(tmp_path / "out") if name.startswith(".")] == []
    if suffix == ".tif":
        (tmp_path / "old").unlink()
        assert statuses(run(levels=1, overwrite=True)) == ["done"]


@pytest.mark.parametrize("workers", [0, 2])
def test_failure_stops_nobody_and_is_tried_again(tmp_path, slides, workers):
    broken = slides / "slide1.tif"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:3000])
    report = slidewright.batch(slides, tmp_path / "out", **{**OPTIONS, "n_workers": workers})
    assert statuses(report) == ["done", "failed", "done"]
    assert "slide1.tif" in report.failed[0].error
    broken.write_bytes(whole)
    report = slidewright.batch(slides, tmp_path / "out", **{**OPTIONS, "n_workers": workers})
    assert statuses(report) == ["skipped", "done", "skipped"]


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_tiles_of_a_slide_that_is_done_are_told(tmp_path, workers, capsys):
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (200, 300, 3), np.uint8)
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels, tile=(64, 64), photometric="rgb", compression="jpeg")
    with tifffile.TiffFile(tmp_path / "1.tif") as tiff:
        place, count = tiff.pages[0].dataoffsets[7], tiff.pages[0].databytecounts[7]
    with open(tmp_path / "1.tif", "r+b") as file:
        file.seek(place)
        file.write(bytes(count))
    line = ["batch", str(tmp_path / "*.tif"), "--out", str(tmp_path / "out"), "--workers", str(workers)]
    assert main(line) == 0
    (told,) = capsys.readouterr().err.splitlines()
    assert "1.tif" in told
    assert "row 1, column 2" in told
    noted = {line["source"]: line["warnings"] for line in lines(tmp_path / "out" / "slidewright-batch.jsonl")}
    assert [len(noted[str(tmp_path / f"{number}.tif")]) for number in range(2)] == [0, 1]


def test_tasks_of_an_array_share_the_slides_and_know_what_others_did(tmp_path, slides):
    for index in range(2):
        report = slidewright.batch(slides, tmp_path / "out", task=(index, 2), **OPTIONS)
        assert len(report.items) == 2 - index
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "slide0.tif", "slide1.tif", "slide2.tif",
        "slidewright-batch.task-00000.jsonl", "slidewright-batch.task-00001.jsonl",
    ]  # fmt: skip
    assert statuses(slidewright.batch(slides, tmp_path / "out", **OPTIONS)) == ["skipped"] * 3
    assert slidewright.batch(slides, tmp_path / "out", task=(7, 9), **OPTIONS).items == ()


def test_half_a_line_that_a_kill_left_does_no_harm(tmp_path, slides):
    slidewright.batch(slides, tmp_path / "out", **OPTIONS)
    path = tmp_path / "out" / "slidewright-batch.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    assert statuses(slidewright.batch(slides, tmp_path / "out", overwrite=True, **OPTIONS)) == [
        "skipped",
        "skipped",
        "done",
    ]
    assert statuses(slidewright.batch(slides, tmp_path / "out", **OPTIONS)) == ["skipped"] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no helper process without fork")
@pytest.mark.timeout(60)
def test_clock_that_was_set_back_does_no_harm(tmp_path, slides):
    out = tmp_path / "out"
    slidewright.batch(slides / "slide0.tif", out, **OPTIONS)
    ahead = (out / "slide0.tif").stat().st_mtime_ns + 3600 * 10**9
    os.utime(out / "slide0.tif", ns=(ahead, ahead))
    (line,) = lines(out / "slidewright-batch.jsonl")
    line["made"][1] = ahead
    (out / "slidewright-batch.jsonl").write_text(json.dumps(line) + "\n")
    assert statuses(slidewright.batch(slides / "slide0.tif", out, **OPTIONS)) == ["skipped"]
    for levels in (1, 2):
        assert statuses(slidewright.batch(slides / "slide0.tif", out, levels=levels, **OPTIONS)) == ["done"]
        assert statuses(slidewright.batch(slides / "slide0.tif", out, levels=levels, **OPTIONS)) == ["skipped"]


def test_one_helper_process_serves_all_slides(tmp_path, slides):
    helpers = set()

    def look(item):
        helpers.update(p.pid for p in psutil.Process().children() if p.name() == "slidewright-for")

    report = slidewright.batch(slides, tmp_path / "out", tell=look, tile_size=64, n_workers=1)
    assert statuses(report) == ["done"] * 3
    assert len(helpers) == 1
    assert not any(p.name() == "slidewright-for" for p in psutil.Process().children())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
@pytest.mark.parametrize("same", [True, False])
def test_task_that_runs_twice_at_once_does_no_harm(tmp_path, slides, suffix, same, monkeypatch):
    """As when a scheduler takes it for lost: the second makes the first slide while the first is at it."""
    more = {"suffix": suffix, "task": (0, 3), **OPTIONS}
    second = []
    real = Conversion.finish

    def meanwhile(*arguments):
        if not second:
            second.append(None)
            second[0] = slidewright.batch(slides, tmp_path / "out", levels=None if same else 1, **more)
        return real(*arguments)

    monkeypatch.setattr(Conversion, "finish", meanwhile)
    first = slidewright.batch(slides, tmp_path / "out", **more)
    assert statuses(second[0]) == ["done"]
    assert statuses(first) == ["done" if same else "failed"]
    assert sorted(os.listdir(tmp_path / "out")) == [f"slide0{suffix}", "slidewright-batch.task-00000.jsonl"]
    assert statuses(slidewright.batch(slides, tmp_path / "out", levels=None if same else 1, **more)) == ["skipped"]


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no helper process without fork")
@pytest.mark.parametrize("large", [False, True])
def test_only_a_failure_at_work_ends_the_processes_that_serve_the_slides(tmp_path, slides, monkeypatch, large):
    started = []
    where, name = (early, "start") if large else (ProcessLauncher, "spawn")
    real = getattr(where, name)

    def counting(*arguments, **how):
        started.append(name)
        return real(*arguments, **how)

    monkeypatch.setattr(where, name, counting)
    (slides / "slide1.tif").write_bytes(b"II*\0 no slide")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "slide2.tif").touch()
    for number in (3, 4):
        ones = np.ones((300, 300), np.uint8)
        tifffile.imwrite(slides / f"slide{number}.tif", ones, tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(slides / "slide3.tif") as tiff:
        at = tiff.pages[0].dataoffsets[4]
    with (slides / "slide3.tif").open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 20)
    options = {"n_workers": 1, "on_corrupt": "error", "tile_size": 64} | ({"timeout": 50} if large else {})
    report = slidewright.batch(slides, tmp_path / "out", **options)
    assert statuses(report) == ["done", "failed", "failed", "failed", "done"]
    errors = [item.error.split(":")[0] for item in report.failed]
    assert errors == ["SourceError", "DestinationError", "CorruptTileError"]
    assert len(started) == 2  # the first, and another after the tile that does not decode


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source\na.tif\n", "no column 'destination'"),
        ("source,destination\n", "no row"),
        ("source,destination,colour\na,b,c\n", "column 'colour' is not known"),
        ("source,destination,quality,quality\na,b,50,90\n", "has the column 'quality' twice"),
        ("source,destination,qualty\na,b,80\n", "column 'qualty' is not known; .*did you mean 'quality'"),
        ("source,destination,tile_size\na,b,big\n", "row 2: tile_size 'big' must be a whole number"),
        ("source,destination,n_workers\na,b,2\n", "'n_workers' is for the whole batch; give it as --workers"),
        ("source,destination,quality\na,b,90\nc,d,high\n", "row 3: quality 'high' must be a whole number"),
        ("source,destination,verify\na,b,maybe\n", "row 2: verify 'maybe' must be yes or no"),
        ("source,destination,quality\na,b,900\n", "row 2: quality 900"),
        ("source,destination\na,b\nc,./b\n", "would both become"),
        ("source,destination\na\n", "row 2: it has not as many cells"),
        ("source,destination\na,b,c\n", "row 2: it has not as many cells"),
        ("source,destination\n,b\n", "row 2: its source is empty"),
    ],
)
def test_manifest_that_can_not_be_used_is_refused_before_anything_starts(tmp_path, text, message):
    with pytest.raises(OptionError, match=message):
        slidewright.batch(manifest_of(tmp_path, text), **OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.csv"]


def test_slides_that_would_become_one_file_are_refused(tmp_path):
    (tmp_path / "a.tif").touch()
    (tmp_path / "a.svs").touch()
    with pytest.raises(OptionError, match="would both become"):
        slidewright.batch(tmp_path, tmp_path / "out")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".ome.tif", ".tif", ".zarr", ".pyramid.tif"])
@pytest.mark.parametrize("pattern", ["", "slide?.*"])
def test_results_in_the_folder_of_the_slides_are_no_slides_when_it_is_run_again(tmp_path, slides, suffix, pattern):
    for name in os.listdir(slides):
        (slides / name).rename(slides / f"{name[:-4]}.svs")
    for index in range(2):
        assert statuses(slidewright.batch(slides / pattern, slides, suffix=suffix, task=(index, 2), **OPTIONS)) == [
            "done"
        ] * (2 - index)
    assert statuses(slidewright.batch(slides, slides, suffix=suffix, **OPTIONS)) == ["skipped"] * 3
    assert statuses(slidewright.batch(slides, slides, suffix=suffix, tile_size=32, n_workers=0)) == ["done"] * 3
    result = slides / f"slide0{suffix}"
    with open(result / "note.txt" if result.is_dir() else result, "ab") as file:
        file.write(b"touched")
    with pytest.raises(OptionError, match=r"would both become|is the same file"):  # it may be a slide of somebody's
        slidewright.batch(slides / pattern, slides, suffix=suffix, overwrite=True, **OPTIONS)


@pytest.mark.timeout(60)
def test_results_beside_their_slides_are_known_without_a_report_by_another_path_and_name(tmp_path, slides):
    for name in os.listdir(slides):
        (slides / name).rename(slides / f"{name[:-4]}.svs")
    assert statuses(slidewright.batch(slides, slides, **OPTIONS)) == ["done"] * 3
    before = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in slides.glob("*.tif")}
    (slides / "slidewright-batch.jsonl").unlink()  # as after a kill between the name of a file and its line
    assert statuses(slidewright.batch(slides, slides, **OPTIONS)) == ["done"] * 3
    after = {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in slides.glob("*.tif")}
    assert after == before  # the same, so kept
    (tmp_path / "link").symlink_to(slides)
    assert statuses(slidewright.batch(tmp_path / "link", tmp_path / "link", suffix=".zarr", **OPTIONS)) == ["done"] * 3
    assert statuses(slidewright.batch(slides, slides, suffix=".zarr", **OPTIONS)) == ["skipped"] * 3
    for path in slides.glob("*.zarr"):
        path.rename(tmp_path / path.name)
    (slides / "slide0.svs").unlink()
    assert statuses(slidewright.batch(slides, slides, **OPTIONS)) == ["skipped"] * 2
    pixels = np.zeros((100, 100), np.uint8)
    tifffile.imwrite(slides / "slide3.svs", pixels, tile=(64, 64))
    tifffile.imwrite(slides / "slide3.tif", pixels + 1)  # somebody else's: nothing is made in its place
    assert statuses(slidewright.batch(slides, slides, **OPTIONS)) == ["skipped"] * 2 + ["failed"]
    assert (tifffile.imread(slides / "slide3.tif") == 1).all()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
def test_pattern_may_fit_the_reports_and_what_is_left_of_a_killed_run(tmp_path, slides, suffix):
    for name in os.listdir(slides):
        (slides / name).rename(slides / f"{name[:-4]}.svs")
    assert statuses(slidewright.batch(slides / "*", slides, suffix=suffix, task=(0, 2), **OPTIONS)) == ["done"] * 2
    slidewright.shard(slides / "slide1.svs", slides / f"slide1{suffix}.shards", index=0, count=2, **OPTIONS)
    assert statuses(slidewright.batch(slides / "*", slides, suffix=suffix, **OPTIONS)) == ["skipped", "done", "skipped"]
    again = [path for path in sorted(slides.iterdir()) if path.suffix != ".shards"]  # as a shell does it
    other = tmp_path / "other.jsonl"
    assert statuses(slidewright.batch(again, slides, suffix=suffix, report=other, **OPTIONS)) == ["done"] * 3
    assert os.path.isdir(slides / f"slide1{suffix}.shards")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".ome.tif", ".ome.zarr", ".pyramid.tif"])
def test_result_beside_slides_is_none_when_its_own_is_gone(slides, suffix):
    for name in os.listdir(slides):
        (slides / name).rename(slides / f"{name[:-4]}.svs")
    assert statuses(slidewright.batch(slides, slides, suffix=suffix, **OPTIONS)) == ["done"] * 3
    (slides / "slide0.svs").unlink()
    before = sorted(os.listdir(slides))
    assert statuses(slidewright.batch(slides, slides, suffix=suffix, **OPTIONS)) == ["skipped"] * 2
    assert sorted(os.listdir(slides)) == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".tif", ".ome.zarr"])
def test_result_that_was_moved_and_linked_to_is_not_replaced_unasked(tmp_path, slides, suffix):
    """As git-annex and DVC do, whose store has each file under the hash of what is in it."""
    assert statuses(slidewright.batch(slides, tmp_path / "out", suffix=suffix, **OPTIONS)) == ["done"] * 3
    result, stored = tmp_path / "out" / f"slide0{suffix}", tmp_path / "4f2a"
    result.rename(stored)
    result.symlink_to(stored)
    before = stored.stat().st_ino
    assert statuses(slidewright.batch(slides, tmp_path / "out", suffix=suffix, **OPTIONS)) == ["skipped"] * 3
    tifffile.imwrite(slides / "slide0.tif", np.zeros((100, 100), np.uint8), tile=(64, 64))
    report = slidewright.batch(slides, tmp_path / "out", suffix=suffix, **OPTIONS)
    assert statuses(report) == ["failed", "skipped", "skipped"]
    assert "exists" in report.items[0].error
    assert stored.stat().st_ino == before
    asked = slidewright.batch(slides, tmp_path / "out", suffix=suffix, overwrite=True, **OPTIONS)
    assert statuses(asked)[0] == "done"
    assert result.is_symlink()
    assert stored.stat().st_ino != before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 1])
def test_folders_behind_links_are_the_same_by_any_path(tmp_path, slides, workers, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "out").mkdir()
    (tmp_path / "home").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = {"tile_size": 64, "n_workers": workers}
    assert statuses(slidewright.batch("slides", "disk/out", **options)) == ["done"] * 3
    assert statuses(slidewright.batch("home/slides", "home/disk/out", **options)) == ["skipped"] * 3
    tifffile.imwrite(slides / "slide1.tif", np.zeros((100, 100), np.uint8), tile=(64, 64))
    assert statuses(slidewright.batch("home/slides", "disk/out", **options)) == ["skipped", "done", "skipped"]
    assert tifffile.imread("disk/out/slide1.tif").shape == (100, 100)
    assert statuses(slidewright.batch(slides, "home/disk/out", levels=1, **options)) == ["done"] * 3


@pytest.mark.timeout(60)
def test_results_of_the_days_before_below_the_slides_are_no_slides(tmp_path, slides):
    (slides / "below").mkdir()
    (slides / "slide2.tif").rename(slides / "below" / "slide2.tif")
    for day in range(3):
        report = slidewright.batch(slides, slides / f"day{day}", recursive=True, **OPTIONS)
        assert statuses(report) == ["done"] * 3
    assert sorted(path.name for path in (slides / "day2").iterdir()) == sorted(
        ["below", "slide0.tif", "slide1.tif", "slidewright-batch.jsonl"]
    )


@pytest.mark.parametrize("recursive", [False, True])
def test_what_is_hidden_in_a_folder_is_no_slide(tmp_path, slides, recursive):
    for name in ("._slide0.tif", ".b.svs"):
        (slides / name).write_bytes(b"\0\5\x16\7")  # as a Mac leaves them
    (slides / ".trash.zarr").mkdir()
    report = slidewright.batch(slides, tmp_path / "out", recursive=recursive, **OPTIONS)
    assert statuses(report) == ["done"] * 3


@pytest.mark.timeout(60)
def test_folders_behind_links_are_not_searched_and_named(tmp_path, slides, capsys):
    (slides / "deep").mkdir()
    (slides / "deep" / "back").symlink_to(slides)
    (tmp_path / "other").mkdir()
    os.rename(slides / "slide0.tif", tmp_path / "other" / "slide0.tif")
    (slides / "linked").symlink_to(tmp_path / "other")
    (slides / "slide3.tif").symlink_to(slides / "slide2.tif")  # a slide is no folder
    report = slidewright.batch(slides, tmp_path / "out", recursive=True, **OPTIONS)
    assert [os.path.basename(item.source) for item in report.items] == ["slide1.tif", "slide2.tif", "slide3.tif"]
    (warning,) = report.warnings
    assert f"{str(slides / 'linked')!r}, {str(slides / 'deep' / 'back')!r} are links to folders" in warning
    assert slidewright.batch(slides, tmp_path / "out", **OPTIONS).warnings == ()
    only = tmp_path / "only"
    only.mkdir()
    (only / "linked").symlink_to(tmp_path / "other")
    with pytest.raises(SourceError, match=r"no slide .*; .*only/linked. is a link to a folder and was"):
        slidewright.batch(only, tmp_path / "out", recursive=True)
    assert main(["batch", str(slides), "--out", str(tmp_path / "out"), "--recursive", "--workers", "0"]) == 0
    assert warning in capsys.readouterr().err


def test_parts_of_an_unfinished_image_are_no_slides(tmp_path, slides):
    """As a resumable conversion that was killed, or is at work, leaves them beside its destination."""
    (slides / "level-2.zarr").mkdir()  # a folder of that name is a part where shards are, and only there
    zarr.save_array(slides / "level-2.zarr", np.zeros((100, 90), np.uint8))
    source, options = slides / "slide0.tif", {"tile_size": 16, "block_tiles": 1, "n_workers": 0}
    slidewright.shard(source, slides / "a.tif.shards", index=0, count=3, **options)
    assert list((slides / "a.tif.shards").glob("level-*.zarr"))
    report = slidewright.batch(slides, tmp_path / "out", recursive=True, **OPTIONS)
    assert sorted(os.path.basename(item.source) for item in report.items) == [
        "level-2.zarr", "slide0.tif", "slide1.tif", "slide2.tif"
    ]


NOTHING = "does not exist"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("none.csv", f"manifest 'none.csv' {NOTHING}"),
        ("none.csv --out out", f"manifest 'none.csv' {NOTHING}"),
        ("none --out out", f"'none' {NOTHING}"),
        ("slides/slide0.tif none.svs --out out", f"'none.svs' {NOTHING}"),
        ("'none/*.svs' --out out", "no file fits the pattern 'none/*.svs'"),
        ("empty --out out", "no slide is in the folder 'empty'; slides are known there by their names (.tif"),
        ("deep --out out", "folders below it; give --recursive"),
        ("slides", "give --out"),
        ("slides/slide0.tif", "give --out"),
        ("slides/slide0.tif slides/slide1.tif", "give --out"),
        ("m.csv --out out", "leave out --out"),
        ("m.csv slides --out out", "'m.csv' must be given alone"),
        ("m.csv", "'gone.tif', 'nowhere.tif' do not exist"),
        ("far.csv", f"'folder' for results {NOTHING}"),
        ("slides --out m.csv", "'m.csv' for results is no folder"),
        ("slides --out m.csv/out", "'m.csv' for results is no folder"),
        ("slides --out out --suffix .png", "is named '.png'"),
        ("noise.bin", "is not a CSV file"),
        ("", "Missing argument"),
    ],
)
def test_what_can_not_be_converted_is_told_before_anything_is_made(
    tmp_path, slides, line, message, capsys, monkeypatch
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "slide.tif").touch()
    (tmp_path / "noise.bin").write_bytes(b"\xff\xfe\x00\xff")
    (tmp_path / "far.csv").write_text("source,destination\nslides/slide0.tif,folder/a.tif\n")
    manifest_of(tmp_path, "source,destination\ngone.tif,a.tif\nslides/slide0.tif,b.tif\nnowhere.tif,c.tif\n").rename(
        tmp_path / "m.csv"
    )
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    assert main(["batch", *shlex.split(line)]) == 2
    error = capsys.readouterr().err
    assert message in error.replace(f"{tmp_path}/", "")
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_slides_folders_and_patterns_may_be_given_together(tmp_path, slides):
    (tmp_path / "more").mkdir()
    for name in ("x.tif", "y.scan"):
        (tmp_path / "more" / name).write_bytes((slides / "slide0.tif").read_bytes())
    given = [slides / "slide1.tif", slides, str(tmp_path / "more" / "*")]  # the first is in the second as well
    report = slidewright.batch(given, tmp_path / "out", **OPTIONS)
    assert [os.path.basename(item.destination) for item in report.items] == [
        "slide1.tif", "slide0.tif", "slide2.tif", "x.tif", "y.tif",
    ]  # fmt: skip
    assert statuses(report) == ["done"] * 5


def test_folders_below_a_folder_become_folders_below_out(tmp_path, slides):
    (slides / "b" / ".hidden").mkdir(parents=True)
    for folder in (slides / "b", slides / "b" / ".hidden"):
        (folder / "slide0.tif").write_bytes((slides / "slide0.tif").read_bytes())
    out = slides / "out"  # which is not searched, or the second time its files would be sources
    for status in ("done", "skipped"):
        report = slidewright.batch(slides, out, recursive=True, **OPTIONS)
        assert statuses(report) == [status] * 4
    made = sorted(str(path.relative_to(out)) for path in out.rglob("*.tif"))
    assert made == ["b/slide0.tif", "slide0.tif", "slide1.tif", "slide2.tif"]


def test_urls_are_sources_beside_files_and_in_manifests(tmp_path, slides):
    url = "nosuch://far.tif"
    manifest = manifest_of(tmp_path, f"source,destination\nslides/slide0.tif,a.tif\n{url},b.tif\n")
    for given, out in ((manifest, None), ([slides / "slide0.tif", url], tmp_path / "out")):
        report = slidewright.batch(given, out, **OPTIONS)
        assert statuses(report) == ["done", "failed"]
        assert (report.items[1].source, "nosuch" in report.items[1].error) == (url, True)


def test_zarr_is_a_slide_and_not_a_folder_of_slides(tmp_path):
    zarr.save_array(tmp_path / "in" / "a.zarr", np.zeros((100, 90), np.uint8))
    for given in (tmp_path / "in", tmp_path / "in" / "a.zarr"):
        (item,) = slidewright.batch(given, tmp_path / "out", recursive=True, overwrite=True, **OPTIONS).items
        assert item.destination == str(tmp_path / "out" / "a.tif")


@pytest.mark.parametrize("given", ["folder", "manifest"])
def test_results_in_a_folder_that_can_not_be_written_are_refused_first(tmp_path, slides, given, capsys, monkeypatch):
    """As if not root, whom no mode of a folder keeps out."""
    locked = tmp_path / "locked"
    locked.mkdir()
    (tmp_path / "m.csv").write_text("source,destination\nslides/slide0.tif,a.tif\nslides/slide1.tif,locked/b.tif\n")
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != str(locked) and may(path, mode))
    line = [str(tmp_path / "m.csv")] if given == "manifest" else [str(slides), "--out", str(locked / "new" / "out")]
    assert main(["batch", *line]) == 2
    assert f"the folder '{locked}' for results is not writable; choose another" in capsys.readouterr().err
    assert not (tmp_path / "a.tif").exists()


def test_folder_for_results_that_can_not_be_made_is_refused(tmp_path, slides, capsys, monkeypatch):
    def refuse(path, exist_ok):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "makedirs", refuse)
    assert main(["batch", str(slides), "--out", str(tmp_path / "out")]) == 2
    assert f"can't make the folder '{tmp_path / 'out'}' for results: Permission denied" in capsys.readouterr().err


def test_cells_become_the_types_of_the_options():
    assert parse_cell("quality", "80") == 80
    assert parse_cell("mpp", "0.25") == 0.25
    assert parse_cell("mpp", "0.25,0.5") == (0.25, 0.5)
    assert parse_cell("overwrite", "Yes") is True
    assert parse_cell("compression", "zstd") == "zstd"
    assert parse_cell("memory", "4GB") == "4GB"
    assert parse_cell("page", "3") == 3


def test_command_ends_with_a_summary_and_exit_code_1_if_any_failed(tmp_path, slides, capsys, monkeypatch):
    (slides / "slide2.tif").write_bytes(b"no slide")
    arguments = ["batch", str(slides / "*.tif"), "--out", str(tmp_path / "out"), "--workers", "0", "--tile-size", "64"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    done, skipped, failed = (line.split()[:2] for line in out.splitlines()[-3:])
    assert (done, skipped, failed) == (["done", "2"], ["skipped", "0"], ["failed", "1"])
    assert "slide2.tif: SourceError" in err
    (slides / "slide2.tif").unlink()
    assert main([*arguments, "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "0")
    assert main([*arguments, "--array"]) == 0
    assert "slide1.tif" in capsys.readouterr().out
    assert main([*arguments, "--count", "3"]) == 2


@pytest.mark.parametrize("fails", [False, True])
def test_launcher_outlives_a_conversion_unless_it_failed(tmp_path, fails):
    """A failed run may have children that still write: they end before their files are removed."""

    class Watched:
        closed = False

        def __init__(self, launcher):
            self._launcher = launcher

        def __getattr__(self, name):
            return getattr(self._launcher, name)

        def close(self):
            self.closed = True
            assert list(tmp_path.glob(".out.tif.*.lock"))  # what is removed last is still there
            self._launcher.close()

    source = open_source(SlowSource(200, 200, fault="corrupt" if fails else ""))
    options = make_options({**OPTIONS, "n_workers": 1})
    with make_launcher(options) as launcher:
        watched = Watched(launcher)
        with (
            pytest.raises(CorruptTileError) if fails else contextlib.nullcontext(),
            Conversion(decide(source, options, 0.0), tmp_path / "out.tif", options) as conversion,
        ):
            conversion.run(watched, None)
    assert watched.closed == fails
    assert [path.name for path in tmp_path.iterdir()] == ([] if fails else ["out.tif"])


def test_report_on_a_full_disk_is_an_error_of_ours(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    from slidewright.conversions.batch_report import _write_line

    told = pytest.raises(slidewright.OutputError, match=r"report 'r'.*space")
    with open("/dev/full", "wb", buffering=0) as file, told:
        _write_line(file, "r", {"status": "done"})
