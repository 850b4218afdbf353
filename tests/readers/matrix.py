"""The files of the matrix of readers, what each reader made of them, and the table of it in the documentation.

    python tests/readers/matrix.py

asks every reader that is there (see environments.py) and writes what it found to matrix.json and to docs/readers.md.
What a reader can is part of what users rely on, so the test fails when it changes, for better or worse.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import slidewright

sys.path.insert(0, str(Path(__file__).parents[1]))
from oracle import pyramid

HERE = Path(__file__).parent
FOUND, PAGE = HERE / "matrix.json", HERE.parents[1] / "docs" / "readers.md"
OWN = ("tifffile", "openslide", "tiffslide", "libvips", "pillow")
"""Readers that the tests' own environment has."""
OTHERS = ("rasterio", "large_image", "fastslide", "slideio", "cucim", "bioformats")
NAMES = {
    **{"tifffile": "tifffile", "openslide": "OpenSlide", "tiffslide": "tiffslide", "libvips": "libvips"},
    **{"pillow": "Pillow", "rasterio": "rasterio", "large_image": "large_image", "fastslide": "fastslide"},
    **{"slideio": "slideio", "cucim": "cuCIM", "bioformats": "Bio-Formats"},
}
TILE, MPP, LEVELS = 128, 0.25, 3


def _tissue() -> np.ndarray:
    y, x = np.mgrid[:420, :540]
    bands = (200 + 30 * np.sin(x / 17), 130 + 20 * np.cos(y / 11), 180 + 20 * np.sin((x + y) / 23))
    return np.stack(bands, -1).astype(np.uint8)


