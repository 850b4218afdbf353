"""Chunks that decode to no more than they may: what a chunk holds is known from the array's metadata, so a stream that
would become more is refused before it does.

Blosc, Zstandard and LZ4 say in their first bytes what they decode to; deflate, bzip2 and LZMA don't, and are decoded up
to the limit here; those of imagecodecs decode into memory that is given to them. Other codecs are bounded by the
worker's own memory limit alone. Imported only where zarr is needed.
"""

from __future__ import annotations

import bz2
import lzma
import math
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numcodecs.abc
import numpy as np
import zarr
from zarr.abc.codec import ArrayBytesCodec, BytesBytesCodec
from zarr.registry import get_codec_class, register_codec

from slidewright.errors import SourceError
from slidewright.sources.access.image_chunks import NAMES, decode_image
from slidewright.tiff.jpeg2000 import too_much
from slidewright.tiff.stream_headers import look

_CODECS = {
    "bytes", "transpose", "sharding_indexed", "gzip", "zlib", "zstd", "blosc", "lz4", "lzma", "bz2", "lzf", "zfpy",
    "pcodec", "adler32", "crc32", "crc32c", "fletcher32", "jenkins_lookup3", "shuffle", "delta", "bitround",
    "fixedscaleoffset", "quantize", "packbits", "astype", "cast_value", "scale_offset",
}  # fmt: skip
_IMAGECODECS = "imagecodecs_"
_BYTES = {
    "blosc", "blosc2", "brotli", "bz2", "deflate", "lz4", "lz4f", "lz4h5", "lzf", "lzma", "lzw", "packbits", "snappy",
    "zlib", "zlibng", "zopfli", "zstd",
}  # fmt: skip
_IMAGES = {"apng", "htj2k", "jpeg", "jpeg2k", "jpegls", "jpegxl", "jpegxr", "lerc", "png", "webp"}
_FIRST_STEP, _LAST_STEP = 1 << 12, 1 << 20  # bytes that a decoder gets at a time; there may be thousands of streams
_LOOKED_AT = {"jpeg2k": "jpeg2000", "jpegxl": "jpegxl"}  # OpenJPEG makes room for what a stream claims first
_ROOM = 2  # filters may need twice the bytes of the pixels, such as "astype" and "delta"
_SPARE = 1 << 16
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


class TooMuchError(ValueError):
    """A chunk would decode to more than its pixels can be."""


def open_node(store: Any, inner: str) -> Any:
    """The array or group in a store, whose codecs may be those that imagecodecs has for zarr."""
    try:
        return zarr.open(store, path=inner or None, mode="r")
    except Exception as error:
        if _IMAGECODECS not in str(error):
            raise
        _register()  # only where they are needed: importing them takes 0.2 s
        return zarr.open(store, path=inner or None, mode="r")


def _register() -> None:
    _register_numcodecs()
    try:
        import imagecodecs.zarr
    except ImportError:  # before imagecodecs 2026.5.10 there were none for zarr v3
        return
    ours = {name.removeprefix(_IMAGECODECS) for name in NAMES}
    imagecodecs.zarr.register_codecs(_BYTES | _IMAGES - ours, verbose=False)


def _register_numcodecs() -> None:
    """Those of zarr v2, which decode the chunks of v3 too: a program may have had zarr know those of v3 alone."""
    import imagecodecs.numcodecs

    names = [_IMAGECODECS + name for name in _BYTES | _IMAGES]
    imagecodecs.numcodecs.register_codecs(names, verbose=False)


def check_codecs(array: Any, name: str) -> None:
    """Refuse codecs that are not known to only turn bytes into bytes: numcodecs' "pickle" runs what a store says."""
    described = array.metadata.to_dict()
    if array.metadata.zarr_format == 2:
        found = [described.get("compressor"), *(described.get("filters") or ())]
    else:
        found = list(described.get("codecs") or ())
    for codec in found:
        if codec is None:
            continue
        if not isinstance(codec, dict):
            codec = codec.get_config() if isinstance(codec, numcodecs.abc.Codec) else codec.to_dict()
        called = str(codec.get("id") or codec.get("name")).removeprefix("numcodecs.")
        known = called in _CODECS or called in NAMES or called.removeprefix(_IMAGECODECS) in _BYTES | _IMAGES
        if not known:
            raise SourceError(
                f"{name} is stored with the codec {called!r}, which slidewright does not run; save it again with "
                "another, such as zstd or blosc"
            )
        settings = codec.get("configuration") or {}
        found += [*settings.get("codecs", ()), *settings.get("index_codecs", ())]


def bounded(array: Any) -> Any:
    """The array with codecs that stop at what a chunk can hold."""
    metadata = array.metadata
    if metadata.zarr_format == 2:
        chunk = _Chunk(array.chunks, np.dtype(array.dtype))
        compressor = metadata.compressor and _BoundedNumcodec(metadata.compressor, chunk)
        filters = metadata.filters and tuple(_BoundedNumcodec(each, chunk) for each in metadata.filters)
        metadata = replace(metadata, compressor=compressor, filters=filters)
    else:
        metadata = replace(metadata, codecs=_bounded_all(metadata.codecs))
    config = array._async_array.config
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path, config=config))


