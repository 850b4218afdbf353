"""A function is an image: called for regions in the workers, lambdas and closures included, its mistakes named."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from reading import assert_reads_like

import slidewright
from slidewright.errors import OptionError, SourceError
from slidewright.sources.function import FunctionSource
from slidewright.sources.open import open_source


def wave(samples: int, dtype: str) -> Any:
    """A closure that makes any region of an endless image."""

    def function(y: int, x: int, height: int, width: int) -> Any:
        rows, columns = np.mgrid[y : y + height, x : x + width]
        planes = [(rows * (3 + c) + columns * 5) % 251 for c in range(samples)]
        return (np.stack(planes, axis=2) if samples > 1 else planes[0]).astype(dtype)

    return function


@pytest.mark.parametrize("samples", [1, 3, 5])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_function_is_an_image(samples: int, dtype: str) -> None:
    function = wave(samples, dtype)
    expected = function(0, 0, 70, 90)
    shapes = [(70, 90), (70, 90, samples)]
    for shape in shapes:
        source = open_source(function, shape=shape)
        assert isinstance(source, FunctionSource)
        assert_reads_like(source, expected)
        assert_reads_like(open_source(function, shape=shape, dtype=dtype), expected)


def test_known_function_is_not_tried_out() -> None:
    calls: list[Any] = []
    open_source(lambda *place: calls.append(place), shape=(70, 90, 3), dtype=np.uint8)
    assert calls == []


def test_small_image_is_tried_out_within_it() -> None:
    open_source(lambda y, x, height, width: np.zeros((9, 12), np.uint8)[y : y + height, x : x + width], shape=(9, 12))


def test_channels_of_a_region_are_computed_once() -> None:
    calls: list[Any] = []
    function = wave(4, "uint16")

    def counting(*place: int) -> Any:
        calls.append(place)
        return function(*place)

    reader = open_source(counting, shape=(70, 90, 4), dtype="uint16").open()
    for plane in range(4):
        reader.read(0, 10, 20, 30, np.empty((32, 32, 1), np.uint16), plane)
    assert calls == [(0, 10, 20, 30)]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_lambda_is_converted(tmp_path: Path, n_workers: int) -> None:
    pixels = np.random.default_rng(15).integers(0, 256, (100, 130, 3), dtype=np.uint8)
    source = open_source(lambda y, x, height, width: pixels[y : y + height, x : x + width], shape=(100, 130))
    slidewright.convert(source, tmp_path / "a.tif", compression="deflate", tile_size=32, n_workers=n_workers)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif", key=0), pixels)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            np.zeros((10, 30), np.uint8),
            r"gave uint8 of shape \(10, 30\) for 30 x 20 pixels at x=10, y=40; expected uint8",
        ),
        (np.zeros((20, 30), np.uint16), "gave uint16"),
        (np.zeros((20, 30, 2), np.uint8), r"expected uint8 of shape \(20, 30\)"),
        (None, "gave object"),
    ],
)
def test_wrong_answer_is_named_with_its_region(answer: Any, message: str) -> None:
    reader = open_source(lambda y, x, height, width: answer, shape=(70, 90, 1), dtype="uint8").open()
    with pytest.raises(SourceError, match=message):
        reader.read(40, 10, 20, 30, np.empty((32, 32, 1), np.uint8))


def test_failing_function_is_named_with_its_region(tmp_path: Path) -> None:
    def model(y: int, x: int, height: int, width: int) -> Any:
        if y >= 32:
            raise ZeroDivisionError("no tissue here")
        return np.zeros((height, width), np.uint8)

    source = open_source(model, shape=(64, 64))
    message = r"function model failed for 32 x 32 pixels at x=0, y=32 \(ZeroDivisionError: no tissue here\)"
    with pytest.raises(SourceError, match=message):
        slidewright.convert(source, tmp_path / "a.tif", tile_size=32, n_workers=2)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "options", "error", "message"),
    [
        (None, {}, OptionError, r"shape=\(height, width\)"),
        ((70, 90, 2), {}, SourceError, r"expected uint8 of shape \(16, 16, 2\)"),
        ((70, 90, 101), {}, SourceError, "101"),
        ((70, "90"), {}, OptionError, "must be"),
        ((70, 90), {"dtype": "float64"}, OptionError, "must be one of"),
    ],
)
def test_function_that_is_no_image_is_refused(shape: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(wave(1, "uint8"), shape=shape, **options)


def test_function_of_doubles_is_refused_with_the_remedy() -> None:
    with pytest.raises(SourceError, match=r"float64.*astype\('float32'\)"):
        open_source(wave(1, "float64"), shape=(70, 90))


def test_source_of_the_script_itself_reaches_the_workers(tmp_path: Path) -> None:
    """Its class is in `__main__`, which no worker can import; there is no main guard."""
    script = textwrap.dedent(
        """
        import numpy as np
        import slidewright
        from slidewright.geometry import Size
        from slidewright.sources.base import SourceInfo

        class Stripes:
            info = SourceInfo("stripes", "own", Size(300, 400), 1, "uint8")

            def open(self):
                return self

            def read(self, y, x, height, width, out, plane=0):
                out[:height, :width, 0] = np.arange(x, x + width) % 251
                return out[:height, :width]

            def close(self):
                pass

        slidewright.convert(Stripes(), "out.tif", n_workers=2, tile_size=64, compression="lzw")
        """
    )
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tifffile.imread(tmp_path / "out.tif") == np.arange(400) % 251).all()


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_masks_and_matrices_that_a_function_gives_are_plain_pixels_and_masks_are_told_of(tmp_path: Path) -> None:
    function = wave(1, "uint8")
    masked = open_source(lambda *place: np.ma.masked_greater(function(*place), 100), shape=(70, 90))
    assert_reads_like(masked, function(0, 0, 70, 90))
    (warning,) = slidewright.convert(masked, tmp_path / "a.tif", n_workers=0).warnings
    assert "each region's mask" in warning
    assert_reads_like(open_source(lambda *place: np.matrix(function(*place)), shape=(70, 90)), function(0, 0, 70, 90))


@pytest.mark.timeout(120)
@pytest.mark.skipif(sys.platform == "win32", reason="fork, and signals as POSIX knows them")
@pytest.mark.parametrize("n_workers", [0, 1])
def test_what_a_function_starts_can_be_ended(tmp_path: Path, n_workers: int) -> None:
    """Workers ignore the signals that end a run, which the coordinator heeds; their children would, too."""

    def starts(y: int, x: int, height: int, width: int) -> Any:
        import multiprocessing
        import signal
        import subprocess
        import time

        program = subprocess.Popen(["sleep", "1000"])
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
        child.start()
        time.sleep(0.2)  # until it is what it will be
        program.terminate()
        child.terminate()
        program.wait(60)
        child.join(60)
        ended = program.returncode == child.exitcode == -signal.SIGTERM
        return np.full((height, width), 200 if ended else 0, np.uint8)

    slidewright.convert(starts, tmp_path / "o.tif", shape=(64, 64), dtype="uint8", n_workers=n_workers)
    assert (tifffile.imread(tmp_path / "o.tif") == 200).all()
