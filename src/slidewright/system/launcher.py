"""How the coordinator gets its workers and its writer: forked by a fork server, or as threads where that can't be.

Both kinds of launcher give `Child` handles with a duplex pipe; a child that is gone shows as the end of its pipe.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Protocol

from slidewright.errors import RunError
from slidewright.system import early
from slidewright.system.files import hold_standard_streams
from slidewright.system.forks import refuse_fork
from slidewright.system.pipe import PipeEnd, make_pipe
from slidewright.system.shared_memory import dumps

_THREAD_PATIENCE = 5.0  # seconds for all threads: a fork of the caller may have their pipes, which then do not end
_SIGNALS = {
    getattr(signal, name): f", as {what}"
    for name, what in {
        "SIGKILL": "the out-of-memory killer does",
        "SIGXCPU": "a limit on processor time does (ulimit -t)",
    }.items()
    if hasattr(signal, name)
}
_LOOK_SECONDS = 0.5
_PATIENCE = 1.0  # seconds for the fork server to kill and clean; a run must end within 2 s of Ctrl-C


@dataclass(eq=False)
class Child:
    """A running worker or writer."""

    name: str
    connection: PipeEnd
    pid: int | None = None
    """None for a thread."""

    def tell(self, message: object) -> None:
        """Send a message, unless the child is dead, which the end of its pipe will tell.

        Raises
        ------
        RunError
            When the system can't, such as for want of memory: the child lives, and would wait for it without end.
        """
        try:
            self.connection.send(message)
        except ConnectionError:
            pass
        except OSError as error:
            raise RunError(f"can't send anything to {self.name} ({error.strerror or error}); run again") from error


class Launcher(Protocol):
    """Starts children and ends them."""

    @property
    def waitable(self) -> list[Any]:
        """What `multiprocessing.connection.wait` should watch besides the children's pipes."""

    @property
    def helpers(self) -> list[int]:
        """The process ids of what it runs besides the children."""

    @property
    def usable(self) -> bool:
        """Whether it can still start children: it has not been closed, and its helpers live."""

    def spawn(
        self, module: str, name: str, job: object, *, expendable: bool = False, memory_guard: int | None = None
    ) -> Child:
        """Start a child that runs the `main(pipe, job)` of a module; an `expendable` one is what the kernel should take
        first when memory is short, and its own allocations fail beyond `memory_guard` bytes more than it begins with.
        """

    def attend(self) -> None:
        """Handle what `waitable` showed; raises RunError if children can't be started any more."""

    @property
    def ended(self) -> Collection[int]:
        """Process ids that are known to be gone, whatever their pipes show: what one forked may hold its pipe open."""

    def reason(self, child: Child) -> str:
        """Why a child that is gone is so, in words."""

    def kill(self, child: Child) -> None:
        """Kill a child that hangs; its pipe ends soon after. Raises RunError where that can't be done."""

    def own(self, *paths: str) -> None:
        """Have these paths removed if this process is killed."""

    def settle(self, stem: str, path: str) -> None:
        """Have what is not this run's own put back if this process is killed, see `files.settle`."""

    def close(self) -> None:
        """End all children at once, and wait for them; may be called twice."""


