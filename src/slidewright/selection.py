"""Which image of a source is meant, and which part of it: options as the others are, but for the source alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from slidewright.errors import OptionError, numbered
from slidewright.option import COMPARING, says
from slidewright.option_text import read_places, read_region, read_whole

_SELECT: dict[str, Any] = {
    **{"group": "Source", "parse": read_whole, "metavar": "N"},
    "takers": COMPARING - {"PyramidWriter"},
}
_PLACES: dict[str, Any] = {**_SELECT, "parse": read_places, "metavar": "N|all", "default": "none"}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which image of a source with several to read; the largest where nothing is given."""

    page: int | None = field(
        default=None, metadata=says("Page of a TIFF source, instead of a series and level.", default="none", **_SELECT)
    )
    series: int | None = field(
        default=None, metadata=says("Series of a TIFF or zarr source.", default="the largest", **_SELECT)
    )
    level: int | None = field(
        default=None, metadata=says("Level of the source to read.", default="0, the largest", **_SELECT)
    )
    z: int | str | None = field(
        default=None,
        metadata=says("Plane of a source that is a stack; FIRST:END, or all, keep several.", **_PLACES),
    )
    t: int | str | None = field(
        default=None,
        metadata=says("Time of a source that has several; FIRST:END, or all, keep them.", **_PLACES),
    )
    axes: str | None = field(
        default=None,
        metadata=says(
            "Axes of an array that does not name them, such as TCZYX.",
            **{**_SELECT, "parse": str, "metavar": "LETTERS"},
            default="its own",
        ),
    )
    region: tuple[int, int, int, int] | None = field(
        default=None,
        metadata=says(
            "Only this part of the source, in pixels of the level that is read.",
            **{**_SELECT, "parse": read_region, "metavar": "X,Y,W,H"},
            default="all of it",
        ),
    )

    def __post_init__(self) -> None:
        for name, value in self.place.items():
            if name in ("z", "t") and isinstance(value, str):
                self.places(name, 1 << 62, "")
            elif name == "axes":
                object.__setattr__(self, "axes", _axes(value))
            elif not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise OptionError(f"{name} {value!r} must be a whole number, 0 or more")
        if self.region is None:
            return
        values = tuple(self.region)
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
        if len(values) != 4 or not whole or min(values[:2]) < 0 or min(values[2:]) < 1:
            raise OptionError(f"region {self.region!r} must be x, y, width and height, whole numbers of pixels")
        object.__setattr__(self, "region", values)  # JSON knows lists only

    def places(self, axis: str, length: int, where: str) -> range | None:
        """Which planes of an axis, "z" or "t", of so many; None where nothing was given.

        Raises
        ------
        OptionError
            When it is none of those that there are, named after `where` they are missing.
        """
        value = self.z if axis == "z" else self.t
        if value is None:
            return None
        if value == "all":
            return range(length)
        first, end = _span(axis, value)
        if not first < end <= length:
            raise OptionError(f"{where} has no {axis} {value}; {numbered(length)}")
        return range(first, end)

    @property
    def place(self) -> dict[str, int | str]:
        """What was given of which image, without the part of it."""
        values = {"page": self.page, "series": self.series, "level": self.level, "z": self.z, "t": self.t}
        values |= {"axes": self.axes}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def given(self) -> dict[str, Any]:
        """What was given, as JSON can hold it and `Selection(**given)` takes it."""
        return self.place if self.region is None else {**self.place, "region": list(self.region)}


def _axes(value: object) -> str:
    """Letters of axes in lower case, "s" for samples being "c"; raises OptionError."""
    letters = value.lower().replace("s", "c") if isinstance(value, str) else ""
    if not {"y", "x"} <= {*letters} <= {*"tczyx"} or len({*letters}) < len(letters):
        raise OptionError(f"axes {value!r} must be y, x and any of t, z and c, each once, such as 'tczyx' or 'zyxc'")
    return letters


def _span(axis: str, value: int | str) -> tuple[int, int]:
    """The first plane, and the one after the last, of a number or "first:end"."""
    if not isinstance(value, str):
        return value, value + 1
    first, colon, end = value.partition(":")
    if not (colon and first.isdecimal() and end.isdecimal() and int(first) < int(end)):
        raise OptionError(f"{axis} {value!r} must be a whole number, 'first:end' such as '2:5', or 'all'")
    return int(first), int(end)
