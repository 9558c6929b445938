"""The shards that a rank begins: their sizes, and what a later rank's rows add to the last."""

from __future__ import annotations

import numpy as np
import pytest

from dsort_api.spec import Output
from dsort_api.templates import OutputTemplate
from dsort_worker.layout import extended, packing_rule, shards_of
from dsort_worker.packing import END_OF_ARCHIVE, Numbering, PackingRule, Total, Unit, cut_cells, total_of
from dsort_worker.rows import BLOCK, ROW, Rows
from dsort_worker.shardwriter import OutputShard

TEMPLATE = OutputTemplate.parse("out-%03d.tar")


def rows_of(lengths: list[int]) -> Rows:
    rows = np.zeros(len(lengths), dtype=ROW)
    rows["length"] = lengths
    rows["members"] = 2
    return rows


def shards(lengths: list[int], *, foreign: bool) -> list[OutputShard]:
    rows = rows_of(lengths)
    cells = cut_cells(rows, PackingRule(Unit.RECORDS, 2), before=Total(), everything=total_of(rows))
    return shards_of(cells, len(rows), numbering=Numbering(7, foreign, ()), template=TEMPLATE)


def shard(number: int, blocks: int, records: int) -> OutputShard:
    size = blocks * BLOCK + END_OF_ARCHIVE
    return OutputShard(number, f"out-{number:03d}.tar", size, records, 2 * records)


@pytest.mark.parametrize("foreign", [False, True])
def test_each_cell_is_a_shard_but_for_one_that_began_on_an_earlier_rank(foreign: bool) -> None:
    expected = [shard(7, 3, 2), shard(8, 7, 2), shard(9, 5, 1)]
    assert shards([1, 2, 3, 4, 5], foreign=foreign) == expected[foreign:]
    assert shards([], foreign=False) == []


def test_a_shard_grows_by_the_rows_of_later_ranks() -> None:
    assert extended(shard(9, 5, 1), rows_of([6, 7])) == shard(9, 18, 3)


@pytest.mark.parametrize(
    ("output", "rule"),
    [
        ({"shardSize": "1Mi"}, PackingRule(Unit.SHARD_SIZE, 1 << 20)),
        ({"recordsPerShard": 5}, PackingRule(Unit.RECORDS, 5)),
        ({"shardCount": 9}, PackingRule(Unit.SHARD_COUNT, 9)),
        ({"name": "out-{01..12}"}, PackingRule(Unit.SHARD_COUNT, 12)),
    ],
)
def test_the_rule_is_the_one_that_the_spec_asks_for(output: dict[str, object], rule: PackingRule) -> None:
    assert packing_rule(Output.model_validate({"url": "file:///out", "name": "out-%03d", **output})) == rule
