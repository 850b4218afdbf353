"""Every compression with every kind of pixels: what it takes comes back from tifffile and from every reader that knows
the compression; what it does not take is refused with the reason and with what would do.

The matrix is written down here, not read from the table, so that a wrong row of the table fails.
"""

from __future__ import annotations

from pathlib import Path

import pages
import pytest
from cells import ACCEPTED, CELLS, check_readers

from slidewright.codecs import codecs_of
from slidewright.errors import OptionError


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("compression", codecs_of("tiff"))
def test_what_is_accepted_comes_back_and_the_rest_is_refused(compression: str, cell: str, tmp_path: Path) -> None:
    pixels, options = CELLS[cell]
    if cell not in ACCEPTED[compression]:
        _check_refusal(compression, cell)
        return
    encoding = pages.encoding_of(pixels, compression=compression, **options)
    path = tmp_path / f"{compression}-{cell}.tif"  # libvips remembers files by name
    pages.write_page(path, pixels, encoding)
    check_readers(path, compression, cell, encoding.bits)


@pytest.mark.parametrize("cell", ["rgb", "rgba", "grey16", "grey32", "signed", "float", "channels", "palette", "mask"])
@pytest.mark.parametrize("compression", ["lzw", "deflate", "zstd"])
@pytest.mark.parametrize("predictor", [True, False])
def test_predictor_comes_back_from_every_reader(compression: str, cell: str, predictor: bool, tmp_path: Path) -> None:
    pixels, options = CELLS[cell]
    encoding = pages.encoding_of(pixels, compression=compression, predictor=predictor, **options)
    assert encoding.predictor == (1 if not predictor else 3 if cell == "float" else 2)
    path = tmp_path / f"{compression}-{cell}-{predictor}.tif"
    pages.write_page(path, pixels, encoding)
    check_readers(path, compression, cell, encoding.bits)


def _check_refusal(compression: str, cell: str) -> None:
    pixels, options = CELLS[cell]
    with pytest.raises(OptionError) as caught:
        pages.encoding_of(pixels, compression=compression, **options)
    advice = str(caught.value).rpartition("choose one of ")[2].split(", or ")[0].split(", ")
    assert advice == [name for name in codecs_of("tiff") if cell in ACCEPTED[name]]
