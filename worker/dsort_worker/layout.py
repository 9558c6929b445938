"""The layout of a rank's output: which shards it builds, with their names and sizes."""

from __future__ import annotations

import numpy as np

from dsort_api.spec import Output
from dsort_api.templates import OutputTemplate
from dsort_worker.packing import END_OF_ARCHIVE, Cells, Numbering, PackingRule, Unit, total_of
from dsort_worker.rows import BLOCK, Rows
from dsort_worker.shardwriter import OutputShard


def packing_rule(output: Output) -> PackingRule:
    """The rule that the spec asks for: one of the three, or as many shards as the name has numbers."""
    if output.shard_size is not None:
        return PackingRule(Unit.SHARD_SIZE, output.shard_size)
    if output.records_per_shard is not None:
        return PackingRule(Unit.RECORDS, output.records_per_shard)
    return PackingRule(
        Unit.SHARD_COUNT, output.shard_count or OutputTemplate.parse(output.name).capacity or 1
    )


def shards_of(
    cells: Cells, rows: int, *, numbering: Numbering, template: OutputTemplate
) -> list[OutputShard]:
    """The shards that a rank begins, one for each cell that no earlier rank builds. rows: how many the rank has."""
    records = np.diff(np.append(cells.first, rows))
    shards = [
        OutputShard(number, template.name(number), size, count, members)
        for number, size, count, members in zip(
            range(numbering.first_number, numbering.first_number + len(cells)),
            (cells.blocks * BLOCK + END_OF_ARCHIVE).tolist(),
            records.tolist(),
            cells.members.tolist(),
            strict=True,
        )
    ]
    return shards[numbering.first_is_foreign :]


def extended(shard: OutputShard, later: Rows) -> OutputShard:
    """A shard with more rows behind its own."""
    total = total_of(later)
    members = int(later["members"].sum(dtype=np.int64))
    size = shard.size + total.blocks * BLOCK
    return OutputShard(shard.number, shard.name, size, shard.records + total.records, shard.members + members)
