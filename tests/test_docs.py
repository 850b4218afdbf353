"""What README and documentation show is true: their code runs, and the tests and messages that they name exist."""

from __future__ import annotations

import ast
import atexit
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Installing and checking is what CI itself does; making environments downloads other programs.
NOT_OURS = (
    "python3 -m venv",
    ".venv/bin/pip",
    "pip ",
    "source ",
    "pytest",
    "SLIDEWRIGHT_",
    "ruff",
    "mkdocs",
    ".ci/run",
    ".venv/bin/python",
)
NOT_RUN = ("slidewright bench environments", "slidewright bench peers slide.tif --environments")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every block, in order."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [(name, re.sub(r'^--8<-- "(.*?)"$', _included, text, flags=re.MULTILINE)) for name, text in found]


def _included(match: re.Match[str]) -> str:
    return (ROOT / match[1]).read_text(encoding="utf-8")


def typed(text: str) -> str:
    """The commands of ours in a block of the console, the demo with a smaller slide."""
    lines = [line.rpartition(" && ")[2] if "bin/slidewright" in line else line for line in text.splitlines()]
    lines = [line.removeprefix(".venv/bin/") for line in lines if not line.startswith((*NOT_OURS, *NOT_RUN))]
    return "\n".join(f"{line} --side 1024" if line.startswith("slidewright demo") else line for line in lines).strip()


@functools.cache
def environment() -> dict[str, str]:
    """With the command on the path, as the Python that runs the tests knows it."""
    command = Path(tempfile.mkdtemp(prefix="slidewright-docs-")) / "slidewright"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m slidewright "$@"\n')
    command.chmod(0o755)
    atexit.register(shutil.rmtree, command.parent, ignore_errors=True)
    path = os.pathsep.join([str(command.parent), os.environ.get("PATH", "")])
    python_path = os.pathsep.join([str(ROOT / "examples"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PATH": path, "PYTHONPATH": python_path}


@pytest.fixture(scope="module")
def granted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the pages take for granted."""
    home = tmp_path_factory.mktemp("docs")
    y, x = np.mgrid[:1200, :1600]
    pixels = np.stack([220 - 60 * (np.sin(x / 40) > 0), 200 - 80 * (np.cos(y / 50) > 0), 210 - 0 * x], 2)
    pixels = (pixels + np.random.default_rng(7).normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
    tiles = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg"}
    for name in ("slide.svs", "slide.tif", "big.tif"):
        tifffile.imwrite(home / name, pixels, **tiles, metadata=None)
    np.save(home / "labels.npy", (y // 400 + x // 800).astype(np.uint8) % 3)
    (home / "colours.json").write_text('{"0": "white", "1": "red", "2": "#1f77b4"}')
    zarr.create_array(home / "scan.zarr", data=pixels, chunks=(256, 256, 3))
    with tifffile.TiffWriter(home / "many.ome.tif", ome=True) as tiff:
        for image in (pixels, pixels[:700, :900]):
            tiff.write(image, subifds=1, **tiles)
            tiff.write(image[::2, ::2], subfiletype=1, **tiles)
    planes = np.stack([pixels[:300, :400, :2].transpose(2, 0, 1)] * 6).reshape(2, 3, 2, 300, 400)
    tifffile.imwrite(home / "stack.ome.tif", planes, ome=True, photometric="minisblack", metadata={"axes": "TZCYX"})
    (home / "slides").mkdir()
    for name in ("a.svs", "b.svs"):
        (home / "slides" / name).write_bytes((home / "slide.svs").read_bytes())
    (home / "manifest.csv").write_text(
        "source,destination,quality\nslides/a.svs,a-90.tif,90\nslides/b.svs,b-80.tif,80\n"
    )
    return home


# test_bench and test_scaling have the same verbs on less
LONG = {"benchmarks": [pytest.mark.slow], "scaling": [pytest.mark.slow]}
RUN = [
    pytest.param(page, marks=LONG.get(page.stem, ()), id=page.stem)
    for page in PAGES
    if any(language == "python" or (language == "console" and typed(text)) for language, text in blocks(page))
]


@pytest.mark.timeout(600)  # of a busy machine
@pytest.mark.parametrize("page", RUN)
def test_blocks_of_a_page_run_in_order_in_one_folder(page: Path, granted: Path, tmp_path: Path) -> None:
    """As a reader copies them into a shell: nothing is added, and nothing is removed in between."""
    folder = tmp_path / "reader"
    shutil.copytree(granted, folder)
    for number, (language, text) in enumerate(blocks(page)):
        what = f"{page.name}, block {number}"
        if language == "console":
            lines = [line for line in typed(text).splitlines() if line]
            assert all(line.startswith("slidewright ") for line in lines), what
            _run(["sh", "-ec", "\n".join(lines)], folder, what)
        elif language == "python":
            (folder / "block.py").write_text(text, encoding="utf-8")
            said = _run([sys.executable, "block.py"], folder, what)
            if "except slidewright." in text:
                assert said.strip(), f"{what} shows no error"


def _run(command: list[str], folder: Path, what: str) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, (what, done.stderr)
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tests_that_are_named_exist(page: Path) -> None:
    for name, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", page.read_text(encoding="utf-8")):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert f"def {test}(" in text or not test, f"{name} has no {test}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_extras_that_are_named_exist(page: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for names in re.findall(r"(?:slidewright|'\.)\[([\w,]+)\]", page.read_text(encoding="utf-8")):
        assert set(names.split(",")) <= set(project["optional-dependencies"])


def test_every_message_in_troubleshooting_is_one_that_we_raise() -> None:
    raised = "\n".join(_messages())
    headings = re.findall(
        r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
    )

    assert len(headings) > 15
    for heading in headings:
        pattern = ".*".join(re.escape(part.strip()) for part in heading.split("…"))
        assert re.search(pattern, raised), f"nothing says {heading!r}"


def _messages() -> list[str]:
    """Every text of the code on a line of its own, with … where something is put in."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                found.append("".join(map(str, parts)).replace("\n", " "))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value.replace("\n", " "))
    return found


def test_every_page_is_in_the_navigation_and_links_lead_somewhere() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        assert f" {page.name}\n" in navigation
        for target in re.findall(r"\]\(([\w./-]+\.(?:md|svg|png))", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_licences_list_every_dependency():
    """Whatever is needed, or can be asked for with an extra of users, is on the page of licences."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["openslide"], *extras["dask"], *extras["bench"]]
    listed = set(re.findall(r"[\w-]+", (ROOT / "docs" / "licences.md").read_text()))
    assert {re.match(r"[\w-]+", word)[0] for word in needed} <= listed
