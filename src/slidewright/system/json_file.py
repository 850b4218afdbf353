"""JSON files that others may have written: what is no regular file, has no end or nests without end is an error."""

from __future__ import annotations

import json
import os
from typing import Any

from slidewright.system.files import regular

_MAX_BYTES = 64 << 20


def parse_json(text: str | bytes) -> Any:
    """What a text says; raises ValueError for all that is no JSON, or is nested without end."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a file says; raises OSError where it can't be read, ValueError for all that is no JSON of 64 MiB at most."""
    with open(path, "rb", opener=regular) as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError("it has more than 64 MiB")
    return parse_json(data)
