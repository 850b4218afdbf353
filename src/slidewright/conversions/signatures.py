"""The options in the signatures and docstrings of the functions that take them.

Type checkers and editors read the typed dictionaries here, which must be written out; `help` and `inspect.signature`
show what is made from the table in `slidewright.options`. tests/test_options.py holds the two against each other.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields
from textwrap import fill
from typing import Any, TypedDict, TypeVar

from slidewright.option import Option
from slidewright.options import OPTIONS, SELECTION, Color, ConvertOptions
from slidewright.selection import Selection

T = TypeVar("T", bound=Callable[..., Any])


class RunOptions(TypedDict, total=False):
    """What every run takes."""

    n_workers: int | None
    memory: str | int | None
    scratch: str | os.PathLike[str] | None
    timeout: float | None


class AssembleOptions(RunOptions, total=False):
    """What a run that finishes a file takes."""

    overwrite: bool
    verify: bool


class RestoreOptions(RunOptions, total=False):
    """What a run that restores a file takes."""

    overwrite: bool


class EncodeOptions(RunOptions, total=False):
    """What a run that encodes takes, whatever its source."""

    tile_size: int | None
    compression: str | None
    quality: int | None
    effort: int | None
    subsampling: str | None
    predictor: bool | None
    kind: str | None
    colormap: Mapping[int, Color] | Sequence[Color] | None
    alpha: str
    background: Color | int | float | None
    bits: int | None
    levels: int | None
    resampling: str | None
    mpp: float | tuple[float, float] | None
    description: str | None
    objective_power: float | None
    z_spacing: float | None
    time_increment: float | None
    channel_names: Sequence[str] | None
    channel_colors: Sequence[Color] | None
    keep_metadata: str
    associated: Sequence[str] | None
    label: str | os.PathLike[str] | None
    format: str | None
    zarr_shard: int | None
    ngff: str | None
    flavour: str
    strict: bool
    bigtiff: bool
    block_tiles: int | None
    on_corrupt: str | None


class SelectionOptions(TypedDict, total=False):
    """The fields of `Selection`: which image of a source with several, and which part of it."""

    page: int | None
    series: int | None
    level: int | None
    z: int | str | None
    t: int | str | None
    axes: str | None
    region: tuple[int, int, int, int] | None


class ShardOptions(SelectionOptions, EncodeOptions, total=False):
    """What a run that encodes a source takes."""

    keep_tiles: str
    reuse_levels: bool
    scaled_decoding: bool


class WriterOptions(EncodeOptions, AssembleOptions, total=False):
    """What a run that encodes and finishes a file takes."""


class AllOptions(ShardOptions, AssembleOptions, total=False):
    """All fields of `Selection` and `ConvertOptions`."""

    archive: str | None
    resume: bool
    engine: str
    dask: object


def with_options(taker: str) -> Callable[[T], T]:
    """Spell out the options in a function's, or a class's, signature and docstring."""

    def decorate(function: T) -> T:
        target: Any = function.__init__ if inspect.isclass(function) else function
        own = inspect.signature(target)
        given = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        target.__signature__ = own.replace(parameters=[*given, *_parameters(taker)])
        if function.__doc__ is not None:  # python -OO
            function.__doc__ = _spelled_out(function.__doc__, taker)
        return function

    return decorate


def _parameters(taker: str) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field, _ in _taken(taker)
    ]


def _taken(taker: str) -> list[tuple[Field[Any], Option]]:
    """The fields that a taker takes, with what the table says of them."""
    options = {**SELECTION, **OPTIONS}
    every = ((field, options[field.name]) for field in (*fields(Selection), *fields(ConvertOptions)))
    return [(field, option) for field, option in every if taker in option.takers]


def _spelled_out(doc: str, taker: str) -> str:
    """A docstring whose `**options` is followed by the options, each with its help. CPython 3.13 takes away what all
    lines are indented by.
    """
    found = re.search(r"^( *)\*\*options\n(?:\1 {4}.*\n)+", doc, re.MULTILINE)
    assert found is not None
    entries, margin = [], found[1]
    for field, option in _taken(taker):
        text = fill(option.text, 112, initial_indent=f"{margin}    ", subsequent_indent=f"{margin}    ")
        entries.append(f"{margin}{field.name} : {field.type}, default {field.default!r}\n{text}\n")
    return doc[: found.end()] + "".join(entries) + doc[found.end() :]
