"""`slidewright bench environments`: makes what `bench peers` compares with."""

from __future__ import annotations

import click

from slidewright.bench.verbs.shared import read_names
from slidewright.cli.common import debug_option, say


@click.command(short_help="Make the environments of the peers.")
@click.argument("folder", metavar="[DIR]", required=False)
@click.option("--peers", callback=read_names, metavar="NAME,...", help="Which.  [default: all]")
@debug_option
def environments(folder: str | None, peers: tuple[str, ...] | None) -> None:
    """Make an environment in DIR/NAME for each peer, with the versions that are compared with.

    DIR is SLIDEWRIGHT_PEERS, or a folder in the user's cache. Older peers need older Pythons (3.10, 3.11), which are
    looked for on the PATH and among pyenv's.
    """
    from slidewright.bench.environments import make_environments

    make_environments(folder, peers, tell=say)
