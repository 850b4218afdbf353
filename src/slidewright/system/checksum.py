"""The CRC-32 of what waits on a temporary disk, which may lose it and tell nobody who does not wait for that disk."""

from __future__ import annotations


def crc32(data: bytes | bytearray | memoryview) -> int:
    """That of zlib and zip, by libdeflate, which is ten times as fast."""
    try:
        from imagecodecs import deflate_crc32

        return int(deflate_crc32(data))  # type: ignore[arg-type]  # any buffer will do
    except ImportError:  # an imagecodecs that was built without libdeflate; some say so when they are called
        import zlib

        return zlib.crc32(data)


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Castagnoli's, which zarr has as a codec."""
    from google_crc32c import value

    return int(value(bytes(data)))
