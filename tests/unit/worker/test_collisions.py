"""Collisions: equal keys in one output shard, the same ones however little memory there is to find them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import Reaction
from dsort_worker.collisions import collisions, count_collisions
from dsort_worker.findings import Finding
from dsort_worker.merge import Sorting
from dsort_worker.order import sort_order
from dsort_worker.rows import ROW, ROW_COST, Rows
from dsort_worker.shardwriter import OutputShard
from dsort_worker.threads import WorkCancelled

DRAWN = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=40).map(
    lambda rows: sorted(rows, key=lambda row: row[1])
)
"""(key, output shard) of rows in output order."""


def expected_of(rows: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """(earlier, later), by shard and key."""
    found = []
    for later, row in enumerate(rows):
        earlier = [place for place in range(later) if rows[place] == row]
        if earlier:
            found.append((earlier[-1], later))
    return sorted(found, key=lambda pair: (rows[pair[1]][1], rows[pair[1]][0], pair))


@pytest.mark.parametrize("scale", [1, 2**40])
@given(DRAWN)
def test_collisions_are_equal_keys_in_one_shard(scale: int, rows: list[tuple[int, int]]) -> None:
    found = collisions(
        np.array([key * scale for key, _ in rows], dtype=np.uint64),
        np.array([number for _, number in rows], dtype=np.int64),
    )
    assert list(map(tuple, found.tolist())) == expected_of(rows)


def planned(drawn: list[tuple[int, int]]) -> tuple[Rows, list[OutputShard]]:
    rows = np.zeros(len(drawn), dtype=ROW)
    rows["hash"] = [key << 61 | key for key, _ in drawn]
    rows["ordinal"] = np.arange(len(drawn))
    numbers = sorted({number for _, number in drawn})
    return rows, [
        OutputShard(number, f"out-{number}", 0, sum(its == number for _, its in drawn), 0)
        for number in numbers
    ]


def how(rows: int, folder: Path | None = None) -> Sorting:
    return Sorting(room=rows * ROW_COST, sort=sort_order, folder=str(folder) if folder else None)


@given(DRAWN, st.sampled_from([0, 1, 2, 3, 7, 100]))
def test_little_memory_finds_the_same_in_the_same_order(drawn: list[tuple[int, int]], room: int) -> None:
    rows, shards = planned(drawn)
    expected = expected_of(drawn)
    findings: list[Finding] = []
    for reaction in (Reaction.WARN, Reaction.IGNORE):
        count = count_collisions(
            rows, shards, how=how(room), reaction=reaction, inputs=["in"], report=findings.append
        )
        assert count == len(expected)
    assert [(finding.shard, finding.detail) for finding in findings] == [
        (
            f"out-{drawn[later][1]}",
            f"record {earlier} of in and record {later} of in have the same key; readers may merge them",
        )
        for earlier, later in expected
    ]


@pytest.mark.parametrize("room", [1, 100])
def test_the_first_one_ends_the_job_where_that_is_asked(room: int, tmp_path: Path) -> None:
    rows, shards = planned([(1, 0), (2, 0), (1, 0), (2, 0)])
    with pytest.raises(DSortError, match=r"^output shard out-0: record 0 of in and record 2 of in") as caught:
        count_collisions(
            rows, shards, how=how(room, tmp_path), reaction=Reaction.ABORT, inputs=["in"], report=print
        )
    assert caught.value.reason is Reason.KEY_COLLISION
    assert list(tmp_path.iterdir()) == []


def test_naming_ends_when_the_rank_is_told_to() -> None:
    rows, shards = planned([(1, 0)] * 5)
    told = Sorting(room=100 * ROW_COST, sort=sort_order, folder=None, cancelled=lambda: True)
    with pytest.raises(WorkCancelled):
        count_collisions(rows, shards, how=told, reaction=Reaction.WARN, inputs=["in"], report=print)


def test_rows_behind_four_billion_others_keep_their_places() -> None:
    """The places of rows are 64 bits wide where they stand in for shard and ordinal."""
    rows, shards = planned([(1, 0)] * 5)
    found = count_collisions(rows, shards, how=how(2), reaction=Reaction.IGNORE, inputs=["in"], report=print)
    assert found == 4
