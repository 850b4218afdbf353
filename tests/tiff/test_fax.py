"""Fax segments are what libtiff makes of them, a broken row included: Pillow and libvips show the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pyvips
import tifffile
from imagecodecs import packbits_encode
from PIL import Image
from reading import assert_reads_like

import slidewright
from slidewright.errors import CorruptTileError
from slidewright.sources.open import open_source

Y, X = np.mgrid[:70, :200]
MASK = (X // 9 + Y // 7) % 3 == 0


@pytest.mark.parametrize("compression", ["tiff_ccitt", "group3", "group4"])
@pytest.mark.parametrize("options", [{}, {278: 16}, {266: 2}], ids=["one strip", "strips", "lowest bit first"])
def test_fax_is_what_was_saved(compression: str, options: dict[int, int], tmp_path: Path) -> None:
    Image.fromarray(MASK).save(tmp_path / "a.tif", compression=compression, tiffinfo={**options, 262: 1})
    assert_reads_like(open_source(tmp_path / "a.tif"), MASK, 32, 200)


def test_runs_of_no_length_count_as_they_do_for_libtiff(tmp_path: Path) -> None:
    """A black run of 0 pixels between two white ones is a change for the next row, or none (ITU-T T.6 is not clear)."""
    white = {3: "1000", 5: "1100"}
    black = {0: "0000110111", 4: "011"}
    first = "001" + white[5] + black[0] + "001" + white[3] + black[4] + "1"
    bits = first + "1" * 5 + "000000000001" * 2
    data = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8))
    path = tmp_path / "a.tif"
    shape = {"shape": (2, 15), "dtype": "bool", "photometric": "minisblack", "metadata": None}
    tifffile.imwrite(path, iter([data]), compression="packbits", rowsperstrip=2, **shape)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(4)
    with Image.open(path) as image:
        shown = np.asarray(image)
    np.testing.assert_array_equal(pyvips.Image.tiffload(str(path)).numpy() > 0, shown)
    assert_reads_like(open_source(path), shown, 32, 200)


def test_more_bits_than_pixels_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    data = packbits_encode(np.packbits(MASK, axis=1).tobytes() + bytes(3))
    shape = {"shape": MASK.shape, "dtype": "bool", "photometric": "minisblack", "metadata": None}
    tifffile.imwrite(path, iter([data]), compression="packbits", rowsperstrip=len(MASK), **shape)
    with pytest.raises(CorruptTileError, match="more bits than it has pixels"):
        slidewright.convert(path, tmp_path / "o.tif", n_workers=0)
