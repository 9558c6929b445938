"""Packing: which record goes into which output shard.

Every rule is a **cell** number for each record, computed from what stands before the record in the output order: bytes
before it / shardSize, records before it / recordsPerShard, or bytes before it x shardCount / all bytes. Nothing drifts,
and a rank that knows the totals of the ranks before it can pack its own range alone. Cells that hold no record make no
shard: shards are numbered by the cells that are not empty.

Pure: numpy in, numpy out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

import numpy as np

from dsort_worker.order import mix_array
from dsort_worker.rows import BLOCK, U64, Index, Rows

END_OF_ARCHIVE: Final = 1024
"""Bytes of zeros that end a tar; not part of any size that packing counts."""


class Unit(Enum):
    """What a packing rule counts."""

    SHARD_SIZE = "shardSize"
    RECORDS = "recordsPerShard"
    SHARD_COUNT = "shardCount"


@dataclass(frozen=True, slots=True)
class PackingRule:
    """One of the three rules; value in bytes, records or shards, 1 or more."""

    unit: Unit
    value: int


@dataclass(frozen=True, slots=True)
class Total:
    """A number of records and of their bytes in blocks of 512."""

    records: int = 0
    blocks: int = 0

    def __add__(self, other: Total) -> Total:
        return Total(self.records + other.records, self.blocks + other.blocks)


@dataclass(frozen=True, slots=True)
class CellRange:
    """The cells of one rank's rows: first and last cell, and how many are not empty (0: the rank has no rows)."""

    first: int = 0
    last: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Numbering:
    """What a rank has to know to build its shards.

    first_number: output shard number of its first cell. first_is_foreign: that shard began on an earlier rank, which
    builds it. continues_on: later ranks whose first rows belong to this rank's last shard, in order.
    """

    first_number: int
    first_is_foreign: bool
    continues_on: tuple[int, ...]


def total_of(rows: Rows) -> Total:
    """The total of a rank's rows."""
    return Total(len(rows), int(rows["length"].sum(dtype=np.uint64)))


def bases(totals: Sequence[Total]) -> list[Total]:
    """What stands before each rank's rows, and the total of all as one more entry."""
    result = [Total()]
    for total in totals:
        result.append(result[-1] + total)
    return result


def cells_of(rows: Rows, rule: PackingRule, *, before: Total, everything: Total) -> Index:
    """The cell of each row: i8[n], ascending. `before` is the total of all rows on earlier ranks."""
    if rule.unit is Unit.RECORDS:
        return (np.arange(len(rows), dtype=np.int64) + before.records) // rule.value
    prefix = np.cumsum(rows["length"], dtype=np.int64)
    prefix -= rows["length"]
    prefix += before.blocks
    if rule.unit is Unit.SHARD_SIZE:
        prefix *= BLOCK
        prefix //= rule.value
        return prefix
    # Python integers: bytes x shards passes 64 bits. The cell of p is the number of starts at or before it, less one.
    starts = [-(-everything.blocks * cell // rule.value) for cell in range(rule.value)]
    return np.searchsorted(np.array(starts, dtype=np.int64), prefix, side="right").astype(np.int64) - 1


def cell_range(cells: Index) -> CellRange:
    """Summary of a rank's cells, for rank 0."""
    if not len(cells):
        return CellRange()
    return CellRange(int(cells[0]), int(cells[-1]), 1 + int(np.count_nonzero(np.diff(cells))))


def number_shards(ranges: Sequence[CellRange]) -> tuple[list[Numbering], int]:
    """Number the cells that are not empty, over all ranks: (one Numbering a rank, number of output shards)."""
    result: list[Numbering] = []
    shards = 0
    previous: CellRange | None = None
    for rank, cells in enumerate(ranges):
        if not cells.count:
            result.append(Numbering(shards, first_is_foreign=False, continues_on=()))
            continue
        foreign = previous is not None and previous.last == cells.first
        result.append(Numbering(shards - foreign, foreign, _continuation(ranges, rank)))
        shards += cells.count - foreign
        previous = cells
    return result, shards


def _continuation(ranges: Sequence[CellRange], rank: int) -> tuple[int, ...]:
    last = ranges[rank].last
    later: list[int] = []
    for other in range(rank + 1, len(ranges)):
        if not ranges[other].count:
            continue
        if ranges[other].first != last:
            break  # as is every rank after one that goes on past this cell
        later.append(other)
    return tuple(later)


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


def shard_numbers(cells: Index, *, first_number: int) -> Index:
    """Output shard number of each row: i8[n]."""
    if not len(cells):
        return cells
    steps = np.empty(len(cells), dtype=np.int64)
    steps[0] = first_number
    np.not_equal(cells[1:], cells[:-1], out=steps[1:])
    return np.cumsum(steps, out=steps)
