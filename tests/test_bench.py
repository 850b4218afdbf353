"""The benchmark measures whole processes and says what they wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from slidewright.bench import Settings, codec_limit, compare, run_tree, vips_arguments
from slidewright.cli.bench import bench
from slidewright.errors import OptionError, RunError


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bench") / "tiled.tif"
    pixels = np.random.default_rng(7).integers(150, 250, (600, 700, 3), dtype=np.uint8)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")
    return str(path)


def test_comparison_finds_the_same_levels_in_both_files(tiled: str, tmp_path: Path) -> None:
    answer = tmp_path / "numbers.json"

    done = CliRunner().invoke(
        bench, ["convert", tiled, "--repeat", "1", "--workers", "2", "--tile-size", "256", "--json", str(answer)]
    )

    assert done.exit_code == 0, done.output
    rows = {row["name"]: row for row in json.loads(answer.read_text())["results"]}
    assert set(rows) == {"slidewright", "vips", "codec-limit", "codec-limit-together"}
    ours, theirs = rows["slidewright"]["output"], rows["vips"]["output"]
    for key in ("levels", "tile", "compression", "photometric", "subsampling"):
        assert ours[key] == theirs[key]
    assert rows["slidewright"]["time_over_vips"] > 0
    assert rows["slidewright"]["stages"]["encode"] > 0
    assert rows["slidewright"]["peak_pss"] is None or rows["slidewright"]["peak_pss"] > 10e6


@pytest.mark.parametrize("compression", ["deflate", "zstd", "none"])
def test_lossless_codecs_have_a_limit(tiled: str, compression: str) -> None:
    stages = codec_limit(tiled, compression)

    assert set(stages) == {"read", "encode", "reduce"}
    assert all(seconds > 0 for seconds in stages.values())


def test_vips_gets_the_quality_at_which_it_halves_chroma(tiled: str) -> None:
    assert vips_arguments(Settings(tiled, (1,), quality=90))["Q"] == 89
    assert vips_arguments(Settings(tiled, (1,), quality=70))["Q"] == 70


def test_memory_of_children_is_counted() -> None:
    child = 'b = b"x" * (200 << 20); import time; time.sleep(1)'
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    _, peak, _ = run_tree((sys.executable, "-c", code), sample=True)

    assert peak is None or peak > 200 << 20


def test_failing_program_is_an_error_with_its_words() -> None:
    with pytest.raises(RunError, match="no such thing"):
        run_tree((sys.executable, "-c", "raise SystemExit('no such thing')"))


def test_unknown_peer_is_refused(tiled: str) -> None:
    with pytest.raises(OptionError, match="vips"):
        compare(Settings(tiled, (1,), peers=("wsic",)))
