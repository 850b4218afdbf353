"""What every wrapper is: a source and a reader around others, which pass on all that they don't change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from slidewright.geometry import Region
from slidewright.sources.base import CorruptPlace, Pixels, Reader, Source, SourceInfo


@dataclass(frozen=True, slots=True)
class WrappedSource(Source):
    """Another source, and what is done to it."""

    source: Source

    @property
    def info(self) -> SourceInfo:
        """What is known of the other source."""
        return self.source.info

    @contextmanager
    def shared(self, folder: str | None = None, *, on_disk: bool = False) -> Iterator[Source]:
        """See `Source`."""
        with self.source.shared(folder, on_disk=on_disk) as source:
            yield replace(self, source=source)

    @property
    def beside(self) -> tuple[str, ...]:
        """See `Source`."""
        return self.source.beside

    @property
    def read_from(self) -> tuple[str, ...]:
        """See `Source`."""
        return self.source.read_from

    @property
    def filled(self) -> Mapping[CorruptPlace, str]:
        """See `Source`."""
        return self.source.filled

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return self.source.identity()

    def associated_image(self, name: str) -> Pixels:
        """See `Source`."""
        return self.source.associated_image(name)


class WrappedReader(Reader):
    """A reader around another, whose encoded tiles it hands out.

    Nobody asks for those where pixels are changed or moved, because then the source says nothing of `stored`.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def ahead(self, region: Region, channels: range) -> None:
        """See `Reader`."""
        self._reader.ahead(region, channels)

    def segment(self, row: int, column: int, plane: int = 0) -> bytes | None:
        """See `Reader`."""
        return self._reader.segment(row, column, plane)

    def halved(self, row: int, column: int, out: Pixels) -> bool:
        """See `Reader`."""
        return self._reader.halved(row, column, out)

    def filled(self) -> dict[CorruptPlace, str]:
        """See `Reader`."""
        return self._reader.filled()

    def close(self) -> None:
        """Close the other reader."""
        self._reader.close()
