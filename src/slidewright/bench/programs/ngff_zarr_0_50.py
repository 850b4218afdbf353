"""ngff-zarr with dask: the levels by its DASK_BIN_SHRINK (means of 2 x 2), sharded, its other settings as they are."""

import json
import sys

import dask
import dask.array
import ngff_zarr
import tifffile
import zarr

given = json.loads(sys.argv[1])
if __name__ == "__main__":
    tile, shard = given["tile_size"], given["shard"]
    dask.config.set(scheduler="threads", num_workers=given["workers"])
    zarr.config.set({"threading.max_workers": given["workers"]})
    with tifffile.TiffFile(given["source"]) as tiff:
        source = zarr.open_array(tiff.aszarr(level=0), mode="r")
        pixels = dask.array.from_zarr(source).transpose(2, 0, 1).rechunk((3, tile, tile))
        image = ngff_zarr.to_ngff_image(pixels, dims=("c", "y", "x"))
        multiscales = ngff_zarr.to_multiscales(
            image,
            scale_factors=[{"y": 1 << n, "x": 1 << n} for n in range(1, given["levels"])],
            method=ngff_zarr.Methods.DASK_BIN_SHRINK,
            chunks={"c": 3, "y": tile, "x": tile},
            cache=False,
        )
        codec = zarr.codecs.ZstdCodec(level=given["effort"])
        ngff_zarr.to_ngff_zarr(
            given["dest"],
            multiscales,
            version="0.5",
            chunks_per_shard={"c": 1, "y": shard, "x": shard},
            compressors=codec,
        )
