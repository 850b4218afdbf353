"""`open_source` finds out what it was given, by content, and says what is supported when it can't tell."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile

import slidewright.sources.open
from slidewright.errors import OptionError, SlidewrightError, SourceError
from slidewright.sources.array import ArraySource, NpySource
from slidewright.sources.open import open_source
from slidewright.sources.tiff import TiffSource
from slidewright.sources.zarr import ZarrSource

PIXELS = np.zeros((40, 50, 3), np.uint8)


def test_content_decides_not_the_name(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "tiff.npy", PIXELS, photometric="rgb")
    np.save(tmp_path / "a.npy", PIXELS)
    os.rename(tmp_path / "a.npy", tmp_path / "npy.tif")
    assert isinstance(open_source(tmp_path / "tiff.npy"), TiffSource)
    assert isinstance(open_source(str(tmp_path / "npy.tif")), NpySource)
    assert isinstance(open_source(os.fsencode(tmp_path / "npy.tif").decode()), NpySource)


def test_big_and_classic_tiff_of_both_byte_orders(tmp_path: Path) -> None:
    for byteorder in "<>":
        for bigtiff in (False, True):
            tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", byteorder=byteorder, bigtiff=bigtiff)
            assert isinstance(open_source(tmp_path / "a.tif"), TiffSource)


def test_source_passes_through() -> None:
    source = open_source(PIXELS)
    assert isinstance(source, ArraySource)
    assert open_source(source) is source


def test_relative_path_is_still_right_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    monkeypatch.chdir(tmp_path)
    source = open_source("a.npy")
    monkeypatch.chdir("/")
    reader = source.open()
    assert reader.read(0, 0, 1, 1, np.empty((1, 1, 3), np.uint8)).shape[:2] == (1, 1)
    reader.close()


def test_missing_empty_and_unknown_files_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.tif").write_text("hello, this is no image at all")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, message in {
        "missing.tif": "does not exist",
        "empty.tif": "is empty",
        "text.tif": "known format.*slidewright reads TIFF",
        "folder": "not a zarr",
        "pipe": "regular file",
    }.items():
        with pytest.raises(SourceError, match=message) as caught:
            open_source(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize("size", [5, 8, 40, 200])
def test_tiff_that_is_only_a_beginning_is_a_source_error(tmp_path: Path, size: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb")
    (tmp_path / "b.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:size])
    with pytest.raises(SourceError, match=r"b\.tif"):
        open_source(tmp_path / "b.tif")


@pytest.mark.parametrize("obj", [None, 3, b"pixels", {"a": 1}, object()])
def test_other_objects_are_refused_with_what_is_supported(obj: Any) -> None:
    with pytest.raises(SourceError, match="NumPy arrays"):
        open_source(obj)


@pytest.mark.parametrize("obj", [b"pixels", bytearray(9), memoryview(PIXELS[..., 0]), io.BytesIO(b"pixels")])
def test_files_in_memory_are_refused_with_what_to_do(obj: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="save it and give the path of the file"):
        open_source(obj)
    (tmp_path / "a.tif").touch()
    with (tmp_path / "a.tif").open("rb") as file, pytest.raises(SourceError, match="give the path of the file"):
        open_source(file)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files have paths there")
@pytest.mark.parametrize("folder", ["/dev/fd", "/proc/self/fd"])
def test_descriptor_leads_to_its_file_by_a_name_that_workers_know(tmp_path: Path, folder: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", tile=(32, 32))
    with (tmp_path / "a.tif").open("rb") as file:
        path = f"{folder}/{file.fileno()}"
        slidewright.convert(path, tmp_path / "out.tif", compression="deflate", n_workers=2)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif", key=0), PIXELS)
        with pytest.raises(SlidewrightError, match="source"):
            slidewright.convert(path, tmp_path / "a.tif", overwrite=True, n_workers=0)
        (tmp_path / "a.tif").unlink()
        with pytest.raises(SourceError, match="file without a name"):
            slidewright.convert(path, tmp_path / "out.tif", overwrite=True, n_workers=2)
    PIL.Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        (tmp_path / "a.png").unlink()  # an image file is decoded where it is open
        path = f"{folder}/{file.fileno()}"
        slidewright.convert(path, tmp_path / "png.tif", compression="deflate", n_workers=2)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "png.tif", key=0), PIXELS)


def test_iterators_are_sent_to_the_writer() -> None:
    for obj in (iter([PIXELS]), (tile for tile in [PIXELS]), {1, 2}):
        with pytest.raises(SourceError, match=r"PyramidWriter\.write"):
            open_source(obj)


def test_choices_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", PIXELS)
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(tmp_path / "a.zarr", shape=(20, 30), dtype="u1", chunks=(16, 16))
    assert isinstance(open_source(array), ZarrSource)
    for obj, choice in [(PIXELS, "level"), (tmp_path / "a.npy", "page"), (array, "page"), (array, "level")]:
        with pytest.raises(OptionError, match=r"leave (it )?out"):
            open_source(obj, **{choice: 1})
    with pytest.raises(OptionError, match="0 or more"):
        open_source(PIXELS, level=-1)


def test_slide_without_openslide_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slidewright.sources.open, "_has_openslide", lambda: False)
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8\xff\xe0 a thumbnail")
    with pytest.raises(SourceError, match=r"slidewright\[openslide\]"):
        open_source(tmp_path / "a.mrxs")


def test_importing_sources_is_light(root: Path) -> None:
    code = (
        "import sys, slidewright.sources.open\n"
        "heavy = {'zarr', 'tifffile', 'imagecodecs', 'openslide', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    env = {**os.environ, "PYTHONPATH": str(root / "src")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=60)


@pytest.mark.parametrize("vendor", ["ndpi", "scn", "bif", "trestle", "aperio-ycbcr", ""])
@pytest.mark.parametrize("known", [True, False])
def test_formats_that_openslide_reads_better_go_there_if_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, known: bool
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=None)
    monkeypatch.setattr("slidewright.sources.tiff.vendor_of", lambda path: vendor)
    kind = {"scn": "leica", "bif": "ventana", "trestle": "trestle"}.get(vendor, "its own") if known else None
    monkeypatch.setattr(slidewright.sources.open, "_openslide_kind", lambda path: kind)
    monkeypatch.setattr(slidewright.sources.open, "_has_openslide", lambda: known)
    monkeypatch.setattr(slidewright.sources.open, "_from_openslide", lambda *given: "OpenSlide")
    assert (open_source(path) == "OpenSlide") == (known and vendor != "")
    assert isinstance(open_source(path, page=0), TiffSource)


@pytest.mark.parametrize("vendor", ["scn", "bif", "trestle"])
@pytest.mark.parametrize("kind", ["generic-tiff", None])
def test_slide_whose_layout_openslide_does_not_understand_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vendor: str, kind: str | None
) -> None:
    """A hole in its XML: OpenSlide takes it for a plain TIFF, or for nothing, and tiles that overlap were moved."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=None)
    monkeypatch.setattr("slidewright.sources.tiff.vendor_of", lambda path: vendor)
    monkeypatch.setattr(slidewright.sources.open, "_openslide_kind", lambda path: kind)
    monkeypatch.setattr(slidewright.sources.open, "_has_openslide", lambda: True)
    with pytest.raises(SourceError, match=f"kind {vendor}.*wrong places"):
        open_source(path)
    assert isinstance(open_source(path, page=0), TiffSource)
