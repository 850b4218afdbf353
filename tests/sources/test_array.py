"""Arrays are read without copying, shared with workers without pickling, and memory maps are read from their file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import slidewright
from slidewright.errors import SourceError
from slidewright.sources.array import ArraySource, NpySource, SharedArraySource, _mapped
from slidewright.sources.base import Source
from slidewright.sources.open import open_source
from slidewright.system import shared_memory as sharing

PIXELS = np.random.default_rng(3).integers(0, 256, (130, 170, 3), dtype=np.uint8)
GREY16 = np.random.default_rng(4).integers(0, 65_536, (90, 70), dtype=np.uint16)

VARIANTS: dict[str, NDArray[Any]] = {
    "rgb": PIXELS,
    "grey": PIXELS[..., 0],
    "one-sample": PIXELS[..., :1],
    "uint16": GREY16,
    "big-endian": GREY16.astype(">u2"),
    "crop": PIXELS[10:90, 20:130],
    "every-other": PIXELS[::2, ::3],
    "upside-down": PIXELS[::-1],
    "mirrored": PIXELS[:, ::-1],
    "bgr": PIXELS[..., ::-1],
    "fortran": np.asfortranarray(PIXELS),
    "planes-first": np.ascontiguousarray(PIXELS.transpose(2, 0, 1)).transpose(1, 2, 0),
    "broadcast": np.broadcast_to(PIXELS[:1], (40, 170, 3)),
}


def assert_reads_like(source: Source, expected: NDArray[Any]) -> None:
    info = source.info
    assert np.dtype(info.dtype) == expected.dtype.newbyteorder("=")
    expected = expected.reshape(info.shape)
    reader = source.open()
    for side in (32, 200):
        out = np.empty((side, side, info.samples), info.dtype)
        for y in range(0, info.size.height, side):
            for x in range(0, info.size.width, side):
                height, width = min(side, info.size.height - y), min(side, info.size.width - x)
                got = reader.read(y, x, height, width, out)
                assert got.dtype.isnative
                np.testing.assert_array_equal(got, expected[y : y + height, x : x + width])
    reader.close()
    reader.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_array_reads_in_place_and_shared(name: str, tmp_path: Path) -> None:
    source = open_source(VARIANTS[name])
    assert isinstance(source, ArraySource)
    assert_reads_like(source, VARIANTS[name])
    with source.shared(str(tmp_path)) as shared:
        assert shared.info == source.info
        assert_reads_like(shared, VARIANTS[name])
    assert list(tmp_path.iterdir()) == []


def test_array_in_memory_is_read_as_views() -> None:
    out = np.empty((64, 64, 3), np.uint8)
    assert np.shares_memory(open_source(PIXELS).open().read(5, 6, 64, 64, out), PIXELS)


def test_shared_pixels_travel_by_descriptor_not_by_pickle() -> None:
    with ArraySource(PIXELS).shared() as shared:
        data, buffers = sharing.dumps(shared)
        assert len(data) < 2000
        assert len(buffers) == 1
        fd = buffers[0].fd
        assert fd is not None
        there = sharing.loads(data, [os.dup(fd)])
        assert isinstance(there, SharedArraySource)
        assert_reads_like(there, PIXELS)
        there.close()


def test_array_source_itself_does_not_pickle() -> None:
    with pytest.raises(TypeError, match="shared"):
        pickle.dumps(ArraySource(PIXELS))


@pytest.mark.parametrize("name", ["rgb", "grey", "one-sample", "uint16", "big-endian"])
def test_npy_file_is_read_from_disk(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, VARIANTS[name])
    for given_as in (path, np.load(path, mmap_mode="r"), np.load(path, mmap_mode="r+")):
        source = open_source(given_as)
        assert isinstance(source, NpySource)
        assert_reads_like(pickle.loads(pickle.dumps(source)), VARIANTS[name])


def test_fortran_order_npy_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.asfortranarray(PIXELS))
    assert_reads_like(open_source(path), PIXELS)


@given(st.data())
def test_any_crop_of_a_memory_map_finds_its_place_in_the_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "crop.raw"
    path.write_bytes(b"head" + PIXELS.tobytes())
    view: Any = np.memmap(path, np.uint8, "r", offset=4, shape=PIXELS.shape)
    expected: NDArray[Any] = PIXELS
    for _ in range(data.draw(st.integers(0, 2))):
        rows = slice(data.draw(st.integers(0, 20)), data.draw(st.integers(30, 60)), data.draw(st.integers(1, 2)))
        columns = slice(data.draw(st.integers(0, 4)), data.draw(st.integers(10, 40)), data.draw(st.integers(1, 2)))
        if min(expected[rows, columns].shape) > 0:
            view, expected = view[rows, columns], expected[rows, columns]
    assert_reads_like(open_source(view), expected)


def test_memory_map_changed_only_in_memory_is_read_from_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, PIXELS)
    private = np.load(path, mmap_mode="c")
    private[:] = 9
    assert_reads_like(open_source(private), np.full_like(PIXELS, 9))
    derived = np.load(path, mmap_mode="r") + np.uint8(1)
    assert_reads_like(open_source(derived), PIXELS + np.uint8(1))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 20, 30), np.uint8), "transpose"),
        (np.zeros((5, 300, 400), np.uint16), r"channels first.*transpose\(1, 2, 0\)"),
        (np.zeros((200, 300, 101), np.uint8), "keep some of the channels"),
        (np.zeros((2, 20, 30, 3), np.uint8), "index or reduce"),
        (np.zeros((20, 30), np.float64), r"float64.*astype\('float32'\)"),
        (np.zeros((20, 30), np.int64), r"int64.*astype\('int32'\)"),
        (np.zeros((20, 30), np.complex64), "complex64.*abs"),
        (np.zeros((20, 30), "U3"), "astype"),
        (np.zeros(30, np.uint8), "shape"),
        (np.zeros((0, 30), np.uint8), "no pixel"),
    ],
)
def test_other_arrays_are_refused_with_a_remedy(array: NDArray[Any], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(array)


@pytest.mark.parametrize("cut", [5, 20, 1000])
def test_npy_file_cut_short_is_an_error(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.npy"
    np.save(path, PIXELS)
    path.write_bytes(path.read_bytes()[:-cut] if cut > 5 else b"\x93NUMPY")
    with pytest.raises(SourceError, match=str(path)):
        open_source(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "then", [lambda a: a.T.copy(), np.asfortranarray, lambda a: a.astype(">u2"), lambda a: a.astype(np.float16)]
)
def test_npy_file_that_became_another_since_it_was_described_is_refused(
    tmp_path: Path, then: Any, workers: int
) -> None:
    path, pixels = tmp_path / "a.npy", np.arange(50 * 70, dtype=np.uint16).reshape(50, 70)
    np.save(path, pixels)
    source = open_source(path)
    np.save(path, then(pixels))
    with pytest.raises(SourceError, match="is not the file it was"):
        slidewright.convert(source, tmp_path / "out.tif", n_workers=workers)
    assert list(tmp_path.iterdir()) == [path]
    np.save(path, pixels[::-1])  # of the same kind: a worker that opens it late would read another image all the same
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceError, match="is not the file it was"):
        slidewright.convert(source, tmp_path / "out.tif", n_workers=workers)
    slidewright.convert(open_source(path), tmp_path / "out.tif", n_workers=workers)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), pixels[::-1])


def test_npy_of_objects_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (2, 2), }".ljust(117) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00" + header + b"cos")
    with pytest.raises(SourceError, match=str(path)):
        open_source(path)


@pytest.mark.parametrize("then", ["replaced", "removed"])
def test_memory_map_whose_file_is_another_gives_the_pixels_of_the_array(tmp_path: Path, then: str) -> None:
    path = tmp_path / "a.npy"
    np.save(path, PIXELS)
    mapped = np.load(path, mmap_mode="r")
    assert isinstance(open_source(mapped), NpySource)
    path.unlink()
    if then == "replaced":
        np.save(path, PIXELS[::-1])
    source = open_source(mapped)
    assert isinstance(source, ArraySource)
    out = np.empty(PIXELS.shape, np.uint8)
    np.testing.assert_array_equal(source.open().read(0, 0, *PIXELS.shape[:2], out), PIXELS)


def test_npy_whose_header_python_fails_to_parse_once_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As CPython 3.11.7 does where two threads parse at a time; a second time the file is told of."""
    np.save(tmp_path / "a.npy", GREY16)
    load, failures = np.load, [SystemError("AST constructor recursion depth mismatch")]

    def fail_first(*given: Any, **named: Any) -> Any:
        if failures:
            raise failures.pop()
        return load(*given, **named)

    monkeypatch.setattr(np, "load", fail_first)
    np.testing.assert_array_equal(np.asarray(_mapped(str(tmp_path / "a.npy"))), GREY16)
    failures += [SystemError("mismatch"), SystemError("mismatch")]
    with pytest.raises(SourceError, match=r"can't be read as a \.npy file \(mismatch\)"):
        _mapped(str(tmp_path / "a.npy"))


def test_mask_of_an_array_is_told_to_be_left_out(tmp_path: Path) -> None:
    """No format has a place for it."""
    masked = np.ma.masked_array(GREY16, mask=GREY16 > 30_000, fill_value=7)
    (warning,) = slidewright.convert(masked, tmp_path / "a.tif", n_workers=0).warnings
    assert "not passed on of NumPy array: its mask" in warning
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif", key=0), GREY16)
    for array, expected in ((masked.filled(7), masked.filled(7)), (np.ma.masked_array(GREY16), GREY16)):
        assert not slidewright.convert(array, tmp_path / "b.tif", n_workers=0, overwrite=True).warnings
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif", key=0), expected)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
def test_matrix_is_an_array() -> None:
    assert_reads_like(open_source(np.matrix(GREY16)), GREY16)
