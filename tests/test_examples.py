"""The examples run as a user would run them: as scripts, without arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.py"))


def run(script: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TMPDIR": str(folder)}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_example_writes_a_pyramid(script: Path, tmp_path: Path) -> None:
    import tifffile

    done = run(script, tmp_path)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "__main__" not in script.read_text().split('"""')[2]
    (folder,) = tmp_path.iterdir()
    (written,) = (path for path in folder.glob("*.tif") if path.name != "slide.tif")
    assert str(written) in done.stdout
    with tifffile.TiffFile(written) as tiff:
        assert len(tiff.pages) > 1


def test_numpy_example_takes_a_file(tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "in.npy", np.arange(300 * 400, dtype=np.uint16).reshape(300, 400))

    done = run(EXAMPLES[0].parent / "numpy_array.py", tmp_path, "in.npy", "out.tif")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.tif").exists()
