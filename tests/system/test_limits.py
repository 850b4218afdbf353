"""What this process may use."""

from __future__ import annotations

import os

from slidewright.system import limits as resources


def test_usable_cpus_follows_affinity_and_slurm(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    most = resources.usable_cpus()
    assert 1 <= most <= 6
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    assert resources.usable_cpus() == 1


def test_memory_is_what_the_tightest_cgroup_of_version_2_leaves(tmp_path, monkeypatch):
    """A job inside a container: the limits of the parents count too, page cache does not."""
    mib = 1 << 20
    job = tmp_path / "system.slice" / "job"
    job.mkdir(parents=True)
    made = {job: ("max", 10, 0), job.parent: (900 * mib, 600 * mib, 200 * mib), tmp_path: (4000 * mib, 700 * mib, 0)}
    for folder, (limit, used, cache) in made.items():
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache}\n")
    words = resources._read_words
    own = str(resources.Path("/proc/self/cgroup"))
    monkeypatch.setattr(
        resources, "_read_words", lambda path: ["0::/system.slice/job"] if str(path) == own else words(path)
    )
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    for name in ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU"):
        monkeypatch.delenv(name, raising=False)
    limit = resources.available_memory()
    assert (limit.bytes, limit.source) == (500 * mib, "the cgroup's memory")
    (job / "cpu.max").write_text("150000 100000\n")
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert resources.usable_cpus() == 2
