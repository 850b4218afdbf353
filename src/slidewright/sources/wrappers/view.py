"""Sources that show the pixels of another from elsewhere: turned upright, or a region of them.

Apart from the two kinds because both pass on everything else, and because what is corrupt must be filled inside of
them, along the grid that the file has.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from slidewright.sources.base import CorruptPlace, Pixels, Reader, Source, SourceInfo


@dataclass(frozen=True, slots=True)
class ViewSource(Source):
    """Another source, seen otherwise."""

    source: Source

    @property
    @abstractmethod
    def info(self) -> SourceInfo:
        """What is known of the pixels as they are seen."""

    @property
    @abstractmethod
    def how(self) -> dict[str, Any]:
        """How they are seen, as values that JSON holds."""

    @contextmanager
    def shared(self, folder: str | None = None, *, on_disk: bool = False) -> Iterator[Source]:
        """See `Source`."""
        with self.source.shared(folder, on_disk=on_disk) as source:
            yield replace(self, source=source)

    @property
    def filled(self) -> Mapping[CorruptPlace, str]:
        """See `Source`."""
        return self.source.filled

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {**self.source.identity(), **self.how}

    def associated_image(self, name: str) -> Pixels:
        """See `Source`."""
        return self.source.associated_image(name)


class ViewReader(Reader):
    """Reads another reader's pixels; what it fills is told by the places that they have there."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def filled(self) -> dict[CorruptPlace, str]:
        """See `Reader`."""
        return self._reader.filled()

    def close(self) -> None:
        """Close the reader."""
        self._reader.close()
