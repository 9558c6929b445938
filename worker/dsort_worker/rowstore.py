"""The row store: sorted rows in a scratch file, any range of which can be read again and again.

After the sort the scanning rank needs its rows only to answer its peers, so they leave memory; a rank that restarts asks
again and gets the same bytes. Rows that are too many to be sorted in memory are such stores as well: the runs of a merge, and
what comes of it.

A range on the wire is a header of three u64 (rows, slice pairs, key bytes, see `HEADER`) and then its sections: rows, key
lengths and keys where the order has key bytes, slice pairs; each as it lies in memory (little endian). A store is such
sections as well, so a range can be put into a scratch file as it comes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from dsort_worker.order import LONGEST_KEY, Bound, Sample, cut, equal_steps, sample_of
from dsort_worker.rows import ROW, U32, Extent, Index, RowBlock, Rows, extra_in_row_order, packed_keys
from dsort_worker.scratch import Scratch

HEADER: Final = struct.Struct("<3Q")
"""Rows, slice pairs, key bytes."""

_CHUNK: Final = 1 << 14  # rows at a time
_KEY_PIECE: Final = 1 << 16  # key bytes at a time
_MARK: Final = 1 << 10  # rows from one mark to the next
_PAIR: Final = 8  # bytes


def stored(extent: Extent, *, has_keys: bool) -> int:
    """Bytes that so many rows take in a scratch file, and behind the header of a range on the wire."""
    return extent.rows * (ROW.itemsize + 4 * has_keys) + extent.key_bytes + extent.pairs * _PAIR


class RowStore:
    """Sorted rows in a region of a scratch file. 16 bytes for every _MARK rows stay in memory."""

    def __init__(self, scratch: Scratch, base: int, extent: Extent, *, has_keys: bool) -> None:
        self.scratch = scratch
        self.extent = extent
        self.has_keys = has_keys
        self.blocks = 0
        """Of all rows together."""
        self.bounds: Sample = Sample((), 0.0)
        self._base = base
        self._lengths_at = base + extent.rows * ROW.itemsize
        self._keys_at = self._lengths_at + 4 * extent.rows * has_keys
        self._pairs_at = self._keys_at + extent.key_bytes
        # Pairs and key bytes before every _MARK-th row: u8[marks].
        self._pair_marks: Index = np.zeros(1, dtype=np.int64)
        self._key_marks: Index = np.zeros(1, dtype=np.int64)

    @classmethod
    def write(cls, block: RowBlock, order: Index, *, scratch: Scratch, sample: int = 0) -> RowStore:
        """Write all rows of `block` in `order`, and take up to `sample` bounds on the way. Raises DSortError (no space)."""
        blocks = int(block.rows["length"].sum(dtype=np.int64))
        extent = Extent(len(block), count_pairs(block), len(block.keys))
        writer = RowWriter(scratch, extent, has_keys=block.has_keys, blocks=blocks, sample=sample)
        writer.append(block, order)
        return writer.finish()

    @property
    def fd(self) -> int:
        """The scratch file, for reading."""
        return self.scratch.fd

    @property
    def rows(self) -> int:
        """Their number."""
        return self.extent.rows

    def cut(self, splitters: Sequence[Bound], *, ranks: int, descending: bool) -> list[int]:
        """Where each rank's range begins, and the end of the last: ranks + 1 row numbers."""
        cuts = cut(self.bound, self.rows, splitters, descending=descending)
        return cuts + [self.rows] * (ranks + 1 - len(cuts))

    def bound(self, index: int, *, longest: int | None = None) -> Bound:
        """The place of row `index` in the output order; longest: bytes of its key that are enough, None: all of them."""
        row = self._rows(index, index + 1)[0]
        if self.has_keys:
            low, high = self._key_start(index), self._key_start(index + 1)
            if longest is not None:
                high = min(high, low + longest)
            keys = np.empty(high - low, dtype=np.uint8)
            self.scratch.read(self._keys_at + low, keys)
            key = keys.tobytes()
        else:
            key = int(row["key"]).to_bytes(8, "big")
        return Bound(key, int(row["shard"]), int(row["ordinal"]))

    def sections(self, low: int, high: int) -> tuple[bytes, list[tuple[int, int]]]:
        """Rows [low, high): the header, and (offset, bytes) of each section in the scratch file."""
        extent, pair_low, key_low = self._range(low, high)
        sections = [(self._base + low * ROW.itemsize, extent.rows * ROW.itemsize)]
        if self.has_keys:
            sections.append((self._lengths_at + 4 * low, 4 * extent.rows))
            sections.append((self._keys_at + key_low, extent.key_bytes))
        sections.append((self._pairs_at + _PAIR * pair_low, _PAIR * extent.pairs))
        header = HEADER.pack(extent.rows, extent.pairs, extent.key_bytes)
        return header, [(offset, size) for offset, size in sections if size]

    def extent_of(self, low: int, high: int) -> Extent:
        """How much rows [low, high) are."""
        return self._range(low, high)[0]

    def load(self, low: int, high: int) -> RowBlock:
        """Rows [low, high) in memory."""
        extent, pair_low, key_low = self._range(low, high)
        block = RowBlock.sized(extent, has_keys=self.has_keys)
        self.scratch.read(self._base + low * ROW.itemsize, block.rows)
        if self.has_keys:
            self.scratch.read(self._lengths_at + 4 * low, block.key_lengths)
            self.scratch.read(self._keys_at + key_low, block.keys)
        self.scratch.read(self._pairs_at + _PAIR * pair_low, block.extra)
        begin_pairs_at_zero(block.rows)
        return block

    def map(self) -> RowBlock:
        """All rows as pages of the file, without their keys."""
        if not self.rows:
            return RowBlock.empty()
        size = self._pairs_at - self._base + _PAIR * self.extent.pairs
        pages = self.scratch.map(self._base, size)
        pairs = np.frombuffer(pages, np.uint32, 2 * self.extent.pairs, self._pairs_at - self._base)
        return RowBlock(np.frombuffer(pages, ROW, self.rows), pairs.reshape(-1, 2))

    def set_marks(self, pairs: Index, keys: Index) -> None:
        """Take over what stands before every _MARK-th row."""
        self._pair_marks, self._key_marks = pairs, keys

    def count_marks(self) -> None:
        """Read all rows once, which were put there as they came off the wire."""
        marks = _Marks()
        for low in range(0, self.rows, _CHUNK):
            rows = self._rows(low, min(low + _CHUNK, self.rows))
            lengths = None
            if self.has_keys:
                lengths = np.empty(len(rows), dtype=np.uint32)
                self.scratch.read(self._lengths_at + 4 * low, lengths)
            marks.add(rows, lengths)
        self.set_marks(*marks.arrays())

    def _range(self, low: int, high: int) -> tuple[Extent, int, int]:
        """The extent of rows [low, high), and the pairs and key bytes before them."""
        pair_low = self._pair_start(low)
        key_low = self._key_start(low)
        pairs, keys = self._pair_start(high) - pair_low, self._key_start(high) - key_low
        return Extent(high - low, pairs, keys), pair_low, key_low

    def _rows(self, low: int, high: int) -> Rows:
        rows = np.empty(high - low, dtype=ROW)
        self.scratch.read(self._base + low * ROW.itemsize, rows)
        return rows

    def _pair_start(self, index: int) -> int:
        if not self.extent.pairs:
            return 0
        mark = index // _MARK
        rows = self._rows(mark * _MARK, index)
        return int(self._pair_marks[mark]) + int(_pairs_of(rows).sum())

    def _key_start(self, index: int) -> int:
        if not self.has_keys:
            return 0
        mark = index // _MARK
        lengths = np.empty(index - mark * _MARK, dtype=np.uint32)
        self.scratch.read(self._lengths_at + 4 * mark * _MARK, lengths)
        return int(self._key_marks[mark]) + int(lengths.sum(dtype=np.int64))


