"""TensorStore and tifffile: a row of shards is read and written to level 0, then each level is made from the one below
by its "downsample" driver; it writes whole shards, with as many threads as there are workers.
"""

import json
import sys

import tensorstore
import tifffile
import zarr

given = json.loads(sys.argv[1])
tile, side = given["tile_size"], given["tile_size"] * given["shard"]
limits = {name: {"limit": given["workers"]} for name in ("data_copy_concurrency", "file_io_concurrency")}
context = tensorstore.Context({**limits, "cache_pool": {"total_bytes_limit": 0}})
chunk_codecs = [
    {"name": "transpose", "configuration": {"order": [1, 2, 0]}},
    {"name": "bytes", "configuration": {"endian": "little"}},
    {"name": "zstd", "configuration": {"level": given["effort"]}},
]
sharding = {"chunk_shape": [3, tile, tile], "codecs": chunk_codecs}


def create(level, shape):
    metadata = {
        "shape": shape,
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, side, side]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "dimension_names": ["c", "y", "x"],
    }
    store = {"driver": "file", "path": f"{given['dest']}/{level}"}
    spec = {"driver": "zarr3", "kvstore": store, "metadata": metadata}
    return tensorstore.open(spec, create=True, open=True, context=context).result()


with tifffile.TiffFile(given["source"]) as tiff:
    source = zarr.open_array(tiff.aszarr(level=0, maxworkers=given["workers"]), mode="r")
    height, width, _ = source.shape
    below = create(0, [3, height, width])
    for y in range(0, height, side):
        rows = source[y : y + side]
        below[:, y : min(y + side, height), :] = rows.transpose(2, 0, 1)
for level in range(1, given["levels"]):
    even = below[:, : below.shape[1] // 2 * 2, : below.shape[2] // 2 * 2]
    halved = tensorstore.downsample(even, [1, 2, 2], "mean")
    above = create(level, list(halved.shape))
    for y in range(0, halved.shape[1], side):
        rows = slice(y, min(y + side, halved.shape[1]))
        above[:, rows, :].write(halved[:, rows, :]).result()
    below = above

axes = [{"name": "c", "type": "channel"}, *({"name": axis, "type": "space"} for axis in "yx")]
scales = [[1, 1 << level, 1 << level] for level in range(given["levels"])]
datasets = [
    {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
    for level, scale in enumerate(scales)
]
ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
with open(f"{given['dest']}/zarr.json", "w") as file:
    json.dump({"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}, file)
