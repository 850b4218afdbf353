"""Every kind of source × every kind of file: the source's bytes, and its pixels in every reader but those that the
documentation names.
"""

from __future__ import annotations

import by_bioformats as bioformats
import pytest

pytest.importorskip("openslide")
pytest.importorskip("pydicom")
pytest.importorskip("pyvips")
pytest.importorskip("wsidicom")

from kept_matrix import (
    DESTINATIONS,
    KINDS,
    NOT_KEPT,
    PAGE,
    READERS,
    REFUSED,
    WRONG,
    convert,
    readers_wrong,
    same_bytes,
    written,
)

from slidewright.inspection.verify import verify_file

_CELLS = [(kind, destination) for kind in KINDS for destination in DESTINATIONS if (kind, destination) not in REFUSED]
_FEW = (
    *("TIFF, JPEG YCbCr 4:2:0", "Aperio, JPEG RGB", "DICOM, JPEG YBR_FULL_422", "DICOM, JPEG, TILED_SPARSE"),
    "NDPI, 4:2:2",
)


def _check(kind: str, destination: str, folder, readers: tuple[str, ...]) -> None:
    source, out, kept = convert(kind, destination, folder)
    if (kind, destination) in NOT_KEPT:
        assert kept == 0
    else:
        assert kept > 0
        assert same_bytes(source, out)
    expected = WRONG.get((kind, destination), set()) & set(readers)
    assert readers_wrong(kind, source, folder, out, readers) == expected
    verify_file(out, against=next(folder.glob("in*")))


@pytest.mark.parametrize(("kind", "destination"), [cell for cell in _CELLS if cell[0] in _FEW])
def test_kept_tiles_and_pixels(tmp_path, kind, destination):
    _check(kind, destination, tmp_path, READERS[:-1])


@pytest.mark.long
@pytest.mark.parametrize(("kind", "destination"), [cell for cell in _CELLS if cell[0] not in _FEW])
def test_kept_tiles_and_pixels_of_every_kind(tmp_path, kind, destination):
    _check(kind, destination, tmp_path, READERS[:-1])


@pytest.mark.long
@pytest.mark.skipif(not bioformats.AVAILABLE, reason=bioformats.WHY)
@pytest.mark.parametrize(("kind", "destination"), _CELLS)
def test_kept_pixels_in_bioformats(tmp_path, kind, destination):
    _check(kind, destination, tmp_path, READERS[-1:])


def test_the_table_of_the_page_is_what_was_measured():
    page = PAGE.read_text()
    assert page == written(page), "run PYTHONPATH=tests python tests/kept_matrix.py"
