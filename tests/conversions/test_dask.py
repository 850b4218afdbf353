"""A real Dask cluster of separate scheduler and worker processes makes the shards; one that is killed is not missed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from written import digest

import slidewright
from slidewright.cli.main import main
from slidewright.errors import CorruptTileError, OptionError, RunError

distributed = pytest.importorskip("distributed", reason="Dask is not installed")
OPTIONS = {"tile_size": 64, "compression": "deflate", "block_tiles": 2}


class Cluster:
    """Scheduler and workers as processes, started by `dask`'s own programs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(self.file), "--host", "127.0.0.1"
        )
        deadline = time.monotonic() + 30
        while not (self.file.exists() and self.file.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]
        self.workers: list[subprocess.Popen[bytes]] = []

    def add_worker(self, *wrapper: str, threads: int = 1) -> subprocess.Popen[bytes]:
        process = self._start(
            *("worker", self.address, "--nthreads", str(threads), "--no-nanny", "--no-dashboard"),
            *("--local-directory", str(self.folder), "--host", "127.0.0.1"),
            wrapper=wrapper,
        )
        self.workers.append(process)
        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(sum(worker.poll() is None for worker in self.workers), timeout=30)
        return process

    def _start(self, *arguments: str, wrapper: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        with (self.folder / f"{arguments[0]}-{time.monotonic()}.log").open("w") as log:
            return subprocess.Popen(
                [*wrapper, sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log, cwd=self.folder
            )

    def close(self) -> None:
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()


@pytest.fixture
def cluster(tmp_path_factory):
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def npy(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 40, (1500, 1500, 3), np.uint8)
    np.save(tmp_path / "in.npy", pixels)
    return tmp_path / "in.npy"


@pytest.fixture
def whole(npy, tmp_path):
    slidewright.convert(npy, tmp_path / "whole.tif", n_workers=0, **OPTIONS)
    found = digest(tmp_path / "whole.tif")
    (tmp_path / "whole.tif").unlink()
    return found


def shards_in(tmp_path):
    folder = tmp_path / "out.tif.shards"
    return [path for path in folder.glob("shard-*") if path.suffix != ".partial"] if folder.exists() else []


@pytest.mark.long
def test_cluster_makes_the_same_file_though_a_worker_is_killed(tmp_path, npy, whole, cluster):
    first = cluster.add_worker()
    cluster.add_worker(threads=2)
    seen, killed = [], []

    def kill() -> None:
        deadline = time.monotonic() + 60
        while len(shards_in(tmp_path)) < 5 and time.monotonic() < deadline:
            time.sleep(0.002)
        killed.append(len(shards_in(tmp_path)))
        first.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    report = slidewright.convert(
        npy, tmp_path / "out.tif", engine="dask", dask=cluster.address, n_workers=1, progress=seen.append, **OPTIONS
    )
    thread.join()
    assert killed[0] < 64
    assert digest(tmp_path / "out.tif") == whole
    assert report.bytes == (tmp_path / "out.tif").stat().st_size
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.npy", "out.tif"]
    tiles = [snapshot.tiles_done for snapshot in seen]
    assert tiles == sorted(tiles)
    assert tiles[-1] == seen[-1].tiles_total
    assert len(seen) >= 64


def test_command_and_client_reach_the_same_cluster(tmp_path, npy, whole, cluster, capsys):
    cluster.add_worker()
    arguments = ["--tile-size", "64", "--compression", "deflate", "--block-tiles", "2", "--workers", "0"]
    assert main(["convert", str(npy), str(tmp_path / "a.tif"), "--dask", cluster.address, *arguments]) == 0
    assert digest(tmp_path / "a.tif") == whole
    capsys.readouterr()
    with distributed.Client(cluster.address, set_as_default=False) as client:
        slidewright.convert(npy, tmp_path / "b.tif", engine="dask", dask=client, n_workers=0, **OPTIONS)
        assert client.status == "running"
    assert digest(tmp_path / "b.tif") == whole


def test_failed_task_is_the_callers_error_and_its_shards_are_kept(tmp_path, cluster):
    cluster.add_worker()
    source = tmp_path / "in.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (2000, 2000), np.uint8)
    slidewright.convert(pixels, source, n_workers=0, compression="deflate", tile_size=64, levels=1)
    import tifffile

    with tifffile.TiffFile(source) as tiff:
        at = tiff.pages[0].dataoffsets[900]
    data = bytearray(source.read_bytes())
    data[at : at + 40] = bytes(40)
    source.write_bytes(data)
    options = {"engine": "dask", "dask": cluster.address, "n_workers": 0, "on_corrupt": "error", **OPTIONS}
    with pytest.raises(CorruptTileError, match=r"in\.tif"):
        slidewright.convert(source, tmp_path / "out.tif", **options)
    assert not (tmp_path / "out.tif").exists()
    assert shards_in(tmp_path)


def test_worker_that_does_not_see_the_files_is_named(tmp_path, npy, cluster):
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{tmp_path}" && exec "$@"', "sh"]
    try:
        subprocess.run([*hide, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user can't make a process that does not see a folder (unshare --mount)")
    cluster.add_worker(*hide)
    with pytest.raises(
        RunError, match=r"1 of 1 Dask workers can't take part: tcp://.* does not see the source .*every"
    ):
        slidewright.convert(npy, tmp_path / "out.tif", engine="dask", dask=cluster.address, n_workers=0, **OPTIONS)


@pytest.mark.timeout(60)
def test_a_cluster_without_workers_is_waited_for_only_so_long(tmp_path, npy, whole, cluster):
    import dask

    seen = []
    options = {"engine": "dask", "dask": cluster.address, "n_workers": 0, "progress": seen.append, **OPTIONS}
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "2s"}),
        pytest.raises(RunError, match=r"cluster at tcp://.* has had no worker for 2 s; start some"),
    ):
        slidewright.convert(npy, tmp_path / "out.tif", **options)
    assert {snapshot.stage for snapshot in seen} == {"waiting for Dask workers"}
    later = threading.Timer(2, cluster.add_worker)
    later.start()
    slidewright.convert(npy, tmp_path / "out.tif", **options)
    later.join()
    assert digest(tmp_path / "out.tif") == whole


@pytest.mark.timeout(60)
def test_what_is_lost_with_the_last_worker_is_waited_for_only_so_long(tmp_path, npy, cluster, monkeypatch):
    import dask

    worker, ask = cluster.add_worker(), distributed.Future._result

    async def lost(future, *args, **kwargs):
        if worker.poll() is None:  # between a shard's end and the question for what it gave
            worker.kill()
            worker.wait()
        return await ask(future, *args, **kwargs)

    monkeypatch.setattr(distributed.Future, "_result", lost)
    monkeypatch.setattr("slidewright.conversions.dask._RESULT_SECONDS", 1.0)
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "2s"}),
        pytest.raises(RunError, match="has had no worker for 2 s"),
    ):
        slidewright.convert(npy, tmp_path / "out.tif", engine="dask", dask=cluster.address, n_workers=0, **OPTIONS)


