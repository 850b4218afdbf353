"""Opens an OME-Zarr in readers that nobody here wrote, and holds every level against arrays.

It runs in a Python of its own, which has those readers: `python zarr_readers.py STORE LEVELS.npz` writes a line of JSON
with a word for each reader: "exact", "absent", or what was wrong.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Read = Callable[[str, int], Any]


def zarr_python(path: str, level: int) -> Any:
    """The library that others build on."""
    return importlib.import_module("zarr").open_array(f"{path}/{level}", mode="r")[:]


def dask(path: str, level: int) -> Any:
    """dask's arrays, a task a chunk."""
    return importlib.import_module("dask.array").from_zarr(f"{path}/{level}").compute()


def xarray(path: str, level: int) -> Any:
    """xarray, which takes names of dimensions for sizes that all arrays have: one level at a time."""
    names = importlib.import_module("zarr").open_group(path, mode="r").array_keys()
    others = [name for name in names if name != str(level)]
    dataset = importlib.import_module("xarray").open_dataset(
        path, engine="zarr", chunks={}, consolidated=False, drop_variables=others, mask_and_scale=False
    )
    return dataset[str(level)].values


def gdal(path: str, level: int) -> Any:
    """GDAL, in rasterio: a band a channel."""
    rasterio = importlib.import_module("rasterio")
    shape = importlib.import_module("zarr").open_array(f"{path}/{level}", mode="r").shape
    if len(shape) == 2:
        return rasterio.open(f'ZARR:"{path}":/{level}').read(1)
    return np.stack([rasterio.open(f'ZARR:"{path}":/{level}:{channel}').read(1) for channel in range(shape[0])])


def tensorstore(path: str, level: int) -> Any:
    """Google's library."""
    ts = importlib.import_module("tensorstore")
    driver = "zarr3" if os.path.exists(f"{path}/zarr.json") else "zarr"
    store = {"driver": driver, "kvstore": {"driver": "file", "path": f"{path}/{level}"}}
    return ts.open(store, read=True, open=True).result().read().result()


def zarrs(path: str, level: int) -> Any:
    """The Rust library, by way of zarr-python."""
    importlib.import_module("zarrs")
    zarr: Any = importlib.import_module("zarr")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr.open_array(f"{path}/{level}", mode="r")[:]


def ome_zarr(path: str, level: int) -> Any:
    """ome-zarr-py, of the OME team."""
    io, reader = importlib.import_module("ome_zarr.io"), importlib.import_module("ome_zarr.reader")
    return next(iter(reader.Reader(io.parse_url(path))())).data[level].compute()


def ngff_zarr(path: str, level: int) -> Any:
    """ngff-zarr, of ITK's authors."""
    return importlib.import_module("ngff_zarr").from_ngff_zarr(path).images[level].data.compute()


def napari(path: str, level: int) -> Any:
    """napari's plugin for OME-Zarr; from 0.11 on a layer a channel."""
    layers = importlib.import_module("napari_ome_zarr").napari_get_reader(path)(path)
    found = [np.asarray(layer[0][level]) for layer in layers]
    channels = 1 if found[0].ndim == 4 else 0  # after the times
    return np.stack(found, axis=channels) if len(found) > 1 else found[0]


READERS: dict[str, Read] = {
    "zarr-python": zarr_python,
    "dask": dask,
    "xarray": xarray,
    "GDAL": gdal,
    "tensorstore": tensorstore,
    "zarrs": zarrs,
    "ome-zarr-py": ome_zarr,
    "ngff-zarr": ngff_zarr,
    "napari-ome-zarr": napari,
}


def main(path: str, expected: str) -> None:
    """Try every reader."""
    levels = np.load(expected)
    found = {}
    for name, read in READERS.items():
        try:
            wrong = [n for n, key in enumerate(levels.files) if not np.array_equal(read(path, n), levels[key])]
            found[name] = f"wrong at levels {wrong}" if wrong else "exact"
        except ImportError:
            found[name] = "absent"
        except Exception as error:  # whatever a reader raises is the finding
            found[name] = f"{type(error).__name__}: {error}"
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
