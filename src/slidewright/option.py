"""What is known of one option, apart from its value: the record that `slidewright.options` has of each field."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slidewright.option_text import read_one_of

GROUPS = ("Source", "Pixels", "Compression", "Levels", "Metadata", "File", "Run")
"""Headings of the help, in its order."""

REREADING = frozenset(("convert", "batch"))
ENCODING = REREADING | {"shard", "PyramidWriter"}
FINISHING = REREADING | {"assemble", "PyramidWriter"}
RUNNING = ENCODING | FINISHING | {"restore"}
COMPARING = ENCODING | {"verify"}
"""Who must know of a source what a conversion knew."""


@dataclass(frozen=True, slots=True)
class Option:
    """All that is known of one option, apart from its name, type and default, which its field has."""

    help: str
    """What it is, in a sentence for the command line and the library alike."""
    group: str
    """Under which heading of `GROUPS` the help lists it."""
    parse: Callable[[str], Any] = str
    """From text, of the command line or a manifest; raises OptionError, whose message begins with the text."""
    default: str = ""
    """What is done without it, in words, where the field's default is None."""
    more: str = ""
    """What the reference adds to the help."""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    flag: str | None = ""
    """On the command line: empty for the field's name, None where there is none, "--yes/--no" for either."""
    given: bool | None = None
    """What a flag without a value stands for; None for one with a value."""
    changes_output: bool = True
    """Whether it changes what is made, and not only how a run goes."""
    takers: frozenset[str] = ENCODING
    """Which of convert, batch, shard, assemble, restore (verbs and functions) and PyramidWriter take it."""
    column: bool = True
    """Whether a row of a batch manifest may have its own."""
    name: str = ""
    """The field's name; the table fills it in."""

    @property
    def flags(self) -> tuple[str, ...]:
        """The flag, or the two of an option that can be switched on and off; empty where there is none."""
        return () if self.flag is None else tuple((self.flag or "--" + self.name.replace("_", "-")).split("/"))

    @property
    def text(self) -> str:
        """The help with its default in words, and what the reference adds."""
        start = f"False: {self.help[0].lower()}{self.help[1:]}" if self.given is False else self.help
        return " ".join(filter(None, (start, f"Default: {self.default}." if self.default else "", self.more)))

    def arguments(self, value: Any) -> list[str]:
        """The words of a command line that give it this value."""
        if not self.flags:
            return []
        if isinstance(value, bool):
            return [self.flags[0 if value else -1]]
        if isinstance(value, Mapping):
            return [self.flags[0], ",".join(f"{index}={color}" for index, color in value.items())]
        several = isinstance(value, Sequence) and not isinstance(value, str)
        return [self.flags[0], ",".join(map(str, value)) if several else str(value)]


def says(help: str, group: str, **rest: Any) -> dict[str, Option]:
    """The metadata of a field."""
    if rest.get("choices") and "parse" not in rest:
        rest["parse"] = read_one_of(*rest["choices"])
    return {"option": Option(help, group, **rest)}
