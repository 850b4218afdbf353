"""dlup's four tables: an image without loss, with loss, annotations and a binary mask, times every compressor.

Whole processes, in turns, on pixels in a .npy file, so that only encoding and writing differ. What a compressor
refuses is a row with the reason.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from slidewright.bench.measure import machine, run_tree
from slidewright.bench.peers import Peer, find_peers
from slidewright.bench.tissue import Samples, make_samples
from slidewright.errors import OptionError, RunError, SourceError
from slidewright.pyramid.level_store import ScratchFolder

TABLES = ("lossless", "lossy", "annotations", "mask")
DLUP_NAMES = {  # ours to dlup's, where dlup has it
    "none": "NONE",
    "jpeg": "JPEG",
    "deflate": "DEFLATE",
    "packbits": "PACKBITS",
    "lzw": "LZW",
    "webp": "WEBP",
    "webp-lossless": "WEBP",
    "zstd": "ZSTD",
    "jpeg2000": "JP2K",
    "jpeg2000-lossy": "JP2K_LOSSY",
    "png": "PNG",
    "ccitt-t4": "CCITTFAX4",
}


@dataclass(frozen=True, slots=True)
class CodecSettings:
    """What is measured."""

    source: str
    tables: tuple[str, ...] = TABLES
    compressions: tuple[str, ...] | None = None
    """Of the codec table; None for all."""
    workers: int = 1
    side: int = 8192
    """Of the part of the slide that is encoded."""
    quality: int = 90
    repeat: int = 3
    tile_size: int = 512
    dlup: str | None = None
    """"dlup-0.3" or "dlup-0.9"; None for the one that is installed, the older first."""
    environments: str | None = None
    folder: str | None = None
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        from slidewright.codecs import codecs_of

        for name in self.tables:
            if name not in TABLES:
                raise OptionError(f"table {name!r} is not known; choose from {', '.join(TABLES)}")
        for name in self.compressions or ():
            if name not in codecs_of("tiff"):
                raise OptionError(f"compression {name!r} is not known; choose from {', '.join(codecs_of('tiff'))}")
        if self.repeat < 1 or self.workers < 1 or self.side < self.tile_size:
            raise OptionError("repeat and workers must be at least 1, and the part of the slide at least a tile")


@dataclass(slots=True)
class Entry:
    """One row of one table."""

    table: str
    compression: str
    raw_bytes: int
    megapixels: float
    seconds: list[float] = field(default_factory=list)
    dlup_seconds: list[float] = field(default_factory=list)
    bytes: int | None = None
    dlup_bytes: int | None = None
    refused: str | None = None
    """Why there is no number."""
    dlup_refused: str | None = None

    @property
    def median(self) -> float | None:
        """Median seconds of whole processes."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def dlup_median(self) -> float | None:
        """The same of dlup's writer."""
        return statistics.median(self.dlup_seconds) if self.dlup_seconds else None

    @property
    def time_over_dlup(self) -> float | None:
        """Our time over that of dlup's writer."""
        ours, theirs = self.median, self.dlup_median
        return None if ours is None or theirs is None else ours / theirs

    @property
    def compression_ratio(self) -> float | None:
        """Bytes of level 0, unencoded, over those of the file with all its levels."""
        return None if not self.bytes else self.raw_bytes / self.bytes

    def as_row(self) -> dict[str, Any]:
        """Flat values."""
        worked_out = ("median", "dlup_median", "time_over_dlup", "compression_ratio")
        return asdict(self) | {name: getattr(self, name) for name in worked_out}


@dataclass(frozen=True, slots=True)
class CodecComparison:
    """The finished tables."""

    settings: CodecSettings
    machine: dict[str, Any]
    region: str
    entries: tuple[Entry, ...]
    dlup: str | None
    """Name and version of the dlup that was measured."""

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": "codecs",
            "settings": asdict(self.settings),
            "machine": self.machine,
            "region": self.region,
            "dlup": self.dlup,
            "results": [entry.as_row() for entry in self.entries],
        }


def compare_codecs(settings: CodecSettings, tell: Callable[[str], None] = lambda _: None) -> CodecComparison:
    """Run the tables; `tell` gets a line for each run.

    Raises
    ------
    OptionError, SourceError
        For settings that make no sense, or a source that is not uint8 RGB.
    RunError
        When one of our processes fails other than by refusing.
    """
    from slidewright.sources.open import open_source

    source = open_source(settings.source)
    if (source.info.dtype, source.info.samples) != ("uint8", 3):
        raise SourceError(f"{source.info.name} is not uint8 RGB, which these tables need; choose another slide")
    dlup = _find_dlup(settings)
    with ScratchFolder(settings.folder) as folder:
        samples = make_samples(source, settings.side)
        tables = _Tables(settings, Path(folder), samples, dlup, tell)
        for turn in range(settings.repeat):
            tables.turn(turn)
    name = None if dlup is None else f"dlup {dlup.version}"
    return CodecComparison(settings, machine(), str(samples.region), tuple(tables.entries), name)


