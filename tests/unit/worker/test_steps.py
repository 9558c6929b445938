"""Documents of the steps: what a rank reports and what it reads back, through JSON as on the wire."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_api.manifest import Counts, PinnedInput
from dsort_worker import steps
from dsort_worker.order import Bound, Sample
from dsort_worker.packing import CellRange, Numbering, PackingRule, Total, Unit
from dsort_worker.steps import Document, Listed, assign


def wire(document: Document) -> Any:
    return json.loads(json.dumps(document))


@given(
    st.lists(st.one_of(st.just(0), st.integers(0, 50), st.integers(0, 10_000)), max_size=40),
    st.integers(1, 8),
)
def test_every_shard_is_scanned_by_one_rank(sizes: list[int], ranks: int) -> None:
    first = assign(sizes, ranks=ranks)
    assert len(first) == ranks + 1
    assert (first[0], first[-1]) == (0, len(sizes))
    assert list(first) == sorted(first)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=60), st.integers(1, 8))
def test_no_rank_scans_more_than_its_part_and_one_shard(sizes: list[int], ranks: int) -> None:
    first = assign(sizes, ranks=ranks)
    for rank in range(ranks):
        assert sum(sizes[first[rank] : first[rank + 1]]) <= sum(sizes) / ranks + max(sizes)


def test_equal_shards_are_shared_equally() -> None:
    assert assign([5] * 8, ranks=4) == (0, 2, 4, 6, 8)
    assert assign([0] * 8, ranks=4) == (0, 2, 4, 6, 8)
    assert assign([], ranks=3) == (0, 0, 0, 0)
    assert assign([100, 1, 1], ranks=1) == (0, 3)


@pytest.mark.parametrize("manifest", [None, "/out/dsort-manifest.json"])
def test_the_listing_is_read_as_it_was_decided(manifest: str | None) -> None:
    listed = Listed(
        (PinnedInput("a/ä.tar", 2**40, 2**62), PinnedInput("b.tar", 0, 0)), ("gone.tar",), (0, 1, 2), manifest
    )
    assert steps.read_listed(wire(steps.listed_document(listed))) == listed


def test_splitters_come_from_all_samples() -> None:
    samples = [
        Sample(tuple(Bound(bytes([number, 0, 255]), rank, number) for number in range(10)), 2.5)
        for rank in (0, 1)
    ]
    reports = [wire(steps.sample_report(sample, records=50)) for sample in samples]
    one = PackingRule(Unit.SHARD_COUNT, 1)
    (splitter,) = steps.read_splitters(wire(steps.split(reports, one, descending=False)))
    assert splitter == Bound(b"\x05\0\xff", 0, 5)
    (reverse,) = steps.read_splitters(wire(steps.split(reports, one, descending=True)))
    assert reverse.key == b"\x04\0\xff"
    # Twenty bounds, of 2.5 blocks each: four shards of 25 records; the second rank begins a quarter before the edge of
    # the third, which is the middle of all.
    (splitter,) = steps.read_splitters(
        wire(steps.split(reports, PackingRule(Unit.RECORDS, 25), descending=False))
    )
    assert splitter == Bound(b"\x04\0\xff", 1, 4)


def test_totals_are_those_that_were_reported() -> None:
    totals = [Total(3, 2**41), Total(), Total(1, 1)]
    reports = [wire(steps.total_report(total)) for total in totals]
    assert steps.read_totals(wire(steps.total(reports))) == totals


def test_each_rank_reads_its_own_numbering() -> None:
    reports = [
        wire(steps.cells_report(cells))
        for cells in (CellRange(0, 1, 2), CellRange(1, 1, 1), CellRange(1, 3, 2))
    ]
    decision = wire(steps.number(reports))
    assert [steps.read_numbering(decision, rank=rank) for rank in range(3)] == [
        Numbering(0, first_is_foreign=False, continues_on=(1, 2)),
        Numbering(1, first_is_foreign=True, continues_on=(2,)),
        Numbering(1, first_is_foreign=True, continues_on=()),
    ]


def test_counts_are_added_up() -> None:
    reports = [
        {"counts": {"records_in": 3, "directories": 1}},
        {"counts": {"records_in": 4, "duplicates": 2}},
    ]
    assert steps.add_counts(reports) == Counts(records_in=7, directories=1, duplicates=2)
