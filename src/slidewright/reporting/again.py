"""What to type to make a file once more: the command, or where no command can say it, the call in Python."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from slidewright.errors import OptionError
from slidewright.options import DEFAULTS, OPTIONS, SELECTION


def changed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not as they are by default."""
    return {name: value for name, value in given.items() if value is not None and value != DEFAULTS.get(name)}


def how_to_make_again(source: str | None, destination: str, given: Mapping[str, Any]) -> str:
    """The command line that was, or might have been, typed; `source` is None for one that is no path."""
    words = [] if source is None else ["slidewright", "convert", _no_flag(source), _no_flag(destination)]
    for name, value in changed(given).items() if words else ():
        flags = _flags(name, value)
        if flags is None:
            break
        words += flags
    else:
        if words:
            return shlex.join(words)
    options = "".join(f", {name}={value!r}" for name, value in changed(given).items())
    return f"slidewright.convert({'source' if source is None else repr(source)}, {destination!r}{options})"


def _no_flag(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path


def _flags(name: str, value: Any) -> list[str] | None:
    """The words that give an option its value; None where none can."""
    option = {**SELECTION, **OPTIONS}[name]
    words = option.arguments(value)
    if not words or len(words) == 1:
        return words or None
    try:
        read = option.parse(words[1])
    except OptionError:
        return None
    same = read == value or str(read) == str(value) or (isinstance(value, list) and read == tuple(value))
    return words if same else None
