"""The options of the verbs that convert, made from the table in `slidewright.options`, and help in groups.

A verb says only which taker it is; an option that is added to the table is here at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from slidewright.cli.common import FilePath
from slidewright.codecs import CODECS
from slidewright.errors import OptionError
from slidewright.formats.registry import FORMATS
from slidewright.option import GROUPS, Option
from slidewright.options import DEFAULTS, OPTIONS, SELECTION, taken_by

F = TypeVar("F", bound=Callable[..., Any])


_PATHS = {"DIR": "dir", "IMAGE": "file", "LIST|FILE": "file"}
"""What shells complete for options whose value is a path, by their metavar."""


class GroupedOption(click.Option):
    """An option under a heading of the help."""

    def __init__(self, *arguments: Any, group: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help has the headings of `GROUPS` and an example, and that knows the library's names."""

    def __init__(self, *arguments: Any, example: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.example = example

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options by group, those of the verb itself first."""
        sections: dict[str, list[tuple[str, str]]] = {name: [] for name in ("Options", *GROUPS)}
        for parameter in self.get_params(ctx):
            record = None if isinstance(parameter, click.Argument) else parameter.get_help_record(ctx)
            if record is not None:
                group = parameter.group if isinstance(parameter, GroupedOption) else ""
                sections[group or "Options"].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records, col_max=24)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example."""
        if self.example:
            with formatter.section("Example"):
                formatter.write_text(self.example)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, but told of an option by the library's name, it says the flag."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            option = OPTIONS.get(error.option_name.lstrip("-").replace("-", "_"))
            if option is None or not option.flags:
                raise
            message = f"No such option '{error.option_name}'; on the command line it is '{option.flags[0]}'."
            raise click.NoSuchOption(error.option_name, message, ctx=ctx) from None


class _Parsed(click.ParamType[Any]):
    """The value of an option, as the table's parser reads it."""

    def __init__(self, option: Option) -> None:
        self.name = option.name
        self._option = option

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """From text; an OptionError is wrong usage of the flag."""
        try:
            return self._option.parse(value) if isinstance(value, str) else value
        except OptionError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
        """The choices that begin so."""
        from click.shell_completion import CompletionItem

        if self._option.metavar in _PATHS:
            return FilePath(_PATHS[self._option.metavar]).shell_complete(ctx, param, incomplete)
        known = {"compression": tuple(CODECS), "format": tuple(FORMATS)}
        choices = known.get(self._option.name, self._option.choices)
        return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]


def options_of(taker: str) -> Callable[[F], F]:
    """Add the options that a verb takes, in the table's order."""
    selection = {name: option for name, option in SELECTION.items() if taker in option.takers}

    def decorate(function: F) -> F:
        for option in reversed([*selection.values(), *taken_by(taker).values()]):
            if option.flags:
                function = _click_option(option)(function)
        return function

    return decorate


def _click_option(option: Option) -> Callable[[F], F]:
    settings: dict[str, Any] = {"cls": GroupedOption, "group": option.group, "help": _help(option), "default": None}
    if len(option.flags) == 2:
        return click.option("/".join(option.flags), option.name, **settings)
    if option.given is not None:
        return click.option(*option.flags, option.name, is_flag=True, flag_value=option.given, **settings)
    metavar = option.metavar or "|".join(option.choices)
    return click.option(*option.flags, option.name, type=_Parsed(option), metavar=metavar, **settings)


def _help(option: Option) -> str:
    """The option's help, what the compression table adds to it, and its default."""
    default = option.default or ("" if option.given is not None else DEFAULTS.get(option.name))
    text = " ".join(filter(None, (option.help, _of_codecs(option.name))))
    return f"{text}  [default: {default}]" if default else text


def _of_codecs(name: str) -> str:
    """What the compression table says about an option: names, or range and default where compressions take it."""
    if name == "compression":
        return f"Names: {', '.join(CODECS)}."
    ranges: dict[str, list[str]] = {}
    for codec in CODECS.values():
        if codec.effort is not None and codec.effort.name == name:
            words = f"{codec.effort.low} to {codec.effort.high}, default {codec.effort.default}"
            ranges.setdefault(words, []).append(codec.name)
    return "".join(f"{', '.join(names)}: {words}. " for words, names in ranges.items()).rstrip()


def collected(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as keyword arguments of the library."""
    options = {name: value for name, value in given.items() if value is not None and not _off(name, value)}
    if "dask" in options:
        options["engine"] = "dask"
    return options


def _off(name: str, value: Any) -> bool:
    """Whether it is a switch of the verb's own that was not given."""
    return value is False and name not in OPTIONS