class ProcessLauncher:
    """Children forked by a fork server process, which is started here and now, if not ahead, and imports in the
    background.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        hold_standard_streams()
        self._pid = os.getpid()
        try:
            self._start(preload)
        except OSError as error:
            raise _can_not_start(error.strerror or str(error)) from error
        self._pending = b""
        self._exits: dict[int, int] = {}
        self._children: list[Child] = []

    def _start(self, preload: Sequence[str]) -> None:
        ahead = early.take()
        self._socket, self._forkserver = ahead or early.start(preload)
        more = [name for name in preload if name not in early.PRELOAD]
        if ahead and more:
            self._request({"import": more})

    @property
    def helpers(self) -> list[int]:
        return [self._forkserver.pid]

    @property
    def waitable(self) -> list[Any]:
        return [self._socket]

    @property
    def usable(self) -> bool:
        return self._socket.fileno() >= 0 and self._forkserver.poll() is None

    def spawn(
        self, module: str, name: str, job: object, *, expendable: bool = False, memory_guard: int | None = None
    ) -> Child:
        refuse_fork(self._pid)
        data, buffers = dumps(job)
        try:
            ours, theirs = make_pipe()
        except OSError as error:
            raise _can_not_start(error.strerror or str(error)) from error
        try:
            with theirs:
                fds = [theirs.fileno(), *(buffer.fd for buffer in buffers if buffer.fd is not None)]
                asked = {"spawn": module, "name": name, "expendable": expendable, "memory": memory_guard}
                request = json.dumps(asked).encode() + b"\n"
                socket.send_fds(self._socket, [request], fds)
                child = Child(name, ours, self._answer())
        except OSError as error:
            ours.close()
            raise self._forkserver_died() from error
        except RunError:
            ours.close()
            raise
        self._children.append(child)
        try:
            ours.send_bytes(data)
        except ConnectionError:
            pass  # it is dead already, which the pipe's end will tell
        except OSError as error:
            raise _can_not_start(error.strerror or str(error)) from error
        return child

    def attend(self) -> None:
        while wait([self._socket], 0):  # what showed may have been read meanwhile; `select` knows no descriptor > 1023
            for message in self._messages():
                self._note(message)

    @property
    def ended(self) -> Collection[int]:
        return self._exits.keys()

    def reason(self, child: Child) -> str:
        deadline = time.monotonic() + 1.0
        while child.pid not in self._exits and time.monotonic() < deadline:
            if wait([self._socket], 0.1):
                self.attend()
        code = self._exits.get(child.pid or 0)
        if code is None:
            return "its pipe closed"
        if code >= 0:
            return f"it ended with exit code {code}"
        return f"it was killed by {signal.Signals(-code).name}{_SIGNALS.get(-code, '')}"

    def kill(self, child: Child) -> None:
        self._request({"kill": child.pid})

    def own(self, *paths: str) -> None:
        self._request({"own": paths})

    def settle(self, stem: str, path: str) -> None:
        self._request({"settle": [stem, os.path.abspath(path)]})

    def close(self) -> None:
        if os.getpid() != self._pid:  # in a fork of the caller, whose children they are
            self._socket.close()
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # its end is seen even if a fork of this process has a copy
        self._socket.close()
        try:
            self._forkserver.wait(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            self._forkserver.kill()  # its children die with it
            self._forkserver.wait()
        if self._forkserver.returncode:
            self._await_orphans(time.monotonic() + _PATIENCE)
        for child in self._children:
            child.connection.close()

    def _await_orphans(self, deadline: float) -> None:
        """Wait for the children of a killed forkserver, which the kernel is killing: they may be writing files that are
        to be removed next.
        """
        for child in self._children:
            with contextlib.suppress(EOFError, OSError):
                while child.connection.poll(max(0.0, deadline - time.monotonic())):
                    child.connection.recv_bytes()

    def _request(self, request: dict[str, Any]) -> None:
        refuse_fork(self._pid)
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._forkserver_died() from error

    def _answer(self) -> int:
        pid, refused = None, None
        while pid is None and refused is None:
            for message in self._messages():  # also those behind the answer: a death is told once
                if "pid" in message:
                    pid = int(message["pid"])
                    self._exits.pop(pid, None)  # of one before it, which had the same number
                elif "refused" in message:
                    refused = message["refused"]
                else:
                    self._note(message)
        if pid is None:
            raise _can_not_start(str(refused))
        return pid

    def _note(self, message: dict[str, Any]) -> None:
        self._exits[int(message["exit"])] = int(message["status"])

    def _messages(self) -> list[dict[str, Any]]:
        while not wait([self._socket], _LOOK_SECONDS):  # its end is not seen where a child of the caller's has it too
            if self._forkserver.poll() is not None:
                raise self._forkserver_died()
        try:
            data = self._socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        if not data:
            raise self._forkserver_died()
        *lines, self._pending = (self._pending + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _forkserver_died(self) -> RunError:
        code = self._forkserver.poll()
        return RunError(f"the helper process that starts workers is gone (exit code {code}); run again")


def _can_not_start(why: str) -> RunError:
    """The error about a limit on processes or open files."""
    return RunError(f"can't start another process ({why}); use fewer workers, or raise the limits (ulimit -u, -n)")


class ThreadLauncher:
    """Children as threads of this process, for systems that can't fork; codecs and OpenCV release the interpreter's
    lock.
    """

    def __init__(self) -> None:
        self._children: list[tuple[Child, threading.Thread]] = []
        self._ends: list[PipeEnd] = []

    @property
    def waitable(self) -> list[Any]:
        return []

    @property
    def usable(self) -> bool:
        return True

    @property
    def helpers(self) -> list[int]:
        return []

    def spawn(
        self, module: str, name: str, job: object, *, expendable: bool = False, memory_guard: int | None = None
    ) -> Child:
        ours, theirs = make_pipe()
        main = importlib.import_module(module).main

        def play() -> None:
            with theirs, contextlib.suppress(EOFError, OSError):
                main(theirs, job)

        thread = threading.Thread(target=play, name=name, daemon=True)
        child = Child(name, ours)
        self._children.append((child, thread))
        self._ends.append(theirs)
        thread.start()
        return child

    def attend(self) -> None:
        return

    @property
    def ended(self) -> Collection[int]:
        return ()  # their pipes tell

    def reason(self, child: Child) -> str:
        return "its thread ended"

    def kill(self, child: Child) -> None:
        raise RunError(f"{child.name} hangs, and a thread can't be killed; end this program and run again")

    def own(self, *paths: str) -> None:
        return

    def settle(self, stem: str, path: str) -> None:
        return

    def close(self) -> None:
        for child, _ in self._children:
            child.connection.close()
        deadline = time.monotonic() + _THREAD_PATIENCE
        for _, thread in self._children:
            thread.join(timeout=max(0.0, deadline - time.monotonic()))


def make_launcher(preload: Sequence[str] = ()) -> Launcher:
    """The best kind of launcher that this system can do; its children find the modules of `preload` imported."""
    if early.can_start():
        return ProcessLauncher(preload)
    return ThreadLauncher()
