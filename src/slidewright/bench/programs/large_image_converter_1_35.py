"""large_image_converter: its `convert`, which reads and writes by libvips, then rewrites the directories.

It asks libvips for JPEG in RGB, whose colours come out right from quality 90 on, and wrong below.
"""

import json
import sys

import large_image_converter

given = json.loads(sys.argv[1])
options = {"quality": given["quality"]} if given["quality"] is not None else {}
options |= {"level": given["effort"]} if given["effort"] is not None else {}
large_image_converter.convert(
    given["source"],
    given["dest"],
    tileSize=given["tile_size"],
    compression=given["compression"],
    predictor="none",
    shrinkMode="mean",  # as it does of itself for all but LZW and none
    overwrite=True,
    _concurrency=given["workers"],
    **options,
)
