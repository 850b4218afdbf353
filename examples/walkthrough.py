"""From a slide to a pyramid that is checked and looked at, step by step: python walkthrough.py [SLIDE].

Each step stands for itself, as the cells of a notebook do. Without a slide it makes a small one.
"""

# %% A slide
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

import slidewright

folder = Path(tempfile.mkdtemp(prefix="slidewright-example-"))
if len(sys.argv) > 1:
    slide = Path(sys.argv[1])
else:
    slide = folder / "slide.tif"
    rng = np.random.default_rng(7)
    pixels = np.full((1800, 2400, 3), 243, np.float32)
    y, x = np.mgrid[:1800, :2400]
    pixels[((y - 900) / 700) ** 2 + ((x - 1200) / 1000) ** 2 < 1] = (196, 120, 172)
    pixels = (pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
    tifffile.imwrite(slide, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")

# %% What is it? Nothing is decoded for this
source = slidewright.open_source(slide)
print(f"{source.info.name}: {source.info.size}, {source.info.samples} samples of {source.info.dtype}")
print(f"micrometres a pixel: {source.info.mpp or 'unknown, so we give them'}")

# %% Convert it, and keep a page about the run
pyramid, page = folder / "pyramid.tif", folder / "pyramid.html"
report = slidewright.convert(
    source, pyramid, quality=90, tile_size=256, n_workers=2, report=page, mpp=source.info.mpp or 0.5
)
print(f"{report.destination}: {report.bytes / 1e6:.2f} MB in {report.seconds:.2f} s; see {page}")

# %% Is it what it should be? Every tile is decoded, every level held against the source
checked = slidewright.verify_file(pyramid, against=slide, min_psnr=30)
for number, level in enumerate(checked.levels):
    print(f"level {number}: {level.size}, {level.tiles} tiles, {level.psnr:.1f} dB")

# %% Where is tissue? On the smallest level that still shows it, as one does before tiling a slide
with tifffile.TiffFile(pyramid) as tiff:
    small = tiff.pages[2].asarray().astype(int)
tissue = (small.max(axis=2) - small.min(axis=2)) > 30
print(f"tissue: {tissue.mean():.0%} of the slide")

# %% An archive copy, to the bit
archive = slidewright.convert(slide, folder / "archive", compression="zstd", predictor=True, n_workers=2)
exact = slidewright.verify_file(archive.destination, against=slide)
print(f"the archive has {archive.bytes / report.bytes:.1f} times the bytes; exact: {exact.levels[0].exact}")
