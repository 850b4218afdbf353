"""Sources that show the pixels of another from elsewhere: turned upright, or a region of them.

Apart from the two kinds because both pass on everything else, and because what is corrupt must be filled inside of
them, along the grid that the file has.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from slidewright.sources.base import SourceInfo
from slidewright.sources.wrappers.wrapped import WrappedSource


@dataclass(frozen=True, slots=True)
class ViewSource(WrappedSource):
    """Another source, seen otherwise."""

    @property
    @abstractmethod
    def info(self) -> SourceInfo:
        """What is known of the pixels as they are seen."""

    @property
    @abstractmethod
    def how(self) -> dict[str, Any]:
        """How they are seen, as values that JSON holds."""

    def identity(self) -> dict[str, Any]:
        """See `Source`."""
        return {**self.source.identity(), **self.how}
