"""PyramidWriter: the same file as a conversion of the same pixels, whichever way they come in."""

from __future__ import annotations

import contextlib
import gc
import glob
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import tifffile
from children import heed_ctrl_c, named
from written import assert_levels_equal_oracle, digest, image

import slidewright
from slidewright import DestinationError, OptionError, OutputError, PyramidWriter, SourceError
from slidewright.pyramid.level_store import Scratch, ScratchLevel

TILE = 32
OPTIONS = {"tile_size": TILE, "compression": "zstd"}
pytestmark = pytest.mark.timeout(60)
workers = pytest.mark.parametrize("n_workers", [0, 2])


def tiles_of(pixels, tile=TILE):
    for y in range(0, pixels.shape[0], tile):
        for x in range(0, pixels.shape[1], tile):
            yield pixels[y : y + tile, x : x + tile]


def places_of(pixels, tile=TILE):
    rows, columns = -(-pixels.shape[0] // tile), -(-pixels.shape[1] // tile)
    return [(row, column) for row in range(rows) for column in range(columns)]


def tile_at(pixels, row, column, tile=TILE):
    return pixels[row * tile : (row + 1) * tile, column * tile : (column + 1) * tile]


def converted(pixels, folder, **options):
    path = folder / "converted.tif"
    slidewright.convert(pixels, path, n_workers=0, **{**OPTIONS, **options})
    return digest(path)


@workers
@pytest.mark.parametrize("shape", [(1, 1, 3), (300, 410, 3), (97, 500), (500, 31, 3)])
def test_tiles_in_row_major_order_give_the_file_that_convert_gives(tmp_path, shape, n_workers):
    pixels = image(*shape)[:, :, : shape[2] if len(shape) == 3 else 1]
    pixels = pixels.reshape(shape)
    out = tmp_path / "out.tif"
    with PyramidWriter(out, shape, n_workers=n_workers, **OPTIONS) as writer:
        writer.write(tiles_of(pixels))
        assert not out.exists()
    assert_levels_equal_oracle(out, pixels, TILE)
    assert digest(out) == converted(pixels, tmp_path)
    assert writer.report.destination == str(out)
    assert sorted(os.listdir(tmp_path)) == ["converted.tif", "out.tif"]


@workers
def test_tiles_in_any_order_give_the_same_file(tmp_path, n_workers):
    pixels = image(300, 410)
    places = places_of(pixels)
    random.Random(1).shuffle(places)
    with PyramidWriter(tmp_path / "out.tif", pixels.shape, n_workers=n_workers, **OPTIONS) as writer:
        for row, column in places:
            writer.write_tile(tile_at(pixels, row, column), row, column)
    assert digest(tmp_path / "out.tif") == converted(pixels, tmp_path)


def test_caller_that_takes_longer_than_the_timeout_is_no_fault_of_the_workers(tmp_path):
    """What a worker has said meanwhile is heard before it is judged."""
    pixels = image(100, 100)
    with PyramidWriter(tmp_path / "t.tif", pixels.shape, n_workers=2, timeout=0.5, **OPTIONS) as writer:
        for place in places_of(pixels):
            writer.write_tile(tile_at(pixels, *place), *place)
            if place[1] == 2:
                time.sleep(1.5)
    assert writer.report.retries == 0
    assert_levels_equal_oracle(tmp_path / "t.tif", pixels, TILE)


@workers
@pytest.mark.parametrize("background", [None, "tomato", (1, 2, 3)])
def test_tiles_never_written_are_background_on_every_level(tmp_path, n_workers, background):
    pixels = image(700, 410)
    expected = np.empty_like(pixels)
    expected[...] = {None: (255, 255, 255), "tomato": (255, 99, 71)}.get(background, background)
    with PyramidWriter(
        tmp_path / "out.tif", pixels.shape, n_workers=n_workers, background=background, **OPTIONS
    ) as writer:
        for row, column in places_of(pixels)[40:90:3]:
            writer.write_tile(tile_at(pixels, row, column), row, column)
            tile_at(expected, row, column)[...] = tile_at(pixels, row, column)
    assert_levels_equal_oracle(tmp_path / "out.tif", expected, TILE)
    assert digest(tmp_path / "out.tif") == converted(expected, tmp_path)


def test_nothing_written_is_a_blank_image(tmp_path):
    writer = PyramidWriter(tmp_path / "out.tif", (100, 300, 3), n_workers=1, background="navy", **OPTIONS)
    with pytest.warns(UserWarning, match="no tile"), writer:
        pass
    assert (tifffile.imread(tmp_path / "out.tif") == (0, 0, 128)).all()


@workers
def test_regions_anywhere_become_the_image_and_the_rest_is_background(tmp_path, n_workers):
    pixels = image(300, 410)
    expected = np.full_like(pixels, 255)
    with PyramidWriter(tmp_path / "out.tif", pixels.shape, n_workers=n_workers, **OPTIONS) as writer:
        for y, x, height, width in [(5, 7, 100, 200), (150, 300, 150, 110), (290, 0, 50, 50), (120, 7, 3, 400)]:
            region = pixels[y : y + height, x : x + width]
            writer.write_region(region, y, x)
            expected[y : y + height, x : x + width] = region
        writer.write_region(np.zeros((20, 30, 3), np.uint8), -10, 390)  # sticks out at two sides
        expected[:10, 390:] = 0
    assert digest(tmp_path / "out.tif") == converted(expected, tmp_path)


@pytest.mark.parametrize(("kind", "place"), [("uint8", 100), ("uint8", 250), ("int8", 100), ("uint16", 250)])
def test_places_may_be_integers_of_numpy(tmp_path, kind, place):
    """Those of few bits wrap around, which put a region elsewhere."""
    pixels, at = np.zeros((300, 300), np.uint8), np.dtype(kind).type(place)
    pixels[place : place + 70, place : place + 70] = image(70, 70)[: 300 - place, : 300 - place, 0]
    with PyramidWriter(tmp_path / "out.tif", pixels.shape, n_workers=0, **OPTIONS) as writer:
        writer.write_region(image(70, 70)[:, :, 0], at, at)
        with pytest.raises(SourceError, match="whole number"):
            writer.write_region(image(70, 70)[:, :, 0], 0.5, 0)
    assert digest(tmp_path / "out.tif") == converted(pixels, tmp_path)
    tiles = image(300, 300, 1)
    with PyramidWriter(tmp_path / "t.tif", (300, 300), n_workers=0, **OPTIONS) as writer:
        for row, column in places_of(tiles):
            tile = np.zeros((TILE, TILE), np.uint8)
            part = tile_at(tiles, row, column)[:, :, 0]
            tile[: part.shape[0], : part.shape[1]] = part
            writer.write_tile(tile, np.dtype(kind).type(row), np.dtype(kind).type(column))
    assert digest(tmp_path / "t.tif") == converted(tiles[:, :, 0], tmp_path, overwrite=True)


def test_overlap_is_refused_replaced_or_blended(tmp_path):
    first, second = np.full((40, 40), 10, np.uint8), np.full((40, 40), 21, np.uint8)

    def both_regions(writer):
        writer.write_region(first, 0, 0)
        writer.write_region(second, 30, 20)

    fails(tmp_path, SourceError, "overlaps pixels written before, first at x=20, y=30", both_regions, shape=(100, 100))
    both = (slice(30, 40), slice(20, 40))
    for overlap, value in (("replace", 21), ("blend", 16)):
        path = tmp_path / f"{overlap}.tif"
        with PyramidWriter(path, (100, 100), overlap=overlap, n_workers=0, **OPTIONS) as writer:
            both_regions(writer)
        pixels = tifffile.imread(path)
        assert (pixels[both] == value).all()
        assert (pixels[:30, :40] == 10).all()
        assert (pixels[60, 40:] == 21).sum() == 20
        assert pixels[99, 99] == 0


def test_blend_weighs_and_rounds_half_up(tmp_path):
    with PyramidWriter(tmp_path / "out.tif", (40, 40), overlap="blend", n_workers=0, **OPTIONS) as writer:
        writer.write_region(np.full((40, 40), 10, np.uint8), 0, 0, weights=np.full((40, 40), 3.0))
        writer.write_region(np.full((40, 40), 20, np.uint8), 0, 0)
        writer.write_region(np.full((40, 40), 20, np.uint8), 0, 20, weights=np.full((40, 40), 2.0))
    pixels = tifffile.imread(tmp_path / "out.tif")
    assert (pixels[:, :20] == 13).all()  # (30 + 20) / 4 = 12.5
    assert (pixels[:, 20:] == 15).all()  # (30 + 20 + 40) / 6


def test_canvas_gives_chunks_back_from_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("slidewright.conversions.canvas.CACHE_BYTES", 1)
    pixels = image(200, 300)
    with PyramidWriter(tmp_path / "out.tif", pixels.shape, overlap="replace", n_workers=0, **OPTIONS) as writer:
        for y in range(0, 200, 50):
            for x in range(0, 300, 50):
                writer.write_region(pixels[y : y + 50, x : x + 50], y, x)
    assert digest(tmp_path / "out.tif") == converted(pixels, tmp_path)


def test_whole_tiles_at_the_border_are_cut(tmp_path):
    pixels = image(100, 70)
    padded = np.pad(pixels, ((0, 28), (0, 26), (0, 0)))
    with PyramidWriter(tmp_path / "out.tif", pixels.shape, n_workers=0, **OPTIONS) as writer:
        writer.write(tiles_of(padded))
    assert digest(tmp_path / "out.tif") == converted(pixels, tmp_path)


def fails(tmp_path, exception, match, act, shape=(100, 70, 3), **options):
    with (
        pytest.raises(exception, match=match),
        PyramidWriter(tmp_path / "out.tif", shape, **{**OPTIONS, "n_workers": 1, **options}) as writer,
    ):
        act(writer)
    assert os.listdir(tmp_path) == []


def test_wrong_tiles_are_refused_with_their_place(tmp_path):
    good = np.zeros((TILE, TILE, 3), np.uint8)
    expected = "expected 32x32x3 of uint8"
    for bad in (good[:31], good[:, :, :2], good[:, :, 0], good.astype(float)):
        fails(
            tmp_path,
            SourceError,
            f"the tile at row 1, column 0 is .*{expected}",
            lambda w, b=bad: w.write_tile(b, 1, 0),
        )
    fails(tmp_path, SourceError, "expected 4x6x3", lambda w: w.write_tile(good[:5], 3, 2))
    fails(tmp_path, SourceError, "no tile at row 4; the image has 4 rows", lambda w: w.write_tile(good, 4, 0))
    fails(tmp_path, SourceError, "no tile at column -1", lambda w: w.write_tile(good, 0, -1))

    def twice(writer):
        writer.write_tile(good, 0, 0)
        writer.write_tile(good, 0, 0)

    fails(tmp_path, SourceError, "row 0, column 0 was written before", twice)


def test_too_few_or_too_many_tiles_say_how_many_were_due(tmp_path):
    pixels = image(100, 70)
    tiles = list(tiles_of(pixels))
    fails(tmp_path, SourceError, r"ended after 11 of 12 .*row 3, column 2", lambda w: w.write(tiles[:-1]))
    fails(tmp_path, SourceError, r"more than the 12 tiles \(4 rows of 3\)", lambda w: w.write([*tiles, tiles[0]]))


def test_exception_of_the_caller_leaves_no_file_and_is_the_callers(tmp_path):
    def act(writer):
        writer.write_tile(np.zeros((TILE, TILE, 3), np.uint8), 0, 0)
        raise KeyError("the model failed")

    fails(tmp_path, KeyError, "the model failed", act)


def test_bad_arguments_are_refused_before_anything_is_computed(tmp_path):
    (tmp_path / "there.tif").touch()
    with pytest.raises(DestinationError, match="exists"), PyramidWriter(tmp_path / "there.tif", (10, 10)):
        raise AssertionError("the block must not begin")
    for arguments, match in [
        ({"shape": (0, 10)}, "shape"),
        ({"shape": (10,)}, "shape"),
        ({"dtype": "no"}, "dtype"),
        ({"overlap": "maybe"}, "overlap"),
        ({"colour": 1}, "colour"),
    ]:
        with pytest.raises(OptionError, match=match):
            PyramidWriter(tmp_path / "x.tif", **{"shape": (10, 10), **arguments})
    writer = PyramidWriter(tmp_path / "x.tif", (10, 10))
    with pytest.raises(OptionError, match="with statement"):
        writer.write_tile(np.zeros((10, 10), np.uint8), 0, 0)


def test_writer_is_closed_after_its_block(tmp_path):
    tile = np.zeros((TILE, TILE, 3), np.uint8)
    with PyramidWriter(tmp_path / "out.tif", (100, 70, 3), n_workers=0, **OPTIONS) as writer:
        writer.write_tile(tile, 0, 0)
    for act in (lambda: writer.write_tile(tile, 0, 1), lambda: writer.write_region(tile, 0, 0), writer.__enter__):
        with pytest.raises(OptionError, match=r"with statement|one file"):
            act()
    assert os.listdir(tmp_path) == ["out.tif"]


def test_region_after_tiles_is_refused(tmp_path):
    def act(writer):
        writer.write_tile(np.zeros((TILE, TILE, 3), np.uint8), 0, 0)
        writer.write_region(np.zeros((5, 5, 3), np.uint8), 50, 50)

    fails(tmp_path, SourceError, "write_region after write_tile", act)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are threads where there is no fork")
def test_killed_workers_do_not_lose_a_tile(tmp_path):
    pixels = image(900, 900)

    def slowly():
        for number, tile in enumerate(tiles_of(pixels)):
            if number in (100, 300, 500):
                for process in named("slidewright-w")[:2]:
                    if process.name() != "slidewright-wri":
                        process.send_signal(signal.SIGKILL)
            yield tile

    with PyramidWriter(tmp_path / "out.tif", pixels.shape, n_workers=2, **OPTIONS) as writer:
        writer.write(slowly())
    assert_levels_equal_oracle(tmp_path / "out.tif", pixels, TILE)
    assert writer.report.retries >= 1


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.parametrize("overlap", ["refuse", "replace"])
@pytest.mark.parametrize("n_workers", [0, 2])
def test_fork_of_the_caller_neither_writes_nor_ends_what_is_written(tmp_path, overlap, n_workers):
    """What it wrote was lost without a word, and its end was the end of the file, or made a file of a part of it."""
    pixels = image(256, 256)
    tiles = [(tile, *divmod(number, 256 // TILE)) for number, tile in enumerate(tiles_of(pixels))]
    answers, asked = os.pipe()
    with PyramidWriter(
        tmp_path / "out.tif", pixels.shape, overlap=overlap, n_workers=n_workers, scratch=tmp_path, **OPTIONS
    ) as writer:
        writer.write_tile(*tiles[0])
        child = os.fork()
        if child == 0:
            try:
                for act in (lambda: writer.write_tile(*tiles[1]), writer.close, lambda: writer.write(tiles_of(pixels))):
                    with contextlib.suppress(OptionError):
                        act()
                        os.write(asked, b"not refused ")
                writer.discard()
                writer.__exit__(SystemExit, SystemExit(0), None)
            except BaseException as error:
                os.write(asked, repr(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        for tile in tiles[1:]:
            writer.write_tile(*tile)
    os.close(asked)
    assert os.read(answers, 1000) == b""
    os.close(answers)
    assert_levels_equal_oracle(tmp_path / "out.tif", pixels, TILE)
    assert os.listdir(tmp_path) == ["out.tif"]


def test_progress_is_told_while_the_caller_produces(tmp_path):
    seen = []
    pixels = image(300, 300)

    def slowly():
        for tile in tiles_of(pixels):
            time.sleep(0.01)
            yield tile

    with PyramidWriter(tmp_path / "out.tif", pixels.shape, n_workers=1, progress=seen.append, **OPTIONS) as writer:
        writer.write(slowly())
    assert any(0 < each.tiles_done < each.tiles_total for each in seen)
    assert seen[-1].stage == "done"


def test_workers_run_while_the_caller_is_in_a_thread(tmp_path):
    pixels = image(200, 200)

    def work():
        with PyramidWriter(tmp_path / "out.tif", pixels.shape, n_workers=2, **OPTIONS) as writer:
            writer.write(tiles_of(pixels))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert digest(tmp_path / "out.tif") == converted(pixels, tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are threads where there is no fork")
@pytest.mark.alone
@pytest.mark.parametrize("overlap", ["refuse", "replace"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_ended_caller_leaves_nothing(tmp_path, overlap, number):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").mkdir()
    script = textwrap.dedent(
        f"""
        import numpy as np, random, slidewright, time
        tile = np.zeros((64, 64, 3), np.uint8)
        with slidewright.PyramidWriter(
            "out/a.tif", (6400, 6400, 3), tile_size=64, n_workers=2, overlap={overlap!r}, scratch="scratch"
        ) as writer:
            for number in range(10_000):
                writer.write_tile(tile, *divmod(number, 100))
                time.sleep(0.003)
                if number == 300:
                    print("under way", flush=True)
        """
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    line = [sys.executable, "-c", script]
    process = subprocess.Popen(line, cwd=tmp_path, preexec_fn=heed_ctrl_c, **pipes)
    assert process.stdout.readline() == b"under way\n"
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.send_signal(number)
    process.communicate(timeout=20)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert os.listdir(tmp_path / "scratch") == os.listdir(tmp_path / "out") == []


@workers
def test_open_and_close_do_what_a_with_statement_does(tmp_path, n_workers):
    pixels = image(100, 130)
    writer = PyramidWriter(tmp_path / "out.tif", pixels.shape, n_workers=n_workers, **OPTIONS)
    with pytest.raises(OptionError, match="never opened"):
        writer.close()
    assert writer.open() is writer
    with pytest.raises(OptionError, match="one file"):
        writer.open()
    writer.write(tiles_of(pixels))
    assert os.listdir(tmp_path) != ["out.tif"]
    writer.close()
    writer.close()
    writer.discard()
    assert writer.report.bytes == (tmp_path / "out.tif").stat().st_size
    assert os.listdir(tmp_path) == ["out.tif"]
    assert digest(tmp_path / "out.tif") == converted(pixels, tmp_path)
    with pytest.raises(OptionError, match="is not open"):
        writer.write_tile(pixels[:TILE, :TILE], 0, 0)


@workers
def test_file_is_where_it_was_opened_wherever_the_caller_goes(tmp_path, n_workers, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    for overlap in ("refuse", "replace"):
        monkeypatch.chdir(tmp_path / "here")
        with PyramidWriter(f"{overlap}.tif", (97, 97), overlap=overlap, n_workers=n_workers, **OPTIONS) as writer:
            writer.write_tile(np.ones((TILE, TILE), np.uint8), 0, 0)
            monkeypatch.chdir(tmp_path / "there")
            writer.write_tile(np.ones((TILE, TILE), np.uint8), 0, 1)
    assert sorted(os.listdir(tmp_path / "here")) == ["refuse.tif", "replace.tif"]
    assert os.listdir(tmp_path / "there") == []


@workers
@pytest.mark.parametrize("regions", [False, True])
def test_several_threads_may_write(tmp_path, n_workers, regions, monkeypatch):
    pixels = image(300, 410)
    begin = PyramidWriter._begin

    def begin_slowly(self, *, tiles):
        if self._way is None:
            time.sleep(0.05)  # the others come meanwhile
        return begin(self, tiles=tiles)

    monkeypatch.setattr(PyramidWriter, "_begin", begin_slowly)
    with (
        PyramidWriter(tmp_path / "out.tif", pixels.shape, n_workers=n_workers, **OPTIONS) as writer,
        ThreadPoolExecutor(4) as pool,
    ):
        write = writer.write_region if regions else writer.write_tile
        side = TILE if regions else 1
        given = [(tile_at(pixels, row, column), row * side, column * side) for row, column in places_of(pixels)]
        list(pool.map(lambda each: write(*each), given))
    assert digest(tmp_path / "out.tif") == converted(pixels, tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["converted.tif", "out.tif"]


@workers
@pytest.mark.parametrize("written", [False, True])
def test_what_is_discarded_leaves_nothing(tmp_path, n_workers, written):
    writer = PyramidWriter(tmp_path / "out.tif", (100, 100, 3), n_workers=n_workers, **OPTIONS).open()
    if written:
        writer.write_tile(image(TILE, TILE), 0, 0)
    writer.discard()
    writer.close()
    assert writer.report is None
    assert os.listdir(tmp_path) == []


@workers
def test_run_that_failed_can_not_be_closed_into_a_file(tmp_path, n_workers):
    """Without a with statement, whoever closes in a `finally` must not finish what a worker could not encode."""
    writer = PyramidWriter(tmp_path / "out.tif", (320, 320), dtype="float32", n_workers=n_workers, **OPTIONS).open()
    try:
        with pytest.raises(SourceError, match="the value nan"):
            writer.write(np.full((TILE, TILE), np.nan, np.float32) for _ in range(100))
    finally:
        writer.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("overlap", ["refuse", "replace"])
def test_writer_that_got_no_tile_at_all_warns(tmp_path, overlap):
    writer = PyramidWriter(tmp_path / "out.tif", (100, 100), n_workers=0, overlap=overlap, background=7, **OPTIONS)
    with pytest.warns(UserWarning, match=r"no tile was ever written to .*out.tif") as caught, writer:
        pass
    assert caught[0].filename == __file__
    assert "no tile was ever written" in writer.report.warnings[-1]
    assert (tifffile.imread(tmp_path / "out.tif") == 7).all()
    assert os.listdir(tmp_path) == ["out.tif"]


@workers
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SourceError])
def test_part_of_an_iterable_is_not_closed_into_a_file(tmp_path, n_workers, error):
    """Whoever closes in a `finally` must not replace a good file by a part of the image, whoever made the error."""

    def tiles():
        yield image(TILE, TILE)
        if error is not SourceError:
            raise error("in the middle")

    out = tmp_path / "out.tif"
    out.write_bytes(b"good")
    writer = PyramidWriter(out, (100, 100, 3), n_workers=n_workers, overwrite=True, **OPTIONS)
    with pytest.raises(error), contextlib.closing(writer.open()):
        writer.write(tiles())
    assert writer.report is None
    assert out.read_bytes() == b"good"
    assert os.listdir(tmp_path) == ["out.tif"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OutputError])
def test_writer_that_failed_while_it_started_waits_for_nothing_and_makes_no_file(tmp_path, monkeypatch, error, workers):
    """Ctrl-C in a notebook, or a full disk: the next call waited for the lock of the first try for ever."""

    def fail_once(self):
        monkeypatch.undo()
        raise error("while it starts")

    monkeypatch.setattr(Scratch, "create", fail_once)
    writer = PyramidWriter(tmp_path / "a.tif", (300, 300, 3), tile_size=64, n_workers=workers).open()
    with pytest.raises(error, match="while it starts"):
        writer.write_tile(image(64, 64, 3), 0, 0)
    with pytest.raises(OptionError, match="is not open"):
        writer.write_tile(image(64, 64, 3), 0, 0)
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("error", [KeyboardInterrupt, OutputError])
def test_writer_that_fails_while_it_starts_gives_its_shared_memory_back(tmp_path, monkeypatch, error):
    def fail(self):
        raise error("while it starts")

    def shared():
        paths = [path for path in glob.glob("/proc/self/fd/*") if "memfd:slidewright" in os.path.realpath(path)]
        return {os.stat(path).st_ino for path in paths}

    before = shared()  # of which some may go: what other tests left to the garbage collector
    monkeypatch.setattr(Scratch, "create", fail)
    writer = PyramidWriter(tmp_path / "a.tif", (300, 300, 3), tile_size=64, n_workers=2).open()
    try:
        with pytest.raises(error, match="while it starts"):
            writer.write_tile(image(64, 64, 3), 0, 0)
    finally:
        writer.discard()
    assert shared() <= before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OutputError])
@pytest.mark.parametrize("overlap", ["refuse", "replace", "blend"])
def test_region_of_which_a_part_was_put_is_not_tried_again(tmp_path, monkeypatch, error, overlap):
    """Ctrl-C in a notebook, or a full disk: a blend would count that part twice, and what went to the disk is lost."""
    monkeypatch.setattr("slidewright.conversions.canvas.CACHE_BYTES", 1)
    write, left = ScratchLevel.write, [2]

    def interrupted(self, *arguments):
        left[0] -= 1
        if left[0] == 0:
            raise error("now")
        write(self, *arguments)

    monkeypatch.setattr(ScratchLevel, "write", interrupted)
    writer = PyramidWriter(tmp_path / "out.tif", (300, 410, 3), overlap=overlap, n_workers=0, **OPTIONS).open()
    with pytest.raises(error):
        writer.write_region(image(300, 410), 0, 0)
    with pytest.raises(OptionError, match="is not open"):
        writer.write_region(image(300, 410), 0, 0)
    writer.close()
    assert os.listdir(tmp_path) == []


@workers
@pytest.mark.parametrize("overlap", ["refuse", "replace"])
@pytest.mark.parametrize("name", ["close", "discard", "write_tile"])
def test_call_from_within_is_refused(tmp_path, monkeypatch, n_workers, overlap, name):
    """As a signal handler makes one, at any moment: it waited for ever, or took away what was in use."""
    monkeypatch.setattr("slidewright.conversions.canvas.CACHE_BYTES", 1)

    def told(_):
        getattr(writer, name)(*([image(TILE, TILE), 0, 1] if name == "write_tile" else []))

    options = {"overlap": overlap, "n_workers": n_workers, "progress": told, **OPTIONS}
    writer = PyramidWriter(tmp_path / "out.tif", (300, 410, 3), **options)
    with pytest.raises(OptionError, match="from within"), writer:
        writer.write_tile(image(TILE, TILE), 0, 0)
    assert os.listdir(tmp_path) == []


@workers
@pytest.mark.parametrize("end", ["close", "discard"])
def test_writer_that_is_kept_for_its_report_keeps_no_memory(tmp_path, n_workers, end):
    gc.collect()
    kept, before = [], psutil.Process().num_fds()
    for number in range(5):
        options = {"n_workers": n_workers, "overwrite": True, **OPTIONS}
        kept.append(PyramidWriter(tmp_path / "out.tif", (100, 100, 3), **options).open())
        kept[number].write_tile(image(TILE, TILE), 0, 0)
        getattr(kept[number], end)()
    assert psutil.Process().num_fds() == before  # a mapping has a descriptor of its own


@workers
@pytest.mark.parametrize("overlap", ["refuse", "replace"])
def test_scratch_is_where_it_was_opened_wherever_the_caller_goes(tmp_path, n_workers, overlap, monkeypatch):
    for name in ("here", "there"):
        (tmp_path / name / ("scratch" if name == "here" else "")).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    out = tmp_path / "out.tif"
    options = {"scratch": "scratch", "overlap": overlap, "n_workers": n_workers, "block_tiles": 1, **OPTIONS}
    with PyramidWriter(out, (300, 410, 3), **options) as writer:
        writer.write_tile(image(TILE, TILE), 0, 0)
        monkeypatch.chdir(tmp_path / "there")
        writer.write_tile(image(TILE, TILE), 0, 1)
    assert os.listdir(tmp_path / "here" / "scratch") == os.listdir(tmp_path / "there") == []


FORK = """
import os, sys
import numpy as np
import slidewright

tile = np.arange(64 * 64, dtype="u2").reshape(64, 64)
options = {"tile_size": 64, "overlap": sys.argv[1], "n_workers": int(sys.argv[2])}
with slidewright.PyramidWriter("out.tif", (128, 128), dtype="uint16", **options) as writer:
    writer.write_tile(tile, 0, 0)
    child = os.fork()
    if child == 0:
        exec(sys.argv[3])
    else:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        for row, column in ((0, 1), (1, 0), (1, 1)):
            writer.write_tile(tile, row, column)
"""


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("n_workers", [0, 1])
@pytest.mark.parametrize(
    ("overlap", "act", "code", "said"),
    [
        ("refuse", "raise ValueError", 1, "ValueError"),
        ("replace", "sys.exit(3)", 3, ""),
        ("replace", "writer.discard(); os._exit(4)", 4, ""),
        ("refuse", "writer.write_tile(tile, 0, 1)", 1, "of which this one is a fork"),
        ("refuse", "pass", 1, "of which this one is a fork"),
    ],
)
def test_fork_of_the_process_that_leaves_the_block_takes_nothing_along(tmp_path, overlap, n_workers, act, code, said):
    line = [sys.executable, "-c", FORK, overlap, str(n_workers), act]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (0, f"{code}\n"), done.stderr
    assert said in done.stderr
    tile = np.arange(64 * 64, dtype="u2").reshape(64, 64)
    assert np.array_equal(tifffile.imread(tmp_path / "out.tif"), np.tile(tile, (2, 2)))
    assert os.listdir(tmp_path) == ["out.tif"]


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_fork_in_a_callback_that_fails_takes_nothing_along(tmp_path):
    code = """
import os, sys
import numpy as np
import slidewright

children = []

def fork(progress):
    if not children:
        children.append(os.fork())
        if children == [0]:
            raise ValueError
        os.waitpid(children[0], 0)

slidewright.convert(np.zeros((500, 500), "u1"), "out.tif", tile_size=64, n_workers=1, progress=fork)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr.splitlines().count("ValueError")) == (0, 1), done.stderr
    assert os.listdir(tmp_path) == ["out.tif"]
