"""The cost model follows from its constants; the command measures them and writes them down."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidewright.bench.cost_model import Costs, Filesystem, many_nodes, one_machine, slides_an_hour, writer_feeds
from slidewright.bench.scaling import measure_messages, measure_writer
from slidewright.cli.main import main
from slidewright.geometry import Size
from slidewright.pyramid.plan import make_plan

COSTS = Costs(
    read=4e-3, encode=5e-3, reduce=1e-3, scratch=0, ring=0, writer=1e-4, message=1e-6, message_growth=1e-7,
    assemble=2e-4, start=0.5, source_bytes=2e5, output_bytes=2.5e5, scratch_bytes=1e4, pixel_bytes=3e6,
)  # fmt: skip
FAST = Filesystem(1e12, 1e13)


def test_one_worker_takes_the_sum_of_its_stages():
    assert one_machine(COSTS, 1000, 1).seconds == pytest.approx(0.5 + 1000 * 10e-3)
    assert one_machine(COSTS, 1000, 1).limit == "workers"


def test_beyond_what_one_writer_feeds_it_is_the_limit():
    assert writer_feeds(COSTS) == pytest.approx(100)
    assert one_machine(COSTS, 1000, 99).limit == "workers"
    assert one_machine(COSTS, 1000, 101).limit == "writer"
    assert one_machine(COSTS, 1000, 200).seconds == one_machine(COSTS, 1000, 400).seconds


def test_coordinator_is_the_limit_where_each_worker_costs_it_time():
    slow = dataclasses.replace(COSTS, message_growth=1e-5)
    assert one_machine(slow, 1000, 90).limit == "coordinator"


@given(workers=st.integers(1, 90), megapixels=st.floats(1, 1e6))
def test_more_workers_are_never_slower_while_they_are_the_limit(workers, megapixels):
    assert one_machine(COSTS, megapixels, workers + 1).seconds <= one_machine(COSTS, megapixels, workers).seconds + 1e-9


def test_nodes_share_the_work_until_the_filesystem_is_the_limit():
    one, last = many_nodes(COSTS, 10_000, 1, 32, FAST)
    four, same = many_nodes(COSTS, 10_000, 4, 32, FAST)
    assert one.seconds - 0.5 == pytest.approx(4 * (four.seconds - 0.5))
    assert last == same
    assert last.limit == "assembling"
    slow = Filesystem(1e9, 2e9)
    many, last = many_nodes(COSTS, 10_000, 64, 32, slow)
    assert many.limit == "filesystem"
    assert many.seconds == pytest.approx(0.5 + 10_000 * 4.6e5 / 2e9)
    assert last.limit == "filesystem"


def test_nodes_with_slides_of_their_own_do_as_many_times_more():
    one = slides_an_hour(COSTS, 10_000, 1, 10, FAST)
    assert one.slides == pytest.approx(3600 / (0.5 + 10_000 * 1e-3))
    assert one.bytes == pytest.approx(one.slides * 10_000 * 3e6)
    assert one.limit == "workers"
    assert slides_an_hour(COSTS, 10_000, 64, 10, FAST).slides == pytest.approx(64 * one.slides)
    assert slides_an_hour(COSTS, 10_000, 64, 10).slides == slides_an_hour(COSTS, 10_000, 64, 10, FAST).slides
    assert slides_an_hour(COSTS, 10_000, 2, 200).limit == "writer"


def test_nodes_with_slides_of_their_own_are_held_by_the_filesystem_they_share():
    slow = Filesystem(1e9, 2e9)  # 4.5e9 bytes a slide: 4.5 s of a node's, or 2.25 of everybody's
    one = slides_an_hour(COSTS, 10_000, 1, 99, slow)
    assert (one.slides, one.limit) == (pytest.approx(3600 / (0.5 + 4.5)), "a node's filesystem")
    many = slides_an_hour(COSTS, 10_000, 3, 99, slow)
    assert (many.slides, many.limit) == (pytest.approx(3600 / 2.25), "all nodes' filesystem")
    assert slides_an_hour(COSTS, 10_000, 64, 99, slow) == many


@given(nodes=st.integers(1, 200), workers=st.integers(1, 200))
def test_another_node_never_means_fewer_slides(nodes, workers):
    disk = Filesystem(1e9, 2e10)
    assert (
        slides_an_hour(COSTS, 9000, nodes + 1, workers, disk).slides
        >= slides_an_hour(COSTS, 9000, nodes, workers, disk).slides
    )


def test_writer_is_timed_without_what_feeds_it(tmp_path):
    speed = measure_writer(3000, 5000, str(tmp_path), tile=64, repeat=1)
    assert speed.segments == make_plan(Size(3000, 3000), 64).n_tiles
    assert speed.seconds > 0
    assert speed.put_seconds > 0
    assert list(tmp_path.iterdir()) == []


def test_messages_are_timed_with_any_number_of_pipes():
    assert measure_messages(66, 50) > 0
    assert measure_messages(1, 50) > 0


def test_command_prints_tables_and_writes_constants(tmp_path, capsys):
    np.save(tmp_path / "in.npy", np.random.default_rng(0).integers(0, 255, (900, 800, 3), np.uint8))
    arguments = ["bench", "scaling", str(tmp_path / "in.npy"), "--repeat", "2", "--check", "1", "--side", "50000"]
    assert main([*arguments, "--folder", str(tmp_path), "--json", str(tmp_path / "costs.json")]) == 0
    out = capsys.readouterr().out
    assert "one writer feeds" in out
    assert "50000 x 50000 on one machine" in out
    assert "measured s" in out
    assert "TB of pixels an hour" in out
    found = json.loads((tmp_path / "costs.json").read_text())
    assert set(found) == {field.name for field in dataclasses.fields(Costs)}
    assert found["pixel_bytes"] == 3e6
    assert min(found[name] for name in ("read", "encode", "reduce", "ring", "writer", "assemble", "output_bytes")) > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["costs.json", "in.npy"]


def test_kept_constants_predict_without_measuring(tmp_path, capsys):
    kept = tmp_path / "costs.json"
    kept.write_text(json.dumps(dataclasses.asdict(COSTS)))
    assert main(["bench", "scaling", "--constants", str(kept), "--side", "100000", "--node-workers", "10"]) == 0
    out = capsys.readouterr().out
    # 10.5 s a slide: 343 an hour and node, of 30 GB
    row = next(line.split() for line in out.split("whole slides")[1].splitlines() if line.split()[:1] == ["4"])
    assert row == ["4", "1371", "41.1", "11.4", "workers"]
    kept.write_text('{"read": 1}')
    assert main(["bench", "scaling", "--constants", str(kept)]) == 2
    assert "--json" in capsys.readouterr().err


def test_measuring_needs_a_slide_and_predicting_none(tmp_path, capsys):
    (tmp_path / "costs.json").write_text("{}")
    for words in ([], ["--constants", str(tmp_path / "costs.json"), "--check", "1"]):
        assert main(["bench", "scaling", *words]) == 2
        assert "SRC" in capsys.readouterr().err
