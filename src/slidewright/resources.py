"""What this process may use: processors and memory, as scheduler and container allow, not as the machine has."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Processors this process may use: the least of its affinity, the cgroup's quota and SLURM_CPUS_PER_TASK; at
    least 1.
    """
    counts = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    quota = _cgroup_cpus()
    if quota is not None:
        counts.append(quota)
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
    if slurm.isdigit() and int(slurm) > 0:
        counts.append(int(slurm))
    return max(1, min(counts))


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _cgroup_folders() -> list[Path]:
    """This process's cgroup (version 2) and its parents: each may set a limit."""
    lines = _read_words(Path("/proc/self/cgroup"))
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = _CGROUP / own.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent == _CGROUP or _CGROUP in parent.parents)]


def _cgroup_cpus() -> int | None:
    quotas = []
    for folder in _cgroup_folders():
        words = _read_words(folder / "cpu.max")
        if len(words) == 2 and words[0] != "max":
            quotas.append(math.ceil(int(words[0]) / int(words[1])))
    quota, period = _read_words(_CGROUP / "cpu/cpu.cfs_quota_us"), _read_words(_CGROUP / "cpu/cpu.cfs_period_us")
    if quota and period and int(quota[0]) > 0:
        quotas.append(math.ceil(int(quota[0]) / int(period[0])))
    return min(quotas) if quotas else None


def available_memory() -> int:
    """Bytes that this process and its children may still take: free memory, or what a cgroup or Slurm leaves."""
    import psutil

    limits = [int(psutil.virtual_memory().available)]
    for folder in _cgroup_folders():
        limit, used = _read_words(folder / "memory.max"), _read_words(folder / "memory.current")
        if limit and used and limit[0] != "max":
            limits.append(max(0, int(limit[0]) - int(used[0]) + _reclaimable(folder)))
    legacy = _CGROUP / "memory"
    limit, used = _read_words(legacy / "memory.limit_in_bytes"), _read_words(legacy / "memory.usage_in_bytes")
    if limit and used:
        limits.append(max(0, int(limit[0]) - int(used[0])))
    limits.extend(_slurm_memory())
    return min(limits)


def _reclaimable(folder: Path) -> int:
    """Page cache in a cgroup counts as used, but gives way."""
    words = _read_words(folder / "memory.stat")
    return int(words[words.index("inactive_file") + 1]) if "inactive_file" in words else 0


def _slurm_memory() -> list[int]:
    limits = []
    node, cpu = os.environ.get("SLURM_MEM_PER_NODE", ""), os.environ.get("SLURM_MEM_PER_CPU", "")
    if node.isdigit() and int(node) > 0:
        limits.append(int(node) << 20)
    if cpu.isdigit() and int(cpu) > 0:
        limits.append((int(cpu) << 20) * usable_cpus())
    return limits


BASE_BYTES = 224 << 20
"""Coordinator, nursery and writer with their libraries, and the writer's store of waiting segments (measured,
docs/design.md).
"""
WORKER_BYTES = 40 << 20
"""A worker with its libraries, ring slots and source cache, without its tiles (measured, docs/design.md)."""
STORE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How many workers fit in a budget."""

    n_workers: int
    store_bytes: int
    warnings: tuple[str, ...] = ()


def plan_memory(n_workers: int, tile_bytes: int, budget: int | None) -> MemoryPlan:
    """Fit a run into a budget by taking fewer workers; `budget` None stands for what is available.

    `tile_bytes` is one unencoded tile; a worker holds about a dozen (one a level, and the codec's own).
    """
    limit = budget if budget is not None else available_memory()
    per_worker = WORKER_BYTES + 12 * tile_bytes
    fitting = max(1, (limit - BASE_BYTES) // per_worker)
    if n_workers <= fitting:
        return MemoryPlan(n_workers, STORE_BYTES)
    what = "the memory budget" if budget is not None else "the memory available"
    return MemoryPlan(
        fitting,
        STORE_BYTES,
        (f"{what} of {limit / 1e6:.0f} MB allows {fitting} of {n_workers} workers ({per_worker / 1e6:.0f} MB each)",),
    )


def proportional_memory(pids: list[int]) -> int | None:
    """Sum of the proportional set sizes of processes in bytes; None where the system does not tell. Gone processes
    count nothing.
    """
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) << 10
                    break
        except ProcessLookupError:
            continue
        except OSError:
            if os.path.exists("/proc/self/smaps_rollup"):
                continue
            return None
    return total
