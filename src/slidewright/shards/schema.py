"""JSON that lay on a disk, held against a dataclass: what is not exactly that is one ValueError, whatever it is.

Anything can be in such a file, so nothing in it is used before all of it is checked.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Within:
    """The bounds of a number, both included."""

    least: int
    most: int


Whole = Annotated[int, Within(0, 2**64 - 1)]
"""A number that can be written with eight bytes."""


def read_as(kind: type[T], value: Any, *, strict: bool = True) -> T:
    """A value of JSON as an object of a dataclass.

    Parameters
    ----------
    kind
        The dataclass; its fields are annotated with bool, int, float, str, None, `Any`, unions of them, dict[str, ...],
        tuple[..., ...] (JSON's lists), dataclasses, and with `Within` for numbers.
    value
        What the file said.
    strict
        Whether fields that the dataclass has not are refused.

    Raises
    ------
    ValueError
        Naming the place and what belongs there.
    """
    return typing.cast(T, _checked(kind, value, "", strict))


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)


def _checked(hint: Any, value: Any, place: str, strict: bool) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        number = _checked(arguments[0], value, place, strict)
        bounds = arguments[1]
        if not bounds.least <= number <= bounds.most:
            raise _wrong(place, value, f"a number from {bounds.least} to {bounds.most}")
        return number
    if origin in (types.UnionType, typing.Union):
        return _one_of(arguments, value, place, strict)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(place, value, "an object")
        return {key: _checked(arguments[1], item, f"{place}.{key}", strict) for key, item in value.items()}
    if origin is tuple:
        return _tuple(arguments, value, place, strict)
    if dataclasses.is_dataclass(hint):
        return _object(hint, value, place, strict)
    if hint is None or hint is types.NoneType:
        if value is not None:
            raise _wrong(place, value, "null")
        return None
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong(place, value, hint.__name__)
    return value


def _one_of(hints: tuple[Any, ...], value: Any, place: str, strict: bool) -> Any:
    for hint in hints:
        try:
            return _checked(hint, value, place, strict)
        except ValueError as error:
            problem = error
    raise problem


def _tuple(hints: tuple[Any, ...], value: Any, place: str, strict: bool) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(place, value, "a list")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise _wrong(place, value, f"a list of {len(hints)}")
    return tuple(
        _checked(hint, item, f"{place}[{number}]", strict)
        for number, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _object(kind: Any, value: Any, place: str, strict: bool) -> Any:
    if not isinstance(value, dict):
        raise _wrong(place, value, "an object")
    hints, fields = _hints(kind), dataclasses.fields(kind)
    unknown = value.keys() - {field.name for field in fields}
    if strict and unknown:
        raise ValueError(f"it has a field {min(unknown)!r} that does not belong there")
    given = {}
    for field in fields:
        if field.name in value:
            given[field.name] = _checked(hints[field.name], value[field.name], f"{place}.{field.name}", strict)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"it has no field {field.name!r}")
    return kind(**given)


def _wrong(place: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"{place.lstrip('.') or 'it'} is {_shown(value)}, not {expected}")


def _shown(value: Any) -> str:
    """The beginning of a value, on one line."""
    if isinstance(value, int) and abs(value) >> 256:
        return "a huge number"
    try:
        text = repr(value)
    except RecursionError:
        return "something deep"
    return text if len(text) <= 60 else f"{text[:57]}..."
