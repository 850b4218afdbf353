"""Errors of the system's file calls, made to order: the k-th write, read, sync or rename below a folder fails.

Works by replacing the calls in this process, and, through a `sitecustomize` module, in the processes of a run.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
from pathlib import Path
from typing import Any

CALLS = {
    "write": ("write", "pwrite"),
    "read": ("readinto", "pread", "preadv"),
    "sync": ("fsync", "fdatasync"),
    "rename": ("replace", "link", "rename"),
    "make": ("mkdir", "open"),
    "close": (),
}
SHORT = "short"


class Injector:
    """Counts calls of one kind and spoils the k-th: with an error's name, or with `SHORT` by doing half of it."""

    def __init__(self, root: str | Path, kind: str, k: int, error: str) -> None:
        self._root, self._kind, self._k, self._error = str(root), kind, k, error
        self.calls = 0
        self._saved: list[tuple[Any, str, Any]] = []

    def hit(self, kind: str, path: object = None) -> bool:
        """Count a call; raises if it is the one to fail, and answers whether to do half of it."""
        inside = path is None or isinstance(path, int) or os.fspath(path).startswith(self._root)  # type: ignore[call-overload]
        if kind != self._kind or not inside:
            return False
        self.calls += 1
        if self.calls != self._k:
            return False
        if self._error == SHORT:
            return True
        number = getattr(errno, self._error)
        raise OSError(number, os.strerror(number))

    def install(self) -> Injector:
        """Replace the calls."""
        for home in (builtins, io):
            self._replace(home, "open", self._open)
        for kind, names in CALLS.items():
            for name in names:
                if hasattr(os, name) and name not in ("write", "open"):
                    self._replace(os, name, self._wrapped(kind, getattr(os, name)))
        return self

    def remove(self) -> None:
        """Put the calls back."""
        for home, name, real in self._saved:
            setattr(home, name, real)
        self._saved.clear()

    def __enter__(self) -> Injector:
        return self.install()

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _replace(self, home: Any, name: str, call: Any) -> None:
        self._saved.append((home, name, getattr(home, name)))
        setattr(home, name, call)

    def _wrapped(self, kind: str, real: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if self.hit(kind, arguments[0]):
                arguments = self._halved(real.__name__, arguments)
            return real(*arguments, **options)

        return call

    @staticmethod
    def _halved(name: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments of a call for half as many bytes."""
        first, second, *more = arguments if len(arguments) > 1 else (*arguments, None)
        if name == "pwrite":
            second = second[: max(1, len(second) // 2)]
        elif name == "pread":
            second = max(1, second // 2)
        elif name == "preadv":
            second = [second[0][: max(1, len(second[0]) // 2)]]
        else:
            return arguments
        return (first, second, *more)

    def _open(self, file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        real = next(call for _, name, call in self._saved if name == "open")
        if isinstance(file, int) or not os.fspath(file).startswith(self._root) or "b" not in mode:
            return real(file, mode, buffering, *arguments, **options)
        self.hit("make", file)
        opening = {name: options[name] for name in ("closefd", "opener") if name in options}
        raw = _File(self, file, mode.replace("b", ""), **opening)
        if buffering == 0:
            return raw
        size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        if "+" in mode:
            return io.BufferedRandom(raw, size)
        return io.BufferedReader(raw, size) if "r" in mode else io.BufferedWriter(raw, size)


class _File(io.RawIOBase):
    """A file whose reads and writes go through an injector."""

    def __init__(self, injector: Injector, *arguments: Any, **options: Any) -> None:
        self._injector = injector
        self._file = io.FileIO(*arguments, **options)
        self._writes = self._file.writable()
        self.name = self._file.name

    def write(self, data: Any) -> int:
        half = self._injector.hit("write")
        return self._file.write(memoryview(data)[: max(1, len(data) // 2)] if half else data)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        half = self._injector.hit("read")
        return self._file.readinto(view[: max(1, len(view) // 2)] if half else view)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._file.close()
            if self._writes:  # NFS tells then that what was written before has failed
                self._injector.hit("close")

    def fileno(self) -> int:
        return self._file.fileno()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        return self._file.truncate(size)

    def readable(self) -> bool:
        return self._file.readable()

    def writable(self) -> bool:
        return self._file.writable()

    def seekable(self) -> bool:
        return self._file.seekable()

    @property
    def mode(self) -> str:
        return self._file.mode


def install_from_environment() -> None:
    """What the `sitecustomize` of a run's processes does."""
    if "FAULT" in os.environ:
        root, kind, k, error = os.environ["FAULT"].split("|")
        Injector(root, kind, int(k), error).install()
