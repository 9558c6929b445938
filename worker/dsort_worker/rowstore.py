"""The row store: a rank's own sorted rows, in a scratch file, from where the other ranks pull their ranges.

After the sort the scanning rank needs its rows only to answer its peers, so they leave memory. Any range can be read again
and again: a rank that restarts asks again and gets the same bytes.

A range on the wire is a header of three u64 (rows, slice pairs, key bytes, see `HEADER`) and then its sections: rows, key
lengths and keys where the order has key bytes, slice pairs; each as it lies in memory (little endian).
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections.abc import Sequence
from typing import IO, Any, Final, Self

import numpy as np

from dsort_worker.order import Bound, Sample, cut, equal_steps
from dsort_worker.rows import ROW, U32, Index, RowBlock, Rows, extra_in_row_order, packed_keys

HEADER: Final = struct.Struct("<3Q")
"""Rows, slice pairs, key bytes."""

_CHUNK: Final = 1 << 16  # rows at a time
_READ: Final = 1 << 20  # bytes at a time


class RowStore:
    """Sorted rows in an unlinked scratch file."""

    def __init__(self, file: IO[bytes], *, has_keys: bool) -> None:
        self._file = file
        self._has_keys = has_keys
        self.rows = 0
        self.blocks = 0
        self._key_marks: list[int] = [0]  # key bytes before every _CHUNK-th row
        self._several: Index = np.empty(0, dtype=np.int64)  # rows that lie in several slices
        self._pair_starts: Index = np.zeros(1, dtype=np.int64)  # where their pairs begin
        self._lengths_at = self._keys_at = self._pairs_at = 0
        self.bounds: Sample = Sample((), 0.0)

    @classmethod
    def write(cls, block: RowBlock, order: Index, *, folder: str | None, sample: int) -> Self:
        """Write the rows of `block` in `order`, and take up to `sample` bounds on the way.

        folder: where the scratch file goes (None: the system's temporary folder). Raises OSError (no space).
        """
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - the store owns it, close() ends it
        store = cls(file, has_keys=block.has_keys)
        try:
            store._write(block, order, sample)
            file.flush()
        except BaseException:
            file.close()
            raise
        return store

    def close(self) -> None:
        """Give the scratch space back."""
        self._file.close()

    @property
    def fd(self) -> int:
        """The scratch file, for reading."""
        return self._file.fileno()

    def cut(self, splitters: Sequence[Bound], *, ranks: int, descending: bool) -> list[int]:
        """Where each rank's range begins, and the end of the last: ranks + 1 row numbers."""
        cuts = cut(self.bound, self.rows, splitters, descending=descending)
        return cuts + [self.rows] * (ranks + 1 - len(cuts))

    def bound(self, index: int) -> Bound:
        """The place of row `index` in the output order."""
        row = np.frombuffer(self._read(index * ROW.itemsize, ROW.itemsize), dtype=ROW)[0]
        if self._has_keys:
            low, high = self._key_start(index), self._key_start(index + 1)
            key = self._read(self._keys_at + low, high - low)
        else:
            key = int(row["key"]).to_bytes(8, "big")
        return Bound(key, int(row["shard"]), int(row["ordinal"]))

    def sections(self, low: int, high: int) -> tuple[bytes, list[tuple[int, int]]]:
        """Rows [low, high): the header, and (offset, bytes) of each section in the scratch file."""
        first, last = np.searchsorted(self._several, [low, high])
        pair_low, pair_high = int(self._pair_starts[first]), int(self._pair_starts[last])
        sections = [(low * ROW.itemsize, (high - low) * ROW.itemsize)]
        key_bytes = 0
        if self._has_keys:
            key_low = self._key_start(low)
            key_bytes = self._key_start(high) - key_low
            sections.append((self._lengths_at + 4 * low, 4 * (high - low)))
            sections.append((self._keys_at + key_low, key_bytes))
        sections.append((self._pairs_at + 8 * pair_low, 8 * (pair_high - pair_low)))
        header = HEADER.pack(high - low, pair_high - pair_low, key_bytes)
        return header, [(offset, size) for offset, size in sections if size]

    def load(self, low: int, high: int) -> RowBlock:
        """Rows [low, high) in memory."""
        header, sections = self.sections(low, high)
        receiver = RowsReceiver(has_keys=self._has_keys)
        receiver.feed(memoryview(header))
        for offset, size in sections:
            for at in range(offset, offset + size, _READ):
                receiver.feed(memoryview(self._read(at, min(_READ, offset + size - at))))
        return receiver.block

    def _write(self, block: RowBlock, order: Index, sample: int) -> None:
        total = int(block.rows["length"].sum(dtype=np.int64))
        wanted = equal_steps(total, min(sample, len(order)))
        picked: list[int] = []
        several: list[Index] = []
        pairs: list[U32] = []
        placed = seen = 0
        for low in range(0, len(order), _CHUNK):
            part: Rows = block.rows.take(order[low : low + _CHUNK])
            own = extra_in_row_order(part, block.extra)
            if len(own):
                at = np.flatnonzero(part["slices"] > 1)
                part["offset"][at] += np.uint32(placed)
                several.append(at + low)
                pairs.append(own)
                placed += len(own)
            self._put(part)
            ends = np.cumsum(part["length"], dtype=np.int64) + seen
            here = wanted[(wanted >= seen) & (wanted < ends[-1])]
            picked += (np.searchsorted(ends, here, side="right") + low).tolist()
            seen = int(ends[-1])
        self.rows, self.blocks = len(order), total
        self._lengths_at = len(order) * ROW.itemsize
        self._keys_at = self._lengths_at
        if self._has_keys:
            self._write_keys(block, order)
        self._pairs_at = self._keys_at + self._key_marks[-1]
        if several:
            self._several = np.concatenate(several)
            counts = block.rows["slices"][order[self._several]].astype(np.int64)
            self._pair_starts = np.concatenate(([0], np.cumsum(counts)))
            for own in pairs:
                self._put(own)
        self._file.flush()
        if picked:
            self.bounds = Sample(tuple(self.bound(index) for index in picked), total / len(picked))

    def _write_keys(self, block: RowBlock, order: Index) -> None:
        for low in range(0, len(order), _CHUNK):
            lengths = block.key_lengths[order[low : low + _CHUNK]]
            self._put(lengths)
            self._key_marks.append(self._key_marks[-1] + int(lengths.sum(dtype=np.int64)))
        self._keys_at = self._lengths_at + 4 * len(order)
        starts = block.key_starts()
        for low in range(0, len(order), _CHUNK):
            self._put(packed_keys(block.keys, starts, order[low : low + _CHUNK]))

    def _put(self, array: np.ndarray[Any, Any]) -> None:
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self.fd, size, offset)

    def _key_start(self, index: int) -> int:
        mark = index // _CHUNK
        low = mark * _CHUNK
        lengths = np.frombuffer(self._read(self._lengths_at + 4 * low, 4 * (index - low)), dtype="<u4")
        return self._key_marks[mark] + int(lengths.sum(dtype=np.int64))


