"""ome-zarr-py with dask: `write_image`, the levels by its local means, sharded, its other settings as they are."""

import json
import sys

import dask
import dask.array
import ome_zarr.format
import ome_zarr.scale
import ome_zarr.writer
import tifffile
import zarr

given = json.loads(sys.argv[1])
if __name__ == "__main__":
    tile, side = given["tile_size"], given["tile_size"] * given["shard"]
    dask.config.set(scheduler="threads", num_workers=given["workers"])
    zarr.config.set({"threading.max_workers": given["workers"]})
    with tifffile.TiffFile(given["source"]) as tiff:
        source = zarr.open_array(tiff.aszarr(level=0), mode="r")
        pixels = dask.array.from_zarr(source).transpose(2, 0, 1).rechunk((3, side, side))
        height, width = source.shape[:2]
        options = []
        for level in range(given["levels"]):
            longest = max(height >> level, width >> level)
            fits = max(tile, min(side, 1 << (longest - 1).bit_length()))  # a power of two
            codec = zarr.codecs.ZstdCodec(level=given["effort"])
            options.append({"chunks": (3, tile, tile), "shards": (3, fits, fits), "compressors": codec})
        ome_zarr.writer.write_image(
            pixels,
            given["dest"],
            scale_factors=[1 << n for n in range(1, given["levels"])],
            method=ome_zarr.scale.Methods.LOCAL_MEAN,
            fmt=ome_zarr.format.FormatV05(),
            axes="cyx",
            storage_options=options,
        )
