"""Campaign 4: damaged and hostile inputs, each of which ends in time in success or in one clear error.

Most are converted inside one process that is watched from outside. One that crashes that process, or asks it for too
much memory, is converted again with workers, which is how a user would: then it must be a clear error as well.
"""

from __future__ import annotations

import json
import resource
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faults.campaign import Campaign
from faults.mutate import make_seeds, mutate

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")
TESTS = Path(__file__).parents[1]
SECONDS = 100  # a damaged size may be a large image as well, and the machine busy
BUDGET = 400_000_000


def limit_memory() -> None:
    """What the fork server does to workers, for the process that stands in for one."""
    resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, resource.getrlimit(resource.RLIMIT_DATA)[1]))


class Server:
    """The process that converts."""

    def __init__(self, *, limited: bool) -> None:
        code = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from faults.input_server import main; main()"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            preexec_fn=limit_memory if limited else None,
        )

    def convert(self, path: Path, destination: Path, workers: int) -> dict:
        """How it went; "died" or "hangs" if there is no answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\t{destination}\t{workers}\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], SECONDS)[0]:
            return {"how": "hangs", "text": "", "memory": 0}
        line = self._process.stdout.readline()
        return json.loads(line) if line else {"how": "died", "text": str(self._process.wait()), "memory": 0}

    def close(self) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        self._process.wait()


def try_one(server: Server, path: Path, folder: Path, workers: int = 0) -> tuple[Server, dict]:
    """Convert; a server that is of no more use is replaced."""
    answer = server.convert(path, folder / "work" / "out.tif", workers)
    if answer["how"] in ("died", "hangs"):
        server.close()
        server = Server(limited=not workers)
    return server, answer


def complaint(answer: dict, folder: Path) -> str:
    """What is wrong with how a conversion ended; nothing when all is well."""
    if answer["how"].startswith("!") or answer["how"] in ("died", "hangs"):
        return f"{answer['how']}: {answer['text']}"
    if answer["memory"] > BUDGET:
        return f"{answer['memory'] / 1e6:.0f} MB of memory"
    if answer["how"] != "converted" and len(answer["text"].splitlines()) != 1:
        return f"an error of several lines: {answer['text']}"
    left = [p.name for p in (folder / "work").iterdir() if p.name != "out.tif"]
    return f"{left} left behind" if left else ""


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_damaged_inputs(tmp_path, monkeypatch):
    campaign = Campaign("bad input", short=300, long=10_000)
    for name in ("seeds", "work", "damaged", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    seeds = make_seeds(tmp_path / "seeds")
    alone, real = Server(limited=True), Server(limited=False)
    failures: list[str] = []
    try:
        for seed in seeds:
            alone, answer = try_one(alone, seed, tmp_path)
            assert answer["how"] == "converted", (seed, answer)
        for number in range(campaign.tries):
            path, story = mutate(campaign.random.choice(seeds), tmp_path / "damaged", campaign.random)
            alone, answer = try_one(alone, path, tmp_path)
            if answer["how"] in ("died", "! MemoryError", "! error"):
                campaign.count("given to workers as well")
                real, answer = try_one(real, path, tmp_path, workers=2)
            wrong = complaint(answer, tmp_path)
            campaign.count("converted" if answer["how"] == "converted" else f"refused with {answer['how']}")
            if wrong:
                failures.append(f"number {number}, {story}: {wrong}")
                keep = tmp_path / f"failure-{number}{path.suffix}"
                path.rename(keep)
                print(failures[-1], f"kept as {keep}", flush=True)
    finally:
        campaign.close()
        alone.close()
        real.close()
    time.sleep(0.1)
    assert failures == []
    assert list((tmp_path / "temporary").iterdir()) == []
