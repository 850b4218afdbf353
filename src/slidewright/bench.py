"""Benchmarks of whole processes: slidewright, libvips and the codec limit, interleaved on one input.

Timing and memory are different runs: sampling the memory of a process tree takes processor time from what is measured.
This module is also the program of the measured processes: `python -m slidewright.bench ROLE JSON`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter, sleep
from typing import Any

from slidewright.errors import OptionError, RunError, SourceError

PEERS = ("vips",)
COMPRESSIONS = ("jpeg", "deflate", "zstd", "none")
LEVELS = {"deflate": 6, "zstd": 3}
LIMIT = "codec-limit"
"""One process that does nothing but decode, encode and reduce; its time divided by the workers."""
LIMIT_TOGETHER = "codec-limit-together"
"""The same in as many processes as workers, at once: what the cores give when they share caches and memory."""
_SAMPLE_SECONDS = 0.02

_VIPS = """
import json, sys, pyvips
given = json.loads(sys.argv[1])
pyvips.Image.new_from_file(given["source"], access="sequential").tiffsave(given["dest"], **given["arguments"])
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured."""

    source: str
    workers: tuple[int, ...]
    repeat: int = 3
    peers: tuple[str, ...] = PEERS
    compression: str = "jpeg"
    quality: int = 90
    tile_size: int = 512
    folder: str | None = None
    """Where the outputs go; default the system's temporary folder."""

    def __post_init__(self) -> None:
        for name in self.peers:
            if name not in PEERS:
                raise OptionError(f"peer {name!r} is not known; known are {', '.join(PEERS)}")
        if self.compression not in COMPRESSIONS:
            known = ", ".join(COMPRESSIONS)
            raise OptionError(f"compression {self.compression!r} is not compared; choose one of {known}")
        if self.repeat < 1 or not self.workers or min(self.workers) < 1:
            raise OptionError("repeat and every number of workers must be at least 1")
        if not Path(self.source).exists():
            raise SourceError(f"{self.source} does not exist; check the path")


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program that is measured: its name, its number of workers and how to start it."""

    name: str
    workers: int
    command: tuple[str, ...]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Output:
    """What a contestant wrote, so that one can see that the work was the same."""

    bytes: int
    levels: tuple[tuple[int, int], ...]
    """(width, height) of each level."""
    compression: str
    photometric: str
    tile: tuple[int, int]
    subsampling: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Result:
    """The runs of one contestant."""

    name: str
    workers: int
    seconds: tuple[float, ...]
    """Of each run, from start to end of the process; of the codec limit, the time in codecs over the workers."""
    megapixels: float
    peak_pss: int | None = None
    """Peak of the summed proportional set sizes of all its processes, in bytes, from a run of its own."""
    output: Output | None = None
    stages: dict[str, float] | None = None
    """Seconds by stage of the median run."""

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """Slowest run less fastest, over the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    @property
    def megapixels_per_second(self) -> float:
        """Level-0 megapixels a second."""
        return self.megapixels / self.median


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished benchmark."""

    settings: Settings
    machine: dict[str, Any]
    results: tuple[Result, ...]

    def find(self, name: str, workers: int) -> Result | None:
        """The result of a contestant, if it took part."""
        return next((r for r in self.results if (r.name, r.workers) == (name, workers)), None)

    def ratio(self, name: str, other: str, workers: int) -> float | None:
        """Median seconds of one contestant over those of another."""
        one, two = self.find(name, workers), self.find(other, workers)
        return None if one is None or two is None else one.median / two.median

    def as_json(self) -> dict[str, Any]:
        """Plain values, with medians and ratios worked out."""
        rows = []
        for result in self.results:
            row = asdict(result) | {"median": result.median, "megapixels_per_second": result.megapixels_per_second}
            for other in ("vips", LIMIT, LIMIT_TOGETHER):
                row[f"time_over_{other.replace('-', '_')}"] = self.ratio(result.name, other, result.workers)
            rows.append(row)
        return {"settings": asdict(self.settings), "machine": self.machine, "results": rows}


def compare(settings: Settings, tell: Callable[[str], None] = lambda _: None) -> Comparison:
    """Run a benchmark; `tell` gets a line for each run.

    Raises
    ------
    OptionError, SourceError
        For settings that make no sense, or a peer that is not installed.
    RunError
        When a measured process fails; the message has the end of what it said.
    """
    megapixels = _warm(settings.source)
    if "vips" in settings.peers:
        _need_pyvips()
    with tempfile.TemporaryDirectory(prefix="slidewright-bench-", dir=settings.folder) as folder:
        entrants = list(_contestants(settings, str(Path(folder) / "out.tif")))
        bench = _Bench(settings, Path(folder) / "out.tif", tell)
        for entrant in entrants:
            bench.weigh(entrant)
        for turn in range(settings.repeat):
            shift = turn % len(entrants)  # nobody always comes first
            for entrant in entrants[shift:] + entrants[:shift]:
                bench.time(entrant)
            bench.time_limit()
    return Comparison(settings, _machine(), tuple(bench.results(megapixels)))


class _Bench:
    """Collects the runs."""

    def __init__(self, settings: Settings, dest: Path, tell: Callable[[str], None]) -> None:
        self._settings = settings
        self._dest = dest
        self._tell = tell
        self._seconds: dict[tuple[str, int], list[float]] = {}
        self._stages: dict[tuple[str, int], list[dict[str, float]]] = {}
        self._memory: dict[tuple[str, int], int | None] = {}
        self._outputs: dict[tuple[str, int], Output] = {}

    def weigh(self, entrant: Contestant) -> None:
        """Run once for the peak of memory and the look of the output; warms caches as well."""
        key = (entrant.name, entrant.workers)
        _, self._memory[key], _ = run_tree(entrant.command, entrant.environment, sample=True)
        self._outputs[key] = describe(self._dest)
        self._dest.unlink()
        peak = self._memory[key]
        self._tell(f"{entrant.name}, {entrant.workers} workers: " + ("" if peak is None else f"{peak / 1e6:.0f} MB"))

    def time(self, entrant: Contestant) -> None:
        """Run once for the time."""
        key = (entrant.name, entrant.workers)
        seconds, _, said = run_tree(entrant.command, entrant.environment)
        self._dest.unlink()
        self._add(key, seconds, json.loads(said)["stages"] if said.strip() else None)

    def time_limit(self) -> None:
        """The codec limit: alone, for any number of workers, and with each number of processes at once."""
        given = {"source": self._settings.source, **_codec(self._settings)}
        (alone,) = _run_limits(given, 1)
        for workers in self._settings.workers:
            self._add((LIMIT, workers), sum(alone.values()) / workers, alone)
            if workers == 1:
                continue
            together = _run_limits(given, workers)
            slowest = max(together, key=lambda stages: sum(stages.values()))
            self._add((LIMIT_TOGETHER, workers), sum(slowest.values()), slowest)

    def _add(self, key: tuple[str, int], seconds: float, stages: dict[str, float] | None) -> None:
        self._seconds.setdefault(key, []).append(seconds)
        self._stages.setdefault(key, []).append(stages or {})
        self._tell(f"{key[0]}, {key[1]} workers: {seconds:.2f} s")

    def results(self, megapixels: float) -> Iterable[Result]:
        """One result a contestant."""
        for key, seconds in self._seconds.items():
            middle = sorted(range(len(seconds)), key=seconds.__getitem__)[len(seconds) // 2]
            yield Result(
                *key,
                seconds=tuple(seconds),
                megapixels=megapixels,
                peak_pss=self._memory.get(key),
                output=self._outputs.get(key),
                stages=self._stages[key][middle] or None,
            )


def _contestants(settings: Settings, dest: str) -> Iterable[Contestant]:
    given = {"source": settings.source, "dest": dest}
    for workers in settings.workers:
        options = {"n_workers": workers, "tile_size": settings.tile_size, **_codec(settings)}
        command = (sys.executable, "-m", "slidewright.bench", "convert", json.dumps(given | {"options": options}))
        yield Contestant("slidewright", workers, command, {})
        if "vips" in settings.peers:
            whole = json.dumps(given | {"arguments": vips_arguments(settings)})
            environment = {"VIPS_CONCURRENCY": str(workers)}
            yield Contestant("vips", workers, (sys.executable, "-c", _VIPS, whole), environment)


def _codec(settings: Settings) -> dict[str, Any]:
    """The options that choose the codec, with its effort in words that do not depend on a default."""
    options: dict[str, Any] = {"compression": settings.compression}
    if settings.compression == "jpeg":
        options |= {"quality": settings.quality, "subsampling": "420"}
    elif settings.compression in LEVELS:
        options |= {"level": LEVELS[settings.compression], "predictor": False}
    return options


def vips_arguments(settings: Settings) -> dict[str, Any]:
    """What makes libvips write the same: it halves chroma only below quality 90, so 90 is compared with its 89."""
    arguments: dict[str, Any] = {
        "tile": True,
        "pyramid": True,
        "bigtiff": True,
        "compression": settings.compression,
        "tile_width": settings.tile_size,
        "tile_height": settings.tile_size,
    }
    if settings.compression == "jpeg":
        arguments["Q"] = min(settings.quality, 89)
    if settings.compression in LEVELS:
        arguments |= {"level": LEVELS[settings.compression], "predictor": "none"}
    return arguments


def run_tree(
    command: Sequence[str], environment: dict[str, str] | None = None, *, sample: bool = False
) -> tuple[float, int | None, str]:
    """Run a program; (seconds, peak summed PSS of its processes if sampled, what it printed).

    Raises
    ------
    RunError
        If it fails; the message has the end of what it wrote to standard error.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **(environment or {})})
        try:
            peak = _watch(process) if sample else None
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = perf_counter() - start
        out.seek(0)
        err.seek(0)
        if code:
            words = err.read().decode(errors="replace").strip()[-2000:]
            raise RunError(f"{' '.join(command[:3])} ended with {code}; run it by hand to see why: {words}")
        return seconds, peak, out.read().decode()


