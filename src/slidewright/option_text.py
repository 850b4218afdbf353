"""From text to the value of an option, for the command line and for manifests alike.

Each raises OptionError, whose message begins with the text; who calls puts the option's name before it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from slidewright.errors import OptionError, did_you_mean
from slidewright.system.json_file import read_json

_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)


def parse_bytes(text: str | int) -> int:
    """A number of bytes from 4000000000, "4GB" (10^9) or "4GiB" (2^30); raises OptionError."""
    if isinstance(text, int):
        value = text
    else:
        match = _BYTES.fullmatch(text)
        if match is None:
            raise OptionError(f"memory {text!r} is not a size; write for example 4GB or 512MiB")
        number, prefix, binary = match.groups()
        size = float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " ")
        value = int(min(size, 2.0**63))  # a number with hundreds of digits is infinite
    if value <= 0:
        raise OptionError(f"memory {text!r} must be more than nothing")
    return value


class FileColormap(dict[int, str]):
    """A palette, which knows the file that it was read from, so that nothing is written over that."""

    path: str


def read_colormap(text: str) -> dict[int, str]:
    """A palette as a line of text, "0=white,1=red", or the path of a JSON file of it: {"0": "white", "1": "red"}."""
    if "=" not in text:
        return _colormap_file(text)
    pairs = [part.split("=", 1) for part in text.split(",") if part.strip()]
    try:
        return {int(index): color.strip() for index, color in pairs}
    except ValueError:
        raise OptionError(f"{text!r} is not a list such as 0=white,1=red,2=#00ff00") from None


def _colormap_file(path: str) -> dict[int, str]:
    try:
        found = FileColormap((int(index), color) for index, color in read_json(path).items())
        found.path = os.path.abspath(path)
        return found
    except OSError as error:
        raise OptionError(
            f"{path!r} can't be read ({error.strerror}); give a list such as 0=white,1=red, or a JSON file of it"
        ) from error
    except (ValueError, AttributeError) as error:
        raise OptionError(f'{path!r} is not JSON such as {{"0": "white", "1": "red"}}') from error


def read_whole(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise OptionError(f"{text!r} must be a whole number") from None


def read_places(text: str) -> int | str:
    """A number, or what stands for several: "all", or "2:5" for 2, 3 and 4."""
    return text if text == "all" or ":" in text else read_whole(text)


def read_seconds(text: str) -> float:
    """A number of seconds."""
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{text!r} must be a number of seconds") from None


def read_number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{text!r} must be a number") from None


def read_words(text: str) -> tuple[str, ...]:
    """Words between commas; "none" for no word at all."""
    return () if text == "none" else tuple(word.strip() for word in text.split(","))


def read_yes_or_no(text: str) -> bool:
    """Yes or no, in any of the words that spreadsheets write."""
    words = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
    if text.lower() not in words:
        raise OptionError(f"{text!r} must be yes or no")
    return words[text.lower()]


def read_mpp(text: str) -> float | tuple[float, float]:
    """ "0.25", or "0.25,0.26" for x and y."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise OptionError(f"{text!r} is not a number of micrometres; write 0.25, or 0.25,0.26 for x and y")
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def read_region(text: str) -> tuple[int, int, int, int]:
    """ "x,y,width,height"."""
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"{text!r} is not a region; write x,y,width,height in pixels, such as 0,0,512,512") from None
    return x, y, width, height


def read_background(text: str) -> str | int | float:
    """A colour, or a number for pixels that are none."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def read_one_of(*choices: str) -> Callable[[str], str]:
    """What reads one of these words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise OptionError(f"{text!r} is not known; choose one of {', '.join(choices)}{did_you_mean(text, choices)}")
        return text

    return parse
