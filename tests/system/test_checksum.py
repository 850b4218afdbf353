"""The checksum of what waits on a temporary disk."""

from __future__ import annotations

import zlib
from typing import Any

import imagecodecs
import pytest

from slidewright.system.checksum import crc32, crc32c


@pytest.mark.parametrize("data", [b"", b"pixels" * 1000, memoryview(bytearray(b"pixels" * 1000))[6:600]])
@pytest.mark.parametrize("built", [True, False])
def test_it_is_that_of_zlib_also_where_imagecodecs_has_no_libdeflate(
    monkeypatch: pytest.MonkeyPatch, data: Any, built: bool
) -> None:
    def missing(*_: Any) -> int:
        raise imagecodecs.DelayedImportError("deflate_crc32")

    if not built:
        monkeypatch.setattr(imagecodecs, "deflate_crc32", missing)
    assert crc32(data) == zlib.crc32(data)


def test_the_check_value_of_crc32c() -> None:
    """RFC 3720, appendix B.4: 32 bytes of zeros."""
    assert crc32c(memoryview(bytearray(32))) == 0x8A9136AA
