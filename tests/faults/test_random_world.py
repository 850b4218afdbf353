"""Random commands in a small world of folders, two at once now and then, killed, signalled, with folders that are
renamed in mid-run: what they may not change is as it was, what they made is right as other readers find it, nothing is
left behind, and the same command run again, by another path or without its report, comes to an end.
"""

from __future__ import annotations

import random
import re
import sys
from pathlib import Path

import pytest
from faults.campaign import Campaign
from faults.world_commands import Chooser, Command
from faults.world_fixed import FIXED
from faults.world_folders import LEFT, Entries, Levels, World
from faults.world_rules import Step, told_of
from faults.world_runs import Disturbance, put_back, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the run's processes in /proc")
STEPS = 6  # of one world
REFUSED = re.compile("exist|is the source|lies in|missing|not a folder of shards|no slide is")
"""How a run may be refused that was disturbed before."""
KEPT = re.compile(r"\.html\.|^drop/")
"""What a kill leaves for good: a part of a page, as docs/faults.md says, and all in a folder that can't be listed."""


@pytest.mark.timeout(120)
def test_world_after_random_commands(tmp_path: Path) -> None:
    run_trials(tmp_path, Campaign("random world", short=1, long=1))


@pytest.mark.slow
@pytest.mark.timeout(36_000)
def test_world_after_many_random_commands(tmp_path: Path) -> None:
    run_trials(tmp_path, Campaign("random world", short=30, long=3000))


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("number", range(len(FIXED)))
@pytest.mark.parametrize("kind", ["death", "signal", "rename", "away"])
def test_world_after_a_command_that_is_disturbed_at_each_change(tmp_path: Path, number: int, kind: str) -> None:
    """One after the other, in a new world each."""
    world, at, struck = World(tmp_path), 0, True
    while struck:
        at += 1
        world.reset()
        trial = Trial(world, tmp_path, random.Random(f"{number} {at}"))
        disturbance = Disturbance(FIXED[number], random.Random(at), kind, at)
        try:
            struck = trial.step_of(FIXED[number], disturbance)
        except Exception as error:
            raise AssertionError(f"{error}\n{trial}") from error
    world.close()


def run_trials(tmp_path: Path, campaign: Campaign) -> None:
    """So many worlds; the same seed makes the same again, but for what hangs on time."""
    world = World(tmp_path)

    def make(folder: Path, chance: random.Random) -> Trial:
        world.reset()
        return Trial(world, folder, chance)

    campaign.run(tmp_path, make, lambda trial: (trial.step() for _ in range(STEPS)))
    world.close()


class Trial:
    """A world, and steps in it."""

    def __init__(self, world: World, folder: Path, chance: random.Random) -> None:
        self._world, self._folder, self._chance = world, folder, chance
        self._choose, self._story = Chooser(world, chance), [""]
        self._before: Entries = world.snapshot()
        self._made: set[str] = set()

    def __str__(self) -> str:
        return "\n".join(self._story[-3:]) + f"\nchanged:\n{told_of(self._before, self._world.snapshot())}"

    def step_of(self, command: Command, disturbance: Disturbance) -> bool:
        """One command that is disturbed, and run again; whether something happened to it."""
        step = self._run([command], disturbance)
        assert disturbance.happened or step.ended[0].code == 0, "it fails though nothing disturbs it"
        self._again(step, at_once=False, simply=True)
        return bool(disturbance.happened)

    def step(self) -> str:
        """Commands, disturbed or not, and perhaps the first of them again; what became of it."""
        chance, command = self._chance, self._choose.command()
        commands, at_once = [command], chance.random() < 0.15
        if at_once:
            shared = next(iter(command.outputs), None)
            commands.append(self._choose.command(shared if chance.random() < 0.7 else None))
        disturbance = Disturbance(command, chance)
        step = self._run(commands, disturbance)
        first = step.ended[0].code
        if command.verb in ("info", "verify") or "tiles died" in str(command):
            return f"{command.verb}: {first}"
        often = 0.7 if command.verb == "batch" else 0.3
        if disturbance.happened or disturbance.kind == "limit" or chance.random() < often:
            self._again(step, at_once)
        return f"{command.verb}: {first}"

    def _run(self, commands: list[Command], disturbance: Disturbance) -> Step:
        world = self._world
        self._before = world.snapshot()
        sources = {source for command in commands for source in command.outputs.values()}
        pixels: dict[str, Levels | None] = {source: world.levels(source) for source in sources}
        story = f"{' beside '.join(map(str, commands))}; {disturbance}"
        self._story.append(story)
        ended = run(world.root, self._folder, commands, disturbance)
        came = put_back(world.root, disturbance.place)
        told = "".join(f"\n    {each.code}: {each.text.strip()[-400:]}" for each in ended)
        self._story[-1] += f" (it struck: {disturbance.happened or 'nothing'}){told}"
        may_come = any(disturbance.place in command.folders for command in commands) or disturbance.kind == "away"
        may_come |= len(commands) > 1 and any("away at" in str(command) for command in commands)  # and the other begins
        came = [name for name in came if LEFT.search(name) or not may_come]
        assert not came, f"{came} came to {disturbance.place} while the folder of that name was elsewhere"
        step = Step(world, commands, ended, disturbance, self._before, world.snapshot(), pixels, self._made)
        if not came:  # what a finished run made in a place that was somebody's meanwhile has gone with it
            step.check()
        return step

    def _again(self, step: Step, at_once: bool, simply: bool = False) -> None:
        """The first command again, `simply` as it was: it ends as it should, and what the first run left is gone."""
        chance, first, code = self._chance, step.commands[0], step.ended[0].code
        start, lost = chance.choice(("", "", "./", f"{self._world.root}/", "here/")), False
        if simply:
            start = ""
        elif first.report is not None and first.report in step.after and first.report not in step.before:
            lost = chance.random() < 0.2
        if lost:
            (self._world.root / str(first.report)).unlink()
        again = self._run([first.spelled(start)], Disturbance(first, chance, "nothing"))
        ended = again.ended[0]
        early = ended.code == 2 and step.disturbance.kind.startswith("kill")  # perhaps before it was refused itself
        same = start != "here/" and not lost and not at_once
        if first.verb == "batch" and same and (code == 0 or step.disturbance.happened):
            refused = code == 2 or early or (code != 0 and REFUSED.search(ended.text))
            assert ended.code != 2 or refused, f"a batch that ran, or was killed, is refused: {ended.text}"
            assert code != 0 or ended.code == 0, "a batch that was done fails when it is run again"
        if step.disturbance.happened and not at_once and first.makes_one and first.verb != "library":
            ends = ended.code == 0 or code in (1, 2) or early or REFUSED.search(ended.text)
            assert ends, f"a run that was disturbed can't be made: {ended.text}"
        if ended.code != 2 or re.search("exists|not a folder of shards", ended.text):
            left = [name for name in step.left() if name in again.after and not KEPT.search(name)]
            if ended.code == 2:  # refused before it looked for scratch, which the next run that makes some removes
                left = [name for name in left if not name.startswith("tmp/")]
            assert not left or at_once, f"{left} of the first run stays"
        if ended.code == 0 and first.makes_one and "--resume" in first.words:
            kept = [name for name in first.may if name.endswith(".shards") and name in again.after]
            assert not kept or at_once or kept[0] in step.before, f"{kept} stays after a success"
