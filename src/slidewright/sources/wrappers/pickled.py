"""Objects of the caller's that must reach the workers: pickled by cloudpickle, unpickled where they are first used.

cloudpickle takes along what a worker can't import: lambdas, closures, and what the caller's own script or notebook
defines. The memory of large arrays in the object goes into shared memory, so that workers have it without copies until
they write to it. What can't be pickled, or not be had again in a worker, is one error that says why.
"""

from __future__ import annotations

import importlib.machinery
import io
import mmap
import os
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType, ModuleType
from typing import Any, Protocol

from slidewright.errors import SourceError
from slidewright.sources.base import Blank, Pixels, Reader, Source, SourceInfo, pickled_identity, unknown_identity
from slidewright.sources.on_disk import file_identity
from slidewright.system.shared_memory import SharedBuffer

_SHARED_BYTES = 1 << 20  # what is smaller travels with the rest
_REGISTERING = threading.Lock()
_registered: list[ModuleType] = []  # by threads of this process, once by each; not by the caller


@dataclass(frozen=True, slots=True)
class _Packed:
    """A pickled object; the memory of its large arrays lies in `shared`, at (offset, length) each."""

    data: bytes
    shared: SharedBuffer | None = None
    spans: tuple[tuple[int, int], ...] = ()


class Portable:
    """An object that travels between processes; `name` is what messages call it."""

    def __init__(self, obj: Any, name: str, packed: _Packed | None = None) -> None:
        """Take the object itself, or leave it out and give it packed."""
        self._object, self._name, self._packed = obj, name, packed
        self._here = packed is None

    def pack(self, folder: str | None = None) -> Portable:
        """The same object, pickled, with its large arrays in shared memory, or in an unlinked file in `folder`.

        Raises
        ------
        SourceError
            When it can't be pickled.
        """
        buffers: list[memoryview] = []
        data = _dumps(self._object, self._name, buffers)
        return Portable(None, self._name, _share(data, buffers, folder))

    def get(self) -> Any:
        """The object, unpickled in this process when first asked for."""
        if not self._here:
            assert self._packed is not None
            self._object, self._here = _loads(self._packed, self._name), True
        return self._object

    @contextmanager
    def packed(self, folder: str | None = None) -> Iterator[Portable]:
        """What `pack` gives, until the context ends, when its shared memory is given back."""
        portable = self.pack(folder)
        try:
            yield portable
        finally:
            portable.close()

    def close(self) -> None:
        """Give back the shared memory that `pack` took."""
        if self._packed is not None and self._packed.shared is not None:
            self._packed.shared.close()

    def __reduce__(self) -> Any:
        packed = self._packed or _Packed(_dumps(self._object, self._name, None))
        return Portable, (None, self._name, packed)


def _dumps(obj: Any, name: str, buffers: list[memoryview] | None) -> bytes:
    """The pickled object; the memory of large arrays is left out and listed in `buffers`, where that is a list."""
    import cloudpickle

    from slidewright.sources.dlup_grid import REDUCERS

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        def reducer_override(self, obj: Any) -> Any:
            for reducer in REDUCERS:
                reduced = reducer(obj)
                if reduced is not None:
                    return reduced
            return super().reducer_override(obj)

    def keep(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if buffers is None or len(raw) < _SHARED_BYTES:
            return True
        buffers.append(raw)
        return False

    stream = io.BytesIO()
    try:
        with _by_value(obj):
            Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=keep).dump(obj)
    except Exception as error:  # whatever an object's own __reduce__ raises
        raise SourceError(
            f"{name} can't be sent to worker processes ({type(error).__name__}: {error}); open files and handles where "
            "they are first used and not in __init__, or leave them out in __getstate__, or convert with n_workers=0"
        ) from error
    return stream.getvalue()


