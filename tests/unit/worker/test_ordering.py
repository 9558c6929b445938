"""The order step of all ranks: with any room for rows each has the same rows as with more than enough."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_api.spec import Order
from dsort_worker.merge import Run
from dsort_worker.order import choose_splitters
from dsort_worker.ordering import Ordering
from dsort_worker.rows import ROW_COST, Extent, RowBlock
from dsort_worker.rowsreceiver import RowsReceiver
from dsort_worker.rowstore import RowStore
from tests.support.rowblocks import Record, block_of, record_lists, records_of

PLENTY = 1 << 30


def ordering(
    order: Order, *, ranks: int, room: int, folder: str | None = None, spilled: list[int] | None = None
) -> Ordering:
    return Ordering(
        order,
        ranks=ranks,
        room=room,
        folder=folder,
        on_spill=([] if spilled is None else spilled).append,
        cancelled=lambda: False,
    )


def scan(one: Ordering, records: list[Record]) -> RowBlock:
    """Rows as a scan gives them: what the room does not hold is spilled."""
    block = block_of(records)
    starts = block.key_starts()
    low = 0
    for high in range(1, len(block) + 1):
        if high < len(block) and ROW_COST * (high + 1 - low) <= one.room:
            continue
        part = RowBlock(block.rows[low:high].copy(), block.extra)
        if block.has_keys:
            part.keys, part.key_lengths = block.keys[starts[low] : starts[high]], block.key_lengths[low:high]
        if high == len(block):
            return part
        one.spill(part)
        low = high
    return block


def pull(one: Ordering, rank: int, run: Run, *, keys: bool) -> RowBlock | RowStore:
    """What a rank offers, over the wire; asked for twice, as a break in the middle makes it."""
    header, sections = run.store.sections(run.low, run.high)
    body = header + b"".join(os.pread(run.store.scratch.fd, size, offset) for offset, size in sections)
    one.receiver(rank, has_keys=keys).feed(memoryview(body[: len(body) // 2]))
    receiver: RowsReceiver = one.receiver(rank, has_keys=keys)
    receiver.feed(memoryview(body))
    return receiver.finish()


def ordered(
    records: list[Record], order: Order, *, ranks: int, rooms: list[int], keys: bool
) -> tuple[list[list[Record]], list[Ordering], list[RowBlock], list[int]]:
    """The rows of every rank's range after the exchange; shard s is scanned by rank s * ranks // 5."""
    spilled: list[int] = []
    every = [ordering(order, ranks=ranks, room=rooms[rank], spilled=spilled) for rank in range(ranks)]
    stores = []
    for rank, one in enumerate(every):
        mine = [record for record in records if record.shard * ranks // 5 == rank]
        stores.append(one.store(scan(one, mine)))
    splitters = choose_splitters([store.bounds for store in stores], ranks=ranks, descending=order.descending)
    cuts = [store.cut(splitters, ranks=ranks, descending=order.descending) for store in stores]
    blocks = []
    for rank, one in enumerate(every):
        parts: list[RowBlock | RowStore | Run] = []
        for other, store in enumerate(stores):
            low, high = cuts[other][rank], cuts[other][rank + 1]
            if other == rank:
                parts.append(one.own_range(store, low, high, rank=rank))
            else:
                parts.append(pull(one, other, Run(store, low, high), keys=keys))
        blocks.append(one.join(parts))
    return [records_of(block) for block in blocks], every, blocks, spilled


@given(st.data(), st.sampled_from(["None", "Key", "Shuffle"]), st.integers(1, 4))
def test_any_room_gives_every_rank_the_same_rows(data: st.DataObject, kind: str, ranks: int) -> None:
    keys = kind == "Key"
    order = Order.model_validate({"kind": kind, "descending": keys and data.draw(st.booleans())})
    records = data.draw(record_lists(keys=keys, most=30))
    if kind == "None":
        records = [Record(one.shard, one.slices, None, 0, one.hash, one.members) for one in records]
    rooms = data.draw(
        st.lists(
            st.sampled_from([0, ROW_COST, 4 * ROW_COST, 9 * ROW_COST, 30 * ROW_COST, PLENTY]),
            min_size=ranks,
            max_size=ranks,
        )
    )
    expected, _, _, untouched = ordered(records, order, ranks=ranks, rooms=[PLENTY] * ranks, keys=keys)
    assert untouched == []
    found, every, blocks, spilled = ordered(records, order, ranks=ranks, rooms=rooms, keys=keys)
    # The samples differ with the runs, and with them where a range ends: all together they are the same.
    assert [one for part in found for one in part] == [one for part in expected for one in part]
    assert len({block.mapped for block in blocks}) <= 1 or sum(spilled) > 0

    # A rank that builds on into the next ones takes over their rows, wherever its own and theirs are.
    heads = [data.draw(st.integers(0, len(block))) for block in blocks]
    later = [
        pull(every[0], rank, every[rank].head(blocks[rank], heads[rank]), keys=False)
        for rank in range(1, ranks)
    ]
    first = data.draw(st.integers(0, len(blocks[0])))
    longer = every[0].extend(blocks[0], first, later)
    assert records_of(longer) == found[0][first:] + [
        one for rank in range(1, ranks) for one in found[rank][: heads[rank]]
    ]


@given(st.data(), st.sampled_from([0, 3 * ROW_COST, PLENTY]))
def test_a_rank_alone_has_all_rows_in_order(data: st.DataObject, room: int) -> None:
    records = data.draw(record_lists(keys=True, most=20))
    order = Order.model_validate({"kind": "Key"})
    one, much = (ordering(order, ranks=1, room=its) for its in (room, PLENTY))
    assert records_of(one.sort_alone(scan(one, records))) == records_of(much.sort_alone(scan(much, records)))


def test_what_fits_stays_in_memory_and_what_does_not_is_counted() -> None:
    records = [Record(number // 50, ((number, 1),), word=number * 7 % 100) for number in range(250)]
    order = Order.model_validate({"kind": "Shuffle"})
    _, _, blocks, spilled = ordered(records, order, ranks=2, rooms=[PLENTY] * 2, keys=False)
    assert not any(block.mapped for block in blocks)
    assert spilled == []
    _, _, blocks, spilled = ordered(records, order, ranks=2, rooms=[20 * ROW_COST] * 2, keys=False)
    assert all(block.mapped for block in blocks)
    assert sum(spilled) >= 2 * 40 * len(records)


def test_no_file_is_left(tmp_path: Path) -> None:
    one = ordering(Order.model_validate({"kind": "None"}), ranks=1, room=0, folder=str(tmp_path))
    block = one.sort_alone(scan(one, [Record(0, ((number, 1),)) for number in range(5)]))
    assert np.diff(block.rows["ordinal"]).tolist() == [1] * 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("room", [2 * ROW_COST, Extent(rows=4, pairs=8).cost, PLENTY])
def test_rows_that_are_there_count_when_others_come(room: int) -> None:
    """A range that fits is joined; then rows of later ranks go to disk when the two together do not fit."""
    order = Order.model_validate({"kind": "Shuffle"})
    records = [Record(4, ((number, 1), (90, 1)), word=number) for number in range(4)]
    one, other = ordering(order, ranks=2, room=room), ordering(order, ranks=2, room=PLENTY)
    mine = one.join([block_of([Record(0, ((7, 1), (8, 1)))])])
    head = other.head(other.join([block_of(records)]), 4)
    longer = one.extend(mine, 0, [pull(one, 1, head, keys=False)])
    assert longer.mapped == (room != PLENTY)
    assert [record.slices for record in records_of(longer)] == [((7, 1), (8, 1))] + [
        record.slices for record in records
    ]


def test_equal_keys_from_several_ranks_keep_canonical_order_on_disk() -> None:
    """Pieces of many rows each, so that what decides is the order in which the ranks' parts are merged."""
    records = [
        Record(shard, ((number, 1),), key=b"same" if number % 3 else b"other")
        for shard in range(5)
        for number in range(60)
    ]
    order = Order.model_validate({"kind": "Key"})
    for room in (PLENTY, 70 * ROW_COST):
        found, _, blocks, _ = ordered(records, order, ranks=3, rooms=[room] * 3, keys=True)
        assert any(block.mapped for block in blocks) == (room != PLENTY)
        places = [
            (record.slices[0][0] % 3 > 0, record.shard, record.slices) for part in found for record in part
        ]
        assert places == sorted(places)
