"""What every test may ask for, a hypothesis profile for busy machines, and turns where several processes run tests.

The tests run in two processes where there are two cores (`addopts` in pyproject.toml); `-n 0` runs them in
one, which prints as it goes. A test marked `alone` runs beside no other.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from turns import turn

ROOT = Path(__file__).resolve().parent.parent

# A shared two-core machine stalls now and then: a deadline per example would fail tests at random.
settings.register_profile("slidewright", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slidewright")

TURNS = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Say where the turns are kept; a process of xdist is told by the one that started it."""
    if hasattr(config, "workerinput"):
        config.stash[TURNS] = Path(config.workerinput["turns"])
    elif getattr(config.option, "numprocesses", None):
        config.stash[TURNS] = Path(tempfile.mkdtemp(prefix="slidewright-turns-"))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the turns with the process that made them."""
    if TURNS in config.stash and not hasattr(config, "workerinput"):
        shutil.rmtree(config.stash[TURNS], ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of xdist where the turns are."""
    node.workerinput["turns"] = str(node.config.stash[TURNS])


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside the timeout, which does not count the waiting then
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Give every test its turn."""
    if TURNS not in item.config.stash:
        return (yield)
    with turn(item.config.stash[TURNS], item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def real_slide() -> Path:
    """A real SVS, which lies beside the repository where it is provided."""
    path = ROOT.parent / "shared" / "data" / "CMU-1-Small-Region.svs"
    if not path.exists():
        pytest.skip("the real slide is not here")
    return path


@pytest.fixture(scope="session")
def tissue() -> NDArray[np.uint8]:
    """700 x 900 RGB pixels, pink with texture; read-only because every test shares them."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:700, :900]
    wave = 24 * np.sin(x / 17) + 18 * np.cos(y / 11)
    pixels = np.array([200, 130, 180]) + wave[..., None] + rng.normal(0, 5, (700, 900, 3))
    pixels = pixels.clip(0, 255).astype(np.uint8)
    pixels.setflags(write=False)
    return pixels
