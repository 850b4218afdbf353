"""The report of a run is one page that needs nothing else and says what happened."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import slidewright
from slidewright.cli.convert import convert as convert_command
from slidewright.pyramid.plan import Block
from slidewright.report import BlockRecord, DeathRecord
from slidewright.reporting.html_charts import heat, throughput, timeline


class Page(HTMLParser):
    """Every tag with its attributes, and every text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())

    def images(self) -> list[np.ndarray[Any, Any]]:
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        return [imagecodecs.png_decode(base64.b64decode(source.split(",")[1])) for source in sources]


@pytest.fixture
def written(tmp_path: Path, tissue: np.ndarray[Any, Any]) -> tuple[slidewright.Report, Page, Path]:
    page = tmp_path / "run.html"
    report = slidewright.convert(tissue, tmp_path / "a.tif", tile_size=128, block_tiles=2, n_workers=2, report=page)
    return report, Page(page), tmp_path / "a.tif"


def test_page_loads_nothing(written: tuple[slidewright.Report, Page, Path]) -> None:
    _, page, _ = written

    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")


def test_page_has_every_level_worker_and_setting(written: tuple[slidewright.Report, Page, Path]) -> None:
    report, page, _ = written

    for level in report.levels:
        assert str(level.size) in page.texts
    assert {"worker 0", "worker 1"} <= set(page.texts)
    for option in slidewright.ConvertOptions.__dataclass_fields__:
        assert option in page.texts
    for stage in report.stages:
        assert stage in page.texts
    titles = [text for text in page.texts if text.startswith("pass ")]
    blocks = re.findall(r"pass (\d+), row (\d+), column (\d+)", " ".join(titles))
    assert len(blocks) == len(set(blocks)) > 1


def test_heat_map_has_a_pixel_for_each_tile(written: tuple[slidewright.Report, Page, Path]) -> None:
    _, page, path = written
    thumbnail, colours = page.images()

    with tifffile.TiffFile(path) as tiff:
        counts = np.array(tiff.pages[0].databytecounts).reshape(6, 8)
    assert colours.shape == (6, 8, 3)
    np.testing.assert_array_equal(colours, heat(128 * 128 * 3 / counts))
    assert abs(thumbnail.shape[1] / thumbnail.shape[0] - 900 / 700) < 0.02
    assert np.abs(thumbnail.mean(axis=(0, 1)) - (200, 130, 180)).max() < 8


@pytest.mark.parametrize("n_workers", [0, 1])
def test_grey_of_16_bits_and_no_processes(tmp_path: Path, n_workers: int) -> None:
    pixels = np.arange(600 * 500, dtype=np.uint16).reshape(600, 500)

    slidewright.convert(
        pixels, tmp_path / "a.tif", compression="zstd", tile_size=64, n_workers=n_workers, report=tmp_path / "a.html"
    )

    page = Page(tmp_path / "a.html")
    assert page.images()[0].ndim == 2
    assert "worker 0" in page.texts


def test_names_are_escaped(tmp_path: Path) -> None:
    dest = tmp_path / "a<b>&.tif"

    slidewright.convert(np.zeros((64, 64), np.uint8), dest, n_workers=0, tile_size=64, report=tmp_path / "a.html")

    assert "a<b>&.tif" in Page(tmp_path / "a.html").texts
    assert "<b>" not in (tmp_path / "a.html").read_text()


def test_report_that_exists_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("mine")
    pixels = np.zeros((64, 64), np.uint8)

    with pytest.raises(slidewright.DestinationError, match="exists"):
        slidewright.convert(pixels, tmp_path / "a.tif", report=tmp_path / "a.html")
    with pytest.raises(slidewright.DestinationError, match="folder"):
        slidewright.convert(pixels, tmp_path / "a.tif", report=tmp_path / "none" / "a.html")

    assert (tmp_path / "a.html").read_text() == "mine"
    assert not (tmp_path / "a.tif").exists()


def test_command_takes_a_report(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((300, 300), np.uint8))

    done = CliRunner().invoke(
        convert_command,
        [
            str(tmp_path / "a.npy"),
            str(tmp_path / "a.tif"),
            "--report",
            str(tmp_path / "a.html"),
            "--workers",
            "1",
            "-q",
        ],
    )

    assert done.exit_code == 0, done.output
    assert "a.tif" in Page(tmp_path / "a.html").texts


def record(worker: int, number: int, ended: float) -> BlockRecord:
    return BlockRecord(worker, Block(0, 0, number), ended, {"read": 0.2, "encode": 0.3}, 1_000_000, 4_000_000)


def test_many_blocks_are_drawn_as_few_bars() -> None:
    blocks = [record(number % 4, number, 0.5 + number * 0.01) for number in range(20_000)]

    drawn = timeline(blocks, [], 201.0)

    assert drawn.count("<g>") <= 2000
    assert "blocks, the last" in drawn


def test_death_is_marked_with_its_reason() -> None:
    drawn = timeline([record(0, 0, 0.5)], [DeathRecord(1, 0.4, "killed by SIGKILL <9>")], 1.0)

    assert "worker 1" in drawn
    assert "killed by SIGKILL &lt;9&gt;" in drawn


def test_throughput_peaks_at_what_was_done() -> None:
    drawn = throughput([record(0, number, 0.5 * (number + 1)) for number in range(8)], 4.0)

    assert "8 Mpx/s" in drawn  # 4 Mpx in each half second
    assert "2 MB/s" in drawn
