"""`slidewright info`: what a slide is, as text or JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from slidewright.cli.common import FilePath, debug_option, human_bytes, hush_libraries, say, say_json, size_dict, table

if TYPE_CHECKING:
    from slidewright.inspection.info import FileInfo

_DESCRIPTION_CHARACTERS = 200
_MAX_NAMED = 20


@click.command(short_help="Show what a slide is: size, levels, tiles, compression, mpp.")
@click.argument("file", type=FilePath(), metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@debug_option
@click.pass_context
def info(context: click.Context, /, file: str, as_json: bool) -> None:
    """Show what the slide FILE is; no pixel is decoded."""
    hush_libraries(context)
    from slidewright.inspection.info import info as info_of

    found = info_of(file)
    if as_json:
        say_json(as_dict(found))
    else:
        say(as_text(found))


def as_text(found: FileInfo) -> str:
    """The description for people."""
    mpp = "unknown" if found.mpp is None else " x ".join(f"{value:.6g}" for value in found.mpp) + " um a pixel"
    stack = f", {found.stack}" if found.stack.frames > 1 else ""
    beside = [f"{a.name} ({a.size})" if a.size else a.name for a in found.associated]
    more = [f"{len(beside) - _MAX_NAMED:,} more"] if len(beside) > _MAX_NAMED else []
    facts = {
        "format": f"{found.format}, {human_bytes(found.bytes)}",
        "size": f"{found.size} pixels, {found.samples} x {found.dtype}{stack}",
        "resolution": mpp,
        "associated": ", ".join([*beside[:_MAX_NAMED], *more]) or "none",
        "ICC profile": human_bytes(found.icc_bytes) if found.icc_bytes else "none",
        "tiles": found.keeping,
        "not passed on": _shortened("; ".join(found.left_out)),
        "software": found.software,
        **{name.replace("_", " "): _shortened(value) for name, value in found.metadata.known.items()},
        "identifying": _shortened("; ".join(f"{name}: {value}" for name, value in found.metadata.identifying)),
        "description": _shortened(found.description or ""),
    }
    wide = max(len(name) for name, value in facts.items() if value)
    lines = [found.path, *(f"  {name:<{wide}}  {value}" for name, value in facts.items() if value)]
    rows = [
        (
            str(number),
            str(level.size),
            "-" if level.tile is None else str(level.tile),
            level.compression or "-",
            "-" if level.bytes is None else human_bytes(level.bytes),
        )
        for number, level in enumerate(found.levels)
    ]
    return "\n".join([*lines, table(("level", "size", "tile", "compression", "bytes"), rows)])


def as_dict(found: FileInfo) -> dict[str, object]:
    """The description for programs; sizes are {"width", "height"}."""
    return {
        "path": found.path,
        "format": found.format,
        "bytes": found.bytes,
        **size_dict(found.size),
        "samples": found.samples,
        "dtype": found.dtype,
        "z": found.stack.z,
        "t": found.stack.t,
        "mpp": None if found.mpp is None else {"x": found.mpp[0], "y": found.mpp[1]},
        "levels": [
            {
                **size_dict(level.size),
                "tile": None if level.tile is None else size_dict(level.tile),
                "compression": level.compression,
                "bytes": level.bytes,
            }
            for level in found.levels
        ],
        "associated": [{"name": a.name, **({} if a.size is None else size_dict(a.size))} for a in found.associated],
        "icc_bytes": found.icc_bytes,
        "software": found.software,
        "keeping": found.keeping,
        "left_out": list(found.left_out),
        "description": found.description,
        "metadata": found.metadata.known,
        "identifying": dict(found.metadata.identifying),
    }


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DESCRIPTION_CHARACTERS else line[: _DESCRIPTION_CHARACTERS - 3] + "..."
