"""What pixels are, whatever their source and codec: kind, dtype, channels, colours and palettes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slidewright.errors import OptionError
from slidewright.geometry import SINGLE, Stack
from slidewright.options import Color

Colormap = tuple[tuple[int, int, int], ...]
"""(red, green, blue) of 0 to 65535 by index, as TIFF 6.0 section 5 stores a palette."""

MASKS = ("labels", "binary")
MAX_CHANNELS = 100


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """The pixels as the engine handles them: (height, width, channels) of one dtype."""

    kind: str
    dtype: str
    """In memory and in the file; a binary mask is uint8 of 0 and 1."""
    channels: int
    resampling: str
    background: tuple[float, ...]
    """The value of each channel where there are no pixels."""
    colormap: Colormap | None = None
    interleaved: bool = False
    """Whether the channels of a multichannel image lie side by side in a tile, as the format has decided."""

    stack: Stack = SINGLE

    @property
    def frame_planes(self) -> int:
        """Planes of one frame: the channels of a multichannel image, stored one after the other (TIFF's
        PlanarConfiguration 2).
        """
        return self.channels if self.kind == "multichannel" and not self.interleaved else 1

    @property
    def planes(self) -> int:
        """Planes of all frames."""
        return self.frame_planes * self.stack.frames

    @property
    def samples(self) -> int:
        """Samples of a pixel within one plane."""
        return self.channels // self.frame_planes

    @property
    def reduction(self) -> str:
        """The method of `pyramid.reduce`: colours vote for the mode together, channels that are no colours each for
        their own, however they are stored.
        """
        each = self.resampling == "mode" and self.kind not in ("rgb", "rgba")
        return "mode-of-each" if each else self.resampling

    @property
    def all_channels(self) -> int:
        """Channels of all frames, one after the other."""
        return self.channels * self.stack.frames

    @property
    def words(self) -> str:
        """Such as "uint8 RGB", for a message."""
        names = {"rgb": "RGB", "rgba": "RGBA", "binary": "binary mask", "multichannel": f"{self.channels} channels"}
        return f"{self.dtype} {names.get(self.kind, self.kind)}"


def parse_color(color: Color, option: str) -> tuple[int, int, int]:
    """(red, green, blue) of 0 to 255; raises OptionError, naming the option that the colour is for."""
    if isinstance(color, str):
        from PIL import ImageColor

        try:
            return ImageColor.getrgb(color)[:3]
        except ValueError:
            raise OptionError(
                f"{option} {color!r} is not a colour; write a name such as 'tomato', '#rrggbb' or (red, green, blue)"
            ) from None
    values: tuple[Any, ...] = tuple(color) if isinstance(color, Sequence) else ()
    if len(values) != 3 or not all(_is_whole(value) and 0 <= value <= 255 for value in values):
        raise OptionError(f"{option} {color!r} is not (red, green, blue) of 0 to 255, nor the name of a colour")
    return (int(values[0]), int(values[1]), int(values[2]))


def hex_color(color: Any, option: str) -> str:
    """A colour as "#rrggbb"; raises OptionError as `parse_color`."""
    return "#{:02x}{:02x}{:02x}".format(*parse_color(color, option))


def parse_colormap(colormap: Mapping[int, Color] | Sequence[Color]) -> Colormap:
    """The palette from index 0 to the highest index given; indices in between that are not given are black.

    Raises
    ------
    OptionError
        When it is empty, an index is not a whole number from 0 to 65535, or a colour is none.
    """
    items = dict(colormap) if isinstance(colormap, Mapping) else dict(enumerate(colormap))
    if not items:
        raise OptionError("colormap is empty; give a colour for each label, such as {0: 'white', 1: 'red'}")
    for index in items:
        if not _is_whole(index) or not 0 <= index <= 65535:
            raise OptionError(f"colormap has the index {index!r}; labels are whole numbers from 0 to 65535")
    colors = {int(index): parse_color(color, f"colormap[{index}]") for index, color in items.items()}
    wide = {index: (red * 257, green * 257, blue * 257) for index, (red, green, blue) in colors.items()}
    return tuple(wide.get(index, (0, 0, 0)) for index in range(max(wide) + 1))


def _is_whole(value: object) -> bool:
    return hasattr(value, "__index__") and not isinstance(value, bool)
