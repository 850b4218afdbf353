"""Codecs of bytes: what goes in is the tile as an uncompressed TIFF holds it, differenced or packed into bits first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slidewright.codecs.encoding import EncodeTile, Encoding


def make_none(encoding: Encoding) -> EncodeTile:
    """Nothing but the bytes."""
    stored = _stored(encoding)
    return lambda tile: bytes(stored(tile).tobytes())


def make_deflate(encoding: Encoding) -> EncodeTile:
    """libdeflate: the zlib format at twice zlib's speed."""
    from imagecodecs import deflate_encode

    stored, level = _stored(encoding), encoding.effort
    return lambda tile: bytes(deflate_encode(stored(tile), level))


def make_gzip(encoding: Encoding) -> EncodeTile:
    """A gzip file by libdeflate, without a name or a time."""
    from imagecodecs import gzip_encode

    stored, level = _stored(encoding), encoding.effort
    return lambda tile: bytes(gzip_encode(stored(tile), level))


def make_blosc(encoding: Encoding) -> EncodeTile:
    """Blosc 1: Zstandard after the bits of samples have been sorted by significance."""
    import numpy as np
    from imagecodecs import blosc_encode

    stored = _stored(encoding)
    settings: dict[str, Any] = {"level": encoding.effort, "compressor": "zstd", "shuffle": 2, "numthreads": 1}
    settings["typesize"] = int(np.dtype(encoding.dtype).itemsize)
    return lambda tile: bytes(blosc_encode(stored(tile), **settings))


def make_zstd(encoding: Encoding) -> EncodeTile:
    """One Zstandard frame."""
    from imagecodecs import zstd_encode

    stored, level = _stored(encoding), encoding.effort
    return lambda tile: bytes(zstd_encode(stored(tile), level))


def make_lzw(encoding: Encoding) -> EncodeTile:
    """TIFF's variant of LZW, most significant bit first (TIFF 6.0 section 13)."""
    from imagecodecs import lzw_encode

    stored = _stored(encoding)
    return lambda tile: bytes(lzw_encode(stored(tile)))


def make_packbits(encoding: Encoding) -> EncodeTile:
    """Each row is packed by itself, as TIFF 6.0 section 9 asks for."""
    import numpy as np
    from imagecodecs import packbits_encode

    stored, rows = _stored(encoding), encoding.tile

    def encode(tile: NDArray[Any]) -> bytes:
        flat: Any = stored(tile).reshape(rows, -1).view(np.uint8)
        return bytes(packbits_encode(flat, axis=-1))

    return encode


def pack_bits(tile: NDArray[Any]) -> NDArray[Any]:
    """Rows of single bits, the first pixel in the highest bit (TIFF 6.0: FillOrder 1), 1 where the mask is."""
    import numpy as np

    return np.packbits(tile[:, :, 0], axis=1)


def _stored(encoding: Encoding) -> Callable[[NDArray[Any]], Any]:
    """From a tile to its samples as the file holds them, before compression."""
    if encoding.bits == 1:
        return pack_bits
    if encoding.predictor == 2:
        from imagecodecs import delta_encode

        return lambda tile: _little_endian(delta_encode(tile, axis=1))
    if encoding.predictor == 3:
        from imagecodecs import floatpred_encode

        return lambda tile: floatpred_encode(_little_endian(tile), axis=-2)
    if encoding.planar and encoding.samples > 1:
        return lambda tile: _little_endian(_separated(tile))
    return _little_endian


def _separated(tile: NDArray[Any]) -> Any:
    """Sample by sample, by OpenCV: NumPy takes five times as long for bytes."""
    import cv2
    import numpy as np

    out = np.empty((tile.shape[2], *tile.shape[:2]), tile.dtype)
    cv2.split(tile, list(out))
    return out


def _little_endian(tile: NDArray[Any]) -> Any:
    return tile if tile.dtype.itemsize == 1 else tile.astype(tile.dtype.newbyteorder("<"), copy=False)
