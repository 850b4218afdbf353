"""Which share of the work is mine: index and count as the schedulers of array jobs tell them.

Slurm, PBS (Professional and Torque), Grid Engine and LSF each have names of their own for the same two numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from slidewright.errors import OptionError

# index, first, last, step: names of variables; a number stands for itself where a scheduler does not tell
_SCHEDULERS: dict[str, tuple[str, str | None, str | None, str | None, int]] = {
    "Slurm": ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP", 0),
    "PBS": ("PBS_ARRAY_INDEX", None, None, None, 0),
    "Torque": ("PBS_ARRAYID", None, None, None, 0),
    "Grid Engine": ("SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE", 1),
    "LSF": ("LSB_JOBINDEX", None, "LSB_JOBINDEX_END", "LSB_JOBINDEX_STEP", 1),
}


def read_array(environment: Mapping[str, str], count: int | None = None) -> tuple[int, int]:
    """Index, from 0, and count of this task.

    Parameters
    ----------
    environment
        `os.environ`, as the scheduler filled it.
    count
        How many shares there are, when a task may be one of a few that are run again: the task's id is then the index
        (in Slurm and PBS, whose arrays begin at 0; in Grid Engine and LSF, whose begin at 1, the index is one less).
        By default the scheduler's own count, and the index is the place of the task in the array.

    Raises
    ------
    OptionError
        Outside an array job, where the scheduler does not tell the count, or for a task beyond the count.
    """
    for scheduler, (own, first, last, step, start) in _SCHEDULERS.items():
        task = _number(environment, own)
        if task is None or (scheduler == "LSF" and task == 0):  # LSF sets 0 outside of arrays
            continue
        if count is not None:
            index = task - start
        else:
            count, index = _place(environment, scheduler, task, first, last, step, start)
        if not 0 <= index < count:
            raise OptionError(
                f"{own}={task} is beyond {count} shares; number the array from {start} to {start + count - 1}"
            )
        return index, count
    names = ", ".join(names[0] for names in _SCHEDULERS.values())
    raise OptionError(f"this is no task of an array job (none of {names} is set); give --index and --count")


def _place(
    environment: Mapping[str, str],
    scheduler: str,
    task: int,
    first_name: str | None,
    last_name: str | None,
    step_name: str | None,
    start: int,
) -> tuple[int, int]:
    """(count, index) of a task in an array whose extent the scheduler tells."""
    count = _number(environment, "SLURM_ARRAY_TASK_COUNT") if scheduler == "Slurm" else None
    first = _number(environment, first_name)
    last, step = _number(environment, last_name), _number(environment, step_name) or 1
    first = start if first is None else first
    if count is None and last is not None:
        count = (last - first) // step + 1
    if count is None:
        raise OptionError(f"{scheduler} does not tell a task how many there are; give --count with --array")
    if scheduler == "Slurm" and last is not None and (last - first) // step + 1 != count:
        raise OptionError(
            "the tasks of this Slurm array are not evenly spaced, so their places are unknown; give --count with "
            "--array: task ids are then shares, from 0"
        )
    return count, (task - first) // step


def _number(environment: Mapping[str, str], name: str | None) -> int | None:
    text = environment.get(name, "") if name is not None else ""
    return int(text) if text.isdigit() else None
