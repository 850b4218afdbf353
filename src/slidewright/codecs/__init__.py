"""How a tile becomes a segment: the compression table, what it accepts, one encoder a worker.

`resolve` turns options and pixels into an `Encoding`, a small picklable value from which each worker makes its encoder
and the writer its tags. Nothing here imports NumPy or a codec before an encoder is made, so that help can read the
table.
"""

from slidewright.codecs.encoding import Codec, Effort, Encoder, Encoding
from slidewright.codecs.resolve import resolve
from slidewright.codecs.table import ALIASES, CODECS, DEFAULT, DEFAULT_IMAGE, canonical, codecs_of

__all__ = [
    "ALIASES",
    "CODECS",
    "DEFAULT",
    "DEFAULT_IMAGE",
    "Codec",
    "Effort",
    "Encoder",
    "Encoding",
    "canonical",
    "codecs_of",
    "resolve",
]
