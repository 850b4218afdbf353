"""Segments through the ring into the store, whole or in pieces, and once only."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidewright.engine.ring import SLOT_BYTES, SlotWriter, read_slot
from slidewright.engine.segment_store import SegmentStore
from slidewright.errors import OutputError
from slidewright.formats.tiff import TiffFormat
from slidewright.geometry import Size
from slidewright.pyramid.plan import make_plan
from slidewright.system.shared_memory import SharedBuffer


@given(st.lists(st.one_of(st.integers(0, 3000), st.integers(SLOT_BYTES - 9000, 3 * SLOT_BYTES)), max_size=12))
def test_segments_of_any_size_come_through_the_ring_whole(sizes):
    memory = SharedBuffer.allocate(2 * SLOT_BYTES)
    plan = make_plan(Size(16, 16 * max(1, len(sizes))), 16, n_levels=1)
    store = SegmentStore(plan, TiffFormat().wave, 1 << 30)
    slots = iter(range(1000))

    def send(slot, entries):
        store.add_parts(1, read_slot(memory, slot % 2, entries))

    writer = SlotWriter(memory, lambda: next(slots) % 2, send)
    rng = np.random.default_rng(0)
    segments = [rng.bytes(size) for size in sizes]
    for column, segment in enumerate(segments):
        writer.put((0, 0, 0, column), segment)
    writer.flush()
    for column, segment in enumerate(segments):
        assert store.take((0, 0, 0, column)) == segment
    memory.close()


def test_redone_block_replaces_half_a_segment_and_repeats_are_ignored():
    memory = SharedBuffer.allocate(SLOT_BYTES * 8)
    store = SegmentStore(make_plan(Size(16, 32), 16, n_levels=1), TiffFormat().wave, 1 << 30)
    big = os.urandom(3 * SLOT_BYTES)
    for sender, parts in ((1, 2), (2, 99)):  # the first sender dies after two slots
        sent = []
        slots = iter(range(8))
        writer = SlotWriter(memory, lambda slots=slots: next(slots), lambda *slot, sent=sent: sent.append(slot))
        writer.put((0, 0, 0, 0), b"small")
        writer.put((0, 0, 0, 1), big)
        writer.flush()
        for slot, entries in sent[:parts]:
            store.add_parts(sender, read_slot(memory, slot, entries))
    assert store.take((0, 0, 0, 1)) == big
    assert store.take((0, 0, 0, 0)) == b"small"
    assert store.take((0, 0, 0, 0)) is None


@pytest.mark.parametrize(("planes", "band"), [(1, 1), (3, 1), (3, 3)])
def test_store_spills_beyond_its_memory_and_gives_the_same_back(tmp_path, planes, band):
    plan = make_plan(Size(320, 320), 16, block_tiles=2, planes=planes, band=band)
    store = SegmentStore(plan, TiffFormat().wave, 2000, str(tmp_path))
    keys = [(level.index, *place) for level in plan.levels for place in np.ndindex(planes, *level.tiles)]
    for key in reversed(keys):
        store.add(key, repr(key).encode() * 20)
    assert store.held_bytes <= 2000 < store.spilled_bytes
    assert list(tmp_path.iterdir()) == []  # files without a name
    for key in keys:
        assert store.take(key) == repr(key).encode() * 20
    store.close()


@pytest.mark.timeout(30)
def test_segment_that_the_temporary_disk_has_lost_is_an_error(tmp_path):
    plan = make_plan(Size(320, 320), 16, block_tiles=2)
    store = SegmentStore(plan, TiffFormat().wave, 0, str(tmp_path))
    keys = [(0, 0, 0, 0), (0, 0, 0, 1)]
    for key in keys:
        store.add(key, b"segment" * 20)
    (spill,) = store._spills.values()
    os.pwrite(spill.file.fileno(), bytes(20), 150)
    assert store.take(keys[0]) == b"segment" * 20
    with pytest.raises(OutputError, match="has lost some"):
        store.take(keys[1])
    store.close()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("lost", ["segment", "end of the slot", "all"])
def test_slot_of_a_ring_in_a_file_that_the_disk_has_lost_is_an_error(tmp_path, lost):
    memory, sent = SharedBuffer.allocate(2 * SLOT_BYTES, tmp_path, on_disk=True), []
    writer = SlotWriter(memory, iter(range(2)).__next__, lambda *slot: sent.append(slot))
    for column in range(2):
        writer.put((0, 0, 0, column), b"segment" * 20)
    writer.flush()
    assert [bytes(part.data) for part in read_slot(memory, *sent[0])] == [b"segment" * 20] * 2
    places = {"segment": (150, 170), "end of the slot": (SLOT_BYTES - 4096, SLOT_BYTES), "all": (0, SLOT_BYTES)}
    first, end = places[lost]
    memory.view()[first:end] = bytes(end - first)
    with pytest.raises(OutputError, match="has lost some"):
        list(read_slot(memory, *sent[0]))
    memory.close()
