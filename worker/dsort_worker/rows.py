"""Rows: what a rank knows about its records, as packed arrays.

A **row** describes one record: where its bytes lie in which input shard, and the key that orders it. Rows are the only
metadata that grows with the data set, so they are numpy structured arrays (40 bytes a row), never objects, and each row
lives on one rank at a time: on the rank that scanned it until the rows are exchanged, on the rank that owns its key range
after that. Where they do not fit into memory they lie in a scratch file, and a block is that file, mapped.

Units: offsets and lengths are in 512-byte tar blocks, as everything in a tar is a multiple of one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

BLOCK: Final = 512
"""Bytes in a tar block."""

ROW: Final = np.dtype(
    [
        ("key", "<u8"),  # order key: the shuffle mix, or the first eight bytes of the key, big-endian
        ("hash", "<u8"),  # hash of the record key, to find collisions within an output shard
        ("shard", "<u4"),  # ordinal of the input shard in the listing
        ("ordinal", "<u4"),  # ordinal of the record in its shard
        ("offset", "<u4"),  # blocks; with slices > 1 the index of its first pair in `extra`
        ("length", "<u4"),  # blocks, all slices together
        ("members", "<u4"),
        ("slices", "<u4"),
    ]
)

ROW_COST: Final = 120
"""Bytes that a row takes while it is sorted: itself, its copy in order, and the words and indexes of the sort."""

KEY_COST: Final = 3
"""Times that a key's bytes are in memory while it is sorted: as it came, joined with others, and packed in order."""

PAIR_COST: Final = 40
"""Bytes that a pair of `extra` takes while rows are sorted: itself, and the indexes that bring it into their order."""

_KEY_PIECE: Final = 1 << 16
"""Key bytes that are packed at a time: the indexes of a byte take sixteen."""

Rows = npt.NDArray[np.void]
U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]


def _no_extra() -> U32:
    return np.empty((0, 2), dtype=np.uint32)


def _no_keys() -> U8:
    return np.empty(0, dtype=np.uint8)


