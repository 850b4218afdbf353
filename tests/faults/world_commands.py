"""Random commands for the world of `world_folders.py`, with what each may make, change or remove there."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from faults.world_folders import SOURCES, World

import slidewright

_NEW = tuple(f"n{number}{suffix}" for number in (1, 2) for suffix in (".tif", ".ome.tif", ".zarr", ".svs", ".tiff"))
_KNOWN = (
    "out/good.tif", "out/good.tif", "out/good.zarr", "out/good.zarr", "out/good.ome.tif", "out/foreign.tif",
    "out/broken.tif", "out/link.tif", "out/link.tif", "out/hard.tif", "out/hard.tif", "out/dangling.tif",
    "out/plain.zarr", "out/empty.zarr", "out/empty.zarr", "out/link.zarr", "out/ro/keep.tif", "out/ro/n.tif",
    "out/notes.txt", "out/GOOD.tif", "out/Good.TIF", "out/mine", "src/a.tif", "src/o.ome.zarr",
    "src/o.ome.zarr/labels/m", "src/o4.zarr/labels", "out/linksrc.tif", "out/hardsrc.tif", "src/p.zarr",
    "out/good.zarr/labels/x", "sh/full/x.tif", "sh/full/job.json", "out/arch.tif", "man/m.csv", "out/good.tif/",
    "out/good.zarr/", "nodir/x.tif", "src/p.zarr/x.tif", "sh/full", "drop/n1.tif", "drop/n1.zarr",
)  # fmt: skip
DIED = 9
"""The exit code of a caller that dies in the middle."""
_ONE_FILE = ("convert", "assemble", "restore", "library")


@dataclass
class Command:
    """One command, or a use of the library."""

    words: list[str]
    sources: list[str] = field(default_factory=list)
    """What it reads, which it may never change."""
    outputs: dict[str, str] = field(default_factory=dict)
    """Without links, and the source of each."""
    may: list[str] = field(default_factory=list)
    """Names that it may make or change, with all below; beside `outputs`."""
    folders: list[str] = field(default_factory=list)
    """Folders that it may make."""
    report: str | None = None
    """A report of lines that it appends to."""
    page: str | None = None
    shards: str | None = None
    removes: str | None = None
    out: str | None = None
    """The folder of a batch."""
    act: Callable[[], object] | None = None
    """What it does if it is no command line."""

    def __str__(self) -> str:
        return " ".join(self.words)

    @property
    def verb(self) -> str:
        return self.words[0]

    @property
    def overwrites(self) -> bool:
        return "--overwrite" in self.words

    @property
    def makes_one(self) -> bool:
        """Whether success means that its one output is there."""
        return self.verb in _ONE_FILE and "--dry-run" not in self.words

    def spelled(self, start: str) -> Command:
        """The same with another path to the world's folders: "./", "here/" (a link), or that of its root."""
        tops = ("src", "out", "deliver", "sh", "man", "drop", "beside", "tmp")
        words = [start + word if word.split("/")[0] in tops else word for word in self.words]
        return self if self.act is not None else replace(self, words=words)