def encode_block(block: RowBlock) -> bytes:
    """A block in memory that has no keys any more, as a range on the wire."""
    rows = block.rows.copy()
    pairs = extra_in_row_order(rows, block.extra)
    return HEADER.pack(len(rows), len(pairs), 0) + rows.tobytes() + pairs.tobytes()


class RowsReceiver:
    """Takes a range of rows off the wire, straight into its arrays.

    `feed` gets the body piece by piece, in order, in pieces of any size; `block` is the range when all has come.
    """

    def __init__(self, *, has_keys: bool) -> None:
        self._has_keys = has_keys
        self._header = bytearray()
        self._views: list[memoryview] = []
        self._block = RowBlock.empty()

    def feed(self, piece: memoryview) -> None:
        """Copy a piece to its place. Raises ValueError when more comes than the header announced."""
        if len(self._header) < HEADER.size:
            taken = piece[: HEADER.size - len(self._header)]
            self._header += taken
            piece = piece[len(taken) :]
            if len(self._header) < HEADER.size:
                return
            self._make_room()
        while len(piece):
            if not self._views:
                raise ValueError("more bytes than the header of the range announced")
            view = self._views[0]
            size = min(len(view), len(piece))
            view[:size] = piece[:size]
            piece = piece[size:]
            if size == len(view):
                self._views.pop(0)
            else:
                self._views[0] = view[size:]

    @property
    def block(self) -> RowBlock:
        """The range. Raises ValueError when it is not complete."""
        if len(self._header) < HEADER.size or self._views:
            raise ValueError("the range of rows ended early")
        rows = self._block.rows
        several = rows["slices"] > 1
        if bool(several.any()):  # the sender's places; here the pairs begin at 0
            rows["offset"][several] -= rows["offset"][int(several.argmax())]
        return self._block

    def _make_room(self) -> None:
        rows, pairs, key_bytes = HEADER.unpack(self._header)
        self._block = block = RowBlock(np.empty(rows, dtype=ROW), np.empty((pairs, 2), dtype=np.uint32))
        if self._has_keys:
            block.key_lengths = np.empty(rows, dtype=np.uint32)
            block.keys = np.empty(key_bytes, dtype=np.uint8)
        arrays: list[np.ndarray[Any, Any]] = [block.rows, block.key_lengths, block.keys, block.extra]
        self._views = [array.reshape(-1).view(np.uint8).data for array in arrays if array.size]
