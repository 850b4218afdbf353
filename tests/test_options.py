"""Options as they are given, and what is wrong with them."""

from __future__ import annotations

import pytest

from slidewright.errors import OptionError
from slidewright.options import parse_bytes


@pytest.mark.parametrize(
    ("text", "value"), [("4GB", 4e9), ("512MiB", 512 << 20), ("1.5 g", 1.5e9), ("100", 100), (7, 7)]
)
def test_memory_sizes_are_understood(text, value):
    assert parse_bytes(text) == value


@pytest.mark.parametrize("text", ["", "4 parsecs", "-1GB", "0"])
def test_senseless_memory_sizes_are_refused(text):
    with pytest.raises(OptionError, match="memory"):
        parse_bytes(text)