class _Chunk(NamedTuple):
    """What a chunk decodes to."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def limit(self) -> int:
        return _ROOM * math.prod(self.shape) * self.dtype.itemsize + _SPARE


def _bounded_all(codecs: Any) -> tuple[Any, ...]:
    found: list[Any] = []
    for codec in codecs:
        name = _name(codec)
        if _of_imagecodecs(codec):
            _register_numcodecs()
        if name in NAMES:
            found.append(_ImageChunk.from_dict(codec.to_dict()))
        elif isinstance(codec, BytesBytesCodec) and (name in {*_HEADERS, *_STREAMS} or _of_imagecodecs(codec)):
            found.append(_Bounded(codec))  # checksums stay as they are: zarr wants the codecs of an index of fixed size
        elif _of_imagecodecs(codec):
            found.append(_BoundedImage(codec))
        elif hasattr(codec, "codecs"):  # sharding, whose codecs are those of the chunks in a shard
            index = _bounded_all(codec.index_codecs)
            found.append(replace(codec, codecs=_bounded_all(codec.codecs), index_codecs=index))
        else:
            found.append(codec)
    return tuple(found)


def _name(codec: Any) -> str:
    return str(codec.to_dict().get("name")).removeprefix("numcodecs.")


def _of_imagecodecs(codec: Any) -> bool:
    return _name(codec).startswith(_IMAGECODECS)


@dataclass(frozen=True)
class _Around:
    """A codec of zarr v3 in front of another, which it is like."""

    codec: Any
    is_fixed_size = False

    def to_dict(self) -> dict[str, Any]:
        """As the codec itself."""
        described: dict[str, Any] = self.codec.to_dict()
        return described

    def evolve_from_array_spec(self, array_spec: Any) -> Any:
        """As the codec itself."""
        return type(self)(self.codec.evolve_from_array_spec(array_spec))

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """As the codec itself."""
        return int(self.codec.compute_encoded_size(input_byte_length, chunk_spec))

    def by_imagecodecs(self, data: bytes, chunk_spec: Any) -> Any:
        """Decode by the codec of the same name and configuration that imagecodecs has for zarr v2."""
        codec = numcodecs.get_codec({"id": _name(self.codec), **self.to_dict().get("configuration", {})})
        return _by_imagecodecs(codec, data, _chunk(chunk_spec))


class _Bounded(_Around, BytesBytesCodec):
    """A codec of bytes that looks before it decodes."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        data = chunk_bytes.to_bytes()
        if _of_imagecodecs(self.codec):
            return chunk_spec.prototype.buffer.from_bytes(bytes(self.by_imagecodecs(data, chunk_spec)))
        decoded = decode_within(_name(self.codec), data, _chunk(chunk_spec).limit)
        if decoded is not None:
            return chunk_spec.prototype.buffer.from_bytes(decoded)
        (answer,) = await self.codec.decode([(chunk_bytes, chunk_spec)])
        return answer


class _BoundedImage(_Around, ArrayBytesCodec):
    """A codec whose streams are images, which decodes to an image of the chunk's size or not at all."""

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        image = self.by_imagecodecs(chunk_bytes.to_bytes(), chunk_spec)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(image.reshape(chunk_spec.shape))


def _chunk(chunk_spec: Any) -> _Chunk:
    return _Chunk(chunk_spec.shape, np.dtype(chunk_spec.dtype.to_native_dtype()))


