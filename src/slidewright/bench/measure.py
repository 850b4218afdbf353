"""One measured process: its seconds, or the peak of its tree's memory, and the machine that it ran on.

Timing and memory are different runs: sampling the memory of a process tree takes processor time from what is measured.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

from slidewright.errors import RunError

_SAMPLE_SECONDS = 0.02
_PACKAGES = ("slidewright", "numpy", "tifffile", "imagecodecs", "zarr", "opencv-python-headless")


class Ran(NamedTuple):
    """What a program took."""

    seconds: float
    processor: float | None
    """Seconds of processor time, user and system, of all its processes that were waited for; None on Windows."""
    peak: int | None
    """Peak of the summed proportional set sizes of its processes in bytes, if it was sampled."""
    said: str
    """What it printed."""


def run_tree(
    command: Sequence[str],
    environment: dict[str, str] | None = None,
    *,
    sample: bool = False,
    timeout: float | None = None,
) -> Ran:
    """Run a program, and look at its memory if `sample`.

    Raises
    ------
    RunError
        If it fails or takes longer than `timeout` seconds; the message has the end of what it wrote to standard error.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        used, start = _processor_seconds(), perf_counter()
        process = subprocess.Popen(
            command, stdout=out, stderr=err, env={**os.environ, **(environment or {})}, start_new_session=True
        )
        timer = threading.Timer(timeout if timeout is not None else threading.TIMEOUT_MAX, _kill, (process,))
        timer.daemon = True
        timer.start()  # not wait(timeout), which looks only every 50 ms
        try:
            peak = _watch(process) if sample else None
            code = process.wait()
        except BaseException:
            _kill(process)
            process.wait()
            raise
        finally:
            timer.cancel()
        seconds = perf_counter() - start
        out.seek(0)
        err.seek(0)
        if code and timeout is not None and seconds >= timeout:
            raise RunError(f"{_short(command)} took longer than {timeout:.0f} s; raise --timeout")
        if code:
            words = err.read().decode(errors="replace").strip()[-2000:]
            raise RunError(f"{_short(command)} ended with {code}; run it by hand to see why: {words}")
        now = _processor_seconds()
        processor = None if used is None or now is None else now - used
        return Ran(seconds, processor, peak, out.read().decode(errors="replace"))


def _processor_seconds() -> float | None:
    """Of the children that have ended, and theirs."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _short(command: Sequence[str]) -> str:
    return " ".join(word for word in command[:4] if not word.startswith("{"))  # without its JSON


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a program with all its children, which are in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (AttributeError, OSError):
        process.kill()


def _watch(process: subprocess.Popen[bytes]) -> int | None:
    """Sample the tree until the process ends."""
    import psutil

    root = psutil.Process(process.pid)
    peak = 0
    while process.poll() is None:
        total = 0
        try:
            members = [root, *root.children(recursive=True)]
        except psutil.Error:
            break
        for member in members:
            try:
                total += getattr(member.memory_full_info(), "pss", 0)
            except psutil.Error:
                continue  # it ended between the listing and the look
        peak = max(peak, total)
        sleep(_SAMPLE_SECONDS)
    return peak or None


def machine() -> dict[str, Any]:
    """The processor, the system and the versions that a measurement belongs to."""
    from slidewright.system.limits import usable_cpus

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "usable_cpus": usable_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


class Extent(NamedTuple):
    """How much there is to convert, at level 0."""

    megapixels: float
    gigabytes: float
    """Of unencoded pixels: all samples of all frames, 1 GB being 10^9 bytes."""


def warm(source: str) -> Extent:
    """Read the source once, so that no contestant pays for the disk; how much it is."""
    from slidewright.sources.open import open_source

    info = open_source(source).info
    if Path(source).is_file():
        with open(source, "rb") as file:
            while file.read(1 << 24):
                pass
    megapixels = info.size.height * info.size.width / 1e6
    return Extent(megapixels, megapixels * info.all_samples * info.itemsize / 1e3)
