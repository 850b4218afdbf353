"""Write labels with a palette, and a mask of single bits: python annotations.py [LABELS.npy [DESTINATION]].

The mask, of what has a label, is written beside the labels as a fax would be: CCITT T.6.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

import slidewright

folder = Path(tempfile.mkdtemp(prefix="slidewright-example-"))
if len(sys.argv) > 1:
    labels = np.load(sys.argv[1])
else:
    rows, columns = np.mgrid[:1800, :2400]
    labels = np.zeros((1800, 2400), np.uint8)
    labels[np.hypot(rows - 800, columns - 900) < 600] = 1
    labels[np.hypot(rows - 1100, columns - 1600) < 450] = 2
destination = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "annotations.tif"

palette = {0: "white", 1: "tomato", 2: "#1f77b4"}
report = slidewright.convert(labels, destination, colormap=palette, resampling="mode", n_workers=2, overwrite=True)
mask = slidewright.convert(
    labels > 0, destination.with_suffix(".mask.tiff"), compression="ccitt-t6", n_workers=2, overwrite=True
)

same = np.array_equal(tifffile.imread(destination, key=0), labels)
print(f"{report.destination}: {report.bytes} bytes, level 0 is {'the same' if same else 'different'}")
print(f"{mask.destination}: {mask.bytes} bytes")
sys.exit(not same)
