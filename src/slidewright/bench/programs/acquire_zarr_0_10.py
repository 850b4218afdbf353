"""acquire-zarr: a stream of a frame a colour, of which it makes the levels (means of 2 x 2) and the shards as it goes.

It is made for cameras: a frame is in memory, here the whole slide.
"""

import json
import sys

import acquire_zarr as aqz
import tifffile

given = json.loads(sys.argv[1])
tile, shard = given["tile_size"], given["shard"]
pixels = tifffile.imread(given["source"], key=0, maxworkers=given["workers"]).transpose(2, 0, 1)
kinds = {"c": aqz.DimensionType.CHANNEL, "y": aqz.DimensionType.SPACE, "x": aqz.DimensionType.SPACE}
dimensions = [
    aqz.Dimension(
        name=name,
        kind=kinds[name],
        array_size_px=length,
        chunk_size_px=3 if name == "c" else tile,
        shard_size_chunks=1 if name == "c" else shard,
    )
    for name, length in zip("cyx", pixels.shape, strict=True)
]
array = aqz.ArraySettings(
    dimensions=dimensions,
    data_type=aqz.DataType.UINT8,
    downsampling_method=aqz.DownsamplingMethod.MEAN,
    compression=aqz.CompressionSettings(
        compressor=aqz.Compressor.ZSTD, codec=aqz.CompressionCodec.ZSTD, level=given["effort"], shuffle=0
    ),
)
settings = aqz.StreamSettings(
    store_path=given["dest"], arrays=[array], version=aqz.ZarrVersion.V3, max_threads=given["workers"], overwrite=True
)
stream = aqz.ZarrStream(settings)
for frame in pixels:
    stream.append(frame[None].copy())
stream.close()
