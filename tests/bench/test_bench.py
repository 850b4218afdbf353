"""The benchmarks measure whole processes, check what they wrote, and leave out with a reason what can't take part."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

import slidewright
from slidewright.bench import peers
from slidewright.bench.codectables import CodecSettings, compare_codecs
from slidewright.bench.contest import OURS, Settings, compare
from slidewright.bench.environments import find_python, make_environments
from slidewright.bench.limit import codec_limit
from slidewright.bench.measure import run_tree
from slidewright.bench.outputs import Output, describe, differences
from slidewright.bench.peers import Peer, Task, find_peers, vips_arguments
from slidewright.bench.tissue import draw_labels, find_tissue, make_samples
from slidewright.bench.verbs import bench
from slidewright.bench.verbs.shared import doublings
from slidewright.cli.main import main
from slidewright.errors import OptionError, RunError, SourceError
from slidewright.geometry import Size


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("bench") / "tiled.tif"
    y, x = np.mgrid[:512, :768]
    smooth = np.stack([120 + 60 * np.sin(x / 30), 120 + 60 * np.cos(y / 40), 100 + (x + y) / 12], 2)
    pixels = (smooth + np.random.default_rng(7).normal(0, 12, (512, 768, 1))).astype(np.uint8)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")
    return str(path)


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(bench, list(arguments))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_small_slides_are_timed_one_and_many_next_to_libvips(tiled: str, tmp_path: Path) -> None:
    answer = tmp_path / "numbers.json"

    said = invoke("small", tiled, "--copies", "3", "--repeat", "1", "--json", str(answer))

    rows = json.loads(answer.read_text())["results"]
    names = ["libvips", "slidewright", "slidewright, encoding"]
    assert [row["name"] for row in rows] == 2 * names
    assert [row["what"] for row in rows] == 3 * ["one slide"] + 3 * ["batch"]
    assert [row["target"] for row in rows] == [None, 1.8, 1.8, None, 0.55, 0.55]
    assert all(row["processor_s"] > 0 for row in rows)
    assert "batch of 3" in said


def test_libvips_makes_the_same_file_and_is_not_marked(tiled: str, tmp_path: Path) -> None:
    answer, table = tmp_path / "numbers.json", tmp_path / "numbers.csv"

    said = invoke(
        *("peers", tiled, "--peers", "libvips", "--repeat", "1", "--workers", "2", "--tile-size", "256"),
        *("--quality", "80"),  # where libvips gets the same number
        *("--environments", str(tmp_path), "--json", str(answer), "--csv", str(table)),
    )

    rows = {row["name"]: row for row in json.loads(answer.read_text())["results"]}
    assert set(rows) == {"slidewright", "libvips", "codec-limit", "codec-limit-together"}
    ours, theirs = rows["slidewright"]["output"], rows["libvips"]["output"]
    for key in ("levels", "tile", "compression", "photometric", "subsampling"):
        assert ours[key] == theirs[key]
    assert min(*ours["psnr"], *theirs["psnr"]) > 25
    assert rows["libvips"]["mismatches"] == []
    assert rows["libvips"]["ours_over_this"] > 0
    assert rows["slidewright"]["peak_pss"] is None or rows["slidewright"]["peak_pss"] > 10e6
    assert {row["name"] for row in csv.DictReader(table.open())} == set(rows)
    for row in csv.DictReader(table.open()):
        assert float(row["gigabytes_per_second"]) == round(rows[row["name"]]["gigabytes_per_second"], 6)
    assert rows["libvips"]["gigabytes"] == pytest.approx(512 * 768 * 3 / 1e9)
    assert rows["libvips"]["gigabytes_per_second"] == rows["libvips"]["gigabytes"] / rows["libvips"]["median"]
    assert "GB/s" in said
    assert "libvips" in said
    assert "not the same work" in said


@pytest.mark.long
def test_convert_shows_stages_at_every_number_of_workers(tiled: str, tmp_path: Path) -> None:
    answer = tmp_path / "numbers.json"

    invoke("convert", tiled, "--repeat", "1", "--workers", "1,2", "--compression", "zstd", "--json", str(answer))

    rows = [row for row in json.loads(answer.read_text())["results"] if row["name"] == OURS]
    assert [row["workers"] for row in rows] == [1, 2]
    for row in rows:
        assert row["stages"]["encode"] > 0
        assert row["output"]["psnr"] == [None, None]  # equal pixels


def test_numbers_of_workers_double_up_to_the_processors() -> None:
    assert doublings(1) == (1,)
    assert doublings(2) == (1, 2)
    assert doublings(12) == (1, 2, 4, 8, 12)


def test_failing_peer_is_left_out_with_its_words(tiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "broken.py"
    program.write_text("raise SystemExit('no such codec here')")
    broken = replace(peers.KINDS["tifffile"], name="broken", program=str(program))
    monkeypatch.setitem(peers.KINDS, "broken", broken)

    done = compare(Settings(tiled, (1,), repeat=1, peers=("broken",), environments=str(tmp_path)))

    assert done.find("broken", 1) is None
    assert "no such codec here" in done.skipped["broken, 1 workers"]
    assert done.find(OURS, 1) is not None


def test_what_a_failing_peer_left_is_not_in_the_way_of_the_next(
    tiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "broken.py"
    program.write_text(
        "import json, sys\n"
        "open(json.loads(sys.argv[1])['dest'], 'x').close()\n"
        "raise SystemExit('no such codec here')\n"
    )
    for name in ("one", "other"):
        monkeypatch.setitem(peers.KINDS, name, replace(peers.KINDS["tifffile"], name=name, program=str(program)))

    done = compare(Settings(tiled, (1,), repeat=1, peers=("one", "other"), environments=str(tmp_path)))

    assert "no such codec here" in done.skipped["one, 1 workers"]
    assert "no such codec here" in done.skipped["other, 1 workers"]


def test_peer_that_does_other_work_is_marked(tiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "lazy.py"
    program.write_text(
        "import json, sys, tifffile\n"
        "given = json.loads(sys.argv[1])\n"
        "pixels = tifffile.imread(given['source'])\n"
        "tifffile.imwrite(given['dest'], pixels[::-1], tile=(256, 256), photometric='rgb', compression='jpeg')\n"
    )
    lazy = replace(peers.KINDS["tifffile"], name="lazy", program=str(program))
    monkeypatch.setitem(peers.KINDS, "lazy", lazy)

    done = compare(Settings(tiled, (1,), repeat=1, peers=("lazy",), tile_size=256, environments=str(tmp_path)))

    result = done.find("lazy", 1)
    assert result is not None
    assert any("1 levels instead of 3" in text for text in result.mismatches)
    assert any("level 0 has" in text for text in result.mismatches)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"levels": ((100, 80),)}, "1 levels instead of 2"),
        ({"levels": ((100, 80), (51, 40))}, "51 x 40 instead of 50 x 40"),
        ({"tile": (128, 128)}, "tile"),
        ({"compression": "lzw"}, "compression lzw"),
        ({"subsampling": (1, 1)}, "subsampling"),
        ({"bytes": 1200}, "1.20 of the bytes"),
        ({"psnr": (40.0, 30.0)}, "level 1 has 30.0 dB"),
        ({"psnr": (None, 36.0)}, "level 0 has equal pixels"),
    ],
)
def test_difference_is_named(change: dict[str, object], words: str) -> None:
    ours = Output(1000, ((100, 80), (50, 40)), "jpeg", "ycbcr", (256, 256), (2, 2), (41.0, 36.0))

    assert differences(ours, ours) == ()
    assert words in "; ".join(differences(replace(ours, **change), ours))


def test_pixels_of_subifd_levels_are_compared(tiled: str, tmp_path: Path) -> None:
    path = tmp_path / "sub.tif"
    pixels = tifffile.imread(tiled)
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, tile=(256, 256), photometric="rgb", subifds=1)
        tiff.write(255 - pixels[::2, ::2], tile=(256, 256), photometric="rgb")

    found = describe(path, tiled)

    assert found.levels == ((768, 512), (384, 256))
    assert found.psnr[0] is None
    assert found.psnr[1] is not None
    assert found.psnr[1] < 15


@pytest.mark.parametrize("compression", ["deflate", "zstd", "none", "jpeg"])
def test_codec_limit_has_every_stage(tiled: str, compression: str) -> None:
    stages = codec_limit(tiled, Settings(tiled, (1,), compression=compression).codec)

    assert set(stages) == {"read", "encode", "reduce"}
    assert all(seconds > 0 for seconds in stages.values())


def test_source_without_tiles_has_no_limit_and_is_measured(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((300, 400, 3), np.uint8))

    done = compare(Settings(str(tmp_path / "a.npy"), (1,), repeat=1))

    assert [result.name for result in done.results] == [OURS]
    assert "needs a tiled TIFF" in done.skipped["codec-limit"]


def test_vips_gets_the_quality_at_which_it_halves_chroma() -> None:
    task = Task("in.tif", 1, 512, 3, "jpeg", 90, None, None)

    assert vips_arguments(task)["Q"] == 89
    assert vips_arguments(replace(task, quality=70))["Q"] == 70
    assert vips_arguments(replace(task, compression="webp"))["Q"] == 90


def test_memory_of_children_is_counted() -> None:
    child = 'b = b"x" * (200 << 20); import time; time.sleep(1)'
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    peak = run_tree((sys.executable, "-c", code), sample=True).peak

    assert peak is None or peak > 200 << 20


def test_failing_program_is_an_error_with_its_words() -> None:
    with pytest.raises(RunError, match="no such thing"):
        run_tree((sys.executable, "-c", "raise SystemExit('no such thing')"))


def test_program_that_takes_too_long_is_ended_with_its_children() -> None:
    child = "import time; time.sleep(60)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"

    with pytest.raises(RunError, match="longer than 1 s"):
        run_tree((sys.executable, "-c", code), timeout=1.0)


def test_peer_that_is_asked_for_must_be_known_and_here(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="libvips"):
        find_peers(("photoshop",), str(tmp_path), "jpeg")
    with pytest.raises(OptionError, match="bench environments"):
        find_peers(("wsic",), str(tmp_path), "jpeg")
    with pytest.raises(OptionError, match="not asked to write webp"):
        find_peers(("tifffile",), str(tmp_path), "webp")


def test_peers_that_are_not_here_are_left_out_with_the_reason(tmp_path: Path) -> None:
    found, skipped = find_peers(None, str(tmp_path), "jpeg")

    assert {peer.name for peer in found} >= {"tifffile", "libvips"}
    assert "not installed" in skipped["dlup-0.3"]


@pytest.mark.long
def test_environment_is_made_once_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    empty = replace(peers.KINDS["libvips"], name="pip-itself", python=here, packages=("pip==0",), program="vips.py")
    monkeypatch.setitem(peers.KINDS, "pip-itself", empty)
    home = tmp_path / "pip-itself"
    venv.create(home, with_pip=True)
    (home / "done").touch()

    assert make_environments(str(tmp_path), ["pip-itself"]) == {"pip-itself": "is there"}
    found, _ = find_peers(("pip-itself",), str(tmp_path), "jpeg")

    assert found[0].executable == str(home / "bin" / "python")
    assert find_python(here) == sys.executable
    assert find_python("1.4") is None


def test_what_asks_for_too_much_is_installed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    kind = replace(peers.KINDS["libvips"], name="much", python=here, packages=("small",), bare=("much==1.0",))
    monkeypatch.setitem(peers.KINDS, "much", kind)
    calls: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        (tmp_path / "much").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)

    assert make_environments(str(tmp_path), ["much"]) == {"much": "made"}
    assert [call[-1] for call in calls] == [str(tmp_path / "much"), "small", "much==1.0"]
    assert ["--no-deps" in call for call in calls] == [False, False, True]
    assert kind.distribution == "much"


def test_folder_of_the_user_with_the_name_of_a_peer_stays(tmp_path: Path) -> None:
    (tmp_path / "tifffile").mkdir()
    (tmp_path / "tifffile" / "mine.txt").touch()
    assert "no environment" in make_environments(str(tmp_path), ["tifffile"])["tifffile"]
    assert (tmp_path / "tifffile" / "mine.txt").exists()


def test_peers_with_a_version_of_their_own_are_not_taken_from_beside_us(tmp_path: Path) -> None:
    assert [name for name, kind in peers.KINDS.items() if "==" not in kind.own] == ["libvips", "tifffile"]
    _, skipped = find_peers(None, str(tmp_path), "jpeg")
    assert {"gdal", "gdal-cog", "large-image", "slideio", "cucim", "bfconvert"} <= set(skipped)


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "zstd", "webp", "none"])
def test_every_peer_gets_its_task_as_one_argument(compression: str) -> None:
    quality = 90 if compression in ("jpeg", "webp") else None
    effort = {"deflate": 6, "zstd": 3}.get(compression)
    task = Task("in.tif", 2, 512, 3, compression, quality, effort, None)
    for kind in peers.KINDS.values():
        command, environment = Peer(kind, "python", "1").start(task, "out" + kind.suffix)
        given = json.loads(command[-1])
        assert given["dest"] == "out" + kind.suffix
        assert (given["quality"], given["effort"], given["levels"]) == (quality, effort, 3)
        assert Path(command[1]).name == kind.program
        assert environment["PYTHONPATH"] == ""


def test_page_has_every_peer_with_its_version() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    for name, kind in peers.KINDS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        if "==" in kind.own and kind.format == "tiff":
            assert kind.own.split("==")[1] in row
            assert f"| {kind.python} |" in row


def test_programs_of_peers_do_not_import_us() -> None:
    folder = Path(peers.__file__).parent / "programs"
    assert {kind.program for kind in peers.KINDS.values()} <= {path.name for path in folder.glob("*.py")}
    for path in folder.glob("*.py"):
        assert "import slidewright" not in path.read_text()


def test_tissue_is_found_and_its_regions_are_numbered() -> None:
    coarse = np.full((100, 200, 3), 243, np.uint8)
    coarse[20:70, 20:80] = coarse[30:80, 120:180] = (190, 110, 160)
    coarse[40:55, 40:60] = 243  # a hole

    tissue = find_tissue(coarse)
    labels = draw_labels(tissue, Size(800, 1600))

    assert set(np.unique(labels)) == {0, 1, 2}
    assert labels[200, 200] != labels[400, 1200]
    assert labels[380, 400] == 0
    assert abs(float((labels > 0).mean()) - 0.28) < 0.05  # (2 x 3000 - 300) of 20000


def test_part_of_the_slide_has_its_share_of_tissue(tmp_path: Path) -> None:
    pixels = np.full((1024, 2048, 3), 243, np.uint8)
    pixels[:, 1200:] = (190, 110, 160)
    np.save(tmp_path / "a.npy", pixels)

    samples = make_samples(slidewright.open_source(tmp_path / "a.npy"), 1024)

    assert (samples.region.y, samples.region.x) == (0, 512)
    np.testing.assert_array_equal(samples.image, pixels[:, 512:1536])
    assert set(np.unique(samples.mask)) == {0, 1}
    assert abs(float(samples.mask.mean()) - 0.33) < 0.05


@pytest.mark.long
def test_codec_tables_measure_or_say_why_not(tiled: str, tmp_path: Path) -> None:
    answer, table = tmp_path / "codecs.json", tmp_path / "codecs.csv"

    invoke(
        *("codecs", tiled, "--repeat", "1", "--side", "512", "--tile-size", "256", "--compressions", "jpeg,zstd"),
        *("--environments", str(tmp_path), "--json", str(answer), "--csv", str(table)),
    )

    rows = json.loads(answer.read_text())["results"]
    assert {row["table"] for row in rows} == {"lossless", "lossy", "annotations", "mask"}
    for row in rows:
        assert (row["median"] is None) == bool(row["refused"])
    measured = {(row["table"], row["compression"]) for row in rows if row["median"]}
    assert measured >= {("lossless", "zstd"), ("lossy", "jpeg")}
    assert all(row["bytes"] > 0 for row in rows if row["median"])
    assert len(list(csv.DictReader(table.open()))) == len(rows)


def test_codec_tables_need_colour(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", np.zeros((600, 600), np.uint8))

    with pytest.raises(SourceError, match="RGB"):
        compare_codecs(CodecSettings(str(tmp_path / "grey.npy")))
    with pytest.raises(OptionError, match="annotations"):
        CodecSettings("x", tables=("masks",))
    with pytest.raises(OptionError, match="zstd"):
        CodecSettings("x", compressions=("zip",))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_plot_is_drawn_from_json_alone(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    machine = {"processor": "a processor", "usable_cpus": 2, "versions": {"slidewright": "0"}}
    shared = {"mismatches": [], "stages": {"read": 1.0, "encode": 2.0}, "megapixels_per_second": 9.0}
    rows = [
        {"name": name, "workers": workers, "median": 2.0, "seconds": [1.0, 2.0, 4.0], **shared}
        for name in ("slidewright", "libvips")
        for workers in (1, 2)
    ]
    settings = {"source": "a.tif", "compression": "jpeg"}
    one = tmp_path / "one.json"
    one.write_text(json.dumps({"kind": "comparison", "settings": settings, "machine": machine, "results": rows}))
    entry = {
        "table": "lossless",
        "compression": "zstd",
        "median": 1.0,
        "dlup_median": None,
        "bytes": 10,
        "dlup_bytes": 9,
    }
    two = tmp_path / "two.json"
    answer = {"kind": "codecs", "settings": settings, "machine": machine, "region": "all", "results": [entry]}
    two.write_text(json.dumps(answer))

    for source in (one, two):
        picture = tmp_path / f"{source.stem}{suffix}"
        invoke("plot", str(source), str(picture))
        first = picture.read_bytes()
        assert first.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml")
        invoke("plot", str(source), str(picture), "--overwrite")
        assert picture.read_bytes() == first


def test_plot_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")

    done = subprocess.run(
        [sys.executable, "-m", "slidewright", "bench", "plot", str(tmp_path / "a.json"), str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert "--json" in done.stderr


def test_an_ome_zarr_is_measured_and_described(tiled: str, tmp_path: Path) -> None:
    answer = tmp_path / "numbers.json"

    invoke(
        *("convert", tiled, "--format", "ome-zarr", "--compression", "zstd", "--tile-size", "256"),
        *("--repeat", "1", "--workers", "1", "--folder", str(tmp_path), "--json", str(answer)),
    )

    rows = {row["name"]: row for row in json.loads(answer.read_text())["results"]}
    assert set(rows) == {"slidewright", "codec-limit"}
    ours = rows["slidewright"]
    assert ours["output"]["compression"] == "zstd"
    assert ours["output"]["psnr"] == [None, None]
    assert ours["processor"] > rows["codec-limit"]["processor"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["numbers.json"]


def test_means_that_are_rounded_otherwise_are_the_same_work() -> None:
    ours = Output(100, ((64, 64), (32, 32)), "zstd", "", (32, 32), None, (None, None))
    assert differences(replace(ours, psnr=(None, 53.0)), ours) == ()
    assert differences(replace(ours, psnr=(None, 30.0)), ours)
    assert differences(replace(ours, psnr=(60.0, None)), ours)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("verb", "option"),
    [
        *((verb, option) for verb in ("convert", "peers", "codecs", "small") for option in ("--json", "--csv")),
        ("scaling", "--json"),
    ],
)
def test_results_are_not_written_over_the_source(tiled: str, tmp_path: Path, verb: str, option: str) -> None:
    source = shutil.copy(tiled, tmp_path / "s.tif")
    (tmp_path / "link.tif").symlink_to(source)
    before = Path(source).read_bytes()
    assert main(["bench", verb, str(source), option, str(tmp_path / "link.tif")]) == 2
    assert Path(source).read_bytes() == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("verb", "option"), [("convert", "--json"), ("small", "--csv"), ("scaling", "--json"), ("plot", "")]
)
def test_results_of_before_are_not_replaced_unless_told_to(
    tiled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, option: str
) -> None:
    (tmp_path / "kept").write_text("precious")
    given = ["bench", verb, tiled, *filter(None, [option]), str(tmp_path / "kept")]
    assert main(given) == 2
    assert "kept' exists; choose another name or overwrite it (--overwrite)" in capsys.readouterr().err
    assert (tmp_path / "kept").read_text() == "precious"
