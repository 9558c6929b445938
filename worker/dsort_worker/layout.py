"""The layout of a rank's output: which shards it builds, their names and sizes, and which keys meet in one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import Output, Reaction
from dsort_api.templates import OutputTemplate
from dsort_worker.findings import Finding
from dsort_worker.packing import END_OF_ARCHIVE, PackingRule, Unit, collisions
from dsort_worker.rows import BLOCK, Index, Rows
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


def shards_of(rows: Rows, numbers: Index, *, template: OutputTemplate) -> list[OutputShard]:
    """The shards of rows in output order; numbers: the output shard of each row, ascending, i8[rows]."""
    if not len(numbers):
        return []
    starts = np.concatenate(([0], np.flatnonzero(np.diff(numbers)) + 1))
    sizes = np.add.reduceat(rows["length"], starts, dtype=np.int64) * BLOCK + END_OF_ARCHIVE
    members = np.add.reduceat(rows["members"], starts, dtype=np.int64)
    counts = np.diff(np.append(starts, len(numbers)))
    return [
        OutputShard(number, template.name(number), size, records, inside)
        for number, size, records, inside in zip(
            numbers[starts].tolist(), sizes.tolist(), counts.tolist(), members.tolist(), strict=True
        )
    ]


def count_collisions(
    rows: Rows,
    numbers: Index,
    *,
    reaction: Reaction,
    template: OutputTemplate,
    inputs: Sequence[str],
    report: Callable[[Finding], None],
) -> int:
    """How many records stand in an output shard with an earlier one of the same key; each is named under Warn.

    inputs: names of the input shards by ordinal. Raises DSortError KeyCollision under Abort.
    """
    pairs = collisions(rows["hash"], numbers)
    if reaction is Reaction.IGNORE:
        return len(pairs)
    for earlier, later in pairs.tolist():
        first, second = (
            f"record {int(rows[index]['ordinal'])} of {inputs[int(rows[index]['shard'])]}"
            for index in (earlier, later)
        )
        finding = Finding(
            kind="collisions",
            shard=template.name(int(numbers[later])),
            member="",
            offset=0,
            detail=f"{first} and {second} have the same key; readers may merge them",
        )
        if reaction is Reaction.ABORT:
            raise DSortError(
                Reason.KEY_COLLISION,
                f"output {finding.message}; set spec.records.collisions to Warn or Ignore, or change the packing",
            )
        report(finding)
    return len(pairs)
