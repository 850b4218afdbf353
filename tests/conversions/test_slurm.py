"""The job scripts of examples/slurm on a real Slurm: to the same bytes as `convert`, also when a task is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from slurm import Slurm, why_not
from written import digest

import slidewright

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "slurm"
pytestmark = [pytest.mark.skipif(why_not() is not None, reason=str(why_not())), pytest.mark.timeout(180)]

GATED = '''"""Every process gives shard 2 its final name only when the file `closed` is not there."""
import os, pathlib, time

gate = pathlib.Path(__file__).parent
replace = os.replace


def replace_at_gate(old, new):
    if os.path.basename(new) == "shard-00002-of-00004" and (gate / "closed").exists():
        (gate / "reached").touch()
        while (gate / "closed").exists():
            time.sleep(0.02)
    replace(old, new)


os.replace = replace_at_gate
'''


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A running Slurm whose jobs find `slidewright`, of this interpreter, on their PATH."""
    found = Slurm(tmp_path_factory.mktemp("slurm"))
    programs = found.folder / "bin"
    programs.mkdir()
    command = programs / "slidewright"
    (found.folder / "sitecustomize.py").write_text(GATED)
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m slidewright "$@"\n')
    command.chmod(0o755)
    found.environment["PATH"] = f"{programs}:{Path(sys.executable).parent}:{found.environment['PATH']}"
    found.environment["PYTHONPATH"] = f"{found.folder}:{Path(slidewright.__file__).parent.parent}"
    try:
        found.start()
        yield found
    finally:
        found.stop()


@pytest.fixture
def gate(slurm):
    """The folder of the files `closed` and `reached` (see `GATED`)."""
    yield slurm.folder
    (slurm.folder / "closed").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "slide one.npy"
    np.save(path, np.random.default_rng(0).integers(0, 255, (6000, 5000, 3), np.uint8))
    return path


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "out.tif"
    slidewright.convert(source, path, n_workers=2)
    return digest(path)


def wait_for(true, seconds=60):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_array_and_dependent_job_make_the_same_file_though_a_task_is_killed(tmp_path, slurm, gate, source, whole):
    """Twice at most: Slurm may revoke a requeued task's credential."""
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        try:
            kill_one_task_of_an_array(folder / "out.tif", slurm, gate, source)
            break
        except AssertionError as error:
            if number or "credential revoked" not in str(error):
                raise
    assert digest(folder / "out.tif") == whole
    assert os.listdir(folder) == ["out.tif"]


def kill_one_task_of_an_array(out, slurm, gate, source):
    closed, reached = gate / "closed", gate / "reached"
    reached.unlink(missing_ok=True)
    closed.touch()  # task 2 waits with a whole shard that has no name yet, so it is killed in time
    array, assemble = slurm.run(str(SCRIPTS / "submit.sh"), str(source), str(out), "4").split()
    slurm.run("scontrol", "hold", assemble)  # else the other tasks might end, and it start, before the requeue
    shard = out.with_name("out.tif.shards") / "shard-00002-of-00004"
    wait_for(reached.exists)
    slurm.run("scancel", f"{array}_2", check=False)
    wait_for(lambda: slurm.states(array).get("2") == "CANCELLED")
    assert not shard.exists()
    closed.unlink()
    time.sleep(2)  # a node takes a credential that is as old, in whole seconds, as the kill for a revoked one
    slurm.run("scontrol", "requeue", f"{array}_2")
    slurm.run("scontrol", "update", f"JobId={array}_2", "StartTime=now")  # Slurm would wait two minutes
    slurm.run("scontrol", "release", assemble)
    slurm.wait(array, "COMPLETED")
    slurm.wait(assemble, "COMPLETED")


def test_array_that_lost_tasks_needs_only_those(tmp_path, slurm, source, whole):
    shards, out = tmp_path / "shards", tmp_path / "out.tif"
    array = slurm.run(
        "sbatch", "--parsable", "--array=0,2", str(SCRIPTS / "shard.sbatch"), str(source), str(shards), "4"
    )
    slurm.wait(array.strip(), "COMPLETED")
    with pytest.raises(slidewright.ShardError, match=r"2 of 4 shards.*--array --count 4: the tasks 1,3") as caught:
        slidewright.assemble(shards, out, n_workers=0)
    tasks = str(caught.value).rsplit(" ", 1)[1]
    made = os.stat(shards / "shard-00000-of-00004").st_mtime_ns
    rest = slurm.run(
        "sbatch", "--parsable", f"--array={tasks}", str(SCRIPTS / "shard.sbatch"), str(source), str(shards), "4"
    )
    slurm.wait(rest.strip(), "COMPLETED")
    slidewright.assemble(shards, out, n_workers=0)
    assert digest(out) == whole
    assert os.stat(shards / "shard-00000-of-00004").st_mtime_ns == made


def test_manifest_over_an_array(tmp_path, slurm):
    rows = ["source,destination,quality"]
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).integers(0, 255, (700, 600), np.uint8))
        rows.append(f"{number}.npy,{number}.tif,{80 + number}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    for _ in range(2):
        script = str(SCRIPTS / "batch.sbatch")
        job = slurm.run("sbatch", "--parsable", "--array=0-1", script, str(tmp_path / "manifest.csv"), "2").strip()
        slurm.wait(job, "COMPLETED")
    for number in range(3):
        slidewright.convert(tmp_path / f"{number}.npy", tmp_path / "one.tif", quality=80 + number, overwrite=True)
        assert digest(tmp_path / f"{number}.tif") == digest(tmp_path / "one.tif")
    reports = sorted(tmp_path.glob("manifest.report.task-*.jsonl"))
    assert [len(report.read_text().splitlines()) for report in reports] == [2, 1]  # the second array found all done
    assert {json.loads(line)["status"] for report in reports for line in report.read_text().splitlines()} == {"done"}


@pytest.mark.skipif(importlib.util.find_spec("dask_jobqueue") is None, reason="dask-jobqueue is not installed")
def test_dask_jobqueue_example(tmp_path, slurm, source, whole):
    printed = slurm.run(
        sys.executable, str(SCRIPTS / "dask_jobqueue_example.py"), str(source), str(tmp_path / "out.tif"), "1"
    )
    assert "bytes in" in printed
    assert digest(tmp_path / "out.tif") == whole
