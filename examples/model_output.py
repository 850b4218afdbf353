"""Write a model's output over tissue, tiles in any order: python model_output.py [DESTINATION].

The "model" here colours a disc; tiles without tissue are never computed and become the background.
"""

import random
import sys
import tempfile
from pathlib import Path

import numpy as np

import slidewright

TILE, HEIGHT, WIDTH = 256, 2000, 2600


def predict(y, x, height, width):
    rows, columns = np.mgrid[y : y + height, x : x + width]
    heat = np.clip(1 - np.hypot(rows - 900, columns - 1200) / 800, 0, 1)
    return np.stack([255 * heat, 80 * heat, 255 * (1 - heat)], axis=2).astype(np.uint8)


folder = Path(tempfile.mkdtemp(prefix="slidewright-example-"))
destination = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "heatmap.tif"
places = [(row, column) for row in range(-(-HEIGHT // TILE)) for column in range(-(-WIDTH // TILE))]
tissue = [(row, column) for row, column in places if np.hypot(row * TILE - 900, column * TILE - 1200) < 900]
random.Random(1).shuffle(tissue)

with slidewright.PyramidWriter(
    destination, (HEIGHT, WIDTH, 3), tile_size=TILE, background="white", mpp=1.0, n_workers=2, overwrite=True
) as writer:
    for row, column in tissue:
        y, x = row * TILE, column * TILE
        writer.write_tile(predict(y, x, min(TILE, HEIGHT - y), min(TILE, WIDTH - x)), row, column)

report = writer.report
print(f"{report.destination}: {len(tissue)} of {len(places)} tiles computed, {report.bytes} bytes")
