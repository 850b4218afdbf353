"""The fuzzer's short form, and every tag of small TIFFs with every type.

Its long form is the program `fuzzer.py`, or `SLIDEWRIGHT_FAULTS=long`: an hour for each target.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from faults.campaign import Campaign

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="limits and forks as Linux has them"),
    pytest.mark.timeout(7200),
]
PROGRAM = Path(__file__).with_name("fuzzer.py")


def run_fuzzer(*words: object) -> str:
    """In a process of its own, which must have no threads."""
    line = [sys.executable, str(PROGRAM), *map(str, words)]
    done = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()[-1]


@pytest.mark.long
@pytest.mark.parametrize("target", ["tiff", "zarr", "manifest", "shards", "log"])
def test_fuzzer_finds_nothing(target, tmp_path):
    campaign = Campaign(f"fuzzer of {target}", short=60, long=10**9)
    asked = ["--tries", campaign.tries] if campaign.tries < 10**9 else ["--seconds", 3600]
    print(run_fuzzer(target, "--seed", campaign.seed, "--keep", tmp_path / "kept", *asked))


@pytest.mark.parametrize("what", ["raises", "hangs", "leaves", "allocates"])
def test_fuzzer_would_find_it(what, tmp_path):
    """It has teeth: an act that goes wrong is a failure, and its input is kept."""
    code = f"""
import sys; sys.path.insert(0, {str(PROGRAM.parents[1])!r})
from faults import fuzzer
fuzzer.CPU_SECONDS = 1
class Bad(fuzzer.Target):
    name = "bad"
    def seeds(self, folder): return [{{"a": b"1"}}]
    def change(self, files, others, rng): return files
    def acts(self):
        def raises(): raise KeyError("no error of ours")
        def hangs():
            while True: pass
        def leaves(): open("left", "w").close(); return "done"
        def allocates(): bytes(8 << 30); return "done"
        return [{what}]
from pathlib import Path
found = fuzzer.Fuzzer(Bad(), 1, Path({str(tmp_path)!r}), Path({str(tmp_path)!r}) / "kept")
print(*found.failures)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    expected = {"raises": "KeyError", "hangs": "CPU time over", "leaves": "left behind", "allocates": "MemoryError"}
    assert done.stdout.splitlines()[-1].startswith(expected[what]), (done.stdout, done.stderr)
    assert os.listdir(tmp_path / "kept") == ["bad-01"]


@pytest.mark.slow
def test_every_tag_with_every_type():
    """Some thousand files, each to `info`, `convert` and `verify` with the fuzzer's limits."""
    print(run_fuzzer("tags", "--all"))


def test_tag_table_walks_both_kinds_of_tiff():
    """The systematic inputs differ from their base in one entry of its directory."""
    import numpy as np
    from faults.fuzz_targets import Tags
    from faults.mutate import tiff_bytes

    for big in (False, True):
        base = tiff_bytes(data=np.zeros((40, 50), np.uint8), photometric="minisblack", bigtiff=big)
        found = list(Tags.variants(base))
        assert len(found) > 500
        assert all(len(data) == len(base) for data in found)
        assert len({struct.pack("<I", hash(data) & 0xFFFFFFFF) for data in found}) > 0.9 * len(found)
