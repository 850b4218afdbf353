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


@pytest.mark.timeout(120)
def test_threads_may_be_the_first_to_convert(tmp_path):
    """Each imports as it goes. A package that imports its modules must be imported before them: where another thread
    begins with a module, each of the two waits for the other, and Python gives one of them a module half made.
    """
    code = """if True:
        import sys, threading
        import numpy as np
        import slidewright

        np.save(f"{sys.argv[1]}/a.npy", np.zeros((300, 300, 3), np.uint8))
        together, done = threading.Barrier(4), []

        def convert(number):
            together.wait()
            options = {"overwrite": True, "n_workers": (None, 0)[number % 2]}  # which begin with different modules
            slidewright.convert(f"{sys.argv[1]}/a.npy", f"{sys.argv[1]}/{number}.tif", **options)
            done.append(number)

        threads = [threading.Thread(target=convert, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 4
    """
    for _ in range(8):
        subprocess.run([sys.executable, "-c", code, tmp_path], check=True, timeout=60)
