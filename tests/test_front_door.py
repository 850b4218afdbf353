"""What `import slidewright` costs."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

import slidewright


def test_import_is_light():
    heavy = ("numpy", "zarr", "cv2", "imagecodecs", "tifffile", "rich")
    code = f"import slidewright, sys; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == "[]"


def test_info_is_a_function_whatever_was_imported_before(tmp_path):
    import slidewright.inspection.info

    np.save(tmp_path / "a.npy", np.zeros((30, 40, 3), np.uint8))
    assert slidewright.info(tmp_path / "a.npy").size == (30, 40)


@pytest.mark.parametrize("name", slidewright.__all__)
def test_every_name_of_the_front_door_is_there(name):
    found = getattr(slidewright, name)
    assert not isinstance(found, ModuleType)
