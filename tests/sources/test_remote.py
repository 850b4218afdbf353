"""Sources behind a URL: what is read from afar is what is on the disk, and a bad server is told in one line."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import tifffile
import zarr
from RangeHTTPServer import RangeRequestHandler
from written import image

import slidewright
from slidewright.cli.main import main
from slidewright.errors import ShardError, SourceError, without_keys
from slidewright.geometry import Region
from slidewright.shards.fingerprint import fingerprint
from slidewright.system.remote_file import AHEAD_BYTES, RemoteFile, is_url

pytest.importorskip("fsspec")


class Quiet(RangeRequestHandler):
    """Serves a folder, in parts; counts what it is asked for, and fails when told to."""

    asked: ClassVar[list[str]] = []
    failures = 0
    etags: ClassVar[Iterator[int] | None] = None
    aside = 0

    def end_headers(self) -> None:
        if Quiet.etags is not None:
            self.send_header("ETag", f'"{next(Quiet.etags)}"')
        super().end_headers()

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=-"):  # the last so many, which this server does not know
            size = os.path.getsize(self.translate_path(self.path))
            self.headers.replace_header("Range", f"bytes={size - int(asked[7:])}-{size - 1}")
        elif Quiet.aside and asked and not asked.startswith("bytes=0-"):
            first, last = (int(word) - Quiet.aside for word in asked[6:].split("-"))
            self.headers.replace_header("Range", f"bytes={first}-{last}")
        Quiet.asked.append(asked)
        if Quiet.failures:
            Quiet.failures -= 1
            self.send_error(503)
            return
        super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    folder = tmp_path / "served"
    folder.mkdir()
    Quiet.asked, Quiet.failures, Quiet.etags, Quiet.aside = [], 0, None, 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def slide(path: Path, side: int = 700, **options: Any) -> Any:
    pixels = image(side, side - 60, 3)
    given = {"tile": (128, 128), "photometric": "rgb", "compression": "jpeg", "resolution": (20000, 20000),
             "resolutionunit": "CENTIMETER", **options}  # fmt: skip
    tifffile.imwrite(path, pixels, **given)
    return pixels


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep", ["never", "always"])
def test_slide_behind_a_url_is_converted_as_from_the_disk(
    served: tuple[Path, str], tmp_path: Path, workers: int, keep: Any
) -> None:
    folder, url = served
    slide(folder / "s.tif")
    for source, out in ((folder / "s.tif", "here.tif"), (f"{url}/s.tif", "afar.tif")):
        slidewright.convert(source, tmp_path / out, n_workers=workers, tile_size=128, keep_tiles=keep)
    assert (tmp_path / "afar.tif").read_bytes() == (tmp_path / "here.tif").read_bytes()
    assert slidewright.open_source(tmp_path / "afar.tif").info.mpp == pytest.approx((0.5, 0.5))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": None, "rowsperstrip": 16, "tile": None},
        {"compression": "deflate", "rowsperstrip": 16, "tile": None},
        {"compression": None},
        {"compression": "lzw", "planarconfig": "separate", "photometric": "minisblack"},
    ],
    ids=str,
)
def test_every_layout_is_read_from_afar(served: tuple[Path, str], options: dict[str, Any]) -> None:
    folder, url = served
    pixels = image(300, 260, 3)
    separate = "planarconfig" in options
    tifffile.imwrite(
        folder / "s.tif",
        pixels.transpose(2, 0, 1) if separate else pixels,
        **{"tile": (128, 128), "photometric": "rgb", **options},
    )
    reader = slidewright.open_source(f"{url}/s.tif").open()
    reader.ahead(Region(0, 0, 300, 260), range(3 if separate else 1))
    out = np.zeros((200, 200, 3), np.uint8)
    np.testing.assert_array_equal(reader.read(37, 41, 200, 200, out), pixels[37:237, 41:241])
    reader.close()


def test_tiles_of_a_block_are_fetched_with_few_requests(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    slide(folder / "s.tif")
    slidewright.convert(f"{url}/s.tif", tmp_path / "o.tif", n_workers=0, tile_size=128, keep_tiles="never")
    assert len(Quiet.asked) < 16  # of 30 tiles and the directories


def test_a_slide_is_described_with_few_requests(served: tuple[Path, str]) -> None:
    folder, url = served
    slide(folder / "s.tif")
    slidewright.open_source(f"{url}/s.tif")
    assert len(Quiet.asked) <= 4, Quiet.asked  # its first bytes, its directories, checked and read, and a tile's head


def test_closed_file_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(bytes(100))
    remote, asked = RemoteFile(f"file://{tmp_path}/f"), []

    def fail(*_: Any, **__: Any) -> bytes:
        asked.append(1)
        raise OSError("gone")

    monkeypatch.setattr(remote, "_system", type("Gone", (), {"cat_file": fail}))
    remote.close()
    with pytest.raises(SourceError, match="gone"):
        remote.read(0, 10)
    assert len(asked) == 1


def test_turned_region_is_fetched_ahead_where_it_lies(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    slide(folder / "s.tif", compression="deflate", extratags=[(274, 3, 1, 6, True)])
    given: dict[str, Any] = {"region": (64, 32, 500, 400), "n_workers": 0, "compression": "deflate"}
    slidewright.convert(folder / "s.tif", tmp_path / "here.tif", **given)
    slidewright.convert(f"{url}/s.tif", tmp_path / "afar.tif", **given)
    assert (tmp_path / "afar.tif").read_bytes() == (tmp_path / "here.tif").read_bytes()


def test_server_that_fails_now_and_then_is_asked_again(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    slide(folder / "s.tif")
    source = slidewright.open_source(f"{url}/s.tif")
    Quiet.failures = 2
    slidewright.convert(source, tmp_path / "o.tif", n_workers=0)
    assert Quiet.failures == 0


def test_server_that_goes_on_failing_ends_the_run_with_its_answer(
    served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidewright.system.remote_file.time.sleep", lambda _: None)
    folder, url = served
    slide(folder / "s.tif")
    source = slidewright.open_source(f"{url}/s.tif")
    Quiet.failures = 1000
    with pytest.raises(SourceError, match=r"s\.tif can't be .* in 4 tries: .*503"):
        slidewright.convert(source, tmp_path / "o.tif", n_workers=0)
    assert list(tmp_path.iterdir()) == [folder]


def test_server_without_ranges_is_refused(tmp_path: Path) -> None:
    slide(tmp_path / "s.tif")

    class Whole(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str((tmp_path / "s.tif").stat().st_size))
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            self.wfile.write((tmp_path / "s.tif").read_bytes())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Whole) as server:
        threading.Thread(target=server.serve_forever).start()
        with pytest.raises(SourceError, match="does not send parts of a file"):
            slidewright.open_source(f"http://127.0.0.1:{server.server_address[1]}/s.tif")
        server.shutdown()


def test_silent_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slidewright.system.remote_file.SILENCE", 0.1)
    monkeypatch.setattr("slidewright.system.remote_file.time.sleep", lambda _: None)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(SourceError, match=r"can't be opened in 4 tries: .*[Tt]imeout"),
    ):
        slidewright.open_source(f"http://127.0.0.1:{silent.getsockname()[1]}/s.tif")


@pytest.mark.parametrize("name", ["s.tif", "s.zarr"])
def test_server_that_gives_a_byte_now_and_then_is_given_up(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("slidewright.system.remote_file.WHOLE", 0.5)
    monkeypatch.setattr("slidewright.system.remote_file.time.sleep", lambda _: None)
    ended = threading.Event()

    class Dripping(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            with contextlib.suppress(OSError):
                while not ended.wait(0.05):
                    self.wfile.write(b" ")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            with pytest.raises(SourceError, match=r"can't be (opened|read) .*Timeout"):
                slidewright.open_source(f"http://127.0.0.1:{server.server_address[1]}/{name}")
        finally:
            ended.set()
            server.shutdown()


def test_what_is_not_there_or_no_slide_is_one_line(served: tuple[Path, str], capsys: Any) -> None:
    folder, url = served
    (folder / "note.txt").write_text("no slide, but longer than sixteen bytes")
    with pytest.raises(SourceError, match=r"gone\.tif can't be opened: FileNotFoundError"):
        slidewright.open_source(f"{url}/gone.tif")
    with pytest.raises(SourceError, match="neither a TIFF that can be read from afar nor a zarr store"):
        slidewright.open_source(f"{url}/note.txt")
    with pytest.raises(SourceError, match=r"nosuch://x/y\.tif can't be opened: Protocol not known"):
        slidewright.open_source("nosuch://x/y.tif")
    assert main(["info", f"{url}/gone.tif"]) == 2
    assert "gone.tif can't be opened" in capsys.readouterr().err


def test_info_of_a_url_and_batch_of_one(served: tuple[Path, str], tmp_path: Path, capsys: Any) -> None:
    folder, url = served
    slide(folder / "s.tif")
    assert main(["info", f"{url}/s.tif"]) == 0
    said = capsys.readouterr().out
    assert "tiff, 29" in said  # kilobytes
    assert "640 x 700" in said
    (tmp_path / "list.csv").write_text(f"source,destination\n{url}/s.tif,o.tif\n")
    assert main(["batch", str(tmp_path / "list.csv"), "--workers", "0"]) == 0
    assert tifffile.imread(tmp_path / "o.tif", key=0).shape == (700, 640, 3)


def test_changed_file_is_another_source(served: tuple[Path, str]) -> None:
    folder, url = served
    slide(folder / "s.tif")
    before = slidewright.open_source(f"{url}/s.tif").identity()
    slide(folder / "s.tif", compression="deflate")
    assert slidewright.open_source(f"{url}/s.tif").identity() != before


def test_changed_file_of_the_same_size_is_another_source(served: tuple[Path, str]) -> None:
    """By the time that the server tells, which has no ETag."""
    folder, url = served
    slide(folder / "s.tif", compression=None)
    os.utime(folder / "s.tif", (1_000_000_000, 1_000_000_000))
    before = fingerprint(slidewright.open_source(f"{url}/s.tif"), f"{url}/s.tif")
    os.utime(folder / "s.tif", (1_000_000_060, 1_000_000_060))
    assert fingerprint(slidewright.open_source(f"{url}/s.tif"), f"{url}/s.tif") != before


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_file_that_changes_on_its_server_while_it_is_read_makes_no_file(
    served: tuple[Path, str], tmp_path: Path, change: str, workers: int
) -> None:
    """A file that is not there any more, when all of it has been read, need not have changed."""
    folder, url = served
    pixels = slide(folder / "s.tif", compression=None)
    os.utime(folder / "s.tif", (1_000_000_000, 1_000_000_000))

    def change_it(progress: Any) -> None:
        if change == "removed" and progress.tiles_done == progress.tiles_total:
            (folder / "s.tif").unlink(missing_ok=True)
        elif change == "replaced":
            tifffile.imwrite(folder / "new.tif", 255 - pixels, tile=(128, 128), photometric="rgb")
            os.replace(folder / "new.tif", folder / "s.tif")  # whole: of a part others would say that it is cut short

    options: dict[str, Any] = {"tile_size": 128, "n_workers": workers, "compression": "zstd", "progress": change_it}
    if change == "removed":
        slidewright.convert(f"{url}/s.tif", tmp_path / "o.tif", **options)
        assert np.array_equal(tifffile.imread(tmp_path / "o.tif"), pixels)
        return
    with pytest.raises(SourceError, match=r"s\.tif has changed while it was read|start again"):
        slidewright.convert(f"{url}/s.tif", tmp_path / "o.tif", **options)
    assert not (tmp_path / "o.tif").exists()


def test_server_whose_files_have_the_time_of_the_answer_is_told_of(served: tuple[Path, str], tmp_path: Path) -> None:
    """As those give it that don't want to be cached: to run again would not help."""
    folder, url = served
    slide(folder / "s.tif")
    times = itertools.count(1_000_000_000, 60)

    def touch(_: Any) -> None:
        os.utime(folder / "s.tif", (next(times),) * 2)

    with pytest.raises(SourceError, match=r"s\.tif has changed while it was read; .* download it first"):
        slidewright.convert(f"{url}/s.tif", tmp_path / "o.tif", tile_size=128, n_workers=0, progress=touch)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["s.tif", "s.zarr"])
