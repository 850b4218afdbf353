"""What `import slidewright` costs."""

from __future__ import annotations

import os
import subprocess
import sys


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
