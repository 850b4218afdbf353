"""The documentation's tables and the help say what the code's table says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from compression_tables import PAGE, written

from slidewright.codecs import CODECS


def test_tables_in_the_documentation_are_those_of_the_code() -> None:
    page = PAGE.read_text()
    assert page == written(page), "run python tests/compression_tables.py"


def test_help_names_every_compression_its_range_and_default() -> None:
    command = [sys.executable, "-m", "slidewright", "convert", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"})
    text = re.sub(r"(?<=\w)- (?=\w)", "-", " ".join(done.stdout.split()))  # names broken at their hyphen
    for name, codec in CODECS.items():
        assert re.search(rf"\b{name}\b", text), name
        if codec.effort is not None:
            assert f"{codec.effort.low} to {codec.effort.high}, default {codec.effort.default}" in text


MEASURED = """
import sys
import numpy as np
from slidewright.codecs.resolve import resolve
from slidewright.geometry import Size
from slidewright.options import ConvertOptions
from slidewright.sources.base import SourceInfo
from slidewright.sources.pixel_format import resolve_pixels
name, samples, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
options = ConvertOptions(compression=name, tile_size=1024)
info = SourceInfo("x", "array", Size(1024, 1024), samples, dtype)
encoding = resolve(options, resolve_pixels(options, info), "tiff")
tile = np.random.default_rng(0).integers(0, 99, (1024, 1024, samples), dtype=dtype)
def status(name):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(name))
encoder = encoding.encoder()
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
encoder.encode([tile])
print(status("VmHWM") - before, 3 * tile.nbytes + encoding.codec.encoder_bytes(1024))
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")
@pytest.mark.parametrize(("samples", "dtype"), [(1, "uint8"), (3, "uint8"), (4, "uint8"), (3, "uint16")])
@pytest.mark.parametrize("name", [codec.name for codec in CODECS.values()])
def test_encoding_takes_no_more_memory_than_the_budget_counts(name, samples, dtype):
    """Noise, of which most is the most."""
    kind = {1: "grey", 3: "rgb" if dtype == "uint8" else "multichannel", 4: "rgba"}[samples]
    if dtype not in CODECS[name].accepts.get(kind, ()) or "tiff" not in CODECS[name].families:
        pytest.skip("it does not take such pixels")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, name, str(samples), dtype], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    took, counted = map(int, done.stdout.split())
    assert took <= counted + (4 << 20)
