"""Level 0 as the source has it: encoded tiles that are copied, while the levels above are made from their pixels.

A value that travels with the run: workers must know what to hand on, and formats what to say of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from slidewright.codecs import Encoding
from slidewright.sources.base import Stored


@dataclass(frozen=True, slots=True)
class Kept:
    """What level 0 of the output keeps of the source."""

    stored: Stored
    """How the tiles are encoded; the encoding of the image is that of the levels above."""
    filling: Encoding
    """What encodes a tile whose own bytes are not to be used, so that any decoder of the others decodes it."""
    scaled: bool = False
    """Whether level 1 comes from the decoder's own half-size decoding."""
    corrupt: bool = True
    """Whether tiles that do not decode are kept as well."""
    gaps: bool = True
    """Whether tiles that the source leaves out are left out, not made of the pixels that it shows there."""

    @property
    def words(self) -> str:
        """Such as "jpeg (RGB)", for a message."""
        stored = self.stored
        colours = {"rgb": "RGB", "ycbcr": "YCbCr"}.get(stored.photometric, stored.photometric)
        if stored.subsampling is not None:
            across, down = stored.subsampling
            colours += f" {({(1, 1): '4:4:4', (2, 1): '4:2:2', (2, 2): '4:2:0', (4, 1): '4:1:1'}).get((across, down))}"
        return f"{stored.compression} ({colours})"
