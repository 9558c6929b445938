"""The row store: any range of sorted rows can be read again and again, and arrives as it was."""

from __future__ import annotations

import errno
import os
from contextlib import closing
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_worker import rowstore
from dsort_worker.order import Sample, sort_order
from dsort_worker.rows import RowBlock
from dsort_worker.rowstore import HEADER, RowsReceiver, RowStore, encode_block
from tests.support.rowblocks import Record, block_of, record_lists, records_of, sorted_by_hand


def store_of(records: list[Record], *, descending: bool = False, sample: int = 16) -> RowStore:
    block = block_of(records)
    return RowStore.write(block, sort_order(block, descending=descending), folder=None, sample=sample)


def over_the_wire(store: RowStore, low: int, high: int, *, keys: bool, piece: int) -> RowBlock:
    header, sections = store.sections(low, high)
    body = header + b"".join(os.pread(store.fd, size, offset) for offset, size in sections)
    receiver = RowsReceiver(has_keys=keys)
    for at in range(0, len(body), piece):
        receiver.feed(memoryview(body[at : at + piece]))
    return receiver.block


@given(st.data(), st.booleans(), st.integers(1, 100), st.integers(1, 5))
def test_any_range_comes_back_as_it_was(data: st.DataObject, keys: bool, piece: int, chunk: int) -> None:
    records = data.draw(record_lists(keys=keys))
    descending = keys and data.draw(st.booleans())
    keys = keys and bool(records)
    in_order = [records[number] for number in sorted_by_hand(records, descending=descending)]
    with mock.patch.object(rowstore, "_CHUNK", chunk), mock.patch.object(rowstore, "_READ", 7):
        low, high = sorted(data.draw(st.tuples(st.integers(0, len(records)), st.integers(0, len(records)))))
        with closing(store_of(records, descending=descending)) as store:
            assert store.rows == len(records)
            assert store.blocks == sum(record.length for record in records)
            for _ in range(2):
                assert (
                    records_of(over_the_wire(store, low, high, keys=keys, piece=piece)) == in_order[low:high]
                )
            assert records_of(store.load(low, high)) == in_order[low:high]


@given(record_lists(keys=True, least=1), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_ranges_of_all_ranks_are_all_rows(
    records: list[Record], ranks: int, sample: int, descending: bool
) -> None:
    with (
        mock.patch.object(rowstore, "_CHUNK", 3),
        closing(store_of(records, descending=descending, sample=sample)) as store,
    ):
        bounds = store.bounds
        assert 1 <= len(bounds.bounds) <= sample
        assert bounds.weight * len(bounds.bounds) == pytest.approx(store.blocks)
        splitters = bounds.bounds[: ranks - 1]
        cuts = store.cut(splitters, ranks=ranks, descending=descending)
        assert len(cuts) == ranks + 1
        assert (cuts[0], cuts[-1]) == (0, len(records))
        assert tuple(store.bound(cut) for cut in cuts[1 : 1 + len(splitters)]) == splitters
        assert cuts[1 + len(splitters) :] == [len(records)] * (ranks - len(splitters))


def test_samples_stand_at_equal_steps_of_bytes() -> None:
    # One record has half of all bytes: half of the samples are its place.
    records = [Record(0, ((0, 1),), word=number) for number in range(100)]
    records[70] = Record(0, ((0, 99),), word=70)
    with closing(store_of(records, sample=20)) as store:
        ordinals = [bound.ordinal for bound in store.bounds.bounds]
    assert ordinals.count(70) == pytest.approx(10, abs=1)
    assert ordinals == sorted(ordinals)


def test_no_rows_are_a_range_too() -> None:
    with closing(store_of([])) as store:
        assert store.bounds == Sample((), 0.0)
        assert store.cut([], ranks=3, descending=False) == [0, 0, 0, 0]
        assert len(over_the_wire(store, 0, 0, keys=False, piece=5)) == 0


def test_the_scratch_file_has_no_name(tmp_path: Path) -> None:
    block = block_of([Record(0, ((0, 1),))])
    with closing(RowStore.write(block, np.arange(1), folder=str(tmp_path), sample=1)) as store:
        assert list(tmp_path.iterdir()) == []
        assert os.fstat(store.fd).st_nlink == 0


def test_a_full_disk_leaves_no_file_open(tmp_path: Path) -> None:
    block = block_of([Record(0, ((0, 1),))])
    before = len(os.listdir("/proc/self/fd"))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with mock.patch.object(RowStore, "_put", side_effect=full), pytest.raises(OSError, match="No space left"):
        RowStore.write(block, np.arange(1), folder=str(tmp_path), sample=1)
    assert len(os.listdir("/proc/self/fd")) == before


@given(record_lists(keys=False))
def test_a_block_in_memory_goes_over_the_wire(records: list[Record]) -> None:
    block = block_of(records)
    receiver = RowsReceiver(has_keys=False)
    receiver.feed(memoryview(encode_block(block)))
    assert records_of(receiver.block) == records
    assert records_of(block) == records  # what is offered stays as it is


def test_a_range_that_is_not_as_announced_is_refused() -> None:
    body = encode_block(block_of([Record(0, ((0, 1), (5, 2)))]))
    short = RowsReceiver(has_keys=False)
    with pytest.raises(ValueError, match="ended early"):
        _ = short.block
    short.feed(memoryview(body[: HEADER.size - 1]))
    short.feed(memoryview(body[HEADER.size - 1 : -1]))
    with pytest.raises(ValueError, match="ended early"):
        _ = short.block
    with pytest.raises(ValueError, match="more bytes"):
        short.feed(memoryview(body[-1:] + b"x"))