def test_server_that_sends_another_part_than_it_was_asked_for_is_refused(
    served: tuple[Path, str], tmp_path: Path, name: str
) -> None:
    folder, url = served
    pixels = slide(folder / "s.tif", 1200, compression=None)
    zarr.create_array(folder / "s.zarr", data=pixels, shards=(256, 256, 3), chunks=(64, 64, 3), compressors=None)
    source = slidewright.open_source(f"{url}/{name}")
    Quiet.aside = 16
    with pytest.raises(SourceError, match=r"asked for bytes=\d+-\d+, its server sent bytes \d+-\d+/\d+; .* download"):
        slidewright.convert(source, tmp_path / "o.tif", n_workers=0, tile_size=64)
    assert not (tmp_path / "o.tif").exists()


@pytest.mark.timeout(60)
def test_part_of_a_file_of_another_size_is_refused(served: tuple[Path, str]) -> None:
    folder, url = served
    (folder / "f").write_bytes(bytes(1000))
    remote = RemoteFile(f"{url}/f")
    (folder / "f").write_bytes(bytes(1001))
    with pytest.raises(SourceError, match=r"sent bytes 0-9/1001; the file has changed"):
        remote.read(0, 10)


@pytest.mark.timeout(60)
def test_server_that_gives_each_answer_another_etag_is_believed_by_size_and_time(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    folder, url = served
    slide(folder / "s.tif")
    Quiet.etags = itertools.count()
    before = fingerprint(slidewright.open_source(f"{url}/s.tif"), f"{url}/s.tif")
    slidewright.convert(f"{url}/s.tif", tmp_path / "o.tif", tile_size=128, n_workers=0)
    assert fingerprint(slidewright.open_source(f"{url}/s.tif"), f"{url}/s.tif") == before
    os.utime(folder / "s.tif", (1_000_000_000, 1_000_000_000))
    assert fingerprint(slidewright.open_source(f"{url}/s.tif"), f"{url}/s.tif") != before


@pytest.mark.timeout(30)
@pytest.mark.parametrize("said", ["://a" * 50_000, "://a?b" + ")" * 100_000 + "x", "://a@" * 50_000])
def test_keys_are_looked_for_in_linear_time(said: str) -> None:
    """Messages say what damaged metadata have."""
    assert len(without_keys(said)) <= len(said)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("form", [2, 3])
def test_store_that_a_server_has_lost_is_no_background(served: tuple[Path, str], tmp_path: Path, form: Any) -> None:
    """As one that says "not found" of everything while it is started again."""
    folder, url = served
    zarr.create_array(folder / "s.zarr", data=image(512, 512, 3), chunks=(128, 128, 3), zarr_format=form)

    def move(progress: Any) -> None:
        if progress.stage != "done" and (folder / "s.zarr").exists():
            (folder / "s.zarr").rename(folder / "moved")

    options: dict[str, Any] = {"tile_size": 128, "block_tiles": 1, "n_workers": 0, "compression": "zstd"}
    with pytest.raises(SourceError, match="moved or removed"):
        slidewright.convert(f"{url}/s.zarr", tmp_path / "o.tif", progress=move, **options)
    assert not (tmp_path / "o.tif").exists()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ngff", ["0.4", "0.5"])
def test_store_that_is_written_anew_on_its_server_while_it_is_read_makes_no_file(
    served: tuple[Path, str], tmp_path: Path, ngff: Any
) -> None:
    """By its metadata, as HTTP does not list chunks."""
    folder, url = served
    made: dict[str, Any] = {"n_workers": 0, "tile_size": 128, "ngff": ngff, "overwrite": True}
    slidewright.convert(image(512, 512, 3), folder / "s.zarr", **made)
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))

    def write_anew(_: Any) -> None:
        slidewright.convert(image(512, 512, 3), folder / "s.zarr", **made)

    options: dict[str, Any] = {"tile_size": 128, "n_workers": 0, "compression": "zstd"}
    slidewright.convert(f"{url}/s.zarr", tmp_path / "o.tif", **options)
    with pytest.raises(SourceError, match=r"s\.zarr/.* has changed while it was read"):
        slidewright.convert(f"{url}/s.zarr", tmp_path / "p.tif", progress=write_anew, **options)
    assert not (tmp_path / "p.tif").exists()