class RowWriter:
    """Writes a store of known extent, part by part. blocks: of all rows, where up to `sample` bounds are to be taken."""

    def __init__(
        self, scratch: Scratch, extent: Extent, *, has_keys: bool, blocks: int = 0, sample: int = 0
    ) -> None:
        base = scratch.reserve(stored(extent, has_keys=has_keys))
        self._scratch = scratch
        self._store = RowStore(scratch, base, extent, has_keys=has_keys)
        self._lengths_at = base + extent.rows * ROW.itemsize
        self._keys_at = self._lengths_at + 4 * extent.rows * has_keys
        self._pairs_at = self._keys_at + extent.key_bytes
        self._base = base
        self._placed = Extent()
        self._marks = _Marks()
        self._total = blocks
        self._seen = 0
        self._sample = sample
        self._wanted = equal_steps(blocks, min(sample, extent.rows))
        self._picked: list[int] = []

    def append(self, block: RowBlock, order: Index) -> None:
        """The rows `order` of a block come next. A block's keys are left out where the store has none."""
        keyed = self._store.has_keys
        starts = block.key_starts() if keyed else None
        for low in range(0, len(order), _CHUNK):
            part = order[low : low + _CHUNK]
            rows: Rows = block.rows.take(part)
            pairs = extra_in_row_order(rows, block.extra)
            lengths = block.key_lengths[part] if keyed else None
            self._put(rows, pairs, lengths)
            if lengths is not None and starts is not None:
                placed = self._keys_at + self._placed.key_bytes
                for inner in _key_pieces(part, lengths):
                    keys = packed_keys(block.keys, starts, inner)
                    self._scratch.write(placed, keys)
                    placed += len(keys)
            key_bytes = 0 if lengths is None else int(lengths.sum(dtype=np.int64))
            self._placed += Extent(len(part), len(pairs), key_bytes)

    def finish(self) -> RowStore:
        """The store; all rows have been appended."""
        store = self._store
        store.set_marks(*self._marks.arrays())
        store.blocks = self._seen
        if self._picked:
            bounds = [store.bound(index, longest=LONGEST_KEY) for index in self._picked]
            store.bounds = sample_of(bounds, blocks=self._total, size=self._sample)
        return store

    def _put(self, rows: Rows, pairs: U32, lengths: U32 | None) -> None:
        """Everything but the keys."""
        placed = self._placed
        self._marks.add(rows, lengths)
        if len(pairs):
            rows["offset"][rows["slices"] > 1] += np.uint32(placed.pairs)
            self._scratch.write(self._pairs_at + _PAIR * placed.pairs, pairs)
        ends = np.cumsum(rows["length"], dtype=np.int64) + self._seen
        here = self._wanted[(self._wanted >= self._seen) & (self._wanted < ends[-1])]
        self._picked += (np.searchsorted(ends, here, side="right") + placed.rows).tolist()
        self._seen = int(ends[-1])
        self._scratch.write(self._base + placed.rows * ROW.itemsize, rows)
        if lengths is not None:
            self._scratch.write(self._lengths_at + 4 * placed.rows, lengths)