@pytest.mark.timeout(60)
def test_an_asynchronous_client_is_refused_but_in_another_thread(tmp_path, npy, whole, cluster):
    cluster.add_worker()

    async def run():
        async with distributed.Client(cluster.address, asynchronous=True, set_as_default=False) as client:
            options = {"engine": "dask", "dask": client, "n_workers": 0, **OPTIONS}
            with pytest.raises(OptionError, match="Dask client is asynchronous"):
                slidewright.convert(npy, tmp_path / "out.tif", **options)
            assert os.listdir(tmp_path) == ["in.npy"]
            await asyncio.to_thread(slidewright.convert, npy, tmp_path / "out.tif", **options)

    asyncio.run(run())
    assert digest(tmp_path / "out.tif") == whole


@pytest.mark.timeout(60)
def test_client_that_is_closed_before_or_in_mid_run_is_said(tmp_path, npy, whole, cluster):
    cluster.add_worker()
    client = distributed.Client(cluster.address, set_as_default=False)
    options = {"engine": "dask", "dask": client, "n_workers": 0, **OPTIONS}
    with pytest.raises(RunError, match=r"Dask client was closed, .*run again"):
        slidewright.convert(npy, tmp_path / "out.tif", progress=lambda _: client.close(), **options)
    assert not (tmp_path / "out.tif").exists()
    with pytest.raises(OptionError, match="Dask client is closed; give"):
        slidewright.convert(npy, tmp_path / "out.tif", **options)
    slidewright.convert(npy, tmp_path / "out.tif", **{**options, "dask": cluster.address})
    assert digest(tmp_path / "out.tif") == whole


