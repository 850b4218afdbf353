"""Runs of the commands of `world_commands.py`, and what disturbs them: at the n-th change of files by the calling
process, where a seed makes the same again, or after some time, where other processes are meant.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults.campaign import forked, role_of, session_members, wait_until, who_lives
from faults.test_kill import wait_for
from faults.world_commands import Command

import slidewright.__main__
from slidewright.errors import SlidewrightError

_CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_SECONDS = 60  # that a run may take
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_KINDS = {"nothing": 26, "death": 24, "signal": 14, "rename": 6, "away": 5, "kill of one": 10, "kill of all": 9,
          "limit": 6}  # fmt: skip


@dataclass
class Ended:
    """How a run ended."""

    code: int
    text: str


class Disturbance:
    """What happens to a run."""

    def __init__(self, command: Command, chance: random.Random, kind: str | None = None, at: int = 0) -> None:
        kinds = list(_KINDS)
        self.kind = kind or chance.choices(kinds, [_KINDS[name] for name in kinds])[0]
        if self.kind in ("rename", "away") and "away at" in str(command):  # which does so itself
            self.kind = "nothing"
        self.at = at or chance.choice((int(2 ** chance.uniform(0, 6)), chance.randint(1, 40)))
        self._back = self.at + int(2 ** chance.uniform(0, 4))
        self._number = chance.choice(_SIGNALS)
        self._limit = chance.choice((3000, 20_000, 100_000, 300_000))  # more than it says
        self._seconds = chance.choice((chance.uniform(0, 0.2), chance.uniform(0, 1), chance.uniform(0.3, 2.5)))
        self._choice = chance.random()
        top = next(iter(command.outputs), command.out or "").split("/")[0]
        self.place = top if top in ("deliver", "out") else "sh"
        self.happened = ""
        """What came of it, empty for nothing."""

    def __str__(self) -> str:
        ats = {"death": f"at change {self.at}", "signal": f"{self._number.name} at change {self.at}",
               "rename": f"of {self.place} at change {self.at}", "limit": f"of files to {self._limit} bytes",
               "away": f"of {self.place} from change {self.at} to {self._back}"}  # fmt: skip
        return f"{self.kind} {ats.get(self.kind, f'after {self._seconds:.2f} s' if 'kill' in self.kind else '')}"

    def begin(self, told: Path) -> None:
        """In the child, before the command; what happens later is told in a file."""
        if self.kind == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit, self._limit))
        acts: dict[tuple[str, int], Callable[[], object]] = {
            ("death", self.at): lambda: os.kill(os.getpid(), signal.SIGKILL),
            ("signal", self.at): lambda: os.kill(os.getpid(), self._number),
            ("rename", self.at): lambda: os.rename(self.place, "moved"),
            ("away", self.at): lambda: (os.rename(self.place, "moved"), os.mkdir(self.place)),
            ("away", self._back): lambda: come_back(self.place, "moved"),
        }
        here, count, busy = os.getpid(), 0, False

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal count, busy
            changes = event in _CHANGES or (event == "open" and _writes(arguments))
            if busy or not changes or os.getpid() != here:
                return
            count += 1
            if act := acts.get((self.kind, count)):
                busy = True
                told.write_text(f"{event} {arguments[0]}")
                with contextlib.suppress(OSError):
                    act()
                busy = False

        sys.addaudithook(hook)

    def strike(self, pid: int, told: Path) -> None:
        """From outside, and look whether it struck."""
        if self.kind in ("kill of one", "kill of all"):
            wait_until(lambda: not session_members(pid), self._seconds)
            found = sorted(session_members(pid))
            chosen = found if self.kind == "kill of all" else found[int(self._choice * len(found)) :][:1]
            self.happened = ", ".join("the caller" if each == pid else role_of(each) for each in chosen)
            for each in (*chosen, *(session_members(pid) if len(chosen) > 1 else ())):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)

    def end(self, told: Path) -> None:
        """Put names back, and look whether it struck."""
        if told.exists():
            self.happened = told.read_text()
            told.unlink()


def _writes(arguments: tuple[object, ...]) -> bool:
    path, mode, flags = arguments
    if str(path).startswith("/dev/"):
        return False
    return bool(flags & _WRITES) if isinstance(flags, int) else any(letter in str(mode) for letter in "wax+")


def come_back(place: str, moved: str) -> None:
    """Give a folder its name again."""
    if os.path.exists(moved):
        shutil.rmtree(place)
        os.rename(moved, place)


def put_back(root: Path, place: str) -> list[str]:
    """Give what was renamed its name again; what has come there meanwhile, which is removed."""
    if not (root / "moved").exists():
        return []
    found = sorted(os.listdir(root / place)) if (root / place).exists() else []
    shutil.rmtree(root / place, ignore_errors=True)
    os.rename(root / "moved", root / place)
    return found


def start(root: Path, command: Command, log: Path, disturbance: Disturbance | None, told: Path) -> int:
    """A process that does it, in the world's folder."""

    def act() -> None:
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (open(number, "w", closefd=False, buffering=1) for number in (1, 2))  # noqa: SIM115
        os.chdir(root)
        os.environ["TMPDIR"] = tempfile.tempdir = str(root / "tmp")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if disturbance is not None:
            disturbance.begin(told)
        if command.act is not None:
            try:
                command.act()
            except KeyboardInterrupt:  # which the library leaves to its caller
                print("Ctrl-C")
                os._exit(130)
            return
        sys.argv = ["slidewright", *command.words]
        try:
            slidewright.__main__.run()
        except SystemExit as ended:
            os._exit(ended.code if isinstance(ended.code, int) else 0)

    return forked(act, log, SlidewrightError)


def run(root: Path, folder: Path, commands: list[Command], disturbance: Disturbance | None = None) -> list[Ended]:
    """All at once, the first of them disturbed."""
    logs, told = [folder / f"log{number}" for number in range(len(commands))], folder / "told"
    pids = [start(root, command, logs[number], None if number else disturbance, told)
            for number, command in enumerate(commands)]  # fmt: skip
    if disturbance is not None:
        disturbance.strike(pids[0], told)
    codes = [wait_for(pid, _SECONDS) for pid in pids]
    texts = [log.read_text(errors="replace") if log.exists() else "" for log in logs]
    try:
        for pid, code, text in zip(pids, codes, texts, strict=True):
            assert code is not None, f"hangs ({who_lives(pid)}): {text}"
            assert wait_until(lambda pid=pid: not session_members(pid), 10), f"processes stay: {who_lives(pid)}"
    finally:
        for pid in pids:
            for each in session_members(pid):
                os.kill(each, signal.SIGKILL)
    if disturbance is not None:
        disturbance.end(told)
    return [Ended(code, text) for code, text in zip(codes, texts, strict=True) if code is not None]