class Chooser:
    """Makes commands at random."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self._world, self._chance = world, chance

    def _maybe(self, part: float) -> bool:
        return self._chance.random() < part

    def command(self, shared: str | None = None) -> Command:
        """The next; `shared` is an output that another has at the same time."""
        kinds = {self._convert: 45, self._batch: 24, self._shard: 9, self._assemble: 13, self._restore: 4,
                 self._library: 8, self._look: 3}  # fmt: skip
        (make,) = self._chance.choices(list(kinds), list(kinds.values()))
        return make(shared)

    def _any(self) -> str:
        names = sorted(name for name in self._world.names() if "/." not in f"/{name}")
        return self._chance.choice(names)

    def _source(self) -> str:
        return self._chance.choice(SOURCES) if self._maybe(0.95) else self._any()

    def _destination(self) -> str:
        kind = self._chance.random()
        if kind < 0.6:
            return f"{self._chance.choice(('out', 'deliver', 'deliver', 'drop'))}/{self._chance.choice(_NEW)}"
        return self._chance.choice(_KNOWN) if kind < 0.95 else self._any()

    def _options(self, *, zarr: bool = False, resume: bool = True, folder: bool = False) -> list[str]:
        chance, words = self._chance, ["--tile-size", "64"]
        codecs = ["none", "zstd"] if zarr else ["deflate", "zstd", "none", "jpeg", "lzw"]
        if folder:
            codecs = ["none", "zstd"]
        some: list[tuple[float, str, tuple[str, ...]]] = [
            (0.7, "--compression", tuple(codecs)),
            (0.6, "--overwrite", ()),
            (0.3 if resume else 0, "--resume", ()),
            (0.15, "--scratch", ("tmp", "tmp", "out", "deliver", "src/o.ome.zarr")),
            (0.1 if not zarr else 0, "--label", ("src/label.png", "src/e.png", "out/good.tif")),
            (0.1, "--verify", ()),
            (0.4, "--block-tiles", ("1", "1", "2")),
            (0.05, "--on-corrupt", ("fill",)),
            (0.3 if zarr else 0, "--zarr-shard", ("0", "2")),
            (0.2 if zarr else 0, "--ngff", ("0.4", "0.5")),
        ]
        for part, flag, values in some:
            if self._maybe(part):
                words += [flag, chance.choice(values)] if values else [flag]
        return words + self._workers()

    def _workers(self) -> list[str]:
        return self._chance.choice(([], ["--workers", "0"], ["--workers", "0"], ["--workers", "2"]))

    def _convert(self, shared: str | None) -> Command:
        source, to = self._source(), shared or self._destination()
        store = to.rstrip("/").endswith(".zarr") or "/labels/" in to
        made = Command(["convert", source, to, *self._options(zarr=store)], [source])
        if self._maybe(0.05):
            made.words += ["--dry-run"]
            return made
        made.outputs = {self._world.real(to): source}
        if "--resume" in made.words:
            made.may.append(f"{os.path.normpath(to)}.shards")
        if "labels" in to.split("/"):  # which are listed in the group
            made.may.append(os.path.dirname(self._world.real(to)))
        if self._maybe(0.15):
            made.page = self._chance.choice(("out/page.html", "deliver/page.html", "deliver/page.html", "out/notes.txt",
                                             "src/a.tif", to, "out/link.tif", "sh/full/job.json"))  # fmt: skip
            made.words += ["--report", made.page]
            made.may.append(made.page)
        return made

    def _batch(self, shared: str | None) -> Command:
        return self._manifest() if self._maybe(0.4) else self._folder()

    def _manifest(self) -> Command:
        path = self._chance.choice(("man/m.csv", "man/n.csv"))
        made = Command(["batch", path, *self._options(folder=True, resume=self._maybe(0.5))], [path])
        if (self._world.root / path).exists():
            for row in csv.DictReader((self._world.root / path).read_text().splitlines()):
                if "source" in row and "destination" in row:
                    to = os.path.normpath(f"man/{row['destination']}")
                    made.sources.append(os.path.normpath(f"man/{row['source']}"))
                    made.outputs[self._world.real(to)] = made.sources[-1]
                    made.may.append(f"{to}.shards")
        made.report = f"{path[:-4]}.report.jsonl"
        return self._with_report(made)

    def _folder(self) -> Command:
        chance = self._chance
        out, slides = chance.choice(
            (("deliver", ["src/a.tif", "src/g.npy", "src/o4.zarr"]), ("deliver/new/er", ["src/a.tif", "src/b.svs"]),
             ("beside", ["beside"]), ("beside", ["beside"]), ("beside", ["beside/?.*"]),
             ("beside", ["beside/a.svs", "beside/b.svs"]),
             ("src", ["src"]), ("src/sub", ["src", "--recursive"]), ("src", ["src/*.npy"]), ("out", ["src/**/a.tif"]),
             ("deliver", ["src/o.ome.zarr", "src/p.zarr"]), ("out", ["out"]), ("deliver", ["deliver"]),
             ("drop", ["src/a.tif"]))
        )  # fmt: skip
        made = Command(["batch", *slides, "--out", out, *self._options(folder=True, resume=self._maybe(0.3))])
        made.sources = [name for name in slides if name != out and (self._world.root / name).exists()]
        made.words += ["--suffix", chance.choice((".tif", ".zarr", ".ome.tif", ".svs"))]
        made.out, made.may, made.report = out, [out], f"{out}/slidewright-batch.jsonl"
        made.folders = [out, *map(str, (self._world.root / out).relative_to(self._world.root).parents)]
        return self._with_report(made)

    def _with_report(self, made: Command) -> Command:
        if self._maybe(0.15):
            made.report = self._chance.choice(("man/mine.jsonl", "deliver/r.jsonl", "out/notes.txt"))
            made.words += ["--report", made.report]
        made.may.append(str(made.report))
        return made

    def _shard(self, shared: str | None) -> Command:
        chance = self._chance
        source = self._source() if self._maybe(0.4) else "src/a.tif"
        folder = chance.choice(("sh/half", "sh/half", "sh/new", "sh/new", "sh/full", "sh/zarr", "sh/others", "out/mine",
                                "out/good.zarr", "src"))  # fmt: skip
        if self._maybe(0.15):
            source = chance.choice(("src/p.zarr", "src/o.ome.zarr", "src/o4.zarr"))
            folder = chance.choice((source, f"{source}/shards", f"here/{source}"))
        words = ["shard", source, folder, "--index", chance.choice("012"), "--count", "3", "--tile-size", "64",
                 "--compression", "deflate", *self._workers()]  # fmt: skip
        return Command(words, [source], may=[folder], folders=["sh"], shards=folder)

    def _assemble(self, shared: str | None) -> Command:
        folder = self._chance.choice(
            ("sh/full", "sh/full", "sh/mixed", "sh/half", "sh/zarr", "sh/zarr", "sh/fixed", "sh/others")
        )
        stores = folder in ("sh/zarr", "sh/fixed")
        suffix = ".zarr" if stores else ".tif"
        to = shared or self._chance.choice((self._destination(), f"deliver/as{suffix}", f"out/good{suffix}"))
        made = Command(["assemble", folder, to, *self._workers()], ["src/a.tif", "src/g.npy"])
        made.outputs = {self._world.real(to): "src/g.npy" if stores else "src/a.tif"}
        if self._maybe(0.5):
            made.words += ["--overwrite"]
        if self._maybe(0.5):
            made.words += ["--remove"]
            made.may, made.removes = [folder], folder
        return made

    def _restore(self, shared: str | None) -> Command:
        source = self._chance.choice(("out/arch.tif", "out/arch.tif", "out/good.tif", "src/a.tif"))
        to = shared or self._chance.choice((self._destination(), "deliver/back.svs"))
        return Command(["restore", source, to, *(["--overwrite"] if self._maybe(0.4) else [])], [source],
                       {self._world.real(to): "src/b.svs"})  # fmt: skip

    def _look(self, shared: str | None) -> Command:
        words = [self._chance.choice(("verify", "info")), self._source()]
        if words[0] == "verify" and self._maybe(0.5):
            words += ["--against", self._source()]
        return Command(words, words[1:2])

    def _library(self, shared: str | None) -> Command:
        """Tiles that are handed over, by a caller that may fail, leave or die; or a function, in whose middle the
        destination's folder is renamed, and perhaps comes back.
        """
        chance = self._chance
        to, workers, overwrite = shared or self._destination(), chance.choice((0, 2)), self._maybe(0.5)
        pixels = np.load(self._world.root / "src/d.npy")
        options = {"tile_size": 64, "n_workers": workers, "overwrite": overwrite}
        story, act = chance.choice((_tiles, _function))(pixels, to, options, chance)
        words = ["library", story, to, f"workers={workers}", *(["--overwrite"] if overwrite else [])]
        return Command(words, ["src/d.npy"], {self._world.real(to): "src/d.npy"}, act=act)


def _tiles(pixels: np.ndarray, to: str, options: dict, chance: random.Random) -> tuple[str, Callable[[], object]]:
    ending = chance.choice(("finished", "failed", "closed", "died"))

    def act() -> None:
        with slidewright.PyramidWriter(to, pixels.shape, **options) as writer:
            for y in range(0, pixels.shape[0], 64):
                for x in range(0, pixels.shape[1], 64):
                    writer.write_tile(pixels[y : y + 64, x : x + 64], y // 64, x // 64)
            if ending == "failed":
                raise slidewright.SlidewrightError("the caller failed")
            if ending == "closed":
                writer.close()
            if ending == "died":
                os._exit(DIED)

    return f"tiles {ending}", act


def _function(pixels: np.ndarray, to: str, options: dict, chance: random.Random) -> tuple[str, Callable[[], object]]:
    goes = to.split("/")[0] in ("deliver", "out") and chance.random() < 0.7
    away, back = (128, chance.choice((0, 192))) if goes else (0, 0)

    def act() -> object:
        place, moved = os.path.abspath(to.split("/")[0]), os.path.abspath("moved")

        def read(y: int, x: int, height: int, width: int) -> np.ndarray:
            with contextlib.suppress(OSError):
                if away and (y, x) == (away, 0):
                    os.rename(place, moved)
                    os.mkdir(place)
                elif back and (y, x) == (back, 0) and os.path.exists(moved):
                    shutil.rmtree(place)
                    os.rename(moved, place)
            return pixels[y : y + height, x : x + width]

        return slidewright.convert(read, to, shape=pixels.shape, dtype="uint8", block_tiles=1, **options)

    return f"function, folder away at {away}, back at {back}", act
