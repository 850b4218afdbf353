"""Convert pixels that are computed, not stored: python own_source.py [SIDE [DESTINATION]].

The source is in `rings/`, beside this script: a description that travels to the workers, and a reader that each opens.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from rings import Rings

import slidewright

folder = Path(tempfile.mkdtemp(prefix="slidewright-example-"))
side = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
destination = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "rings.tif"

report = slidewright.convert(Rings(side), destination, compression="zstd", n_workers=2, overwrite=True)

with tifffile.TiffFile(destination) as tiff:
    smallest = tiff.pages[len(report.levels) - 1].asarray()
print(f"{report.destination}: {len(report.levels)} levels, {report.bytes} bytes")
print("the last level:", smallest.shape, "mean", int(np.mean(smallest)))
