"""What the campaigns share: how many tries, from which seed, small real slides, and what must be true after a run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import secrets
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

import slidewright

OPTIONS = {"tile_size": 64, "compression": "deflate", "effort": 1, "block_tiles": 2}
CLEARLY = 3  # the exit code of a process that ended with the error that was expected


class Campaign:
    """`SLIDEWRIGHT_FAULTS=long` asks for the long form, a number for so many tries; `SLIDEWRIGHT_SEED` for a seed.

    The short form has a fixed seed, since it runs with every change; the long one has a new seed each time.
    """

    def __init__(self, name: str, short: int, long: int) -> None:
        asked = os.environ.get("SLIDEWRIGHT_FAULTS", "")
        self.long = asked == "long" or asked.isdigit()
        self.tries = long if asked == "long" else int(asked) if asked.isdigit() else short
        self.seed = int(os.environ.get("SLIDEWRIGHT_SEED", secrets.randbits(32) if self.long else 1))
        self.random = random.Random(f"{name} {self.seed}")
        self.name = name
        self.counts: dict[str, int] = {}
        self._begin = time.monotonic()
        print(f"\n{name}: {self.tries} tries, SLIDEWRIGHT_SEED={self.seed}", flush=True)

    def count(self, what: str) -> None:
        """One more of these."""
        self.counts[what] = self.counts.get(what, 0) + 1
        done = sum(self.counts.values())
        if self.long and done % 200 == 0:
            print(f"{self.name}: {done} tried, {time.monotonic() - self._begin:.0f} s", flush=True)

    def trials(self, parent: Path) -> Iterator[tuple[int, Path]]:
        """For each try a seed, from which it can be made again, and a folder, which is removed after it."""
        for number in range(self.tries):
            folder = parent / str(number)
            folder.mkdir()
            yield self.random.randrange(1 << 40), folder
            shutil.rmtree(folder)

    def run(
        self, parent: Path, make: Callable[[Path, random.Random], Any], act: Callable[[Any], Iterable[str]]
    ) -> None:
        """For each try what `make` gives, and what `act` says became of it, counted; each failure names the seed from
        which `make` makes the same again.
        """
        for seed, folder in self.trials(parent):
            trial = make(folder, random.Random(seed))
            try:
                for outcome in act(trial):
                    self.count(outcome)
            except Exception as error:
                raise AssertionError(f"seed {seed}: {error}\n{trial}") from error
        self.close()

    def close(self) -> None:
        """Print what was tried."""
        parts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        print(f"{self.name}: {parts}; {time.monotonic() - self._begin:.0f} s, seed {self.seed}", flush=True)


def make_slide(path: Path, height: int = 500, width: int = 700, *, compression: str = "zlib", seed: int = 3) -> Path:
    """A small tiled TIFF of smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    wave = 60 * np.sin(x / 31) + 40 * np.cos(y / 23)
    pixels = np.array([190, 130, 170]) + wave[..., None] + rng.normal(0, 4, (height, width, 3))
    tifffile.imwrite(
        path, pixels.clip(0, 255).astype(np.uint8), tile=(64, 64), compression=compression, photometric="rgb"
    )
    return path


def digest(path: Path) -> str:
    """What a file is, in one word."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@functools.cache
def clean_digest(source: Path, folder: Path) -> str:
    """The digest of an undisturbed conversion."""
    path = folder / "clean.tif"
    slidewright.convert(source, path, n_workers=0, overwrite=True, **OPTIONS)
    found = digest(path)
    path.unlink()
    return found


def session_members(session: int) -> list[int]:
    """Processes of a session that are alive (not zombies)."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(name))
    return found


def role_of(pid: int) -> str:
    """The name that a process of a run gave itself."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def who_lives(session: int) -> str:
    """The processes of a session, each with its name, its state and what it waits for in the kernel."""
    told = []
    for pid in session_members(session):
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            told.append(f"{pid} {role_of(pid)} {state} {Path(f'/proc/{pid}/wchan').read_text()}")
    return "; ".join(told)


def wait_until(true, seconds: float) -> bool:
    """Whether something becomes true within some seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def forked(act, log, expected: type[Exception]) -> int:
    """A process of its own session that does something; forked, so that it needs no imports. It exits with CLEARLY when
    it ends with the error that is expected, and with 1 for any other; both are in the log.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        act()
        code = 0
    except expected as error:
        os.write(2, str(error).encode())
        code = CLEARLY
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)
