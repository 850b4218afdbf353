"""What this process may use: processors and memory, as scheduler and container allow, not as the machine has."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_CODEC_FACTOR = 12  # more than what is decoded: 32 bits a sample, twice, as JPEG 2000 has them
_CODEC_MOST = 1 << 29
_NO_LIMIT = 1 << 60  # version 1 writes its "none" as a number near 2^63


def blame_memory(nbytes: int) -> None:
    """Raise MemoryError where a codec that could not make so many bytes may have had too little memory for that: those
    of JPEG 2000, JPEG XL and LZMA say of it what they say of damage.
    """
    import numpy as np  # nothing else here needs it

    np.empty(min(_CODEC_FACTOR * nbytes, _CODEC_MOST), np.uint8)  # which takes addresses, and no memory


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


def open_files() -> int:
    """How many files this process may have open; many where nothing limits them."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return 1 << 20
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


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


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """Bytes that this process and its children may still take, and who says so."""

    bytes: int
    source: str


def available_memory() -> MemoryLimit:
    """The least of free memory and what cgroups (version 1 or 2) and Slurm leave."""
    limits = [MemoryLimit(_free_memory(), "the free memory")]
    for folder in _cgroup_folders():
        limits += _left("the cgroup's memory", folder, "memory.max", "memory.current", "inactive_file")
    for folder in _legacy_folders():
        limits += _left(
            "the cgroup's memory", folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        )
    node, cpu = os.environ.get("SLURM_MEM_PER_NODE", ""), os.environ.get("SLURM_MEM_PER_CPU", "")
    if node.isdigit() and int(node) > 0:
        limits.append(MemoryLimit(int(node) << 20, "SLURM_MEM_PER_NODE"))
    if cpu.isdigit() and int(cpu) > 0:
        limits.append(MemoryLimit((int(cpu) << 20) * usable_cpus(), "SLURM_MEM_PER_CPU"))
    return min(limits, key=lambda limit: limit.bytes)


def _free_memory() -> int:
    """Bytes that the machine can give without swapping; where the kernel says so, without psutil's import of 10 ms."""
    words = _read_words(Path("/proc/meminfo"))
    if "MemAvailable:" in words:
        return int(words[words.index("MemAvailable:") + 1]) << 10
    import psutil

    try:
        return int(psutil.virtual_memory().available)
    except FileNotFoundError:  # no /proc
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _legacy_folders() -> list[Path]:
    """This process's cgroup of the memory controller (version 1) and its parents; a container may see the root only."""
    root = _CGROUP / "memory"
    lines = _read_words(Path("/proc/self/cgroup"))
    own = next((line.split(":", 2)[2] for line in lines if ":memory:" in line), "/")
    folder = root / own.lstrip("/")
    return [folder, *(parent for parent in folder.parents if parent == root or root in parent.parents)]


def _left(source: str, folder: Path, limit_file: str, usage_file: str, cache: str) -> list[MemoryLimit]:
    """What one cgroup leaves; page cache counts as used there, but gives way."""
    limit, used = _read_words(folder / limit_file), _read_words(folder / usage_file)
    if not limit or not used or not limit[0].isdigit() or int(limit[0]) >= _NO_LIMIT:
        return []
    words = _read_words(folder / "memory.stat")
    reclaimable = int(words[words.index(cache) + 1]) if cache in words else 0
    return [MemoryLimit(max(0, int(limit[0]) - int(used[0]) + reclaimable), source)]


def count_memory_kills() -> int:
    """How many processes the kernel has killed because memory was short, as far as this process may know."""
    total = 0
    files = [_CGROUP / "memory.oom_control", Path("/proc/vmstat")]
    files += [folder / "memory.events" for folder in _cgroup_folders()[:1]]
    files += [folder / "memory.oom_control" for folder in _legacy_folders()[:1]]
    for path in files:
        words = _read_words(path)
        if "oom_kill" in words:
            total += int(words[words.index("oom_kill") + 1])
    return total


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
