"""Collisions: records with the same key in one output shard, which readers may merge or refuse.

They are found by the hashes of the keys: as many whole shards at a time as fit into the rank's room for rows; a shard that
does not is sorted by hash on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from dsort_api.reasons import DSortError, Reason
from dsort_api.spec import Reaction
from dsort_worker.findings import Finding
from dsort_worker.merge import Runs, Sorting
from dsort_worker.order import mix_array, sort_order
from dsort_worker.rows import ROW, ROW_COST, U64, Index, RowBlock, Rows
from dsort_worker.shardwriter import OutputShard
from dsort_worker.threads import WorkCancelled

_AT_ONCE: Final = 4096
"""Collisions that are named between two looks at whether to go on."""


def count_collisions(
    rows: Rows,
    shards: Sequence[OutputShard],
    *,
    how: Sorting,
    reaction: Reaction,
    inputs: Sequence[str],
    report: Callable[[Finding], None],
) -> int:
    """How many records stand in an output shard with an earlier one of the same key; each is named under Warn.

    rows: of the shards, in output order. inputs: names of the input shards by ordinal. Raises DSortError KeyCollision under
    Abort.
    """
    count = 0
    ends = np.cumsum([shard.records for shard in shards], dtype=np.int64)
    for pairs in _found(rows, ends, how=how):
        count += len(pairs)
        if reaction is Reaction.IGNORE:
            continue
        for finding in _named(pairs, rows, shards, ends=ends, inputs=inputs, cancelled=how.cancelled):
            if reaction is Reaction.ABORT:
                raise DSortError(
                    Reason.KEY_COLLISION,
                    f"{finding.message}; set spec.records.collisions to Warn or Ignore, or change the packing",
                )
            report(finding)
    return count


def _named(
    pairs: Index,
    rows: Rows,
    shards: Sequence[OutputShard],
    *,
    ends: Index,
    inputs: Sequence[str],
    cancelled: Callable[[], bool],
) -> Iterator[Finding]:
    """Each collision by the names of its records. There may be as many as there are records: columns are taken at a time."""
    for low in range(0, len(pairs), _AT_ONCE):
        if cancelled():
            raise WorkCancelled
        part = pairs[low : low + _AT_ONCE]
        outputs = np.searchsorted(ends, part[:, 1], side="right").tolist()
        both = [
            [f"record {ordinal} of {inputs[shard]}" for ordinal, shard in zip(*columns, strict=True)]
            for columns in (
                (rows["ordinal"][side].tolist(), rows["shard"][side].tolist())
                for side in (part[:, 0], part[:, 1])
            )
        ]
        for output, first, second in zip(outputs, *both, strict=True):
            detail = f"{first} and {second} have the same key; readers may merge them"
            yield Finding(kind="collisions", shard=shards[output].name, member="", offset=0, detail=detail)


def _found(rows: Rows, ends: Index, *, how: Sorting) -> Iterator[Index]:
    """(earlier row, row) of every collision, as i8[n, 2], by shard and within a shard by hash. ends: of the shards' rows."""
    most = max(1, how.room // ROW_COST)
    low = shard = 0
    while shard < len(ends):
        upto = max(shard + 1, int(np.searchsorted(ends, low + most, side="right")))
        high = int(ends[upto - 1])
        if high - low <= most:
            numbers = np.repeat(np.arange(upto - shard), np.diff(ends[shard:upto], prepend=low))
            yield collisions(np.ascontiguousarray(rows["hash"][low:high]), numbers) + low
        else:
            yield from _found_on_disk(rows, low, high, most=most, how=how)
        low, shard = high, upto


def collisions(hashes: U64, numbers: Index) -> Index:
    """Records whose key stands already in the same output shard: i8[n, 2], (earlier row, row), by shard.

    hashes: of the record keys, u8[rows]; numbers: the rows' output shards, ascending.
    """
    marks = mix_array(hashes + numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    marks.sort()
    if not bool((marks[1:] == marks[:-1]).any()):
        return np.empty((0, 2), dtype=np.int64)
    order = np.lexsort((hashes, numbers))
    same = (hashes[order][1:] == hashes[order][:-1]) & (numbers[order][1:] == numbers[order][:-1])
    return np.stack((order[:-1][same], order[1:][same]), axis=1)


def _found_on_disk(rows: Rows, low: int, high: int, *, most: int, how: Sorting) -> Iterator[Index]:
    """Collisions of the rows [low, high) of one shard: rows that stand for them are sorted by hash, and looked through."""
    runs = Runs(how._replace(sort=sort_order, descending=False))
    for begin in range(low, high, most):
        place = np.arange(begin, min(begin + most, high), dtype=np.uint64)
        stand_in = np.zeros(len(place), dtype=ROW)
        stand_in["key"] = rows["hash"][begin : begin + len(place)]
        stand_in["shard"], stand_in["ordinal"] = place >> np.uint64(32), place & np.uint64(0xFFFFFFFF)
        stand_in["slices"] = 1
        runs.add(RowBlock(stand_in))
    store = runs.merge()
    try:
        for begin in range(0, store.rows, most):
            part = store.load(max(0, begin - 1), min(begin + most, store.rows)).rows
            same = np.flatnonzero(part["key"][1:] == part["key"][:-1])
            place = (part["shard"].astype(np.int64) << 32) | part["ordinal"]
            yield np.stack((place[same], place[same + 1]), axis=1)
    finally:
        store.scratch.close()