def _share(data: bytes, buffers: list[memoryview], folder: str | None) -> _Packed:
    """Copy the memory of large arrays to where workers can map it."""
    if not buffers:
        return _Packed(data)
    spans, end = [], 0
    for buffer in buffers:
        spans.append((end, len(buffer)))
        end += -(-len(buffer) // 64) * 64  # arrays begin at multiples of their items' size
    shared = SharedBuffer.allocate(end, folder)
    try:
        view = shared.view()
        for (offset, length), buffer in zip(spans, buffers, strict=True):
            view[offset : offset + length] = buffer
        del view
    except BaseException:
        shared.close()
        raise
    return _Packed(data, shared, tuple(spans))


def _loads(packed: _Packed, name: str) -> Any:
    try:
        return pickle.loads(packed.data, buffers=_private(packed))
    except Exception as error:
        raise SourceError(
            f"{name} can't be made again in a worker process ({type(error).__name__}: {error}); what it is made of "
            "must be importable there, and its files must be there"
        ) from error


def _private(packed: _Packed) -> list[memoryview]:
    """The shared memory as this process may write to it without anybody else seeing that."""
    if packed.shared is None:
        return []
    if packed.shared.fd is None or not hasattr(mmap, "MAP_PRIVATE"):
        memory = memoryview(bytearray(packed.shared.view()))
    else:
        memory = memoryview(mmap.mmap(packed.shared.fd, packed.shared.nbytes, flags=mmap.MAP_PRIVATE))
    return [memory[offset : offset + length] for offset, length in packed.spans]


@contextmanager
def _by_value(obj: Any) -> Iterator[None]:
    """While this lasts, cloudpickle takes along the modules of an object that another process could not import: those
    loaded from a file by hand, as test runners and plugins do.
    """
    import cloudpickle

    modules = {name: module for name in _module_names(obj) if (module := sys.modules.get(name)) is not None}
    strange = [module for name, module in modules.items() if name != "__main__" and not importable(name)]
    ours = []
    with _REGISTERING:
        for module in strange:
            if module in _registered or module.__name__ not in cloudpickle.list_registry_pickle_by_value():
                cloudpickle.register_pickle_by_value(module)
                _registered.append(module)
                ours.append(module)
    try:
        yield
    finally:
        with _REGISTERING:
            for module in ours:
                _registered.remove(module)
                if module not in _registered:
                    cloudpickle.unregister_pickle_by_value(module)


def _module_names(obj: Any) -> set[str]:
    """The modules that define an object, its class and base classes, and what it has as attributes."""
    parts = [obj, *getattr(obj, "__dict__", {}).values()]
    if isinstance(obj, partial):
        parts.append(obj.func)
    elif isinstance(obj, MethodType):
        parts += [obj.__func__, obj.__self__]
    owners = [owner for part in parts for owner in (part, *type(part).__mro__)]
    return {name for owner in owners if isinstance(name := getattr(owner, "__module__", None), str)}


def importable(name: str) -> bool:
    """Whether a fresh interpreter with this one's `sys.path` would find a module."""
    if name in sys.builtin_module_names:
        return True
    top = name.partition(".")[0]
    spec = getattr(sys.modules.get(top), "__spec__", None)
    if top == name:
        return importlib.machinery.PathFinder.find_spec(name) is not None or _is_frozen(spec)
    parent = sys.modules.get(name.rpartition(".")[0])
    places = getattr(parent, "__path__", None)
    if places is None or not importable(name.rpartition(".")[0]):
        return False
    return importlib.machinery.PathFinder.find_spec(name, places) is not None


def _is_frozen(spec: Any) -> bool:
    return spec is not None and spec.origin == "frozen"


class HasInfoAndOpen(Protocol):
    """What an object of the caller's must have to be a source, if its class is no `Source`."""

    @property
    def info(self) -> SourceInfo:
        """See `Source`."""

    def open(self) -> Any:
        """An object with `read(y, x, height, width, out)` and `close()`, see `Reader`; `plane` is passed only of
        multichannel images.
        """


@dataclass(frozen=True, slots=True)
class OwnSource(Source):
    """A source of the caller's own: an object whose class is no `Source`, or one that workers can't import."""

    portable: Portable
    info: SourceInfo
    importable: bool
    """Whether workers can import its class, so that its pickle is the same in every process."""

    def open(self) -> Reader:
        """Open it in this process."""
        opened = self.portable.get().open()
        return opened if isinstance(opened, Reader) else _OwnReader(opened)

    @contextmanager
    def shared(self, folder: str | None = None, *, on_disk: bool = False) -> Iterator[Source]:
        """The same, pickled, so that it fails here if it must, see `Source`."""
        with self.portable.packed(folder) as portable:
            yield replace(self, portable=portable)

    @property
    def beside(self) -> tuple[str, ...]:
        """See `Source`."""
        given = self.portable.get()
        return given.beside if isinstance(given, Source) else ()

    @property
    def read_from(self) -> tuple[str, ...]:
        """See `Source`."""
        given = self.portable.get()
        return given.read_from if isinstance(given, Source) else ()

    def identity(self) -> dict[str, Any]:
        """Its own, where its class is a `Source`; else a hash of its pickle, and the file that its `path` names."""
        given = self.portable.get()
        if isinstance(given, Source) and self.importable:
            return given.identity()
        path = getattr(given, "path", None)  # the caller's own object, which may have one
        on_disk = isinstance(path, str) and os.path.exists(path)
        if not self.importable and not on_disk:
            raise unknown_identity(self.info.name)
        try:
            seen = pickled_identity(given) if self.importable else pickled_identity(self)
        except Exception as error:
            raise unknown_identity(self.info.name) from error
        return {**seen, **file_identity(path)} if isinstance(path, str) and on_disk else seen

    def associated_image(self, name: str) -> Pixels:
        """See `Source`."""
        given = self.portable.get()
        return given.associated_image(name) if isinstance(given, Source) else super().associated_image(name)


class _OwnReader(Reader):
    """A reader of the caller's, whose class is no `Reader`."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        self.read = reader.read  # type: ignore[method-assign]  # no call more than need be on the way to a tile

    def read(self, y: int, x: int, height: int, width: int, out: Pixels, plane: int = 0) -> Pixels | Blank:
        """See `Reader`."""
        raise NotImplementedError

    def close(self) -> None:
        """See `Reader`."""
        self._reader.close()


def own_source(given: Source | HasInfoAndOpen) -> Source:
    """The source itself, or one around it where its class is no `Source` or can't be imported by another process."""
    known = importable(type(given).__module__)
    if isinstance(given, Source):
        return given if known else OwnSource(Portable(given, given.info.name), given.info, known)
    info = replace(given.info, stored=None)  # its readers are asked for nothing but pixels
    return OwnSource(Portable(given, info.name), info, known)
