"""From options and pixels to an encoding, or to what is wrong."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from slidewright.codecs import CODECS, resolve
from slidewright.errors import OptionError
from slidewright.geometry import Size
from slidewright.options import ConvertOptions
from slidewright.sources.base import SourceInfo
from slidewright.sources.pixel_format import resolve_pixels


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(
    ("dtype", "samples"), [("uint8", 1), ("uint8", 3), ("uint16", 1), ("float32", 1), ("uint8", 4)]
)
def test_codec_table_encodes_what_it_accepts_and_refuses_the_rest(name, dtype, samples):
    options = ConvertOptions(compression=name, tile_size=32)
    pixels = resolve_pixels(options, SourceInfo("test", "test", Size(40, 50), samples, dtype))
    family = min(CODECS[name].families)
    if CODECS[name].refusal(pixels) is not None:
        with pytest.raises(OptionError, match="choose one of"):
            resolve(options, pixels, family)
        return
    encoding = pickle.loads(pickle.dumps(resolve(options, pixels, family)))
    segment = encoding.encoder().encode([np.zeros((32, 32, samples), dtype)])[0]
    assert isinstance(segment, bytes)
    assert segment
