"""Makes an environment for each peer, with the versions that are compared with: a venv and a call of pip or two."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from slidewright.bench.peers import KINDS, PeerKind, default_environments
from slidewright.errors import OptionError


def make_environments(
    folder: str | None, names: Sequence[str] | None = None, tell: Callable[[str], None] = lambda _: None
) -> dict[str, str]:
    """Make the environments that are not there yet, each in `folder`/NAME.

    Returns
    -------
    dict
        Name to what came of it: "made", "is there", or the reason why there is none.

    Raises
    ------
    OptionError
        For a name that is not known.
    """
    answers = {}
    for name in KINDS if names is None else names:
        if name not in KINDS:
            raise OptionError(f"peer {name!r} is not known; known are {', '.join(KINDS)}")
        home = default_environments() if folder is None else Path(folder)
        answers[name] = _make(KINDS[name], home / name)
        tell(f"{name}: {answers[name]}")
    return answers


def _make(kind: PeerKind, home: Path) -> str:
    if (home / "done").exists():
        return "is there"
    if home.exists() and not (home / "pyvenv.cfg").is_file():
        return f"{str(home)!r} is there and no environment; name another folder"
    python = find_python(kind.python)
    if python is None:
        return f"no Python {kind.python} on the PATH or under ~/.pyenv/versions; install one"
    shutil.rmtree(home, ignore_errors=True)
    home.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    commands = [[python, "-m", "venv", str(home)], [*pip, *kind.packages]]
    commands += [[*pip, "--no-deps", *kind.bare]] if kind.bare else []
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"{' '.join(command[:4])} failed: {done.stderr.strip()[-1000:]}"
    (home / "done").touch()
    return "made"


def find_python(version: str) -> str | None:
    """An interpreter of a version such as "3.10": our own, one on the PATH, or one of pyenv's."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    on_path = shutil.which(f"python{version}")
    if on_path is not None and subprocess.run([on_path, "-c", ""], capture_output=True).returncode == 0:
        return on_path  # and not a stand-in of pyenv's that refuses
    kept = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(kept[-1]) if kept else None
