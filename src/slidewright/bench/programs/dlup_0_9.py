"""dlup 0.9: its dataset into its LibtiffImageWriter.

Its other writer, TifffileImageWriter, passes `quality` to tifffile under a name that tifffile does not take.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")  # backends that are not installed

from dlup import SlideDataset, TilingConfig  # noqa: E402
from dlup.writers import LibtiffImageWriter, TiffCompression  # noqa: E402

given = json.loads(sys.argv[1])
tile = (given["tile_size"], given["tile_size"])
dataset = SlideDataset.from_standard_tiling(given["source"], TilingConfig(mpp=None, tile_size=tile))
width, height = dataset.slide_image.size
writer = LibtiffImageWriter(
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
        x, y = sample.coordinates
        yield sample.image.to_numpy()[: height - int(y), : width - int(x), :3].copy()


writer.from_tiles_iterator(tiles())
