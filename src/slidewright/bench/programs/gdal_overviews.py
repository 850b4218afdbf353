"""GDAL through rasterio: its GTiff driver, then overviews by means of what that wrote, as `gdaladdo` adds them."""

import json
import sys

import rasterio
import rasterio.shutil
from rasterio.enums import Resampling

given = json.loads(sys.argv[1])
name, size, threads = given["compression"], str(given["tile_size"]), str(given["workers"])
options = {
    "COMPRESS": name.upper(),
    "TILED": "YES",
    "BLOCKXSIZE": size,
    "BLOCKYSIZE": size,
    "NUM_THREADS": threads,
    "BIGTIFF": "YES",
}
overviews = {"GDAL_NUM_THREADS": threads, "GDAL_TIFF_OVR_BLOCKSIZE": size}
if name == "jpeg":
    options |= {"PHOTOMETRIC": "YCBCR", "JPEG_QUALITY": str(given["quality"])}
    overviews["JPEG_QUALITY_OVERVIEW"] = str(given["quality"])
elif name == "webp":
    options["WEBP_LEVEL"] = overviews["WEBP_LEVEL_OVERVIEW"] = str(given["quality"])
elif name == "deflate":
    options["ZLEVEL"] = overviews["ZLEVEL_OVERVIEW"] = str(given["effort"])
elif name == "zstd":
    options["ZSTD_LEVEL"] = overviews["ZSTD_LEVEL_OVERVIEW"] = str(given["effort"])
with rasterio.Env(**overviews):
    rasterio.shutil.copy(given["source"], given["dest"], driver="GTiff", **options)
    with rasterio.open(given["dest"], "r+") as written:
        written.build_overviews([1 << level for level in range(1, given["levels"])], Resampling.average)
