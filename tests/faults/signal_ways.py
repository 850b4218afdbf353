"""More ways for the campaign of signals: the command itself, and sources and callers that misbehave at random."""

from __future__ import annotations

import functools
import gc
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from faults.ways import LOG, WAYS, Way, make_sources
from numpy.typing import NDArray

import slidewright
from slidewright.cli.main import main
from slidewright.conversions import destination

HEIGHT, WIDTH, TILE = 700, 900, 64
OPTIONS: dict[str, Any] = {"tile_size": TILE, "compression": "deflate", "effort": 1, "overwrite": True}
ALL = ("memory", "timeout", "scratch")
SLEEPER = "sleeper"  # the name of a fork that is the caller's own affair
Words = Callable[[Path], list[object]]


@dataclass(frozen=True)
class Mood:
    """What happens with some probability whenever pixels are asked for."""

    what: str = ""
    part: float = 0.0

    def swing(self) -> None:
        if not self.what or random.Random(os.urandom(8)).random() > self.part:
            return
        match self.what:
            case "slow":
                time.sleep(0.05)
            case "block":
                time.sleep(3600)
            case "raise":
                raise ValueError("at random")
            case "memory":
                raise MemoryError
            case "exit":
                os._exit(7)
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "fork":
                sleep_in_a_fork(20)
            case "thread":
                threading.Thread(target=time.sleep, args=(0.5,), daemon=True).start()
            case "system exit":
                raise SystemExit(3)
            case "interrupt":
                raise KeyboardInterrupt


MOODS = ("slow", "raise", "memory", "fork", "thread", "system exit", "interrupt")
WORKER_MOODS = (*MOODS, "exit", "crash")  # and "block", where there is a timeout
CALM = Mood()


def sleep_in_a_fork(seconds: float) -> None:
    """A fork of this process, which keeps its pipes open and is not the run's to end."""
    if os.fork() == 0:
        name = os.open("/proc/self/comm", os.O_WRONLY)
        os.write(name, SLEEPER.encode())
        time.sleep(seconds)
        os._exit(0)


def fork_now_and_then() -> None:
    """Forks of the caller's program at any moment of a run, as a server or a data loader makes them."""

    def work() -> None:
        for _ in range(12):
            time.sleep(0.05)
            sleep_in_a_fork(90)

    threading.Thread(target=work, daemon=True).start()