@pytest.mark.timeout(60)
def test_worker_that_dies_while_it_is_asked_what_it_sees_is_done_without(tmp_path, npy, whole, cluster, monkeypatch):
    first, run = cluster.add_worker(), distributed.Client.run
    cluster.add_worker()

    def ask(client, *arguments, **options):
        first.kill()  # the scheduler does not know of it yet
        return run(client, *arguments, **options)

    options = {"engine": "dask", "dask": cluster.address, "n_workers": 0, **OPTIONS}
    monkeypatch.setattr(distributed.Client, "run", ask)
    slidewright.convert(npy, tmp_path / "out.tif", **options)
    assert digest(tmp_path / "out.tif") == whole

    def lost(*_, **__):
        raise distributed.comm.CommClosedError("in <TCP>: Stream is closed")

    monkeypatch.setattr(distributed.Client, "run", lost)
    with pytest.raises(RunError, match=r"scheduler does not answer any more \(in <TCP>: Stream is closed\)"):
        slidewright.convert(npy, tmp_path / "other.tif", **options)
    assert not (tmp_path / "other.tif").exists()


def test_what_is_missing_is_said(tmp_path, npy, monkeypatch):
    with pytest.raises(OptionError, match="address of a scheduler"):
        slidewright.convert(npy, tmp_path / "out.tif", engine="dask", n_workers=0)
    with pytest.raises(OptionError, match='engine="dask"'):
        slidewright.convert(npy, tmp_path / "out.tif", dask="tcp://127.0.0.1:1", n_workers=0)
    with pytest.raises(OptionError, match="save them to a file"):
        slidewright.convert(np.load(npy), tmp_path / "out.tif", engine="dask", dask="tcp://127.0.0.1:1", n_workers=0)
    monkeypatch.setattr("slidewright.conversions.dask._CONNECT_SECONDS", 1)
    with pytest.raises(RunError, match="no Dask scheduler answers at 'tcp:"):
        slidewright.convert(npy, tmp_path / "out.tif", engine="dask", dask="tcp://127.0.0.1:1", n_workers=0)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(OptionError, match=r"slidewright\[dask\]"):
        slidewright.convert(npy, tmp_path / "out.tif", engine="dask", dask="tcp://127.0.0.1:1", n_workers=0)
    assert os.listdir(tmp_path) == ["in.npy"]


@pytest.mark.long
def test_slides_in_dicom_and_ndpi_are_converted_by_a_cluster(tmp_path, cluster):
    pytest.importorskip("pydicom")
    import dicom_slides
    import ndpi_slides

    cluster.add_worker()
    sources = dicom_slides.slide(tmp_path / "slide"), ndpi_slides.slide(tmp_path / "in.ndpi")
    for source in sources:
        slidewright.convert(source, tmp_path / "whole.tif", n_workers=0, overwrite=True)
        slidewright.convert(
            source, tmp_path / "out.tif", engine="dask", dask=cluster.address, n_workers=0, overwrite=True
        )
        assert digest(tmp_path / "out.tif") == digest(tmp_path / "whole.tif")


@pytest.mark.timeout(60)
def test_scheduler_that_is_killed_in_mid_run_is_said(tmp_path, npy, cluster):
    cluster.add_worker()
    options = {"engine": "dask", "dask": cluster.address, "n_workers": 0, **OPTIONS}
    with pytest.raises(RunError, match=r"lost its scheduler, .*run again"):
        slidewright.convert(npy, tmp_path / "out.tif", progress=lambda _: cluster.scheduler.kill(), **options)
    assert not (tmp_path / "out.tif").exists()
