"""The options of a command that say what the pixels are: kind, palette, alpha, background, bits.

Apart from the command because others that convert take the same.
"""

from __future__ import annotations

from typing import Any

import click

from slidewright.errors import OptionError
from slidewright.options import KINDS


def _read_colormap(_: click.Context, __: click.Parameter, value: str | None) -> dict[int, str] | None:
    from slidewright.pixels import read_colormap

    try:
        return None if value is None else read_colormap(value)
    except OptionError as error:
        raise click.BadParameter(str(error)) from error


def _read_background(_: click.Context, __: click.Parameter, value: str | None) -> str | int | float | None:
    """A colour, or a number for pixels that are none."""
    if value is None:
        return None
    for convert in (int, float):
        try:
            return convert(value)
        except ValueError:
            continue
    return value


def _read_bits(_: click.Context, __: click.Parameter, value: str | None) -> int | None:
    return None if value is None else int(value)


def kind_options(function: Any) -> Any:
    """Add them to a command."""
    for option in reversed(
        (
            click.option(
                "--kind", type=click.Choice(KINDS), help="What the pixels are.  [default: as the source says]"
            ),
            click.option(
                "--colormap",
                metavar="LIST|FILE",
                callback=_read_colormap,
                help="Palette of labels: 0=white,1=red,..., or a JSON file of it.",
            ),
            click.option(
                "--alpha", type=click.Choice(["keep", "compose"]), help="What becomes of alpha.  [default: keep]"
            ),
            click.option(
                "--background",
                metavar="COLOUR",
                callback=_read_background,
                help="What alpha is composed on.  [default: white]",
            ),
            click.option(
                "--bits",
                type=click.Choice(["1", "8"]),
                callback=_read_bits,
                help="Bits a pixel of a binary mask.  [default: CCITT 1, else 8]",
            ),
        )
    ):
        function = option(function)
    return function
