"""The helper process that forks workers and cleans up after a killed coordinator; this module runs inside it.

Why a process of its own: the caller may have threads, so it must not fork; starting a fresh interpreter for each
worker would pay the imports each time; and `multiprocessing`'s ways of starting one import the user's main script,
which breaks scripts without a main guard. The forkserver is started once a run with a clean interpreter, imports what
workers need, stays single-threaded and forks on request. Being everybody's parent it is told of each death with its
reason, and a parent-death signal takes the workers along if it dies. It notices the coordinator's death as the end of
its socket, or as having another parent (a program that forks while a run goes on has copies of the socket, which then
does not end): then it kills its children and removes the files it was told to own.

Protocol, newline-delimited JSON over a Unix socket: `{"spawn": module, "name": ..., "expendable": ...}` with
descriptors (the first is the child's pipe) is answered by `{"pid": p}` or `{"refused": why}`; `{"import": [modules]}`,
`{"own": [paths]}`, `{"settle": [stem, path]}` and `{"kill": p}` are not answered; `{"exit": p, "status": s}` is told
whenever a child ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from slidewright.system.early import IGNORED
from slidewright.system.files import remove, remove_known, settle

MAX_FDS = 16
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # a program that a source starts must not hold a worker's pipe
_PARENT_CHECK = 1.0  # seconds between looks at who the parent is, where no signal tells of its death
_EXPENDABLE = 400  # of 1000: the kernel, short of memory, should take a worker, which can be replaced
_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15


def main(fd: int, preload: list[str], parent: int, inherited: list[tuple[int, int]]) -> None:
    """Serve requests on the socket `fd` until its other end closes or the process `parent` is gone. Of `inherited`,
    which are the caller's, nothing is kept open.
    """
    for first, end in inherited:
        os.closerange(first, end)
    os.set_inheritable(fd, False)
    heeded = [number for number in IGNORED if signal.getsignal(number) != signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # they were held back until here, and whatever the caller holds back
    signal.signal(signal.SIGUSR1, lambda *_: None)  # only wakes it up
    _prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    _set_name("slidewright-for")
    _import(preload)
    ForkServer(socket.socket(fileno=fd), parent, heeded).serve()
    os._exit(0)  # what is left goes with the process, at once


def _import(names: list[str]) -> None:
    gc.disable()  # it would look through the same objects again and again: a tenth of the time
    for name in names:
        with contextlib.suppress(Exception):  # who needs it will say why it can't be imported
            importlib.import_module(name)
    gc.freeze()
    gc.enable()


class ForkServer:
    """The state of the helper: its socket, its children, the paths it removes if the coordinator is killed."""

    def __init__(self, connection: socket.socket, parent: int, heeded: Sequence[int] = ()) -> None:
        self._socket = connection
        self._parent = parent
        self._heeded = heeded
        self._pid = os.getpid()
        self._children: set[int] = set()
        self._owned: list[str] = []
        self._unsettled: list[tuple[str, str]] = []
        self._wakeup, writing = os.pipe()
        os.set_blocking(writing, False)
        os.set_blocking(self._wakeup, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._watched = select.poll()  # `select` knows no descriptor beyond 1023, and the caller may have thousands
        self._watched.register(self._socket, select.POLLIN)
        self._watched.register(self._wakeup, select.POLLIN)

    def serve(self) -> None:
        """Fork on request and tell of deaths, until the coordinator is gone."""
        try:
            while self._step():
                pass
        except (OSError, ValueError):
            pass  # a broken socket is the coordinator's death as well
        self._finish()

    def _step(self) -> bool:
        ready = {fd for fd, _ in self._watched.poll(_PARENT_CHECK * 1000)}
        if self._wakeup in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wakeup, 4096)
            self._tell_deaths()
        if self._socket.fileno() not in ready:  # what was asked for before the parent died has been read by now
            return os.getppid() == self._parent
        data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, MAX_FDS, _CLOSE_ON_EXEC)
        if not data:
            return False
        while not data.endswith(b"\n"):
            more = self._socket.recv(1 << 16)
            if not more:
                return False
            data += more
        for line in data.splitlines():
            self._serve_request(json.loads(line), fds)
        return True

    def _serve_request(self, request: dict[str, Any], fds: list[int]) -> None:
        if "spawn" in request:
            try:
                pid = os.fork()
            except OSError as error:  # a limit on processes, or no memory
                answer: dict[str, Any] = {"refused": error.strerror or str(error)}
            else:
                if pid == 0:
                    self._become(request, fds)
                self._children.add(pid)
                answer = {"pid": pid}
            for fd in fds:
                os.close(fd)
            self._tell(answer)
        elif request.get("kill") in self._children:  # not yet reaped, so the number can't be another process's
            os.kill(request["kill"], signal.SIGKILL)
        self._owned += request.get("own", ())
        if "import" in request:
            _import(request["import"])
        if "settle" in request:
            stem, path = request["settle"]
            self._unsettled.append((stem, path))

    def _become(self, request: dict[str, Any], fds: list[int]) -> NoReturn:
        """In the forked child: shed what is the forkserver's and run the `main` of a module until it returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _ignore([*self._heeded, signal.SIGUSR1])
            self._socket.close()
            die_with_parent(self._pid)
            _set_name(request["name"])
            if request["expendable"]:
                _be_expendable()
            _play(request["spawn"], request["memory"], fds)
            code = 0
        except (MemoryError, ImportError, OSError) as error:  # nobody's mistake: the machine's limits
            with contextlib.suppress(AttributeError, OSError):
                # Its end with it: `print` writes that by itself, and others' words may come between.
                sys.stderr.write(f"slidewright: {request['name']}: {' '.join(repr(error).split())}\n")
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(AttributeError, OSError, ValueError):  # closed, or on a full disk
                    stream.flush()
            os._exit(code)

    def _tell_deaths(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self._children.discard(pid)
            self._tell({"exit": pid, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _finish(self) -> None:
        """The coordinator is gone: end the children, then remove what it left."""
        for pid in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        for stem, path in self._unsettled:
            settle(stem, path)
        for path in sorted(self._owned, key=_is_lock):
            stem = path.removesuffix(".lock").removesuffix(".partial")
            with contextlib.suppress(OSError):
                if not _is_lock(path):
                    remove_known(path, f"{stem}.lock")
                elif not any(map(os.path.lexists, (stem, f"{stem}.partial", f"{stem}.old"))):
                    remove(path)  # that of what could not be removed stays, and with it the next run's chance


def _is_lock(path: str) -> bool:
    return path.endswith(".lock")


def _ignore(numbers: Sequence[int]) -> None:
    """Ignore signals in this process, and not in those that it starts, as a source may: what is ignored by the system
    stays so in a child, which could not be ended then.
    """

    def heed() -> None:
        for number in numbers:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    for number in numbers:
        signal.signal(number, lambda *_: None)  # which no program that is started inherits
        signal.siginterrupt(number, False)
    os.register_at_fork(after_in_child=heed)


def _play(module: str, memory_guard: int | None, fds: list[int]) -> None:
    from multiprocessing.connection import Connection

    from slidewright.system.shared_memory import loads

    connection: Connection[Any, Any] = Connection(fds[0])
    try:
        job = loads(connection.recv_bytes(), fds[1:])
        _limit_memory(memory_guard)
        importlib.import_module(module).main(connection, job)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the coordinator is gone, and the forkserver cleans up


def _limit_memory(more: int | None) -> None:
    """Let allocations fail once this process has `more` bytes beyond what it has now, on Linux.

    A file can claim anything: a tile that inflates to gigabytes is then an error of that tile's, not the machine's end.
    """
    if more is None or sys.platform != "linux":
        return
    import resource

    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/self/statm") as file:
        limit = int(file.read().split()[5]) * resource.getpagesize() + more
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Ask Linux for SIGKILL when the parent dies; elsewhere the end of the pipe has to do."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request took effect
        os._exit(1)


def _be_expendable() -> None:
    """Raise what Linux's out-of-memory killer goes by; anyone may raise their own."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < _EXPENDABLE:
            file.seek(0)
            file.write(str(_EXPENDABLE))


def _set_name(name: str) -> None:
    _prctl(_PR_SET_NAME, name.encode()[:15])