def pattern(y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[y : y + height, x : x + width]
    pixels = ((rows * 7 + columns * 13 + (rows * columns) // 50) % 251).astype(np.uint8)
    return np.stack([pixels, pixels // 2, 255 - pixels], -1)


@dataclass(frozen=True)
class Tiles:
    """A data set of the tiles, and a function that gives any region."""

    mood: Mood

    def __len__(self) -> int:
        return len(PLACES)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return self.tile(*PLACES[index])

    def __call__(self, y: int, x: int, height: int, width: int) -> NDArray[np.uint8]:
        self.mood.swing()
        return pattern(y, x, height, width)

    def tile(self, row: int, column: int) -> NDArray[np.uint8]:
        y, x = row * TILE, column * TILE
        return self(y, x, min(TILE, HEIGHT - y), min(TILE, WIDTH - x))


PLACES = [(row, column) for row in range(-(-HEIGHT // TILE)) for column in range(-(-WIDTH // TILE))]


def _given(folder: Path, workers: int, more: dict[str, Any]) -> dict[str, Any]:
    return {"n_workers": workers, "scratch": folder / "scratch", **OPTIONS, **more}


def _function(folder: Path, workers: int, mood: Mood = CALM, **more: Any) -> None:
    made = Tiles(mood).__call__
    given = _given(folder, workers, more)
    slidewright.convert(made, folder / "work" / "out.tif", shape=(HEIGHT, WIDTH, 3), dtype="uint8", **given)


def _dataset(folder: Path, workers: int, mood: Mood = CALM, **more: Any) -> None:
    given = _given(folder, workers, more)
    slidewright.convert(Tiles(mood), folder / "work" / "out.tif", shape=(HEIGHT, WIDTH, 3), dtype="uint8", **given)


def _array(folder: Path, workers: int, **more: Any) -> None:
    slidewright.convert(
        pattern(0, 0, HEIGHT, WIDTH), folder / "work" / "out.tif", **_given(folder, workers, more)
    )


def _writer(write: Callable[[Any, Tiles], None], folder: Path, workers: int, mood: Mood = CALM, **more: Any) -> None:
    out = folder / "work" / "out.tif"
    with slidewright.PyramidWriter(out, (HEIGHT, WIDTH, 3), **_given(folder, workers, more)) as writer:
        write(writer, Tiles(mood))


def _threads(writer: Any, tiles: Tiles) -> None:
    errors: list[BaseException] = []

    def part(number: int) -> None:
        try:
            for place in PLACES[number::4]:
                writer.write_tile(tiles.tile(*place), *place)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=part, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _generator(writer: Any, tiles: Tiles) -> None:
    writer.write(tiles.tile(*place) for place in PLACES)


def _dask_array(writer: Any, tiles: Tiles) -> None:
    import dask.array

    pool = ThreadPoolExecutor(2)  # dask's own would be that of the process of which this one is a fork
    array = dask.array.from_array(pattern(0, 0, HEIGHT, WIDTH), chunks=(128, 128, 3))

    def made() -> Iterator[NDArray[np.uint8]]:
        for y in range(0, HEIGHT, TILE):
            for x in range(0, WIDTH, TILE):
                yield array[y : y + TILE, x : x + TILE].compute(pool=pool)

    writer.write(made())


def _line(words: Words, takes: tuple[str, ...], folder: Path, workers: int, more: dict[str, Any]) -> list[str]:
    given = {"workers": workers, **{name: more[name] for name in takes if name in more}}
    return [*map(str, words(folder)), *(f"--{name}={value}" for name, value in given.items())]


def _execute(
    words: Words, takes: tuple[str, ...], folder: Path, workers: int, callbacks: bool = False, **more: Any
) -> None:
    """This process becomes the command; or runs it, much of its time being spent where exceptions are lost."""
    line = _line(words, takes, folder, workers, more)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # under nohup it is ignored, which children inherit
    os.chdir(folder)
    if callbacks:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        gc.callbacks.append(lambda *_: time.sleep(0.003))
        gc.set_threshold(100)
        destination._last_named.clear()  # by the process of which this is a fork
        os._exit(main(line, last=True))
    os.execv(sys.executable, [sys.executable, "-m", "slidewright", *line])


def _call(words: Words, takes: tuple[str, ...], folder: Path, workers: int, **more: Any) -> None:
    code = main(_line(words, takes, folder, workers, more))
    assert code == 0, code


def command(name: str, words: Words, *more: Any, takes: tuple[str, ...] = ALL, **options: Any) -> Way:
    """A way that is a line of the command."""
    run, finish = (functools.partial(act, words, takes) for act in (_execute, _call))
    return Way(f"command {name}", run, *more, finish=finish, **options)


def _convert(source: str, out: str, *more: object) -> Words:
    return lambda folder: ["convert", folder / source, folder / "work" / out, "--overwrite", *more]



def _copy_archive(folder: Path) -> None:
    shutil.copy(folder / "kept.archive.tif", folder / "work" / "k.archive.tif")


_PLAIN = (f"--tile-size={TILE}", "--compression=deflate", "--effort=1")
_ZARR = (f"--tile-size={TILE}", "--compression=zstd", "--zarr-shard=2")
_ROWS = (
    "source,destination,tile_size,compression",
    *("slide.tif,work/a.tif,64,deflate", "kept.tif,work/b.tif,,", "slide.tif,work/c.ome.tif,64,zstd"),
    *("slide.tif,work/d.ome.zarr,64,zstd", "large.tif,work/e.tif,256,jpeg"),
)
_ROWS_MADE = ("a.tif", "b.tif", "c.ome.tif", "d.ome.zarr", "e.tif")
_CHECKED = _convert("slide.tif", "out.tif", *_PLAIN, "--verify")
_LABEL = lambda folder: _convert("slide.tif", "out.tif", *_PLAIN, "--label", folder / "label.png")(folder)  # noqa: E731
MISBEHAVING = {"function", "dataset", "generator", "threads"}
SIGNAL_WAYS = [
    *WAYS.values(),
    Way("function", _function),
    Way("dataset", _dataset),
    Way("array", _array),
    Way("generator", functools.partial(_writer, _generator)),
    Way("threads", functools.partial(_writer, _threads)),
    Way("Dask array", functools.partial(_writer, _dask_array)),
    command("convert", _convert("slide.tif", "out.tif", *_PLAIN)),
    command(
        "convert and verify",
        lambda folder: [*_CHECKED(folder), "--report", folder / "work" / "p.html"],
        stays=("p.html",),
    ),
    command("kept tiles", _convert("kept.tif", "out.tif")),
    command("OME-Zarr", _convert("slide.tif", "o.ome.zarr", *_ZARR), ("o.ome.zarr",)),
    command("from a store", _convert("store.ome.zarr", "out.tif", *_PLAIN)),
    command("resume", _convert("slide.tif", "out.tif", *_PLAIN, "--resume"), keeps=("out.tif.shards",)),
    command("label", _LABEL),
    command(
        "batch",
        lambda folder: ["batch", folder / "rows.csv", "--report", folder / "work" / LOG[0]],
        *(_ROWS_MADE, LOG, LOG),
    ),
    command("archive", _convert("kept.tif", "k.archive.tif", "--archive=jpegxl"), ("k.archive.tif",)),
    command(
        "restore",
        lambda folder: ["restore", folder / "work/k.archive.tif", folder / "work/out.tif", "--overwrite"],
        stays=("k.archive.tif",),
        prepare=_copy_archive,
        takes=(),
    ),
    command("verify", lambda folder: ["verify", folder / "old.tif", "--against", folder / "kept.tif"], (), takes=()),
]


def make_all(folder: Path) -> None:
    """What the ways read; old outputs that they replace."""
    import tifffile
    from PIL import Image

    make_sources(folder, HEIGHT, WIDTH)
    tifffile.imwrite(folder / "large.tif", pattern(0, 0, 2400, 2500), tile=(256, 256), photometric="rgb")
    Image.fromarray(pattern(0, 0, 60, 90)).save(folder / "label.png")
    (folder / "rows.csv").write_text("\n".join(_ROWS) + "\n")
    given = {"n_workers": 0, "tile_size": TILE}
    slidewright.convert(folder / "slide.tif", folder / "store.ome.zarr", **given)
    slidewright.convert(folder / "kept.tif", folder / "old.tif", **given)
    slidewright.convert(folder / "kept.tif", folder / "old.ome.zarr", **given)
    slidewright.convert(folder / "kept.tif", folder / "kept.archive.tif", archive="jpegxl", n_workers=0)
