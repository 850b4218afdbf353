"""Convert a slide: python convert.py [SLIDE [DESTINATION]].

Without arguments it makes a small slide first. There is no `if __name__ == "__main__"` guard, and none is needed.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

import slidewright

folder = Path(tempfile.mkdtemp(prefix="slidewright-example-"))
if len(sys.argv) > 1:
    source = Path(sys.argv[1])
else:
    source = folder / "slide.tif"
    pixels = np.random.default_rng(7).normal(200, 20, (1500, 2000, 3)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(source, pixels, tile=(256, 256), photometric="rgb")
destination = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "pyramid.tif"

report = slidewright.convert(source, destination, quality=85, mpp=0.25, n_workers=2, overwrite=True)

for number, level in enumerate(report.levels):
    print(f"level {number}: {level.size}, {level.tiles} tiles, {level.bytes} bytes")
print(f"{report.destination}: {report.bytes} bytes in {report.seconds:.2f} s")
