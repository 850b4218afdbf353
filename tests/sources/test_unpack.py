"""Wide compressed strips are unpacked once, to disk, and read like the file they came from."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import slidewright
from slidewright.errors import CorruptTileError, OutputError
from slidewright.sources.access import unpack as strips
from slidewright.sources.access.unpack import WideStripsSource
from slidewright.sources.open import open_source
from slidewright.sources.tiff import TiffSource

PIXELS = np.random.default_rng(6).integers(0, 256, (150, 205, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _tiny_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "CACHE_BYTES", 1000)


def wide(path: Path, **options: Any) -> Any:
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=None, **{"compression": "lzw", **options})
    return open_source(path)


def test_unpacked_strips_are_the_files_pixels(tmp_path: Path) -> None:
    source = wide(tmp_path / "a.tif", rowsperstrip=16)
    assert isinstance(source, WideStripsSource)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with source.shared(str(scratch)) as unpacked:
        assert unpacked.info == source.info
        out = np.empty((64, 64, 3), np.uint8)
        for described in (source, unpacked):
            reader = described.open()
            for y, x in [(0, 0), (64, 64), (86, 141)]:
                np.testing.assert_array_equal(reader.read(y, x, 64, 64, out), PIXELS[y : y + 64, x : x + 64])
            reader.close()
    assert list(scratch.iterdir()) == []


def test_unpacked_pixels_that_the_temporary_disk_has_lost_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`test_files.py` has a disk that really loses some."""

    def lost(fd: int) -> None:
        raise OSError(errno.EIO, "the disk has lost a part")

    monkeypatch.setattr(strips, "tell_of_loss", lost)
    with wide(tmp_path / "a.tif", rowsperstrip=16).shared(str(tmp_path)) as unpacked:
        reader = unpacked.open()
        for x, side in [(0, 64), (0, 205)]:
            with pytest.raises(OutputError, match="the disk has lost a part; check the temporary disk"):
                reader.read(0, x, 64, side, np.empty((64, side, 3), np.uint8))
        reader.close()


@pytest.mark.parametrize("n_workers", [0, 2])
def test_conversion_of_wide_strips_is_exact(tmp_path: Path, n_workers: int) -> None:
    source = wide(tmp_path / "a.tif", rowsperstrip=16)
    slidewright.convert(source, tmp_path / "b.tif", compression="deflate", tile_size=64, n_workers=n_workers)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif", key=0), PIXELS)


@pytest.mark.parametrize("options", [{"compression": None}, {"tile": (64, 64)}, {"tile": (160, 208)}])
def test_tiles_and_plain_strips_are_read_where_they_are(tmp_path: Path, options: dict[str, Any]) -> None:
    assert isinstance(wide(tmp_path / "a.tif", **options), TiffSource)


def test_damaged_strip_is_named_while_unpacking(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    source, status = wide(path, rowsperstrip=50, compression="zlib"), path.stat()
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.dataoffsets[1]
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"\x55" * 200)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # it is known by its time
    with pytest.raises(CorruptTileError, match="strip 1"), source.shared(str(tmp_path)):
        pass
