"""What the README shows is true: its Python runs, its commands exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).resolve().parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line
]


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_python_block_runs(number: int, tmp_path: Path) -> None:
    script = tmp_path / "block.py"
    script.write_text(PYTHON[number], encoding="utf-8")

    done = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=100)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("slidewright ")])
def test_command_and_its_options_exist(line: str) -> None:
    verb, *arguments = shlex.split(line)[1:]

    done = subprocess.run(
        [sys.executable, "-m", "slidewright", verb, "--help"], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stderr
    for option in arguments:
        if option.startswith("--"):
            assert option in done.stdout


def test_extras_that_are_named_exist() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).resolve().parent.parent / "pyproject.toml").read_text(encoding="utf-8"))
    named = set(re.findall(r"(?:slidewright|'\.)\[(\w+)\]", README))

    assert named
    assert named <= set(project["project"]["optional-dependencies"])
