"""The report of a run is one page that needs nothing else and says what happened."""

from __future__ import annotations

import base64
import html
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
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
from slidewright.cli.main import main
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
    assert f"{report.seconds:.2f} s" in page.texts  # the total of the stages of the run
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


def settings_of(page: Page) -> dict[str, str]:
    start = page.texts.index("As they were used; what was asked for is bold.") + 1
    return dict(zip(page.texts[start::2], page.texts[start + 1 :: 2], strict=False))


def test_settings_are_those_that_were_used(written: tuple[slidewright.Report, Page, Path], tmp_path: Path) -> None:
    _, page, _ = written
    used = settings_of(page)
    assert (used["compression"], used["quality"], used["subsampling"]) == ("jpeg", "90", "420")
    assert (used["resampling"], used["mpp"], used["tile_size"], used["levels"]) == ("mean", "unknown", "128", "4")
    assert (used["effort"], used["predictor"], used["format"], used["kind"]) == ("not used", "not used", "tiff", "rgb")
    assert "default" not in used.values()

    mask = np.zeros((100, 100), bool)
    slidewright.convert(mask, tmp_path / "m.tif", mpp=(0.5, 0.25), n_workers=0, report=tmp_path / "m.html")
    used = settings_of(Page(tmp_path / "m.html"))
    assert (used["compression"], used["effort"], used["predictor"], used["bits"]) == ("deflate", "6", "no", "8")
    assert (used["resampling"], used["mpp"], used["subsampling"]) == ("nearest", "0.5 x 0.25", "not used")


def command_of(page: Path) -> str:
    found = re.search(r"<pre>(.*?)</pre>", page.read_text(), re.DOTALL)
    assert found is not None
    return html.unescape(found[1])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quality": 70, "region": (16, 32, 300, 200), "mpp": (0.5, 0.25), "bigtiff": False, "description": "it's $H"},
        {"compression": "zstd", "predictor": False, "resampling": "max", "levels": 2},
    ],
)
def test_command_on_the_page_makes_the_same_file_again(
    tmp_path: Path, tissue: np.ndarray[Any, Any], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "a slide.npy", tissue)
    monkeypatch.chdir(tmp_path)
    slidewright.convert("a slide.npy", "out.tif", tile_size=128, n_workers=0, report="out.html", **options)
    line = shlex.split(command_of(tmp_path / "out.html"))
    made = (tmp_path / "out.tif").read_bytes()
    (tmp_path / "out.tif").unlink()

    assert line[:2] == ["slidewright", "convert"]
    assert main(line[1:]) == 0

    assert (tmp_path / "out.tif").read_bytes() == made


def test_what_no_command_can_say_is_a_call_in_python(tmp_path: Path) -> None:
    labels = np.eye(64, dtype=np.uint8)
    colors = [(0, 0, 0), (255, 0, 0)]
    slidewright.convert(labels, tmp_path / "a.tif", colormap=colors, n_workers=0, report=tmp_path / "a.html")
    call = command_of(tmp_path / "a.html")
    assert call.startswith("slidewright.convert(source, ")
    made = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").unlink()
    eval(call, {"slidewright": slidewright, "source": labels})
    assert (tmp_path / "a.tif").read_bytes() == made

    np.save(tmp_path / "a.npy", labels)
    (tmp_path / "a.tif").unlink()
    slidewright.convert(
        tmp_path / "a.npy", tmp_path / "a.tif", colormap=colors, n_workers=0, report=tmp_path / "b.html"
    )
    assert repr(str(tmp_path / "a.npy")) in command_of(tmp_path / "b.html")


def test_folder_that_can_not_take_the_report_is_found_before_the_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if not root, whom no mode of a folder keeps out."""
    (tmp_path / "locked").mkdir()
    may, locked = os.access, str(tmp_path / "locked")
    monkeypatch.setattr(os, "access", lambda path, mode: os.fspath(path) != locked and may(path, mode))
    with pytest.raises(slidewright.DestinationError, match="of the report is not writable"):
        slidewright.convert(np.zeros((9, 9), np.uint8), tmp_path / "a.tif", report=tmp_path / "locked" / "a.html")
    assert os.listdir(tmp_path) == ["locked"]


def test_notebook_shows_a_report(tmp_path: Path) -> None:
    pixels = np.zeros((700, 300), np.uint8)
    report = slidewright.convert(pixels, tmp_path / "a<b>.tif", n_workers=0)
    shown = report._repr_html_()
    assert "a&lt;b&gt;.tif" in shown
    assert "<td>0<td>300 x 700<td>2<td>" in shown
    warned = replace(report, warnings=("1 < 2",))
    assert "<p>Warning: 1 &lt; 2</p>" in warned._repr_html_()


@pytest.mark.long
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium, which lays the page out")
def test_page_fits_a_screen_of_420_pixels(
    written: tuple[slidewright.Report, Page, Path], tmp_path: Path
) -> None:
    """Nothing sticks out of the page, and no cell is so narrow that its words are taken apart."""
    narrow = tmp_path / "narrow.html"  # a window has at least 500 pixels, a frame in it may have fewer
    page = html.escape((tmp_path / "run.html").read_text())
    narrow.write_text(
        f'<iframe id="frame" width="420" height="900" srcdoc="{page}"></iframe>'
        "<script>frame.onload = () => { const inside = frame.contentDocument;"
        "const tall = [...inside.querySelectorAll('td, th')].map(cell => cell.offsetHeight);"
        "document.title = inside.documentElement.scrollWidth + ' ' + Math.max(...tall) }</script>"
    )
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([*command, narrow.as_uri()], capture_output=True, text=True, timeout=60)
    title = re.search(r"<title>(\d+) (\d+)</title>", done.stdout)
    assert title is not None, done.stderr
    width, tallest = map(int, title.groups())
    assert width <= 420
    assert tallest < 110, "four lines at most"
