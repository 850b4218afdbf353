"""What every reader here makes of every flavour is what the documentation's table says."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("readers_matrix", HERE / "matrix.py")
assert _spec is not None
assert _spec.loader is not None
matrix = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(matrix)
FOUND = json.loads(matrix.FOUND.read_text())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return matrix.make_files(tmp_path_factory.mktemp("flavours"))


@pytest.mark.parametrize("reader", [*matrix.OWN, *matrix.OTHERS])
@pytest.mark.timeout(600)
def test_reader_sees_what_the_table_says(files, reader):
    if matrix.python_of(reader) is None:
        pytest.skip("its environment is not here; tests/readers/environments.py makes it, SLIDEWRIGHT_READERS names it")
    if reader not in FOUND:
        pytest.skip("its packages could not be had when the table was made")
    assert matrix.ask(reader, files) == FOUND[reader]


def test_table_in_the_documentation_is_what_was_found():
    page = matrix.PAGE.read_text()
    assert matrix.written(page, FOUND) == page, "run tests/readers/matrix.py"


@pytest.mark.parametrize("reader", [reader for reader in FOUND if reader in ("openslide", "bioformats", "tifffile")])
@pytest.mark.parametrize("codec", ["jpeg", "deflate"])
def test_hybrid_shows_every_level_to_the_readers_that_it_is_made_for(reader, codec):
    assert FOUND[reader][f"ome-tiff RGB {codec}"] == {"jpeg": "close", "deflate": "exact"}[codec]
