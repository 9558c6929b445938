"""The output order: total, stable, and the same however the rows are split."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import NoReturn
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_worker import order
from dsort_worker.order import (
    Bound,
    Sample,
    choose_splitters,
    cut,
    equal_steps,
    key_words,
    md5_keys,
    mix,
    mix_array,
    sample_of,
    sample_size,
    shuffle_keys,
    sort_order,
)
from dsort_worker.rows import RowBlock
from tests.support.rowblocks import Record, block_of, record_lists, sorted_by_hand

G = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def test_the_mix_is_splitmix64() -> None:
    # The first outputs of the reference implementation (Vigna, splitmix64.c) seeded with 0: mix(seed + k * G).
    assert [mix(G * k & MASK) for k in (1, 2, 3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@given(st.lists(st.integers(0, MASK)))
def test_mixing_an_array_is_mixing_each(values: list[int]) -> None:
    assert mix_array(np.array(values, dtype=np.uint64)).tolist() == [mix(value) for value in values]


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 50))
def test_shuffle_keys_are_the_formula_of_the_contract(seed: int, shard: int, count: int) -> None:
    expected = [
        mix((mix((mix((seed + G) & MASK) + shard * G) & MASK) + ordinal * G) & MASK)
        for ordinal in range(count)
    ]
    assert shuffle_keys(count, seed=seed, shard=shard).tolist() == expected


def test_shuffle_is_a_shuffle() -> None:
    keys = np.concatenate([shuffle_keys(1000, seed=1, shard=shard) for shard in range(4)])
    assert len(set(keys.tolist())) == len(keys)
    places = np.argsort(keys)
    inversions = sum(int((places[:number] > places[number]).sum()) for number in range(len(places)))
    assert inversions / (len(places) * (len(places) - 1) / 2) == pytest.approx(0.5, abs=0.02)
    other = np.concatenate([shuffle_keys(1000, seed=2, shard=shard) for shard in range(4)])
    assert (np.argsort(other) != places).mean() > 0.99


@given(st.lists(st.binary(max_size=40)))
def test_md5_keys_are_digests(keys: list[bytes]) -> None:
    digests, lengths = md5_keys(
        np.frombuffer(b"".join(keys), dtype=np.uint8), np.array([len(key) for key in keys], dtype=np.uint32)
    )
    assert digests.tobytes() == b"".join(hashlib.md5(key).digest() for key in keys)
    assert lengths.tolist() == [16] * len(keys)


@given(st.lists(st.binary(max_size=20), min_size=1), st.integers(0, 2))
def test_a_word_is_eight_bytes_of_the_key_filled_up_with_zeros(keys: list[bytes], level: int) -> None:
    lengths = np.array([len(key) for key in keys], dtype=np.int64)
    with mock.patch.object(order, "_CHUNK", 3):
        words = key_words(
            np.frombuffer(b"".join(keys), dtype=np.uint8), np.cumsum(lengths) - lengths, lengths, level=level
        )
    assert words.tolist() == [
        int.from_bytes(key[8 * level : 8 * level + 8].ljust(8, b"\0"), "big") for key in keys
    ]


@pytest.mark.parametrize("piece", [1, 4, 1 << 19])
@given(st.data())
def test_sorting_is_pythons_stable_sort(piece: int, data: st.DataObject) -> None:
    keys = data.draw(st.booleans())
    descending = keys and data.draw(st.booleans())
    records = data.draw(record_lists(keys=keys))
    with mock.patch.object(order, "_PIECE", piece):
        found = sort_order(block_of(records), descending=descending)
    assert found.tolist() == sorted_by_hand(records, descending=descending).tolist()


@pytest.mark.parametrize("piece", [2, 1 << 19])
@pytest.mark.parametrize("descending", [False, True])
def test_keys_that_begin_each_other_nuls_and_common_prefixes(piece: int, descending: bool) -> None:
    shared = b"a folder that all share/"
    keys = [
        shared + tail
        for tail in (
            b"",
            b"\0",
            b"\0\0",
            b"\0" * 8,
            b"\0" * 9,
            b"b",
            b"",
            b"b\0",
            b"b" * 20,
            b"b" * 20,
            b"b" * 21,
        )
    ]
    records = [Record(0, ((0, 1),), key=key) for key in keys]
    with mock.patch.object(order, "_PIECE", piece):
        found = sort_order(block_of(records), descending=descending)
    assert found.tolist() == sorted_by_hand(records, descending=descending).tolist()


def test_words_that_differ_in_their_low_bits_only() -> None:
    words = [5, 4, 7, 4, 6, 5, 0, 1]
    records = [Record(0, ((0, 1),), word=word) for word in words]
    assert sort_order(block_of(records)).tolist() == sorted_by_hand(records).tolist()


def test_one_row_is_in_order_whatever_its_key_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def words(*_: object, **__: object) -> NoReturn:
        raise AssertionError("its key was looked at")

    monkeypatch.setattr("dsort_worker.order.key_words", words)
    assert sort_order(block_of([Record(0, ((0, 1),), key=b"k" * 1_000_000)])).tolist() == [0]


def test_no_rows_have_an_order() -> None:
    assert sort_order(RowBlock.empty()).tolist() == []


def bounds_of(records: list[Record], *, descending: bool) -> list[Bound]:
    """The places of the records in output order."""
    block = block_of(records)
    result = []
    for number in sorted_by_hand(records, descending=descending).tolist():
        row, key = block.rows[number], records[number].key
        bound = int(row["key"]).to_bytes(8, "big") if key is None else key
        result.append(Bound(bound, int(row["shard"]), int(row["ordinal"])))
    return result


@given(st.data(), st.integers(1, 5), st.booleans(), st.integers(0, 20))
def test_every_row_is_in_exactly_one_range_and_ranges_follow_each_other(
    data: st.DataObject, ranks: int, keys: bool, sampled: int
) -> None:
    descending = keys and data.draw(st.booleans())
    everything = bounds_of(data.draw(record_lists(keys=keys)), descending=descending)
    # Each row was scanned by some rank: runs of shards, as `assign` gives them; equal keys are on several ranks.
    starts = sorted(data.draw(st.lists(st.integers(0, 5), min_size=ranks - 1, max_size=ranks - 1)))
    scanned: list[list[Bound]] = [[] for _ in range(ranks)]
    for bound in everything:
        scanned[sum(start <= bound.shard for start in starts)].append(bound)
    samples = []
    for rows in scanned:
        steps = equal_steps(len(rows), min(sampled, len(rows))).tolist()
        samples.append(Sample(tuple(rows[step] for step in steps), len(rows) / max(1, len(steps))))
    shard = data.draw(st.sampled_from([0.0, 0.5, 1.0, 2.5, 40.0]))
    splitters = choose_splitters(samples, ranks=ranks, shard=shard, descending=descending)
    assert len(splitters) <= ranks - 1
    ranges: list[list[Bound]] = [[] for _ in range(ranks)]
    for rows in scanned:
        cuts = cut(rows.__getitem__, len(rows), splitters, descending=descending)
        cuts += [len(rows)] * (ranks + 1 - len(cuts))
        assert (cuts[0], cuts[-1]) == (0, len(rows))
        assert cuts == sorted(cuts)
        for rank in range(ranks):
            ranges[rank] += rows[cuts[rank] : cuts[rank + 1]]
    place = {bound: number for number, bound in enumerate(everything)}
    assert [sorted(place[bound] for bound in part) for part in ranges if part] == [
        list(range(low, low + len(part)))
        for part, low in zip(
            [part for part in ranges if part],
            np.cumsum([0, *(len(part) for part in ranges if part)]).tolist(),
            strict=False,
        )
    ]
    assert Counter(bound for part in ranges for bound in part) == Counter(everything)


def test_splitters_split_bytes_evenly() -> None:
    rows = [Bound(number.to_bytes(8, "big"), 0, number) for number in range(1000)]
    halves = [Sample(tuple(rows[number] for number in equal_steps(500, 50) + low), 10.0) for low in (0, 500)]
    splitters = choose_splitters(halves, ranks=4)
    cuts = cut(rows.__getitem__, len(rows), splitters)
    assert np.diff(cuts) == pytest.approx([250] * 4, abs=15)


@pytest.mark.parametrize("ranks", [2, 3, 5])
@pytest.mark.parametrize("shards", [10, 32, 50])
def test_splitters_lie_away_from_the_edges_of_output_shards(ranks: int, shards: int) -> None:
    """So that each rank builds as many as the others, whatever chance there is in a sample."""
    size = 100
    rows = [Bound(number.to_bytes(8, "big"), 0, number) for number in range(size * shards)]
    steps = equal_steps(len(rows), 200).tolist()
    sample = Sample(tuple(rows[step] for step in steps), len(rows) / len(steps))
    splitters = choose_splitters([sample], ranks=ranks, shard=size)
    cuts = cut(rows.__getitem__, len(rows), splitters)
    for place in cuts[1:-1]:
        assert size / 4 - sample.weight <= place % size <= size * 3 / 4 + sample.weight
    begun = np.diff([-(-place // size) for place in cuts])
    assert begun.sum() == shards
    assert begun.max() - begun.min() <= 1


@pytest.mark.parametrize("shard", [0.0, 251.0, 1000.0])
def test_fewer_shards_than_two_a_rank_split_bytes_evenly_all_the_same(shard: float) -> None:
    rows = [Bound(number.to_bytes(8, "big"), 0, number) for number in range(1000)]
    splitters = choose_splitters([Sample(tuple(rows), 1.0)], ranks=2, shard=shard)
    assert cut(rows.__getitem__, len(rows), splitters) == [0, 500, 1000]


def test_a_heavy_rank_gets_more_splitters() -> None:
    rows = [Bound(number.to_bytes(8, "big"), 0, number) for number in range(20)]
    light, heavy = Sample(tuple(rows[:10]), 1.0), Sample(tuple(rows[10:]), 9.0)
    (splitter,) = choose_splitters([light, heavy], ranks=2)
    assert splitter in rows[13:16]


def test_equal_keys_are_split_between_two_records() -> None:
    rows = [Bound(b"same", 0, number) for number in range(100)]
    splitters = choose_splitters([Sample(tuple(rows), 1.0)], ranks=2)
    assert cut(rows.__getitem__, len(rows), splitters) == [0, 50, 100]


def test_nothing_to_split_has_no_splitters() -> None:
    assert choose_splitters([Sample((), 0.0)] * 3, ranks=3) == []
    assert choose_splitters([Sample((Bound(b"a", 0, 0),), 1.0)], ranks=1) == []


def test_samples_are_bounded_over_all_ranks() -> None:
    assert sample_size(1) == 1024
    assert sample_size(1024) == 16
    assert sample_size(64) == 256
    assert sample_size(100_000) == 16


def test_a_sample_of_long_keys_has_fewer_bounds() -> None:
    short = [Bound(b"k" * 60, 0, number) for number in range(1000)]
    assert sample_of(short, blocks=5000, size=1024) == Sample(tuple(short), 5.0)
    long = [Bound(b"k" * 1000, 0, number) for number in range(1001)]
    sample = sample_of(long, blocks=6500, size=1024)
    assert [bound.ordinal for bound in sample.bounds] == list(range(9, 1001, 16))
    assert sample.weight == 6500 / len(sample.bounds)
    assert sum(len(bound.key) for bound in sample.bounds) <= 1024 * 64
    assert len(sample_of(long, blocks=1, size=16).bounds) == 31  # half of that would be too few