def _watch(process: subprocess.Popen[bytes]) -> int | None:
    """Sample the tree until the process ends."""
    import psutil

    root = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        total = 0
        try:
            members = [root, *root.children(recursive=True)]
        except psutil.Error:
            break
        for member in members:
            try:
                total += getattr(member.memory_full_info(), "pss", 0)
            except psutil.Error:
                continue  # it ended between the listing and the look
        peak = max(peak, total)
        sleep(_SAMPLE_SECONDS)
    return peak or None


def describe(path: str | os.PathLike[str]) -> Output:
    """What a pyramidal TIFF is, whoever wrote it."""
    from tifffile import TiffFile

    with TiffFile(path) as tiff:
        pages: list[Any] = list(tiff.pages)
        first = pages[0]
        tag = first.tags.get("YCbCrSubSampling")
        photometric = str(first.photometric.name).lower()
        implied = (2, 2) if photometric == "ycbcr" else None  # TIFF 6.0 section 21: what a missing tag stands for
        return Output(
            bytes=os.path.getsize(path),
            levels=tuple((int(page.imagewidth), int(page.imagelength)) for page in pages),
            compression=str(first.compression.name).lower(),
            photometric=photometric,
            tile=(int(first.tilewidth), int(first.tilelength)),
            subsampling=implied if tag is None else (int(tag.value[0]), int(tag.value[1])),
        )


