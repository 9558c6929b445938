"""Rows for tests: blocks from plain lists, and hypothesis strategies for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from dsort_worker.order import key_words
from dsort_worker.rows import ROW, Index, RowBlock, slice_pairs

# Few bytes, so that keys are equal, begin each other and differ after the words that a comparison takes at once.
_HEADS = (b"", b"", b"a" * 8, b"a" * 16, b"\0" * 8, b"\xff" * 17)
_LETTERS = (b"\0", b"a", b"\xff")
KEYS = st.tuples(st.sampled_from(_HEADS), st.integers(0, 3**9 - 1), st.integers(0, 9)).map(
    lambda drawn: drawn[0] + b"".join(_LETTERS[drawn[1] // 3**place % 3] for place in range(drawn[2]))
)


@dataclass(frozen=True, slots=True)
class Record:
    """A row as a test names it. slices: (offset, length) in blocks; key: None where the order compares `word` alone."""

    shard: int
    slices: tuple[tuple[int, int], ...]
    key: bytes | None = None
    word: int = 0
    hash: int = 0
    members: int = 1

    @property
    def length(self) -> int:
        """Blocks of all slices."""
        return sum(length for _, length in self.slices)


def block_of(records: Sequence[Record]) -> RowBlock:
    """The block of records that stand in canonical order; ordinals count within each shard."""
    rows = np.zeros(len(records), dtype=ROW)
    extra: list[tuple[int, int]] = []
    ordinals: dict[int, int] = {}
    for row, record in zip(rows, records, strict=True):
        row["shard"], row["hash"], row["members"] = record.shard, record.hash, record.members
        row["key"], row["length"], row["slices"] = record.word, record.length, len(record.slices)
        row["ordinal"] = ordinals.setdefault(record.shard, 0)
        ordinals[record.shard] += 1
        if len(record.slices) == 1:
            row["offset"] = record.slices[0][0]
        else:
            row["offset"] = len(extra)
            extra += record.slices
    block = RowBlock(rows, np.array(extra, dtype=np.uint32).reshape(-1, 2))
    if records and records[0].key is not None:
        keys = [record.key or b"" for record in records]
        block.keys = np.frombuffer(b"".join(keys), dtype=np.uint8)
        block.key_lengths = np.array([len(key) for key in keys], dtype=np.uint32)
        rows["key"] = key_words(block.keys, block.key_starts()[:-1], block.key_lengths, level=0)
    return block


def records_of(block: RowBlock) -> list[Record]:
    """Inverse of `block_of`, for rows in any order."""
    index, offset, length = slice_pairs(block.rows, block.extra)
    slices: list[list[tuple[int, int]]] = [[] for _ in range(len(block))]
    for row, *pair in zip(index.tolist(), offset.tolist(), length.tolist(), strict=True):
        slices[row].append((pair[0], pair[1]))
    starts = block.key_starts().tolist() if block.has_keys else []
    return [
        Record(
            shard=int(row["shard"]),
            slices=tuple(slices[number]),
            key=block.keys[starts[number] : starts[number + 1]].tobytes() if block.has_keys else None,
            word=int(row["key"]) if not block.has_keys else 0,
            hash=int(row["hash"]),
            members=int(row["members"]),
        )
        for number, row in enumerate(block.rows)
    ]


def record_lists(*, keys: bool, least: int = 0, most: int = 20) -> st.SearchStrategy[list[Record]]:
    """Records in canonical order, some in several slices; words and keys that are often equal."""
    words = st.sampled_from([0, 1, 2, 3, 2**63, 2**64 - 2, 2**64 - 1])
    one = st.tuples(st.integers(0, 2**64 - 1), KEYS if keys else words)
    return st.lists(one, min_size=least, max_size=most).map(
        lambda drawn: sorted((_record(*pair) for pair in drawn), key=lambda record: record.shard)
    )


def _record(bits: int, key: object) -> Record:
    """A record whose place is told by bits: drawn as one number, as rows are drawn by the thousand."""
    slices = (1, 1, 1, 2, 3, 4, 1, 2)[bits % 8]
    pairs = tuple((bits * (number + 1) % 2**32, 1 + (bits >> 5 * number) % 40) for number in range(slices))
    common = {"shard": (bits >> 3) % 5, "slices": pairs, "hash": bits, "members": 1 + (bits >> 7) % 5}
    return Record(**common, key=key) if isinstance(key, bytes) else Record(**common, word=key)  # type: ignore[arg-type]


def sorted_by_hand(records: Sequence[Record], *, descending: bool = False) -> Index:
    """The permutation that a stable sort of Python's own makes."""
    order = sorted(
        range(len(records)),
        key=lambda number: (records[number].word, records[number].key or b""),
        reverse=descending,
    )
    return np.array(order, dtype=np.int64)