def _find_dlup(settings: CodecSettings) -> Peer | None:
    if settings.dlup is not None:
        return find_peers((settings.dlup,), settings.environments, "jpeg")[0][0]
    found, _ = find_peers(None, settings.environments, "jpeg")
    return next((peer for name in ("dlup-0.3", "dlup-0.9") for peer in found if peer.name == name), None)


def rows_of(table: str, wanted: tuple[str, ...] | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, options of convert) of every compressor that belongs in a table."""
    from slidewright.codecs import codecs_of

    for name, codec in codecs_of("tiff").items():
        if wanted is not None and name not in wanted:
            continue
        if codec.lossy == (table == "lossy"):
            yield name, {"compression": name}


class _Tables:
    """Collects the runs."""

    def __init__(
        self, settings: CodecSettings, folder: Path, samples: Samples, dlup: Peer | None, tell: Callable[[str], None]
    ) -> None:
        self._settings, self._folder, self._dlup, self._tell = settings, folder, dlup, tell
        self._labels = int(samples.labels.max())
        self._options: list[dict[str, Any]] = []
        self.entries: list[Entry] = []
        for table, pixels in (
            ("lossless", samples.image),
            ("lossy", samples.image),
            ("annotations", samples.labels),
            ("mask", samples.mask),
        ):
            if table not in settings.tables:
                continue
            np.save(self._source(table), pixels)
            for name, options in rows_of(table, settings.compressions):
                self._options.append(options | self._table_options(table))
                area = pixels.shape[0] * pixels.shape[1]
                self.entries.append(Entry(table, name, pixels.nbytes, area / 1e6))

    def _source(self, table: str) -> str:
        return str(self._folder / f"{'image' if table in ('lossless', 'lossy') else table}.npy")

    def _table_options(self, table: str) -> dict[str, Any]:
        """What the pixels of a table are, in the options of convert."""
        if table == "lossy":
            return {"quality": self._settings.quality}
        if table == "annotations":
            # colours are data too: one for each label that occurs
            random = np.random.default_rng(7)
            colours = {n: tuple(int(v) for v in random.integers(40, 220, 3)) for n in range(1, self._labels + 1)}
            return {"kind": "labels", "colormap": {0: (255, 255, 255), **colours}}
        return {"kind": "binary"} if table == "mask" else {}

    def turn(self, number: int) -> None:
        """Run every row once, ours and dlup's one after the other; who is first changes."""
        for entry, options in zip(self.entries, self._options, strict=True):
            if number % 2:
                self._dlups(entry)
            self._ours(entry, options)
            if not number % 2:
                self._dlups(entry)

    def _ours(self, entry: Entry, options: dict[str, Any]) -> None:
        if entry.refused is not None:
            return
        dest = self._folder / "ours.tif"
        settings = self._settings
        full = {"n_workers": settings.workers, "tile_size": settings.tile_size, "mpp": 0.25, **options}
        given = {"source": self._source(entry.table), "dest": str(dest), "options": full, "may_refuse": True}
        command = (sys.executable, "-m", "slidewright.bench", "convert", json.dumps(given))
        seconds, _, _, said = run_tree(command, timeout=settings.timeout)
        entry.refused = json.loads(said).get("refused")
        if entry.refused is None:
            entry.seconds.append(seconds)
            entry.bytes = dest.stat().st_size
            dest.unlink()
        self._tell(f"{entry.table}, {entry.compression}: {entry.refused or f'{seconds:.2f} s'}")

    def _dlups(self, entry: Entry) -> None:
        if self._dlup is None or entry.dlup_refused is not None:
            return
        dest = self._folder / "dlup.tif"
        name = DLUP_NAMES.get(entry.compression)
        if name is None:
            entry.dlup_refused = "it has no such compressor"
            return
        lossy = entry.table == "lossy"
        given = {
            "source": self._source(entry.table),
            "dest": str(dest),
            "tile_size": self._settings.tile_size,
            "compression": name,
            "quality": self._settings.quality if lossy else None,
            "mask": entry.table in ("annotations", "mask"),
        }
        program = str(Path(__file__).parent / "programs" / "dlup_tiles.py")
        command = (self._dlup.executable, program, json.dumps(given))
        try:
            seconds, *_ = run_tree(command, {"PYTHONPATH": ""}, timeout=self._settings.timeout)
        except RunError as error:
            entry.dlup_refused = str(error).splitlines()[-1]
        else:
            entry.dlup_seconds.append(seconds)
            entry.dlup_bytes = dest.stat().st_size
        finally:
            dest.unlink(missing_ok=True)
        self._tell(
            f"{entry.table}, {entry.compression}, dlup: {entry.dlup_refused or f'{entry.dlup_seconds[-1]:.2f} s'}"
        )
