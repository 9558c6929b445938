"""The row store: any range of sorted rows can be read again and again, and arrives as it was."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dsort_worker import rowstore
from dsort_worker.order import Sample, sort_order
from dsort_worker.rows import Extent, RowBlock
from dsort_worker.rowsreceiver import RowsReceiver
from dsort_worker.rowstore import HEADER, RowStore, stored
from dsort_worker.scratch import Scratch
from tests.support.rowblocks import Record, block_of, record_lists, records_of, sorted_by_hand

SLOW_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
"""The fixture patches steps, which are the same for every example."""


@contextlib.contextmanager
def store_of(records: list[Record], *, descending: bool = False, sample: int = 16) -> Iterator[RowStore]:
    block = block_of(records)
    with Scratch(None) as scratch:
        scratch.reserve(1)  # no region begins where the file does
        yield RowStore.write(block, sort_order(block, descending=descending), scratch=scratch, sample=sample)


def body_of(store: RowStore, low: int, high: int) -> bytes:
    header, sections = store.sections(low, high)
    return header + b"".join(os.pread(store.scratch.fd, size, offset) for offset, size in sections)


def over_the_wire(store: RowStore, low: int, high: int, *, keys: bool, piece: int) -> RowBlock:
    receiver = RowsReceiver(has_keys=keys)
    feed(receiver, body_of(store, low, high), piece=piece)
    block = receiver.finish()
    assert isinstance(block, RowBlock)
    return block


def feed(receiver: RowsReceiver, body: bytes, *, piece: int) -> None:
    for at in range(0, len(body), piece):
        receiver.feed(memoryview(body[at : at + piece]))


@pytest.fixture(params=[(3, 2, 5), (1 << 14, 1 << 10, 1 << 16)], autouse=True, ids=["few", "many"])
def small_steps(request: pytest.FixtureRequest) -> Iterator[None]:
    """However many rows are looked at at a time."""
    chunk, mark, key_piece = request.param
    with (
        mock.patch.object(rowstore, "_CHUNK", chunk),
        mock.patch.object(rowstore, "_MARK", mark),
        mock.patch.object(rowstore, "_KEY_PIECE", key_piece),
    ):
        yield


@SLOW_FIXTURE
@given(st.data(), st.booleans(), st.integers(1, 100))
def test_any_range_comes_back_as_it_was(data: st.DataObject, keys: bool, piece: int) -> None:
    records = data.draw(record_lists(keys=keys))
    descending = keys and data.draw(st.booleans())
    keys = keys and bool(records)
    in_order = [records[number] for number in sorted_by_hand(records, descending=descending)]
    low, high = sorted(data.draw(st.tuples(st.integers(0, len(records)), st.integers(0, len(records)))))
    with store_of(records, descending=descending) as store:
        assert store.rows == len(records)
        assert store.blocks == sum(record.length for record in records)
        for _ in range(2):
            assert records_of(over_the_wire(store, low, high, keys=keys, piece=piece)) == in_order[low:high]
        block = store.load(low, high)
        assert records_of(block) == in_order[low:high]
        assert store.extent_of(low, high) == block.extent
        mapped = store.map()
        assert mapped.mapped == bool(records)
        whole = store.load(0, store.rows)
        whole.drop_keys()
        assert records_of(mapped) == records_of(whole)


@SLOW_FIXTURE
@given(st.data(), st.booleans(), st.integers(1, 100))
def test_a_range_that_goes_to_disk_as_it_comes_is_a_store(
    data: st.DataObject, keys: bool, piece: int
) -> None:
    records = data.draw(record_lists(keys=keys))
    in_order = [records[number] for number in sorted_by_hand(records)]
    low, high = sorted(data.draw(st.tuples(st.integers(0, len(records)), st.integers(0, len(records)))))
    keys = keys and bool(records)
    with store_of(records) as source, Scratch(None) as scratch:

        def place(extent: Extent) -> tuple[Scratch, int]:
            assert extent == source.extent_of(low, high)
            return scratch, scratch.reserve(stored(extent, has_keys=keys))

        receiver = RowsReceiver(has_keys=keys, to_disk=place)
        feed(receiver, body_of(source, low, high), piece=piece)
        store = receiver.finish()
        assert isinstance(store, RowStore)
        first, last = sorted(data.draw(st.tuples(st.integers(0, high - low), st.integers(0, high - low))))
        assert records_of(store.load(first, last)) == in_order[low + first : low + last]
        assert [store.bound(index) for index in range(first, last)] == [
            source.bound(low + index) for index in range(first, last)
        ]


@SLOW_FIXTURE
@given(record_lists(keys=True, least=1), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_ranges_of_all_ranks_are_all_rows(
    records: list[Record], ranks: int, sample: int, descending: bool
) -> None:
    with store_of(records, descending=descending, sample=sample) as store:
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
    with store_of(records, sample=20) as store:
        ordinals = [bound.ordinal for bound in store.bounds.bounds]
    assert ordinals.count(70) == pytest.approx(10, abs=1)
    assert ordinals == sorted(ordinals)


def test_no_rows_are_a_range_too() -> None:
    with store_of([]) as store:
        assert store.bounds == Sample((), 0.0)
        assert store.cut([], ranks=3, descending=False) == [0, 0, 0, 0]
        assert len(over_the_wire(store, 0, 0, keys=False, piece=5)) == 0


def test_a_range_that_is_not_as_announced_is_refused() -> None:
    with store_of([Record(0, ((0, 1), (5, 2)))]) as store:
        body = body_of(store, 0, 1)
    short = RowsReceiver(has_keys=False)
    with pytest.raises(ValueError, match="ended early"):
        short.finish()
    short.feed(memoryview(body[: HEADER.size - 1]))
    short.feed(memoryview(body[HEADER.size - 1 : -1]))
    with pytest.raises(ValueError, match="ended early"):
        short.finish()
    with pytest.raises(ValueError, match="more bytes"):
        short.feed(memoryview(body[-1:] + b"x"))