class _Marks:
    """Counts the pairs and key bytes before every _MARK-th row."""

    def __init__(self) -> None:
        self._rows = self._pairs = self._keys = 0
        self._parts: list[tuple[Index, Index]] = []

    def add(self, rows: Rows, lengths: U32 | None) -> None:
        """The next rows, and the lengths of their keys."""
        at = np.arange(-self._rows % _MARK, len(rows), _MARK)
        pairs = np.concatenate(([0], np.cumsum(_pairs_of(rows)))) + self._pairs
        keys = np.zeros(len(rows) + 1, dtype=np.int64)
        if lengths is not None:
            np.cumsum(lengths, out=keys[1:])
        keys += self._keys
        self._parts.append((pairs[at], keys[at]))
        self._rows += len(rows)
        self._pairs, self._keys = int(pairs[-1]), int(keys[-1])

    def arrays(self) -> tuple[Index, Index]:
        """Of pairs and of key bytes; with one more where the last row ends just before a mark."""
        if self._rows % _MARK == 0:
            self._parts.append((np.array([self._pairs]), np.array([self._keys])))
        pairs, keys = zip(*self._parts, strict=True)
        return np.concatenate(pairs), np.concatenate(keys)


def count_pairs(block: RowBlock) -> int:
    """How many pairs of `extra` the rows point at."""
    if not len(block.extra):
        return 0
    return sum(
        int(_pairs_of(block.rows[low : low + _CHUNK]).sum()) for low in range(0, len(block.rows), _CHUNK)
    )


def _pairs_of(rows: Rows) -> Index:
    """How many pairs of `extra` each row has."""
    slices = rows["slices"].astype(np.int64)
    slices[slices == 1] = 0
    return slices


def _key_pieces(order: Index, lengths: U32) -> Iterator[Index]:
    """Runs of `order` of about _KEY_PIECE key bytes: packing takes some twenty bytes for each of them."""
    ends = np.cumsum(lengths, dtype=np.int64)
    low = 0
    while low < len(order):
        before = int(ends[low - 1]) if low else 0
        high = max(low + 1, int(np.searchsorted(ends, before + _KEY_PIECE, side="right")))
        yield order[low:high]
        low = high


def begin_pairs_at_zero(rows: Rows) -> None:
    """Point rows whose pairs are a run of a longer array at an array of those pairs alone, in place."""
    several = rows["slices"] > 1
    if bool(several.any()):
        rows["offset"][several] -= rows["offset"][int(several.argmax())]
