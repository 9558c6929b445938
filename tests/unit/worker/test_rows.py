"""Rows and their slice pairs: whatever is done to the arrays, each record keeps its slices and its key."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_worker import rows
from dsort_worker.rows import (
    ROW,
    RowBlock,
    RowBuilder,
    extend_rows,
    extra_in_row_order,
    join_blocks,
    packed_keys,
    permute_rows,
    slice_pairs,
)
from tests.support.rowblocks import Record, block_of, record_lists, records_of


@given(st.booleans().flatmap(lambda keys: record_lists(keys=keys)))
def test_a_block_has_the_records_it_was_made_of(records: list[Record]) -> None:
    assert records_of(block_of(records)) == records


@given(st.booleans().flatmap(lambda keys: record_lists(keys=keys)))
def test_a_builder_takes_one_shard_after_another(records: list[Record]) -> None:
    builder = RowBuilder()
    for shard in sorted({record.shard for record in records}):
        part = block_of([record for record in records if record.shard == shard])
        view = builder.room(len(part))
        view[:] = part.rows
        builder.add_extra(view, part.extra)
        if part.has_keys:
            builder.add_keys(part.keys, part.key_lengths)
    assert records_of(builder.finish()) == records
    assert len(builder.finish()) == 0


@given(st.lists(record_lists(keys=True, least=1, most=6), max_size=4), st.booleans())
def test_joined_blocks_have_all_records_in_their_order(parts: list[list[Record]], keys: bool) -> None:
    blocks = [block_of(part) for part in parts]
    if not keys:
        for block in blocks:
            block.drop_keys()
            block.rows["key"] = 0
        parts = [[Record(r.shard, r.slices, None, 0, r.hash, r.members) for r in part] for part in parts]
    joined = join_blocks(blocks)
    assert records_of(joined) == [record for part in parts for record in part]
    if len(blocks) > 1:
        assert all(len(block.rows) == 0 for block in blocks)


@given(record_lists(keys=False), st.lists(record_lists(keys=False, most=6), max_size=3))
def test_rows_are_extended_in_place(records: list[Record], later: list[list[Record]]) -> None:
    block = block_of(records)
    extend_rows(block, [block_of(part) for part in later])
    assert records_of(block) == records + [record for part in later for record in part]


@given(record_lists(keys=False), st.randoms(use_true_random=False))
def test_permuted_rows_keep_their_slices(records: list[Record], random: object) -> None:
    order = list(range(len(records)))
    random.shuffle(order)  # type: ignore[attr-defined]
    block = block_of(records)
    permute_rows(block.rows, np.array(order, dtype=np.int64))
    assert records_of(block) == [records[number] for number in order]


@given(record_lists(keys=False), st.randoms(use_true_random=False), st.data())
def test_any_run_of_rows_is_one_run_of_pairs(
    records: list[Record], random: object, data: st.DataObject
) -> None:
    order = list(range(len(records)))
    random.shuffle(order)  # type: ignore[attr-defined]
    block = block_of(records)
    rows = block.rows[np.array(order, dtype=np.int64)]
    extra = extra_in_row_order(rows, block.extra)
    assert records_of(RowBlock(rows, extra)) == [records[number] for number in order]
    low = data.draw(st.integers(0, len(order)))
    part = rows[low:].copy()
    several = np.flatnonzero(part["slices"] > 1)
    if len(several):
        first = int(part["offset"][several[0]])
        part["offset"][several] -= np.uint32(first)
        assert records_of(RowBlock(part, extra[first:])) == [records[number] for number in order[low:]]


def test_offsets_and_lengths_come_as_eight_bytes() -> None:
    block = block_of([Record(0, ((2**32 - 1, 2**32 - 1),)), Record(0, ((2**32 - 2, 7), (5, 2**31)))])
    _, offset, length = slice_pairs(block.rows, block.extra)
    assert (offset * 512).tolist() == [(2**32 - 1) * 512, (2**32 - 2) * 512, 5 * 512]
    assert (length * 512).tolist() == [(2**32 - 1) * 512, 7 * 512, 2**31 * 512]


@pytest.mark.parametrize("piece", [1, 5, 1 << 16])
@given(st.lists(st.binary(max_size=9), min_size=1), st.data())
def test_packed_keys_follow_the_order(piece: int, keys: list[bytes], data: st.DataObject) -> None:
    order = data.draw(st.lists(st.integers(0, len(keys) - 1)))
    starts = np.cumsum([0, *(len(key) for key in keys)])
    with mock.patch.object(rows, "_KEY_PIECE", piece):
        packed = packed_keys(
            np.frombuffer(b"".join(keys), dtype=np.uint8), starts, np.array(order, dtype=np.int64)
        )
    assert packed.tobytes() == b"".join(keys[number] for number in order)


def test_keys_are_given_back() -> None:
    block = block_of([Record(0, ((0, 1),), key=b"k")])
    assert block.has_keys
    block.drop_keys()
    assert (block.has_keys, len(block), len(block.keys)) == (False, 1, 0)


def test_a_row_is_forty_bytes() -> None:
    assert ROW.itemsize == 40
    assert len(RowBlock.empty()) == 0
    assert join_blocks([]).rows.dtype == ROW
