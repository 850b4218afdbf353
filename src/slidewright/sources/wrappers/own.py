"""A source of the caller's own that workers can't import, because its class is of the script or notebook that runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from slidewright.sources.base import Reader, Source, SourceInfo
from slidewright.sources.wrappers.pickled import Portable, importable


@dataclass(frozen=True, slots=True)
class OwnSource:
    """A source that travels by cloudpickle."""

    portable: Portable
    info: SourceInfo

    def open(self) -> Reader:
        """Open it in this process."""
        opened: Reader = self.portable.get().open()
        return opened

    def prepare(self, folder: str | None = None) -> OwnSource:
        """The same, pickled, so that it fails here if it must; to be closed by the caller."""
        return replace(self, portable=self.portable.pack(folder))

    def close(self) -> None:
        """Give back the shared memory of a prepared source."""
        self.portable.close()


def travelling(source: Source) -> Any:
    """The source, or one around it where its class can't be imported by another process."""
    if importable(type(source).__module__) or hasattr(source, "prepare"):
        return source
    return OwnSource(Portable(source, source.info.name), source.info)
