"""Packing against a list and a loop: any split over ranks gives the same shards."""

from __future__ import annotations

import itertools
from fractions import Fraction
from unittest import mock

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsort_worker import packing
from dsort_worker.packing import (
    CellRange,
    Numbering,
    PackingRule,
    Total,
    Unit,
    bases,
    cells_of,
    cut_cells,
    number_shards,
    scaled,
    shard_blocks,
    total_of,
)
from dsort_worker.rows import BLOCK, ROW, Rows

RULES = st.one_of(
    st.builds(PackingRule, st.just(Unit.SHARD_SIZE), st.one_of(st.integers(1, 50), st.integers(1, 50_000))),
    st.builds(PackingRule, st.just(Unit.RECORDS), st.integers(1, 60)),
    st.builds(PackingRule, st.just(Unit.SHARD_COUNT), st.integers(1, 60)),
)


def rows_of(lengths: list[int]) -> Rows:
    rows = np.zeros(len(lengths), dtype=ROW)
    rows["length"] = lengths
    rows["members"] = np.arange(len(lengths)) % 7
    return rows


def cells_by_hand(lengths: list[int], rule: PackingRule) -> list[int]:
    cells = []
    everything = sum(lengths) * BLOCK
    for number in range(len(lengths)):
        before = sum(lengths[:number]) * BLOCK
        match rule.unit:
            case Unit.SHARD_SIZE:
                cells.append(before // rule.value)
            case Unit.RECORDS:
                cells.append(number // rule.value)
            case Unit.SHARD_COUNT:
                cells.append(before * rule.value // everything)
    return cells


def numbers_by_hand(cells: list[int]) -> list[int]:
    distinct = sorted(set(cells))
    return [distinct.index(cell) for cell in cells]


@given(
    st.lists(st.integers(1, 300), max_size=60),
    RULES,
    st.lists(st.integers(0, 60), max_size=5),
    st.sampled_from([1, 3, 1 << 16]),
)
def test_any_split_over_ranks_gives_the_same_shards(
    lengths: list[int], rule: PackingRule, splits: list[int], chunk: int
) -> None:
    edges = [0, *sorted(min(split, len(lengths)) for split in splits), len(lengths)]
    parts = [rows_of(lengths[low:high]) for low, high in itertools.pairwise(edges)]
    before = bases([total_of(part) for part in parts])
    assert before[-1] == Total(len(lengths), sum(lengths))
    cells = [
        cells_of(part, rule, before=base, everything=before[-1])
        for part, base in zip(parts, before, strict=False)
    ]
    expected = cells_by_hand(lengths, rule)
    assert np.concatenate(cells).tolist() == expected

    with mock.patch.object(packing, "_CHUNK", chunk):
        cut = [
            cut_cells(part, rule, before=base, everything=before[-1])
            for part, base in zip(parts, before, strict=False)
        ]
    for part, one, mine in zip(parts, cells, cut, strict=True):
        starts = [row for row in range(len(one)) if not row or one[row] != one[row - 1]]
        ends = [*starts[1:], len(one)] if starts else []
        assert mine.first.tolist() == starts
        assert mine.cell.tolist() == one[starts].tolist()
        for column, sums in (("length", mine.blocks), ("members", mine.members)):
            expected_sums = [
                int(part[column][low:high].sum()) for low, high in zip(starts, ends, strict=True)
            ]
            assert sums.tolist() == expected_sums

    numbering, shards = number_shards([mine.range for mine in cut])
    assert shards == len(set(expected))
    numbers = [
        np.repeat(np.arange(its.first_number, its.first_number + len(mine)), np.diff([*mine.first, len(one)]))
        for one, its, mine in zip(cells, numbering, cut, strict=True)
    ]
    assert np.concatenate(numbers).tolist() == numbers_by_hand(expected)

    # Who builds what: every shard has one builder, who knows each rank that holds a part of it.
    built: dict[int, list[int]] = {}
    for rank, (one, its) in enumerate(zip(numbers, numbering, strict=True)):
        own = [number for number in one.tolist() if not (its.first_is_foreign and number == one[0])]
        for number in own:
            built.setdefault(number, []).append(number)
        if own:
            for later in its.continues_on:
                assert numbering[later].first_is_foreign
                assert later > rank
                built[own[-1]] += [number for number in numbers[later].tolist() if number == own[-1]]
    whole = np.concatenate(numbers).tolist()
    assert {number: len(entries) for number, entries in built.items()} == {
        number: whole.count(number) for number in set(whole)
    }
    assert all(set(entries) == {number} for number, entries in built.items())


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 50_000))
def test_shards_stay_within_one_record_of_the_size(lengths: list[int], size: int) -> None:
    rule = PackingRule(Unit.SHARD_SIZE, size)
    everything = total_of(rows_of(lengths))
    cells = cells_of(rows_of(lengths), rule, before=Total(), everything=everything)
    sizes = [
        sum(length for length, its in zip(lengths, cells.tolist(), strict=True) if its == cell) * BLOCK
        for cell in sorted(set(cells.tolist()))
    ]
    largest = max(lengths) * BLOCK
    assert all(one < size + largest for one in sizes)
    # Nothing drifts: every shard ends within one record of a multiple of the size.
    assert all(end % size < largest or end % size == 0 for end in np.cumsum(sizes)[:-1].tolist())


@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(1, 60))
def test_no_more_shards_than_asked_for(lengths: list[int], count: int) -> None:
    everything = total_of(rows_of(lengths))
    cells = cells_of(
        rows_of(lengths), PackingRule(Unit.SHARD_COUNT, count), before=Total(), everything=everything
    )
    assert set(cells.tolist()) <= set(range(count))
    if max(lengths) * count <= sum(lengths):  # no record is larger than a cell
        assert len(set(cells.tolist())) == count


