"""dlup 0.3: its dataset into its TifffileImageWriter, as its page shows."""

import json
import sys

import numpy as np
from dlup.data.dataset import TiledWsiDataset
from dlup.writers import TiffCompression, TifffileImageWriter

given = json.loads(sys.argv[1])
tile = (given["tile_size"], given["tile_size"])
dataset = TiledWsiDataset.from_standard_tiling(given["source"], mpp=None, tile_size=tile, tile_overlap=(0, 0))
width, height = dataset.slide_image.size
writer = TifffileImageWriter(
    given["dest"],
    size=(width, height, 3),
    mpp=dataset.slide_image.mpp,
    tile_size=tile,
    pyramid=True,
    compression=TiffCompression[given["compression"].upper()],
    quality=given["quality"] if given["compression"] == "jpeg" else None,
)


def tiles():
    """Every tile in raster order; one at the edge without what lies beyond it."""
    for sample in dataset:
        x, y = sample["coordinates"]
        yield np.asarray(sample["image"].convert("RGB"))[: height - int(y), : width - int(x)]


writer.from_tiles_iterator(tiles())
