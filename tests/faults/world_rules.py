"""What must be true of the world of `world_folders.py` after commands, whatever happened to them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from faults.campaign import CLEARLY
from faults.world_commands import DIED, Command
from faults.world_folders import LEFT, OF_ZARR, Entries, Levels, World
from faults.world_runs import Disturbance, Ended

_OF_SHARDS = re.compile(r"job\.json|lock|files|finished\.json|level-\d+\.zarr|shard-\d+-of-\d+.*|\..*")


@dataclass
class Step:
    """Commands that ran at once, the first of them disturbed, and the world before and after."""

    world: World
    commands: list[Command]
    ended: list[Ended]
    disturbance: Disturbance
    before: Entries
    after: Entries
    pixels: dict[str, Levels | None]
    """Of the sources of outputs, before."""
    made: set[str]
    """What batches have made in this world, which they may replace; more is added."""

    def check(self) -> None:
        """AssertionError with what is wrong."""
        self._check_words()
        self._check_what_it_may()
        for number, command in enumerate(self.commands):
            for output, source in command.outputs.items():
                self._check_output(number, output, source)
            self._check_report(command)
            self._check_folder(command)
            self._check_shards(number, command)
        left = self.left()
        assert self._leaver() or not left, f"{left} left behind"

    def left(self) -> list[str]:
        """What is a run's own and was not there before, but what shards keep."""
        new = (name for name in self.after if name not in self.before and ".shards/" not in name)
        return [name for name in new if LEFT.search(os.path.basename(name))]

    def _leaver(self) -> bool:
        """Whether one of them could not clean up after itself."""
        died = any(ended.code < 0 or ended.code == DIED for ended in self.ended)
        return died or self.disturbance.kind == "kill of all"

    def _check_words(self) -> None:
        for ended in self.ended:
            foreign = "--debug" in ended.text or "Traceback" in ended.text
            assert not foreign, f"a foreign error: {ended.text}"
            known = ended.code < 0 or ended.code in (0, 1, 2, CLEARLY, DIED, 129, 130, 131, 143)
            assert known, f"exit code {ended.code}: {ended.text}"
            spoke = ended.code in (0, DIED) or ended.code < 0 or ended.text.strip()
            assert spoke, f"exit code {ended.code} without a word"

    def _changed(self) -> list[str]:
        names = sorted({*self.before, *self.after})
        return [name for name in names if self.before.get(name) != self.after.get(name)]

    def _check_what_it_may(self) -> None:
        outputs = [output for command in self.commands for output in command.outputs]
        may = [*outputs, *(name for command in self.commands for name in command.may)]
        may += [self.world.real(name) for name in may]
        folders = [name for command in self.commands for name in command.folders]
        told = [f"{name}: {self.before.get(name)} -> {self.after.get(name)}" for name in self._changed()
                if not _under(name, may) and not (name in folders and name not in self.before)
                and not (LEFT.search(os.path.basename(name)) or self._in_what_is_left(name))]  # fmt: skip
        assert not told, "changed what it may not: " + "; ".join(told)
        outputs += [command.out for command in self.commands if command.out is not None]
        for command in self.commands:
            sources = [name for name in command.sources if not _under(name, outputs) and name in self.before]
            sources += [self.world.real(name) for name in sources]
            pages = [each.page for each in self.commands if each is not command and each.page is not None]
            free = [*outputs, *pages]
            lost = [name for name in self._changed() if _under(name, sources) and not _under(name, free)]
            lost = [name for name in lost if not self._in_what_is_left(name) and "labels" not in name.split("/")]
            beside = [name for each in self.commands if each is not command for name in each.may]  # such as shards
            lost = [name for name in lost if name in self.before or not _under(name, beside)]
            assert not lost, f"{lost} of a source changed"

    def _in_what_is_left(self, name: str) -> bool:
        return any(LEFT.search(part) for part in name.split("/"))

    def _state(self, output: str) -> str:
        before = {name: what for name, what in self.before.items() if _under(name, [output])}
        after = {name: what for name, what in self.after.items() if _under(name, [output])}
        return "same" if before == after else "new" if not before else "gone" if not after else "changed"

    def _check_output(self, number: int, output: str, source: str) -> None:
        command, ended, state = self.commands[number], self.ended[number], self._state(output)
        others = [each for each in self.commands if each is not command]
        rivals = [each for each in others if _under(output, [*each.outputs, *each.may]) or each.out is not None]
        if state == "same":
            if ended.code == 0 and command.makes_one and not rivals:
                wrong = self.world.wrong(output, self.pixels[source])
                assert wrong is None, f"a success, and {output} is as it was: {wrong}"
            return
        assert state != "gone", f"{output} is gone"
        if state == "changed" and command.verb != "batch" and not rivals and self._was_something(output):
            assert command.overwrites, f"{output} was replaced without --overwrite"
        if any(each.verb == "batch" for each in rivals):
            return
        sources = [source, *(each.outputs[output] for each in rivals if output in each.outputs)]
        wrong = [self.world.wrong(output, self.pixels[each]) for each in sources]
        assert None in wrong, f"{output} is wrong: {wrong}"
        if not others and ended.code > 0 and ended.code != DIED and command.makes_one and not command.page:
            assert "is complete" in ended.text or "caller failed" in ended.text, f"a failure that made {output}"

    def _was_something(self, output: str) -> bool:
        """Whether there was more than an empty folder."""
        inside = any(_under(name, [output]) for name in self.before if name != output)
        return inside or self.before.get(output, ("",))[0] != "folder"

    def _check_report(self, command: Command) -> None:
        name = command.report
        if name is None or name not in self.before or self.before[name] == self.after.get(name):
            return
        if any(each.page == name for each in self.commands):  # which replaces it, where that was asked for
            return
        assert name in self.after, f"the report {name} is gone"
        with open(self.world.root / name, "rb") as file:
            assert file.read(10) == b'{"source":', f"{name} is no report, and was appended to"

    def _check_folder(self, command: Command) -> None:
        """A batch replaces nothing but what batches made."""
        if command.out is None:
            return
        changed = {name for name in self._changed() if _under(name, [command.out]) and name != command.report}
        if not command.overwrites and len(self.commands) == 1:
            lost = [name for name in changed if self.before.get(name, ("",))[0] == "file" and name not in self.made]
            lost = [name for name in lost if not self._in_what_is_left(name) and ".shards/" not in name]
            assert not lost, f"{lost} changed without --overwrite"
        self.made.update(changed)

    def _check_shards(self, number: int, command: Command) -> None:
        folder = command.shards or command.removes
        if folder is None:
            return
        real, whole = self.world.real(folder), self.ended[number].code == 0 or len(self.commands) > 1
        for name in self._changed():
            inside = name[len(real) + 1 :].split("/")[0]
            if _under(name, [real]) and name != real:
                assert _OF_SHARDS.fullmatch(inside), f"{name} is no shard, and changed"
                if command.removes:
                    happened = bool(self.disturbance.happened)
                    assert whole or happened or name in self.after, f"{name} was removed by a run that failed"


def _under(name: str, roots: list[str]) -> bool:
    return any(name == root or name.startswith(root.rstrip("/") + "/") for root in roots)


def told_of(before: Entries, after: Entries) -> str:
    """The difference of two worlds, a line each."""
    names = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    signs = {(True, False): "-", (False, True): "+", (True, True): "~"}
    return "\n".join(f"  {signs[name in before, name in after]} {name}" for name in names[:40] if name not in OF_ZARR)