def test_bytes_times_shards_may_pass_64_bits() -> None:
    everything = Total(2, 2**54)
    rule = PackingRule(Unit.SHARD_COUNT, 10_007)
    for before in (2**54 - 1, 2**54 // 10_007, 2**54 // 10_007 + 1):
        (cell,) = cells_of(rows_of([1]), rule, before=Total(1, before), everything=everything).tolist()
        assert cell == before * 10_007 // 2**54


@given(
    whole=st.one_of(st.integers(1, 1 << 54), st.integers(1, 1 << 20)),
    count=st.integers(1, 100_000_000),
    parts=st.lists(st.fractions(0, 1).filter(lambda part: part < 1), min_size=1),
)
def test_places_are_scaled_exactly(whole: int, count: int, parts: list[Fraction]) -> None:
    places = [int(part * whole) for part in parts]
    found = scaled(np.array(places, dtype=np.int64), count, whole)
    assert found.tolist() == [place * count // whole for place in places]


def test_ranks_without_rows_take_no_part() -> None:
    ranges = [
        CellRange(),
        CellRange(0, 2, 3),
        CellRange(),
        CellRange(2, 2, 1),
        CellRange(),
        CellRange(2, 4, 2),
        CellRange(),
    ]
    numbering, shards = number_shards(ranges)
    assert shards == 4
    assert numbering[1] == Numbering(0, first_is_foreign=False, continues_on=(3, 5))
    assert numbering[3] == Numbering(2, first_is_foreign=True, continues_on=(5,))
    assert numbering[5] == Numbering(2, first_is_foreign=True, continues_on=())
    assert [numbering[rank].continues_on for rank in (0, 2, 4, 6)] == [(), (), (), ()]


def test_nothing_makes_no_shards() -> None:
    assert number_shards([CellRange(), CellRange()])[1] == 0
    for unit in Unit:
        assert not len(cells_of(rows_of([]), PackingRule(unit, 3), before=Total(), everything=Total()))
        none = cut_cells(rows_of([]), PackingRule(unit, 3), before=Total(), everything=Total())
        assert (len(none), none.range) == (0, CellRange())


def test_the_size_of_a_shard_is_known_on_the_average() -> None:
    everything = Total(records=1000, blocks=4000)
    assert shard_blocks(PackingRule(Unit.SHARD_SIZE, 10 * BLOCK), everything) == 10
    assert shard_blocks(PackingRule(Unit.RECORDS, 50), everything) == 200
    assert shard_blocks(PackingRule(Unit.SHARD_COUNT, 16), everything) == 250
    assert shard_blocks(PackingRule(Unit.RECORDS, 50), Total()) == 0
    assert shard_blocks(PackingRule(Unit.SHARD_COUNT, 16), Total()) == 0
