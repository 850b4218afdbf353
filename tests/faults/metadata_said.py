"""What a random image says of itself, and what the writers of sources that say it have in common."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms

Pixels = NDArray[Any]
Color = tuple[int, int, int]

RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GREY_PROFILE = RGB_PROFILE[:16] + b"GRAY" + RGB_PROFILE[20:]
OME_UNITS = {"µm": 1, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "Å": 1e-4, "in": 25_400, "pm": 1e-6, "m": 1e6}
OME_TIMES = {"s": 1, "ms": 1e-3, "min": 60, "h": 3600}
IMAGEJ_UNITS = {"micron": 1, "um": 1, r"\u00B5m": 1, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "inch": 25_400}
IMAGEJ_TIMES = {"sec": 1, "min": 60, "msec": 1e-3, "s": 1, "hr": 3600}
NGFF_UNITS = {"micrometer": 1, "nanometer": 1e-3, "millimeter": 1e3, "centimeter": 1e4, "angstrom": 1e-4}
NGFF_TIMES = {"second": 1, "millisecond": 1e-3, "minute": 60, "hour": 3600}
WORDS = ("DAPI", "CD3", "Ki-67", "Cy5", "AF 488", "Häm", "µ-opioid", '<a "b" & c>', "x | y = z")
MAKERS = ("Leica", "Hamamatsu", "3DHISTECH", "Zeiss & Söhne", "A|B = C", "two  blanks")


@dataclass
class Said:
    """What an image truly says of itself. Names and colours are None where nothing is said of them."""

    kind: str = "rgb"
    samples: int = 3
    dtype: str = "uint8"
    shape: tuple[int, int] = (1, 1)
    stack: tuple[int, int] = (1, 1)
    """Times, and planes along z."""
    levels: int = 1
    pages: list[int] = field(default_factory=list)
    """Which pages of a TIFF the levels are, where they are pages of the main chain."""
    mpp: tuple[float, float] | None = None
    icc: bytes | None = field(default=None, repr=False)
    palette: dict[int, Color] | None = None
    objective_power: float | None = None
    vendor: str | None = None
    model: str | None = None
    software: str | None = None
    z_spacing: float | None = None
    time_increment: float | None = None
    names: list[str] | None = None
    colors: list[Color] | None = None
    bits: int | None = None
    """Of each value that are used, where these are not all."""
    secrets: dict[str, str] = field(default_factory=dict)
    """What may identify: where it stands, and a text that is nowhere else."""
    told: dict[str, str] = field(default_factory=dict)
    """What no output says, and a word of the warning about it."""
    beside: dict[str, Pixels] = field(default_factory=dict, repr=False)
    """Label and macro."""

    @property
    def channels(self) -> int:
        """Of which an image names each: colours are one."""
        return self.samples if self.kind == "multichannel" else 1


class Teller:
    """Random numbers, pixels and texts, noted in `said` as they are made."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder, self.chance = folder, chance
        self.said = Said(shape=(chance.randrange(70, 260), chance.randrange(70, 260)))
        self.options: dict[str, Any] = {}
        """That the first conversion needs to read it."""
        self.form = ""

    def __str__(self) -> str:
        return f"{self.form}, {self.said}"

    def maybe(self, part: float = 0.5) -> bool:
        return self.chance.random() < part

    def number(self, low: float, high: float) -> float:
        """A number as people write them: of few digits, or of many."""
        value = self.chance.uniform(low, high)
        return round(value, 3) if self.maybe() else value

    def secret(self, place: str) -> str:
        """A text that may identify, noted as such."""
        self.said.secrets[place] = f"q{self.chance.randrange(16**12):012x}z"
        return self.said.secrets[place]

    def pixels(self) -> Pixels:
        """(t, z, c, y, x, s) of the image: coarse noise, so that files are small. Labels are up to 9."""
        said = self.said
        height, width = said.shape
        noise = np.random.default_rng(self.chance.randrange(1 << 30))
        channels, samples = (said.samples, 1) if said.kind != "rgb" else (1, 3)
        size = (*said.stack, channels, -(-height // 8), -(-width // 8), samples)
        coarse = noise.integers(0, {"labels": 9, "binary": 2}.get(said.kind, 200), size).astype(said.dtype)
        whole = coarse.repeat(8, 3).repeat(8, 4)[:, :, :, :height, :width]
        if said.kind == "labels":  # so that nearest and mean differ
            whole = (whole + noise.integers(0, 2, whole.shape)).astype(said.dtype)
        return np.ascontiguousarray(whole)

    def _sizes(self) -> list[tuple[int, int]]:
        """Of the levels that the source has."""
        self.said.levels = self.chance.choice((1, 1, 2))
        height, width = self.said.shape
        return [(height >> level, width >> level) for level in range(self.said.levels)]

    def _profile(self) -> bytes | None:
        if self.maybe(0.4):
            self.said.icc = RGB_PROFILE if self.said.kind == "rgb" else GREY_PROFILE
        return self.said.icc

    def _palette(self) -> dict[int, Color]:
        self.said.palette = {n: tuple(self.chance.randrange(256) for _ in "rgb") for n in range(11)}  # type: ignore[misc]
        return self.said.palette

    def _photometric(self) -> dict[str, Any]:
        if self.said.kind == "rgb":
            return {"photometric": "rgb"}
        return {"photometric": "minisblack"}

    def _who_tags(self, part: float) -> list[tuple[Any, ...]]:
        """Who, when and where."""
        codes = {"Artist": 315, "HostComputer": 316, "DocumentName": 269, "Copyright": 33432, "DateTime": 306}
        return [(code, 2, 0, self.secret(name), True) for name, code in codes.items() if self.maybe(part)]

    def _names(self) -> None:
        if self.maybe(0.6):
            self.said.names = [f"{self.chance.choice(WORDS)} {number}" for number in range(self.said.channels)]
        if self.maybe(0.6):
            some = (self.chance.randrange(256), self.chance.randrange(256))
            self.said.colors = [(some[0], 40 * number, some[1]) for number in range(self.said.channels)]