def _need_pyvips() -> None:
    import importlib.util

    if importlib.util.find_spec("pyvips") is None:
        raise OptionError("pyvips is not installed; install slidewright[bench], or compare with nobody: --peers none")


def _warm(source: str) -> float:
    """Read the source once, so that no contestant pays for the disk; its megapixels."""
    from slidewright.sources import open_source

    info = open_source(source).info
    if Path(source).is_file():
        with open(source, "rb") as file:
            while file.read(1 << 24):
                pass
    return info.size.height * info.size.width / 1e6


def _machine() -> dict[str, Any]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    from slidewright.resources import usable_cpus

    versions = {}
    for name in ("slidewright", "numpy", "tifffile", "imagecodecs", "zarr", "opencv-python-headless", "pyvips-binary"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "usable_cpus": usable_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


# The measured processes.


def _run_limits(given: dict[str, Any], processes: int) -> list[dict[str, float]]:
    """Run the codec limit in so many processes at once, each on its share of the tiles; seconds by stage of each.

    They wait for one another before the clock starts: imports are not codec time.
    """
    command = [sys.executable, "-m", "slidewright.bench", "limit"]
    running: list[subprocess.Popen[str]] = []
    try:
        for index in range(processes):
            share = json.dumps(given | {"share": [index, processes]})
            pipe = subprocess.PIPE
            running.append(subprocess.Popen([*command, share], stdin=pipe, stdout=pipe, text=True))
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate()[0] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    if any(process.returncode for process in running):
        raise RunError("the codec limit could not be measured; only tiled TIFF sources have one")
    return [json.loads(answer) for answer in answers]


def codec_limit(
    source: str,
    compression: str,
    *,
    quality: int = 90,
    level: int = 6,
    share: tuple[int, int] = (0, 1),
    ready: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Seconds by stage that the codecs alone take: decode every tile, encode 4/3 as many, reduce 4/3 as many.

    Parameters
    ----------
    source
        A tiled TIFF.
    share
        (index, number): take every `number`-th tile from `index` on.
    ready
        Called when imports and buffers are made, before the clock starts.
    """
    import cv2
    import numpy as np
    from tifffile import TiffFile

    cv2.setNumThreads(1)
    with TiffFile(source) as tiff, open(source, "rb") as file:
        page: Any = tiff.pages.first
        decode = _decoder(page)
        encode = _encoder(compression, quality, level)
        half = np.empty((page.tilelength // 2, page.tilewidth // 2, page.samplesperpixel), page.dtype)
        stages = {"read": 0.0, "encode": 0.0, "reduce": 0.0}
        ready()
        for number, index in enumerate(range(share[0], len(page.dataoffsets), share[1])):
            times = 2 if number % 3 == 0 else 1  # 4/3 on average
            start = perf_counter()
            data = os.pread(file.fileno(), page.databytecounts[index], page.dataoffsets[index])
            pixels = decode(data, index)
            decoded = perf_counter()
            for _ in range(times):
                encode(pixels)
            encoded = perf_counter()
            for _ in range(times):
                cv2.resize(pixels, half.shape[1::-1], dst=half, interpolation=cv2.INTER_AREA)
            stages["read"] += decoded - start
            stages["encode"] += encoded - decoded
            stages["reduce"] += perf_counter() - encoded
    return stages


def _decoder(page: Any) -> Callable[[bytes, int], Any]:
    """The fastest way to decode a tile of a page: JPEG straight into one buffer, the rest as tifffile does."""
    import numpy as np
    from imagecodecs import jpeg8_decode

    shape = (page.tilelength, page.tilewidth, page.samplesperpixel)
    if int(page.compression) == 7 and page.dtype == np.uint8 and page.samplesperpixel == 3:
        out = np.empty(shape, np.uint8)
        colours = "ycbcr" if int(page.photometric) == 6 else "rgb"
        tables = page.jpegtables

        def decode_jpeg(data: bytes, _: int) -> Any:
            return jpeg8_decode(data, tables=tables, colorspace=colours, outcolorspace="rgb", out=out)

        return decode_jpeg

    def decode_any(data: bytes, index: int) -> Any:
        pixels = page.decode(data, index, jpegtables=page.jpegtables)[0]
        return np.zeros(shape, page.dtype) if pixels is None else pixels[0]

    return decode_any


def _encoder(compression: str, quality: int, level: int) -> Callable[[Any], Any]:
    import imagecodecs

    if compression == "jpeg":
        return lambda pixels: imagecodecs.jpeg8_encode(
            pixels,
            level=quality,
            colorspace="rgb" if pixels.shape[2] == 3 else None,
            outcolorspace="ycbcr" if pixels.shape[2] == 3 else None,
            subsampling="420" if pixels.shape[2] == 3 else None,
        )
    if compression == "deflate":
        return lambda pixels: imagecodecs.deflate_encode(pixels, level)
    if compression == "zstd":
        return lambda pixels: imagecodecs.zstd_encode(pixels, level)
    return lambda pixels: pixels.tobytes()


def _main(role: str, text: str) -> None:
    given = json.loads(text)
    if role == "convert":
        from slidewright import convert

        report = convert(given["source"], given["dest"], **given["options"])
        print(json.dumps({"stages": dict(report.stages)}))
        return

    def ready() -> None:
        print("ready", flush=True)
        sys.stdin.readline()

    given.pop("subsampling", None)
    given["share"] = tuple(given["share"])
    print(json.dumps(codec_limit(**given, ready=ready)))


if __name__ == "__main__":
    _main(*sys.argv[1:])
