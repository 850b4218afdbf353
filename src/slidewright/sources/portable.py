"""Objects of the caller's that must reach the workers: pickled by cloudpickle, unpickled where they are first used.

cloudpickle takes along what a worker can't import: lambdas, closures, and what the caller's own script or notebook
defines. What can't be pickled, or not be had again in a worker, is one error that says why.
"""

from __future__ import annotations

import importlib.machinery
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pickle import HIGHEST_PROTOCOL
from types import MethodType
from typing import Any

from slidewright.errors import SourceError


class Portable:
    """An object that travels between processes; `name` is what messages call it."""

    def __init__(self, obj: Any, name: str) -> None:
        self._object, self._here, self._name = obj, True, name
        self._data: bytes | None = None

    def pack(self) -> bytes:
        """The object, pickled; once. SourceError when that is not possible."""
        if self._data is None:
            self._data = _dumps(self._object, self._name)
        return self._data

    def get(self) -> Any:
        """The object, unpickled in this process when first asked for."""
        if not self._here:
            assert self._data is not None
            self._object, self._here = _loads(self._data, self._name), True
        return self._object

    def __reduce__(self) -> Any:
        return _unopened, (self.pack(), self._name)


def _unopened(data: bytes, name: str) -> Portable:
    portable = Portable(None, name)
    portable._data, portable._here = data, False
    return portable


def _dumps(obj: Any, name: str) -> bytes:
    import cloudpickle

    from slidewright.sources.dlup import REDUCERS

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
        def reducer_override(self, obj: Any) -> Any:
            for reducer in REDUCERS:
                reduced = reducer(obj)
                if reduced is not None:
                    return reduced
            return super().reducer_override(obj)

    stream = io.BytesIO()
    try:
        with _by_value(obj):
            Pickler(stream, protocol=HIGHEST_PROTOCOL).dump(obj)
    except Exception as error:  # whatever an object's own __reduce__ raises
        raise SourceError(
            f"{name} can't be sent to worker processes ({type(error).__name__}: {error}); open files and handles where "
            "they are first used and not in __init__, or leave them out in __getstate__, or convert with n_workers=0"
        ) from error
    return stream.getvalue()


def _loads(data: bytes, name: str) -> Any:
    import pickle

    try:
        return pickle.loads(data)
    except Exception as error:
        raise SourceError(
            f"{name} can't be made again in a worker process ({type(error).__name__}: {error}); what it is made of "
            "must be importable there, and its files must be there"
        ) from error


@contextmanager
def _by_value(obj: Any) -> Iterator[None]:
    """While this lasts, cloudpickle takes along the modules of an object that another process could not import: those
    loaded from a file by hand, as test runners and plugins do.
    """
    import cloudpickle

    modules = {name: module for name in _module_names(obj) if (module := sys.modules.get(name)) is not None}
    strange = [module for name, module in modules.items() if name != "__main__" and not _importable(name)]
    for module in strange:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in strange:
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


def _importable(name: str) -> bool:
    """Whether a fresh interpreter with this one's `sys.path` would find a module."""
    if name in sys.builtin_module_names:
        return True
    top = name.partition(".")[0]
    spec = getattr(sys.modules.get(top), "__spec__", None)
    if top == name:
        return importlib.machinery.PathFinder.find_spec(name) is not None or _is_frozen(spec)
    parent = sys.modules.get(name.rpartition(".")[0])
    places = getattr(parent, "__path__", None)
    if places is None or not _importable(name.rpartition(".")[0]):
        return False
    return importlib.machinery.PathFinder.find_spec(name, places) is not None


def _is_frozen(spec: Any) -> bool:
    return spec is not None and spec.origin == "frozen"