@dataclass(frozen=True)
class _ImageChunk(ArrayBytesCodec):
    """A chunk that is an image, where imagecodecs has not registered such codecs or knows another name."""

    name: str
    settings: Mapping[str, Any]
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Any) -> _ImageChunk:
        """From the array's metadata."""
        return cls(str(data["name"]), data.get("configuration") or {})

    def to_dict(self) -> dict[str, Any]:
        """As in the array's metadata."""
        return {"name": self.name, "configuration": dict(self.settings)}

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Nobody knows."""
        raise NotImplementedError

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        dtype = chunk_spec.dtype.to_native_dtype()
        shape = tuple(length for length in chunk_spec.shape[:-2] if length != 1) + tuple(chunk_spec.shape[-2:])
        pixels = decode_image(NAMES[self.name], chunk_bytes.to_bytes(), shape, dtype, self.settings)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))


def know_images() -> None:
    """Have zarr know the codecs of chunks that are images."""
    with warnings.catch_warnings():  # that several packages have such a codec
        warnings.simplefilter("ignore", UserWarning)
        for name in NAMES:
            try:
                get_codec_class(name)
            except (KeyError, ValueError):
                register_codec(name, _ImageChunk)


class _BoundedNumcodec(numcodecs.abc.Codec):  # type: ignore[misc]
    """A codec of zarr v2 that looks before it decodes."""

    codec_id = "bounded"  # zarr looks at the class; an object has that of its codec

    def __init__(self, codec: Any, chunk: _Chunk) -> None:
        self.codec_id = codec.codec_id
        self._codec, self._chunk = codec, chunk

    def encode(self, buf: Any) -> Any:
        """As the codec itself."""
        return self._codec.encode(buf)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """As the codec itself, up to the limit."""
        if self.codec_id.startswith(_IMAGECODECS):
            return _by_imagecodecs(self._codec, bytes(memoryview(buf).cast("B")), self._chunk)
        if self.codec_id not in _HEADERS and self.codec_id not in _STREAMS:
            return self._codec.decode(buf, out)
        data = decode_within(self.codec_id, bytes(memoryview(buf).cast("B")), self._chunk.limit)
        return self._codec.decode(buf, out) if data is None else data

    def get_config(self) -> dict[str, Any]:
        """As the codec itself."""
        config: dict[str, Any] = self._codec.get_config()
        return config


def _by_imagecodecs(codec: Any, data: bytes, chunk: _Chunk) -> Any:
    """What a stream holds, decoded into memory of our own, so that it can't be more."""
    name = codec.codec_id.removeprefix(_IMAGECODECS)
    if name in _BYTES:
        return codec.decode(data, out=np.empty(chunk.limit, np.uint8))
    sides = [side for side in chunk.shape if side != 1]
    image = np.empty([1] * (2 - len(sides)) + sides, chunk.dtype)  # as imagecodecs encodes it
    size = look(_LOOKED_AT[name], data).size if name in _LOOKED_AT else None
    if size is not None and size != image.shape[:2]:
        raise TooMuchError(f"it is an image of {size}, and the chunk one of {image.shape[1]} x {image.shape[0]}")
    if name in ("jpeg2k", "htj2k") and (problem := too_much(data)):
        raise TooMuchError(problem)
    return codec.decode(data, out=image)


def decode_within(name: str, data: bytes, limit: int) -> bytes | None:
    """The decoded bytes, at most `limit`, or None where the codec itself may decode them; raises TooMuchError."""
    if name in _STREAMS:
        return _STREAMS[name](data, limit)
    if name == "blosc" and len(data) < _blosc_length(data):  # it would read what lies behind in memory
        raise ValueError("it is cut short")
    size = _HEADERS[name](data) if name in _HEADERS else None
    if size is not None and size > limit:
        raise TooMuchError(f"it would decode to {size} bytes, and {limit} at most make sense")
    if name == "zstd" and size is None:
        return _zstd(data, limit)
    return None


def _blosc_bytes(data: bytes) -> int | None:
    return int(struct.unpack_from("<I", data, 4)[0]) if len(data) >= 16 else None


def _blosc_length(data: bytes) -> int:
    """Bytes that a Blosc chunk says it has (its header's `cbytes`), of which the header itself is 16."""
    return int(struct.unpack_from("<I", data, 12)[0]) if len(data) >= 16 else 16


def _lz4_bytes(data: bytes) -> int | None:
    return int(struct.unpack_from("<I", data)[0]) if len(data) >= 4 else None


def _zstd_bytes(data: bytes) -> int | None:
    """The frame's content size, which may be left out (RFC 8878, section 3.1.1.1)."""
    if len(data) < 6 or not data.startswith(_ZSTD_MAGIC):
        return None
    flags = data[4]
    single, length = bool(flags & 32), 1 << (flags >> 6)
    if length == 1 and not single:
        return None
    start = 5 + (not single) + (0, 1, 2, 4)[flags & 3]
    if len(data) < start + length:
        return None
    return int.from_bytes(data[start : start + length], "little") + (256 if length == 2 else 0)


def _zstd(data: bytes, limit: int) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.zstd_decode(data, out=limit))


def _inflate(data: bytes, limit: int) -> bytes:
    """Zlib and gzip, of several members too."""
    return _decode_stream(lambda: zlib.decompressobj(47), data, limit)


def _decode_stream(make: Callable[[], Any], data: bytes, limit: int) -> bytes:
    """Decode streams, one after the other, until there is no more or too much."""
    parts: list[bytes] = []
    view, at, left = memoryview(data), 0, limit
    filled = len(data.rstrip(b"\0"))  # zeros may stand behind the last
    while at < (filled if parts else len(data)):
        decoder, step = make(), _FIRST_STEP
        while not decoder.eof:
            piece = view[at : at + step]
            if not piece:
                raise ValueError("it is cut short")
            part = decoder.decompress(piece, left + 1)
            parts.append(part)
            left -= len(part)
            if left < 0:
                raise TooMuchError(f"it would decode to more than {limit} bytes, and no more make sense")
            at += len(piece) - len(decoder.unused_data)  # which is a copy of what is left of the piece
            step = min(2 * step, _LAST_STEP)
    return b"".join(parts)


_HEADERS: dict[str, Callable[[bytes], int | None]] = {"blosc": _blosc_bytes, "lz4": _lz4_bytes, "zstd": _zstd_bytes}
_STREAMS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": _inflate,
    "zlib": _inflate,
    "bz2": lambda data, limit: _decode_stream(bz2.BZ2Decompressor, data, limit),
    "lzma": lambda data, limit: _decode_stream(lzma.LZMADecompressor, data, limit),
}
