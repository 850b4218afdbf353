"""Whether an archive still gives back the file that it was made of: put together again, and held against its hash.

Apart from `verify.py` because that looks at pixels, which tell nothing of what lies between them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from slidewright.errors import SourceError, VerifyError
from slidewright.inspection.decode import in_parallel
from slidewright.sources.jpeg_segments import ArchivedSegments
from slidewright.system.pixel_file import PixelFile
from slidewright.tiff.archive import Recipe, hasher, read_recipe

_SEGMENTS = 64  # that are in memory at a time
_STEP = 1 << 20


def check_original(path: str, threads: int) -> list[int]:
    """Raise a VerifyError for an archive whose original can't be restored; nothing is written. The answer is where the
    segments are that no JPEG XL could be made of, because they are damaged for instance.
    """
    try:
        recipe, digest = read_recipe(path), hasher()
        for piece in _pieces(path, recipe, threads):
            digest.update(piece)
    except SourceError as error:
        raise VerifyError(str(error)) from error
    if digest.hexdigest() != recipe.sha256:
        raise VerifyError(f"{path}: what comes out of it is not the file that was archived; copy it again")
    return list(map(int, recipe.segment_places[~recipe.recompressed]))


def _pieces(path: str, recipe: Recipe, threads: int) -> Iterator[bytes]:
    """The original, from its first byte to its last."""
    gaps, number = [*zip(recipe.gap_places.tolist(), recipe.cut.gaps.tolist(), strict=True)], len(recipe.cut)
    with (
        contextlib.closing(ArchivedSegments(path, recipe).open()) as segments,
        contextlib.closing(PixelFile(path)) as file,
    ):
        for first in range(0, number, _SEGMENTS):
            rows = range(first, min(first + _SEGMENTS, number))
            found = in_parallel(lambda row: segments.segment(row, 0), rows, threads)
            for row, segment in zip(rows, found, strict=True):
                yield from _gap(file, *gaps[row])
                yield segment or b""
        yield from _gap(file, *gaps[number])


def _gap(file: PixelFile, place: int, left: int) -> Iterator[bytes]:
    while left and (data := file.read(place, min(left, _STEP))):
        yield data
        place, left = place + len(data), left - len(data)
