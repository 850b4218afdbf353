"""GDAL through rasterio: its COG driver, which makes the levels by means first and copies them behind the pixels."""

import json
import sys

import rasterio
import rasterio.shutil

given = json.loads(sys.argv[1])
name = given["compression"]
options = {
    "COMPRESS": name.upper(),
    "BLOCKSIZE": str(given["tile_size"]),
    "OVERVIEW_COUNT": str(given["levels"] - 1),
    "OVERVIEW_RESAMPLING": "AVERAGE",
    "NUM_THREADS": str(given["workers"]),
    "BIGTIFF": "YES",
}
if given["quality"] is not None:
    options |= {"QUALITY": str(given["quality"]), "OVERVIEW_QUALITY": str(given["quality"])}
if given["effort"] is not None:
    options["LEVEL"] = str(given["effort"])
with rasterio.Env(GDAL_NUM_THREADS=str(given["workers"])):
    rasterio.shutil.copy(given["source"], given["dest"], driver="COG", **options)
