"""`verify --against` holds a file against its source as the conversion read that: the same image of it, on the same
background.
"""

from __future__ import annotations

import numpy as np
import pytest

import slidewright
from slidewright.cli.main import main
from slidewright.errors import OptionError, VerifyError
from slidewright.geometry import Size
from slidewright.sources.base import BLANK, Reader, Source, SourceInfo

OPTIONS = {"tile_size": 64, "n_workers": 0, "compression": "deflate"}


class Empty(Source):
    """A source that has no pixels."""

    info = SourceInfo("empty", "empty", Size(150, 170), 3, "uint8", sparse=True)

    def open(self):
        return EmptyReader()


class EmptyReader(Reader):
    def read(self, y, x, height, width, out, plane=0):
        return BLANK

    def close(self):
        pass


def noise(*shape, dtype="uint8", below=255):
    return np.random.default_rng(7).integers(0, below, shape, dtype)


@pytest.mark.timeout(60)
def test_alpha_is_composed_on_the_background_that_is_given(tmp_path, capsys):
    rgba, path = noise(150, 170, 4), tmp_path / "out.tif"
    np.save(tmp_path / "in.npy", rgba)
    slidewright.convert(rgba, path, alpha="compose", background="red", **OPTIONS)
    words = ["verify", str(path), "--against", str(tmp_path / "in.npy")]
    assert main([*words, "--background", "red"]) == 0
    assert main(words) == 1
    assert "differs from the source" in capsys.readouterr().err
    assert main(["verify", str(path), "--background", "red"]) == 2
    assert "--background needs a source to compare with" in capsys.readouterr().err


@pytest.mark.timeout(60)
def test_blank_parts_of_a_source_are_its_background(tmp_path):
    path = tmp_path / "out.tif"
    slidewright.convert(Empty(), path, background=(1, 2, 3), **OPTIONS)
    slidewright.verify_file(path, against=Empty(), background=(1, 2, 3), n_workers=1)
    with pytest.raises(VerifyError, match="differs"):
        slidewright.verify_file(path, against=Empty(), n_workers=1)


@pytest.mark.timeout(60)
def test_the_command_chooses_the_image_of_the_source_as_convert_does(tmp_path, capsys):
    path, source = str(tmp_path / "out.ome.tif"), str(tmp_path / "in.npy")
    np.save(source, noise(2, 3, 150, 170))
    slidewright.convert(source, path, axes="tzyx", z=1, t="all", region=(10, 20, 100, 90), **OPTIONS)
    words = ["--axes", "tzyx", "--t", "all", "--region", "10,20,100,90"]
    assert main(["verify", path, "--against", source, *words, "--z", "1"]) == 0
    assert main(["verify", path, "--against", source, *words, "--z", "0"]) == 1
    assert main(["verify", path, *words]) == 2
    assert "--axes chooses an image of a source to compare with" not in capsys.readouterr().out


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["out.tif", "out.ome.zarr"])
def test_mask_of_wide_integers_is_compared_as_the_bytes_that_it_becomes(name, tmp_path):
    mask = noise(150, 170, dtype="int32", below=2)
    slidewright.convert(mask, tmp_path / name, kind="binary", tile_size=64, n_workers=0)
    slidewright.verify_file(tmp_path / name, against=mask, n_workers=1)
    with pytest.raises(VerifyError, match="differs"):
        slidewright.verify_file(tmp_path / name, against=1 - mask, n_workers=1)


@pytest.mark.timeout(60)
def test_chunk_that_a_lossy_store_has_lost_differs_from_the_source(tmp_path):
    pixels, path = noise(150, 170, 3), tmp_path / "out.ome.zarr"
    pixels[:64, :64] = 255
    slidewright.convert(pixels, path, tile_size=64, n_workers=0, compression="jpeg", zarr_shard=0)
    assert not (path / "0/c/0/0/0").exists()
    slidewright.verify_file(path, against=pixels, n_workers=1)
    (path / "0/c/0/1/1").unlink()
    with pytest.raises(VerifyError, match="level 0, tile at row 1, column 1 differs from the source"):
        slidewright.verify_file(path, against=pixels, n_workers=1)


@pytest.mark.timeout(60)
def test_least_psnr_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(OptionError, match="min_psnr nan is no number"):
        slidewright.verify_file(tmp_path / "a.tif", against=noise(9, 9), min_psnr=float("nan"))
