"""Room on disk: what a run will need of it, checked before it starts.

Some of it is certain (uncompressed segments, the scratch of reduced levels), the rest a guess by codec; so too little
for what is certain is an error, too little for the guess a warning.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from slidewright.errors import OutputError

if TYPE_CHECKING:
    from slidewright.engine.run import Run


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes that a run will put on disk: at least, and probably."""

    output_least: int
    output_likely: int
    scratch: int
    """Reduced levels between passes; exact."""
    waiting: int
    """Segments that probably wait in temporary files for their turn."""

    def with_shards(self, made: float, *, output: float = 1) -> Estimate:
        """The same of a run that makes this part of the shards in the folder of the output, and takes the others; it
        writes this part of the `output` as well. Reduced levels are in the shards' folder.
        """
        least = int(made * (self.output_least + self.scratch))
        likely = int(made * (self.output_likely + self.scratch))
        return replace(
            self,
            output_least=least + int(self.output_least * output),
            output_likely=likely + int(self.output_likely * output),
            scratch=0,
            waiting=int(made * self.waiting) if output else 0,
        )


def estimate(run: Run) -> Estimate:
    """What a run needs on disk."""
    plan, encoding = run.plan, run.encoding
    tile_bytes = encoding.tile_bytes
    raw = plan.n_tiles * (tile_bytes // 8 if encoding.bits == 1 else tile_bytes)
    exact = encoding.compression == "none"
    likely = raw if exact else raw // encoding.codec.likely_ratio
    handed_on = [pas.scratch_level for pas in plan.passes if pas.scratch_level is not None]
    half = plan.tile // 2
    chunks = (plan.levels[level].size.grid(half) for level in handed_on)
    scratch = sum(plan.planes * grid.height * grid.width * (tile_bytes // 4) for grid in chunks)
    upper = 1 - plan.levels[0].n_tiles / plan.n_tiles
    return Estimate(
        output_least=(raw if exact else 0) + run.format.least_bytes(plan, encoding),
        output_likely=likely,
        scratch=scratch,
        waiting=max(0, int(likely * upper) - run.memory.store_bytes),
    )


def check_space(need: Estimate, folder: str, temporary: str) -> tuple[str, ...]:
    """Hold an estimate against the room in the destination's folder and in the temporary one.

    Returns
    -------
    tuple[str, ...]
        Warnings, where the room is less than is probably needed.

    Raises
    ------
    OutputError
        When there is less than is certainly needed.
    """
    shared = device_of(folder) is not None and device_of(folder) == device_of(temporary)
    parts: list[tuple[str, str, int, int]] = [
        ("the output", folder, need.output_least, need.output_likely),
        ("the temporary levels", temporary, need.scratch, need.scratch + need.waiting),
    ]
    if shared:
        least, likely = sum(part[2] for part in parts), sum(part[3] for part in parts)
        parts = [("the output and the temporary levels", folder, least, likely)]
    warnings = []
    for what, where, least, likely in parts:
        free = _free(where)
        if free is None or likely <= free:
            continue
        text = f"{os.path.abspath(where)} has {free / 1e6:.0f} MB free"
        if least > free:
            remedy = "choose another disk, or free some" + ("" if shared else _remedy(what))
            raise OutputError(f"{text}, but {what} will take at least {least / 1e6:.0f} MB; {remedy}")
        warnings.append(f"{text}, but {what} will take about {likely / 1e6:.0f} MB, by experience")
    return tuple(warnings)


def _remedy(what: str) -> str:
    return "; TMPDIR and --scratch say where temporary levels go" if "temporary" in what else ""


def _free(folder: str) -> int | None:
    """Bytes free to this user, or None where the filesystem does not tell."""
    import shutil

    try:
        usage = shutil.disk_usage(folder or ".")
    except OSError:
        return None
    return usage.free if usage.total else None


def device_of(folder: str) -> int | None:
    """The number of the disk that a folder is on; None where there is no such folder."""
    try:
        return os.stat(folder or ".").st_dev
    except OSError:
        return None
