"""The place of the output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
