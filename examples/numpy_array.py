"""Write a NumPy array as a lossless pyramid: python numpy_array.py [ARRAY.npy [DESTINATION]].

An array in memory reaches the workers through shared memory; a .npy file is mapped by each of them.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

import slidewright

folder = Path(tempfile.mkdtemp(prefix="slidewright-example-"))
if len(sys.argv) > 1:
    source = sys.argv[1]
    expected = np.load(source, mmap_mode="r")
else:
    y, x = np.mgrid[:1100, :1300]
    source = expected = ((x * 31 + y * 17) % 65536).astype(np.uint16)
destination = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "array.tif"

report = slidewright.convert(source, destination, compression="zstd", tile_size=256, n_workers=2, overwrite=True)

same = np.array_equal(tifffile.imread(destination, key=0), np.squeeze(expected))
print(f"{report.destination}: {len(report.levels)} levels, level 0 is {'the same' if same else 'different'}")
sys.exit(not same)
