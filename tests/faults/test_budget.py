"""Memory and disk are counted before a run: it is made to fit and says how, or is refused with what it needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from faults.campaign import make_slide

import slidewright
from slidewright.engine import disk_budget as space
from slidewright.engine import memory_budget as memory
from slidewright.engine.memory_budget import Needs, plan_memory
from slidewright.errors import OptionError, OutputError, RunError
from slidewright.system import limits as resources

TILE = 512 * 512 * 3


def needs(n_workers=4, **more):
    return Needs(n_workers=n_workers, tile=512, tile_bytes=TILE, n_tiles=400, **more)


def test_enough_memory_changes_nothing():
    plan = plan_memory(needs(2), 10**9)
    assert (plan.n_workers, plan.block_tiles, plan.slots_per_worker, plan.store_bytes) == (2, None, 4, 32 << 20)
    assert plan.warnings == ()


def test_less_memory_takes_first_the_store_then_slots_then_blocks_then_workers():
    plans = [plan_memory(needs(), budget) for budget in range(220_000_000, 460_000_000, 2_000_000)]
    spent = [(plan.n_workers, -(plan.block_tiles or 8) * -1, plan.slots_per_worker, plan.store_bytes) for plan in plans]
    assert spent == sorted(spent)
    assert spent[0][0] < 4
    assert spent[-1] == (4, 8, 4, 32 << 20)
    assert all(plan.warnings for plan in plans[:-1] if plan.n_workers < 4)
    assert "workers" in plans[0].warnings[0]
    assert "220 MB" in plans[0].warnings[0]


@pytest.mark.parametrize("budget", range(180_000_000, 900_000_000, 60_000_000))
def test_estimate_of_a_plan_is_within_its_budget(budget):
    assert plan_memory(needs(16), budget).needed <= budget


def test_hopeless_budget_is_refused_with_what_is_needed():
    with pytest.raises(
        OptionError, match=r"memory budget of 50 MB is too little: .* at least 1\d\d MB, with one worker"
    ):
        plan_memory(needs(), 50_000_000)


def test_choice_of_blocks_is_kept():
    assert plan_memory(needs(1, block_tiles=8), 200_000_000).block_tiles == 8


def test_huge_cells_of_the_source_count_and_are_named():
    with pytest.raises(OptionError, match="chunk of the source alone is 1000 MB"):
        plan_memory(needs(cell_bytes=10**9), 10**9)


def test_array_that_does_not_fit_in_the_budget_is_copied_to_disk(tmp_path):
    pixels = np.arange(4000 * 5000 * 3, dtype=np.uint32).astype(np.uint8).reshape(4000, 5000, 3)
    options = {"n_workers": 1, "compression": "none"}
    report = slidewright.convert(pixels, tmp_path / "tight.tif", memory="200MB", **options)
    assert any("a copy of the array on disk" in text for text in report.warnings)
    slidewright.convert(pixels, tmp_path / "roomy.tif", **options)
    assert (tmp_path / "tight.tif").read_bytes() == (tmp_path / "roomy.tif").read_bytes()


def test_slurm_and_cgroups_limit_memory(monkeypatch, tmp_path):
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    free = resources.available_memory()
    assert free.source == "the free memory"
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "300")
    assert resources.available_memory() == resources.MemoryLimit(300 << 20, "SLURM_MEM_PER_NODE")
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert resources.available_memory() == resources.MemoryLimit(100 << 20, "SLURM_MEM_PER_CPU")
    (tmp_path / "memory.max").write_text("90000000\n")
    (tmp_path / "memory.current").write_text("70000000\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 10000000\n")
    assert resources.available_memory() == resources.MemoryLimit(30_000_000, "the cgroup's memory")
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (old / "memory.usage_in_bytes").write_text("5\n")
    assert resources.available_memory().bytes == 30_000_000
    (old / "memory.limit_in_bytes").write_text("20000000\n")
    assert resources.available_memory().bytes == 19_999_995


def test_too_little_available_memory_is_told_and_fitted_to(monkeypatch, tmp_path):
    source = make_slide(tmp_path / "slide.tif")
    monkeypatch.setattr(memory, "available_memory", lambda: resources.MemoryLimit(10**7, "the cgroup's memory"))
    with pytest.raises(RunError, match=r"the cgroup's memory of 10 MB is too little: .* needs at least"):
        slidewright.convert(source, tmp_path / "out.tif", n_workers=2)
    monkeypatch.setattr(memory, "available_memory", lambda: resources.MemoryLimit(22 * 10**7, "the cgroup's memory"))
    report = slidewright.convert(source, tmp_path / "out.tif", n_workers=9)
    assert report.n_workers < 9
    assert "the cgroup's memory of 220 MB allows" in report.warnings[0]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's smaps_rollup")
@pytest.mark.parametrize(
    ("budget", "workers", "options"),
    [
        (200, 4, ["--compression", "jpeg"]),
        (260, 4, ["--compression", "none"]),
        (500, 4, ["--compression", "none", "--tile-size", "1024"]),
    ],
)
def test_run_holds_to_its_budget(tmp_path, budget, workers, options):
    """A whole process, as a user starts it, with an input larger than the budget."""
    np.lib.format.open_memmap(tmp_path / "in.npy", "w+", np.uint8, (7_000, 10_000, 3))
    code = (
        "import sys, slidewright; from slidewright.cli import convert; summary = convert.summary\n"
        "convert.summary = lambda report: str(report.peak_memory)\n"
        "from slidewright.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    line = ["convert", tmp_path / "in.npy", tmp_path / "out.tif", "--memory", f"{budget}MB", "--workers", workers]
    run = [sys.executable, "-c", code, *map(str, line), *options]
    done = subprocess.run(run, capture_output=True, text=True, timeout=100, check=True)
    print(done.stdout, done.stderr)
    assert int(done.stdout) <= budget * 10**6


def room(monkeypatch, **free):
    """Pretend that each folder has so much room, each on a disk of its own."""
    monkeypatch.setattr(space, "device_of", lambda folder: hash(Path(folder).name))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**12, free=free[Path(path).name]))


def test_disk_that_is_surely_too_small_is_refused_before_anything_is_written(monkeypatch, tmp_path):
    pixels = np.zeros((600, 800, 3), np.uint8)
    options = {"n_workers": 0, "tile_size": 64, "block_tiles": 2, "scratch": tmp_path / "scratch"}
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    destination = tmp_path / "out" / "out.tif"
    room(monkeypatch, out=10**6, scratch=10**9)
    with pytest.raises(OutputError, match=r"out has 1 MB free, but the output will take at least 2 MB"):
        slidewright.convert(pixels, destination, compression="none", **options)
    room(monkeypatch, out=10**9, scratch=10**4)
    with pytest.raises(OutputError, match=r"scratch has 0 MB free, but the temporary levels .*--scratch"):
        slidewright.convert(pixels, destination, **options)
    assert list((tmp_path / "out").iterdir()) == list((tmp_path / "scratch").iterdir()) == []
    room(monkeypatch, out=10**5, scratch=10**9)
    report = slidewright.convert(pixels, destination, **options)
    assert "0 MB free, but the output will take about" in report.warnings[0]


@pytest.mark.parametrize(("samples", "options"), [(1, {}), (5, {}), (1, {"kind": "binary", "bits": 1})])
def test_estimate_of_an_uncompressed_output_is_what_it_takes(tmp_path, samples, options):
    """Estimates that nobody compares with the truth drift."""
    from slidewright.conversions.deciding import decide
    from slidewright.options import ConvertOptions

    options = {"tile_size": 64, "block_tiles": 2, "compression": "none", **options}
    pixels, chosen = np.zeros((600, 800, samples), np.uint8), ConvertOptions(**options)
    run = decide(slidewright.open_source(pixels), chosen, 0.0)
    guess = space.estimate(replace(run, memory=replace(run.memory, store_bytes=0)))
    slidewright.convert(pixels, tmp_path / "out.tif", n_workers=0, **options)
    real = (tmp_path / "out.tif").stat().st_size
    assert guess.output_least <= real <= 1.05 * guess.output_least
    with tifffile.TiffFile(tmp_path / "out.tif") as tiff:
        assert guess.output_likely == sum(sum(page.databytecounts) for page in tiff.pages)
