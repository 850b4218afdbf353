"""The place of the output."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

import slidewright
from slidewright.conversions.destination import Destination
from slidewright.errors import DestinationError


def test_destination_taken_meanwhile_is_not_overwritten(tmp_path):
    path = tmp_path / "out.tif"
    destination = Destination(path, overwrite=False)
    Path(destination.partial).write_bytes(b"ours")
    path.write_bytes(b"theirs")
    with pytest.raises(DestinationError, match="exists"):
        destination.commit()
    destination.close()
    assert path.read_bytes() == b"theirs"
    assert [p.name for p in tmp_path.iterdir()] == ["out.tif"]


def test_source_is_never_its_own_destination(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((40, 40), np.uint8))
    with pytest.raises(DestinationError, match="source itself"):
        slidewright.convert(path, path, overwrite=True, n_workers=0)


@pytest.mark.parametrize("call", ["link", "replace"])
@pytest.mark.parametrize("error", [FileExistsError(17, "File exists"), FileNotFoundError(2, "gone"), OSError(5, "I/O")])
def test_rename_that_reports_failure_and_has_happened_is_a_success(tmp_path, monkeypatch, call, error):
    """As NFS does, when the answer of the server is lost and the client asks again."""
    real = getattr(os, call)

    def done_and_failed(old, new, **options):
        real(old, new, **options)
        if str(new).endswith("o.tif"):
            raise error

    monkeypatch.setattr(os, call, done_and_failed)
    if call == "replace":
        (tmp_path / "o.tif").write_bytes(b"old")
    slidewright.convert(np.zeros((99, 99), np.uint8), tmp_path / "o.tif", n_workers=0, overwrite=call == "replace")
    assert os.listdir(tmp_path) == ["o.tif"]
    assert tifffile.imread(tmp_path / "o.tif", key=0).shape == (99, 99)


def test_name_taken_by_another_file_is_still_an_error(tmp_path, monkeypatch):
    def taken(old, new, **_):
        (tmp_path / "o.tif").write_bytes(b"another's")
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", taken)
    with pytest.raises(DestinationError, match="exists"):
        slidewright.convert(np.zeros((99, 99), np.uint8), tmp_path / "o.tif", n_workers=0)
    assert (tmp_path / "o.tif").read_bytes() == b"another's"
    assert os.listdir(tmp_path) == ["o.tif"]
