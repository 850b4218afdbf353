"""Tensors as sources and as tiles: what hands its numbers over by DLPack or `__array__`, and what can't."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from written import image

import slidewright
from slidewright.errors import SourceError

PIXELS = image(200, 150)


class Tensor:
    """What DLPack's protocol asks for, and nothing else."""

    def __init__(self, pixels: Any) -> None:
        self._pixels = pixels

    def __dlpack__(self, **given: Any) -> Any:
        return self._pixels.__dlpack__(**given)

    def __dlpack_device__(self) -> Any:
        return self._pixels.__dlpack_device__()


class OnGpu(Tensor):
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


def test_tensor_is_a_source(tmp_path: Path) -> None:
    slidewright.convert(Tensor(PIXELS), tmp_path / "o.tif", compression="zstd", n_workers=2)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif", key=0), PIXELS)
    assert slidewright.open_source(Tensor(PIXELS)).info.name == "Tensor"


@pytest.mark.parametrize("regions", [True, False])
def test_tensors_are_tiles_and_regions(tmp_path: Path, regions: bool) -> None:
    with slidewright.PyramidWriter(tmp_path / "o.tif", PIXELS.shape, tile_size=64, compression="zstd") as writer:
        for y in range(0, 200, 64):
            for x in range(0, 150, 64):
                tile = Tensor(PIXELS[y : y + 64, x : x + 64])
                writer.write_region(tile, y, x) if regions else writer.write_tile(tile, y // 64, x // 64)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif", key=0), PIXELS)


def test_tensors_of_a_dataset(tmp_path: Path) -> None:
    tiles = [{"image": Tensor(PIXELS[:, x : x + 64])} for x in range(0, 150, 64)]
    slidewright.convert(tiles, tmp_path / "o.tif", shape=PIXELS.shape, compression="zstd", n_workers=0)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif", key=0), PIXELS)


def test_tensor_on_a_gpu_is_refused_with_what_to_do(tmp_path: Path) -> None:
    said = r"can't be made an array \(TypeError: can't convert cuda.*\.cpu\(\) in PyTorch"
    with pytest.raises(SourceError, match=said):
        slidewright.convert(OnGpu(PIXELS), tmp_path / "o.tif")
    writer = slidewright.PyramidWriter(tmp_path / "o.tif", PIXELS.shape, tile_size=64)
    with pytest.raises(SourceError, match="tile at row 0, column 0 " + said), writer:
        writer.write_tile(OnGpu(PIXELS[:64, :64]), 0, 0)
    assert not list(tmp_path.iterdir())
