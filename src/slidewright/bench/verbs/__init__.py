"""`slidewright bench`: how fast this machine converts, next to its peers and to what its codecs could do."""

from __future__ import annotations

import importlib
from typing import Any

import click

from slidewright.cli.common import SuggestingGroup

_VERBS = {
    "convert": "Time conversions at several numbers of workers, by stage.",
    "peers": "Time conversions next to other programs, in turns.",
    "small": "Time small slides as they are typed, one and a batch, next to libvips.",
    "codecs": "Time every compressor on the image, annotations and a mask.",
    "scaling": "Measure what each stage costs, and predict other machines and clusters.",
    "environments": "Make the environments of the peers.",
    "plot": "Draw results that were kept as JSON.",
}


class _LazyGroup(SuggestingGroup):
    """Imports a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: Any = getattr(importlib.import_module(f"slidewright.bench.verbs.{cmd_name}"), cmd_name)
        return command if isinstance(command, click.Command) else None


@click.group(cls=_LazyGroup)
def bench() -> None:
    """Measure speed and memory on this machine."""
