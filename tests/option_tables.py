"""The tables of options in docs/api.md, made from the table of options.

Run as a script, it writes them into the page; the test compares.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from slidewright.option import GROUPS, Option
from slidewright.options import OPTIONS, SELECTION, ConvertOptions
from slidewright.selection import Selection

PAGE = Path(__file__).parent.parent / "docs" / "api.md"


def written(page: str) -> str:
    """The page with its tables as they should be."""
    block = f"<!-- begin options -->\n\n{_tables()}\n\n<!-- end options -->"
    page, found = re.subn("<!-- begin options -->.*?<!-- end options -->", lambda _: block, page, flags=re.DOTALL)
    if found != 1:
        raise ValueError(f"the page has {found} places for the options")
    return page


def _tables() -> str:
    options = {**SELECTION, **OPTIONS}
    return "\n\n".join(
        f"### {group}\n\n| option | flag | type | default | what it is |\n|---|---|---|---|---|\n"
        + "\n".join(_row(option) for option in options.values() if option.group == group)
        for group in GROUPS
    )


def _row(option: Option) -> str:
    field = {field.name: field for field in (*dataclasses.fields(ConvertOptions), *dataclasses.fields(Selection))}
    type_, default = str(field[option.name].type).replace("|", "\\|"), field[option.name].default
    flags = ", ".join(f"`{flag}`" for flag in option.flags) or "none"
    choices = f" One of {', '.join(option.choices)}." if option.choices else ""
    return f"| `{option.name}` | {flags} | `{type_}` | `{default!r}` | {option.text}{choices} |"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
