"""The codec limit: what the codecs of a conversion cost with nothing around them.

One process decodes every tile, encodes 4/3 as many and reduces 4/3 as many. Divided by the workers that is a bound
which cores that share caches and memory do not reach, so the same is also measured in as many processes as workers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

from slidewright.errors import RunError

if TYPE_CHECKING:
    from slidewright.tiff.page import Page


def run_limits(given: dict[str, Any], processes: int) -> list[tuple[dict[str, float], float]]:
    """Run the codec limit in so many processes at once, each on its share of the tiles; of each, seconds by stage and
    seconds of processor time.

    They wait for one another before the clock starts: imports are not codec time.

    Raises
    ------
    RunError
        When it can't be measured, as for a source that is no tiled TIFF.
    """
    command = [sys.executable, "-m", "slidewright.bench", "limit"]
    running: list[subprocess.Popen[str]] = []
    pipe = subprocess.PIPE
    try:
        for index in range(processes):
            share = json.dumps(given | {"share": [index, processes]})
            running.append(subprocess.Popen([*command, share], stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        for process in running:
            assert process.stdout is not None
            process.stdout.readline()
        for process in running:
            assert process.stdin is not None
            try:
                process.stdin.write("go\n")
                process.stdin.flush()
            except BrokenPipeError:
                pass  # it failed, as its exit code will tell
        answers = [process.communicate() for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    for process, (_, words) in zip(running, answers, strict=True):
        if process.returncode:
            last = words.strip().splitlines()[-1:] or ["no message"]
            raise RunError(
                f"the codec limit could not be measured, which needs a tiled TIFF and a codec that it knows: {last[0]}"
            )
    found = [json.loads(answer) for answer, _ in answers]
    return [(each["stages"], each["processor"]) for each in found]


def codec_limit(
    source: str,
    options: dict[str, Any],
    *,
    family: str = "tiff",
    share: tuple[int, int] = (0, 1),
    ready: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Seconds by stage that the codecs alone take: decode every tile, encode 4/3 as many, reduce 4/3 as many.

    Parameters
    ----------
    source
        A tiled TIFF.
    options
        The fields of `ConvertOptions` that choose the codec, its effort included; tiles are encoded at the size that
        the source has.
    family
        Of formats, as `codecs.encoding.FAMILIES` has them.
    share
        (index, number): take every `number`-th tile from `index` on.
    ready
        Called when imports and buffers are made, before the clock starts.
    """
    import cv2
    import numpy as np

    from slidewright.tiff.slide import TiffSlide

    cv2.setNumThreads(1)
    with TiffSlide(source) as slide:
        page = slide.levels[0]
        segments = slide.segments(page, RunError)
        encode = _encoder(page, options, family)
        pixels = np.zeros((*page.cell, page.samples), page.dtype)
        half = np.empty((page.cell.height // 2, page.cell.width // 2, page.samples), page.dtype)
        stages = {"read": 0.0, "encode": 0.0, "reduce": 0.0}
        ready()
        for number, index in enumerate(range(share[0], page.n_segments, share[1])):
            times = 2 if number % 3 == 0 else 1  # 4/3 on average
            start = perf_counter()
            segments.decode_into(index, pixels)
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


def _encoder(page: Page, options: dict[str, Any], family: str) -> Callable[[Any], Any]:
    """The codec without what a writer adds to it, such as taking JPEG's tables out of each stream."""
    import imagecodecs

    compression, effort = options["compression"], options.get("quality", options.get("effort"))
    if compression == "jpeg":
        colours: dict[str, Any] = {}
        if page.samples == 3:
            colours = {"colorspace": "rgb", "outcolorspace": "ycbcr", "subsampling": "420"}
        return lambda pixels: imagecodecs.jpeg8_encode(pixels, level=effort, **colours)
    if compression == "none":
        return lambda pixels: pixels.tobytes()
    from slidewright.codecs import resolve
    from slidewright.options import ConvertOptions
    from slidewright.sources.base import SourceInfo
    from slidewright.sources.pixel_format import resolve_pixels

    chosen = ConvertOptions(tile_size=page.cell.height, **options)
    info = SourceInfo("the limit", "tiff", page.size, page.samples, str(page.dtype))
    encoder = resolve(chosen, resolve_pixels(chosen, info), family).encoder()
    return lambda pixels: encoder.encode([pixels])
