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
