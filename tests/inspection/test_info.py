"""Info tells what a slide is from its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from slidewright.errors import SourceError
from slidewright.inspection.info import info
from slidewright.tiff.directories import is_tiff

SLIDE = Path(__file__).parents[3] / "shared" / "data" / "CMU-1-Small-Region.svs"


def write(path: Path, *, description: str = "a slide", **options: Any) -> Path:
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(3):
            tiff.write(
                np.zeros((400 >> level, 300 >> level, 3), np.uint8),
                tile=(64, 64),
                photometric="rgb",
                compression="zstd",
                resolution=(40000 / 2**level, 20000 / 2**level),
                resolutionunit="CENTIMETER",
                subfiletype=1 if level else 0,
                description=description if not level else None,
                metadata=None,
                **options,
            )
        tiff.write(np.zeros((50, 60, 3), np.uint8), photometric="rgb", description="label", metadata=None)
    return path


def test_levels_and_mpp_of_a_tiff(tmp_path: Path) -> None:
    found = info(write(tmp_path / "a.tif", software="slidewright 0", iccprofile=b"profile"))
    assert found.format == "bigtiff"
    assert [(tuple(level.size), tuple(level.tile or ()), level.compression) for level in found.levels] == [
        ((400, 300), (64, 64), "zstd"),
        ((200, 150), (64, 64), "zstd"),
        ((100, 75), (64, 64), "zstd"),
    ]
    assert found.mpp == pytest.approx((0.25, 0.5))
    assert (found.samples, found.dtype, found.icc_bytes) == (3, "uint8", 7)
    assert (found.software, found.description) == ("slidewright 0", "a slide")
    assert [(image.name, tuple(image.size or ())) for image in found.associated] == [("label", (50, 60))]


def test_vendor_description_kept_by_us_does_not_change_what_is_a_level(tmp_path: Path) -> None:
    found = info(write(tmp_path / "a.tif", software="slidewright 0", description="Aperio Image Library"))
    assert [tuple(level.size) for level in found.levels] == [(400, 300), (200, 150), (100, 75)]


@pytest.mark.skipif(not SLIDE.exists(), reason="the real slide is not here")
def test_real_slide() -> None:
    found = info(SLIDE)
    assert (found.format, tuple(found.size), found.levels[0].compression) == ("svs", (2967, 2220), "jpeg")
    assert {image.name for image in found.associated} == {"thumbnail", "label", "macro"}
    assert found.mpp == pytest.approx((0.499, 0.499))


def test_npy_file_is_described_by_its_source(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((30, 40, 3), np.uint8))
    found = info(tmp_path / "a.npy")
    assert (found.format, tuple(found.size), found.samples, len(found.levels)) == ("npy", (30, 40), 3, 1)


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        info(tmp_path / "nothing.svs")
    assert not is_tiff(tmp_path / "nothing.svs")
