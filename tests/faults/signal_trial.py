"""One run that is sent signals at random moments: what is chosen, who gets them, and what must be true afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from faults.campaign import forked, role_of, session_members, wait_until
from faults.signal_ways import CALM, MISBEHAVING, MOODS, SLEEPER, WORKER_MOODS, Mood, fork_now_and_then
from faults.test_kill import wait_for
from faults.ways import Way, assert_goes_on, assert_whole, clear, digest, exists, left

from slidewright.errors import SlidewrightError

KINDS = ("STOP", "STOP", "CONT", "KILL", "KILL", "TERM", "INT", "HUP", "QUIT")
ENDING = {"KILL", "TERM", "INT", "HUP", "QUIT"}
TARGETS = ("caller", "caller", "writer", "worker", "worker", "fork server", "anybody")
SECONDS = 60  # in which a run ends after the last that was done to it
ENDS = 20  # the same after a signal that ends it; two seconds are documented, of a machine that has time
GONE = 15  # in which all that it started is gone
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: orphans become children of this process, so that none is lost sight of


def group_of(pid: int) -> str:
    """What a process of a run is."""
    name = role_of(pid)
    if name.startswith("slidewright-"):
        return {"slidewright-wri": "writer", "slidewright-for": "fork server"}.get(name, "worker")
    return name


@contextlib.contextmanager
def orphans_are_seen() -> Iterator[None]:
    """Whatever a run started is a descendant of this process until it ends."""
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        library.prctl(_SUBREAPER, 0, 0, 0, 0)


class Trial:
    """A way with options, limits and a plan of signals, all of them from one seed."""

    def __init__(self, way: Way, chance: random.Random, usual: float) -> None:
        self.way, self._chance = way, chance
        self.is_command = way.name.startswith("command ")
        self.workers = chance.choice((0, 1, 2, 2, 2, 3, 3, 4, 6, 9))
        self.more: dict[str, Any] = {}
        if chance.random() < 0.25:
            self.more["memory"] = chance.choice(("200MB", "300MB", "500MB", "1GB"))
        if chance.random() < 0.3:
            self.more["timeout"] = chance.choice((0.5, 2, 5))
        self.mood = self._choose_mood()
        self.callbacks = self.is_command and chance.random() < 0.3
        self.forks = not self.is_command and self.workers > 0 and chance.random() < 0.2
        self.limits: dict[str, int] = {}
        if chance.random() < 0.1:
            self.limits["NOFILE"] = chance.choice((16, 24, 32, 48, 64))
        if chance.random() < 0.1:
            self.limits["FSIZE"] = chance.choice((1 << 12, 1 << 16, 1 << 18, 1 << 20))
        self.replaces = len(way.makes) == 1 and "archive" not in way.name and chance.random() < 0.4
        spared = bool(self.limits or self.mood.what) and chance.random() < 0.5
        self._plan = [] if spared else self._choose_signals(usual)
        self._patient = False  # whether each signal waits until there is somebody for it
        self.sent: list[tuple[str, str]] = []
        self._said: list[str] = []
        self._stopped: set[int] = set()

    def kill_beside_forks(self) -> None:
        """Instead of all else: the caller forks, and one or two of those at work are killed."""
        chance = self._chance
        self.workers, self.more, self.mood, self.limits, self.forks = chance.choice((2, 3)), {}, CALM, {}, True
        targets = [chance.choice(("worker", "worker", "writer")) for _ in range(chance.choice((1, 2)))]
        self._plan = [(chance.uniform(0.1, 0.6), "KILL", target) for target in targets]
        self._patient = True

    def _choose_mood(self) -> Mood:
        chance, way = self._chance, self.way.name
        if way not in MISBEHAVING or chance.random() < 0.5:
            return CALM
        whats = WORKER_MOODS if way in ("function", "dataset") and self.workers else MOODS
        whats = (*whats, "block") if whats is WORKER_MOODS and "timeout" in self.more else whats
        return Mood(chance.choice(whats), chance.choice((0.005, 0.05, 0.3)))

    def _choose_signals(self, usual: float) -> list[tuple[float, str, str]]:
        """At most four of (moment, signal, target), about the beginning, the end or anywhere, also in a burst."""
        chance = self._chance
        count = chance.choice((0, 1, 1, 1, 2, 2, 3, 4))
        first = chance.choice(
            (chance.uniform(0, 0.3), max(0.0, usual - chance.uniform(0, 0.12)), *2 * [chance.uniform(0, usual)])
        )
        moments = [first] * count
        for number in range(1, count):
            moments[number] += chance.uniform(0, chance.choice((0.01, 0.3, usual)))
        return [(moment, chance.choice(KINDS), chance.choice(TARGETS)) for moment in sorted(moments)]

    def __str__(self) -> str:
        forks = ", the caller forks" if self.forks else ", callbacks everywhere" if self.callbacks else ""
        mood = f", its source: {self.mood.what} at {self.mood.part}" if self.mood.what else ""
        old = ", over an old file" if self.replaces else ""
        about = f"{self.workers} workers, {self.more or 'no options'}, limits {self.limits}{mood}{forks}{old}"
        return f"{self.way.name} ({about}): {'; '.join(self._said) or 'undisturbed'}"

    def run(self, folder: Path, clean: dict[str, str]) -> tuple[str, float]:
        """How it ended, and after how long; AssertionError where something is not as it must be."""
        way, log = self.way, folder / "log"
        way.prepare(folder)
        old = self._old(folder)
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        begin = time.monotonic()
        driver = forked(lambda: self._act(folder), log, SlidewrightError)
        try:
            self._send(driver, begin)
            staying = self._go_on(driver, begin)
            last = time.monotonic()
            code = wait_for(driver, SECONDS)
            took, ended = time.monotonic() - begin, time.monotonic() - last
            story = f"{self}, exit code {code} after {took:.1f} s: {log.read_text()[-1500:]}"
            assert code is not None, f"hangs ({told(before)}): {story}"
            ending = self._sent_to("caller") & ENDING
            assert not ending or staying or ended < ENDS, f"ends {ended:.1f} s after its signals: {story}"
            assert wait_until(lambda: not living(before), GONE), f"processes live on ({told(before)}): {story}"
        finally:
            for pid in living(before, SLEEPER):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not living(before, SLEEPER), 10)
        self._judge(folder, clean, old, code, story)
        assert_goes_on(folder, way, clean, story)
        clear(folder)
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        (folder / "tmp").mkdir()
        ended_how = "killed" if code < 0 else "done" if code == 0 else f"exit code {code}"
        return f"{'disturbed' if self._said else 'undisturbed'}, {ended_how}", took

    def _old(self, folder: Path) -> dict[str, str]:
        """Old outputs that a run replaces when it is done, and not before."""
        for name in self.way.makes if self.replaces else ():
            old, out = folder / ("old.ome.zarr" if name.endswith(".zarr") else "old.tif"), folder / "work" / name
            (shutil.copytree if old.is_dir() else shutil.copy)(old, out)
        return {name: digest(folder / "work" / name) for name in self.way.makes if self.replaces}

    def _act(self, folder: Path) -> None:
        """What the new process does."""
        os.dup2(2, 1)
        os.environ["TMPDIR"] = str(folder / "tmp")
        tempfile.tempdir = None
        for name, value in self.limits.items():
            number = getattr(resource, f"RLIMIT_{name}")
            resource.setrlimit(number, (value, resource.getrlimit(number)[1]))
        if self.forks:
            fork_now_and_then()
        more = dict(self.more)
        if self.mood.what:
            more["mood"] = self.mood
        if self.is_command:
            more |= {"callbacks": self.callbacks, **({"scratch": folder / "scratch"} if self.workers % 2 else {})}
        self.way.run(folder, self.workers, **more)

    def _send(self, driver: int, begin: float) -> None:
        wait_until(lambda: session_members(driver) or not psutil.pid_exists(driver), 5)
        for moment, kind, target in self._plan:
            while time.monotonic() - begin < moment and driver in session_members(driver):
                time.sleep(0.003)
            if self._patient:
                look = functools.partial(self._found, driver, target)
                wait_until(lambda look=look: look() or driver not in session_members(driver), ENDS)
            found = self._found(driver, target)
            if driver not in session_members(driver):
                return
            pid = self._chance.choice(found) if found else driver
            name = "caller" if pid == driver else group_of(pid)
            try:
                os.kill(pid, getattr(signal, f"SIG{kind}"))
            except ProcessLookupError:
                continue
            self._said.append(f"{kind} to {pid} {name} at {time.monotonic() - begin:.3f} s")
            self.sent.append((kind, name))
            if kind == "STOP":
                self._stopped.add(pid)
            elif kind == "CONT":
                self._stopped.discard(pid)

    def _found(self, driver: int, target: str) -> list[int]:
        members = [pid for pid in session_members(driver) if pid != driver]
        return [pid for pid in members if target in ("anybody", group_of(pid)) and role_of(pid) != SLEEPER]

    def _go_on(self, driver: int, begin: float) -> bool:
        """Those that are stopped go on; or stay so (then True), where whoever ends the run has to end them."""
        if not self._stopped:
            return False
        groups = {group_of(pid) for pid in self._stopped}
        server_needed = not self.is_command or any(kind == "KILL" for kind, _ in self.sent)
        stays = self._sent_to("caller") & ENDING and driver not in self._stopped
        if stays and not ("fork server" in groups and server_needed) and self._chance.random() < 0.5:
            self._said.append("those that are stopped stay so")
            return True
        time.sleep(self._chance.choice((0.0, 0.05, 0.3, 1.2)))
        for pid in self._stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._said.append(f"CONT to all at {time.monotonic() - begin:.3f} s")
        return False

    def _sent_to(self, name: str) -> set[str]:
        return {kind for kind, group in self.sent if group == name}

    def _judge(self, folder: Path, clean: dict[str, str], old: dict[str, str], code: int, story: str) -> None:
        way = self.way
        assert_whole(folder, way, clean, story, old)
        if code == 0:
            for name in way.makes:
                assert exists(folder, name), f"success without {name}: {story}"
                assert digest(folder / "work" / name) == clean[name], f"success, and {name} is the old one: {story}"
        if not (self.sent or self.mood.what or self.limits or self.more):
            assert code == 0, f"should have succeeded: {story}"
        if not self._sent_to("caller") and self.is_command:
            assert code in (0, 1, 2, 3), story
        ended = self._sent_to("caller") & (ENDING if not self.is_command else {"KILL"})
        alone = self.workers == 0 or "verify" in way.name  # then there is no fork server that cleans up
        alone = alone or "KILL" in self._sent_to("fork server") | self._sent_to("python")  # before it has its name
        if not (ended and alone):
            found = left(folder, (*way.makes, *way.keeps, *way.stays))
            assert found == [], f"{found} left behind: {story}"
        found = [name for name in os.listdir("/dev/shm") if "slidewright" in name]
        assert found == [], f"{found} left in /dev/shm: {story}"


def living(before: set[int], *names: str) -> list[int]:
    """Descendants that were not there before and are no zombies; the latter are buried. Sleepers only if named."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.pid in before:
                continue
            if child.status() != psutil.STATUS_ZOMBIE:
                found += [child.pid] if role_of(child.pid) not in {SLEEPER} - set(names) else []
            elif child.ppid() == os.getpid():
                os.waitpid(child.pid, os.WNOHANG)
    return found


def told(before: set[int]) -> str:
    """Who lives, in what state, waiting for what in the kernel."""
    lines = []
    for pid in living(before):
        with contextlib.suppress(OSError, psutil.Error):
            wait = Path(f"/proc/{pid}/wchan").read_text()
            lines.append(f"{pid} {role_of(pid)} {psutil.Process(pid).status()} {wait}")
    return "; ".join(lines)
