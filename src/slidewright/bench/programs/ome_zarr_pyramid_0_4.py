"""ome-zarr-pyramid: the slide as a lazy array, `downscale` by means, and one `write_pyramid` with shards."""

import json
import sys

import tifffile
import zarr
from ome_zarr_pyramid import Pyramid, io

given = json.loads(sys.argv[1])
tile, shard = given["tile_size"], given["shard"]


class Channels:
    """The slide with its channels first, read where it is asked for."""

    def __init__(self, source):
        self.source = source
        self.shape = (source.shape[2], *source.shape[:2])
        self.dtype = source.dtype
        self.ndim = 3
        self.chunks = (3, tile, tile)

    def __getitem__(self, place):
        channel, y, x = place
        return self.source[y, x, channel].transpose(2, 0, 1)


if __name__ == "__main__":
    with tifffile.TiffFile(given["source"]) as tiff:
        source = zarr.open_array(tiff.aszarr(level=0), mode="r")
        image = Pyramid().from_arrays(
            [Channels(source)],
            axis_order="cyx",
            unit_list=[None, "micrometer", "micrometer"],
            scales=[[1, 1, 1]],
            version="0.5",
            name="slide",
        )
        io.write_pyramid(
            image.downscale(n_layers=given["levels"], scale_factor=(1, 2, 2), downscale_method="mean"),
            given["dest"],
            overwrite=True,
            compressor="zstd",
            compressor_params={"level": given["effort"]},
            chunk_shape=(3, tile, tile),
            shard_coefficients=(1, shard, shard),
            max_threads=given["workers"],
        )
