"""What an image says of itself besides its pixels, and which of it may identify a patient or a person.

Apart from the sources, which fill it in, and the formats, which write it: both know it, and so does the caller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slidewright.errors import OptionError

_NUMBERED = re.compile(r"(?:channel)?[ :_-]*(\d{1,4})", re.IGNORECASE)
"""Names that programs give to channels that have none."""
_HALVES = re.compile("[\ud800-\udfff]")
"""What JSON and the command line can bring and no file can hold: surrogates, which are half a character."""


def whole(text: str | None) -> str | None:
    """A text with U+FFFD in the place of each half character."""
    return None if text is None else _HALVES.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel of an image."""

    name: str | None = None
    color: tuple[int, int, int] | None = None
    """(red, green, blue) of 0 to 255, to show it in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """Optics, geometry and instrument of an image; None for what is not known. Micrometres a pixel, ICC profile and
    palette stand beside it, since formats have places of their own for them.
    """

    objective_power: float | None = None
    """The nominal magnification of the objective, such as 20."""
    reduction: float = 1.0
    """How many pixels of the whole slide, along a side, one of the image stands for: above 1 for a level of it, of
    which the objective does not say the magnification.
    """
    scanner_vendor: str | None = None
    scanner_model: str | None = None
    scanner_software: str | None = None
    """What wrote the source."""
    channels: tuple[Channel, ...] = ()
    """One for each channel of the image, or none at all."""
    z_spacing: float | None = None
    """Micrometres from one plane of a stack to the next."""
    time_increment: float | None = None
    """Seconds from one time of a stack to the next."""
    significant_bits: int | None = None
    """How many of the bits of a sample its values use, where a source says that they are not all."""
    background: tuple[int, int, int] | None = None
    """The colour, of 0 to 255, that stands for "no tissue"."""
    identifying: tuple[tuple[str, str], ...] = ()
    """(name, value) of fields that are not on the list of what may be kept: user, barcode, case, file name, date and
    everything that nobody here knows.
    """

    @property
    def known(self) -> dict[str, str]:
        """The fields that may be kept and are known, in words, by their name."""
        channels = ", ".join(channel.name or "?" for channel in self.channels)
        values = {
            "objective_power": None if self.objective_power is None else f"{self.objective_power:g}",
            "scanner_vendor": self.scanner_vendor,
            "scanner_model": self.scanner_model,
            "scanner_software": self.scanner_software,
            "channels": channels or None,
            "z_spacing": None if self.z_spacing is None else f"{self.z_spacing:g}",
            "time_increment": None if self.time_increment is None else f"{self.time_increment:g}",
            "background": None if self.background is None else "#{:02x}{:02x}{:02x}".format(*self.background),
        }
        return {name: value for name, value in values.items() if value is not None}

    @property
    def tells_of_channels(self) -> bool:
        """Whether what is said of channels is more than their number, and that a single one is shown in white or grey,
        as OME has it by default.
        """
        colours = [channel.color for channel in self.channels if channel.color is not None]
        shown = any(len(self.channels) > 1 or len(set(color)) > 1 for color in colours)
        return shown or bool(self.telling_names)

    @property
    def telling_names(self) -> list[str]:
        """Names of channels that are more than the number of the channel."""
        found = []
        for number, name in enumerate(channel.name for channel in self.channels):
            numbered = _NUMBERED.fullmatch(name or "")
            if name and not (numbered and int(numbered[1]) in (number, number + 1)):
                found.append(name)
        return found

    def kept(self, keep: str) -> Metadata:
        """What goes into an output: all, what is on the list ("allowed"), or nothing ("none")."""
        if keep == "all":
            return self
        return replace(self, identifying=()) if keep == "allowed" else Metadata()

    @property
    def whole(self) -> Metadata:
        """The same, each text as `whole` has it."""
        return replace(
            self,
            scanner_vendor=whole(self.scanner_vendor),
            scanner_model=whole(self.scanner_model),
            scanner_software=whole(self.scanner_software),
            channels=tuple(replace(channel, name=whole(channel.name)) for channel in self.channels),
            identifying=tuple((whole(name) or "", whole(value) or "") for name, value in self.identifying),
        )

    def with_channels(
        self, count: int, names: Sequence[str] | None, colors: Sequence[tuple[int, int, int]] | None
    ) -> Metadata:
        """With names and colours given by the caller, for an image of `count` channels.

        Raises
        ------
        OptionError
            When there is not one for each channel.
        """
        for option, given in (("channel_names", names), ("channel_colors", colors)):
            if given is not None and len(given) != count:
                raise OptionError(f"{option} has {len(given)} entries, and the image has {count} channels; give each")
        channels = self.channels if len(self.channels) == count else (Channel(),) * count
        if names is not None:
            channels = tuple(replace(old, name=name) for old, name in zip(channels, names, strict=True))
        if colors is not None:
            channels = tuple(replace(old, color=color) for old, color in zip(channels, colors, strict=True))
        return replace(self, channels=channels if any(channel != Channel() for channel in channels) else ())


def background_of(text: str | None) -> tuple[int, int, int] | None:
    """The colour that `Metadata.known` has as "#rrggbb"; None for anything else."""
    if text is None or not re.fullmatch("#[0-9a-f]{6}", text):
        return None
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def fields_of(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Fields for `Metadata.identifying`: in order of their names, without empty ones."""
    return tuple(sorted((name, value.strip()) for name, value in values.items() if value.strip()))
