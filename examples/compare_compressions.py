"""See what lossy compressions do to a slide, side by side: python compare_compressions.py [SLIDE [X Y [PICTURE.png]]].

A region of 2048 pixels at (X, Y) is written with each compression at three qualities; the picture shows a crop of each,
three times enlarged, under its size in bits a pixel.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageDraw

import slidewright

COMPRESSIONS, QUALITIES = ("jpeg", "webp", "jpegxl", "jpeg2000-lossy"), (50, 75, 90)
SIDE, CROP, ZOOM = 2048, 80, 3

folder = Path(tempfile.mkdtemp(prefix="slidewright-example-"))
if len(sys.argv) > 1:
    slide = slidewright.open_source(sys.argv[1])
    x, y = (int(value) for value in sys.argv[2:4]) if len(sys.argv) > 3 else (0, 0)
    side = min(SIDE, slide.info.size.height - y, slide.info.size.width - x)
    reader = slide.open()
    region = reader.read(y, x, side, side, np.empty((side, side, 3), np.uint8)).copy()
    reader.close()
else:
    from slidewright.cli.demo_slide import tissue_bands

    region = np.concatenate([band for _, band in tissue_bands(SIDE, seed=7)])
picture = Path(sys.argv[4]) if len(sys.argv) > 4 else folder / "crops.png"


def enlarged(pixels):
    corner = (len(pixels) - CROP) // 2
    crop = pixels[corner : corner + CROP, corner : corner + CROP]
    return Image.fromarray(crop).resize((CROP * ZOOM, CROP * ZOOM), Image.Resampling.NEAREST)


cell, head = CROP * ZOOM + 6, 22
sheet = Image.new("RGB", (cell * (1 + len(COMPRESSIONS)), (cell + head) * len(QUALITIES)), "white")
draw = ImageDraw.Draw(sheet)
for row, quality in enumerate(QUALITIES):
    top = row * (cell + head)
    draw.text((4, top + 4), "as it is", fill="black", font_size=14)
    sheet.paste(enlarged(region), (0, top + head))
    for column, compression in enumerate(COMPRESSIONS, 1):
        written = folder / "region.tif"
        report = slidewright.convert(
            region, written, compression=compression, quality=quality, n_workers=2, overwrite=True
        )
        bits = 8 * report.levels[0].bytes / (region.shape[0] * region.shape[1])
        text = f"{compression} {quality}: {bits:.2f} bit/pixel"
        draw.text((column * cell + 4, top + 4), text, fill="black", font_size=14)
        sheet.paste(enlarged(tifffile.imread(written, key=0)), (column * cell, top + head))
sheet.save(picture)
print(f"{picture}; the last of the regions is {report.destination}")
