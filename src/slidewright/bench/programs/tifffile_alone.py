"""tifffile and NumPy alone: each level written with `maxworkers` threads, then read back whole to make the next.

It is what a script does that knows tifffile and nothing else; the whole image is in memory.
"""

import json
import sys

import tifffile

given = json.loads(sys.argv[1])
compression = {"none": None, "jpeg": "jpeg", "deflate": "zlib", "zstd": "zstd", "lzw": "lzw", "webp": "webp"}
effort = given["quality"] if given["compression"] == "jpeg" else given["effort"]
arguments = {
    "tile": (given["tile_size"], given["tile_size"]),
    "photometric": "rgb",
    "compression": compression[given["compression"]],
    "compressionargs": None if effort is None else {"level": effort},
    "maxworkers": given["workers"],
    "metadata": None,
}
if given["compression"] == "jpeg":
    arguments["subsampling"] = (2, 2)
pixels = tifffile.imread(given["source"], key=0, maxworkers=given["workers"])
with tifffile.TiffWriter(given["dest"], bigtiff=True) as tiff:
    for level in range(given["levels"]):
        tiff.write(pixels, subfiletype=min(level, 1), **arguments)
        height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
        if level + 1 < given["levels"]:
            even = pixels[: 2 * height, : 2 * width]
            total = even[::2, ::2].astype("uint16")
            total += even[1::2, ::2]
            total += even[::2, 1::2]
            total += even[1::2, 1::2]
            pixels = ((total + 2) >> 2).astype("uint8")