def _no_lengths() -> U32:
    return np.empty(0, dtype=np.uint32)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much metadata: rows, pairs of `extra`, and packed key bytes."""

    rows: int = 0
    pairs: int = 0
    key_bytes: int = 0

    def __add__(self, other: Extent) -> Extent:
        return Extent(self.rows + other.rows, self.pairs + other.pairs, self.key_bytes + other.key_bytes)

    @property
    def cost(self) -> int:
        """Bytes of memory in which that much can be sorted, all in all."""
        return self.rows * ROW_COST + self.pairs * PAIR_COST + self.key_bytes * KEY_COST


@dataclass(slots=True, eq=False, repr=False)
class RowBlock:
    """Rows with what belongs to them.

    rows: ROW[n]. extra: u4[m, 2], (offset, length) pairs of rows that lie in several slices. keys and key_lengths: the
    packed key bytes and their lengths u4[n], both empty where the order needs no key bytes. The arrays may be pages of a
    scratch file: then they cannot be written, and nothing may copy them as a whole.
    """

    rows: Rows
    extra: U32 = field(default_factory=_no_extra)
    keys: U8 = field(default_factory=_no_keys)
    key_lengths: U32 = field(default_factory=_no_lengths)

    @classmethod
    def empty(cls) -> RowBlock:
        """A block of no rows."""
        return cls(np.empty(0, dtype=ROW))

    @classmethod
    def sized(cls, extent: Extent, *, has_keys: bool) -> RowBlock:
        """A block of that size, to be filled."""
        block = cls(np.empty(extent.rows, dtype=ROW), np.empty((extent.pairs, 2), dtype=np.uint32))
        if has_keys:
            block.key_lengths = np.empty(extent.rows, dtype=np.uint32)
            block.keys = np.empty(extent.key_bytes, dtype=np.uint8)
        return block

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def extent(self) -> Extent:
        """Its size."""
        return Extent(len(self.rows), len(self.extra), len(self.keys))

    @property
    def mapped(self) -> bool:
        """True where the rows are pages of a file."""
        return not self.rows.flags.writeable

    @property
    def has_keys(self) -> bool:
        """True where the order compares key bytes and not the u64 column alone."""
        return len(self.key_lengths) > 0

    def key_starts(self) -> Index:
        """Offsets of the packed keys: i8[n + 1]."""
        starts = np.zeros(len(self.key_lengths) + 1, dtype=np.int64)
        np.cumsum(self.key_lengths, out=starts[1:])
        return starts

    def drop_keys(self) -> None:
        """Give the key bytes back: after the sort nobody needs them."""
        self.keys = _no_keys()
        self.key_lengths = _no_lengths()


class RowBuilder:
    """Collects the rows of one shard after another without ever holding them twice.

    The arrays grow in place (realloc moves pages, it does not copy them), by a half at a time; the tail is not touched.
    """

    def __init__(self) -> None:
        self._rows = np.empty(0, dtype=ROW)
        self._count = 0
        self._keys = np.empty(0, dtype=np.uint8)
        self._key_bytes = 0
        self._key_lengths: list[U32] = []
        self._extra: list[U32] = []
        self._extra_count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def extent(self) -> Extent:
        """What has been collected."""
        return Extent(self._count, self._extra_count, self._key_bytes)

    def room(self, count: int) -> Rows:
        """A writable view of the next `count` rows, which the caller fills."""
        end = self._count + count
        if end > len(self._rows):
            self._rows.resize(max(end, len(self._rows) + len(self._rows) // 2), refcheck=False)
        view = self._rows[self._count : end]
        self._count = end
        return view

    def add_extra(self, view: Rows, extra: U32) -> None:
        """Append a shard's slice pairs and move the rows that point into them."""
        if not len(extra):
            return
        several = view["slices"] > 1
        view["offset"][several] += np.uint32(self._extra_count)
        self._extra.append(extra)
        self._extra_count += len(extra)

    def add_keys(self, keys: U8, lengths: U32) -> None:
        """Append the packed key bytes of as many rows as `lengths` has entries."""
        end = self._key_bytes + len(keys)
        if end > len(self._keys):
            self._keys.resize(max(end, len(self._keys) + len(self._keys) // 2), refcheck=False)
        self._keys[self._key_bytes : end] = keys
        self._key_bytes = end
        self._key_lengths.append(lengths)

    def finish(self) -> RowBlock:
        """The block of all rows; the builder is empty afterwards."""
        self._rows.resize(self._count, refcheck=False)
        self._keys.resize(self._key_bytes, refcheck=False)
        block = RowBlock(
            self._rows,
            np.concatenate(self._extra) if self._extra else _no_extra(),
            self._keys,
            np.concatenate(self._key_lengths) if self._key_lengths else _no_lengths(),
        )
        self.__init__()  # type: ignore[misc]
        return block


def _words(rows: Rows) -> U64:
    """The rows as u8[n, words of a row]: numpy copies such arrays many times faster than structured ones."""
    return rows.view(np.uint64).reshape(len(rows), ROW.itemsize // 8)


def permute_rows(rows: Rows, order: Index) -> None:
    """Bring rows into `order`, in place, with a temporary array of one word a row."""
    words = _words(rows)
    for column in range(words.shape[1]):
        words[:, column] = words[:, column].take(order)


def extend_rows(block: RowBlock, later: list[RowBlock]) -> None:
    """Append the rows of other blocks in place (no copy of the rows that are there), with their slice pairs.

    No view of the block's rows may be alive.
    """
    count = len(block)
    block.rows.resize(count + sum(len(other) for other in later), refcheck=False)
    for other in later:
        view = block.rows[count : count + len(other)]
        _words(view)[:] = _words(other.rows)
        view["offset"][view["slices"] > 1] += np.uint32(len(block.extra))
        block.extra = np.concatenate((block.extra, other.extra))
        count += len(other)


def slice_pairs(rows: Rows, extra: U32) -> tuple[Index, Index, Index]:
    """The slices of `rows` in order: (row index, offset in blocks, length in blocks), each i8[slices].

    A row of one slice is itself; a row of several is replaced by its pairs of `extra`.
    """
    counts = rows["slices"].astype(np.int64)
    if not len(rows) or int(counts.max()) <= 1:
        return np.arange(len(rows)), rows["offset"].astype(np.int64), rows["length"].astype(np.int64)
    index = np.repeat(np.arange(len(rows)), counts)
    starts = np.cumsum(counts) - counts
    within = np.arange(len(index)) - starts[index]
    offset = rows["offset"].astype(np.int64)[index]
    length = rows["length"].astype(np.int64)[index]
    several = counts[index] > 1
    pairs = extra[(offset + within)[several]]
    offset[several] = pairs[:, 0]
    length[several] = pairs[:, 1]
    return index, offset, length


def packed_keys(keys: U8, starts: Index, order: Index) -> U8:
    """The keys of the rows `order`, packed in that order: u1[sum of their lengths]. starts: i8[n + 1]."""
    lows = starts[order]
    counts = starts[order + 1] - lows
    ends = np.cumsum(counts)
    packed = np.empty(int(ends[-1]) if len(ends) else 0, dtype=np.uint8)
    low = done = 0
    while low < len(order):
        high = max(low + 1, int(np.searchsorted(ends, done + _KEY_PIECE, side="right")))
        end = int(ends[high - 1])
        part = slice(low, high)
        first = lows[part] - (ends[part] - counts[part]) + done
        packed[done:end] = keys[np.repeat(first, counts[part]) + np.arange(end - done)]
        low, done = high, end
    return packed


def join_blocks(blocks: list[RowBlock]) -> RowBlock:
    """One block of all rows, in the order given; the parts are emptied on the way."""
    if len(blocks) == 1:
        return blocks[0]
    if not blocks:
        return RowBlock.empty()
    placed = 0
    for block in blocks:
        block.rows["offset"][block.rows["slices"] > 1] += np.uint32(placed)
        placed += len(block.extra)
    rows = np.empty(sum(len(block) for block in blocks), dtype=ROW)
    low = 0
    for block in blocks:
        _words(rows)[low : low + len(block)] = _words(block.rows)
        low += len(block)
        block.rows = rows[:0]
    return RowBlock(
        rows,
        np.concatenate([block.extra for block in blocks]),
        np.concatenate([block.keys for block in blocks]),
        np.concatenate([block.key_lengths for block in blocks]),
    )


def extra_in_row_order(rows: Rows, extra: U32) -> U32:
    """Rearrange `extra` to the order of `rows` and point the rows (in place) at the new places.

    Afterwards the pairs of any run of rows are one run of pairs, so a range of rows can be sent as it lies.
    """
    several = np.flatnonzero(rows["slices"] > 1) if len(extra) else ()
    if not len(several):
        return extra[:0]
    counts = rows["slices"][several].astype(np.int64)
    starts = np.cumsum(counts) - counts
    index = np.repeat(rows["offset"][several].astype(np.int64) - starts, counts) + np.arange(
        int(counts.sum())
    )
    rows["offset"][several] = starts
    return np.ascontiguousarray(extra[index])
