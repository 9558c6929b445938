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
from typing import Final, NamedTuple, assert_never

import numpy as np

from dsort_worker.rows import BLOCK, Index, Rows

END_OF_ARCHIVE: Final = 1024
"""Bytes of zeros that end a tar; not part of any size that packing counts."""

_CHUNK: Final = 1 << 16
"""Rows at a time: rows may be pages of a file, and nothing is made of all of them at once."""


class Unit(Enum):
    """What a packing rule counts."""

    SHARD_SIZE = "shardSize"
    RECORDS = "recordsPerShard"
    SHARD_COUNT = "shardCount"


class PackingRule(NamedTuple):
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


class Numbering(NamedTuple):
    """What a rank has to know to build its shards.

    first_number: output shard number of its first cell. first_is_foreign: that shard began on an earlier rank, which
    builds it. continues_on: later ranks whose first rows belong to this rank's last shard, in order.
    """

    first_number: int
    first_is_foreign: bool
    continues_on: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Cells:
    """The cells of a rank's rows that are not empty, in order, each i8[cells].

    cell: its number. first: the row where it begins. blocks, members: of its rows together.
    """

    cell: Index
    first: Index
    blocks: Index
    members: Index

    def __len__(self) -> int:
        return len(self.cell)

    @property
    def range(self) -> CellRange:
        """Their summary, for rank 0."""
        return CellRange(int(self.cell[0]), int(self.cell[-1]), len(self)) if len(self) else CellRange()


def shard_blocks(rule: PackingRule, everything: Total) -> float:
    """Blocks of an output shard on the average, as far as the rule tells; 0 where there are no records."""
    match rule.unit:
        case Unit.SHARD_SIZE:
            return rule.value / BLOCK
        case Unit.RECORDS:
            return rule.value * everything.blocks / everything.records if everything.records else 0.0
        case Unit.SHARD_COUNT:
            return everything.blocks / rule.value
        case unknown:
            assert_never(unknown)


def total_of(rows: Rows) -> Total:
    """The total of a rank's rows."""
    blocks = sum(
        int(rows["length"][low : low + _CHUNK].sum(dtype=np.int64)) for low in range(0, len(rows), _CHUNK)
    )
    return Total(len(rows), blocks)


def bases(totals: Sequence[Total]) -> list[Total]:
    """What stands before each rank's rows, and the total of all as one more entry."""
    result = [Total()]
    for total in totals:
        result.append(result[-1] + total)
    return result


def cells_of(rows: Rows, rule: PackingRule, *, before: Total, everything: Total) -> Index:
    """The cell of each row: i8[n], ascending. `before` is the total of all rows that stand before them."""
    if rule.unit is Unit.RECORDS:
        return (np.arange(len(rows), dtype=np.int64) + before.records) // rule.value
    prefix = np.cumsum(rows["length"], dtype=np.int64)
    prefix -= rows["length"]
    prefix += before.blocks
    if rule.unit is Unit.SHARD_SIZE:
        prefix *= BLOCK
        prefix //= rule.value
        return prefix
    return scaled(prefix, rule.value, everything.blocks)


def scaled(places: Index, count: int, whole: int) -> Index:
    """floor(place x count / whole) of places below `whole`: i8[n]. Exact where the products pass 64 bits, for `whole` up to
    2**54 (of blocks, 8 EiB): a long division, digit by digit of `count`.
    """
    if whole * count < 1 << 63:
        return places * count // whole
    quotient, rest = np.zeros_like(places), np.zeros_like(places)
    for digit in count.to_bytes(8, "big"):
        part, rest = np.divmod((rest << 8) + places * digit, whole)
        quotient = (quotient << 8) + part
    return quotient


def cut_cells(rows: Rows, rule: PackingRule, *, before: Total, everything: Total) -> Cells:
    """The cells of a rank's rows. `before` is the total of all rows on earlier ranks."""
    parts: list[tuple[Index, Index, Index, Index]] = []
    for low in range(0, len(rows), _CHUNK):
        part = rows[low : low + _CHUNK]
        cells = cells_of(part, rule, before=before, everything=everything)
        starts = np.concatenate(([0], np.flatnonzero(cells[1:] != cells[:-1]) + 1))
        blocks = np.add.reduceat(part["length"], starts, dtype=np.int64)
        members = np.add.reduceat(part["members"], starts, dtype=np.int64)
        parts.append((cells[starts], starts + low, blocks, members))
        before += Total(len(part), int(blocks.sum()))
    if not parts:
        return Cells(*(np.empty(0, dtype=np.int64) for _ in range(4)))
    cell, first, blocks, members = (np.concatenate(column) for column in zip(*parts, strict=True))
    # A cell that spans parts is there once for each of them.
    new = np.concatenate(([0], np.flatnonzero(cell[1:] != cell[:-1]) + 1))
    return Cells(cell[new], first[new], np.add.reduceat(blocks, new), np.add.reduceat(members, new))


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
