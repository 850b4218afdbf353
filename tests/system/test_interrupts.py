"""What a signal handler of the caller's raises is no damage of a file, and is never lost."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

import slidewright
from slidewright.system.interrupts import let_through

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="it has no such signal")
PIXELS = np.random.default_rng(1).integers(0, 250, (200, 300, 3), np.uint8)


class OutOfTimeError(Exception):
    """What the caller's own time limit raises."""


class Limit:
    def __call__(self, *_: object) -> None:
        raise OutOfTimeError


def raise_it(*_: object) -> None:
    raise OutOfTimeError


@pytest.fixture(params=["function", "method", "partial", "object"])
def handler(request: pytest.FixtureRequest) -> Iterator[None]:
    one: dict[str, Callable[..., Any]] = {
        "function": raise_it,
        "method": Limit().__call__,
        "partial": functools.partial(raise_it, 1),
        "object": Limit(),
    }
    before = signal.signal(signal.SIGALRM, one[request.param])
    yield
    signal.signal(signal.SIGALRM, before)


def during(work: Callable[..., Any]) -> Callable[..., Any]:
    """A function in which the signal comes, and which makes an error of its own of what it does not know."""

    def disturbed(*args: Any, **kwargs: Any) -> Any:
        try:
            signal.raise_signal(signal.SIGALRM)
        except Exception as error:
            raise ValueError("bad data") from error
        return work(*args, **kwargs)

    return disturbed


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("kind", ["jpeg", "zarr", "function", "dataset"])
def test_time_limit_of_the_callers_ends_a_run_that_fills_damaged_tiles(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tile was background, or decoded a second time, and the run a success."""
    more: dict[str, Any] = {}
    if kind == "jpeg":
        tifffile.imwrite(tmp_path / "s.tif", PIXELS, tile=(64, 64), photometric="rgb", compression="jpeg")
        source: Any = tmp_path / "s.tif"
        monkeypatch.setattr(imagecodecs, "jpeg8_decode", during(imagecodecs.jpeg8_decode))
    elif kind == "zarr":
        zarr.save_array(str(tmp_path / "s.zarr"), PIXELS)
        source = tmp_path / "s.zarr"
        monkeypatch.setattr(zarr.Array, "__getitem__", during(zarr.Array.__getitem__))
    elif kind == "function":
        source, more = during(lambda y, x, h, w: PIXELS[y : y + h, x : x + w]), {"shape": PIXELS.shape}
    else:
        tiles = type("Tiles", (), {"__len__": lambda _: 1, "__getitem__": during(lambda *_: PIXELS)})
        source, more = tiles(), {"shape": PIXELS.shape}
    if kind in ("function", "dataset"):
        more["dtype"] = "uint8"
    with pytest.raises(OutOfTimeError):
        slidewright.convert(
            source, tmp_path / "o.tif", n_workers=0, on_corrupt="fill", tile_size=64, compression="zstd", **more
        )
    assert not [path for path in tmp_path.iterdir() if path.stem != "s"]


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("cause", [None, KeyError("a")])
def test_error_that_no_handler_has_to_do_with_is_let_be(cause: Exception | None) -> None:
    try:
        raise ValueError("damage") from cause
    except ValueError as error:
        let_through(error)


@pytest.mark.usefixtures("handler")
def test_what_the_program_deals_with_already_is_not_what_a_run_ends_with(tmp_path: Path) -> None:
    """A time limit that ended the job before: each later exception came of it, as Python has it."""

    def read(y: int, x: int, height: int, width: int) -> Any:
        if y:
            raise OSError("bad tile")
        return np.zeros((height, width), np.uint8)

    given: dict[str, Any] = {"shape": (100, 100), "dtype": "uint8", "tile_size": 64, "n_workers": 0}
    try:
        signal.raise_signal(signal.SIGALRM)
    except OutOfTimeError:
        report = slidewright.convert(read, tmp_path / "o.tif", on_corrupt="fill", **given)
        assert report.corrupt_tiles > 0
        with pytest.raises(slidewright.SourceError):
            slidewright.info(__file__)


def test_function_that_shares_its_code_with_a_handler_is_no_handler(tmp_path: Path) -> None:
    """As all have that one decorator wraps."""

    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    @logged
    def read(y: int, x: int, height: int, width: int) -> Any:
        if y:
            raise OSError("bad tile")
        return np.zeros((height, width), np.uint8)

    before = signal.signal(signal.SIGALRM, logged(raise_it))
    try:
        report = slidewright.convert(
            read, tmp_path / "o.tif", shape=(100, 100), dtype="uint8", tile_size=64, n_workers=0, on_corrupt="fill"
        )
        assert report.corrupt_tiles > 0
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("handler")
@pytest.mark.timeout(20)
def test_error_that_is_its_own_cause_is_looked_at_once() -> None:
    try:
        raise ValueError("damage")
    except ValueError as error:
        error.__cause__ = error
        let_through(error)
