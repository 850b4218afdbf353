"""Convert an OME-NGFF group, with progress through a callback: python zarr_group.py [GROUP.zarr [DESTINATION]].

Micrometres a pixel come from the group's own metadata.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import zarr

import slidewright

folder = Path(tempfile.mkdtemp(prefix="slidewright-example-"))
if len(sys.argv) > 1:
    source = Path(sys.argv[1])
else:
    source = folder / "group.zarr"
    group = zarr.create_group(source)
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"] + [{"name": "c", "type": "channel"}]
    scale = {"type": "scale", "scale": [0.5, 0.5, 1.0]}
    datasets = [{"path": "0", "coordinateTransformations": [scale]}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    array = group.create_array("0", shape=(900, 1200, 3), chunks=(256, 256, 3), dtype="uint8")
    array[:] = np.random.default_rng(7).integers(150, 250, array.shape, dtype=np.uint8)
destination = Path(sys.argv[2]) if len(sys.argv) > 2 else folder / "group.tif"

print("mpp of the source:", slidewright.open_source(source).info.mpp)


def show(progress: slidewright.Progress) -> None:
    print(f"{progress.stage}: {progress.tiles_done} of {progress.tiles_total} tiles")


report = slidewright.convert(source, destination, tile_size=256, n_workers=2, overwrite=True, progress=show)
print(f"{report.destination}: {len(report.levels)} levels, {report.bytes} bytes")