RGB = _tissue()
GREY = np.ascontiguousarray(RGB[:, :, 0])
WIDE = GREY.astype(np.uint16) * 200
CHANNELS = np.stack([WIDE, WIDE // 2, WIDE[::-1], WIDE[:, ::-1] // 3], -1)
LABELS = GREY // 90
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "RGB": (RGB, {}),
    "grey": (GREY, {}),
    "grey uint16": (WIDE, {}),
    "4 channels": (CHANNELS, {"kind": "multichannel"}),
    "labels": (LABELS, {"kind": "labels", "colormap": {0: "black", 1: "red", 2: "lime"}}),
}
FLAVOURS: dict[str, tuple[str, dict[str, Any]]] = {
    "generic": (".tif", {}),
    "aperio": (".svs", {"flavour": "aperio"}),
    "ome-tiff": (".ome.tif", {}),
    "strict": (".ome.tif", {"strict": True}),
}
CASES = [
    *((flavour, "RGB", codec) for flavour in FLAVOURS for codec in ("jpeg", "deflate")),
    *(("generic", "RGB", codec) for codec in ("lzw", "zstd", "jpeg2000", "webp-lossless", "none")),
    *(("ome-tiff", "RGB", codec) for codec in ("lzw", "zstd", "jpeg2000", "none")),
    *((flavour, kind, "deflate") for flavour in ("generic", "ome-tiff") for kind in list(KINDS)[1:]),
]
"""(flavour, kind, compression)."""


def make_files(folder: Path) -> list[Path]:
    """One file for each case."""
    paths = []
    for number, (flavour, kind, codec) in enumerate(CASES):
        suffix, options = FLAVOURS[flavour]
        pixels, more = KINDS[kind]
        path = folder / f"{number}{suffix}"
        common = {"tile_size": TILE, "mpp": MPP, "levels": LEVELS, "n_workers": 0, "compression": codec}
        slidewright.convert(pixels, path, **{**common, **options, **more})
        paths.append(path)
    return paths


def python_of(reader: str) -> Path | None:
    """The interpreter of a reader's environment; None where there is none."""
    if reader in OWN:
        return Path(sys.executable)
    folder = os.environ.get("SLIDEWRIGHT_READERS")
    path = Path(folder) / reader / "bin" / "python" if folder else None
    return path if path is not None and path.exists() else None


def ask(reader: str, paths: list[Path]) -> dict[str, str]:
    """What a reader makes of each file, in a few words."""
    python = python_of(reader)
    assert python is not None
    verdicts: list[str] = []
    while len(verdicts) < len(paths):
        with tempfile.TemporaryDirectory() as out:
            command = [str(python), str(HERE / "probe.py"), reader, out, *map(str, paths[len(verdicts) :])]
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
            subprocess.run(command, capture_output=True, check=False, env=environment)
            answers = Path(out) / "answers.json"
            given = json.loads(answers.read_text()) if answers.exists() else []
            cases = CASES[len(verdicts) :]
            verdicts += [_verdict(cases[n], answer, Path(out), n) for n, answer in enumerate(given)]
        if len(verdicts) < len(paths):
            verdicts.append("crashes")
    return {" ".join(case): verdict for case, verdict in zip(CASES, verdicts, strict=True)}


def _verdict(case: tuple[str, str, str], answer: dict[str, Any], out: Path, number: int) -> str:
    if "error" in answer:
        return "refuses"
    _, kind, codec = case
    expected = pyramid(KINDS[kind][0], TILE, "nearest" if kind == "labels" else "mean", LEVELS)
    given = [np.load(out / f"{number}-{level}.npy") for level in range(len(answer["levels"]))]
    found = [_seen(level, given, kind) for level in expected]
    matched = [one for one in found if one is not None and one[1] < (6 if codec == "jpeg" else 1e-9)]
    if found[0] not in matched:
        return "wrong pixels"
    words = ["close" if codec == "jpeg" else "exact"]
    words += [matched[0][0]] if matched[0][0] else []
    words += [f"{len(matched)} of {LEVELS} levels"] if len(matched) != LEVELS and "depth" not in answer else []
    words += [f"{len(given)} images"] if len(given) > LEVELS else []
    mpp = answer["mpp"]
    return ", ".join(words if mpp is not None and abs(mpp - MPP) < 1e-3 else [*words, "no mpp"])


def _seen(wanted: np.ndarray, given: list[np.ndarray], kind: str) -> tuple[str, float] | None:
    """What a reader makes of a level, and the mean difference to that; None where it has no image of its size."""
    ways = {"": wanted}
    if kind == "labels":
        ways["as colours"] = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[wanted[:, :, 0]]
    if wanted.dtype == np.uint16:
        ways["upper 8 bits"] = wanted >> 8
    if kind == "4 channels":
        ways |= {"first channel": wanted[:, :, :1], "first channel, upper 8 bits": wanted[:, :, :1] >> 8}
    found = [
        (way, float(np.abs(_cut(pixels, level).astype(float) - level).mean()))
        for pixels in given
        for way, level in ways.items()
        if pixels.shape[:2] == level.shape[:2] and (pixels.shape[2] if pixels.ndim == 3 else 1) >= level.shape[2]
    ]
    return min(found, key=lambda one: one[1]) if found else None


def _cut(pixels: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Without alpha, and without the copies that a reader makes of one value."""
    return (pixels if pixels.ndim == 3 else pixels[:, :, None])[:, :, : wanted.shape[2]]


def table(found: dict[str, dict[str, str]]) -> str:
    """The documentation's table: a row a case, a column a reader."""
    readers = [reader for reader in NAMES if reader in found]
    lines = ["| flavour | pixels | compression | " + " | ".join(NAMES[reader] for reader in readers) + " |"]
    lines.append("|---" * (3 + len(readers)) + "|")
    for case in CASES:
        cells = [found[reader].get(" ".join(case), "") for reader in readers]
        lines.append("| " + " | ".join([*case, *cells]) + " |")
    return "\n".join(lines)


def written(page: str, found: dict[str, dict[str, str]]) -> str:
    """The page with the table as it should be."""
    block = f"<!-- begin readers -->\n\n{table(found)}\n\n<!-- end readers -->"
    return re.sub("<!-- begin readers -->.*?<!-- end readers -->", lambda _: block, page, flags=re.DOTALL)


def main() -> None:
    """Ask all that are there, or those that are named; what others found before is kept."""
    found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        paths = make_files(Path(folder))
        for reader in sys.argv[1:] or (*OWN, *OTHERS):
            if python_of(reader) is not None:
                found[reader] = ask(reader, paths)
                print(reader, json.dumps(found[reader], indent=1))
    FOUND.write_text(json.dumps(found, indent=1) + "\n")
    if PAGE.exists():
        PAGE.write_text(written(PAGE.read_text(), found))


if __name__ == "__main__":
    main()
