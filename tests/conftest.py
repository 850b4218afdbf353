"""What every test may ask for: the real slide, tissue made from nothing, a hypothesis profile for busy machines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent

# A shared two-core machine stalls now and then: a deadline per example would fail tests at random.
settings.register_profile("slidewright", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("slidewright")


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