def test_zarr_group_behind_a_url(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    pixels = image(300, 260, 3)
    slidewright.convert(pixels, folder / "s.ome.zarr", n_workers=0, tile_size=128)
    slidewright.convert(f"{url}/s.ome.zarr", tmp_path / "o.tif", n_workers=2, compression="zstd")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "o.tif", key=0), pixels)
    raw = zarr.create_array(folder / "raw.zarr", data=pixels, chunks=(64, 64, 3), compressors=None)
    assert raw.shape == pixels.shape
    slidewright.convert(f"{url}/raw.zarr", tmp_path / "r.tif", n_workers=0, compression="zstd")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "r.tif", key=0), pixels)


def test_the_page_about_a_run_has_no_key_to_its_source(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    slide(folder / "s.tif")
    signed = url.replace("://", "://user:pass-word@") + "/s.tif?X-Amz-Signature=5ecret&more='x'"
    slidewright.convert(signed, tmp_path / "o.tif", n_workers=0, report=tmp_path / "o.html")
    page = (tmp_path / "o.html").read_text(encoding="utf-8")
    assert f"{url}/s.tif" in page
    assert not [word for word in ("user:", "pass-word", "Signature", "5ecret") if word in page]


@pytest.mark.timeout(60)
def test_neither_messages_nor_reports_of_batches_have_a_key_to_a_source(
    served: tuple[Path, str], tmp_path: Path, capsys: Any
) -> None:
    folder, url = served
    slide(folder / "s.tif")
    data = (folder / "s.tif").read_bytes()
    (folder / "cut.tif").write_bytes(data[: len(data) // 2])
    signed = url.replace("://", "://user:pass-word@") + "/{}?X-Amz-Signature=5ecret"
    names = [signed.format(name) for name in ("s.tif", "cut.tif", "none.tif")]
    (tmp_path / "m.csv").write_text("source,destination\n" + "".join(f"{n},{i}.tif\n" for i, n in enumerate(names)))
    assert main(["batch", str(tmp_path / "m.csv"), "--workers", "0"]) == 1
    assert main(["batch", str(tmp_path / "m.csv"), "--workers", "0", "--json"]) == 1
    assert main(["verify", str(folder / "s.tif"), "--against", names[1]]) != 0
    assert main(["convert", names[2], str(tmp_path / "o.tif")]) == 2
    with pytest.raises(SourceError, match=r"/none\.tif can't be opened") as error:
        slidewright.open_source(names[2])
    said = "".join((*capsys.readouterr(), str(error.value), (tmp_path / "m.report.jsonl").read_text()))
    assert said.count("/cut.tif") > 5
    assert not {word for word in ("user", "pass-word", "Signature", "5ecret") if word in said}
    assert '"status": "done"' in said
    assert '"status": "skipped"' in said


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
@pytest.mark.timeout(60)
def test_job_with_a_key_to_its_source_is_for_its_owner_alone(served: tuple[Path, str], tmp_path: Path) -> None:
    folder, url = served
    slide(folder / "s.tif")
    given = {"index": 0, "count": 2, "n_workers": 0, "tile_size": 128}
    for number, key in enumerate(("?X-Amz-Signature=5ecret", "")):
        slidewright.shard(f"{url}/s.tif{key}", tmp_path / str(number), **given)
        mode = (tmp_path / str(number) / "job.json").stat().st_mode & 0o777
        assert mode == (0o600 if key else 0o666 & ~files_mask())
        assert ("5ecret" in (tmp_path / str(number) / "job.json").read_text()) == bool(key)


def files_mask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("https://u:p@h/a b.tif?s=1%3D: it has 2, see https://u@h?y.", "https://h/a b.tif: it has 2, see https://h."),
        ("URL('https://h/a?s=1') and (s3://b/k.zarr/0?v=3).", "URL('https://h/a') and (s3://b/k.zarr/0)."),
        ("https://h/a is not https://u:p@h/b", "https://h/a is not https://h/b"),
        ("https://h/a.tif can't be opened; is it there? no", "https://h/a.tif can't be opened; is it there? no"),
        ("file:///data/a#1.tif and /data/a?b@c#d", "file:///data/a#1.tif and /data/a?b@c#d"),
    ],
)
def test_keys_of_urls_in_a_text(said: str, shown: str) -> None:
    assert without_keys(said) == shown == str(SourceError(said))


def test_a_changed_chunk_of_a_store_behind_a_url_is_noticed(tmp_path: Path) -> None:
    """The store's own folder is as before: of two shards one had the old pixels and one the new."""
    zarr.create_array(tmp_path / "s.zarr", data=np.zeros((300, 260), np.uint8), chunks=(64, 64), compressors=None)
    url = f"file://{tmp_path}/s.zarr"
    before = fingerprint(slidewright.open_source(url), url)
    assert fingerprint(slidewright.open_source(url), url) == before
    slidewright.shard(url, tmp_path / "shards", index=0, count=2, tile_size=64)
    zarr.open_array(tmp_path / "s.zarr", mode="r+")[:] = 200
    assert fingerprint(slidewright.open_source(url), url) != before
    with pytest.raises(ShardError, match=r"source\.files"):
        slidewright.shard(url, tmp_path / "shards", index=1, count=2, tile_size=64)


@pytest.mark.timeout(60)
def test_the_last_chunk_of_a_store_of_very_many_behind_a_url_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slidewright.sources.on_disk._MAX_FILES", 10)
    zarr.create_array(tmp_path / "s.zarr", data=np.ones((300, 260), np.uint8), chunks=(64, 64), compressors=None)
    url = f"file://{tmp_path}/s.zarr"
    before = fingerprint(slidewright.open_source(url), url)
    os.utime(tmp_path / "s.zarr/c/4/4", (1_000_000_000, 1_000_000_000))
    assert fingerprint(slidewright.open_source(url), url) != before


def test_a_store_behind_http_is_refused_where_a_change_must_be_noticed(
    served: tuple[Path, str], tmp_path: Path
) -> None:
    folder, url = served
    zarr.create_array(folder / "s.zarr", data=np.zeros((300, 260), np.uint8), chunks=(64, 64))
    with pytest.raises(SourceError, match="does not list the files"):
        slidewright.convert(f"{url}/s.zarr", tmp_path / "o.tif", resume=True)
    assert not list(tmp_path.glob("o.tif*"))


def test_s3_is_read_as_http_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", port=0)
    pytest.importorskip("s3fs")
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        slide(tmp_path / "s.tif")
        files = s3fs.S3FileSystem(endpoint_url=f"http://{host}:{port}")
        files.mkdir("slides")
        files.put(str(tmp_path / "s.tif"), "slides/s.tif")
        slidewright.convert("s3://slides/s.tif", tmp_path / "afar.tif", n_workers=2)
        slidewright.convert(tmp_path / "s.tif", tmp_path / "here.tif", n_workers=2)
        assert (tmp_path / "afar.tif").read_bytes() == (tmp_path / "here.tif").read_bytes()
        mine, there = s3fs.S3FileSystem(), "s3://slides/s.tif"
        mine.ls("slides")  # of which fsspec keeps the answer, for all of this process
        before = fingerprint(slidewright.open_source(there), there)
        store = tmp_path / "s.zarr"
        zarr.create_array(store, data=np.zeros((300, 260), np.uint8), chunks=(64, 64), compressors=None, fill_value=1)
        files.put(str(store), "slides/s.zarr", recursive=True)
        options: dict[str, Any] = {"n_workers": 0, "tile_size": 64}
        slidewright.convert("s3://slides/s.zarr", tmp_path / "z.tif", **options)

        def change_a_chunk(_: Any) -> None:
            files.pipe_file("slides/s.zarr/c/1/1", bytes([7]) * 64 * 64)

        with pytest.raises(SourceError, match=r"s\.zarr has changed while it was read"):
            slidewright.convert("s3://slides/s.zarr", tmp_path / "y.tif", progress=change_a_chunk, **options)
        slide(tmp_path / "s.tif", 900)
        files.put(str(tmp_path / "s.tif"), "slides/s.tif")
        assert RemoteFile(there).nbytes == (tmp_path / "s.tif").stat().st_size
        assert fingerprint(slidewright.open_source(there), there) != before
    finally:
        server.stop()


def test_what_is_fetched_ahead_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(3 * AHEAD_BYTES)
    remote = RemoteFile(f"file://{tmp_path}/large")
    remote.ahead((start, 1 << 20) for start in range(0, 3 * AHEAD_BYTES, 2 << 20))
    assert sum(len(piece.result()) for piece in remote._pieces) <= AHEAD_BYTES
    assert remote.read(3 * AHEAD_BYTES - 5, 100) == bytes(5)
    remote.close()


def test_paths_are_no_urls() -> None:
    assert all(map(is_url, ("s3://b/k", "https://h/f")))
    assert not any(map(is_url, ("C:\\slides\\s.tif", "a:b/c", "/x//y", "x.tif", os.curdir)))
