"""The merge against a sort in memory: any runs, any room, the same rows in the same order."""

from __future__ import annotations

import errno
import gc
import itertools
import os
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_worker import merge, rowstore
from dsort_worker.merge import Run, Runs, Sorting, whole
from dsort_worker.order import sort_order
from dsort_worker.rows import ROW_COST, RowBlock
from dsort_worker.rowstore import RowStore
from dsort_worker.scratch import Scratch
from dsort_worker.threads import WorkCancelled
from tests.support.rowblocks import Record, block_of, record_lists, records_of, sorted_by_hand


def blocks_of(records: list[Record], cuts: list[int]) -> list[RowBlock]:
    """The records, cut into blocks; ordinals go on from one to the next."""
    ordinals = block_of(records).rows["ordinal"]
    edges = [0, *sorted(min(cut, len(records)) for cut in cuts), len(records)]
    blocks = []
    for low, high in itertools.pairwise(edges):
        block = block_of(records[low:high])
        block.rows["ordinal"] = ordinals[low:high]
        blocks.append(block)
    return blocks


@given(
    st.data(),
    st.booleans(),
    st.lists(st.integers(0, 30), max_size=30),
    st.sampled_from([0, ROW_COST, 3 * ROW_COST, 10 * ROW_COST]),
    st.sampled_from([2, 3, 64]),
)
def test_runs_become_what_one_sort_would_have_made(
    data: st.DataObject, keys: bool, cuts: list[int], room: int, fan_in: int
) -> None:
    records = data.draw(record_lists(keys=keys, most=30))
    descending = keys and data.draw(st.booleans())
    sample = data.draw(st.integers(0, 5))
    expected = [records[number] for number in sorted_by_hand(records, descending=descending)]
    spilled: list[int] = []
    how = Sorting(
        room=room,
        sort=lambda block: sort_order(block, descending=descending),
        folder=None,
        descending=descending,
        on_spill=spilled.append,
    )
    runs = Runs(how)
    with mock.patch.object(merge, "FAN_IN", fan_in), mock.patch.object(rowstore, "_MARK", 2):
        for block in blocks_of(records, cuts):
            if data.draw(st.booleans()):
                runs.add(block)
                continue
            order = sort_order(block, descending=descending)
            with Scratch(None) as scratch:  # in another file, with rows around it that are not the run's
                store = RowStore.write(block, order, scratch=scratch)
                runs.add_sorted(store.load(0, store.rows))
        assert len(runs) == len(cuts) + 1
        store = runs.merge(sample=sample)
        merged = store.load(0, store.rows)
        assert records_of(merged) == expected
        if records:
            assert 40 * len(records) * 2 <= sum(spilled)
            assert len(store.bounds.bounds) == min(sample, len(records))
            assert store.blocks == sum(record.length for record in records)
    store.scratch.close()


@given(record_lists(keys=True, most=30), st.data())
def test_parts_of_stores_are_merged_without_the_rest(records: list[Record], data: st.DataObject) -> None:
    runs = Runs(Sorting(room=2 * ROW_COST, sort=sort_order, folder=None))
    kept: list[Record] = []
    with Scratch(None) as scratch:
        for block in blocks_of(records, data.draw(st.lists(st.integers(0, 30), max_size=4))):
            store = RowStore.write(block, sort_order(block), scratch=scratch)
            low, high = sorted(data.draw(st.tuples(*[st.integers(0, store.rows)] * 2)))
            kept += records_of(store.load(low, high))
            runs.add_sorted(Run(store, low, high))
        store = runs.merge(keys=False)
    expected = [kept[number] for number in sorted_by_hand(kept)]
    assert [(one.shard, one.slices) for one in records_of(store.map())] == [
        (one.shard, one.slices) for one in expected
    ]
    assert not store.has_keys


def test_a_million_equal_keys_are_cut_between_two_records() -> None:
    most = 0

    def sort(block: RowBlock) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        nonlocal most
        most = max(most, len(block))
        return sort_order(block)

    room = 50
    runs = Runs(Sorting(room=room * ROW_COST, sort=sort, folder=None))
    for shard in range(20):
        runs.add(block_of([Record(shard, ((number, 1),), word=7) for number in range(room)]))
    rows = runs.merge().map().rows
    assert most <= room
    assert rows["shard"].tolist() == [shard for shard in range(20) for _ in range(room)]
    assert rows["ordinal"].tolist() == list(range(room)) * 20


def test_no_runs_are_a_store_of_no_rows() -> None:
    store = Runs(Sorting(room=0, sort=sort_order, folder=None)).merge()
    assert (store.rows, len(store.map()), len(whole(store))) == (0, 0, 0)


@pytest.mark.parametrize("when", ["run", "merge"])
def test_a_failed_merge_leaves_no_file_open(when: str, tmp_path: Path) -> None:
    block = block_of([Record(0, ((number, 1),), word=number % 3) for number in range(9)])
    gc.collect()  # or what another test left in a circle would be closed in between
    before = len(os.listdir("/proc/self/fd"))
    runs = Runs(Sorting(room=ROW_COST, sort=sort_order, folder=str(tmp_path)))
    runs.add(block)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch.object(Scratch, "write", side_effect=full), pytest.raises(OSError, match="No space left"):
        if when == "merge":
            runs.merge()
        else:
            runs.add(block)
    del full, runs
    gc.collect()  # a traceback has them in a circle
    assert len(os.listdir("/proc/self/fd")) == before
    assert list(tmp_path.iterdir()) == []


def test_a_merge_ends_when_it_is_told_to() -> None:
    runs = Runs(Sorting(room=ROW_COST, sort=sort_order, folder=None, cancelled=lambda: True))
    runs.add(block_of([Record(0, ((number, 1),)) for number in range(9)]))
    with pytest.raises(WorkCancelled):
        runs.merge()
