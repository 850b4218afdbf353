"""Commands for the world of `world_folders.py` whose every change of files is disturbed, one after the other."""

from __future__ import annotations

from typing import Any

from faults.world_commands import Command


def _fixed(line: str, **more: Any) -> Command:
    return Command([*line.split(), "--workers", "0"], **more)


_TIFF, _STORE = {"outputs": {"deliver/n1.tif": "src/a.tif"}}, {"outputs": {"out/good.zarr": "src/a.tif"}}
FIXED = (
    _fixed("convert src/a.tif deliver/n1.tif", **_TIFF),
    _fixed("convert src/a.tif deliver/n1.tif --resume", **_TIFF, may=["deliver/n1.tif.shards"]),
    _fixed("convert src/a.tif out/good.zarr --overwrite", **_STORE),
    _fixed("convert src/a.tif out/good.zarr --resume --overwrite", **_STORE, may=["out/good.zarr.shards"]),
    _fixed("assemble sh/full deliver/n1.tif --remove", **_TIFF, may=["sh/full"], removes="sh/full"),
    _fixed("assemble sh/zarr out/good.zarr --overwrite --remove", outputs={"out/good.zarr": "src/g.npy"},
           may=["sh/zarr"], removes="sh/zarr"),
    _fixed("assemble sh/fixed out/good.zarr --overwrite --remove", outputs={"out/good.zarr": "src/g.npy"},
           may=["sh/fixed"], removes="sh/fixed"),
    _fixed("convert src/a.tif drop/n1.tif", outputs={"drop/n1.tif": "src/a.tif"}),
    _fixed("shard src/a.tif sh/half --index 1 --count 3 --tile-size 64 --compression deflate", may=["sh/half"],
           shards="sh/half", folders=["sh"]),
    _fixed("batch beside --out beside --suffix .tif", out="beside", may=["beside"],
           report="beside/slidewright-batch.jsonl"),
    _fixed("batch beside --out drop", out="drop", may=["drop"], report="drop/slidewright-batch.jsonl"),
)  # fmt: skip
