"""dlup's TifffileImageWriter, any version, fed with the tiles of a .npy file: the part of dlup that ours replaces."""

import inspect
import json
import sys
import warnings

warnings.simplefilter("ignore")  # backends that are not installed

import numpy as np  # noqa: E402
from dlup.writers import TiffCompression, TifffileImageWriter  # noqa: E402

given = json.loads(sys.argv[1])
pixels = np.load(given["source"], mmap_mode="r")
tile = given["tile_size"]
(height, width), samples = pixels.shape[:2], pixels.shape[2:]
accepted = inspect.signature(TifffileImageWriter).parameters
options = {"pyramid": True, "tile_size": (tile, tile), "compression": TiffCompression[given["compression"]]}
options["quality"] = given["quality"]
if given["mask"] and "is_mask" in accepted:
    options["is_mask"] = True
elif given["mask"]:
    from dlup._image import Resampling

    options["interpolator"] = Resampling.NEAREST
writer = TifffileImageWriter(given["dest"], size=(width, height, *samples), mpp=0.25, **options)


def tiles():
    """Every tile in raster order."""
    for y in range(0, height, tile):
        for x in range(0, width, tile):
            yield np.ascontiguousarray(pixels[y : y + tile, x : x + tile])


writer.from_tiles_iterator(tiles())
