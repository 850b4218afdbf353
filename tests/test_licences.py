"""The list of licences names what pyproject.toml asks for, and the licences that the packages state themselves."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata

import pytest


def table(root) -> dict[str, str]:
    """Licence by package, of both tables of the page."""
    text = (root / "docs" / "licences.md").read_text()
    rows = re.findall(r"^\| ([a-z0-9, -]+) \| ([0-9.]+) \| ([^|]+) \|", text, re.MULTILINE)
    return {name: licence.strip() for names, _, licence in rows for name in names.split(", ")}


def wanted(root) -> set[str]:
    """What a user installs: the dependencies, and the extras that are not for developers."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = (lines for name, lines in project["optional-dependencies"].items() if name not in ("test", "docs", "dev"))
    lines = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return {re.match(r"[A-Za-z0-9_.-]+", line)[0].lower() for line in lines}


def test_every_dependency_has_its_licence_in_the_list(root):
    assert set(table(root)) == wanted(root)


def test_licences_are_those_that_the_packages_state(root):
    compared = 0
    for name, licence in table(root).items():
        try:
            stated = metadata.metadata(name).get("License-Expression")
        except metadata.PackageNotFoundError:
            continue
        if stated:
            compared += 1
            first = re.split(r"[;,]", licence)[0]
            assert stated.startswith(first), (name, licence, stated)
    if not compared:
        pytest.skip("no package here states its licence as an expression")
