"""The documentation's tables and the help say what the code's table says."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from compression_tables import PAGE, written

from slidewright.codecs import CODECS


def test_tables_in_the_documentation_are_those_of_the_code() -> None:
    page = PAGE.read_text()
    assert page == written(page), "run python tests/compression_tables.py"


def test_help_names_every_compression_its_range_and_default() -> None:
    command = [sys.executable, "-m", "slidewright", "convert", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "80"})
    text = re.sub(r"(?<=\w)- (?=\w)", "-", " ".join(done.stdout.split()))  # names broken at their hyphen
    for name, codec in CODECS.items():
        assert re.search(rf"\b{name}\b", text), name
        if codec.effort is not None:
            assert f"{codec.effort.low} to {codec.effort.high}, default {codec.effort.default}" in text
