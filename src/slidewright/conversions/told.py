"""What a caller is told before a run begins: what of the source is not passed on, and what will not be as asked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from slidewright.options import ConvertOptions, can_be_mpp

if TYPE_CHECKING:
    from slidewright.engine.run import Run

_GIVE = re.compile(r"\bgive (\w+)")
"""In a clause about what can be given in place of what is lost: the name of the option."""
_COLOURS = {"red", "green", "blue", "alpha", "r", "g", "b", "a"}  # names that say no more than that it is one


def warnings_of(run: Run, options: ConvertOptions) -> list[str]:
    """What a caller should know of a run before it begins."""
    return [*run.memory.warnings, *_left_out(run, options), *_of_format(run), *_not_beside(run, options)]


def _left_out(run: Run, options: ConvertOptions) -> list[str]:
    """One warning about all that the source says and the file will not."""
    info = run.source.info
    given = {name for clause in info.left_out for name in _GIVE.findall(clause) if getattr(options, name, None)}
    lost = (clause for clause in info.left_out if given.isdisjoint(_GIVE.findall(clause)))
    clauses = [*lost, *run.format.no_place(run.image)]
    silent = options.keep_metadata == "none" or any(channel.name for channel in run.image.metadata.channels)
    names = [] if silent else info.metadata.telling_names
    if {name.lower() for name in names} - _COLOURS:
        colours, count = run.encoding.pixels.kind in ("rgb", "rgba"), run.encoding.pixels.channels
        why = "which are taken for colours (kind says otherwise)" if colours else f"where the output has {count}"
        clauses.append(f"names of its channels ({', '.join(names)}), {why}")
    bits = None if options.keep_metadata == "none" else info.metadata.significant_bits
    if bits is not None and (run.image.metadata.significant_bits is None or not run.format.holds_bits):
        clauses.append(f"that {bits} bits of each of its values are used")
    if info.icc_profile is not None and run.image.icc_profile is None:
        clauses.append("its ICC profile, which is of other channels than those that are written")
    if info.mpp is not None and not can_be_mpp(info.mpp) and options.mpp is None:
        clauses.append(f"its resolution of {info.mpp[0]:.4g} um a pixel")
    return [f"not passed on of {info.name}: {'; '.join(clauses)}"] if clauses else []


def _not_beside(run: Run, options: ConvertOptions) -> list[str]:
    """What was to be beside the levels, and can't be."""
    from slidewright.formats.associated import has_thumbnail

    there = {one.name for one in run.image.associated} | ({"thumbnail"} if has_thumbnail(run.encoding) else set())
    missing = [name for name in options.associated or () if name not in there]
    return [f"{run.source.info.name} has no {' and no '.join(missing)} to write beside the levels"] if missing else []


def _of_format(run: Run) -> list[str]:
    """What the format says of the encoding."""
    warning = run.format.warning(run.image.encoding)
    return [warning] if warning else []
