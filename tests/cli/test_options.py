"""The flags of the verbs are those of the table of options; help lists them in groups."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from typing import Any

import click
import pytest
from test_options import EXAMPLES

import slidewright
from slidewright.cli.assemble import assemble
from slidewright.cli.batch import batch
from slidewright.cli.convert import convert
from slidewright.cli.main import main
from slidewright.cli.shard import shard
from slidewright.cli.verify import verify
from slidewright.option import GROUPS
from slidewright.options import OPTIONS, SELECTION, taken_by

VERBS = {"convert": convert, "shard": shard, "assemble": assemble, "batch": batch, "verify": verify}
OWN = {
    "convert": {"--report", "--dry-run"},
    "shard": {"--index", "--count", "--array"},
    "assemble": {"--source", "--remove"},
    "verify": {"--against", "--min-psnr", "--workers"},
    "batch": {"--out", "--suffix", "--recursive", "--dry-run", "--array", "--count", "--report"},
}
EVERY = {"--debug", "--json"}
QUIET = {"--quiet", "-q"}


@pytest.mark.parametrize("verb", VERBS)
def test_flags_of_a_verb_are_those_of_the_table_and_its_own(verb: str) -> None:
    options = [parameter for parameter in VERBS[verb].params if isinstance(parameter, click.Option)]
    found = {flag for option in options for flag in (*option.opts, *option.secondary_opts)}
    selection = [option for option in SELECTION.values() if verb in option.takers]
    table = {flag for option in (*selection, *taken_by(verb).values()) for flag in option.flags}
    assert found == table | OWN[verb] | EVERY | (QUIET if verb != "verify" else set())


def test_help_has_every_flag_under_its_heading_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--help"]) == 0
    text = capsys.readouterr().out
    _, *parts = re.split(r"^(\w+):\n", text, flags=re.MULTILINE)
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert list(sections) == ["Options", *GROUPS, "Example"]
    for option in (*SELECTION.values(), *OPTIONS.values()):
        for flag in option.flags:
            assert re.search(rf"(?<![\w-]){flag}(?![\w-])", sections[option.group]), flag
    assert "slidewright convert slide.svs out.tif" in sections["Example"]


def test_every_flag_reaches_the_library_as_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def stand_in(source: str, destination: str, **options: Any) -> None:
        given.update(options)

    monkeypatch.setattr(slidewright, "convert", stand_in, raising=False)
    words = [word for name, value in EXAMPLES.items() for word in {**SELECTION, **OPTIONS}[name].arguments(value)]

    assert main(["convert", "a", "b", "-q", *words]) == 0

    assert given == {**EXAMPLES, "engine": "dask", "progress": False}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convret a b", "Did you mean 'convert'?"),
        ("bench peer a", "Did you mean 'peers'?"),
        ("convert a b --qualty 3", "'--quality'"),
        ("convert a b --n-workers 3", "on the command line it is '--workers'"),
        ("convert a b --n_workers 3", "on the command line it is '--workers'"),
        ("batch a --bigtiff", "on the command line it is '--classic'"),
        ("convert a b --kind lables", "did you mean 'labels'?"),
        ("convert a b --workers -1", "error: --workers -1 must be a whole number from 0 to 1024"),
        ("convert a b --tile-size 100", "error: --tile-size 100 is not a multiple of 16"),
        ("convert a b --levels few", "Invalid value for '--levels': 'few' must be a whole number"),
    ],
)
def test_what_is_mistyped_is_told_what_may_have_been_meant(
    capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert main(shlex.split(line)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["convert", "--help"], ["batch", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from slidewright.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'numpy', 'zarr', 'tifffile', 'imagecodecs', 'cv2', 'rich', 'PIL', 'dask'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)


def completions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str) -> list[str]:
    """What bash is offered after what was typed: (type, word) with a comma between them."""
    words = f"slidewright {typed}".split(" ")
    monkeypatch.setenv("_SLIDEWRIGHT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    assert main([]) == 0
    return capsys.readouterr().out.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("conv", ["plain,convert"]),
        ("convert a b --compression jpeg2", ["plain,jpeg2000", "plain,jpeg2000-lossy"]),
        ("batch a --compression zs", ["plain,zstd"]),
        ("convert a b --format ome-", ["plain,ome-zarr", "plain,ome-tiff"]),
        ("convert a b --resampling me", ["plain,mean", "plain,median"]),
        ("convert a b --dry", ["plain,--dry-run"]),
        ("convert sli", ["file,sli"]),
        ("convert a ./o", ["file,./o"]),
        ("batch a b sli", ["file,sli"]),
        ("batch a --out dir", ["dir,dir"]),
        ("convert a b --scratch /t", ["dir,/t"]),
        ("convert a b --colormap c", ["file,c"]),
        ("verify a --against b", ["file,b"]),
        ("bench peers sli", ["file,sli"]),
    ],
)
def test_shells_complete_verbs_flags_values_and_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, offered: list[str]
) -> None:
    assert completions(monkeypatch, capsys, typed) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_are_told_how_to_complete(shell: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "_SLIDEWRIGHT_COMPLETE": f"{shell}_source"}
    code = "from slidewright.cli.main import main; main([])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"{shell}_complete" in done.stdout or "bash" in done.stderr  # click wants a bash of 4.4 for bash
