"""The command line maps options, prints one line for what happened and ends with the right code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import slidewright
from slidewright.cli.main import main
from slidewright.errors import DestinationError, RunError
from slidewright.geometry import Size
from slidewright.report import LevelReport, Report


class Converter:
    """Stands in for `slidewright.convert`: remembers its arguments, and raises or reports what it was told to."""

    def __init__(self) -> None:
        self.arguments: dict[str, Any] = {}
        self.error: BaseException | None = None
        self.report = Report("out.tif", (LevelReport(Size(100, 200), 1, 5000),), 79_300_000, 2.0, 2, 8, 0, None)

    def __call__(self, source: str, destination: str, **options: Any) -> Report:
        self.arguments = {"source": source, "destination": destination, **options}
        if self.error is not None:
            raise self.error
        return self.report


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Converter:
    stand_in = Converter()
    monkeypatch.setattr(slidewright, "convert", stand_in, raising=False)
    return stand_in


def pyramid(path: Path) -> Path:
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for level in range(2):
            pixels = np.full((100 >> level, 80 >> level, 3), 7, np.uint8)
            options: dict[str, Any] = {"tile": (64, 64), "photometric": "rgb", "metadata": None, "compression": "zstd"}
            tiff.write(pixels, subfiletype=level, **options)
    return path


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "slidewright", *map(str, arguments)]


def test_options_not_given_are_left_to_the_library(converter: Converter) -> None:
    assert main(["convert", "a.svs", "b.tif"]) == 0
    assert converter.arguments == {"source": "a.svs", "destination": "b.tif", "progress": True}


def test_every_option_reaches_the_library(converter: Converter) -> None:
    line = (
        "convert a b --tile-size 256 --compression deflate --quality 80 --effort 9 --subsampling 4:4:4 --predictor "
        "--workers 3 --levels 4 --mpp 0.25,0.5 --memory 4GB --resampling max --description text --classic --overwrite "
        "--verify --quiet --page 1 --series 2 --level 3 --block-tiles 4 --scratch /tmp"
    )
    assert main(line.split()) == 0
    assert converter.arguments == {
        "source": "a",
        "destination": "b",
        "progress": False,
        "tile_size": 256,
        "compression": "deflate",
        "quality": 80,
        "effort": 9,
        "subsampling": "444",
        "predictor": True,
        "n_workers": 3,
        "levels": 4,
        "mpp": (0.25, 0.5),
        "memory": "4GB",
        "resampling": "max",
        "description": "text",
        "bigtiff": False,
        "overwrite": True,
        "verify": True,
        "page": 1,
        "series": 2,
        "level": 3,
        "block_tiles": 4,
        "scratch": "/tmp",
    }


def test_zero_and_no_are_values(converter: Converter) -> None:
    line = "convert a b --workers 0 --page 0 --no-predictor --mpp 0.5 --subsampling 420 --description"
    assert main([*line.split(), ""]) == 0
    given = converter.arguments
    assert (given["n_workers"], given["page"], given["predictor"], given["mpp"]) == (0, 0, False, 0.5)
    assert (given["subsampling"], given["description"]) == ("420", "")


def test_summary_is_one_line(converter: Converter, capsys: pytest.CaptureFixture[str]) -> None:
    main(["convert", "a", "b"])
    assert capsys.readouterr() == ("out.tif: 200 x 100, 1 level, 79.3 MB in 2.0 s, 0 Mpx/s\n", "")


def test_retries_and_warnings_are_told(converter: Converter, capsys: pytest.CaptureFixture[str]) -> None:
    converter.report = Report("o", converter.report.levels, 5, 1.0, 2, 8, 1, None, {}, ("mpp unknown",))
    main(["convert", "a", "b"])
    out, err = capsys.readouterr()
    assert "1 block redone, 1 warning" in out
    assert err == "slidewright: warning: mpp unknown\n"


def test_quiet_says_nothing(converter: Converter, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "a", "b", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DestinationError("b exists"), 2, "slidewright: error: b exists"),
        (RunError("all workers died"), 1, "slidewright: error: all workers died"),
        (KeyboardInterrupt(), 130, "slidewright: error: interrupted"),
        (
            ZeroDivisionError("oh\nno"),
            1,
            "slidewright: error: ZeroDivisionError: oh no; run again with --debug for the traceback",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(
    converter: Converter, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, text: str
) -> None:
    converter.error = error
    assert main(["convert", "a", "b"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(text)


def test_debug_shows_the_traceback(converter: Converter, capsys: pytest.CaptureFixture[str]) -> None:
    converter.error = RunError("all workers died")
    assert main(["convert", "a", "b", "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    ["convert a", "convert a b --nonsense", "frobnicate", "convert a b --mpp x", "convert a b --subsampling 411"],
)
def test_wrong_usage_is_2_and_one_line(capsys: pytest.CaptureFixture[str], line: str) -> None:
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("slidewright: error: ")
    assert err.count("\n") == 1


def test_starting_is_light() -> None:
    code = (
        "import slidewright.cli.convert, slidewright.cli.main, sys; heavy = {"
        "'numpy', 'rich', 'tifffile', 'cv2', 'zarr', 'imagecodecs'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runs_as_a_module() -> None:
    done = subprocess.run(command("--help"), capture_output=True, text=True, check=True)
    assert all(verb in done.stdout for verb in ("convert", "info", "verify", "demo"))


def test_info_and_verify_print_text_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(pyramid(tmp_path / "a.tif"))
    assert main(["info", path]) == 0
    assert "80 x 100" in capsys.readouterr().out
    assert main(["info", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["levels"][1]["width"] == 40
    assert main(["verify", path]) == 0
    assert "good; 2 levels, 5 segments decoded" in capsys.readouterr().out
    assert main(["verify", path, "--json", "--against", path]) == 0
    level = json.loads(capsys.readouterr().out)["levels"][0]
    assert (level["exact"], level["psnr"]) == (True, None)


def test_facts_of_info_stand_in_a_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.tif"
    aperio = "Aperio Image Library v11.2.1\n80x100 |AppMag = 20|MPP = 0.25|ScanScope ID = SS1"
    tifffile.imwrite(path, np.zeros((100, 80, 3), np.uint8), tile=(64, 64), description=aperio, metadata=None)
    assert main(["info", str(path)]) == 0
    facts = [line for line in capsys.readouterr().out.splitlines()[1:] if not line.endswith(("bytes", "kB"))]
    assert any(line.startswith("  scanner software  Aperio") for line in facts)
    assert {line[18:20] for line in facts} == {"  "}


def test_damaged_file_fails_and_missing_file_is_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = pyramid(tmp_path / "a.tif")
    path.write_bytes(path.read_bytes()[:-300])
    assert main(["verify", str(path)]) == 1
    assert main(["verify", str(tmp_path / "b.tif")]) == 2
    assert capsys.readouterr().out == ""


def test_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    path = pyramid(tmp_path / "a.tif")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command("info", path), stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signal_unwinds_the_run(tmp_path: Path, number: signal.Signals, code: int) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import pathlib, signal, sys, time, slidewright\n"
        "from slidewright.cli.main import main\n"
        f"signal.signal({int(number)}, signal.SIG_DFL)\n"  # where the tests run under nohup, it would stay ignored
        "def convert(source, destination, **_):\n"
        "    try:\n"
        "        pathlib.Path(destination + '.started').touch()\n"  # not its own name: then it would be complete
        "        time.sleep(30)\n"
        "    finally:\n"
        "        print('cleaned')\n"
        "slidewright.convert = convert\n"
        "sys.exit(main(['convert', 'a', sys.argv[1]]))\n"
    )
    flag = tmp_path / "o.tif.started"
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, script, tmp_path / "o.tif"], **pipes) as process:
        deadline = time.monotonic() + 20
        while not flag.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert out == "cleaned\n"
    assert err.count("\n") == 1


def test_demo_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demo.tif"
    path.touch()
    assert main(["demo", str(path)]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_demo_makes_a_good_slide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "demo.tif"
    assert main(["demo", str(path), "--side", "1100", "--workers", "0"]) == 0
    assert "slidewright verify" in capsys.readouterr().out
    assert [tuple(level.size) for level in slidewright.verify_file(path).levels] == [
        (1100, 1100),
        (550, 550),
        (275, 275),
    ]


def test_kind_options_reach_the_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = (np.arange(200 * 300).reshape(200, 300) // 7000).astype(np.uint8)
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "mask.npy", labels > 3)
    np.save(tmp_path / "rgba.npy", np.full((100, 100, 4), 0, np.uint8))
    (tmp_path / "colours.json").write_text('{"8": "red"}')
    for arguments in (
        ["labels.npy", "list.tif", "--colormap", "0=white,8=#ff0000", "--resampling", "mode"],
        ["labels.npy", "json.tif", "--colormap", str(tmp_path / "colours.json")],
        ["mask.npy", "bits.tif", "--bits", "1"],
        ["rgba.npy", "composed.tif", "--alpha", "compose", "--background", "navy", "--compression", "lzw"],
    ):
        source, destination, *options = arguments
        paths = [str(tmp_path / source), str(tmp_path / destination)]
        assert main(["convert", *paths, "--workers", "0", "-q", *options]) == 0
    for name in ("list", "json"):
        with tifffile.TiffFile(tmp_path / f"{name}.tif") as tiff:
            assert tiff.pages.first.colormap[:, 8].tolist() == [65535, 0, 0]
            np.testing.assert_array_equal(tiff.pages.first.asarray(), labels)
    assert tifffile.TiffFile(tmp_path / "bits.tif").pages.first.bitspersample == 1
    assert (tifffile.imread(tmp_path / "composed.tif") == (0, 0, 128)).all()
    for wrong in ("white", "a=red", str(tmp_path / "labels.npy")):
        assert main(["convert", str(tmp_path / "labels.npy"), str(tmp_path / "x.tif"), "--colormap", wrong]) == 2
        assert "such as" in capsys.readouterr().err


def test_what_is_made_is_told_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By every verb that makes something; standard output has nothing but JSON."""
    np.save(tmp_path / "a.npy", np.zeros((200, 300), np.uint8))
    (tmp_path / "m.csv").write_text("source,destination\na.npy,d.tif\n")
    made = {"width": 300, "height": 200}
    for line in (
        "convert a.npy b.tif --workers 0",
        "convert a.npy other.tif --workers 0 --dry-run",
        "shard a.npy shards --index 0 --count 1 --workers 0",
        "assemble shards c.tif --workers 0",
        "batch m.csv --workers 0",
        "demo e.tif --side 1024 --workers 0",
    ):
        words = [str(tmp_path / word) if "." in word or word == "shards" else word for word in line.split()]
        assert main([*words, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        if "levels" in told:
            assert made.items() <= told["levels"][0].items() or "demo" in line
            assert told["destination"] == words[1 if "demo" in line else 2]
        elif "shard" in line:
            assert (told["tiles"], told["done_before"]) == (1, False)
        else:
            assert [item["status"] for item in told["items"]] == ["done"]


@pytest.mark.parametrize("words", [[], ["bench"]])
def test_command_without_a_verb_shows_its_help_and_is_wrong_usage(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out.startswith("Usage: slidewright")
    assert "Commands:" in out
    assert err == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("convert a.tif s3://bucket/b.tif", "s3://bucket/b.tif is a URL; only files of this machine are written"),
        ("convert . b.tif", "for a folder of slides use batch"),
        ("convert none.svs b.tif", "none.svs does not exist; check the path"),
        ("convert a.npy b.tif --level 3", "error: --level 3 has no meaning for a .npy file; leave it out"),
        ("convert a.npy b.tif --compression zst", "error: --compression 'zst' is not known"),
        ("convert a.npy b.tif --compression zst", "did you mean 'zstd'?"),
        ("convert a.tif b.tif --level 3", "has no level 3; it has only 0"),
        ("assemble . b.tif", "is not a folder of shards (it has no job.json); check the path"),
        ("verify none.tif", "none.tif can't be read: No such file or directory"),
        ("info .", "for a folder of slides use batch"),
    ],
)
def test_wrong_input_is_2_and_one_line_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    np.save(tmp_path / "a.npy", np.zeros((20, 20), np.uint8))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((20, 20), np.uint8), tile=(16, 16))
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert message in err
    assert (err.count("\n"), len(err) < 300) == (1, True)
    assert sorted(os.listdir(tmp_path)) == ["a.npy", "a.tif"]
