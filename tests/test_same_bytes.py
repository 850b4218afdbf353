"""The same input with the same options gives the bytes that it gave before: held against hashes that are kept.

`tests/same_bytes.py` has the cases and makes the hashes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import same_bytes
from same_bytes import CASES, KEPT, file_hash, pixel_hash, versions

import slidewright

HASHES = json.loads(KEPT.read_text())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return same_bytes.make_inputs(tmp_path_factory.mktemp("inputs"))


def test_cases_that_give_the_same_bytes_are_those_that_ask_for_the_same() -> None:
    assert list(HASHES["cases"]) == list(CASES)
    same: dict[str, list[str]] = {}
    for name, kept in HASHES["cases"].items():
        same.setdefault(kept["file"], []).append(name)
    assert [names for names in same.values() if len(names) > 1] == [
        ["rgb compression=jpeg subsampling=420", "rgb"],
        ["grey compression=jpeg", "grey"],
        ["grey16 compression=deflate predictor=True", "grey16"],
        ["float compression=deflate predictor=False", "float"],
        [f"{source} compression=zstd{more}" for source, more in (
            ("rgb", " predictor=True"), ("rgb", " resampling=mean"), ("striped TIFF", ""), ("planar TIFF", ""),
            ("zarr", ""),
        )],
        ["grey16 compression=zstd predictor=True", "grey16 compression=zstd resampling=mean"],
        ["rgb compression=zstd mpp=(0.25, 0.5)", "tiled TIFF compression=zstd"],
    ]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_output_is_what_it_was(name: str, inputs: dict[str, Any], tmp_path: Path) -> None:
    case, kept, path = CASES[name], HASHES["cases"][name], tmp_path / "out.tif"
    same_bytes.convert(case, inputs, path)
    if not case.lossy:
        assert pixel_hash(path) == kept["pixels"]
    now = versions(case)
    other = {package: version for package, version in now.items() if version != kept["versions"].get(package)}
    if other:
        pytest.skip(f"the hash of the file was made with other versions than {other}")
    if len(HASHES["slidewright"]) != len(slidewright.__version__):
        pytest.skip("the version of slidewright, which the file holds, has other than the hash's number of letters")
    assert file_hash(path, HASHES["slidewright"]) == kept["file"]
